//! `verve bench`: the machine's ceilings, and how near to them each job runs.

use anyhow::Result;
use serde_json::{Map, Value, json};

use crate::args::{BenchArgs, BenchJob, Dtype, MachineArgs};
use crate::device::{Device, OnBackend, Peaks, on_backend};
use crate::machine::Machine;
use crate::{device, output};

mod decode;
mod model;
mod text;
mod train;

pub fn run(machine: &MachineArgs, args: BenchArgs) -> Result<()> {
    if let Some(path) = args.model.clone() {
        let bench = Bench { machine: machine.clone(), facts: Machine::detect(), json: args.json };
        return model::run(&bench, &args, path);
    }
    let jobs = if args.job.is_empty() {
        use BenchJob::*;
        vec![Ceilings, Train10m, Train30m, Train124m, Decode124m, EncodeGpt2, BpeTrain]
    } else {
        args.job.clone()
    };
    let bench = Bench { machine: machine.clone(), facts: Machine::detect(), json: args.json };
    if !args.json {
        bench.header(&args)?;
    }
    super::text::use_threads(machine)?;
    for job in jobs {
        match job {
            BenchJob::Ceilings => on_backend(machine, args.dtype, CeilingsJob { bench: &bench })?,
            BenchJob::Train124m => train::run(&bench, &args, train::Shape::M124)?,
            BenchJob::Train30m => train::run(&bench, &args, train::Shape::M30)?,
            BenchJob::Train10m => train::run(&bench, &args, train::Shape::M10)?,
            BenchJob::TrainGpt2 => train::run(&bench, &args, train::Shape::GPT2)?,
            BenchJob::Train1300m => train::run(&bench, &args, train::Shape::M1300)?,
            BenchJob::Decode124m => decode::run(&bench)?,
            BenchJob::EncodeGpt2 => text::encode(&bench, &args)?,
            BenchJob::BpeTrain => text::bpe_train(&bench, &args)?,
        }
    }
    Ok(())
}

/// What all jobs print with.
pub struct Bench {
    pub machine: MachineArgs,
    facts: Machine,
    json: bool,
}

/// One measured figure.
pub struct Figure<'a> {
    /// Name of the job, as on the command line.
    pub job: &'a str,
    /// Median of the rounds.
    pub value: f64,
    /// Unit of `value`.
    pub unit: &'a str,
    /// Share of the ceiling that bounds this job, and which ceiling that is.
    pub share: Option<(f64, &'a str)>,
    /// Everything else worth keeping.
    pub more: Value,
}

impl Bench {
    fn header(&self, args: &BenchArgs) -> Result<()> {
        output::line(format!(
            "verve {} | {} | {} | {} of {} cores | {} | {}",
            crate::VERSION,
            self.machine.device,
            self.facts.cpu,
            device::threads(&self.machine),
            self.facts.cores,
            device::isa(&self.machine)?,
            dtype_name(args.dtype)
        ))
    }

    /// Prints a figure: a line of a table, or a line of JSON with the machine and the commit.
    pub fn print(&self, figure: Figure<'_>) -> Result<()> {
        if !self.json {
            let share = figure
                .share
                .map_or_else(String::new, |(share, of)| format!(" {} {:>3.0}% of {of}", bar(share), 100.0 * share));
            let digits = if figure.value < 10.0 { 3 } else { 1 };
            return output::line(format!("{:<14} {:>12.digits$} {:<9}{share}", figure.job, figure.value, figure.unit));
        }
        let mut line = Map::new();
        line.insert("job".to_owned(), json!(figure.job));
        line.insert("value".to_owned(), json!(figure.value));
        line.insert("unit".to_owned(), json!(figure.unit));
        if figure.unit == "tokens/s" {
            line.insert("tokens_per_s".to_owned(), json!(figure.value));
        }
        if let Some((share, of)) = figure.share {
            line.insert("share".to_owned(), json!(share));
            line.insert("share_of".to_owned(), json!(of));
        }
        if let Value::Object(more) = figure.more {
            line.extend(more);
        }
        line.insert("simd".to_owned(), json!(device::isa(&self.machine)?.to_string()));
        line.insert("device".to_owned(), json!(self.machine.device.to_string()));
        line.insert("threads".to_owned(), json!(device::threads(&self.machine)));
        line.insert("machine".to_owned(), serde_json::to_value(&self.facts)?);
        line.insert("verve".to_owned(), json!(crate::VERSION));
        line.insert("commit".to_owned(), json!(crate::COMMIT));
        output::line(Value::Object(line).to_string())
    }
}

/// A share as a bar of 20 places; more than all of it is as long as all of it.
fn bar(share: f64) -> String {
    const PLACES: usize = 20;
    let full = ((share * PLACES as f64).round() as usize).min(PLACES);
    format!("{}{}", "█".repeat(full), "░".repeat(PLACES - full))
}

/// `bf16` or `f32`.
pub fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::Bf16 => "bf16",
        Dtype::F32 => "f32",
    }
}

/// The middle of some values.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n => (values[(n - 1) / 2] + values[n / 2]) / 2.0,
    }
}

struct CeilingsJob<'a> {
    bench: &'a Bench,
}

impl OnBackend for CeilingsJob<'_> {
    type Out = ();

    fn run<B: Device>(self, backend: B) -> Result<()> {
        let Peaks { f32_gflops, bf16_gflops, int8_gops, read_gb_s } = backend.ceilings()?;
        let row = |job, value: Option<f64>, unit| match value {
            Some(value) => self.bench.print(Figure { job, value, unit, share: None, more: Value::Null }),
            None => Ok(()),
        };
        row("peak-f32", f32_gflops, "GFLOP/s")?;
        row("peak-bf16", bf16_gflops, "GFLOP/s")?;
        row("peak-int8", int8_gops, "Gop/s")?;
        row("peak-read", Some(read_gb_s), "GB/s")
    }
}

#[cfg(test)]
mod tests {
    use super::{bar, median};

    #[test]
    fn a_bar_is_as_long_as_the_share() {
        assert_eq!(bar(0.5), "██████████░░░░░░░░░░");
        assert_eq!(bar(1.3), "████████████████████");
    }

    #[test]
    fn the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(vec![]).is_nan());
    }
}
