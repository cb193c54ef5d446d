//! Sequences that wait, and how much each client has had.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::sequence::Sequence;

/// Sequences that wait to start. Among those of one priority, the client that has had least goes first, counted in rows
/// since it has had something to do (start-time fair queueing, Goyal et al. 1996).
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Vec<Sequence>,
    /// Clients with sequences, waiting or running.
    clients: HashMap<u64, Client>,
    /// Where a client begins that comes back: not behind the others for what it did not use.
    now: u64,
}

#[derive(Debug, Default)]
struct Client {
    /// Rows computed for it.
    had: u64,
    n_sequences: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes a new sequence.
    pub(super) fn push(&mut self, sequence: Sequence) {
        let now = self.now;
        self.clients.entry(sequence.client).or_insert(Client { had: now, n_sequences: 0 }).n_sequences += 1;
        self.waiting.push(sequence);
    }

    /// Takes back a sequence that was started and is not over.
    pub(super) fn put_back(&mut self, sequence: Sequence) {
        self.waiting.push(sequence);
    }

    /// The next to start, those passed over left out.
    pub(super) fn next(&self, passed: &[u64]) -> Option<usize> {
        let key = |sequence: &Sequence| {
            let had = self.clients.get(&sequence.client).map_or(self.now, |client| client.had);
            (Reverse(sequence.priority), !sequence.was_preempted, had, sequence.arrival)
        };
        let open = self.waiting.iter().enumerate().filter(|(_, sequence)| !passed.contains(&sequence.id));
        open.min_by_key(|(_, sequence)| key(sequence)).map(|(place, _)| place)
    }

    pub(super) fn get(&self, place: usize) -> &Sequence {
        &self.waiting[place]
    }

    /// Hands out a sequence to run; its client keeps it until [`Self::stopped`].
    pub(super) fn start(&mut self, place: usize) -> Sequence {
        let sequence = self.waiting.swap_remove(place);
        if let Some(client) = self.clients.get(&sequence.client) {
            self.now = self.now.max(client.had);
        }
        sequence
    }

    /// Takes out a waiting sequence.
    pub(super) fn remove(&mut self, id: u64) -> Option<Sequence> {
        let place = self.waiting.iter().position(|sequence| sequence.id == id)?;
        let sequence = self.waiting.swap_remove(place);
        self.stopped(sequence.client);
        Some(sequence)
    }

    /// Takes note of rows computed for a client.
    pub(super) fn served(&mut self, client: u64, rows: usize) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.had += rows as u64;
        }
    }

    /// Takes note that a client has one sequence less.
    pub(super) fn stopped(&mut self, client: u64) {
        if let Some(state) = self.clients.get_mut(&client) {
            state.n_sequences -= 1;
            if state.n_sequences == 0 {
                self.clients.remove(&client);
            }
        }
    }

    /// Checks that every waiting sequence's client is known.
    ///
    /// # Panics
    /// When it is not: a bug.
    pub(super) fn check(&self) {
        for sequence in &self.waiting {
            assert!(self.clients.contains_key(&sequence.client), "client {} is unknown", sequence.client);
            assert!(sequence.blocks.is_empty() && sequence.n_cached == 0, "{sequence:?} waits with blocks");
        }
    }
}
