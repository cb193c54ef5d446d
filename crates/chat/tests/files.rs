//! Templates in model folders.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::Path;

use serde_json::json;
use verve_chat::{ChatError, ModelTemplates, SpecialTexts};

fn put(folder: &Path, name: &str, text: impl ToString) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text.to_string()).unwrap();
}

#[test]
fn a_folder_without_any() {
    let folder = tempfile::tempdir().unwrap();
    let found = ModelTemplates::from_folder(folder.path()).unwrap();
    assert_eq!(found, ModelTemplates::default());
    assert_eq!(found.choose(None, false).unwrap(), None);
    assert!(matches!(found.choose(Some("x"), false), Err(ChatError::UnknownName { .. })));
}

#[test]
fn one_template_and_its_tokens() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "special_tokens_map.json", json!({"bos_token": "<old>", "pad_token": "<p>"}));
    let config = json!({
        "chat_template": "from the config",
        "add_bos_token": true,
        "bos_token": {"content": "<s>", "lstrip": false},
        "eos_token": "</s>",
        "unk_token": null,
    });
    put(folder.path(), "tokenizer_config.json", config);
    let found = ModelTemplates::from_folder(folder.path()).unwrap();
    assert_eq!(found.choose(None, true).unwrap(), Some("from the config"));
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(found.specials, SpecialTexts { bos: text("<s>"), eos: text("</s>"), unk: None, pad: text("<p>") });
    assert_eq!(found.adds_bos, Some(true));

    put(folder.path(), "chat_template.json", json!({"chat_template": "from the processor"}));
    assert_eq!(
        ModelTemplates::from_folder(folder.path()).unwrap().choose(None, false).unwrap(),
        Some("from the config")
    );
    put(folder.path(), "chat_template.jinja", "from the file\n");
    put(folder.path(), "additional_chat_templates/rag.jinja", "for documents");
    let found = ModelTemplates::from_folder(folder.path()).unwrap();
    assert_eq!(found.choose(None, false).unwrap(), Some("from the file\n"));
    assert_eq!(found.choose(Some("rag"), false).unwrap(), Some("for documents"));
    std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    put(folder.path(), "tokenizer_config.json", "{}");
    assert_eq!(
        ModelTemplates::from_folder(folder.path()).unwrap().choose(None, false).unwrap(),
        Some("from the processor")
    );
}

#[test]
fn named_templates() {
    let folder = tempfile::tempdir().unwrap();
    let named = json!([{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]);
    put(folder.path(), "tokenizer_config.json", json!({"chat_template": named}));
    let found = ModelTemplates::from_folder(folder.path()).unwrap();
    assert_eq!(found.choose(None, false).unwrap(), Some("d"));
    assert_eq!(found.choose(None, true).unwrap(), Some("t"));
    assert_eq!(found.choose(Some("tool_use"), false).unwrap(), Some("t"));
    let message = found.choose(Some("rag"), false).unwrap_err().to_string();
    assert!(message.contains("rag") && message.contains("default, tool_use"), "{message}");
}

#[test]
fn broken_files_are_named() {
    for (text, parts) in [
        ("{", ["tokenizer_config.json", "JSON"]),
        ("[]", ["tokenizer_config.json", "JSON"]),
        ("{\"chat_template\": 3}", ["tokenizer_config.json", "chat_template"]),
        ("{\"chat_template\": [{\"name\": \"x\"}]}", ["tokenizer_config.json", "chat_template"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "tokenizer_config.json", text);
        let message = ModelTemplates::from_folder(folder.path()).unwrap_err().to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("chat_template.jinja"), b"ab\xff").unwrap();
    let message = ModelTemplates::from_folder(folder.path()).unwrap_err().to_string();
    assert!(message.contains("UTF-8 at byte 2"), "{message}");
}
