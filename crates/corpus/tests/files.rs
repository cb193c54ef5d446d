//! Which files are found for which inputs.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use common::folder;
use verve_corpus::Error;
use verve_corpus::read::{Compression, ReadOptions, TextKind, find_files};

fn names(root: &Path, inputs: &[PathBuf], options: &ReadOptions) -> Vec<String> {
    let found = find_files(inputs, options).unwrap();
    found.files.iter().map(|f| f.path.strip_prefix(root).unwrap().to_string_lossy().into_owned()).collect()
}

fn tree() -> tempfile::TempDir {
    folder(&[
        ("b.txt", b"b"),
        ("a.md", b"a"),
        ("z/c.jsonl", b"{}"),
        ("z/d.TXT.GZ", b""),
        ("m/e.txt.zst", b""),
        ("m/f.pdf", b""),
        ("m/g.rs", b"fn main() {}"),
        ("m/noending", b""),
        (".hidden/h.txt", b"h"),
        ("z/.i.txt", b"i"),
    ])
}

#[test]
fn folders_are_walked_in_order_without_hidden_and_unknown_files() {
    let root = tree();
    let options = ReadOptions::default();
    let inputs = [root.path().to_owned()];
    assert_eq!(names(root.path(), &inputs, &options), ["a.md", "b.txt", "m/e.txt.zst", "z/c.jsonl", "z/d.TXT.GZ"]);
    let found = find_files(&inputs, &options).unwrap();
    assert_eq!(found.passed_over.hidden, 2);
    let others: Vec<_> = found.passed_over.other_endings.iter().map(|(e, n)| (e.as_str(), *n)).collect();
    assert_eq!(others, [(".pdf", 1), (".rs", 1), ("none", 1)]);
    assert_eq!(found.bytes(), 4);
    let kinds: Vec<_> = found.files.iter().map(|f| (f.kind, f.compression)).collect();
    assert_eq!(kinds[2], (TextKind::Plain, Compression::Zstd));
    assert_eq!(kinds[3], (TextKind::JsonLines, Compression::None));
    assert_eq!(kinds[4], (TextKind::Plain, Compression::Gzip));

    let more = ReadOptions { more_endings: vec![".rs".to_owned()], ..ReadOptions::default() };
    assert!(names(root.path(), &inputs, &more).contains(&"m/g.rs".to_owned()));
}

#[test]
fn patterns_and_overlapping_inputs() {
    let root = tree();
    let at = |name: &str| root.path().join(name);
    let options = ReadOptions::default();
    assert_eq!(
        names(root.path(), &[at("*.txt"), at("b.txt"), root.path().to_owned()], &options)[..2],
        ["b.txt", "a.md"]
    );
    assert_eq!(names(root.path(), &[at("*")], &options), ["a.md", "b.txt", "m/e.txt.zst", "z/c.jsonl", "z/d.TXT.GZ"]);
    assert_eq!(names(root.path(), &[at("**/*.md")], &options), ["a.md"]);
    assert_eq!(names(root.path(), &[at("[ab].*")], &options), ["a.md", "b.txt"]);
    // A file whose name looks like a pattern is a file.
    std::fs::write(at("[x].txt"), "x").unwrap();
    assert_eq!(names(root.path(), &[at("[x].txt")], &options), ["[x].txt"]);
}

#[test]
fn bad_inputs_are_errors_that_say_what_to_do() {
    let root = tree();
    let at = |name: &str| root.path().join(name);
    let options = ReadOptions::default();
    let error = |inputs: &[PathBuf]| find_files(inputs, &options).unwrap_err();
    assert!(matches!(error(&[]), Error::NoInput));
    let text = error(&[at("missing")]).to_string();
    assert!(text.contains("missing: there is no such file or folder"), "{text}");
    let text = error(&[at("m/f.pdf")]).to_string();
    assert!(text.contains(".pdf") && text.contains(".jsonl"), "{text}");
    assert!(matches!(error(&[at("m/noending")]), Error::UnknownEnding { .. }));
    assert!(matches!(error(&[at("*.doc")]), Error::NoMatch { .. }));
    assert!(matches!(error(&[at("***")]), Error::Pattern { .. }));

    let empty = tempfile::tempdir().unwrap();
    let text = error(&[empty.path().to_owned()]).to_string();
    assert!(text.contains(".txt, .md, .jsonl") && text.contains("found no files"), "{text}");
    let others = folder(&[("a.pdf", b""), ("b.pdf", b""), ("c.docx", b""), (".d.txt", b"")]);
    let text = error(&[others.path().to_owned()]).to_string();
    assert!(text.contains("3 files with other endings (.pdf 2, .docx 1) and 1 hidden ones"), "{text}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_loops_are_errors() {
    let root = tree();
    let elsewhere = folder(&[("far.txt", b"far")]);
    std::os::unix::fs::symlink(elsewhere.path(), root.path().join("link")).unwrap();
    let options = ReadOptions::default();
    assert!(names(root.path(), &[root.path().to_owned()], &options).contains(&"link/far.txt".to_owned()));
    std::os::unix::fs::symlink(root.path(), root.path().join("z/loop")).unwrap();
    assert!(matches!(find_files(&[root.path()], &options), Err(Error::Read { .. })));
}
