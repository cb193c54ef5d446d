//! What is reported at once: the prompt's log-probabilities, answers of which only the best are wanted.

use std::slice::ChunksExact;

use verve_ops::Real;

use crate::beam::Hypothesis;
use crate::error::EngineError;
use crate::group::{Group, Record};
use crate::request::{AnswerToken, Event, Finish, FinishReason, OnEvent};
use crate::sampler::Sampler;
use crate::schedule::Segment;
use crate::text::TextStream;
use crate::vocabulary::Vocabulary;

/// Adds the log-probabilities of the prompt's tokens that follow a segment's outputs; reports them when they are complete.
pub(super) fn score<R: Real>(
    group: &mut Group,
    segment: &Segment,
    logits: ChunksExact<'_, R>,
    sampler: &mut Sampler,
    request: usize,
    on_event: OnEvent<'_>,
) -> Result<(), EngineError> {
    let Some(n) = group.request.prompt_logprobs else { return Ok(()) };
    let prompt = &group.request.prompt;
    if group.scored.len() == prompt.len() {
        return Ok(());
    }
    if group.scored.is_empty() {
        group.scored.push(AnswerToken { id: prompt[0], logprob: None, alternatives: Vec::new() });
    }
    for (position, logits) in segment.outputs.clone().zip(logits) {
        let Some(&id) = prompt.get(position + 1) else { break };
        let (logprob, alternatives) = sampler.logprobs_of(logits, id, n)?;
        group.scored.push(AnswerToken { id, logprob: Some(logprob), alternatives: alternatives.to_vec() });
    }
    if group.scored.len() == prompt.len() {
        group.is_unwanted |= on_event(Event::Prompt { request, tokens: &group.scored }).is_break();
    }
    Ok(())
}

/// Reports the likeliest answers, where only those are wanted.
pub(super) fn report_recorded(request: usize, group: &Group, on_event: OnEvent<'_>) {
    let mut records: Vec<&Record> = group.choices.iter().filter_map(|c| c.record.as_ref()).collect();
    // Stable: of equally likely answers the first computed is the first.
    records.sort_by(|a, b| b.likelihood().total_cmp(&a.likelihood()));
    let others = records.iter().skip(group.request.n).map(|record| record.tokens.len()).sum();
    for (choice, record) in records.into_iter().take(group.request.n).enumerate() {
        for (AnswerToken { id, logprob, alternatives }, text) in &record.tokens {
            let logprob = logprob.filter(|_| group.with_logprobs);
            // The request is over, whatever is answered.
            let _ = on_event(Event::Token { request, choice, id: *id, text, logprob, alternatives });
        }
        if let Some(finish) = record.finish {
            let finish = Finish { n_discarded: if choice == 0 { others } else { 0 }, ..finish };
            let _ = on_event(Event::Finished { request, choice, text: &record.last_text, finish });
        }
    }
}

/// Reports the best answers of a beam search that is over; where there are fewer than were asked for, which only a
/// cancelled one has, empty ones.
pub(super) fn report_beams(request: usize, group: &Group, vocabulary: &Vocabulary, on_event: OnEvent<'_>) {
    let Some(search) = &group.search else { return };
    let (n_prompt, n_cached) = (group.n_prompt, group.n_cached.unwrap_or(0));
    let best = search.best(group.request.n);
    let n_reported: usize = best.iter().map(Hypothesis::len).sum();
    for choice in 0..group.request.n {
        let hypothesis = best.get(choice);
        let (mut reason, score) = match hypothesis.and_then(|hypothesis| hypothesis.end) {
            Some((reason, score)) => (reason, Some(score)),
            None => (FinishReason::Cancelled, None),
        };
        let mut text = TextStream::new(search.stops().clone());
        let n_generated = hypothesis.map_or(0, Hypothesis::len);
        for (place, token) in hypothesis.into_iter().flat_map(Hypothesis::tokens).enumerate() {
            let ends_text =
                reason == FinishReason::EndOfText && place + 1 == n_generated && vocabulary.ends_text(token.id);
            let piece = text.push(if ends_text { &[] } else { vocabulary.bytes(token.id) });
            let logprob = group.with_logprobs.then_some(token.logprob);
            let (id, alternatives) = (token.id, &*token.alternatives);
            // The request is over, whatever is answered.
            let _ = on_event(Event::Token { request, choice, id, text: piece.text, logprob, alternatives });
        }
        let piece = text.finish();
        if piece.stopped && reason != FinishReason::Cancelled {
            reason = FinishReason::Stop;
        }
        let n_discarded = if choice == 0 { search.n_chosen().saturating_sub(n_reported) } else { 0 };
        let finish = Finish { reason, n_prompt, n_cached, n_generated, n_discarded, score };
        let _ = on_event(Event::Finished { request, choice, text: piece.text, finish });
    }
}
