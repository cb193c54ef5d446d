//! Templates in a model's files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::ChatError;
use crate::template::SpecialTexts;

/// Longest file that is read.
const MAX_FILE: u64 = 64 << 20;

/// The name of the template that is used unless another is asked for.
pub const DEFAULT_NAME: &str = "default";

/// The name of the template that is used, where there is one, when functions are given.
const TOOL_NAME: &str = "tool_use";

/// What a model's files say about chat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelTemplates {
    /// Sources by name.
    pub named: Vec<(String, String)>,
    /// Texts of the special tokens.
    pub specials: SpecialTexts,
    /// Whether the tokenizer starts every text with a beginning-of-text token, where the files say so.
    pub adds_bos: Option<bool>,
}

impl ModelTemplates {
    /// Reads `tokenizer_config.json`, `special_tokens_map.json`, `chat_template.jinja` (which goes before what the first
    /// holds), `additional_chat_templates/*.jinja` and `chat_template.json` of a Hugging Face folder. Absent files are
    /// no error: a folder may have no template.
    ///
    /// # Errors
    /// A file that cannot be read, is too long, or is not what its name says.
    pub fn from_folder(folder: &Path) -> Result<Self, ChatError> {
        let mut out = Self::default();
        let map = object(&folder.join("special_tokens_map.json"))?.unwrap_or_default();
        out.take_specials(&map);
        if let Some(config) = object(&folder.join("tokenizer_config.json"))? {
            out.take_specials(&config);
            out.adds_bos = config.get("add_bos_token").and_then(Value::as_bool);
            out.take_templates(&folder.join("tokenizer_config.json"), config.get("chat_template"))?;
        }
        if out.named.is_empty() {
            let path = folder.join("chat_template.json");
            if let Some(config) = object(&path)? {
                out.take_templates(&path, config.get("chat_template"))?;
            }
        }
        if let Some(source) = text(&folder.join("chat_template.jinja"))? {
            out.put(DEFAULT_NAME, source);
        }
        out.take_additional(&folder.join("additional_chat_templates"))?;
        Ok(out)
    }

    /// The source with a name. Without one, the source for calls of functions if `tools` are given and the model has such
    /// a template of its own, else the default; `None` if the model has no template at all.
    ///
    /// # Errors
    /// [`ChatError::UnknownName`].
    pub fn choose(&self, name: Option<&str>, tools: bool) -> Result<Option<&str>, ChatError> {
        let find = |name: &str| self.named.iter().find(|(known, _)| known == name).map(|(_, source)| source.as_str());
        if let Some(name) = name {
            let known = self.named.iter().map(|(name, _)| name.clone()).collect();
            return find(name).map(Some).ok_or(ChatError::UnknownName { name: name.to_owned(), known });
        }
        if tools && let Some(source) = find(TOOL_NAME) {
            return Ok(Some(source));
        }
        match (find(DEFAULT_NAME), self.named.as_slice()) {
            (Some(source), _) => Ok(Some(source)),
            (None, []) => Ok(None),
            (None, [(_, only)]) => Ok(Some(only)),
            (None, named) => Err(ChatError::UnknownName {
                name: DEFAULT_NAME.to_owned(),
                known: named.iter().map(|(name, _)| name.clone()).collect(),
            }),
        }
    }

    fn put(&mut self, name: &str, source: String) {
        match self.named.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = source,
            None => self.named.push((name.to_owned(), source)),
        }
    }

    fn take_specials(&mut self, config: &Map<String, Value>) {
        let token = |name: &str| match config.get(name)? {
            Value::String(text) => Some(text.clone()),
            Value::Object(token) => token.get("content")?.as_str().map(str::to_owned),
            _ => None,
        };
        let specials = &mut self.specials;
        for (name, slot) in [
            ("bos_token", &mut specials.bos),
            ("eos_token", &mut specials.eos),
            ("unk_token", &mut specials.unk),
            ("pad_token", &mut specials.pad),
        ] {
            if let Some(text) = token(name) {
                *slot = Some(text);
            }
        }
    }

    /// One template, or a list of `{"name", "template"}`.
    fn take_templates(&mut self, path: &Path, value: Option<&Value>) -> Result<(), ChatError> {
        let bad = || ChatError::File {
            path: path.to_owned(),
            message: "chat_template must be a text, or a list of objects with name and template".to_owned(),
        };
        match value {
            None | Some(Value::Null) => {}
            Some(Value::String(source)) => self.put(DEFAULT_NAME, source.clone()),
            Some(Value::Array(list)) => {
                for entry in list {
                    let field = |name: &str| entry.get(name).and_then(Value::as_str).ok_or_else(bad);
                    self.put(field("name")?, field("template")?.to_owned());
                }
            }
            Some(Value::Object(named)) => {
                for (name, source) in named {
                    self.put(name, source.as_str().ok_or_else(bad)?.to_owned());
                }
            }
            Some(_) => return Err(bad()),
        }
        Ok(())
    }

    fn take_additional(&mut self, folder: &Path) -> Result<(), ChatError> {
        let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
        let mut paths: Vec<_> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
        paths.sort();
        for path in paths {
            let name = path.file_stem().and_then(|name| name.to_str()).map(str::to_owned);
            if let (Some("jinja"), Some(name)) = (path.extension().and_then(|e| e.to_str()), name)
                && let Some(source) = text(&path)?
            {
                self.put(&name, source);
            }
        }
        Ok(())
    }
}

/// Reads a template from a file of its own.
///
/// # Errors
/// A file that cannot be read, is too long, or is not UTF-8.
pub fn read_source(path: &Path) -> Result<String, ChatError> {
    text(path)?.ok_or_else(|| ChatError::Read { path: path.to_owned(), source: std::io::ErrorKind::NotFound.into() })
}

/// A file's text; `None` if there is no such file.
fn text(path: &Path) -> Result<Option<String>, ChatError> {
    let failed = |source| ChatError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    let bad = |message: String| ChatError::File { path: path.to_owned(), message };
    if bytes.len() as u64 > MAX_FILE {
        return Err(bad(format!("longer than {MAX_FILE} bytes, which no such file is")));
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|error| bad(format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to())))
}

fn object(path: &Path) -> Result<Option<Map<String, Value>>, ChatError> {
    let Some(text) = text(path)? else { return Ok(None) };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| ChatError::File { path: path.to_owned(), message: format!("no JSON object: {error}") })
}
