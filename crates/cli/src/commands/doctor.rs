//! `verve doctor`.

use anyhow::Result;
use verve_cpu::{Isa, SimdLevel};
use verve_cuda::DeviceError;
use verve_cuda::compile::Cache;
use verve_cuda::libraries::{Search, survey};

use crate::args::MachineArgs;
use crate::machine::Machine;
use crate::{device, output, units};

pub fn run(args: &MachineArgs) -> Result<()> {
    let machine = Machine::detect();
    let row = |name: &str, value: String| output::line(format!("{name:<14} {value}"));
    row("verve", crate::VERSION.to_owned())?;
    row("system", machine.system.clone())?;
    row("processor", machine.cpu.clone())?;
    row("cores", format!("{} (using {}; --threads changes that)", machine.cores, device::threads(args)))?;
    let available = if machine.available == u64::MAX { "unknown".to_owned() } else { units::bytes(machine.available) };
    row("memory", format!("{}, available {available}", units::bytes(machine.memory)))?;

    let host = Isa::detect();
    let levels: Vec<&str> = SimdLevel::available().into_iter().map(SimdLevel::name).collect();
    row("SIMD levels", levels.join(", "))?;
    row("SIMD in use", device::isa(args)?.to_string())?;
    let features = host.features();
    row("bf16 dot", found(features.bf16_dot, "bf16 is computed on the f32 units (needs AVX512-BF16)"))?;
    row("int8 dot", found(features.vnni, "8-bit products are computed without VNNI (needs AVX512-VNNI)"))?;
    row("huge pages", huge_pages())?;
    gpu(&row)?;
    match super::sample_text::cargo_sources() {
        Some(folder) => row("sample text", folder.display().to_string())?,
        None => {
            row("sample text", "cargo's source folder not found; quickstart uses verve's own documents".to_owned())?
        }
    }
    Ok(())
}

/// The cards, and the libraries that they need: version and place, or what would fix what is missing.
fn gpu(row: &dyn Fn(&str, String) -> Result<()>) -> Result<()> {
    let search = Search::from_env();
    let cards = verve_cuda::card_names(&search);
    match &cards {
        Ok(cards) if cards.is_empty() => row("GPU", "the driver reports no card".to_owned())?,
        Ok(cards) => cards.iter().enumerate().try_for_each(|(i, card)| row("GPU", format!("cuda:{i} is {card}")))?,
        Err(_) => row("GPU", "none: --device cpu".to_owned())?,
    }
    for (library, found) in survey(&search) {
        let text = match found {
            Ok(found) => format!("{} at {}", found.version, found.path.display()),
            Err(DeviceError::Library { detail, fix, .. }) => format!("not usable: {detail}; {fix}"),
            Err(error) => format!("not usable: {error}"),
        };
        row(library.name(), text)?;
    }
    let cache =
        Cache::from_env().map_or("none: set VERVE_CUDA_CACHE".to_owned(), |cache| cache.folder().display().to_string());
    row("kernel cache", cache)
}

fn found(present: bool, otherwise: &str) -> String {
    if present { "found".to_owned() } else { format!("not found: {otherwise}") }
}

/// What Linux says about transparent huge pages, and what would make large models faster.
fn huge_pages() -> String {
    let text = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    match text.split(['[', ']']).nth(1) {
        Some("never") => {
            "off: writing `madvise` to /sys/kernel/mm/transparent_hugepage/enabled makes large models faster".to_owned()
        }
        Some(mode) => format!("{mode} (used for large buffers)"),
        None => "unknown".to_owned(),
    }
}
