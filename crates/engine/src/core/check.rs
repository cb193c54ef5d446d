//! Whether a request can be answered.

use verve_ops::KV_BLOCK;

use super::{Run, longest_answer};
use crate::error::EngineError;
use crate::request::{MAX_CHOICES, Request};
use crate::schedule::Scheduler;

impl Run<'_> {
    /// Checks a request and returns how many tokens its answers may have.
    pub(super) fn check(&self, request: &Request) -> Result<usize, EngineError> {
        let Request { params, n, best_of, prompt_logprobs, embed, .. } = request;
        params.validate(self.vocabulary)?;
        let wrong =
            |field, found: usize, allowed: String| EngineError::Parameter { field, found: found.to_string(), allowed };
        if *n == 0 || *n > MAX_CHOICES {
            return Err(wrong("n", *n, format!("from 1 to {MAX_CHOICES}")));
        }
        if *best_of != 0 && !(*n..=MAX_CHOICES).contains(best_of) {
            return Err(wrong("best_of", *best_of, format!("from n, which is {n}, to {MAX_CHOICES}")));
        }
        if let Some(beams) = &request.beams {
            beams.validate(request)?;
        }
        let limit = self.vocabulary.n_vocab();
        if let Some(k) = prompt_logprobs.filter(|&k| k > limit) {
            return Err(wrong("prompt_logprobs", k, format!("from 0 to {limit}, the size of the vocabulary")));
        }
        if embed.is_some() && (prompt_logprobs.is_some() || request.constraint.is_some()) {
            return Err(EngineError::Parameter {
                field: "embed",
                found: "set together with prompt_logprobs or a constraint".to_owned(),
                allowed: "asked for alone: such a request has no logits".to_owned(),
            });
        }
        let generates = embed.is_none();
        if params.max_tokens == 0 && generates && prompt_logprobs.is_none() {
            return Err(wrong("max_tokens", 0, "at least 1".to_owned()));
        }
        let prompt = if request.prompt.is_empty() { self.vocabulary.start_prompt() } else { &request.prompt };
        if prompt.is_empty() {
            return Err(EngineError::EmptyPrompt);
        }
        if let Some(index) = prompt.iter().position(|&id| id as usize >= limit) {
            return Err(EngineError::TokenId { index, found: prompt[index], limit });
        }
        if prompt.len() > self.n_ctx {
            return Err(EngineError::PromptTooLong { n_prompt: prompt.len(), n_ctx: self.n_ctx });
        }
        let max_new = if generates { longest_answer(self.n_ctx, prompt.len(), params) } else { 0 };
        let n_blocks = self.scheduler.blocks().n_blocks();
        if Scheduler::blocks_needed(prompt.len(), max_new) > n_blocks {
            let needed = Scheduler::tokens_needed(prompt.len(), max_new);
            return Err(EngineError::CacheTooSmall { needed, capacity: n_blocks * KV_BLOCK });
        }
        Ok(max_new)
    }
}
