//! The last generations, for the administrator. Never any text.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// How many are kept.
const KEPT: usize = 100;

/// One generation.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// The request's name.
    pub request_id: String,
    /// When it ended, seconds since 1970.
    pub time: u64,
    /// Name of the key.
    pub key: String,
    /// Model.
    pub model: String,
    /// Route.
    pub endpoint: &'static str,
    /// How it ended.
    pub status: &'static str,
    /// Tokens of its prompts.
    pub prompt_tokens: usize,
    /// Tokens of its answers.
    pub completion_tokens: usize,
    /// Time to the first token, if one came.
    pub ttft_ms: Option<f64>,
    /// Time in all.
    pub total_ms: f64,
}

/// The last generations.
#[derive(Debug, Default)]
pub struct Recent(Mutex<VecDeque<Entry>>);

impl Recent {
    /// One more.
    pub fn push(&self, entry: Entry) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    /// All that are kept, latest first.
    pub fn list(&self) -> Vec<Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }
}
