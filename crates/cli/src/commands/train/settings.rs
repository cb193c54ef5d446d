//! From flags and files to the settings of a run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use toml::{Table, Value};
use verve_train::RunConfig;

use crate::args::TrainArgs;
use crate::commands::bench::dtype_name;

/// The settings that the command line asks for, laid over `base`: first the file, then the flags.
pub fn lay_over(base: RunConfig, args: &TrainArgs) -> Result<RunConfig> {
    let mut config = base;
    if let Some(path) = &args.config {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        config = config.overlaid(&text, &path.display().to_string())?;
    }
    let flags = toml::to_string(&flags(args)?).context("the flags as settings")?;
    config = config.overlaid(&flags, "the command line")?;
    // Where the whole model is left open, it is chosen for this context later.
    if let Some(n_ctx) = args.context
        && !config.model.is_empty()
    {
        config.model.set_context(n_ctx);
    }
    Ok(config)
}

/// Where the run is: `--out`, or for a settings file that lies in a run folder that folder, or `runs/` and its name.
pub fn run_folder(args: &TrainArgs) -> Result<PathBuf> {
    if let Some(out) = &args.out {
        return Ok(out.clone());
    }
    let Some(config) = &args.config else {
        bail!("say where the run goes: --out runs/NAME (or --config FILE, which gives it the file's name)");
    };
    if config.file_name().is_some_and(|name| name == "config.toml")
        && config.with_file_name("run.json").is_file()
        && let Some(folder) = config.parent()
    {
        return Ok(folder.to_owned());
    }
    let name = config.file_stem().context("--config is no file name")?;
    Ok(Path::new("runs").join(name))
}

/// The flags that are settings, in the form of a settings file.
fn flags(args: &TrainArgs) -> Result<Table> {
    let mut table = Table::new();
    let mut set = |section: &str, key: &str, value: Option<Value>| {
        if let Some(value) = value {
            let entry = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(entry) = entry {
                entry.insert(key.to_owned(), value);
            }
        }
    };
    set("budget", "minutes", args.minutes.map(Value::from));
    set("budget", "steps", whole("--steps", args.steps)?);
    set("budget", "tokens", whole("--tokens", args.tokens)?);
    set("model", "preset", args.preset.as_deref().map(Value::from));
    set("data", "text", (!args.text.text.is_empty()).then(|| paths(&args.text.text)));
    set("data", "shards", args.shards.as_deref().map(path));
    set("data", "tokenizer", args.tokenizer.as_deref().map(path));
    set("data", "vocab", whole("--vocab", args.vocab.map(|n| n as u64))?);
    set("data", "held_out", args.held_out.map(Value::from));
    set("run", "init", args.init.as_deref().map(path));
    set("run", "seed", whole("--seed", args.seed)?);
    set("run", "dtype", args.dtype.map(|dtype| Value::from(dtype_name(dtype))));
    set("optimizer", "lr", args.lr.map(Value::from));
    set("batch", "batch_tokens", whole("--batch-tokens", args.batch_tokens)?);
    set("batch", "micro_batch", whole("--micro-batch", args.micro_batch.map(|n| n as u64))?);
    set("eval", "every", whole("--eval-every", args.eval_every)?);
    set("sample", "every", whole("--sample-every", args.sample_every)?);
    set("sample", "prompt", args.sample_prompt.as_deref().map(Value::from));
    set("checkpoint", "every_steps", whole("--checkpoint-every", args.checkpoint_every)?);
    Ok(table)
}

fn whole(flag: &str, value: Option<u64>) -> Result<Option<Value>> {
    value.map(|n| i64::try_from(n).map(Value::from).with_context(|| format!("{flag} {n} is too large"))).transpose()
}

fn path(path: &Path) -> Value {
    Value::from(path.to_string_lossy().into_owned())
}

fn paths(paths: &[PathBuf]) -> Value {
    Value::Array(paths.iter().map(|p| path(p)).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Command, Verve};

    fn args(line: &[&str]) -> TrainArgs {
        let line = ["verve", "train"].iter().chain(line);
        match Verve::try_parse_from(line).unwrap().command {
            Command::Train(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_win_over_the_file_and_replace_alternatives() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mine.toml");
        std::fs::write(&file, "[budget]\nminutes = 3.0\n[run]\nseed = 4\n[model]\npreset = \"nano\"\n").unwrap();
        let args = args(&["--config", file.to_str().unwrap(), "--steps", "7", "--context", "64", "--lr", "0.01"]);
        let config = lay_over(RunConfig::default(), &args).unwrap();
        assert_eq!((config.budget.steps, config.budget.minutes), (Some(7), None));
        assert_eq!(config.run.seed, 4);
        assert_eq!(config.optimizer.lr, Some(0.01));
        let text = config.to_toml().unwrap();
        assert!(text.contains("preset = \"nano\"") && text.contains("n_ctx = 64"), "{text}");
        assert_eq!(run_folder(&args).unwrap(), Path::new("runs/mine"));
    }

    #[test]
    fn a_run_needs_a_place() {
        let message = run_folder(&args(&["texts", "--steps", "1"])).unwrap_err().to_string();
        assert!(message.contains("--out"), "{message}");
    }
}
