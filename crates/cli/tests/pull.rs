//! `verve pull` against a hub on this machine, and what it brought, used by name.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;
#[path = "../../hub/tests/common/mod.rs"]
#[allow(dead_code, reason = "a part is used")]
mod hub;

use std::collections::BTreeMap;
use std::path::Path;

use common::{contents, fails, verve, write_texts};
use hub::{Mock, Reply};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with one repository of these files.
fn serve(files: BTreeMap<String, Vec<u8>>) -> Mock {
    Mock::start(move |request, _| {
        if let Some(rest) = request.path.strip_prefix("/api/models/") {
            if !rest.starts_with("tiny/chat/") {
                return Reply::status(404);
            }
            let siblings: Vec<_> =
                files.iter().map(|(name, bytes)| serde_json::json!({"rfilename": name, "size": bytes.len()})).collect();
            return Reply::ok(serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string());
        }
        match request.path.strip_prefix(&format!("/tiny/chat/resolve/{COMMIT}/")).and_then(|name| files.get(name)) {
            Some(bytes) => Reply::file(request, bytes),
            None => Reply::status(404),
        }
    })
}

fn pull(mock: &Mock, home: &Path) -> assert_cmd::Command {
    let mut command = verve();
    for name in ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        command.env_remove(name);
    }
    command.arg("pull").env("HF_ENDPOINT", &mock.url).env("HF_HOME", home);
    command
}

#[test]
fn a_model_is_pulled_and_talked_to_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let texts = write_texts(folder.path());
    let run = folder.path().join("run");
    common::succeeds(verve().arg("train").arg(texts).arg("--out").arg(&run).args(["--preset", "nano", "--steps", "2"]));
    let mut files: BTreeMap<String, Vec<u8>> = contents(&run)
        .into_iter()
        .filter_map(|(path, bytes)| {
            let name = path.rsplit('/').next()?;
            ["config.json", "model.safetensors", "tokenizer.json"].contains(&name).then(|| (name.to_owned(), bytes))
        })
        .collect();
    assert_eq!(files.len(), 3);
    files.insert(
        "chat_template.jinja".to_owned(),
        b"{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}".to_vec(),
    );
    files.insert("pytorch_model.bin".to_owned(), b"not wanted".to_vec());
    let mock = serve(files);
    let home = folder.path().join("home");

    let planned = pull(&mock, &home).args(["tiny/chat", "--plan"]).output().unwrap();
    let err = String::from_utf8_lossy(&planned.stderr);
    assert!(planned.status.success() && err.contains("4 file(s)") && err.contains("model.safetensors"), "{err}");
    assert!(!home.exists(), "a plan downloads nothing");

    let output = pull(&mock, &home).arg("tiny/chat").output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    assert!(err.contains("verve chat --model tiny/chat"), "{err}");
    let snapshot = home.join("hub/models--tiny--chat/snapshots").join(COMMIT);
    assert_eq!(out.trim(), snapshot.to_str().unwrap());
    assert_eq!(contents(&snapshot).len(), 4);

    let mut chat = verve();
    chat.args(["chat", "--model", "chat", "-n", "3", "--show-prompt", "Hi"])
        .env("HF_HOME", &home)
        .env("HF_HUB_OFFLINE", "1");
    let out = common::succeeds(&mut chat);
    assert!(out.contains("\n[user] Hi\n"), "{out}");
    let mut generate = verve();
    generate.args(["generate", "--model", "tiny/chat", "-n", "3", "Hi"]).env("HF_HOME", &home);
    common::succeeds(&mut generate);
}

#[test]
fn what_can_go_wrong_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mock = serve(BTreeMap::from([("pytorch_model.bin".to_owned(), vec![1])]));
    let says = |args: &[&str], code: i32, parts: &[&str]| {
        let error = fails(pull(&mock, folder.path()).args(args), code);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    says(&["tiny/chat"], 1, &["neither safetensors nor GGUF", "pytorch_model.bin"]);
    says(&["tiny/chat", "--file", "*.gguf"], 1, &["no file that fits *.gguf"]);
    says(&["tiny/absent"], 1, &["tiny/absent does not exist"]);
    says(&["nonsense"], 1, &["nonsense", "OWNER/NAME"]);
    says(&[], 2, &["OWNER/NAME"]);
    let error = fails(pull(&mock, folder.path()).arg("tiny/chat").env("HF_HUB_OFFLINE", "1"), 1);
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    let error = fails(pull(&mock, folder.path()).arg("tiny/chat").env("HF_ENDPOINT", "nowhere"), 1);
    assert!(error.contains("HF_ENDPOINT"), "{error}");
}
