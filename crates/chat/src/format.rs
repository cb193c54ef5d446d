//! A template together with a tokenizer: messages as the ids that a model reads.

use std::path::Path;

use verve_tokenizer::{SpecialTokens, Tokenizer};

use crate::builtin::{builtin, builtin_names};
use crate::check::{Vocabulary, Warning};
use crate::error::ChatError;
use crate::files::{ModelTemplates, read_source};
use crate::guard::{Guard, Segment};
use crate::template::{ChatInput, ChatTemplate};

/// How a model converses.
#[derive(Debug)]
pub struct ChatFormat {
    /// The template.
    pub template: ChatTemplate,
    /// The template for calls of functions, where the model has one of its own for them.
    pub tool_template: Option<ChatTemplate>,
    /// Token that ends an assistant's turn, where it is one.
    pub end_of_turn: Option<u32>,
    /// Text that ends an assistant's turn, where it is no single token.
    pub stop: Option<String>,
    /// What may go wrong.
    pub warnings: Vec<Warning>,
    guard: Guard,
}

/// A conversation as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The exact text.
    pub text: String,
    /// Its ids.
    pub ids: Vec<u32>,
}

impl ChatFormat {
    /// The template that `choice` names (a file, a name among the model's own, a built-in name), or the model's own.
    /// `None` for a model without a template when none is named: none is guessed.
    ///
    /// # Errors
    /// A choice that is none of these. A template that is none.
    pub fn new(
        templates: &ModelTemplates,
        choice: Option<&str>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Self>, ChatError> {
        let source = match choice {
            Some(choice) => Some(named(templates, choice)?),
            None => templates.choose(None, false)?.map(str::to_owned),
        };
        let Some(source) = source else { return Ok(None) };
        let template = ChatTemplate::new(&source, templates.specials.clone())?;
        let tool_source = if choice.is_none() { templates.choose(None, true)? } else { None };
        let tool_template = tool_source
            .filter(|tool_source| *tool_source != source)
            .map(|source| ChatTemplate::new(source, templates.specials.clone()))
            .transpose()?;
        let count = |text: &str| tokenizer.encode_with(text, SpecialTokens::Parse).len();
        let adds_bos = templates.adds_bos.unwrap_or_else(|| tokenizer.adds_bos());
        let warnings = template.warnings(&Vocabulary { adds_bos, count: &count });
        let (mut end_of_turn, mut stop) = (None, None);
        if let Some(text) = template.end_of_turn() {
            match tokenizer.encode_with(&text, SpecialTokens::Parse)[..] {
                [id] => end_of_turn = Some(id),
                _ => stop = Some(text),
            }
        }
        let special = tokenizer.added_tokens().iter().filter(|token| token.special);
        let guard = Guard::new(special.map(|token| token.content.clone()));
        Ok(Some(Self { template, tool_template, end_of_turn, stop, warnings, guard }))
    }

    /// The template for a conversation with or without functions.
    pub fn template_for(&self, tools: bool) -> &ChatTemplate {
        match &self.tool_template {
            Some(template) if tools => template,
            _ => &self.template,
        }
    }

    /// The exact text of a conversation and its ids. Special tokens are what the template writes; where a message spells
    /// one out, it is text like any other. No token is put in front: the template writes what belongs there.
    ///
    /// # Errors
    /// What the template refuses.
    pub fn encode(&self, tokenizer: &Tokenizer, input: &ChatInput<'_>) -> Result<Encoded, ChatError> {
        let template = self.template_for(input.tools.is_some());
        let prompt = template.render_guarded(input, &self.guard)?;
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

fn named(templates: &ModelTemplates, choice: &str) -> Result<String, ChatError> {
    if Path::new(choice).is_file() {
        return read_source(Path::new(choice));
    }
    if let Some((_, source)) = templates.named.iter().find(|(name, _)| name == choice) {
        return Ok(source.clone());
    }
    if let Some(source) = builtin(choice) {
        return Ok(source.to_owned());
    }
    let own = templates.named.iter().map(|(name, _)| name.clone()).collect();
    let builtin = builtin_names().collect();
    Err(ChatError::NoSuchTemplate { name: choice.to_owned(), builtin, own })
}
