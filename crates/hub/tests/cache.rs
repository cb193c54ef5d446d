//! Finding models in a cache.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::{Path, PathBuf};

use verve_hub::{Settings, resolve};

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn settings(cache: &Path) -> Settings {
    let cache = cache.to_str().unwrap().to_owned();
    Settings::from_vars(|name| (name == "HF_HUB_CACHE").then(|| cache.clone())).unwrap()
}

fn put(cache: &Path, repo: &str, commit: &str, files: &[&str]) -> PathBuf {
    let folder = cache.join(repo).join("snapshots").join(commit);
    std::fs::create_dir_all(&folder).unwrap();
    for file in files {
        std::fs::write(folder.join(file), "x").unwrap();
    }
    folder
}

fn put_ref(cache: &Path, repo: &str, revision: &str, commit: &str) {
    let path = cache.join(repo).join("refs").join(revision);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, commit).unwrap();
}

#[test]
fn names_and_revisions() {
    let cache = tempfile::tempdir().unwrap();
    let settings = settings(cache.path());
    let a = put(cache.path(), "models--o--m", A, &["config.json"]);
    assert_eq!(resolve("m", &settings).unwrap(), a, "the only snapshot, without a ref");
    let b = put(cache.path(), "models--o--m", B, &["config.json", "model.safetensors"]);
    assert!(resolve("m", &settings).is_err(), "two snapshots and no ref");
    put_ref(cache.path(), "models--o--m", "main", B);
    put_ref(cache.path(), "models--o--m", "refs/pr/1", A);
    assert_eq!(resolve("o/m", &settings).unwrap(), b);
    assert_eq!(resolve("o/m@refs/pr/1", &settings).unwrap(), a);
    assert_eq!(resolve(&format!("m@{A}"), &settings).unwrap(), a);
    let message = resolve("o/m@v2", &settings).unwrap_err().to_string();
    assert!(message.contains("verve pull o/m@v2"), "{message}");

    put(cache.path(), "models--other--m", A, &["config.json"]);
    let message = resolve("m", &settings).unwrap_err().to_string();
    assert!(message.contains("o/m or other/m"), "{message}");
}

#[test]
fn a_gguf_file_is_a_model_by_itself() {
    let cache = tempfile::tempdir().unwrap();
    let settings = settings(cache.path());
    let folder =
        put(cache.path(), "models--o--g", A, &["config.json", "m-00002-of-00002.gguf", "m-00001-of-00002.gguf"]);
    assert_eq!(resolve("g", &settings).unwrap(), folder.join("m-00001-of-00002.gguf"));
    let folder = put(cache.path(), "models--o--both", A, &["config.json", "m.gguf", "model.safetensors"]);
    assert_eq!(resolve("both", &settings).unwrap(), folder);
    put(cache.path(), "models--o--none", A, &["README.md"]);
    assert!(resolve("none", &settings).is_err());
}

#[test]
fn what_is_not_there_and_what_is_no_name() {
    let cache = tempfile::tempdir().unwrap();
    let settings = settings(cache.path());
    for (name, command) in [
        ("SmolLM2", "verve pull OWNER/SmolLM2"),
        ("a/b", "verve pull a/b"),
        ("../../etc", "verve pull OWNER/NAME"),
        ("a\\b", "verve pull OWNER/NAME"),
        ("m@../x", "verve pull OWNER/NAME"),
    ] {
        let message = resolve(name, &settings).unwrap_err().to_string();
        assert!(message.contains(command) && message.contains(name), "{message}");
    }
}
