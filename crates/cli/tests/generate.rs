//! Many prompts, rules for answers, and what else can be asked of the engine.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use common::{fails, succeeds, verve, write_texts};
use serde_json::Value;

/// A small model in `folder/run`.
fn train(folder: &Path) -> String {
    let texts = write_texts(folder).to_string_lossy().into_owned();
    let run = folder.join("run").to_string_lossy().into_owned();
    let args = ["--preset", "nano", "--context", "256", "--steps", "3", "--seed", "5", "--batch-tokens", "512"];
    succeeds(verve().args(["train", &texts, "--out", &run]).args(args));
    run
}

fn lines(path: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn everything_that_can_be_asked_of_the_engine() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let run = train(folder.path());
    let schema = r#"{"type": "object", "properties": {"n": {"type": "integer"}, "of": {"enum": ["a", "b"]}},
        "required": ["n", "of"], "additionalProperties": false}"#;
    std::fs::write(at("schema.json"), schema).unwrap();
    let prompts = [
        r#"{"prompt": "The tokenizer", "n": 3, "seed": 4}"#,
        r#"{"prompt": "The tokenizer", "seed": 5}"#,
        r#"{"prompt": "The model", "best_of": 3, "prompt_logprobs": 1, "seed": 1}"#,
        r#"{"prompt": "The model", "embed": "mean"}"#,
        r#"{"prompt": "The model", "embed": "last"}"#,
        r#"{"prompt": "The beams", "beams": 3, "n": 2, "length_penalty": 0, "early_stopping": "never"}"#,
        r#"{"prompt": "The beams", "beams": 3, "temperature": 0.5}"#,
        r#"{"prompt": "A date:", "regex": "[0-9]{4}-[0-9]{2}", "temperature": 2}"#,
        r#"{"prompt": "An object:", "json_schema": true, "max_tokens": 30, "temperature": 2}"#,
        r#"{"prompt": "Too little room for", "max_tokens": 3, "json_schema": {"type": "object", "properties":
            {"a long name that takes some tokens": {"type": "integer"}},
            "required": ["a long name that takes some tokens"]}}"#,
    ];
    std::fs::write(at("p.jsonl"), prompts.map(|line| line.replace('\n', " ")).join("\n")).unwrap();
    let generate = ["generate", "--model", &run, "-n", "12", "--ignore-eos"];
    let error = fails(verve().args(generate).args(["--prompts", &at("p.jsonl"), "--out", &at("a.jsonl")]), 1);
    assert!(error.contains("2 of 10 prompts could not be answered"), "{error}");
    let answers = lines(&at("a.jsonl"));
    assert_eq!(answers.len(), 10);
    // The second answer is that of the next seed.
    assert_eq!(answers[0]["more"].as_array().unwrap().len(), 2);
    assert_eq!(answers[0]["more"][0]["text"], answers[1]["text"]);
    let n_prompt = answers[2]["prompt_tokens"].as_u64().unwrap() as usize;
    let scored = answers[2]["prompt_logprobs"].as_array().unwrap();
    assert_eq!(scored.len(), n_prompt);
    assert!(scored[0]["logprob"].is_null() && scored[1]["logprob"].as_f64().unwrap() < 0.0);
    assert_eq!(scored[1]["top"].as_array().unwrap().len(), 1);
    let vector = |n: usize| answers[n]["embedding"].as_array().unwrap().clone();
    assert!(vector(3).len() == vector(4).len() && vector(3) != vector(4));
    let scores = [&answers[5], &answers[5]["more"][0]].map(|answer| answer["score"].as_f64().unwrap());
    assert!(scores[0] > scores[1] && scores[1] > 12.0 * -6.0, "{scores:?}");
    assert!(answers[6]["error"].as_str().unwrap().contains("temperature is 0.5, must be 0 or 1 with beam search"));
    let beams = ["The beams", "--beams", "3", "--n", "2", "--length-penalty", "0", "--early-stopping", "never"];
    let both = succeeds(verve().args(generate).args(beams));
    assert!(both.starts_with(answers[5]["text"].as_str().unwrap()), "{both}");
    let date = answers[7]["text"].as_str().unwrap();
    assert!(date.len() == 7 && date.as_bytes()[4] == b'-', "{date}");
    assert_eq!(answers[7]["finish_reason"], "stop");
    assert!(serde_json::from_str::<Value>(answers[8]["text"].as_str().unwrap()).unwrap().is_object());
    assert!(answers[9]["error"].as_str().unwrap().contains("tokens"), "{}", answers[9]);

    // On the command line, and with guesses: the same bytes.
    let json = ["Some JSON: ", "--json-schema", &at("schema.json"), "--seed", "3", "--temperature", "1.5", "-n", "30"];
    let plain = succeeds(verve().args(["generate", "--model", &run]).args(json));
    let value: Value = serde_json::from_str(&plain).unwrap();
    assert!(value["n"].is_i64() && (value["of"] == "a" || value["of"] == "b"), "{plain}");
    for guess in [&["--prompt-lookup"][..], &["--draft-model", &run]] {
        assert_eq!(succeeds(verve().args(["generate", "--model", &run]).args(json).args(guess)), plain);
        let text = |more: &[&str]| succeeds(verve().args(generate).args(["a a a a a a", "--seed", "2"]).args(more));
        assert_eq!(text(guess), text(&[]));
    }
    std::fs::write(at("bad.json"), r#"{"type": "object", "properties": {"a": {"not": {}}}}"#).unwrap();
    let error = fails(verve().args(generate).args(["x", "--json-schema", &at("bad.json")]), 1);
    assert!(error.contains("not") && error.contains("properties"), "{error}");
}

#[test]
fn answers_survive_an_interrupt() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let run = train(folder.path());
    let prompts: Vec<String> = (0..200)
        .map(|n| format!(r#"{{"prompt": "Text {n}", "max_tokens": {}}}"#, if n < 10 { 5 } else { 240 }))
        .collect();
    std::fs::write(at("p.jsonl"), prompts.join("\n")).unwrap();
    let args = |out: &str| {
        let files = ["--prompts".to_owned(), at("p.jsonl"), "--out".to_owned(), at(out)];
        ["generate", "--model", &run, "--ignore-eos", "--batch", "2"].map(str::to_owned).into_iter().chain(files)
    };
    let mut child = Process::new(assert_cmd::cargo::cargo_bin("verve"))
        .args(["--threads", "2"])
        .args(args("a.jsonl"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Some answers are there: it is interrupted.
    let begun = Instant::now();
    while std::fs::read(at("a.jsonl.part")).unwrap_or_default().iter().filter(|&&byte| byte == b'\n').count() < 4 {
        assert!(begun.elapsed() < Duration::from_secs(120), "no answers");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(Process::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait().and_then(|status| {
        let mut text = String::new();
        std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut text).map(|_| (status, text))
    });
    let (status, error) = output.unwrap();
    assert!(!status.success() && error.contains("are kept; the same command goes on"), "{error}");
    assert!(!Path::new(&at("a.jsonl")).exists());
    let kept = lines(&at("a.jsonl.part"));
    // The end of the program in the middle of a line loses that line only.
    let mut part = std::fs::read(at("a.jsonl.part")).unwrap();
    part.extend_from_slice(b"{\"text\": \"cut of");
    std::fs::write(at("a.jsonl.part"), part).unwrap();
    let output = verve().args(args("a.jsonl")).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && error.contains(&format!("{} of 200 answers are there already", kept.len())),
        "{error}"
    );
    // With the seed of the first call, as if there had been no interrupt.
    let seed = kept[0]["seed"].to_string();
    succeeds(verve().args(args("b.jsonl")).args(["--seed", &seed]));
    assert_eq!(lines(&at("a.jsonl")), lines(&at("b.jsonl")));
    assert_eq!(lines(&at("a.jsonl"))[..kept.len()], kept[..]);
    assert!(!Path::new(&at("a.jsonl.part")).exists() && !Path::new(&at("a.jsonl.part.json")).exists());
}
