//! The one place that picks a machine to compute on.

use std::fmt;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use half::bf16;
use verve_cpu::simd::ceilings::Ceilings;
use verve_cpu::{CpuBackend, CpuElem, Isa};
use verve_cuda::compile::Cache;
use verve_cuda::libraries::Search;
use verve_cuda::{CudaBackend, CudaElem, DriverDevice, Products};
use verve_model::formats::ModelFile;
use verve_ops::{InferBackend, KvFormat};

use crate::args::{Dtype, MachineArgs};
use crate::machine::{self, Machine};

/// What `--device` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor.
    Cpu,
    /// An NVIDIA GPU, counted from 0.
    Cuda(usize),
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

/// Work that runs on any backend. It is a struct with a generic method because closures cannot be generic.
pub trait OnBackend {
    /// What comes out.
    type Out;
    /// Does the work.
    fn run<B: Device>(self, backend: B) -> Result<Self::Out>;
}

/// What a device reaches at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Peaks {
    /// f32 products, GFLOP/s; `None` if it was not measured.
    pub f32_gflops: Option<f64>,
    /// bf16 products, GFLOP/s; `None` if the device has no instructions for them, or it was not measured.
    pub bf16_gflops: Option<f64>,
    /// 8-bit products, Gop/s; the same.
    pub int8_gops: Option<f64>,
    /// Memory, GB/s.
    pub read_gb_s: f64,
}

/// Memory of a device, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What can be had now.
    pub available: u64,
    /// What this program holds of it already.
    pub in_use: u64,
}

/// Says how much of a device's memory this program holds now, bytes, if that can be known.
pub type Meter = Box<dyn Fn() -> Option<u64>>;

/// A backend as the command needs it: it can train and generate, and it knows its peak.
pub trait Device: InferBackend<Acc = f32> {
    /// Whether its KV cache may round.
    const ROUNDS_KV: bool;

    /// Peak arithmetic and bandwidth with the threads and instructions in use; measured once, in about two seconds.
    fn ceilings(&self) -> Result<Peaks>;
    /// Peak of matrix products in this type alone, GFLOP/s; half a second.
    fn product_peak(&self) -> Result<f64>;
    /// The same machine with another number of threads, where it has threads.
    fn with_threads(&self, threads: usize) -> Result<Self>;
    /// Threads in use.
    fn threads(&self) -> usize;
    /// Memory where the buffers lie.
    fn memory(&self) -> Result<Memory>;
    /// Watches that memory. On a card, what it says is relative to now.
    fn meter(&self) -> Meter;
}

/// What keys and values are kept as: as asked; else, where weights are quantised and activations f32, in half precision, which
/// costs as little as the activations' 16 bits; else as they are.
///
/// # Errors
/// A model file that cannot be read.
pub fn kv_format<B: Device>(asked: Option<KvFormat>, file: &ModelFile) -> Result<KvFormat> {
    let is_exact = !B::ROUNDS_KV || size_of::<B::Elem>() < size_of::<f32>();
    Ok(match asked {
        Some(format) => format,
        None if is_exact || file.formats()?.is_none() => KvFormat::Elem,
        None => KvFormat::F16,
    })
}

impl<E: CpuElem> Device for CpuBackend<E> {
    const ROUNDS_KV: bool = true;

    fn ceilings(&self) -> Result<Peaks> {
        static MEASURED: OnceLock<Ceilings> = OnceLock::new();
        let measured = match MEASURED.get() {
            Some(ceilings) => *ceilings,
            None => {
                let ceilings = Ceilings::measure(self.pool(), self.isa())?;
                *MEASURED.get_or_init(|| ceilings)
            }
        };
        let Ceilings { f32_gflops, bf16_gflops, int8_gops, read_gb_s } = measured;
        Ok(Peaks { f32_gflops: Some(f32_gflops), bf16_gflops, int8_gops, read_gb_s })
    }

    fn product_peak(&self) -> Result<f64> {
        Ok(Ceilings::measure_product(self.pool(), self.isa(), size_of::<E>()))
    }

    fn with_threads(&self, threads: usize) -> Result<Self> {
        Ok(Self::new(threads, self.isa())?)
    }

    fn threads(&self) -> usize {
        self.pool().n_threads()
    }

    fn memory(&self) -> Result<Memory> {
        let in_use = machine::memory_in_use().unwrap_or(0);
        Ok(Memory { available: Machine::detect().available, in_use })
    }

    fn meter(&self) -> Meter {
        Box::new(machine::memory_in_use)
    }
}

impl<E: CudaElem> Device for CudaBackend<E> {
    const ROUNDS_KV: bool = false;

    fn ceilings(&self) -> Result<Peaks> {
        let (products, read_gb_s) = (self.measure_products()?, self.measure_copy()?);
        let of = |bytes: usize| (size_of::<E>() == bytes).then_some(products);
        Ok(Peaks { f32_gflops: of(4), bf16_gflops: of(2), int8_gops: None, read_gb_s })
    }

    fn product_peak(&self) -> Result<f64> {
        Ok(self.measure_products()?)
    }

    fn with_threads(&self, _threads: usize) -> Result<Self> {
        Ok(Self::new(self.device().clone(), self.products()))
    }

    fn threads(&self) -> usize {
        1
    }

    fn memory(&self) -> Result<Memory> {
        // What the driver and other programs hold is neither.
        Ok(Memory { available: self.device().free_memory()?, in_use: 0 })
    }

    fn meter(&self) -> Meter {
        let device = self.device().clone();
        let free = move || device.free_memory().ok();
        let at_start = free();
        Box::new(move || Some(at_start?.saturating_sub(free()?)))
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

/// Memory that can be had now on the device that the flags name, bytes.
pub fn available_memory(machine: &MachineArgs) -> Result<u64> {
    struct Job;
    impl OnBackend for Job {
        type Out = u64;
        fn run<B: Device>(self, backend: B) -> Result<u64> {
            Ok(backend.memory()?.available)
        }
    }
    match machine.device {
        DeviceChoice::Cpu => Ok(Machine::detect().available),
        DeviceChoice::Cuda(_) => on_backend(machine, Dtype::F32, Job),
    }
}

/// Runs `job` on the device that the flags name, with weights and activations of type `dtype`.
pub fn on_backend<J: OnBackend>(machine: &MachineArgs, dtype: Dtype, job: J) -> Result<J::Out> {
    match machine.device {
        DeviceChoice::Cpu => {
            let (threads, isa) = (threads(machine), isa(machine)?);
            match dtype {
                Dtype::Bf16 => job.run(CpuBackend::<bf16>::new(threads, isa)?),
                Dtype::F32 => job.run(CpuBackend::<f32>::new(threads, isa)?),
            }
        }
        DeviceChoice::Cuda(ordinal) => match dtype {
            Dtype::Bf16 => job.run(cuda::<bf16>(ordinal)?),
            Dtype::F32 => job.run(cuda::<f32>(ordinal)?),
        },
    }
}

/// A backend on a card. The error names what is missing and what would fix it.
fn cuda<E: CudaElem>(ordinal: usize) -> Result<CudaBackend<E>> {
    let device = DriverDevice::open(ordinal, &Search::from_env(), Cache::from_env())
        .with_context(|| format!("--device cuda:{ordinal}; `verve doctor` lists what was found"))?;
    Ok(CudaBackend::new(Arc::new(device), Products::Library))
}

#[cfg(test)]
mod tests {
    use super::DeviceChoice;
    use crate::units::device;

    #[test]
    fn names_of_devices() {
        assert_eq!(device("cpu"), Ok(DeviceChoice::Cpu));
        assert_eq!(device("cuda"), Ok(DeviceChoice::Cuda(0)));
        assert_eq!(device("cuda:3"), Ok(DeviceChoice::Cuda(3)));
        for wrong in ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0"] {
            let error = device(wrong).unwrap_err();
            assert!(error.contains("cpu, cuda or cuda:N"), "{error}");
        }
    }
}
