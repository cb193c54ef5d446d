//! The file of answers, which survives interrupts.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::prompts::AnswerLine;

/// Answers, under a temporary name until they are complete: `OUT.part`, beside `OUT.part.json`, which says what was asked.
/// Where both are there and the same is asked again, the answers in the first are kept.
pub struct AnswerFile {
    path: PathBuf,
    file: BufWriter<File>,
    n_failed: usize,
}

/// What an earlier run has left.
pub struct Kept {
    /// Complete lines.
    pub n_answers: usize,
    /// The seed of its answers, or the new one.
    pub seed: u64,
}

/// What `OUT.part.json` holds.
#[derive(Serialize, Deserialize)]
struct Asked {
    asked: String,
    seed: u64,
}

/// What is read of a kept answer.
#[derive(Deserialize)]
struct KeptLine {
    error: Option<String>,
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    path.with_file_name(name)
}

impl AnswerFile {
    /// Opens the file for the answers to what is `asked`, behind those that are kept. `seed` is for a new one.
    pub fn open(path: &Path, asked: &str, seed: u64) -> Result<(Self, Kept)> {
        if path.file_name().is_none() {
            bail!("--out {} is no file name", path.display());
        }
        let (part, about) = (beside(path, ".part"), beside(path, ".part.json"));
        let before = std::fs::read(&about).ok().and_then(|text| serde_json::from_slice::<Asked>(&text).ok());
        let before = before.filter(|before| before.asked == asked);
        let kept_bytes = match (&before, std::fs::read(&part)) {
            (Some(_), Ok(bytes)) => bytes,
            (_, Err(error)) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot read {}", part.display()));
            }
            _ => Vec::new(),
        };
        // A line that was cut off by the end of the program is not kept.
        let (mut n_answers, mut n_failed, mut end) = (0, 0, 0);
        for line in kept_bytes.split_inclusive(|&byte| byte == b'\n') {
            let Ok(KeptLine { error }) = serde_json::from_slice(line) else { break };
            if !line.ends_with(b"\n") {
                break;
            }
            n_answers += 1;
            n_failed += usize::from(error.is_some());
            end += line.len() as u64;
        }
        let cannot = |path: &Path| format!("cannot write {}", path.display());
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&part)
            .and_then(|file| file.set_len(end).map(|()| file))
            .with_context(|| cannot(&part))?;
        file.seek(SeekFrom::End(0)).with_context(|| cannot(&part))?;
        let seed = before.map_or(seed, |before| before.seed);
        let text = serde_json::to_vec(&Asked { asked: asked.to_owned(), seed })?;
        std::fs::write(&about, text).with_context(|| cannot(&about))?;
        let file = Self { path: path.to_owned(), file: BufWriter::new(file), n_failed };
        Ok((file, Kept { n_answers, seed }))
    }

    /// Where the answers are until they are complete.
    pub fn part(&self) -> PathBuf {
        beside(&self.path, ".part")
    }

    pub fn write(&mut self, answer: &AnswerLine) -> Result<()> {
        let about = || format!("cannot write {}", beside(&self.path, ".part").display());
        self.n_failed += usize::from(answer.error.is_some());
        serde_json::to_writer(&mut self.file, answer).with_context(about)?;
        self.file.write_all(b"\n").with_context(about)?;
        // What is complete survives whatever happens to the program.
        self.file.flush().with_context(about)
    }

    /// Leaves the answers where they are, for the next run.
    pub fn keep(mut self) -> Result<()> {
        let about = || format!("cannot write {}", beside(&self.path, ".part").display());
        self.file.flush().with_context(about)?;
        self.file.get_ref().sync_all().with_context(about)
    }

    /// Gives the file its name. Returns how many answers are failures.
    pub fn finish(self) -> Result<usize> {
        let Self { path, file, n_failed } = self;
        let about = || format!("cannot write {}", path.display());
        let file = file.into_inner().map_err(std::io::IntoInnerError::into_error).with_context(about)?;
        file.sync_all().with_context(about)?;
        std::fs::rename(beside(&path, ".part"), &path).with_context(about)?;
        // Nobody needs it any more.
        let _ = std::fs::remove_file(beside(&path, ".part.json"));
        Ok(n_failed)
    }
}
