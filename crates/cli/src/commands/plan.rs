//! `verve plan`.

use anyhow::Result;
use verve_train::cluster::{self, Devices, Request};

use crate::args::{Dtype, MachineArgs, PlanArgs};
use crate::device::{Device, OnBackend, available_memory, on_backend};
use crate::output;

/// Dense bf16 peak of an H100 SXM, TFLOP/s: what is assumed of a described device.
const DEVICE_TFLOPS: f64 = 989.0;

pub fn run(machine: &MachineArgs, args: PlanArgs) -> Result<()> {
    let (devices, tflops) = match &args.devices {
        Some(text) => (Devices::parse(text)?, args.peak.unwrap_or(DEVICE_TFLOPS)),
        None => {
            let tflops = match args.peak {
                Some(peak) => peak,
                None => on_backend(machine, Dtype::Bf16, PeakJob)?,
            };
            (Devices { count: 1, bytes: available_memory(machine)? }, tflops)
        }
    };
    let plan = cluster::plan(&Request {
        preset: args.preset,
        n_vocab: args.vocab,
        batch_tokens: args.batch_tokens,
        tokens: args.tokens,
        devices,
        peak_flops: 1e12 * tflops,
        utilisation: args.utilisation,
    })?;
    if args.json { output::line(serde_json::to_string(&plan)?) } else { output::piece(&plan.to_string()) }
}

/// Measures this machine's peak, TFLOP/s.
struct PeakJob;

impl OnBackend for PeakJob {
    type Out = f64;

    fn run<B: Device>(self, backend: B) -> Result<f64> {
        Ok(backend.product_peak()? / 1e3)
    }
}
