//! `verve inspect`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use verve_chat::ModelTemplates;
use verve_engine::{EngineOptions, memory_plan};
use verve_gguf::{GgufFile, Value};
use verve_model::formats::tensor_file::TensorFile;
use verve_model::formats::{FileType, ModelFile};
use verve_model::{AttentionPattern, ModelConfig, layout};
use verve_tokenizer::Tokenizer;

use super::chat::template::{self, chat_format};
use super::generate::own_dtype;
use super::model::{self, Model, describe};
use crate::args::{InspectArgs, MachineArgs};
use crate::device::{Device, OnBackend, on_backend};
use crate::output;
use crate::progress::{Progress, Unit};
use crate::units;

/// Lines of a chat template that are shown, and characters of a value of metadata.
const TEMPLATE_LINES: usize = 3;
const MAX_VALUE: usize = 60;
/// Tensors with bad values that are named.
const MAX_TENSORS: usize = 20;

pub fn run(machine: &MachineArgs, args: InspectArgs) -> Result<()> {
    let path = model::model_at(&args.model)?;
    row("model", path.display())?;
    let opened = Model::open(&args.model);
    if args.metadata && path.is_file() {
        metadata(&GgufFile::open(&path)?)?;
    }
    let model = match opened {
        Ok(model) => model,
        Err(error) => {
            // What the container says helps to see what is wrong.
            if path.is_file()
                && let Ok(file) = GgufFile::open(&path)
            {
                row("architecture", file.text("general.architecture").ok().flatten().unwrap_or("(not said)"))?;
                tensors(&path)?;
            }
            return Err(error);
        }
    };
    let config = model.checkpoint.config();
    row("architecture", architecture(&model))?;
    row("shape", shape(config))?;
    row("context", format!("{} tokens", config.n_ctx))?;
    row("parameters", format!("{} ({})", units::short(config.n_params() as f64), config.n_params()))?;
    tokenizer(&model.tokenizer)?;
    let ids = model.checkpoint.ids();
    let ends: Vec<String> = ids.eos.iter().map(|id| token(&model.tokenizer, *id)).collect();
    row("texts end with", if ends.is_empty() { "nothing that the files name".to_owned() } else { ends.join(", ") })?;
    let templates = template::templates(&model)?;
    chat_templates(&templates)?;
    tensors(&path)?;
    on_backend(machine, own_dtype(&model.checkpoint)?, MemoryJob { model: &model })?;
    let mut problems = problems(&model, &templates)?;
    if args.check_values {
        problems.extend(values(&model.checkpoint)?);
    }
    if problems.is_empty() {
        return row("problems", if args.check_values { "none" } else { "none (--check-values reads all weights too)" });
    }
    for problem in &problems {
        row("problem", problem)?;
    }
    Ok(())
}

fn row(name: &str, value: impl std::fmt::Display) -> Result<()> {
    output::line(format!("{name:<15} {value}"))
}

fn architecture(model: &Model) -> String {
    match &*model.checkpoint {
        ModelFile::Folder(folder) => format!("{} (Hugging Face folder)", folder.family().model_type()),
        ModelFile::Gguf(gguf) => {
            let name = gguf.file().text("general.name").ok().flatten().unwrap_or_default();
            let name = if name.is_empty() { String::new() } else { format!(", {name:?}") };
            format!("{} (GGUF){name}", gguf.architecture().name())
        }
    }
}

fn shape(c: &ModelConfig) -> String {
    let attention = match c.attention {
        AttentionPattern::Dense => "dense attention".to_owned(),
        AttentionPattern::Alternating { band } => format!("every second layer sees {band} tokens"),
        AttentionPattern::Windowed { band } => format!("layers see {band} tokens"),
        AttentionPattern::Periodic { band, global_every } => {
            format!("layers see {band} tokens, every {global_every}th all")
        }
    };
    format!(
        "{} layers of {}, feed-forward {}, {} heads of {} ({} for keys and values), vocabulary {}{}, {attention}",
        c.n_layers,
        c.d_model,
        c.d_ff,
        c.n_heads,
        c.d_head,
        c.n_kv_heads,
        c.n_vocab,
        if c.tied_head { " (head tied)" } else { "" },
    )
}

/// A token as people write it, with its id.
fn token(tokenizer: &Tokenizer, id: u32) -> String {
    match tokenizer.token_bytes(id) {
        Some(bytes) if !bytes.is_empty() => format!("{id} {:?}", String::from_utf8_lossy(bytes)),
        _ => format!("{id} (no token)"),
    }
}

fn tokenizer(tokenizer: &Tokenizer) -> Result<()> {
    let summary = tokenizer.summary();
    row(
        "tokenizer",
        format!(
            "{}, {} tokens, splitter {}, hash {}",
            tokenizer.kind().name(),
            summary.n_vocab,
            tokenizer.pre_split().name(),
            &tokenizer.hash()[..12]
        ),
    )?;
    let role =
        |name: &str, id: Option<u32>, added: &str| id.map(|id| format!("{name} {}{added}", token(tokenizer, id)));
    let where_added = |added: bool, place: &'static str| if added { place } else { "" };
    let roles: Vec<String> = [
        role("begin", tokenizer.bos(), where_added(tokenizer.adds_bos(), ", put in front of texts")),
        role(
            "end",
            tokenizer.eos().or(tokenizer.end_of_text()),
            where_added(tokenizer.adds_eos(), ", put behind texts"),
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    let specials = summary.added.iter().filter(|token| token.special).count();
    row("special tokens", format!("{specials}{}{}", if roles.is_empty() { "" } else { "; " }, roles.join("; ")))
}

fn chat_templates(templates: &ModelTemplates) -> Result<()> {
    if templates.named.is_empty() {
        return row("chat template", "none");
    }
    for (name, source) in &templates.named {
        row("chat template", format!("{name}, {} characters", source.chars().count()))?;
        for line in source.lines().filter(|line| !line.trim().is_empty()).take(TEMPLATE_LINES) {
            row("", shortened(line))?;
        }
    }
    Ok(())
}

fn shortened(text: &str) -> String {
    let mut out: String = text.chars().take(MAX_VALUE).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_VALUE).is_some() {
        out.push_str("...");
    }
    out
}

/// Number, values and bytes of the tensors of each type.
fn tensors(path: &Path) -> Result<()> {
    let mut table: BTreeMap<String, (usize, u64, u64)> = BTreeMap::new();
    let mut add = |kind: String, values: usize, bytes: usize| {
        let (count, all_values, all_bytes) = table.entry(kind).or_default();
        *count += 1;
        *all_values += values as u64;
        *all_bytes += bytes as u64;
    };
    if path.is_dir() {
        for file in weight_files(path)? {
            let file = TensorFile::open(&file)?;
            for name in file.names() {
                let kind = match file.dtype(&name) {
                    Ok(FileType::F32) => "f32",
                    Ok(FileType::Bf16) => "bf16",
                    Ok(FileType::F16) => "f16",
                    Err(_) => "another",
                };
                let values = file.shape(&name).unwrap_or_default().iter().product();
                add(kind.to_owned(), values, file.bytes(&name)?.len());
            }
        }
    } else {
        for tensor in GgufFile::open(path)?.tensors() {
            add(tensor.kind.to_string(), tensor.len(), tensor.n_bytes());
        }
    }
    for (kind, (count, values, bytes)) in table {
        let values = units::short(values as f64);
        row("tensors", format!("{kind:<5} {count:>5}  {values:>8} values  {:>10}", units::bytes(bytes)))?;
    }
    Ok(())
}

/// The safetensors files of a folder, in order.
pub fn weight_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let about = || format!("cannot read {}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(about)? {
        let path = entry.with_context(about)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("model") && name.ends_with(".safetensors") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn metadata(file: &GgufFile) -> Result<()> {
    for (key, value) in file.metadata() {
        let text = match value {
            Value::String(text) => format!("\"{}\"", shortened(text)),
            Value::Array(array) => format!("{} values", array.len()),
            Value::U8(x) => x.to_string(),
            Value::I8(x) => x.to_string(),
            Value::U16(x) => x.to_string(),
            Value::I16(x) => x.to_string(),
            Value::U32(x) => x.to_string(),
            Value::I32(x) => x.to_string(),
            Value::U64(x) => x.to_string(),
            Value::I64(x) => x.to_string(),
            Value::F32(x) => x.to_string(),
            Value::F64(x) => x.to_string(),
            Value::Bool(x) => x.to_string(),
        };
        row("metadata", format!("{key} = {text}"))?;
    }
    Ok(())
}

/// Memory of generation by purpose.
struct MemoryJob<'a> {
    model: &'a Model,
}

impl OnBackend for MemoryJob<'_> {
    type Out = ();

    fn run<B: Device>(self, backend: B) -> Result<()> {
        let file = &self.model.checkpoint;
        let options = EngineOptions { max_sequences: 1, ..EngineOptions::default() };
        let plan = memory_plan(&backend, file.config(), file.formats()?.as_ref(), &options)?;
        row("memory", format!("{} for one sequence of {} tokens", describe(&plan), file.config().n_ctx))
    }
}

/// What may go wrong with the model, in words.
fn problems(model: &Model, templates: &ModelTemplates) -> Result<Vec<String>> {
    let (tokenizer, config) = (&model.tokenizer, model.checkpoint.config());
    let mut found = Vec::new();
    if templates.named.is_empty() {
        found.push("no chat template: verve chat needs --template NAME|FILE".to_owned());
    } else {
        match chat_format(model, None) {
            Ok(format) => found.extend(format.warnings.iter().map(ToString::to_string)),
            Err(error) => found.push(format!("the chat template cannot be used: {}", output::message(&error))),
        }
    }
    let ids = model.checkpoint.ids();
    for id in ids.eos.iter().chain(&ids.bos).chain(&ids.pad) {
        if tokenizer.token_bytes(*id).is_none_or(<[u8]>::is_empty) {
            found.push(format!("the files name token {id}, which the tokenizer does not have"));
        }
    }
    if ids.eos.is_empty() && tokenizer.eos().or(tokenizer.end_of_text()).is_none() {
        found.push("no token ends a text: answers go on to --max-tokens".to_owned());
    }
    let spare = config.n_vocab - tokenizer.n_vocab().min(config.n_vocab);
    if spare > config.n_vocab / 10 {
        found.push(format!("{spare} of the model's {} ids have no token", config.n_vocab));
    }
    Ok(found)
}

/// Tensors with values that are no numbers, or all zero.
fn values(model: &ModelFile) -> Result<Vec<String>> {
    let table = layout(model.config());
    let total = table.iter().count() as u64;
    let mut bar = Progress::new("reading weights", Unit::Items, total);
    let (mut found, mut host) = (Vec::new(), Vec::new());
    for (done, spec) in (1..).zip(table.iter()) {
        host.clear();
        host.resize(spec.len(), 0f32);
        model.read(spec, &mut host)?;
        let bad = host.iter().filter(|x| !x.is_finite()).count();
        if bad > 0 {
            found.push(format!("{}: {bad} of {} values are not finite", spec.name, host.len()));
        } else if spec.shape.len() > 1 && host.iter().all(|x| *x == 0.0) {
            found.push(format!("{}: all values are zero", spec.name));
        }
        bar.at(done, total);
    }
    bar.finish();
    if found.len() > MAX_TENSORS {
        let more = found.len() - MAX_TENSORS;
        found.truncate(MAX_TENSORS);
        found.push(format!("{more} more tensors like these"));
    }
    Ok(found)
}
