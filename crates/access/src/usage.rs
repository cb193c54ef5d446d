//! What keys have used.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::UnixMillis;

/// Counts of what was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Requests.
    pub requests: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
}

impl Usage {
    /// Tokens of prompts and answers.
    pub fn tokens(&self) -> u64 {
        self.prompt_tokens.saturating_add(self.completion_tokens)
    }

    /// Both together.
    #[must_use]
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            prompt_tokens: self.prompt_tokens.saturating_add(other.prompt_tokens),
            completion_tokens: self.completion_tokens.saturating_add(other.completion_tokens),
        }
    }

    pub(crate) fn from_row(row: (u64, u64, u64)) -> Self {
        Self { requests: row.0, prompt_tokens: row.1, completion_tokens: row.2 }
    }

    pub(crate) fn row(self) -> (u64, u64, u64) {
        (self.requests, self.prompt_tokens, self.completion_tokens)
    }
}

/// What one key has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUsage {
    /// On the present day of UTC.
    pub today: Usage,
    /// Ever.
    pub total: Usage,
    /// When it last asked for something.
    pub last_used: Option<UnixMillis>,
}

/// Usage by key and day, with the moment of each key's last use.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    /// (key, day) to counts.
    pub days: HashMap<(String, u32), Usage>,
    /// Key to moment.
    pub last_used: HashMap<String, UnixMillis>,
}

impl Tally {
    pub fn is_empty(&self) -> bool {
        self.days.is_empty()
    }

    pub fn add(&mut self, id: &str, usage: Usage, at: UnixMillis) {
        let day = self.days.entry((id.to_string(), at.day())).or_default();
        *day = day.plus(usage);
        let last = self.last_used.entry(id.to_string()).or_insert(at);
        *last = at.max(*last);
    }

    /// Takes in another tally.
    pub fn merge(&mut self, other: Self) {
        for (place, usage) in other.days {
            let day = self.days.entry(place).or_default();
            *day = day.plus(usage);
        }
        for (id, at) in other.last_used {
            let last = self.last_used.entry(id).or_insert(at);
            *last = at.max(*last);
        }
    }

    /// Adds what this tally holds of a key to `usage`, whose `today` is `day`.
    pub fn add_to(&self, usage: &mut KeyUsage, id: &str, day: u32) {
        for ((key, when), counts) in &self.days {
            if key == id {
                usage.total = usage.total.plus(*counts);
                if *when == day {
                    usage.today = usage.today.plus(*counts);
                }
            }
        }
        usage.last_used = usage.last_used.max(self.last_used.get(id).copied());
    }
}
