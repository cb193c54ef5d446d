//! Conventions that no compiler checks: who may import whom, where `unsafe` may stand, how long a file may be, words that
//! do not belong in the repository.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, MetadataCommand};
use walkdir::WalkDir;

/// Which workspace crates each crate may use (development dependencies aside). The table of `ARCHITECTURE.md`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("verve-ops", &[]),
    ("verve-cpu", &["verve-ops"]),
    ("verve-cuda", &["verve-ops"]),
    ("verve-gguf", &["verve-ops"]),
    ("verve-model", &["verve-ops", "verve-gguf"]),
    ("verve-tokenizer", &[]),
    ("verve-constrain", &["verve-tokenizer", "verve-engine"]),
    ("verve-shard", &[]),
    ("verve-corpus", &["verve-tokenizer", "verve-shard"]),
    ("verve-train", &["verve-ops", "verve-model", "verve-shard"]),
    ("verve-engine", &["verve-ops", "verve-model", "verve-tokenizer"]),
    ("verve-chat", &["verve-tokenizer"]),
    ("verve-hub", &[]),
    ("verve-access", &[]),
    ("verve-moderate", &[]),
    (
        "verve-server",
        &["verve-access", "verve-moderate", "verve-engine", "verve-tokenizer", "verve-chat", "verve-constrain"],
    ),
    ("verve-testkit", &["verve-ops"]),
    ("verve-ptx", &[]),
    (
        "verve-cli",
        &[
            "verve-ops",
            "verve-cpu",
            "verve-cuda",
            "verve-gguf",
            "verve-model",
            "verve-tokenizer",
            "verve-constrain",
            "verve-shard",
            "verve-corpus",
            "verve-train",
            "verve-engine",
            "verve-chat",
            "verve-server",
            "verve-hub",
            "verve-access",
            "verve-moderate",
        ],
    ),
    ("xtask", &[]),
];

/// Where `unsafe` may stand; everywhere else the crate forbids or denies it.
const UNSAFE_FOLDERS: &[&str] =
    &["crates/cpu/src/simd/", "crates/cpu/src/gemm/", "crates/cpu/src/pool/", "crates/cuda/src/driver/"];

/// Single files that map other files into memory.
const UNSAFE_FILES: &[&str] = &["crates/shard/src/mapping.rs", "crates/gguf/src/mapping.rs"];

/// Longest file, tests not counted.
const HARD_LIMIT: usize = 800;

/// Flat tables that may be longer.
const LONG_TABLES: &[&str] = &["crates/tokenizer/src/unicode_tables.rs"];

/// Pieces of text that must not stand in a tracked file. Split here so that this file does not trip over itself.
const FORBIDDEN: &[(&str, &str)] = &[
    (concat!("todo", "!("), "unfinished code"),
    (concat!("unimplemented", "!("), "unfinished code"),
    (concat!("target-cpu=", "native"), "the binary must run on every x86-64 CPU"),
    (concat!("/", "root/"), "a path of one machine"),
    (concat!("/", "work/"), "a path of one machine"),
];

/// Runs every check and fails with all findings at once.
pub fn run(root: &Path) -> Result<()> {
    let mut findings = imports(root)?;
    findings.extend(sources(root)?);
    if findings.is_empty() {
        return Ok(());
    }
    bail!("tidy found {} problem(s):\n  {}", findings.len(), findings.join("\n  "))
}

/// Compares the workspace's dependencies with [`MAY_USE`].
pub fn imports(root: &Path) -> Result<Vec<String>> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata failed")?;
    let table: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut findings = Vec::new();
    for package in metadata.workspace_packages() {
        let Some(allowed) = table.get(package.name.as_str()) else {
            findings.push(format!("{}: not in the import table of xtask/src/tidy.rs", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            let inside = table.contains_key(name);
            if dependency.kind == DependencyKind::Development {
                continue;
            }
            if inside && !allowed.contains(&name) {
                findings.push(format!("{}: must not use {name}", package.name));
            }
        }
    }
    Ok(findings)
}

/// Checks file lengths, `unsafe` and forbidden words.
pub fn sources(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    let skip = ["target", ".git", "runs"];
    let walk = WalkDir::new(root)
        .into_iter()
        .filter_entry(|e| e.depth() != 1 || !skip.iter().any(|s| e.file_name().to_string_lossy() == *s));
    for entry in walk {
        let entry = entry.context("cannot list the source folder")?;
        let path = entry.path().strip_prefix(root).unwrap_or(entry.path()).to_string_lossy().replace('\\', "/");
        if !entry.file_type().is_file() || path.ends_with(".safetensors") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
        for (word, why) in FORBIDDEN {
            if path != "xtask/src/tidy.rs" && text.contains(word) {
                findings.push(format!("{path}: holds `{word}`: {why}"));
            }
        }
        if path.ends_with(".rs") {
            rust_file(&path, &text, &mut findings);
        }
    }
    findings.sort();
    Ok(findings)
}

fn rust_file(path: &str, text: &str, findings: &mut Vec<String>) {
    let in_tests = path.contains("/tests") || path.contains("/benches/");
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or(text);
    let lines = code.lines().count();
    if lines > HARD_LIMIT && !in_tests && !LONG_TABLES.contains(&path) {
        findings.push(format!("{path}: {lines} lines without tests, more than {HARD_LIMIT}"));
    }
    let may_be_unsafe = in_tests
        || UNSAFE_FILES.contains(&path)
        || UNSAFE_FOLDERS.iter().any(|f| path.starts_with(f))
        || path.starts_with("xtask/");
    let uses_unsafe = code
        .lines()
        .map(str::trim_start)
        .filter(|l| !l.starts_with("//"))
        .any(|l| ["unsafe {", "unsafe fn", "unsafe impl", "unsafe trait"].iter().any(|u| l.contains(u)));
    if uses_unsafe && !may_be_unsafe {
        findings.push(format!("{path}: `unsafe` outside the folders that may hold it"));
    }
}
