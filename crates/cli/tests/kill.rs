//! Killing a training run at random moments and resuming it gives the same bytes as never having stopped.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use assert_cmd::cargo::cargo_bin;
use common::{contents, succeeds, verve, write_texts};
use serde_json::Value;

const STEPS: &str = "60";
const KILLS: usize = 6;

/// What must be equal: all of the last checkpoint, the samples, and the metrics but for the times in them.
fn outcome(run: &Path) -> (BTreeMap<String, Vec<u8>>, Vec<Value>, String) {
    let mut checkpoint = contents(&run.join(format!("checkpoints/step-{STEPS:0>8}")));
    checkpoint.remove("state.json");
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let metrics = metrics.lines().map(|line| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        let fields = line.as_object_mut().unwrap();
        fields.remove("seconds");
        fields.remove("tokens_per_second");
        line
    });
    (checkpoint, metrics.collect(), std::fs::read_to_string(run.join("samples.jsonl")).unwrap())
}

#[test]
fn killed_and_resumed_is_equal_to_never_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let texts = write_texts(folder.path());
    let (tokenizer, shards) = (folder.path().join("tok.json"), folder.path().join("shards"));
    succeeds(verve().args(["tokenizer", "train"]).arg(&texts).args(["--vocab", "300", "--out"]).arg(&tokenizer));
    succeeds(
        verve()
            .arg("shard")
            .arg(&texts)
            .arg("--tokenizer")
            .arg(&tokenizer)
            .arg("--out")
            .arg(&shards)
            .args(["--held-out", "0.2"]),
    );

    let begin = |run: &Path, threads: &str| {
        let mut command = Command::new(cargo_bin("verve"));
        command.args(["train", "--preset", "nano", "--context", "48", "--steps", STEPS, "--batch-tokens", "192"]);
        command.args(["--eval-every", "9", "--sample-every", "20", "--checkpoint-every", "4", "--threads", threads]);
        command.arg("--shards").arg(&shards).arg("--tokenizer").arg(&tokenizer).arg("--out").arg(run);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let straight = folder.path().join("straight");
    let output = begin(&straight, "2").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    // Moments that differ from run to run; the first kills come early, the later ones anywhere.
    let killed = folder.path().join("killed");
    let mut state = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
    let mut delays = Vec::new();
    for attempt in 0.. {
        let begun = killed.join("config.toml").exists();
        let mut command = begin(&killed, ["1", "2", "3"][attempt % 3]);
        if begun {
            command.arg("--resume");
        }
        let mut child = command.spawn().unwrap();
        if attempt < KILLS {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let delay = 200 + (state >> 33) % 1500;
            delays.push(delay);
            std::thread::sleep(Duration::from_millis(delay));
            // SIGKILL; it may have ended already.
            let _ = child.kill();
        }
        let output = child.wait_with_output().unwrap();
        if attempt >= KILLS {
            assert!(output.status.success(), "{delays:?} {}", String::from_utf8_lossy(&output.stderr));
            break;
        }
    }
    let (straight, killed) = (outcome(&straight), outcome(&killed));
    assert_eq!(straight.1, killed.1, "metrics differ after kills at {delays:?} ms");
    assert_eq!(straight.2, killed.2, "samples differ after kills at {delays:?} ms");
    for (name, bytes) in &straight.0 {
        assert!(killed.0.get(name) == Some(bytes), "{name} differs after kills at {delays:?} ms");
    }
}

#[test]
fn an_interrupt_saves_and_a_resume_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let texts = write_texts(folder.path());
    let run = folder.path().join("run");
    let mut command = Command::new(cargo_bin("verve"));
    command.arg("train").arg(&texts).arg("--out").arg(&run).args([
        "--preset",
        "nano",
        "--steps",
        "100000",
        "--threads",
        "1",
    ]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !std::fs::read_to_string(run.join("metrics.jsonl")).is_ok_and(|text| text.contains("\"step\"")) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let output = child.wait_with_output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && out.contains("stopped after step") && out.contains("--resume"), "{out}");
    let step: u64 = out.split("stopped after step ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(run.join(format!("checkpoints/step-{step:08}/model.safetensors")).exists());
    // The model of a stopped run can be used.
    succeeds(verve().args(["generate", "Text", "-n", "3", "--model"]).arg(&run));
}

#[test]
fn a_resume_is_verified_on_the_users_own_text() {
    let folder = tempfile::tempdir().unwrap();
    let texts = write_texts(folder.path());
    let args = ["--preset", "nano", "--context", "32", "--steps", "6", "--batch-tokens", "128", "--verify-resume"];
    let out = succeeds(verve().arg("train").arg(&texts).args(args).arg("--out").arg(folder.path().join("run")));
    assert!(out.contains("equal to the last bit"), "{out}");
}
