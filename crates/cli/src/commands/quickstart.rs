//! `verve quickstart`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use verve_engine::SamplingParams;
use verve_train::{Outcome, RunConfig};

use super::{generate, sample_text, text, train};
use crate::args::{MachineArgs, Precision, QuickstartArgs};
use crate::{output, units};

/// Tokens of the final text.
const TOKENS: usize = 200;

pub fn run(machine: &MachineArgs, args: QuickstartArgs) -> Result<()> {
    text::use_threads(machine)?;
    let out = args.out.unwrap_or_else(free_folder);
    let sample = sample_text::find();
    eprintln!("training on {}: {}", units::bytes(sample.text.bytes()?), sample.source);
    eprintln!("a run of {} minutes in {}; Ctrl-C stops it in good order", args.minutes, out.display());

    let mut config = RunConfig::default();
    config.budget.minutes = Some(args.minutes);
    config.data.text = sample.text.inputs.clone();
    config.sample.prompt = Some(args.prompt.clone());
    let outcome = train::quickly(machine, &out, config, &sample.text)?;
    if let Outcome::Stopped(_) = outcome {
        return output::line(format!("stopped; go on with: verve train --out {} --resume", out.display()));
    }

    eprintln!("generating from {:?}:", args.prompt);
    let params = SamplingParams { temperature: 0.8, top_p: 0.95, seed: 7, max_tokens: TOKENS, ..Default::default() };
    generate::one(machine, &out, &args.prompt, params, None, Precision::exact())?;
    next(&out)
}

/// What to try next.
fn next(out: &Path) -> Result<()> {
    let out = out.display();
    output::line("\ntry next:")?;
    output::line(format!("  verve generate --model {out} \"fn main\" -n 200 --seed 1    more from this model"))?;
    output::line(format!("  verve report {out}                               its curves and samples as a page"))?;
    output::line("  verve train my-texts/ --out runs/mine --minutes 30       a model of your own text")?;
    output::line("  (verve stands for: cargo run --release --)")
}

/// `runs/quickstart`, or the first free one with a number.
fn free_folder() -> PathBuf {
    let first = PathBuf::from("runs/quickstart");
    let numbered = (2..).map(|n| PathBuf::from(format!("runs/quickstart-{n}")));
    let taken = |path: &PathBuf| path.join("run.json").exists();
    std::iter::once(first).chain(numbered).find(|path| !taken(path)).unwrap_or_default()
}
