//! Constraints as the engine follows them: each compiled once, started for every answer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use verve_engine::{Constraint as EngineConstraint, ConstraintSource, Vocabulary};
use verve_tokenizer::Tokenizer;

use crate::constraint::Constraint;
use crate::constraints::Constraints;
use crate::error::{ConstrainError, Result};
use crate::matcher::{Accepted, Matcher};

/// Compiled constraints that are kept, the least recently used given up first.
const MAX_COMPILED: usize = 64;

/// A constraint that answers follow, compiled once for all of them.
#[derive(Debug)]
struct Compiled {
    matcher: Matcher,
    /// Whether an answer has failed on it. Clones of a matcher share tables, which are of no further use then: later
    /// requests get the constraint compiled anew.
    is_spent: Arc<AtomicBool>,
}

/// The constraint in one answer.
struct Following {
    matcher: Matcher,
    is_spent: Arc<AtomicBool>,
}

impl Following {
    fn said(&self, error: ConstrainError) -> String {
        self.is_spent.store(true, Ordering::Release);
        error.to_string()
    }
}

impl EngineConstraint for Following {
    fn allow(&mut self, _n_left: usize, allowed: &mut [u32]) -> std::result::Result<(), String> {
        // The matcher counts what is left by itself.
        self.matcher.mask(allowed).map_err(|error| self.said(error))
    }

    fn accept(&mut self, id: u32) -> std::result::Result<bool, String> {
        let accepted = self.matcher.accept(id).map_err(|error| self.said(error))?;
        Ok(accepted == Accepted::Taken)
    }

    fn is_complete(&self) -> bool {
        self.matcher.is_finished() || self.matcher.left() == Some(0)
    }

    fn fork(&self) -> Box<dyn EngineConstraint> {
        Box::new(Self { matcher: self.matcher.clone(), is_spent: self.is_spent.clone() })
    }
}

impl ConstraintSource for Compiled {
    fn start(&self, n_left: usize) -> std::result::Result<Box<dyn EngineConstraint>, String> {
        let mut matcher = self.matcher.clone();
        // A limit that is too small spoils nothing.
        matcher.set_limit(n_left).map_err(|error| error.to_string())?;
        Ok(Box::new(Following { matcher, is_spent: self.is_spent.clone() }))
    }
}

/// Compiles constraints for one vocabulary and keeps the latest, for any number of threads.
#[derive(Debug)]
pub struct Rules {
    tokenizer: Arc<Tokenizer>,
    /// Ids that end a text.
    end: Vec<u32>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Made when the first constraint comes: it takes a while, and most answers follow none.
    constraints: Option<Constraints>,
    /// Latest last.
    compiled: VecDeque<(String, Arc<Compiled>)>,
}

impl Rules {
    /// Constraints on what a tokenizer's ids spell; `vocabulary` says which ids end a text.
    pub fn new(tokenizer: Arc<Tokenizer>, vocabulary: &Vocabulary) -> Self {
        let end = (0..vocabulary.n_vocab() as u32).filter(|&id| vocabulary.ends_text(id)).collect();
        Self { tokenizer, end, kept: Mutex::default() }
    }

    /// A constraint ready to be followed; compiled unless it is among those kept.
    ///
    /// # Errors
    /// As [`Constraints::new`] and [`Constraints::start`].
    pub fn compile(&self, constraint: &Constraint) -> Result<Arc<dyn ConstraintSource>> {
        let key = format!("{constraint:?}");
        let constraints = {
            let mut kept = self.kept();
            if let Some(place) = kept.compiled.iter().position(|(known, _)| *known == key)
                && let Some(entry) = kept.compiled.remove(place)
            {
                let compiled = entry.1.clone();
                if !compiled.is_spent.load(Ordering::Acquire) {
                    kept.compiled.push_back(entry);
                    return Ok(compiled);
                }
            }
            match &kept.constraints {
                Some(constraints) => constraints.clone(),
                None => kept.constraints.insert(Constraints::new(&self.tokenizer, &self.end)?).clone(),
            }
        };
        // Others need not wait for a slow one.
        let matcher = constraints.start(constraint)?;
        let compiled = Arc::new(Compiled { matcher, is_spent: Arc::default() });
        let mut kept = self.kept();
        if kept.compiled.len() == MAX_COMPILED {
            kept.compiled.pop_front();
        }
        kept.compiled.push_back((key, compiled.clone()));
        Ok(compiled)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        // What is guarded is whole at any time.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
