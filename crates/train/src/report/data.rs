//! What a run folder holds, read so that no missing, unfinished or odd file keeps the rest from being shown.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use verve_shard::DataManifest;

use crate::error::{Result, TrainError};

/// Longest small file that is read, and longest line.
const MAX_BYTES: u64 = 16 << 20;
/// Most samples that are shown; more are thinned out evenly.
const MOST_SAMPLES: usize = 24;

/// A step. What is missing or not a number is NaN.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub step: u64,
    pub tokens: u64,
    pub loss: f64,
    pub lr: f64,
    pub grad_norm: f64,
    pub tokens_per_second: f64,
    pub seconds: f64,
}

/// An evaluation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Eval {
    pub step: u64,
    pub tokens: u64,
    pub loss: f64,
    pub perplexity: f64,
    pub bits_per_byte: f64,
}

/// A generated text.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Sample {
    pub step: u64,
    #[serde(default)]
    pub prompt: String,
    #[serde(default)]
    pub text: String,
}

/// A checkpoint on disk.
#[derive(Debug, Clone)]
pub(super) struct Checkpoint {
    pub name: String,
    pub step: Option<u64>,
    pub tokens: Option<u64>,
    pub eval_loss: Option<f64>,
    pub mark: &'static str,
}

/// Everything that the page shows.
#[derive(Debug, Default)]
pub(super) struct RunData {
    pub name: String,
    /// Section, key, value.
    pub config: Vec<(String, String, String)>,
    pub steps_wanted: Option<u64>,
    pub run: Value,
    pub data: Option<DataManifest>,
    pub steps: Vec<Step>,
    pub evals: Vec<Eval>,
    pub samples: Vec<Sample>,
    pub n_samples: usize,
    pub checkpoints: Vec<Checkpoint>,
    pub warnings: Vec<String>,
}

/// A line of `metrics.jsonl` of either kind.
#[derive(Deserialize)]
struct Line {
    kind: String,
    step: u64,
    tokens: Option<u64>,
    loss: Option<f64>,
    lr: Option<f64>,
    grad_norm: Option<f64>,
    tokens_per_second: Option<f64>,
    seconds: Option<f64>,
    perplexity: Option<f64>,
    bits_per_byte: Option<f64>,
}

impl RunData {
    pub fn read(run: &Path) -> Result<Self> {
        let Some(config) = small(&run.join("config.toml"))? else {
            return Err(TrainError::NoRun { path: run.to_owned() });
        };
        let absolute = std::path::absolute(run).unwrap_or_else(|_| run.to_owned());
        let mut data = Self {
            name: absolute.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned()),
            ..Self::default()
        };
        data.read_config(&config);
        data.run = data.json(run, "run.json")?.unwrap_or(Value::Null);
        if let Some(manifest) = data.json(run, "data.json")? {
            match serde_json::from_value(manifest) {
                Ok(manifest) => data.data = Some(manifest),
                Err(e) => data.warnings.push(format!("data.json is not a data manifest and is left out: {e}")),
            }
        }
        data.read_metrics(run)?;
        data.read_samples(run)?;
        data.read_checkpoints(run)?;
        Ok(data)
    }

    fn read_config(&mut self, text: &str) {
        match text.parse::<toml::Table>() {
            Ok(table) => {
                self.steps_wanted = table
                    .get("budget")
                    .and_then(|budget| budget.get("steps")?.as_integer())
                    .and_then(|steps| u64::try_from(steps).ok());
                flatten("", &table, &mut self.config);
            }
            Err(e) => self.warnings.push(format!("config.toml cannot be read and is left out: {}", e.message())),
        }
    }

    /// A JSON file of the folder; a broken one is a warning.
    fn json(&mut self, run: &Path, name: &str) -> Result<Option<Value>> {
        let Some(text) = small(&run.join(name))? else { return Ok(None) };
        match serde_json::from_str(&text) {
            Ok(value) => Ok(Some(value)),
            Err(e) => {
                self.warnings.push(format!("{name} cannot be read and is left out: {e}"));
                Ok(None)
            }
        }
    }

    fn read_metrics(&mut self, run: &Path) -> Result<()> {
        let (mut steps, mut evals) = (Vec::new(), Vec::new());
        self.lines(run, "metrics.jsonl", |line: Line| {
            let value = |value: Option<f64>| value.unwrap_or(f64::NAN);
            let (step, tokens) = (line.step, line.tokens.unwrap_or(0));
            match line.kind.as_str() {
                "step" => steps.push(Step {
                    step,
                    tokens,
                    loss: value(line.loss),
                    lr: value(line.lr),
                    grad_norm: value(line.grad_norm),
                    tokens_per_second: value(line.tokens_per_second),
                    seconds: value(line.seconds),
                }),
                "eval" => evals.push(Eval {
                    step,
                    tokens,
                    loss: value(line.loss),
                    perplexity: value(line.perplexity),
                    bits_per_byte: value(line.bits_per_byte),
                }),
                _ => {}
            }
        })?;
        steps.sort_by_key(|step: &Step| step.step);
        evals.sort_by_key(|eval: &Eval| eval.step);
        (self.steps, self.evals) = (steps, evals);
        Ok(())
    }

    fn read_samples(&mut self, run: &Path) -> Result<()> {
        let mut all: Vec<Sample> = Vec::new();
        self.lines(run, "samples.jsonl", |sample| all.push(sample))?;
        all.sort_by_key(|sample| sample.step);
        self.n_samples = all.len();
        // The first, the last, and evenly between.
        let shown = all.len().min(MOST_SAMPLES);
        let place = |i: usize| i * (all.len() - 1) / (shown - 1).max(1);
        self.samples = (0..shown).map(|i| all[if shown == 1 { all.len() - 1 } else { place(i) }].clone()).collect();
        Ok(())
    }

    fn read_checkpoints(&mut self, run: &Path) -> Result<()> {
        let folder = run.join("checkpoints");
        let index = self.json(&folder, "index.json")?.unwrap_or(Value::Null);
        let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(()) };
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.strip_prefix("step-").is_some_and(|step| step.parse::<u64>().is_ok()))
            .collect();
        names.sort();
        for name in names {
            let state = self.json(&folder.join(&name), "state.json")?.unwrap_or(Value::Null);
            let is = |key: &str| index.get(key).and_then(Value::as_str) == Some(&name);
            let mark = match (is("best"), is("last")) {
                (true, true) => "best, last",
                (true, false) => "best",
                (false, true) => "last",
                (false, false) => "",
            };
            self.checkpoints.push(Checkpoint {
                mark,
                step: state.get("step").and_then(Value::as_u64),
                tokens: state.get("tokens").and_then(Value::as_u64),
                eval_loss: state.get("eval_loss").and_then(Value::as_f64),
                name,
            });
        }
        Ok(())
    }

    /// Calls `take` with each line that can be read. A cut-off last line belongs to a run at work and is no matter.
    fn lines<T: serde::de::DeserializeOwned>(&mut self, run: &Path, name: &str, mut take: impl FnMut(T)) -> Result<()> {
        let path = run.join(name);
        let io = |e| TrainError::io(&path, "read", e);
        let mut file = match File::open(&path) {
            Ok(file) => BufReader::new(file),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                self.warnings.push(format!("there is no {name} yet"));
                return Ok(());
            }
            Err(e) => return Err(io(e)),
        };
        let mut line = Vec::new();
        let (mut unreadable, mut first) = (0, 0);
        for number in 1.. {
            line.clear();
            file.by_ref().take(MAX_BYTES).read_until(b'\n', &mut line).map_err(io)?;
            if line.is_empty() {
                break;
            }
            let whole = line.ends_with(b"\n");
            match serde_json::from_slice(&line) {
                Ok(value) => take(value),
                Err(_) if !whole && line.len() < MAX_BYTES as usize => {}
                Err(_) if line.trim_ascii().is_empty() => {}
                Err(_) => {
                    unreadable += 1;
                    if first == 0 {
                        first = number;
                    }
                }
            }
        }
        if unreadable > 0 {
            self.warnings.push(format!(
                "{unreadable} lines of {name} cannot be read and are left out, the first is line {first}"
            ));
        }
        Ok(())
    }
}

/// A text file, or `None` if there is none. Bytes that are not UTF-8 are replaced.
fn small(path: &Path) -> Result<Option<String>> {
    let io = |e| TrainError::io(path, "read", e);
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(io)?,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
    };
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io(std::io::Error::new(ErrorKind::InvalidData, format!("it is longer than {MAX_BYTES} bytes"))));
    }
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

fn flatten(section: &str, table: &toml::Table, rows: &mut Vec<(String, String, String)>) {
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) if section.is_empty() => flatten(key, inner, rows),
            toml::Value::String(text) => rows.push((section.to_owned(), key.clone(), text.clone())),
            value => rows.push((section.to_owned(), key.clone(), value.to_string())),
        }
    }
}
