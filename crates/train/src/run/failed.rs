//! What is kept of a step that was not finite.

use std::fs;
use std::path::PathBuf;

use serde::Serialize;

use crate::error::{Result, TrainError};
use crate::files::{write_atomically, write_json};
use crate::folder::{FAILED, RunFolder};
use crate::step::{NotFinite, StepInput};

/// `failed/step-.../figures.json`. Numbers that are not finite are written as text.
#[derive(Serialize)]
struct Figures<'a> {
    step: u64,
    tokens_before: u64,
    what: &'a str,
    lr: f64,
    first_row: u64,
    rows: u64,
    /// Mean loss of each micro-batch.
    micro_batch_losses: Vec<String>,
    /// Norm of each tensor's gradient.
    gradient_norms: Vec<(&'a str, String)>,
}

/// `failed/step-.../rows.jsonl`.
#[derive(Serialize)]
struct Row<'a> {
    row: u64,
    start: u64,
    tokens: &'a [u32],
}

/// Where the run was.
pub(super) struct Place {
    pub step: u64,
    pub tokens: u64,
    pub first_row: u64,
    pub rows: u64,
}

/// Writes figures and rows of a failed step; returns the folder.
pub(super) fn keep(folder: &RunFolder, place: &Place, input: &StepInput<'_>, failure: &NotFinite) -> Result<PathBuf> {
    let path = folder.join(FAILED).join(format!("step-{:08}", place.step));
    fs::create_dir_all(&path).map_err(|e| TrainError::io(&path, "create", e))?;
    let figures = Figures {
        step: place.step,
        tokens_before: place.tokens,
        what: &failure.what,
        lr: input.lr,
        first_row: place.first_row,
        rows: place.rows,
        micro_batch_losses: failure.losses.iter().map(f64::to_string).collect(),
        gradient_norms: failure.norms.iter().map(|(name, norm)| (name.as_str(), norm.to_string())).collect(),
    };
    write_json(&path.join("figures.json"), &figures)?;
    let mut text = Vec::new();
    let mut ids = vec![0; input.order.row_tokens()];
    let rows = path.join("rows.jsonl");
    for row in place.first_row..place.first_row + place.rows {
        input.shards.train_rows(input.order, row, &mut ids)?;
        let line = Row { row, start: input.order.start(row), tokens: &ids };
        serde_json::to_writer(&mut text, &line).map_err(|e| TrainError::io(&rows, "write", e.into()))?;
        text.push(b'\n');
    }
    write_atomically(&rows, &text)?;
    Ok(path)
}
