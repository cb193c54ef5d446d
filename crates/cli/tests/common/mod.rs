//! What the end-to-end tests share: the program, and some real text.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};

use assert_cmd::Command;

/// The program, computing with two threads.
pub fn verve() -> Command {
    let mut command = Command::cargo_bin("verve").unwrap();
    command.env_remove("VERVE_SIMD").args(["--threads", "2"]);
    command
}

/// The project's own documents.
pub fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    ["ARCHITECTURE.md", "CONTRIBUTING.md", "LICENSE"].map(|name| root.join(name)).to_vec()
}

/// Copies the documents into `folder/texts`, cut into several files so that some can be held out.
pub fn write_texts(folder: &Path) -> PathBuf {
    let texts = folder.join("texts");
    std::fs::create_dir(&texts).unwrap();
    for path in documents() {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        for (number, part) in text.split("\n\n").collect::<Vec<_>>().chunks(8).enumerate() {
            std::fs::write(texts.join(format!("{name}-{number}.txt")), part.join("\n\n")).unwrap();
        }
    }
    texts
}

/// Runs a command that must succeed; its standard output.
pub fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}\n{out}\n{err}");
    out.into_owned()
}

/// Runs a command that must end with this exit code; its standard error, which must be one message and no panic.
pub fn fails(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{command:?}\n{err}");
    assert!(!err.contains("panicked") && !err.contains("RUST_BACKTRACE"), "{command:?}\n{err}");
    err
}

/// Every file under a folder with its bytes, by relative path.
pub fn contents(folder: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, out: &mut std::collections::BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, out);
            } else {
                let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
                out.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    let mut out = std::collections::BTreeMap::new();
    walk(folder, folder, &mut out);
    out
}
