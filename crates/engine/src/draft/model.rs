//! Guesses from a smaller model.

use std::collections::HashMap;

use verve_model::StepBatch;
use verve_ops::{KV_BLOCK, Real};

use super::Drafter;
use crate::error::EngineError;
use crate::model::StepModel;
use crate::schedule::Guess;

/// Guesses the likeliest tokens of a smaller model with the same vocabulary.
pub struct DraftModel<M> {
    model: M,
    most: usize,
    /// Tokens in the draft model's cache, by place. A place has all blocks it can need.
    places: Vec<Option<Place>>,
    by_id: HashMap<u64, usize>,
    block_table: Vec<u32>,
}

struct Place {
    cached: Vec<u32>,
}

/// A sequence in a round of guesses.
struct Active {
    /// Index in the caller's list.
    at: usize,
    place: usize,
    /// Known tokens and guesses so far.
    tokens: Vec<u32>,
    most: usize,
    n_known: usize,
}

impl<M: StepModel> DraftModel<M> {
    /// Guesses at most `most` tokens at a time. Sequences beyond the model's `max_sequences`, or longer than its context
    /// or its cache's share, are not guessed for.
    ///
    /// # Errors
    /// A model with a vocabulary of another size than `n_vocab`.
    pub fn new(model: M, most: usize, n_vocab: usize) -> Result<Self, EngineError> {
        if model.n_vocab() != n_vocab {
            return Err(EngineError::DraftVocabulary { found: model.n_vocab(), n_vocab });
        }
        let limits = model.limits();
        let n_places = limits.max_sequences.min(model.n_blocks() / limits.max_blocks.max(1));
        let n_blocks = (limits.max_sequences * limits.max_blocks) as u32;
        Ok(Self {
            places: (0..n_places).map(|_| None).collect(),
            by_id: HashMap::new(),
            block_table: (0..n_blocks).collect(),
            model,
            most,
        })
    }

    /// The place of a sequence, a new one if it has none.
    fn place(&mut self, id: u64) -> Option<usize> {
        if let Some(&place) = self.by_id.get(&id) {
            return Some(place);
        }
        let place = self.places.iter().position(Option::is_none)?;
        self.places[place] = Some(Place { cached: Vec::new() });
        self.by_id.insert(id, place);
        Some(place)
    }

    /// Brings the caches of the sequences up to date, as many rows at a time as may be, and adds the likeliest next token
    /// to each.
    fn extend(&mut self, active: &mut [Active]) -> Result<(), EngineError> {
        let limits = self.model.limits();
        let mut next = 0;
        while next < active.len() {
            let (mut tokens, mut positions, mut slots, mut sequences) = (vec![], vec![], vec![], vec![]);
            let (mut outputs, mut whose) = (Vec::new(), Vec::new());
            while next < active.len() && tokens.len() < limits.max_rows {
                let Active { place, tokens: known, .. } = &active[next];
                let Some(Place { cached }) = &mut self.places[*place] else {
                    unreachable!("active sequences have one")
                };
                let n_rows = (known.len() - cached.len()).min(limits.max_rows - tokens.len());
                let (start, fresh) = (cached.len(), &known[cached.len()..cached.len() + n_rows]);
                for (position, &token) in (start..).zip(fresh) {
                    tokens.push(token);
                    positions.push(position as u32);
                    slots.push((place * limits.max_blocks * KV_BLOCK + position) as u32);
                    sequences.push(*place as u32);
                }
                cached.extend_from_slice(fresh);
                if cached.len() < known.len() {
                    break;
                }
                outputs.push(tokens.len() as u32 - 1);
                whose.push(next);
                next += 1;
            }
            let n_vocab = self.model.n_vocab();
            let logits = self.model.step(&StepBatch {
                tokens: &tokens,
                positions: &positions,
                slots: &slots,
                sequences: &sequences,
                block_table: &self.block_table,
                max_blocks: limits.max_blocks,
                output_rows: &outputs,
            })?;
            for (whose, logits) in whose.into_iter().zip(logits.chunks_exact(n_vocab)) {
                active[whose].tokens.push(likeliest(logits));
            }
        }
        Ok(())
    }
}

/// The first of the greatest logits.
fn likeliest<R: Real>(logits: &[R]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (id, logit) in (0..).zip(logits) {
        if logit.to_f32() > best.1 {
            best = (id, logit.to_f32());
        }
    }
    best.0
}

impl<M: StepModel> Drafter for DraftModel<M> {
    fn guess(&mut self, sequences: &mut [Guess<'_>]) -> Result<(), EngineError> {
        let limits = self.model.limits();
        let n_ctx = self.model.n_ctx().min(limits.max_blocks * KV_BLOCK);
        let mut active = Vec::new();
        for (at, sequence) in sequences.iter().enumerate() {
            let n_known = sequence.tokens.len();
            // The last guess is not read.
            let most = sequence.most.min(self.most).min((n_ctx + 1).saturating_sub(n_known));
            let Some(place) = self.place(sequence.id).filter(|_| most > 0) else { continue };
            let Some(Place { cached }) = &mut self.places[place] else { unreachable!("just given") };
            let n_same = cached.iter().zip(sequence.tokens).take_while(|(a, b)| a == b).count();
            // The last known token is computed again: its logits are wanted.
            cached.truncate(n_same.min(n_known - 1));
            active.push(Active { at, place, tokens: sequence.tokens.to_vec(), most, n_known });
        }
        while !active.is_empty() {
            self.extend(&mut active)?;
            active.retain(|sequence| {
                let goes_on = sequence.tokens.len() - sequence.n_known < sequence.most;
                if !goes_on {
                    sequences[sequence.at].guesses.extend_from_slice(&sequence.tokens[sequence.n_known..]);
                }
                goes_on
            });
        }
        Ok(())
    }

    fn forget(&mut self, id: u64) {
        if let Some(place) = self.by_id.remove(&id) {
            self.places[place] = None;
        }
    }
}
