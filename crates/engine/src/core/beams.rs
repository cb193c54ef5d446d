//! Beam search: a sequence for each hypothesis, held until those of the others are as far.

use std::collections::BTreeMap;

use super::report::report_beams;
use super::{Run, request_of, sequence_id};
use crate::error::EngineError;
use crate::group::Group;
use crate::request::OnEvent;
use crate::schedule::{Outputs, Submission};

/// Whether a sequence belongs to a beam search.
pub(super) fn is_searched(groups: &BTreeMap<usize, Group>, sequence: u64) -> bool {
    groups.get(&request_of(sequence).0).is_some_and(|group| group.search.is_some())
}

impl Run<'_> {
    /// Goes on to the next round of a search, if all hypotheses of this one are as far; ends it if there is none.
    ///
    /// # Errors
    /// What ends the request.
    pub(super) fn advance(&mut self, request: usize, on_event: OnEvent<'_>) -> Result<(), EngineError> {
        let Some(group) = self.groups.get_mut(&request) else { return Ok(()) };
        let Some(search) = group.search.as_mut().filter(|search| search.is_round_complete()) else { return Ok(()) };
        let (before, n_generated) = (search.n_chosen(), search.n_generated());
        let next = search.advance(self.vocabulary)?;
        self.totals.n_generated += search.n_chosen() - before;
        if next.is_empty() {
            let (found, n) = (search.best(group.request.n).len(), group.request.n);
            if found < n {
                return Err(match found {
                    0 => EngineError::NothingLeft { n_generated },
                    _ => EngineError::TooFewAnswers { found, n },
                });
            }
        }
        for place in 0..search.width() {
            if !next.iter().any(|next| next.goes_on && next.place == place) {
                self.scheduler.cancel(sequence_id(request, place));
            }
        }
        for next in &next {
            let id = sequence_id(request, next.place);
            if next.goes_on && self.scheduler.go_on(id, next.token) {
                continue;
            }
            // Another goes on with the sequence that it shares its beginning with, or that one has lost its place. Full
            // blocks are found in the cache.
            let Some(hypothesis) = search.hypothesis(next.place) else { continue };
            let tokens: Vec<u32> = group.request.prompt.iter().copied().chain(hypothesis.ids()).collect();
            let max_new = group.max_new - hypothesis.len();
            let (priority, client) = (group.request.priority, group.request.client);
            let submission = Submission { id, tokens, max_new, priority, client, outputs: Outputs::Last };
            self.scheduler.submit_again(submission, group.arrival);
        }
        if next.is_empty() {
            report_beams(request, group, self.vocabulary, on_event);
            self.groups.remove(&request);
        }
        Ok(())
    }

    /// Ends a search as it is. Returns false where there is none.
    pub(super) fn cancel_search(&mut self, request: usize, on_event: OnEvent<'_>) -> bool {
        let Some(group) = self.groups.get_mut(&request) else { return false };
        let Some(search) = &mut group.search else { return false };
        for place in 0..search.width() {
            self.scheduler.cancel(sequence_id(request, place));
        }
        search.cancel();
        report_beams(request, group, self.vocabulary, on_event);
        self.groups.remove(&request);
        true
    }
}
