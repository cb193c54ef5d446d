//! From text to generated text, as a user does it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use common::{contents, fails, succeeds, verve, write_texts};
use serde_json::Value;

#[test]
fn text_becomes_a_model_that_writes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let texts = write_texts(folder.path()).to_string_lossy().into_owned();

    // Tokenizer: ids go back to the text.
    succeeds(verve().args(["tokenizer", "train", &texts, "--vocab", "400", "--out", &at("tok.json")]));
    let file = common::documents().remove(0).to_string_lossy().into_owned();
    let ids = succeeds(verve().args(["tokenizer", "encode", "--tokenizer", &at("tok.json"), &file]));
    std::fs::write(at("ids"), &ids).unwrap();
    let text = succeeds(verve().args(["tokenizer", "decode", "--tokenizer", &at("tok.json"), &at("ids")]));
    assert_eq!(text, std::fs::read_to_string(&file).unwrap());
    let about = succeeds(verve().args(["tokenizer", "inspect", &at("tok.json")]));
    assert!(about.contains("tokens        400") && about.contains("<|endoftext|>"), "{about}");

    // Shards: the same bytes for any number of threads.
    for (threads, out) in [("1", "shards1"), ("3", "shards3")] {
        let args = ["shard", &texts, "--tokenizer", &at("tok.json"), "--out", &at(out), "--held-out", "0.2"];
        succeeds(verve().args(args).args(["--threads", threads]));
    }
    assert_eq!(contents(&folder.path().join("shards1")), contents(&folder.path().join("shards3")));

    // Training from text in one command, and the same from the shards, with other thread counts: the same model.
    let train = |out: &str, threads: &str| {
        let args = ["train", "--preset", "nano", "--context", "32", "--steps", "12", "--seed", "5", "--dtype", "bf16"];
        let data = ["--shards", &at("shards1"), "--tokenizer", &at("tok.json"), "--out", &at(out)];
        succeeds(verve().args(args).args(data).args(["--batch-tokens", "128", "--threads", threads]))
    };
    let out = train("run1", "1");
    assert!(out.contains("12 steps") && out.contains("held-out loss"), "{out}");
    train("run3", "3");
    let model = |run: &str| {
        let files = contents(&folder.path().join(run).join("checkpoints/step-00000012"));
        assert!(files.contains_key("config.json") && files.contains_key("tokenizer.json"));
        files["model.safetensors"].clone()
    };
    assert_eq!(model("run1"), model("run3"));

    // Everything that the folder should hold.
    let files = contents(&folder.path().join("run1"));
    for name in ["config.toml", "run.json", "data.json", "tokenizer.json", "metrics.jsonl", "samples.jsonl"] {
        assert!(files.contains_key(name), "{name} is missing");
    }

    // Generation: alone, with another thread count, and in a batch.
    let generate = ["generate", "--model", &at("run1"), "-n", "20"];
    let alone = succeeds(verve().args(generate).args(["The tokenizer", "--seed", "7"]));
    let again = succeeds(verve().args(generate).args(["The tokenizer", "--seed", "7", "--threads", "3"]));
    assert_eq!(alone, again);
    let prompts = [
        r#"{"prompt": "A", "max_tokens": 30, "temperature": 1.5}"#,
        r#"{"prompt": "The tokenizer", "seed": 7}"#,
        r#"{"prompt": "", "max_tokens": 3, "logprobs": 2, "stop": ["zzz"]}"#,
    ];
    std::fs::write(at("prompts.jsonl"), prompts.join("\n")).unwrap();
    let files = ["--prompts", &at("prompts.jsonl"), "--out", &at("answers.jsonl"), "--seed", "3"];
    succeeds(verve().args(generate).args(files));
    let answers = std::fs::read_to_string(at("answers.jsonl")).unwrap();
    let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[1]["text"].as_str().unwrap(), alone.strip_suffix('\n').unwrap());
    assert_eq!(answers[0]["completion_tokens"], 30);
    assert_eq!(answers[2]["logprobs"].as_array().unwrap().len(), 3);

    // A prompt that is too long is an error of its own, and the others are answered.
    let long = format!("{{\"prompt\": {:?}}}\n{{\"prompt\": \"The tokenizer\", \"seed\": 7}}\n", "word ".repeat(200));
    std::fs::write(at("long.jsonl"), long).unwrap();
    let message =
        fails(verve().args(generate).args(["--prompts", &at("long.jsonl"), "--out", &at("long-answers.jsonl")]), 1);
    assert!(message.contains("1 of 2 prompts"), "{message}");
    let answers = std::fs::read_to_string(at("long-answers.jsonl")).unwrap();
    let answers: Vec<Value> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(answers[0]["error"].as_str().unwrap().contains("the context holds 32"), "{}", answers[0]);
    assert_eq!(answers[1]["text"].as_str().unwrap(), alone.strip_suffix('\n').unwrap());

    // The report.
    succeeds(verve().args(["report", &at("run1"), "--out", &at("page.html")]));
    let page = std::fs::read_to_string(at("page.html")).unwrap();
    assert!(page.starts_with("<!") && page.contains("<svg") && !page.contains("http://") && page.contains("</html>"));
}

#[test]
fn text_goes_in_and_sizes_are_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let texts = write_texts(folder.path());
    let out = folder.path().join("run");
    let said = verve().arg("train").arg(&texts).arg("--out").arg(&out).args(["--minutes", "0.02"]).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success(), "{stderr}");
    assert!(stderr.contains("chosen: ") && stderr.contains("memory: ") && stderr.contains("plan: "), "{stderr}");
    assert!(stdout.contains("held-out loss") && stdout.contains("try: verve generate"), "{stdout}");
    // A finished run has nothing left to do, and says so.
    let again = succeeds(verve().args(["train", "--resume", "--out"]).arg(&out));
    assert!(again.contains("already at its end"), "{again}");
}

#[test]
fn a_plan_needs_no_hardware() {
    let text = succeeds(verve().args(["plan", "--preset", "gpt3-1.3b", "--batch-tokens", "1M", "--devices", "8x80GB"]));
    assert!(text.contains("1.3") && text.contains("weights") && text.contains("days"), "{text}");
    let json = succeeds(verve().args(["plan", "--preset", "gpt3-175b", "--devices", "1024x80GB", "--json"]));
    let plan: Value = serde_json::from_str(&json).unwrap();
    assert!((plan["total_flops_6nd"].as_f64().unwrap() / 3.14e23 - 1.0).abs() < 0.01, "{json}");
}

#[test]
fn the_machine_is_described() {
    let text = succeeds(verve().arg("doctor"));
    assert!(text.contains("SIMD in use") && text.contains("memory"), "{text}");
    for library in ["GPU", "NVIDIA driver", "NVRTC", "cuBLASLt", "NCCL"] {
        assert!(text.lines().any(|line| line.starts_with(library)), "{library}: {text}");
    }
    let line = succeeds(verve().args(["bench", "--job", "ceilings", "--json"]));
    let figure: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    assert_eq!(figure["job"], "peak-f32");
    assert!(figure["value"].as_f64().unwrap() > 0.0 && figure["machine"]["cores"].as_u64().unwrap() > 0);
}
