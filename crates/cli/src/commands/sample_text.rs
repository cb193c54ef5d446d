//! Real text that is on the machine because the project was built there: the documentation and source of the crates it
//! depends on, in cargo's own folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use verve_corpus::read::{InvalidText, ReadOptions};

use super::text::Text;

/// The crates this program was built from.
const LOCK: &str = include_str!("../../../../Cargo.lock");
/// Enough to learn from for some minutes; more would only take longer to read.
const MAX_BYTES: u64 = 8 << 20;
/// Documents that are lists rather than text.
const LEFT_OUT: &[&str] = &["license", "copying", "unlicense", "authors", "contributors"];

/// Text to learn from, and what to tell the user about it.
pub struct SampleText {
    /// The files.
    pub text: Text,
    /// Where they come from, in words.
    pub source: String,
}

/// The folder where cargo keeps the sources of registry crates, if it is there.
pub fn cargo_sources() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME").or_else(|| std::env::var_os("USERPROFILE"))?;
        Some(Path::new(&home).join(".cargo"))
    })?;
    let registries = std::fs::read_dir(home.join("registry").join("src")).ok()?;
    registries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).max()
}

/// Finds the text: the crates' documents first, then their sources, up to [`MAX_BYTES`]; if there is none, the project's
/// own.
pub fn find() -> SampleText {
    if let Some(folder) = cargo_sources() {
        let inputs = crate_files(&folder);
        if !inputs.is_empty() {
            let source = format!("documentation and source of the crates verve is built from, in {}", folder.display());
            return SampleText { text: text(inputs), source };
        }
    }
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut inputs = Vec::new();
    collect(&project.join("crates"), &mut inputs);
    collect(&project.join("docs"), &mut inputs);
    SampleText {
        text: text(inputs.into_iter().map(|(path, _)| path).collect()),
        source: "verve's own source".to_owned(),
    }
}

fn text(inputs: Vec<PathBuf>) -> Text {
    let read =
        ReadOptions { invalid: InvalidText::Skip, more_endings: vec!["rs".to_owned()], ..ReadOptions::default() };
    Text { inputs, read }
}

/// `name-version` of every registry crate in the lock file.
fn locked_crates() -> BTreeSet<String> {
    let value = |line: &str, key: &str| Some(line.strip_prefix(key)?.trim_matches('"').to_owned());
    let mut found = BTreeSet::new();
    let (mut name, mut version) = (String::new(), String::new());
    for line in LOCK.lines() {
        if let Some(text) = value(line, "name = ") {
            name = text;
        } else if let Some(text) = value(line, "version = ") {
            version = text;
        } else if line.starts_with("source = ") {
            found.insert(format!("{name}-{version}"));
        }
    }
    found
}

/// Documents, then sources, of the locked crates that are in `folder`.
fn crate_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for name in locked_crates() {
        // Generated tables of bindings are not language.
        if !name.starts_with("windows") && !name.starts_with("winapi") && !name.starts_with("objc2") {
            collect(&folder.join(name), &mut files);
        }
    }
    files.sort_by_key(|(path, _)| path.extension().is_none_or(|e| e != "md"));
    let mut total = 0;
    files
        .into_iter()
        .take_while(|(_, bytes)| {
            total += bytes;
            total <= MAX_BYTES
        })
        .map(|(path, _)| path)
        .collect()
}

/// All documents and sources under a folder, sorted by path, with their sizes.
fn collect(folder: &Path, files: &mut Vec<(PathBuf, u64)>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        if path.is_dir() {
            if !name.starts_with('.') && name != "tests" && name != "benches" && name != "target" {
                collect(&path, files);
            }
            continue;
        }
        let wanted = name.ends_with(".md") || name.ends_with(".rs");
        if wanted && !LEFT_OUT.iter().any(|word| name.starts_with(word)) {
            let bytes = std::fs::metadata(&path).map_or(0, |m| m.len());
            files.push((path, bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_crates_it_was_built_from() {
        let crates = locked_crates();
        assert!(crates.iter().any(|name| name.starts_with("clap-4")), "{crates:?}");
        assert!(!crates.iter().any(|name| name.starts_with("verve")));
    }

    #[test]
    fn finds_some_text_on_any_machine() {
        assert!(find().text.bytes().unwrap() > 100_000);
    }
}
