//! The chat template that belongs to a model.

use std::path::Path;

use anyhow::{Context, Result, bail};
use verve_chat::{ChatFormat, ModelTemplates, SpecialTexts, builtin_names};
use verve_model::formats::ModelFile;

use super::super::gguf_metadata;
use super::super::model::Model;

/// The template that `choice` names (a file, a name among the model's own, a built-in name), or the model's own.
///
/// # Errors
/// A model without a template when none is named: none is guessed. A template that is none.
pub fn chat_format(model: &Model, choice: Option<&str>) -> Result<ChatFormat> {
    match ChatFormat::new(&templates(model)?, choice, &model.tokenizer).context("--template")? {
        Some(format) => Ok(format),
        None => bail!(
            "{} has no chat template: it may not have been trained to converse. verve generate continues a text; if \
             you know the format the model was trained with, give --template NAME|FILE (built in: {})",
            model.path.display(),
            builtin_names().collect::<Vec<_>>().join(", ")
        ),
    }
}

/// What a model's files say about chat.
pub fn templates(model: &Model) -> Result<ModelTemplates> {
    let tokenizer = &model.tokenizer;
    let text = |id: Option<u32>| {
        let bytes = id.and_then(|id| tokenizer.token_bytes(id))?;
        std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let mut templates = match &*model.checkpoint {
        ModelFile::Folder(_) => ModelTemplates::from_folder(&model.path)?,
        ModelFile::Gguf(gguf) => {
            let file = gguf.file();
            let named = gguf_metadata::templates(file)?;
            let id = |name: &str| gguf_metadata::id(file, name);
            let specials =
                SpecialTexts { unk: text(id("unknown")?), pad: text(id("padding")?), ..SpecialTexts::default() };
            ModelTemplates { named, specials, adds_bos: Some(tokenizer.adds_bos()) }
        }
    };
    let specials = &mut templates.specials;
    specials.bos = specials.bos.take().or_else(|| text(tokenizer.bos()));
    let first_end = model.checkpoint.ids().eos.first().copied();
    specials.eos = specials.eos.take().or_else(|| text(tokenizer.eos().or(first_end)));
    Ok(templates)
}

/// A conversation in a file, as the OpenAI API has it.
pub fn save(path: &Path, messages: &[verve_chat::Message]) -> Result<()> {
    let json = serde_json::json!({ "messages": messages });
    let text = serde_json::to_string_pretty(&json).context("the conversation cannot be written")?;
    let temporary = path.with_file_name(format!(
        ".{}.{}.tmp",
        path.file_name().unwrap_or_default().to_string_lossy(),
        std::process::id()
    ));
    let write = || -> std::io::Result<()> {
        std::fs::write(&temporary, text + "\n")?;
        std::fs::File::open(&temporary)?.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
