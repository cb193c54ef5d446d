//! A sliding window of 60 seconds in bounded memory.

use std::collections::VecDeque;

/// Length of the window, ms.
pub(crate) const WINDOW: u64 = 60_000;

/// Amounts that come within one slot are kept together, ms. They all count until the latest of them is a window old, so the
/// sum is never too small for any window and too large for a quarter of a second at most.
const SLOT: u64 = 250;

/// What came within one slot.
#[derive(Debug, Clone, Copy)]
struct Entry {
    slot: u64,
    last: u64,
    amount: u64,
}

/// Amounts of the last 60 seconds. Times are milliseconds of a clock that never goes back.
#[derive(Debug, Default)]
pub(crate) struct Window {
    entries: VecDeque<Entry>,
    sum: u64,
}

impl Window {
    /// Forgets what is a window old.
    pub fn advance(&mut self, now: u64) {
        while let Some(first) = self.entries.front().filter(|e| e.last.saturating_add(WINDOW) <= now) {
            self.sum = self.sum.saturating_sub(first.amount);
            self.entries.pop_front();
        }
    }

    /// What counts at present.
    pub fn used(&self) -> u64 {
        self.sum
    }

    /// Counts `amount`; the result names where, for [`Window::take_back`].
    pub fn add(&mut self, amount: u64, now: u64) -> u64 {
        let slot = now / SLOT;
        self.sum = self.sum.saturating_add(amount);
        match self.entries.back_mut().filter(|e| e.slot == slot) {
            Some(entry) => {
                entry.amount = entry.amount.saturating_add(amount);
                entry.last = now;
            }
            None => self.entries.push_back(Entry { slot, last: now, amount }),
        }
        slot
    }

    /// Takes back `amount` that was counted at `slot`; nothing if that has left the window already.
    pub fn take_back(&mut self, amount: u64, slot: u64) {
        if let Ok(at) = self.entries.binary_search_by_key(&slot, |e| e.slot)
            && let Some(entry) = self.entries.get_mut(at)
        {
            let taken = amount.min(entry.amount);
            entry.amount -= taken;
            self.sum = self.sum.saturating_sub(taken);
        }
    }

    /// Milliseconds until `amount` more fits under `limit` if nothing else comes; nothing if it never does.
    pub fn wait_for(&self, amount: u64, limit: u64, now: u64) -> Option<u64> {
        let room = limit.checked_sub(amount)?;
        let mut sum = self.sum;
        if sum <= room {
            return Some(0);
        }
        for entry in &self.entries {
            sum = sum.saturating_sub(entry.amount);
            if sum <= room {
                return Some((entry.last + WINDOW).saturating_sub(now));
            }
        }
        None
    }

    /// Milliseconds until nothing counts any more if nothing else comes.
    pub fn until_empty(&self, now: u64) -> u64 {
        let last = self.entries.iter().rev().find(|e| e.amount > 0);
        last.map_or(0, |e| (e.last + WINDOW).saturating_sub(now))
    }
}
