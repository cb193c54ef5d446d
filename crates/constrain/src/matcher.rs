//! One text under one constraint, token by token.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use llguidance::api::StopReason;
use llguidance::toktrie::TokEnv;

use crate::ending::{MAX_ENDING, Place, Search};
use crate::error::{ConstrainError, Result, said};
use crate::hints::{Hints, Tokens};

/// The state of a text that satisfies a constraint so far: which tokens may come next, and whether it may end.
///
/// A clone goes on independently of the original (for several answers to one prompt, beams, speculation). After an error
/// other than [`ConstrainError::NotAllowed`], [`ConstrainError::Rollback`] and [`ConstrainError::LimitTooSmall`] the
/// matcher is of no further use, and neither are its clones: they share tables.
///
/// # Token limit
///
/// With [`Self::set_limit`] the text is complete before its tokens run out. The matcher then knows at every moment some
/// tokens that complete the text, and keeps to a course on which they fit. [`Self::accept`] turns a token down
/// ([`Accepted::TooLong`]) behind which they would not; it is gone from the next [`Self::mask`], and another is to be
/// chosen. When no more tokens are left than the known ending takes, the mask holds the ending's next token alone.
#[derive(Clone)]
pub struct Matcher {
    inner: llguidance::Matcher,
    env: TokEnv,
    tokens: Arc<Tokens>,
    hints: Hints,
    /// Tokens accepted, each with the state before it.
    history: Vec<Step>,
    place: Place,
    /// Whether an end token was accepted.
    ended: bool,
    limit: Option<Limit>,
    /// Turned down at this place of the text.
    turned_down: Vec<u32>,
}

/// Whether a token was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Accepted {
    /// It is part of the text.
    Taken,
    /// The text could not be completed behind it before the token limit. Nothing has changed, except that the token is
    /// gone from the mask.
    TooLong,
}

#[derive(Clone)]
struct Step {
    id: u32,
    place: Place,
    ending: Option<Ending>,
}

/// Tokens that complete a text.
#[derive(Clone)]
struct Ending {
    ids: Arc<[u32]>,
    /// Those before are part of the text.
    from: usize,
}

impl Ending {
    fn new(ids: Vec<u32>) -> Self {
        Self { ids: ids.into(), from: 0 }
    }

    fn ids(&self) -> &[u32] {
        &self.ids[self.from..]
    }

    fn without(&self, first: usize) -> Self {
        Self { ids: Arc::clone(&self.ids), from: self.from + first }
    }
}

#[derive(Clone)]
struct Limit {
    /// Length of the history when it was set.
    since: usize,
    /// Tokens of text that may still come; an end token does not count.
    left: usize,
    ending: Ending,
}

/// Tokens turned down at one place before only the known ending is left.
const MAX_TURNED_DOWN: usize = 12;
/// Ends of the known ending that are tried behind a token that left it.
const REJOIN: usize = 6;

impl Matcher {
    pub(crate) fn new(inner: llguidance::Matcher, env: TokEnv, tokens: Arc<Tokens>, hints: Hints) -> Self {
        Self {
            inner,
            env,
            tokens,
            hints,
            history: Vec::new(),
            place: Place::default(),
            ended: false,
            limit: None,
            turned_down: Vec::new(),
        }
    }

    /// Bounds the tokens that may still be accepted, end tokens not counted, and sees to it that the text is complete
    /// by then. May be called at any time, before the first token at best.
    ///
    /// # Errors
    /// [`ConstrainError::LimitTooSmall`] when completing the text takes more tokens, as far as is known;
    /// [`ConstrainError::NoEnding`] when no way to complete it was found. The limit is what it was then.
    pub fn set_limit(&mut self, left: usize) -> Result<()> {
        let since = self.history.len();
        if self.is_finished() {
            self.limit = Some(Limit { since, left, ending: Ending::new(Vec::new()) });
            return Ok(());
        }
        let known = self.limit.as_ref().map(|limit| limit.ending.clone()).filter(|ending| ending.ids().len() <= left);
        let ending = match known {
            Some(ending) => ending,
            None => match self.find(MAX_ENDING) {
                None => return Err(ConstrainError::NoEnding { left }),
                Some(ids) if ids.len() > left => {
                    return Err(ConstrainError::LimitTooSmall { needed: ids.len(), left });
                }
                Some(ids) => Ending::new(ids),
            },
        };
        self.turned_down.clear();
        self.limit = Some(Limit { since, left, ending });
        Ok(())
    }

    /// Tokens that may still be accepted under the limit, end tokens not counted; `None` without a limit.
    pub fn left(&self) -> Option<usize> {
        self.limit.as_ref().map(|limit| limit.left)
    }

    /// Writes which tokens may come next: bit `id % 32` of word `id / 32`. End tokens are among them where the text may
    /// end; once the text is complete they are all there is. Bits from the vocabulary's size on are zero.
    ///
    /// # Errors
    /// [`ConstrainError::DeadEnd`], [`ConstrainError::TooCostly`], [`ConstrainError::Internal`].
    ///
    /// # Panics
    /// When `out` has fewer bits than the vocabulary has ids.
    pub fn mask(&mut self, out: &mut [u32]) -> Result<()> {
        let n_vocab = self.n_vocab();
        let words = n_vocab.div_ceil(32);
        assert!(out.len() >= words, "a mask of {} words for {n_vocab} ids needs {words}", out.len());
        out.fill(0);
        if self.ended {
            set(out, self.env.tok_trie().eos_tokens());
            return Ok(());
        }
        if let Some(id) = self.must_end_with() {
            match id {
                Some(id) => set(out, &[id]),
                None => set(out, self.env.tok_trie().eos_tokens()),
            }
            return Ok(());
        }
        let mask = self.inner.compute_mask_or_eos().map_err(|error| self.failed(&error))?;
        for (out, word) in out.iter_mut().zip(mask.as_slice()).take(words) {
            *out = *word;
        }
        if !n_vocab.is_multiple_of(32) {
            out[words - 1] &= (1 << (n_vocab % 32)) - 1;
        }
        for &id in &self.turned_down {
            out[id as usize / 32] &= !(1 << (id % 32));
        }
        if out.iter().all(|word| *word == 0)
            && let Some(limit) = &self.limit
        {
            set(out, &limit.ending.ids()[..limit.ending.ids().len().min(1)]);
        }
        Ok(())
    }

    /// The one token that may come under the limit, an end token for `None`, if there is no choice left.
    fn must_end_with(&self) -> Option<Option<u32>> {
        let limit = self.limit.as_ref().filter(|_| !self.is_finished())?;
        let ending = limit.ending.ids();
        let now = limit.left <= ending.len() || self.turned_down.len() >= MAX_TURNED_DOWN;
        now.then(|| ending.first().copied())
    }

    /// Goes on by one token. An end token ends the text. Without a limit the answer is always [`Accepted::Taken`].
    ///
    /// # Errors
    /// [`ConstrainError::NotAllowed`] for a token that may not come next; nothing has changed then.
    /// [`ConstrainError::TooCostly`], [`ConstrainError::Internal`].
    pub fn accept(&mut self, id: u32) -> Result<Accepted> {
        if self.ended || id as usize >= self.n_vocab() {
            return Err(ConstrainError::NotAllowed { id });
        }
        if self.env.tok_trie().eos_tokens().contains(&id) {
            if !self.may_end()? {
                return Err(ConstrainError::NotAllowed { id });
            }
            self.history.push(Step { id, place: self.place, ending: self.ending() });
            self.ended = true;
            return Ok(Accepted::Taken);
        }
        if self.is_finished() || self.validate(&[id])? != 1 {
            return Err(ConstrainError::NotAllowed { id });
        }
        if self.limit.as_ref().is_some_and(|limit| limit.left == 0) {
            return Ok(self.turn_down(id));
        }
        let before = self.place;
        self.inner.consume_token(id).map_err(|error| self.failed(&error))?;
        self.place = before.after(self.env.tok_trie().token(id));
        let ending = self.ending();
        if let Some(limit) = self.limit.clone() {
            let left = limit.left - 1;
            let Some(ending) = self.ending_after(id, &limit.ending, left)? else {
                self.inner.rollback(1).map_err(|error| self.failed(&error))?;
                self.place = before;
                return Ok(self.turn_down(id));
            };
            self.limit = Some(Limit { left, ending, ..limit });
        }
        self.turned_down.clear();
        self.history.push(Step { id, place: before, ending });
        Ok(Accepted::Taken)
    }

    fn ending(&self) -> Option<Ending> {
        self.limit.as_ref().map(|limit| limit.ending.clone())
    }

    fn turn_down(&mut self, id: u32) -> Accepted {
        self.turned_down.push(id);
        Accepted::TooLong
    }

    /// An ending behind the token `id`, just taken, of at most `left` tokens, given the one that was known before it.
    fn ending_after(&mut self, id: u32, known: &Ending, left: usize) -> Result<Option<Ending>> {
        if known.ids().first() == Some(&id) {
            return Ok(Some(known.without(1)));
        }
        if self.may_end()? {
            return Ok(Some(Ending::new(Vec::new())));
        }
        if self.is_finished() {
            return Ok(None);
        }
        // In most places (within a string) the known ending still fits, or its last part does.
        let length = known.ids().len();
        let end = self.env.tok_trie().eos_token();
        for skipped in (0..=length.min(REJOIN)).rev() {
            let rest = known.without(skipped);
            let with_end = [rest.ids(), &[end]].concat();
            if rest.ids().len() <= left && self.validate(&with_end)? == with_end.len() {
                return Ok(Some(rest));
            }
        }
        // One more of what came last closes a bracket that has just been opened.
        if let Some(&last) = known.ids().last() {
            let with_end = [known.ids(), &[last, end]].concat();
            if length < left && self.validate(&with_end)? == with_end.len() {
                return Ok(Some(Ending::new(with_end[..=length].to_vec())));
            }
        }
        Ok(self.find(left).map(Ending::new))
    }

    /// Tokens that complete the text, at most `most`. A search that fails or becomes too costly has found nothing.
    fn find(&self, most: usize) -> Option<Vec<u32>> {
        let search = Search { env: &self.env, tokens: &self.tokens, hints: &self.hints };
        let ids = || self.history.iter().map(|step| step.id).collect::<Vec<u32>>();
        let text = || self.env.tok_trie().decode_raw(&ids());
        let found = catch_unwind(AssertUnwindSafe(|| search.ending(&self.inner, self.place, text, most)));
        found.ok()?.ok()?
    }

    /// How many of the tokens, from the first on, could be accepted one after the other, the limit aside. Changes
    /// nothing.
    ///
    /// # Errors
    /// [`ConstrainError::TooCostly`], [`ConstrainError::Internal`].
    pub fn validate(&mut self, ids: &[u32]) -> Result<usize> {
        if self.ended {
            return Ok(0);
        }
        let known = ids.iter().position(|&id| id as usize >= self.n_vocab()).unwrap_or(ids.len());
        self.inner.validate_tokens(&ids[..known]).map_err(|error| self.failed(&error))
    }

    /// Tokens that must come next whatever the model says, as the model's tokenizer writes them, the limit aside. Empty
    /// where there is a choice. Accepting them is up to the caller.
    pub fn forced(&mut self) -> Vec<u32> {
        if self.is_finished() { Vec::new() } else { self.inner.compute_ff_tokens() }
    }

    /// Whether the text satisfies the constraint as it stands.
    ///
    /// # Errors
    /// [`ConstrainError::Internal`].
    pub fn may_end(&mut self) -> Result<bool> {
        if self.is_finished() {
            return Ok(true);
        }
        self.inner.is_accepting().map_err(|error| self.failed(&error))
    }

    /// Whether the text is complete: an end token came, or nothing but one could.
    pub fn is_finished(&self) -> bool {
        // An engine that failed counts as stopped, too.
        self.ended || self.inner.is_stopped() && self.inner.stop_reason().is_ok()
    }

    /// Takes the last `n` accepted tokens back, end tokens included. What the matcher does from there is what it would
    /// have done had they never been accepted.
    ///
    /// # Errors
    /// [`ConstrainError::Rollback`] when there are fewer, or a limit was set in between; nothing has changed then.
    /// [`ConstrainError::Internal`].
    pub fn rollback(&mut self, n: usize) -> Result<()> {
        let accepted = self.history.len();
        let Some(keep) = accepted.checked_sub(n) else {
            return Err(ConstrainError::Rollback { asked: n, accepted });
        };
        let Some(step) = self.history.get(keep).cloned() else { return Ok(()) };
        if let Some(limit) = self.limit.as_ref().filter(|limit| keep < limit.since) {
            return Err(ConstrainError::Rollback { asked: n, accepted: accepted - limit.since });
        }
        let of_text = n - usize::from(self.ended);
        self.inner.rollback(of_text).map_err(|error| self.failed(&error))?;
        if let (Some(limit), Some(ending)) = (&mut self.limit, step.ending) {
            limit.left += of_text;
            limit.ending = ending;
        }
        self.ended = false;
        self.place = step.place;
        self.turned_down.clear();
        self.history.truncate(keep);
        Ok(())
    }

    /// Tokens accepted so far.
    pub fn accepted(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.history.iter().map(|step| step.id)
    }

    fn n_vocab(&self) -> usize {
        self.env.tok_trie().vocab_size()
    }

    /// The error behind what the engine said.
    fn failed(&self, error: &dyn fmt::Display) -> ConstrainError {
        let problem = said(error);
        match self.inner.stop_reason() {
            StopReason::LexerTooComplex | StopReason::ParserTooComplex => ConstrainError::TooCostly { problem },
            _ if problem.contains("NoExtensionBias") => ConstrainError::DeadEnd,
            _ if problem.contains("too complex") || problem.contains("limit") => ConstrainError::TooCostly { problem },
            _ => ConstrainError::Internal { problem },
        }
    }
}

fn set(mask: &mut [u32], ids: &[u32]) {
    for &id in ids {
        mask[id as usize / 32] |= 1 << (id % 32);
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher")
            .field("accepted", &self.history.len())
            .field("left", &self.left())
            .field("finished", &self.is_finished())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use crate::{ConstrainError, Constraint, Constraints};

    #[test]
    fn a_failure_of_the_engine_ends_one_text_only() {
        let tokens = (0..=255u8).map(|byte| vec![byte]).chain([Vec::new()]);
        let constraints = Constraints::from_bytes(tokens, &[256]).unwrap();
        let mut mask = vec![0; constraints.mask_words()];
        let mut failing = constraints.start(&Constraint::JsonObject).unwrap();
        let mut other = constraints.start(&Constraint::JsonObject).unwrap();
        let error = failing.inner.test_trigger_lexer_error().map_err(|error| failing.failed(&error));
        assert!(error.is_err() || failing.mask(&mut mask).is_err());
        for result in [failing.mask(&mut mask), failing.accept(123).map(|_| ()), failing.set_limit(9)] {
            let error = result.unwrap_err();
            assert!(!error.to_string().contains('\n'), "{error}");
            assert!(!matches!(error, ConstrainError::LimitTooSmall { .. }));
        }
        other.mask(&mut mask).unwrap();
        other.set_limit(9).unwrap();
        constraints.start(&Constraint::JsonObject).unwrap().mask(&mut mask).unwrap();
    }
}
