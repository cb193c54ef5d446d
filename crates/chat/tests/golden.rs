//! Rendered text against what transformers renders; `tools/golden/chat_templates.py` wrote the file.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};
use verve_chat::{ChatInput, ChatTemplate, Clock, Ending, Limits, Message, SpecialTexts};

#[derive(Deserialize)]
struct Golden {
    specials: BTreeMap<String, String>,
    conversations: BTreeMap<String, Vec<Message>>,
    variants: Vec<Variant>,
    cases: Vec<Case>,
    value: Value,
    snippets: Vec<Snippet>,
}

#[derive(Deserialize)]
struct Variant {
    ending: String,
    tools: Option<Vec<Value>>,
    variables: Map<String, Value>,
}

#[derive(Deserialize)]
struct Case {
    template: String,
    conversation: String,
    variant: usize,
    out: Option<String>,
}

#[derive(Deserialize)]
struct Snippet {
    source: String,
    out: Option<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn golden() -> Golden {
    let text = std::fs::read_to_string(root().join("tests/golden/chat/chat_templates.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// 2024-07-03 09:05:07.
const TIME: Clock = Clock::Fixed(1_719_997_507);

fn template(source: &str, specials: &BTreeMap<String, String>) -> Result<ChatTemplate, verve_chat::ChatError> {
    let text = |name: &str| specials.get(name).cloned();
    let specials =
        SpecialTexts { bos: text("bos_token"), eos: text("eos_token"), unk: text("unk_token"), pad: text("pad_token") };
    ChatTemplate::with(source, specials, Limits::default(), TIME)
}

#[test]
fn published_templates() {
    let golden = golden();
    let mut templates = BTreeMap::new();
    for folder in ["crates/chat/src/builtin", "crates/chat/tests/templates"] {
        for entry in std::fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let source = std::fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            templates.insert(name, template(&source, &golden.specials).unwrap());
        }
    }
    let mut wrong = Vec::new();
    for case in &golden.cases {
        // Templates that take only text fail on parts in transformers, or show them as Python shows a list. Here they get
        // the parts' text; `messages.rs` tests that.
        if case.conversation.starts_with("parts") && !templates[&case.template].abilities().part_content {
            continue;
        }
        let variant = &golden.variants[case.variant];
        let ending = if variant.ending == "closed" { Ending::Closed } else { Ending::GenerationPrompt };
        let input = ChatInput {
            messages: &golden.conversations[&case.conversation],
            tools: variant.tools.as_deref(),
            ending,
            variables: Some(&variant.variables),
        };
        let ours = templates[&case.template].render(&input);
        if ours.as_ref().ok() != case.out.as_ref() {
            wrong.push(format!(
                "{} {} {}\n  ours   {ours:?}\n  theirs {:?}",
                case.template, case.conversation, case.variant, case.out
            ));
        }
    }
    assert!(golden.cases.len() > 600);
    assert!(wrong.is_empty(), "{} of {} differ\n{}", wrong.len(), golden.cases.len(), wrong.join("\n"));
}

#[test]
fn single_constructs() {
    let golden = golden();
    let variables = Map::from_iter([("v".to_owned(), golden.value.clone())]);
    let mut wrong = Vec::new();
    for snippet in &golden.snippets {
        let messages = &golden.conversations["turns"];
        let input = ChatInput { variables: Some(&variables), ..ChatInput::new(messages) };
        let ours = template(&snippet.source, &golden.specials).and_then(|template| template.render(&input));
        if ours.as_ref().ok() != snippet.out.as_ref() {
            wrong.push(format!("{}\n  ours   {ours:?}\n  theirs {:?}", snippet.source, snippet.out));
        }
    }
    assert!(wrong.is_empty(), "{} of {} differ\n{}", wrong.len(), golden.snippets.len(), wrong.join("\n"));
}
