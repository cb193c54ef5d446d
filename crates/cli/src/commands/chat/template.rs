//! The chat template that belongs to a model, and messages as the ids that the model reads.

use std::path::Path;

use anyhow::{Context, Result, bail};
use verve_chat::{
    ChatInput, ChatTemplate, Guard, ModelTemplates, Segment, SpecialTexts, Warning, builtin, builtin_names, read_source,
};
use verve_model::formats::ModelFile;
use verve_tokenizer::{SpecialTokens, Tokenizer};

use super::super::gguf_metadata;
use super::super::model::Model;

/// How a model converses.
pub struct ChatFormat {
    /// The template.
    pub template: ChatTemplate,
    /// Token that ends an assistant's turn, where it is one.
    pub end_of_turn: Option<u32>,
    /// Text that ends an assistant's turn, where it is no single token.
    pub stop: Option<String>,
    /// What may go wrong.
    pub warnings: Vec<Warning>,
    guard: Guard,
}

/// A conversation as the model reads it.
pub struct Encoded {
    /// The exact text.
    pub text: String,
    /// Its ids.
    pub ids: Vec<u32>,
}

impl ChatFormat {
    /// The template that `choice` names (a file, a built-in name, a name among the model's own), or the model's own.
    ///
    /// # Errors
    /// A model without a template when none is named: none is guessed. A template that is none.
    pub fn of(model: &Model, choice: Option<&str>) -> Result<Self> {
        let templates = templates(model)?;
        let source = match choice {
            Some(choice) => named(&templates, choice)?,
            None => match templates.choose(None, false)? {
                Some(source) => source.to_owned(),
                None => bail!(
                    "{} has no chat template: it may not have been trained to converse. verve generate continues a text; if \
                     you know the format the model was trained with, give --template NAME|FILE (built in: {})",
                    model.path.display(),
                    builtin_names().collect::<Vec<_>>().join(", ")
                ),
            },
        };
        let tokenizer = &model.tokenizer;
        let template = ChatTemplate::new(&source, templates.specials.clone())?;
        let count = |text: &str| tokenizer.encode_with(text, SpecialTokens::Parse).len();
        let adds_bos = templates.adds_bos.unwrap_or_else(|| tokenizer.adds_bos());
        let warnings = template.warnings(&verve_chat::Vocabulary { adds_bos, count: &count });
        let (mut end_of_turn, mut stop) = (None, None);
        if let Some(text) = template.end_of_turn() {
            match tokenizer.encode_with(&text, SpecialTokens::Parse)[..] {
                [id] => end_of_turn = Some(id),
                _ => stop = Some(text),
            }
        }
        let special = tokenizer.added_tokens().iter().filter(|token| token.special);
        let guard = Guard::new(special.map(|token| token.content.clone()));
        Ok(Self { template, end_of_turn, stop, warnings, guard })
    }

    /// The exact text of a conversation and its ids. Special tokens are what the template writes; where a message spells
    /// one out, it is text like any other. No token is put in front: the template writes what belongs there.
    ///
    /// # Errors
    /// What the template refuses.
    pub fn encode(&self, tokenizer: &Tokenizer, input: &ChatInput<'_>) -> Result<Encoded> {
        let prompt = self.template.render_guarded(input, &self.guard)?;
        let mut ids = Vec::new();
        for segment in prompt.segments(&self.guard) {
            ids.extend(match segment {
                Segment::Parse(text) => tokenizer.encode_with(text, SpecialTokens::Parse),
                Segment::Plain(text) => tokenizer.encode_with(text, SpecialTokens::Ordinary),
            });
        }
        Ok(Encoded { text: prompt.text, ids })
    }
}

fn named(templates: &ModelTemplates, choice: &str) -> Result<String> {
    if Path::new(choice).is_file() {
        return Ok(read_source(Path::new(choice))?);
    }
    if let Some((_, source)) = templates.named.iter().find(|(name, _)| name == choice) {
        return Ok(source.clone());
    }
    if let Some(source) = builtin(choice) {
        return Ok(source.to_owned());
    }
    let own: Vec<&str> = templates.named.iter().map(|(name, _)| name.as_str()).collect();
    let own = if own.is_empty() { "none".to_owned() } else { own.join(", ") };
    bail!(
        "--template {choice}: no such file and no such template; built in: {}; the model's own: {own}",
        builtin_names().collect::<Vec<_>>().join(", ")
    )
}

/// What a model's files say about chat.
pub fn templates(model: &Model) -> Result<ModelTemplates> {
    let tokenizer = &model.tokenizer;
    let text = |id: Option<u32>| {
        let bytes = id.and_then(|id| tokenizer.token_bytes(id))?;
        std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let mut templates = match &model.checkpoint {
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
