//! Whole batches on a mock model.

mod common;

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use common::Recorder;
use common::mock::{END, Mock, N_VOCAB, expected, vocabulary};
use proptest::prelude::*;
use verve_engine::*;
use verve_ops::KV_BLOCK;

fn any_params() -> impl Strategy<Value = SamplingParams> {
    let stops = prop::sample::select(vec!["a", "ab ", "b a", "éé", "€b", "\u{fffd}b", "abababab"]);
    (
        (prop::sample::select(vec![0.0f32, 0.5, 1.0, 3.0]), prop::sample::select(vec![1.0f32, 0.8]), 0usize..6),
        (prop::sample::select(vec![1.0f32, 1.5]), prop::sample::select(vec![0.0f32, 0.5])),
        prop::collection::vec(stops, 0..3),
        any::<u64>(),
        1usize..100,
        prop::option::of(0usize..4),
        any::<bool>(),
    )
        .prop_map(|((temperature, top_p, top_k), penalties, stop, seed, max_tokens, n_logprobs, ignore_eos)| {
            SamplingParams {
                temperature,
                top_p,
                top_k,
                repetition_penalty: penalties.0,
                frequency_penalty: penalties.1,
                stop: stop.into_iter().map(str::to_owned).collect(),
                seed,
                max_tokens,
                n_logprobs,
                ignore_eos,
                ..SamplingParams::default()
            }
        })
}

fn any_request() -> impl Strategy<Value = Request> {
    let length = prop_oneof![0usize..4, 0usize..140];
    (length.prop_flat_map(|n| prop::collection::vec(0..N_VOCAB as u32, n)), any_params())
        .prop_map(|(prompt, params)| Request { prompt, params, ..Request::default() })
}

/// Sizes that make requests wait, share and come after one another in the same blocks.
fn any_mock(n_ctx: usize) -> impl Strategy<Value = Mock> {
    let least = n_ctx.div_ceil(KV_BLOCK);
    (prop_oneof![1usize..5, 1usize..300], 1usize..6, least..3 * least)
        .prop_map(move |(rows, sequences, blocks)| Mock::new(n_ctx, rows, sequences, blocks))
}

impl std::fmt::Debug for Mock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}, {} blocks", self.limits, self.n_blocks())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]
    #[test]
    fn an_answer_is_the_same_in_any_company(
        requests in prop::collection::vec(any_request(), 1..9),
        mut mock in any_mock(150),
    ) {
        let found = mock.run(&requests);
        for (request, record) in requests.iter().zip(found) {
            prop_assert_eq!(record, expected(request, 150));
        }
    }

    #[test]
    fn whole_answers_are_the_events_joined(
        requests in prop::collection::vec(any_request(), 1..5),
        mut mock in any_mock(150),
    ) {
        let (vocabulary, cancel) = (vocabulary(), AtomicBool::new(false));
        let batch = Batch { requests: &requests, vocabulary: &vocabulary, cancel: &cancel };
        let (answers, totals) = answer(&mut mock, &batch).unwrap();
        let n_generated: usize = answers.iter().flatten().map(|answers| answers.choices[0].finish.n_generated).sum();
        prop_assert!(answers.iter().any(Result::is_err) || totals.n_generated == n_generated);
        for (request, answer) in requests.iter().zip(answers) {
            let expected = expected(request, 150);
            match answer {
                Ok(answers) => {
                    let answer = &answers.choices[0];
                    prop_assert_eq!(&answer.text, &expected.text());
                    prop_assert_eq!(Some(Finish { n_cached: 0, n_discarded: 0, ..answer.finish }), expected.finish);
                    let tokens: Vec<_> = answer.tokens.iter().map(|t| (t.id, t.logprob.map(f32::to_bits))).collect();
                    prop_assert_eq!(tokens, expected.tokens.iter().map(|t| (t.id, t.logprob)).collect::<Vec<_>>());
                }
                Err(error) => prop_assert_eq!(Some(error.to_string()), expected.error),
            }
        }
    }

    /// Some requests are ended by the callback after a few tokens, everything by the flag after some more.
    #[test]
    fn ending_some_leaves_the_others_as_they_are(
        requests in prop::collection::vec(any_request(), 1..9),
        patience in prop::collection::vec(prop::option::of(1usize..20), 9),
        cancel_after in prop::option::of(0usize..200),
        mut mock in any_mock(150),
    ) {
        let (vocabulary, cancel) = (vocabulary(), AtomicBool::new(cancel_after == Some(0)));
        let mut recorder = Recorder::new(requests.len());
        let mut n_tokens = 0;
        let batch = Batch { requests: &requests, vocabulary: &vocabulary, cancel: &cancel };
        let totals = generate(&mut mock, &batch, &mut |event| {
            let request = event.request();
            recorder.take(event);
            n_tokens = recorder.0.iter().map(|record| record.tokens.len()).sum();
            if cancel_after.is_some_and(|n| n_tokens >= n) {
                cancel.store(true, Ordering::Relaxed);
            }
            match patience[request] {
                Some(limit) if recorder.0[request].tokens.len() >= limit => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        }).unwrap();
        let found = recorder.finish();
        prop_assert_eq!(totals.n_generated, n_tokens);
        for ((request, found), patience) in requests.iter().zip(&found).zip(&patience) {
            let whole = expected(request, 150);
            let n = found.tokens.len();
            prop_assert_eq!(&found.tokens[..], &whole.tokens[..n], "what was reported is true");
            match found.reason() {
                Some(FinishReason::Cancelled) => {
                    let ended = patience.is_some_and(|limit| n == limit);
                    prop_assert!(ended || cancel.load(Ordering::Relaxed));
                    prop_assert!(n < whole.tokens.len() || whole.error.is_some());
                    prop_assert_eq!(found.finish.unwrap().n_generated, n);
                }
                _ => {
                    prop_assert_eq!(found, &whole);
                    prop_assert!(patience.is_none_or(|limit| n <= limit));
                }
            }
        }
    }
}

fn request(prompt: &[u32], params: SamplingParams) -> Request {
    Request { prompt: prompt.to_vec(), params, ..Request::default() }
}

fn greedy(max_tokens: usize) -> SamplingParams {
    SamplingParams { temperature: 0.0, max_tokens, ignore_eos: true, ..SamplingParams::default() }
}

#[test]
fn a_bad_request_fails_alone_and_says_why() {
    let good = || request(&[1, 2, 3], greedy(9));
    let bad = [
        (
            request(&[1; 101], greedy(5)),
            "the prompt has 101 tokens, the context holds 100; shorten the prompt by 1 or more",
        ),
        (request(&[1], SamplingParams { top_p: 0.0, ..greedy(5) }), "top_p is 0, must be above 0 and at most 1"),
        (request(&[1], greedy(0)), "max_tokens is 0, must be at least 1"),
        (
            request(&[1, 12], greedy(5)),
            "token 1 of the prompt is 12, the vocabulary ends at 12: prompt and model use different tokenizers",
        ),
        (
            request(&[7, 7, 7], greedy(5)),
            "the model's logit of token 5 is NaN after 0 tokens of the answer: its weights are damaged or too large for its \
             number type",
        ),
    ];
    let mut requests = vec![good()];
    for (request, _) in &bad {
        requests.extend([request.clone(), good()]);
    }
    let found = Mock::new(100, 16, 3, 6).run(&requests);
    let expected = expected(&good(), 100);
    assert_eq!(
        expected.finish,
        Some(Finish {
            reason: FinishReason::Length,
            n_prompt: 3,
            n_cached: 0,
            n_generated: 9,
            n_discarded: 0,
            score: None
        })
    );
    for (place, record) in found.iter().enumerate() {
        match place % 2 {
            0 => assert_eq!(record, &expected, "request {place}"),
            _ => {
                assert_eq!(record.error.as_deref(), Some(bad[place / 2].1));
                assert!(record.tokens.is_empty());
            }
        }
    }
}

#[test]
fn a_cache_that_is_too_small_for_one_request_is_its_error() {
    // 64 + 2 tokens need a place; the last token of the answer does not.
    let requests = [request(&[1; 64], greedy(2)), request(&[1; 64], greedy(1)), request(&[1; 64], greedy(1000))];
    let found = Mock::new(100, 16, 3, 1).run(&requests);
    let message = |needed| {
        format!(
            "prompt and answer can take {needed} tokens, the KV cache holds 64; lower max_tokens or give the cache more blocks"
        )
    };
    assert_eq!(found[0].error, Some(message(65)));
    assert_eq!(found[1], expected(&requests[1], 100));
    assert_eq!(found[2].error, Some(message(100)), "max_tokens beyond the context takes no more than the context");
}

#[test]
fn an_answer_ends_where_the_context_ends() {
    let requests = [request(&[1; 90], greedy(500)), request(&[1; 100], greedy(500)), request(&[2; 100], greedy(1))];
    let found = Mock::new(100, 32, 2, 4).run(&requests);
    let finish = |n_prompt, n_generated| {
        Some(Finish { reason: FinishReason::Length, n_prompt, n_cached: 0, n_generated, n_discarded: 0, score: None })
    };
    let finishes: Vec<_> = found.iter().map(|record| record.finish).collect();
    assert_eq!(finishes, [finish(90, 11), finish(100, 1), finish(100, 1)]);
}

#[test]
fn an_empty_prompt_starts_with_the_start_token_or_is_an_error() {
    let requests = [request(&[], greedy(5))];
    assert_eq!(Mock::new(100, 32, 2, 4).run(&requests)[0], expected(&request(&[END], greedy(5)), 100));
    let (vocabulary, cancel) = (vocabulary().with_start(None), AtomicBool::new(false));
    let batch = Batch { requests: &requests, vocabulary: &vocabulary, cancel: &cancel };
    let (answers, _) = answer(&mut Mock::new(100, 32, 2, 4), &batch).unwrap();
    assert!(matches!(answers[0], Err(EngineError::EmptyPrompt)));
}

#[test]
fn a_failed_machine_is_an_error_of_the_whole_call() {
    let requests = [request(&[1], greedy(5)), request(&[2], greedy(5))];
    let (vocabulary, cancel) = (vocabulary(), AtomicBool::new(false));
    let batch = Batch { requests: &requests, vocabulary: &vocabulary, cancel: &cancel };
    let mut mock = Mock::new(100, 32, 2, 4);
    mock.fails_at = Some(3);
    assert!(matches!(answer(&mut mock, &batch), Err(EngineError::Model(_))));
    // The next call starts afresh.
    mock.fails_at = None;
    assert_eq!(mock.run(&requests), requests.each_ref().map(|request| expected(request, 100)));
}

#[test]
fn a_tokenizer_of_another_model_is_refused() {
    let vocabulary = Vocabulary::from_bytes((0..15).map(|_| b"x"));
    let batch = Batch { requests: &[], vocabulary: &vocabulary, cancel: &AtomicBool::new(false) };
    let error = answer(&mut Mock::new(100, 32, 2, 4), &batch).unwrap_err().to_string();
    assert_eq!(error, "the tokenizer has 15 ids, the model only 14: they do not belong together");
}

#[test]
fn work_is_shared_and_no_token_is_computed_twice() {
    let requests: Vec<Request> = (0..6).map(|n| request(&[n; 10], greedy(20))).collect();
    let (vocabulary, cancel) = (vocabulary(), AtomicBool::new(false));
    let batch = Batch { requests: &requests, vocabulary: &vocabulary, cancel: &cancel };
    let run = |max_rows, max_sequences| answer(&mut Mock::new(100, max_rows, max_sequences, 12), &batch).unwrap().1;
    let rows = 6 * (10 + 20 - 1);
    let totals = |steps| Totals { steps, rows, n_generated: 120, ..Totals::default() };
    assert_eq!(run(64, 6), totals(20));
    assert_eq!(run(64, 1), totals(120));
    // Two steps for each prompt, and two requests at once.
    assert_eq!(run(10, 2).rows, rows);
}

#[test]
fn tokens_of_answers_that_are_not_reported_are_counted_once() {
    let params = SamplingParams { ignore_eos: true, max_tokens: 7, ..SamplingParams::default() };
    let requests = [Request { n: 2, best_of: 5, ..request(&[1], params) }];
    let (vocabulary, cancel) = (vocabulary(), AtomicBool::new(false));
    let batch = Batch { requests: &requests, vocabulary: &vocabulary, cancel: &cancel };
    let (mut answers, totals) = answer(&mut Mock::new(100, 32, 5, 12), &batch).unwrap();
    let counts = |answer: &Answer| (answer.finish.n_generated, answer.finish.n_discarded);
    let answers = answers.remove(0).unwrap();
    assert_eq!(answers.choices.iter().map(counts).collect::<Vec<_>>(), [(7, 3 * 7), (7, 0)]);
    assert_eq!(totals.n_generated, 5 * 7);
}
