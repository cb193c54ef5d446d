//! Answers that are streamed.

use std::sync::Arc;

use thiserror::Error;

use crate::chain::{Filter, Look};
use crate::config::Action;
use crate::grouped::NumberRun;
use crate::threads::PatternRun;
use crate::words::WordRun;
use crate::{Chain, Finding, Stage};

/// A scan of one answer. Text goes in by pieces and comes out as soon as it cannot be part of anything refused.
///
/// What comes out, and what is found, does not depend on how the text was cut into pieces.
#[derive(Debug)]
pub struct OutputScan {
    filters: Arc<[Filter]>,
    runs: Vec<Run>,
    /// Text that has not been handed out.
    held: String,
    /// Where it begins in the whole text, bytes.
    sent: u64,
    /// Bytes of the whole text read.
    read: u64,
    records: Vec<Finding>,
    stopped: Option<Finding>,
}

/// An answer that a filter stopped.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{finding}")]
pub struct Refusal {
    /// Text before the refused match that had not come out yet, and may.
    pub safe: String,
    /// What was found.
    pub finding: Finding,
}

/// One way of looking on its way through the text.
#[derive(Debug)]
struct Run {
    /// Which filter, and which of its ways of looking.
    filter: usize,
    look: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Words(WordRun),
    Patterns(Box<PatternRun>),
    Number(NumberRun),
}

impl Run {
    fn step(&mut self, filters: &[Filter], at: u64, c: char) -> Option<u64> {
        match (&mut self.state, &filters[self.filter].looks[self.look]) {
            (State::Words(run), Look::Words(list)) => run.step(list, at, c),
            (State::Patterns(run), Look::Patterns(patterns)) => run.step(patterns, at, c),
            (State::Number(run), _) => run.step(at, c),
            _ => None,
        }
    }

    fn finish(&mut self, filters: &[Filter]) -> Option<u64> {
        match (&mut self.state, &filters[self.filter].looks[self.look]) {
            (State::Words(run), Look::Words(list)) => run.finish(list),
            (State::Patterns(run), Look::Patterns(patterns)) => run.finish(patterns),
            (State::Number(run), _) => run.finish(),
            _ => None,
        }
    }

    fn hold(&self) -> Option<u64> {
        match &self.state {
            State::Words(run) => run.hold(),
            State::Patterns(run) => run.hold(),
            State::Number(run) => run.hold(),
        }
    }
}

impl OutputScan {
    pub(crate) fn new(chain: &Chain) -> Self {
        let filters = Arc::clone(chain.filters());
        let mut runs = Vec::new();
        for (filter, of) in filters.iter().enumerate().filter(|(_, f)| f.stage.covers(Stage::Output)) {
            for (look, way) in of.looks.iter().enumerate() {
                let state = match way {
                    Look::Words(list) => State::Words(WordRun::new(list)),
                    Look::Patterns(patterns) => State::Patterns(Box::new(PatternRun::new(patterns))),
                    Look::Number(kind) => State::Number(NumberRun::new(*kind)),
                };
                runs.push(Run { filter, look, state });
            }
        }
        Self { filters, runs, held: String::new(), sent: 0, read: 0, records: Vec::new(), stopped: None }
    }

    /// Takes the next piece and gives the text that may be sent now. After a refusal every further call gives the same finding
    /// and no text.
    pub fn push(&mut self, piece: &str) -> Result<String, Refusal> {
        self.refuse_again()?;
        for c in piece.chars() {
            let at = self.read;
            if let Some((filter, start)) = self.look(|run, filters| run.step(filters, at, c)) {
                return Err(self.refuse(filter, start));
            }
            self.held.push(c);
            self.read += c.len_utf8() as u64;
        }
        let end = self.possible().unwrap_or(self.read);
        Ok(self.release(end))
    }

    /// Ends the answer and gives the rest of its text.
    pub fn finish(&mut self) -> Result<String, Refusal> {
        self.refuse_again()?;
        if let Some((filter, start)) = self.look(|run, filters| run.finish(filters)) {
            return Err(self.refuse(filter, start));
        }
        Ok(self.release(self.read))
    }

    /// What filters have found so far that only record, each once.
    pub fn records(&self) -> &[Finding] {
        &self.records
    }

    /// Lets every run look; the refusing filter that found something, with where it begins.
    fn look(&mut self, mut step: impl FnMut(&mut Run, &[Filter]) -> Option<u64>) -> Option<(usize, u64)> {
        let Self { filters, runs, records, .. } = self;
        let mut refused: Option<(usize, u64)> = None;
        let mut recorded = Vec::new();
        for run in runs.iter_mut() {
            let Some(start) = step(run, filters) else { continue };
            match filters[run.filter].action {
                Action::Refuse => {
                    let (filter, first) = refused.unwrap_or((run.filter, start));
                    refused = Some((filter, first.min(start)));
                }
                Action::Record => recorded.push(run.filter),
            }
        }
        for filter in recorded {
            let finding = filters[filter].finding(Stage::Output);
            if !records.contains(&finding) {
                records.push(finding);
            }
            // It has said all that it can say.
            runs.retain(|run| run.filter != filter);
        }
        refused
    }

    /// Where the first match begins that may become complete and be refused.
    fn possible(&self) -> Option<u64> {
        let refusing = self.runs.iter().filter(|run| self.filters[run.filter].action == Action::Refuse);
        refusing.filter_map(Run::hold).min()
    }

    /// Takes the held text up to byte `end` of the whole text.
    fn release(&mut self, end: u64) -> String {
        let length = usize::try_from(end.saturating_sub(self.sent)).unwrap_or(usize::MAX).min(self.held.len());
        let rest = self.held.split_off(length);
        self.sent += length as u64;
        std::mem::replace(&mut self.held, rest)
    }

    fn refuse(&mut self, filter: usize, start: u64) -> Refusal {
        // Other matches may have begun before this one; they will never be complete, and what there is of them is not sent.
        let end = self.possible().map_or(start, |other| other.min(start));
        let safe = self.release(end);
        self.held = String::new();
        let finding = self.filters[filter].finding(Stage::Output);
        self.stopped = Some(finding.clone());
        Refusal { safe, finding }
    }

    fn refuse_again(&self) -> Result<(), Refusal> {
        match &self.stopped {
            Some(finding) => Err(Refusal { safe: String::new(), finding: finding.clone() }),
            None => Ok(()),
        }
    }
}
