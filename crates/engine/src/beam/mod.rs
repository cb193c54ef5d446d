//! Beam search: what can be asked for.

mod search;

pub(crate) use search::{Hypothesis, Search};

use crate::error::EngineError;
use crate::request::{MAX_CHOICES, Request};

/// Beam search: of all answers, those whose tokens are likeliest together, as far as following the `width` likeliest
/// beginnings finds them. As transformers 5 does it (`num_beams`): where `width` beginnings go on, the `2 width` likeliest
/// continuations (more, if several tokens end a text) are looked at in the order of their likelihood. Those that end are
/// complete if they are among the first `width`; the first `width` that do not end go on.
///
/// A complete answer of `n` tokens, the one that ends the text included, has the score
/// `(sum of log-probabilities) / n^length_penalty`; the best `width` are kept, the best `n` of the request reported. An
/// answer is complete when its last token ends the text, completes a stop string, fulfils the constraint, or is the last
/// that `max_tokens` and the context allow.
///
/// The log-probabilities are the model's own, unless penalties or a bias are set: they change the logits before these
/// become probabilities. What may not come is left out afterwards. Everything that shapes a draw must be off: temperature
/// (0 or 1), filters, mirostat, `best_of`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BeamSearch {
    /// Beginnings that are followed at once, 2 to [`MAX_CHOICES`]; at least the request's `n`.
    pub width: usize,
    /// Power of its length that an answer's likelihood is divided by. Above 0 favours long answers. -10 to 10.
    pub length_penalty: f64,
    /// When the search ends.
    pub early_stopping: EarlyStopping,
}

impl Default for BeamSearch {
    /// As in transformers, with its customary four beams.
    fn default() -> Self {
        Self { width: 4, length_penalty: 1.0, early_stopping: EarlyStopping::Heuristic }
    }
}

/// When a beam search ends. It always does when nothing can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EarlyStopping {
    /// When `width` answers are complete and the best beginning, with the score that it would have if it ended as it is,
    /// is no better than the worst of them (`early_stopping=False`).
    #[default]
    Heuristic,
    /// As soon as `width` answers are complete (`early_stopping=True`).
    Full,
    /// When `width` answers are complete and the best beginning could not become better than the worst of them at any
    /// length (`early_stopping="never"`).
    Never,
}

impl BeamSearch {
    /// Checks the settings and those of the request that do not go with them.
    ///
    /// # Errors
    /// [`EngineError::Parameter`], which names the first field that is wrong, its value and what would do.
    pub(crate) fn validate(&self, request: &Request) -> Result<(), EngineError> {
        let fail = |field, found: String, allowed: String| Err(EngineError::Parameter { field, found, allowed });
        let Self { width, length_penalty, .. } = *self;
        if !(2..=MAX_CHOICES).contains(&width) {
            return fail("beams.width", width.to_string(), format!("from 2 to {MAX_CHOICES}"));
        }
        if !(-10.0..=10.0).contains(&length_penalty) {
            return fail("beams.length_penalty", length_penalty.to_string(), "from -10 to 10".to_owned());
        }
        let n = request.n;
        if n > width {
            return fail("n", n.to_string(), format!("at most {width}, the width of the beam search"));
        }
        let params = &request.params;
        let off = [
            (
                "temperature",
                f64::from(params.temperature),
                params.temperature == 1.0 || params.temperature == 0.0,
                "0 or 1",
            ),
            ("top_k", params.top_k as f64, params.top_k == 0, "0"),
            ("top_p", f64::from(params.top_p), params.top_p == 1.0, "1"),
            ("min_p", f64::from(params.min_p), params.min_p == 0.0, "0"),
            ("typical_p", f64::from(params.typical_p), params.typical_p == 1.0, "1"),
            ("top_n_sigma", f64::from(params.top_n_sigma), params.top_n_sigma == 0.0, "0"),
            ("mirostat_tau", f64::from(params.mirostat_tau), params.mirostat_tau == 0.0, "0"),
            ("best_of", request.best_of as f64, request.best_of == 0, "0"),
        ];
        match off.into_iter().find(|&(_, _, is_off, _)| !is_off) {
            Some((field, found, _, neutral)) => {
                // Single-precision settings are shown as they were given.
                fail(field, (found as f32).to_string(), format!("{neutral} with beam search, which draws nothing"))
            }
            None if request.embed.is_some() => {
                fail("embed", "set together with beam search".to_owned(), "asked for alone".to_owned())
            }
            None => Ok(()),
        }
    }
}
