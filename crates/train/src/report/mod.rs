//! One HTML page about a run, complete in itself: no other file, nothing from a network, readable without JavaScript.

mod chart;
mod charts;
mod data;
mod html;
mod page;

use std::path::Path;

use crate::error::Result;
use crate::files::write_atomically;

#[cfg(test)]
mod tests;

/// Writes a page about the run in `run`, finished or not, to `out`. Answers with what a person should know: files that are
/// missing, lines that could not be read.
///
/// # Errors
/// [`crate::TrainError::NoRun`] if there is no `config.toml`; files that cannot be read; a page that cannot be written.
pub fn write(run: &Path, out: &Path) -> Result<Vec<String>> {
    let data = data::RunData::read(run)?;
    write_atomically(out, page::render(&data).as_bytes())?;
    Ok(data.warnings)
}
