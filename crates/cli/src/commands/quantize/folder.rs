//! The tokenizer and the chat templates of a Hugging Face folder.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use verve_chat::DEFAULT_NAME;
use verve_model::formats::ModelFile;

use crate::commands::chat::template;
use crate::commands::model::Model;

/// Files of a folder that are about text and not about weights.
const FILES: [&str; 11] = [
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "LICENSE",
];
const MORE_TEMPLATES: &str = "additional_chat_templates";

/// Writes what belongs to the text of a model: copies of the files of a folder, or what a GGUF file says.
pub fn write_tokenizer(model: &Model, out: &Path) -> Result<()> {
    match &*model.checkpoint {
        ModelFile::Folder(_) => copy_files(model, out),
        ModelFile::Gguf(_) => write_files(model, out),
    }
}

fn copy_files(model: &Model, out: &Path) -> Result<()> {
    let copy = |from: &Path, to: &Path| {
        std::fs::copy(from, to).map(drop).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
    };
    for name in FILES {
        let from = model.path.join(name);
        if from.is_file() {
            copy(&from, &out.join(name))?;
        }
    }
    let from = model.path.join(MORE_TEMPLATES);
    if from.is_dir() {
        let to = out.join(MORE_TEMPLATES);
        std::fs::create_dir_all(&to).with_context(|| format!("cannot create {}", to.display()))?;
        for entry in std::fs::read_dir(&from).with_context(|| format!("cannot read {}", from.display()))? {
            let entry = entry.with_context(|| format!("cannot read {}", from.display()))?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    // Folders may have a tokenizer in other files; one that everybody reads is always there.
    if !out.join("tokenizer.json").is_file() {
        model.tokenizer.save(out)?;
    }
    Ok(())
}

fn write_files(model: &Model, out: &Path) -> Result<()> {
    let tokenizer = &model.tokenizer;
    tokenizer.save(out)?;
    let templates = template::templates(model)?;
    let specials = &templates.specials;
    let mut config = Map::new();
    config.insert("tokenizer_class".to_owned(), "PreTrainedTokenizerFast".into());
    config.insert("model_max_length".to_owned(), model.checkpoint.config().n_ctx.into());
    config.insert("clean_up_tokenization_spaces".to_owned(), false.into());
    config.insert("add_bos_token".to_owned(), tokenizer.adds_bos().into());
    config.insert("add_eos_token".to_owned(), tokenizer.adds_eos().into());
    for (name, token) in [
        ("bos_token", &specials.bos),
        ("eos_token", &specials.eos),
        ("unk_token", &specials.unk),
        ("pad_token", &specials.pad),
    ] {
        config.extend(token.iter().map(|token| (name.to_owned(), json!(token))));
    }
    let text = format!("{:#}\n", Value::Object(config));
    let write = |path: &Path, text: &str| {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write(&out.join("tokenizer_config.json"), &text)?;
    for (name, source) in &templates.named {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') && !name.is_empty();
        if name == DEFAULT_NAME {
            write(&out.join("chat_template.jinja"), source)?;
        } else if plain {
            let folder = out.join(MORE_TEMPLATES);
            std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
            write(&folder.join(format!("{name}.jinja")), source)?;
        } else {
            eprintln!("warning: the chat template {name:?} is left out: its name is no file name");
        }
    }
    Ok(())
}
