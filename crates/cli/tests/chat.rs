//! Conversations through the program: templates, commands, limits, and what a published model says.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use assert_cmd::cargo::CommandCargoExt;
use common::{fails, succeeds, verve, write_texts};

/// A model that was trained for two steps, shared by the tests of this file.
fn model() -> &'static Path {
    static MODEL: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, run) = MODEL.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let texts = write_texts(folder.path());
        let run = folder.path().join("run");
        succeeds(verve().arg("train").arg(texts).arg("--out").arg(&run).args(["--preset", "nano", "--steps", "2"]));
        (folder, run)
    });
    run
}

fn chat(model: &Path) -> assert_cmd::Command {
    let mut command = verve();
    command.arg("chat").arg("--model").arg(model).env("HF_HOME", "/nowhere").env("HF_HUB_OFFLINE", "1");
    command
}

fn stderr(command: &mut assert_cmd::Command) -> (String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_template_is_never_guessed() {
    let error = fails(chat(model()).arg("Hi"), 1);
    for part in ["no chat template", "--template", "chatml", "verve generate"] {
        assert!(error.contains(part), "{error}");
    }
    let error = fails(chat(model()).args(["--template", "nonsense", "Hi"]), 1);
    assert!(error.contains("nonsense") && error.contains("built in: chatml"), "{error}");
    assert!(fails(chat(Path::new("Absent-1B")).arg("Hi"), 1).contains("verve pull OWNER/Absent-1B"));
    assert!(fails(chat(Path::new("o/Absent-1B")).arg("Hi"), 1).contains("verve pull o/Absent-1B"));
    assert!(fails(chat(Path::new("/no/such/model")).arg("Hi"), 1).contains("there is no model at /no/such/model"));
}

#[test]
fn the_exact_prompt_is_shown() {
    let (out, err) = stderr(chat(model()).args([
        "--template",
        "chatml",
        "--show-prompt",
        "--no-answer",
        "--system",
        "Be <b>brief</b>.",
        "Hi\nthere",
    ]));
    let text = "<|im_start|>system\nBe <b>brief</b>.<|im_end|>\n<|im_start|>user\nHi\nthere<|im_end|>\n<|im_start|>assistant\n";
    let (shown, ids) = out.split_once("\n--- ids\n").unwrap();
    assert_eq!(shown.split_once('\n').unwrap().1, text);
    assert!(!ids.trim_end_matches("\n---\n").split(' ').any(|id| id.parse::<u32>().is_err()), "{ids}");
    assert!(err.contains("\"<|im_end|>\", which is") && err.contains("not one"), "{err}");
    assert!(fails(chat(model()).args(["--template", "chatml", "--no-answer", "x"]), 2).contains("--show-prompt"));
}

#[test]
fn templates_from_files_fail_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let with = |source: &str| {
        let path = folder.path().join("t.jinja");
        std::fs::write(&path, source).unwrap();
        let mut command = chat(model());
        command.arg("--template").arg(path).args(["--show-prompt", "--no-answer"]);
        command
    };
    let (out, _) = stderr(with("{{ who }}:{{ messages[0].content }}{{ n + 1 }}").args([
        "--variable",
        "who=me",
        "--variable",
        "n=2",
        "Hi",
    ]));
    assert!(out.contains("\nme:Hi3\n"), "{out}");
    for (source, parts) in [
        ("x\n{% if %}", ["malformed", "line 2"]),
        ("{{ raise_exception('roles must alternate') }}", ["refuses", "roles must alternate"]),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", ["stopped", "line 1"]),
    ] {
        let error = fails(with(source).arg("Hi"), 1);
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        assert_eq!(error.trim_end().lines().filter(|line| line.starts_with("verve:")).count(), 1, "{error}");
    }
}

#[test]
fn lines_of_standard_input_are_messages() {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("c.json");
    let script = format!(
        "Hello\n\n/system Be brief.\n//slash\nlong\\\nmessage\n/nonsense\n/save {}\n/reset\nlast\n/quit\nnever read\n",
        saved.display()
    );
    let template = folder.path().join("short.jinja");
    std::fs::write(&template, "{% for m in messages %}{{ m.content }}\n{% endfor %}").unwrap();
    let args = ["--template", template.to_str().unwrap(), "--temperature", "0", "-n", "3", "--seed", "1"];
    let (out, err) = stderr(chat(model()).args(args).write_stdin(script.clone()));
    assert!(!out.contains("> ") && !out.contains("never read"), "{out}");
    assert!(err.contains("instructions set") && err.contains("\"/nonsense\" is no command"), "{err}");
    let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&saved).unwrap()).unwrap();
    let said: Vec<(&str, &str)> = json["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| (m["role"].as_str().unwrap(), m["content"].as_str().unwrap()))
        .filter(|(role, _)| *role != "assistant")
        .collect();
    assert_eq!(said, [("system", "Be brief."), ("user", "Hello"), ("user", "/slash"), ("user", "long\nmessage")]);
    assert_eq!(json["messages"].as_array().unwrap().len(), 7, "every message was answered");
    // The same again: the same bytes.
    assert_eq!(stderr(chat(model()).args(args).write_stdin(script)).0, out);
}

#[test]
fn nothing_is_cut_from_a_long_conversation() {
    let long = "word ".repeat(300);
    let args = ["--template", "chatml", "--context", "64", "-n", "5"];
    let output = chat(model()).args(args).write_stdin(format!("{long}\nHi\n")).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    for part in ["the context holds 64", "not sent", "--context", "1 message(s) could not be answered"] {
        assert!(err.contains(part), "{part}: {err}");
    }
}

/// SmolLM2-135M-Instruct, where `VERVE_TEST_MODELS` names a folder with it.
fn smollm2() -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("VERVE_TEST_MODELS")?).join("SmolLM2-135M-Instruct.Q4_1.gguf");
    path.is_file().then_some(path)
}

#[test]
fn a_published_model_converses() {
    let Some(path) = smollm2() else {
        eprintln!("skipped: VERVE_TEST_MODELS names no folder with SmolLM2-135M-Instruct.Q4_1.gguf");
        return;
    };
    let (out, err) = stderr(
        chat(&path)
            .args(["--temperature", "0", "-n", "40"])
            .write_stdin("What is the capital of France?\nAnd of Italy?\n"),
    );
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2, "{out}");
    assert!(lines[0].contains("Paris") && lines[1].contains("Rome"), "{out}");
    assert!(!err.contains("warning"), "{err}");
    // As transformers' tokenizer of the same file has it.
    let (out, _) = stderr(chat(&path).args(["--show-prompt", "--no-answer", "Hello!"]));
    let ids = "1 9690 198 2683 359 253 5356 5646 11173 3365 3511 308 34519 28 7018 411 407 19712 8182 2 198 1 4093 198 19556 \
               17 2 198 1 520 9531 198";
    assert!(out.contains(&format!("--- ids\n{ids}\n---")), "{out}");
    // What a message spells out is no special token: id 2 ends the system's turn and the user's, and nothing between.
    let (out, _) = stderr(chat(&path).args(["--show-prompt", "--no-answer", "a<|im_end|>b"]));
    let ids = out.split("--- ids\n").nth(1).unwrap();
    assert_eq!(ids.split_whitespace().filter(|id| *id == "2").count(), 2, "{out}");
}

#[test]
#[cfg(unix)]
fn an_interrupt_ends_the_answer_and_not_the_program() {
    let Some(path) = smollm2() else {
        eprintln!("skipped: VERVE_TEST_MODELS names no folder with SmolLM2-135M-Instruct.Q4_1.gguf");
        return;
    };
    let mut child = Command::cargo_bin("verve")
        .unwrap()
        .args(["--threads", "2", "chat", "--temperature", "0", "-n", "4000", "--ignore-eos", "--model"])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdin.write_all(b"Tell a story\n").unwrap();
    let mut byte = [0];
    stdout.read_exact(&mut byte).unwrap();
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    // The rest of the answer, in whatever lines; then the program still takes commands.
    stdin.write_all(b"/quit\n").unwrap();
    drop(stdin);
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert!(child.wait().unwrap().success());
    assert!(rest.len() < 8_000, "the answer went on to its end");
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(err.contains("stopping this answer"), "{err}");
}
