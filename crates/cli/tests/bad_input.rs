//! What a user can get wrong: one clear message, the right exit code, and nothing lost.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use std::path::Path;

use common::{contents, fails, succeeds, verve, write_texts};

/// Asserts that a message is one line of text that says all of `parts`.
#[track_caller]
fn says(message: &str, parts: &[&str]) {
    let last = message.trim_end().lines().last().unwrap_or_default();
    for part in parts {
        assert!(last.contains(part), "no {part:?} in {message:?}");
    }
}

fn train(text: &Path, out: &Path) -> assert_cmd::Command {
    let mut command = verve();
    command.arg("train").arg(text).arg("--out").arg(out).args(["--preset", "nano", "--steps", "2"]);
    command
}

#[test]
fn text_that_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let out = at("run");

    std::fs::create_dir(at("empty")).unwrap();
    says(&fails(&mut train(&at("empty"), &out), 1), &["no text found", "empty"]);
    says(&fails(&mut train(&at("absent"), &out), 1), &["absent", "no such file"]);

    std::fs::create_dir(at("binary")).unwrap();
    std::fs::write(at("binary/a.txt"), b"\x7fELF\0\0\0\x01").unwrap();
    says(&fails(&mut train(&at("binary"), &out), 1), &["a.txt", "not text"]);

    std::fs::create_dir(at("latin")).unwrap();
    std::fs::write(at("latin/b.txt"), b"caf\xe9 and more text of some length, for a tokenizer").unwrap();
    says(&fails(&mut train(&at("latin"), &out), 1), &["b.txt", "UTF-8", "byte 3"]);

    std::fs::write(at("short.txt"), "A text of a few words.").unwrap();
    says(&fails(&mut train(&at("short.txt"), &out), 1), &["token", "128"]);

    // Skipped or replaced only when asked for, and counted.
    std::fs::write(
        at("latin/c.txt"),
        common::documents().iter().map(|p| std::fs::read_to_string(p).unwrap()).collect::<String>(),
    )
    .unwrap();
    for (how, count) in [("skip", "1 file(s) skipped"), ("replace", "1 invalid sequence(s) replaced")] {
        let out = at(how);
        let output = train(&at("latin"), &out).args(["--invalid-text", how]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.contains(count), "{stderr}");
    }
}

#[test]
fn folders_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let texts = write_texts(folder.path());
    let taken = folder.path().join("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("thesis.doc"), "years of work").unwrap();
    says(&fails(&mut train(&texts, &taken), 1), &["taken", "not empty", "thesis.doc"]);
    assert_eq!(contents(&taken).len(), 1);

    let run = folder.path().join("run");
    succeeds(&mut train(&texts, &run));
    let before = contents(&run);
    says(&fails(&mut train(&texts, &run), 1), &["already holds a run", "--resume"]);
    assert!(contents(&run) == before, "the run was touched");
    says(&fails(verve().args(["train", "--resume", "--out"]).arg(&texts), 1), &["no run to resume"]);

    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    says(&fails(&mut train(&texts, &file.join("run")), 1), &["file"]);
}

#[test]
fn flags_and_settings_that_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let texts = write_texts(folder.path());
    let out = folder.path().join("run");
    let with = |args: &[&str]| {
        let mut command = verve();
        command.arg("train").arg(&texts).arg("--out").arg(&out).args(args);
        command
    };
    for args in [
        &["--steps", "0"][..],
        &["--minutes", "-1"],
        &["--minutes", "nan"],
        &["--steps", "1", "--vocab", "100"],
        &["--steps", "1", "--threads", "0"],
        &["--steps", "1", "--minutes", "1"],
        &["--steps", "1", "--dtype", "fp8"],
        &["--stepz", "1"],
    ] {
        fails(&mut with(args), 2);
    }
    says(&fails(&mut with(&["--steps", "1", "--preset", "tinny"]), 1), &["tinny", "did you mean \"tiny\""]);
    says(&fails(&mut with(&["--steps", "1", "--simd", "mmx"]), 1), &["--simd", "mmx"]);
    says(&fails(&mut with(&[]), 1), &["--minutes", "--steps"]);

    let config = folder.path().join("bad.toml");
    for (text, parts) in [
        ("[optimizer]\nlearning_rate = 1\n", &["learning_rate", "[optimizer]"][..]),
        ("[optimiser]\nlr = 1\n", &["optimiser", "[optimizer]"]),
        ("[budget]\nsteps = 5\ntokens = 5\n", &["contradict"]),
        ("[budget]\nsteps = \"many\"\n", &["bad.toml"]),
    ] {
        std::fs::write(&config, text).unwrap();
        let message = fails(with(&["--preset", "nano"]).arg("--config").arg(&config), 1);
        for part in parts {
            assert!(message.contains(part), "no {part:?} in {message}");
        }
    }
}

#[test]
fn files_that_do_not_belong_together_or_are_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let texts = write_texts(folder.path());
    let at = |name: &str| folder.path().join(name);
    for (vocab, name) in [("300", "a.json"), ("310", "b.json")] {
        succeeds(verve().args(["tokenizer", "train", "--vocab", vocab, "--out"]).arg(at(name)).arg(&texts));
    }
    succeeds(verve().arg("shard").arg(&texts).arg("--tokenizer").arg(at("a.json")).arg("--out").arg(at("shards")));
    let train = |tokenizer: &str, out: &str| {
        let mut command = verve();
        command.args(["train", "--preset", "nano", "--context", "32", "--steps", "2", "--shards"]).arg(at("shards"));
        command.arg("--tokenizer").arg(at(tokenizer)).arg("--out").arg(at(out));
        command
    };
    let message = fails(&mut train("b.json", "other"), 1);
    assert!(message.contains("tokenizer"), "{message}");
    succeeds(&mut train("a.json", "run"));

    // A damaged shard, tokenizer and model: each is named.
    let shard =
        contents(&at("shards")).into_keys().find(|name| name.contains("train") && !name.ends_with("json")).unwrap();
    let path = at("shards").join(&shard);
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, &good[..good.len() / 2]).unwrap();
    let message = fails(&mut train("a.json", "again"), 1);
    assert!(message.contains(&shard), "{message}");
    std::fs::write(&path, &good).unwrap();

    std::fs::write(at("cut.json"), &std::fs::read(at("a.json")).unwrap()[..2000]).unwrap();
    let message = fails(&mut train("cut.json", "again2"), 1);
    assert!(message.contains("cut.json"), "{message}");

    let model = at("run/checkpoints/step-00000002/model.safetensors");
    let good = std::fs::read(&model).unwrap();
    std::fs::write(&model, &good[..good.len() - 100]).unwrap();
    let message = fails(verve().args(["generate", "x", "--model"]).arg(at("run")), 1);
    assert!(message.contains("model.safetensors") && message.contains("truncated"), "{message}");
}

#[test]
fn prompts_and_models_that_cannot_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let texts = write_texts(folder.path());
    let run = folder.path().join("run");
    succeeds(&mut train(&texts, &run));
    let generate = || {
        let mut command = verve();
        command.arg("generate").arg("--model").arg(&run);
        command
    };
    says(&fails(generate().arg("word ".repeat(500)), 1), &["the context holds 128"]);
    fails(generate().args(["x", "--temperature", "-1"]), 2);
    fails(generate().args(["x", "--top-p", "0"]), 2);
    fails(&mut generate(), 2);
    says(&fails(generate().args(["x", "--logit-bias", "999999=1"]), 1), &["logit_bias", "999999"]);
    let absent = folder.path().join("absent");
    says(&fails(verve().args(["generate", "x", "--model"]).arg(absent), 1), &["no model at"]);
    says(&fails(verve().args(["generate", "x", "--model"]).arg(&texts), 1), &["is no model"]);
    says(&fails(verve().args(["plan", "--preset", "gpt3-1b"]), 1), &["gpt3-1.3b"]);
    says(&fails(verve().args(["plan", "--devices", "many"]), 1), &["many"]);
    says(&fails(verve().arg("report").arg(&texts), 1), &["run"]);
}

#[test]
fn a_tokenizer_that_cannot_be_written_is_said_before_its_training() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "no folder").unwrap();
    let out = folder.path().join("file").join("tokenizer.json");
    // The text is not there either: it is not looked for.
    let message = fails(verve().args(["tokenizer", "train", "absent.txt", "--out"]).arg(&out), 1);
    assert!(message.contains("cannot create") && !message.contains("absent"), "{message}");
    let folder_as_file = folder.path().join("there");
    std::fs::create_dir(&folder_as_file).unwrap();
    let message = fails(verve().args(["tokenizer", "train", "absent.txt", "--out"]).arg(&folder_as_file), 1);
    assert!(message.contains("absent"), "{message}");
    assert_eq!(std::fs::read_dir(&folder_as_file).unwrap().count(), 0, "the trial leaves nothing");
}

#[test]
fn a_gpu_that_is_not_there() {
    // On a machine with a GPU its number is one that no machine has.
    let folder = tempfile::tempdir().unwrap();
    let (text, out) = (write_texts(folder.path()), folder.path().join("run"));
    let message = fails(train(&text, &out).args(["--device", "cuda:4096"]), 1);
    says(&message, &["--device cuda:4096", "verve doctor"]);
    assert!(message.contains("install the NVIDIA driver") || message.contains("no GPU number 4096"), "{message}");
    says(&fails(verve().args(["doctor", "--device", "gpu"]), 2), &["--help"]);
}
