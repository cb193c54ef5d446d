//! The memory plan of a run against what the run then held, begun and resumed.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use assert_cmd::Command;
use common::{verve, write_texts};

/// The bytes in words such as "146.1 MiB".
fn bytes(words: &str) -> f64 {
    let (number, unit) = words.trim().split_once(' ').unwrap();
    let scale = match unit {
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        other => panic!("unit {other} in {words:?}"),
    };
    number.parse::<f64>().unwrap() * scale
}

/// Runs a training command, whose last word on memory must be within 5 % of its plan.
fn holds_what_it_planned(command: &mut Command) {
    let output = command.output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{err}");
    let line = err.lines().rev().find_map(|line| line.strip_prefix("memory: ")).unwrap();
    let (most, planned) = line.strip_suffix(" planned").unwrap().split_once(" at most, ").unwrap();
    let share = bytes(most) / bytes(planned);
    assert!((0.95..=1.05).contains(&share), "{share:.3}: {line}");
}

#[test]
fn a_run_holds_what_it_planned() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let texts = write_texts(folder.path()).to_string_lossy().into_owned();
    for (name, settings) in [
        ("large", ["--preset", "tiny", "--micro-batch", "8", "--dtype", "bf16"]),
        ("small", ["--preset", "tiny", "--micro-batch", "1", "--dtype", "f32"]),
    ] {
        let out = at(name);
        let begin = ["train", &texts, "--out", &out, "--batch-tokens", "2048", "--steps", "2", "--vocab", "1000"];
        holds_what_it_planned(verve().args(begin).args(settings));
        holds_what_it_planned(verve().args(["train", "--out", &out, "--resume", "--steps", "4"]));
    }
}
