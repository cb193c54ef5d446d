//! `verve quantize`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use verve_gguf::{TensorType, Value};
use verve_model::formats::{
    FileType, GgufExport, ModelFile, Reading, SaveOptions, divergence, largest_difference, logits, save_model,
};
use verve_model::{InferWeights, ModelConfig, layout};
use verve_ops::quant::QuantKind;

use self::folder::write_tokenizer;
use super::chat::template;
use super::gguf_metadata;
use super::inspect::weight_files;
use super::model::Model;
use crate::args::{Dtype, Format, MachineArgs, QuantizeArgs, WeightType};
use crate::device::{Device, OnBackend, on_backend};
use crate::machine::Machine;
use crate::progress::{Progress, Unit};
use crate::{output, units};

mod folder;

/// Tensors of a Hugging Face folder are in files of at most this size.
const MAX_FILE: u64 = 5 << 30;

/// What both models read: plain words, other alphabets, numbers, code.
const TEXT: &str = "The quick brown fox doesn't jump over 13 lazy dogs.\n\nVoilà l'été à Zürich, 東京は晴れ。 \
    for i in range(10):\n    print(f\"{i:02d}\", end=\"\\t\")  # 3.14159";

/// Tokens of it that the models are compared on.
const TOKENS: usize = 32;

pub fn run(machine: &MachineArgs, args: QuantizeArgs) -> Result<()> {
    let is_gguf = |path: &Path| path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    let format = args.format.unwrap_or(if is_gguf(&args.out) { Format::Gguf } else { Format::Hf });
    if args.out.exists() {
        bail!("{} exists; give --out another name, or remove it", args.out.display());
    }
    let temporary = Temporary::beside(&args.out)?;
    let model = Model::open(&args.model)?;
    let config = model.checkpoint.config();
    let before = size(&model.path)?;
    check_memory(config)?;
    let described = match format {
        Format::Gguf => to_gguf(&model, args.to, temporary.path())?,
        Format::Hf => to_folder(&model, args.to, temporary.path())?,
    };
    let written = Model::open(temporary.path())?;
    if written.tokenizer.hash() != model.tokenizer.hash() && written.prompt(TEXT) != model.prompt(TEXT) {
        bail!("the tokenizer gives other ids when it is read again: this format cannot hold it; nothing was kept");
    }
    let checked = match args.no_check {
        true => "logits were not compared".to_owned(),
        false => {
            let (source, tokens, kind) = (&model.checkpoint, check_tokens(&model), described.kind);
            on_backend(machine, Dtype::F32, Comparison { source, written: &written.checkpoint, tokens, kind })?
        }
    };
    drop(written);
    temporary.keep(&args.out)?;
    let after = size(&args.out)?;
    output::line(format!(
        "wrote {}: {}, {} parameters, {} (before: {}), {:.2} bits a parameter",
        args.out.display(),
        described.name,
        units::short(config.n_params() as f64),
        units::bytes(after),
        units::bytes(before),
        8.0 * described.tensor_bytes as f64 / config.n_params() as f64
    ))?;
    for line in described.lines {
        output::line(line)?;
    }
    output::line(format!("check: the numbers read back are those written; {checked}"))
}

/// Bytes for each number of a tensor while it is written: as it is read, in the order of the file, as it will be read again,
/// and as it is written.
const BYTES_A_NUMBER: u64 = 16;

/// Says how much memory writing takes, and refuses if it cannot be had.
fn check_memory(config: &ModelConfig) -> Result<()> {
    let largest = layout(config).iter().map(|spec| spec.len() as u64).max().unwrap_or(0);
    let (needed, available) = (BYTES_A_NUMBER * largest, Machine::detect().available);
    if needed > available {
        bail!(
            "writing needs {} of memory for the largest tensor, and {} are available",
            units::bytes(needed),
            units::bytes(available)
        );
    }
    eprintln!("memory: {} to write, one tensor at a time", units::bytes(needed));
    Ok(())
}

/// What was written.
struct Described {
    /// Architecture or family, and format.
    name: String,
    tensor_bytes: u64,
    /// More to say.
    lines: Vec<String>,
    kind: Match,
}

/// How near the logits have to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Match {
    /// The same numbers, computed with in the same way.
    Exact,
    /// The same numbers but for a rounding of norms.
    Close,
    /// Rounded numbers.
    Rounded,
}

fn tensor_type(weights: WeightType) -> TensorType {
    match weights {
        WeightType::Q4 | WeightType::Q4K => TensorType::Quant(QuantKind::Q4K),
        WeightType::Q4_0 => TensorType::Quant(QuantKind::Q4_0),
        WeightType::Q8_0 => TensorType::Quant(QuantKind::Q8_0),
        WeightType::Q6K => TensorType::Quant(QuantKind::Q6K),
        WeightType::F16 => TensorType::F16,
        WeightType::Bf16 => TensorType::Bf16,
        WeightType::F32 => TensorType::F32,
    }
}

fn to_gguf(model: &Model, weights: WeightType, out: &Path) -> Result<Described> {
    let export = GgufExport::new(&model.checkpoint, tensor_type(weights))?;
    let mut metadata = match &*model.checkpoint {
        ModelFile::Gguf(source) => gguf_metadata::about(source.file()),
        ModelFile::Folder(_) => vec![("general.name".to_owned(), name_of(&model.path).as_str().into())],
    };
    metadata.extend(tokenizer_metadata(model)?);
    metadata.extend(gguf_metadata::of_templates(&template::templates(model)?.named));
    let mut bar = Progress::new("writing", Unit::Bytes, export.bytes());
    let written = export.write(out, metadata, |done| bar.at(done, export.bytes()))?;
    bar.finish();
    export.verify(out, &written)?;

    let mut lines = vec![tensor_counts(export.tensors().iter().map(|tensor| tensor.kind))];
    for (wanted, kind, count) in export.fallbacks() {
        lines.push(format!(
            "rows that are no multiple of {}: {count} tensor{} {kind} instead of {wanted}",
            wanted.block_len(),
            if count == 1 { " is" } else { "s are" }
        ));
    }
    if let Some(why) = export.why_own() {
        lines.push(format!("in verve's own form, which other programs cannot open: {why}"));
    }
    let same = export.config() == model.checkpoint.config();
    let kind = match (written.exact, same) {
        (true, true) => Match::Exact,
        (true, false) => Match::Close,
        (false, _) => Match::Rounded,
    };
    Ok(Described { name: format!("GGUF, {}", export.architecture().name()), tensor_bytes: export.bytes(), lines, kind })
}

/// `tensors: 120 q4_k, 61 f32`.
fn tensor_counts(kinds: impl Iterator<Item = TensorType>) -> String {
    let mut counts: Vec<(TensorType, usize)> = Vec::new();
    for kind in kinds {
        match counts.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, count)) => *count += 1,
            None => counts.push((kind, 1)),
        }
    }
    counts.sort_by_key(|(kind, count)| (std::cmp::Reverse(*count), *kind));
    let counts: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    format!("tensors: {}", counts.join(", "))
}

/// The tokenizer.
fn tokenizer_metadata(model: &Model) -> Result<Vec<(String, Value)>> {
    let context = || format!("the tokenizer of {} cannot go into a GGUF file", model.path.display());
    let (ids, n_vocab) = (model.checkpoint.ids(), model.checkpoint.config().n_vocab);
    gguf_metadata::of_tokenizer(&model.tokenizer, ids, n_vocab).with_context(context)
}

fn to_folder(model: &Model, weights: WeightType, out: &Path) -> Result<Described> {
    let dtype = match weights {
        WeightType::F32 => FileType::F32,
        WeightType::Bf16 => FileType::Bf16,
        WeightType::F16 => FileType::F16,
        _ => bail!("a Hugging Face folder holds f32, f16 or bf16; for weights in blocks give --out NAME.gguf"),
    };
    let source = &model.checkpoint;
    let options = SaveOptions { dtype, ids: source.ids().clone() };
    let total = layout(source.config()).iter().count() as u64;
    let mut bar = Progress::new("tensors", Unit::Items, total);
    let saved = save_model(out, source, &options, MAX_FILE, |done| bar.at(done as u64, total))?;
    bar.finish();
    write_tokenizer(model, out)?;
    let written = ModelFile::open(out)?;
    let exact = read_again(source, &written, dtype)?;
    let kind = match (exact, written.config() == source.config()) {
        (true, true) => Match::Exact,
        (false, false) if dtype == FileType::F32 => Match::Close,
        _ => Match::Rounded,
    };
    Ok(Described {
        name: format!("Hugging Face folder, {}", saved.family.model_type()),
        tensor_bytes: (source.config().n_params() * dtype.size()) as u64,
        lines: saved.note.into_iter().collect(),
        kind,
    })
}

/// Compares a folder with its source, number by number. True if nothing was rounded.
fn read_again(source: &ModelFile, written: &ModelFile, dtype: FileType) -> Result<bool> {
    let moved = written.config().norm != source.config().norm;
    let (mut a, mut b, mut exact) = (Vec::new(), Vec::new(), !moved);
    for spec in layout(source.config()).iter() {
        a.resize(spec.len(), 0f32);
        b.resize(spec.len(), 0f32);
        source.read(spec, &mut a)?;
        written.read(spec, &mut b)?;
        let rounded = |x: f32| match dtype {
            FileType::F32 => x,
            FileType::Bf16 => half::bf16::from_f32(x).to_f32(),
            FileType::F16 => half::f16::from_f32(x).to_f32(),
        };
        if moved && spec.name.ends_with("norm.weight") {
            a.iter_mut().for_each(|x| *x -= 1.0);
        }
        if a.iter().zip(&b).any(|(a, b)| rounded(*a).to_bits() != b.to_bits()) {
            bail!("{} is not what was written when it is read again", spec.name);
        }
        exact &= a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits());
    }
    Ok(exact)
}

/// The ids of the text that models are compared on: as many as fit the model, and a KV block.
fn check_tokens(model: &Model) -> Vec<u32> {
    let config = model.checkpoint.config();
    let mut ids = model.prompt(TEXT);
    ids.retain(|id| (*id as usize) < config.n_vocab);
    ids.truncate(TOKENS.min(config.n_ctx));
    if ids.is_empty() { vec![0] } else { ids }
}

/// Compares the logits of what was written with those of its source.
struct Comparison<'a> {
    source: &'a ModelFile,
    written: &'a ModelFile,
    tokens: Vec<u32>,
    kind: Match,
}

/// Largest difference of logits that is only one of the order of sums, as a part of the largest logit.
const CLOSE: f64 = 1e-3;

impl OnBackend for Comparison<'_> {
    type Out = String;

    fn run<B: Device>(self, backend: B) -> Result<String> {
        let bytes = |config: &ModelConfig| InferWeights::bytes_while_building(&backend, config, None) as u64;
        let (needed, available) = (bytes(self.source.config()), backend.memory()?.available);
        if needed > available {
            return Ok(format!(
                "logits were not compared, which needs {} of memory where {} are available",
                units::bytes(needed),
                units::bytes(available)
            ));
        }
        let of = |model: &ModelFile, reading| logits(&backend, model, reading, &self.tokens);
        let expected = of(self.source, Reading::Numbers)?;
        let found = of(self.written, Reading::Numbers)?;
        let (difference, largest) = largest_difference(&expected, &found);
        let near = CLOSE * largest.max(f64::MIN_POSITIVE);
        let fails = |difference: f64, limit: f64| difference.is_nan() || difference > limit;
        let bad = match self.kind {
            Match::Exact => fails(difference, 0.0),
            Match::Close => fails(difference, near),
            Match::Rounded => false,
        };
        if bad {
            bail!(
                "the logits of what was written differ from those of the model by up to {difference:.3e}, and should not; \
                 nothing was kept"
            );
        }
        if self.written.formats()?.is_some_and(|formats| formats.iter().any(Option::is_some)) {
            let (difference, _) = largest_difference(&found, &of(self.written, Reading::Blocks)?);
            if fails(difference, near) {
                bail!(
                    "the logits computed from blocks differ from those of the same weights as numbers by up to \
                     {difference:.3e}; nothing was kept"
                );
            }
        }
        let n_vocab = self.source.config().n_vocab;
        let best = |logits: &[B::Acc]| -> Vec<usize> {
            let best = |row: &[B::Acc]| (0..row.len()).fold(0, |best, id| if row[id] > row[best] { id } else { best });
            logits.chunks_exact(n_vocab).map(best).collect()
        };
        let (a, b) = (best(&expected), best(&found));
        let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
        Ok(match self.kind {
            Match::Exact => format!("logits on {} tokens are the model's, bit for bit", self.tokens.len()),
            _ => format!(
                "logits on {0} tokens differ from the model's by at most {difference:.3e} (the largest is {largest:.1}), \
                 distributions by {1:.2e} nats on average, the likeliest token is the same for {same} of {0}",
                self.tokens.len(),
                divergence(&expected, &found, n_vocab)
            ),
        })
    }
}

/// A name for people: the folder's or the file's.
fn name_of(path: &Path) -> String {
    let generic =
        |name: &str| name == "model" || name.starts_with("step-") || name == "checkpoints" || name.len() == 40;
    let names = path.ancestors().filter_map(|path| path.file_name()?.to_str());
    names.into_iter().find(|name| !generic(name)).unwrap_or("model").to_owned()
}

/// Bytes of a file, or of the weights in a folder.
fn size(path: &Path) -> Result<u64> {
    let about = || format!("cannot read {}", path.display());
    if !path.is_dir() {
        return Ok(std::fs::metadata(path).with_context(about)?.len());
    }
    let mut sum = 0;
    for file in weight_files(path)? {
        sum += std::fs::metadata(&file).with_context(about)?.len();
    }
    Ok(sum)
}

/// What is being written; removed unless it is kept.
struct Temporary(PathBuf);

impl Temporary {
    fn beside(out: &Path) -> Result<Self> {
        let Some(name) = out.file_name() else { bail!("--out {} is no name", out.display()) };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.part", std::process::id()));
        if let Some(folder) = out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(Self(out.with_file_name(hidden)))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn keep(self, out: &Path) -> Result<()> {
        std::fs::rename(&self.0, out).with_context(|| format!("cannot rename what was written to {}", out.display()))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Best effort: after `keep` there is nothing, and otherwise the first error is the one to report.
        let _ = if self.0.is_dir() { std::fs::remove_dir_all(&self.0) } else { std::fs::remove_file(&self.0) };
    }
}
