//! Models that leave the program: both formats, from both, bit for bit; smaller weights; what `inspect` says of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::{fails, succeeds, verve, write_texts};

/// A model that was trained for two steps, shared by the tests of this file.
fn trained() -> &'static Path {
    static RUN: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, run) = RUN.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let texts = write_texts(folder.path());
        let run = folder.path().join("run");
        succeeds(verve().arg("train").arg(texts).arg("--out").arg(&run).args(["--preset", "nano", "--steps", "2"]));
        (folder, run)
    });
    run
}

fn quantize(model: &Path, to: &str, out: &Path) -> String {
    succeeds(verve().arg("quantize").arg(model).args(["--to", to]).arg("--out").arg(out))
}

fn inspect(model: &Path) -> String {
    succeeds(verve().arg("inspect").arg(model).arg("--check-values"))
}

fn greedy(model: &Path) -> String {
    let args = ["--temperature", "0", "-n", "12", "--dtype", "f32", "The tokenizer"];
    succeeds(verve().arg("generate").arg("--model").arg(model).args(args))
}

/// The weights of a folder.
fn weights(folder: &Path) -> Vec<u8> {
    std::fs::read(folder.join("model.safetensors")).unwrap()
}

#[test]
fn a_trained_model_goes_out_to_both_formats_and_comes_back_bit_for_bit() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    // Folder to folder, then by way of a file, each with the same numbers.
    quantize(trained(), "f32", &at("first"));
    for (kind, folder) in [("f32", "f32-folder"), ("bf16", "bf16-folder")] {
        let file = at(&format!("{kind}.gguf"));
        let said = quantize(trained(), kind, &file);
        assert!(said.contains("GGUF, verve") && said.contains("other programs cannot open"), "{said}");
        let back = quantize(&file, kind, &at(folder));
        assert_eq!(back.contains("bit for bit"), kind == "f32", "{back}");
        assert_eq!(inspect(&file).matches("problem ").count(), 1, "only the template is missing");
    }
    assert!(weights(&at("first")) == weights(&at("f32-folder")));
    // What is trained in bf16 has nothing to lose in bf16 but the digits of its master weights.
    quantize(&at("first"), "bf16", &at("rounded"));
    assert!(weights(&at("rounded")) == weights(&at("bf16-folder")));
    let tokenizer = |folder: &str| std::fs::read_to_string(at(folder).join("tokenizer.json")).unwrap();
    let hash = |model: &Path| {
        let said = inspect(model);
        said.lines().find(|line| line.starts_with("tokenizer")).unwrap().to_owned()
    };
    assert_eq!(tokenizer("first"), std::fs::read_to_string(trained().join("tokenizer.json")).unwrap());
    assert_eq!(hash(&at("f32.gguf")), hash(trained()));
    let texts: Vec<String> = ["first", "f32.gguf", "f32-folder"].map(|name| greedy(&at(name))).to_vec();
    assert!(texts.iter().all(|text| *text == texts[0]), "{texts:?}");
}

#[test]
fn training_goes_on_from_a_file() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("start.gguf");
    quantize(trained(), "f32", &file);
    let run = |init: &Path, out: &str| {
        let out = root.path().join(out);
        let text = trained().parent().unwrap().join("texts");
        let mut command = verve();
        command.arg("train").arg(text).arg("--init").arg(init).args(["--steps", "1"]).arg("--out").arg(&out);
        succeeds(&mut command);
        greedy(&out)
    };
    let folder = root.path().join("start");
    quantize(trained(), "f32", &folder);
    assert_eq!(run(&file, "from-file"), run(&folder, "from-folder"));
}

#[test]
fn smaller_weights_say_what_they_are_and_generate() {
    let root = tempfile::tempdir().unwrap();
    for (to, kinds) in [
        ("q4", ["q4_k", "q4_0 instead of q4_k"]),
        ("q4_0", ["q4_0", "q8_0 instead of q6_k"]),
        ("q8_0", ["q8_0", "check: the numbers"]),
        ("q6_k", ["q6_k", "q8_0 instead of q6_k"]),
        ("f16", ["f16", "likeliest token"]),
    ] {
        let file = root.path().join(format!("{to}.gguf"));
        let said = quantize(trained(), to, &file);
        assert!(kinds.iter().all(|kind| said.contains(kind)), "{to}: {said}");
        let shown = inspect(&file);
        for part in ["architecture    verve", "tensors ", "memory ", "KV cache", "no chat template", "byte-level BPE"] {
            assert!(shown.contains(part), "{to}: {shown}");
        }
        greedy(&file);
        // Blocks go on as they are.
        if to == "q8_0" {
            let again = root.path().join("again.gguf");
            assert!(quantize(&file, to, &again).contains("bit for bit"));
            assert!(std::fs::read(&file).unwrap() == std::fs::read(&again).unwrap());
        }
    }
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 6, "nothing else is left");
}

#[test]
fn what_cannot_be_done_is_said_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let run = |args: &[&str], out: &str, code: i32| {
        fails(verve().arg("quantize").arg(trained()).args(args).arg("--out").arg(root.path().join(out)), code)
    };
    assert!(run(&["--to", "q4"], "folder", 1).contains("--out NAME.gguf"));
    assert!(run(&["--to", "q2_k"], "a.gguf", 2).contains("q4_k"));
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    std::fs::write(root.path().join("there.gguf"), "x").unwrap();
    assert!(run(&["--to", "q8_0"], "there.gguf", 1).contains("exists"));
    let broken = root.path().join("there.gguf");
    assert!(fails(verve().arg("inspect").arg(&broken), 1).contains("too few for a GGUF file"));
    assert!(fails(verve().arg("inspect").arg(root.path().join("none.gguf")), 1).contains("there is no model at"));
}

/// The folder with published models, see CONTRIBUTING.md.
fn published(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("VERVE_TEST_MODELS").map(|folder| PathBuf::from(folder).join(name));
    path.filter(|path| path.is_file())
}

#[test]
fn a_published_model_goes_out_and_keeps_its_template() {
    let Some(model) = published("SmolLM2-135M-Instruct.Q4_1.gguf") else {
        eprintln!("skipped: VERVE_TEST_MODELS names no folder with SmolLM2-135M-Instruct.Q4_1.gguf");
        return;
    };
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("q8.gguf");
    let said = quantize(&model, "q8_0", &file);
    assert!(said.contains("GGUF, llama") && said.contains("211 q8_0, 61 f32"), "{said}");
    let shown = inspect(&file);
    for part in ["chat template   default", "2 \"<|im_end|>\"", "problems        none", "30 layers of 576"] {
        assert!(shown.contains(part), "{shown}");
    }
    assert!(greedy_of(&file, "The capital of France is").starts_with(" Paris"));
}

fn greedy_of(model: &Path, prompt: &str) -> String {
    succeeds(verve().arg("generate").arg("--model").arg(model).args(["--temperature", "0", "-n", "3", prompt]))
}
