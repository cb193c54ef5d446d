//! Which files of a repository are of use here.

use glob::{MatchOptions, Pattern};

use crate::error::HubError;
use crate::listing::RemoteFile;

/// Small files that go with a model's weights.
const COMPANIONS: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// Quantisations in the order in which one is taken where a repository has several: small, and little is lost.
const PREFERRED: &[&str] = &["Q4_K_M", "Q4_K_S", "Q4_0", "Q5_K_M", "Q5_0", "Q6_K", "Q8_0", "Q4_1", "BF16", "F16"];

/// What is to be downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The files, in the order of the listing.
    pub files: Vec<RemoteFile>,
    /// What was left out although it could have been meant: other GGUF files.
    pub others: Vec<String>,
}

/// Chooses the files that match one of `patterns`, or, without any, configuration, tokenizer and templates with either the
/// safetensors weights or one GGUF model. Copies of the weights in other formats are left out.
///
/// # Errors
/// [`HubError::NothingToDownload`]; a pattern that is none.
pub fn choose(repo: &str, files: &[RemoteFile], patterns: &[String]) -> Result<Choice, HubError> {
    let nothing = |why: &str| HubError::NothingToDownload {
        repo: repo.to_owned(),
        why: why.to_owned(),
        files: files.iter().map(|file| file.path.clone()).collect(),
    };
    if !patterns.is_empty() {
        let matched = matching(files, patterns)?;
        if matched.is_empty() {
            return Err(nothing(&format!("no file that fits {}", patterns.join(" or "))));
        }
        return Ok(Choice { files: matched, others: Vec::new() });
    }
    let companions = files.iter().filter(|file| is_companion(&file.path));
    let weights = safetensors(files);
    if !weights.is_empty() {
        let is_chosen = |file: &RemoteFile| is_companion(&file.path) || weights.contains(&file.path.as_str());
        return Ok(Choice {
            files: files.iter().filter(|file| is_chosen(file)).cloned().collect(),
            others: Vec::new(),
        });
    }
    let models = gguf_models(files);
    let Some(chosen) = preferred(&models) else {
        return Err(nothing("neither safetensors nor GGUF weights (other formats are not read)"));
    };
    let others = models.iter().filter(|model| *model != chosen).map(|model| model[0].path.clone()).collect();
    let files = companions.chain(chosen.iter().copied()).cloned().collect();
    Ok(Choice { files, others })
}

fn matching(files: &[RemoteFile], patterns: &[String]) -> Result<Vec<RemoteFile>, HubError> {
    let patterns = patterns
        .iter()
        .map(|text| {
            Pattern::new(text).map_err(|_| HubError::Name { found: text.clone(), why: "no pattern of file names" })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let options =
        MatchOptions { case_sensitive: true, require_literal_separator: false, require_literal_leading_dot: false };
    let fits = |file: &&RemoteFile| patterns.iter().any(|pattern| pattern.matches_with(&file.path, options));
    Ok(files.iter().filter(fits).cloned().collect())
}

fn is_companion(path: &str) -> bool {
    COMPANIONS.contains(&path)
        || path == "model.safetensors.index.json"
        || (path.starts_with("additional_chat_templates/") && path.ends_with(".jinja"))
}

/// The weights: `model.safetensors` or its parts; any other safetensors files of the top folder if there are none of that
/// name.
fn safetensors(files: &[RemoteFile]) -> Vec<&str> {
    let top: Vec<&str> = files
        .iter()
        .map(|file| file.path.as_str())
        .filter(|path| !path.contains('/') && path.ends_with(".safetensors"))
        .collect();
    let whole: Vec<&str> = top.iter().copied().filter(|path| *path == "model.safetensors").collect();
    let parts: Vec<&str> = top.iter().copied().filter(|path| is_part_of(path, "model", ".safetensors")).collect();
    if !whole.is_empty() {
        whole
    } else if !parts.is_empty() {
        parts
    } else if top.len() == 1 {
        top
    } else {
        Vec::new()
    }
}

/// Whether a name is `STEM-00001-of-00002` and the ending.
fn is_part_of(path: &str, stem: &str, ending: &str) -> bool {
    let number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    path.strip_prefix(stem)
        .and_then(|rest| rest.strip_prefix('-')?.strip_suffix(ending)?.split_once("-of-"))
        .is_some_and(|(part, of)| number(part) && number(of))
}

/// The models among GGUF files: each file, or all parts of one that was split. Projectors for images are no models.
fn gguf_models(files: &[RemoteFile]) -> Vec<Vec<&RemoteFile>> {
    let mut models: Vec<(String, Vec<&RemoteFile>)> = Vec::new();
    for file in files {
        let Some(stem) = file.path.strip_suffix(".gguf") else { continue };
        let name = stem.rsplit('/').next().unwrap_or(stem);
        if name.starts_with("mmproj") {
            continue;
        }
        let whole = match stem.rfind("-of-").and_then(|at| at.checked_sub(6)) {
            Some(at) if stem.is_char_boundary(at) && is_part_of(&file.path, &stem[..at], ".gguf") => &stem[..at],
            _ => stem,
        };
        match models.iter_mut().find(|(known, _)| known == whole) {
            Some((_, parts)) => parts.push(file),
            None => models.push((whole.to_owned(), vec![file])),
        }
    }
    models.into_iter().map(|(_, parts)| parts).collect()
}

fn preferred<'m, 'f>(models: &'m [Vec<&'f RemoteFile>]) -> Option<&'m Vec<&'f RemoteFile>> {
    let has = |model: &Vec<&RemoteFile>, kind: &str| model[0].path.to_ascii_uppercase().contains(kind);
    PREFERRED.iter().find_map(|kind| models.iter().find(|model| has(model, kind))).or(models.first())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::Checksum;

    fn files(paths: &[&str]) -> Vec<RemoteFile> {
        let file = |path: &&str| RemoteFile { path: (*path).to_owned(), size: Some(1), checksum: Checksum::Unknown };
        paths.iter().map(file).collect()
    }

    #[track_caller]
    fn chosen(paths: &[&str], patterns: &[&str], expected: &[&str]) -> Vec<String> {
        let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
        let choice = choose("a/b", &files(paths), &patterns).unwrap();
        let names: Vec<&str> = choice.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(names, expected);
        choice.others
    }

    #[test]
    fn weights_once_and_what_belongs_to_them() {
        chosen(
            &[
                ".gitattributes",
                "README.md",
                "config.json",
                "flax_model.msgpack",
                "merges.txt",
                "model.safetensors",
                "onnx/model.onnx",
                "pytorch_model.bin",
                "tf_model.h5",
                "tokenizer.json",
                "vocab.json",
                "runs/x.safetensors",
            ],
            &[],
            &["config.json", "merges.txt", "model.safetensors", "tokenizer.json", "vocab.json"],
        );
        chosen(
            &[
                "config.json",
                "consolidated.safetensors",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "additional_chat_templates/rag.jinja",
            ],
            &[],
            &[
                "config.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
                "additional_chat_templates/rag.jinja",
            ],
        );
    }

    #[test]
    fn one_of_several_gguf_models() {
        let others = chosen(
            &[
                "README.md",
                "x-Q2_K.gguf",
                "x-q4_k_m-00001-of-00002.gguf",
                "x-q4_k_m-00002-of-00002.gguf",
                "x-Q8_0.gguf",
                "mmproj-x.gguf",
            ],
            &[],
            &["x-q4_k_m-00001-of-00002.gguf", "x-q4_k_m-00002-of-00002.gguf"],
        );
        assert_eq!(others, ["x-Q2_K.gguf", "x-Q8_0.gguf"]);
        chosen(&["odd.gguf"], &[], &["odd.gguf"]);
        chosen(&["x-Q2_K.gguf", "x-Q8_0.gguf", "d/y.gguf"], &["*Q2*", "d/*"], &["x-Q2_K.gguf", "d/y.gguf"]);
    }

    #[test]
    fn nothing_of_use_is_said() {
        let message = choose("a/b", &files(&["pytorch_model.bin"]), &[]).unwrap_err().to_string();
        assert!(message.contains("neither safetensors nor GGUF") && message.contains("pytorch_model.bin"), "{message}");
        let message = choose("a/b", &files(&["x"]), &["*.gguf".to_owned()]).unwrap_err().to_string();
        assert!(message.contains("*.gguf"), "{message}");
        assert!(choose("a/b", &files(&["x"]), &["[".to_owned()]).is_err());
    }
}
