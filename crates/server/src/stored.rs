//! Responses kept in memory for `previous_response_id`, where the operator allows it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use verve_chat::Message;

/// Most bytes of all kept conversations together.
const MAX_BYTES: usize = 256 << 20;

/// A response and what led to it.
#[derive(Debug)]
pub struct Stored {
    /// Name of the response.
    pub id: String,
    /// Whose it is.
    pub client: u64,
    /// The conversation, the answer included.
    pub messages: Vec<Message>,
    /// The request's input items.
    pub input: Value,
    /// The response as it was given.
    pub response: Value,
    /// About how much it takes.
    pub bytes: usize,
}

/// Kept responses, the oldest given up first.
#[derive(Debug)]
pub struct StoredResponses {
    limit: usize,
    kept: Mutex<VecDeque<Arc<Stored>>>,
}

impl StoredResponses {
    /// Room for `limit` of them; 0 keeps none.
    pub fn new(limit: usize) -> Self {
        Self { limit, kept: Mutex::default() }
    }

    /// Whether any are kept.
    pub fn is_enabled(&self) -> bool {
        self.limit > 0
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, VecDeque<Arc<Stored>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps one.
    pub fn put(&self, stored: Stored) {
        if !self.is_enabled() || stored.bytes > MAX_BYTES {
            return;
        }
        let mut kept = self.kept();
        let mut bytes: usize = kept.iter().map(|other| other.bytes).sum::<usize>() + stored.bytes;
        while kept.len() >= self.limit || bytes > MAX_BYTES {
            let Some(oldest) = kept.pop_front() else { break };
            bytes -= oldest.bytes;
        }
        kept.push_back(Arc::new(stored));
    }

    /// The one of this name, if it is this caller's.
    pub fn get(&self, id: &str, client: u64) -> Option<Arc<Stored>> {
        self.kept().iter().find(|stored| stored.id == id && stored.client == client).cloned()
    }

    /// Gives up the one of this name, if it is this caller's.
    pub fn delete(&self, id: &str, client: u64) -> bool {
        let mut kept = self.kept();
        let before = kept.len();
        kept.retain(|stored| stored.id != id || stored.client != client);
        kept.len() < before
    }
}
