//! The one place that picks a machine to compute on.

use std::sync::OnceLock;

use anyhow::{Context, Result};
use half::bf16;
use verve_cpu::simd::ceilings::Ceilings;
use verve_cpu::{CpuBackend, CpuElem, Isa};
use verve_ops::InferBackend;

use crate::args::{Dtype, MachineArgs};
use crate::machine::Machine;

/// Work that runs on any backend. It is a struct with a generic method because closures cannot be generic.
pub trait OnBackend {
    /// What comes out.
    type Out;
    /// Does the work.
    fn run<B: Device>(self, backend: B) -> Result<Self::Out>;
}

/// A backend as the command needs it: it can train and generate, and it knows its peak.
pub trait Device: InferBackend<Acc = f32> {
    /// Peak arithmetic and bandwidth with the threads and instructions in use; measured once, in about two seconds.
    fn ceilings(&self) -> Result<Ceilings>;
    /// Peak of matrix products in this type alone, GFLOP/s; half a second.
    fn product_peak(&self) -> Result<f64>;
    /// The same machine with another number of threads.
    fn with_threads(&self, threads: usize) -> Result<Self>;
    /// Name of the instruction set or chip.
    fn level(&self) -> String;
    /// Threads in use.
    fn threads(&self) -> usize;
}

impl<E: CpuElem> Device for CpuBackend<E> {
    fn ceilings(&self) -> Result<Ceilings> {
        static MEASURED: OnceLock<Ceilings> = OnceLock::new();
        if let Some(ceilings) = MEASURED.get() {
            return Ok(*ceilings);
        }
        let ceilings = Ceilings::measure(self.pool(), self.isa())?;
        Ok(*MEASURED.get_or_init(|| ceilings))
    }

    fn product_peak(&self) -> Result<f64> {
        Ok(Ceilings::measure_product(self.pool(), self.isa(), size_of::<E>()))
    }

    fn with_threads(&self, threads: usize) -> Result<Self> {
        Ok(Self::new(threads, self.isa())?)
    }

    fn level(&self) -> String {
        self.isa().to_string()
    }

    fn threads(&self) -> usize {
        self.pool().n_threads()
    }
}

/// The instructions that flags and environment ask for.
pub fn isa(machine: &MachineArgs) -> Result<Isa> {
    match &machine.simd {
        Some(name) => name.parse().context("--simd"),
        None => Isa::from_env().context("the environment variable VERVE_SIMD"),
    }
}

/// The number of threads that flags ask for, or all cores.
pub fn threads(machine: &MachineArgs) -> usize {
    machine.threads.unwrap_or_else(|| Machine::detect().cores)
}

/// Runs `job` on the processor with weights and activations of type `dtype`.
pub fn on_backend<J: OnBackend>(machine: &MachineArgs, dtype: Dtype, job: J) -> Result<J::Out> {
    let (threads, isa) = (threads(machine), isa(machine)?);
    match dtype {
        Dtype::Bf16 => job.run(CpuBackend::<bf16>::new(threads, isa)?),
        Dtype::F32 => job.run(CpuBackend::<f32>::new(threads, isa)?),
    }
}
