//! Beam search: what transformers finds, what there is to find, and what it costs.

#![allow(clippy::unwrap_used, reason = "in a test, a failure is a panic")]

mod common;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use common::mock::{END, Mock, N_VOCAB, logits_after, vocabulary};
use verve_engine::*;
use verve_model::formats::ModelFile;
use verve_ops::KV_BLOCK;
use verve_ops::quant::ActivationPrecision;
use verve_ops::reference::Reference;
use verve_testkit::{Data, golden_dir};

/// A request that searches.
fn searching(prompt: &[u32], n: usize, beams: BeamSearch, max_tokens: usize) -> Request {
    let params = SamplingParams { max_tokens, ..SamplingParams::default() };
    Request { prompt: prompt.to_vec(), params, n, beams: Some(beams), ..Request::default() }
}

/// Each answer's ids and score.
fn found(answers: &Answers) -> Vec<(Vec<u32>, f64)> {
    let one = |answer: &Answer| (answer.tokens.iter().map(|t| t.id).collect(), answer.finish.score.unwrap());
    answers.choices.iter().map(one).collect()
}

#[test]
fn transformers_finds_the_same() {
    let text = std::fs::read_to_string(golden_dir("beam_search.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids = |value: &serde_json::Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let backend = Reference::<f64>::new();
    let mut models: HashMap<String, ModelFile> = HashMap::new();
    let mut n_answers = 0;
    for case in golden["cases"].as_array().unwrap() {
        let name = case["model"].as_str().unwrap();
        let file = models.entry(name.to_owned()).or_insert_with(|| ModelFile::open(&golden_dir(name)).unwrap());
        let config = file.config();
        let vocabulary = Vocabulary::from_bytes((0..config.n_vocab).map(|id| [b' ' + (id % 90) as u8]))
            .with_end_of_text(ids(&case["ends"]));
        let width = case["width"].as_u64().unwrap() as usize;
        let early_stopping = match &case["early_stopping"] {
            serde_json::Value::Bool(true) => EarlyStopping::Full,
            serde_json::Value::Bool(false) => EarlyStopping::Heuristic,
            _ => EarlyStopping::Never,
        };
        let beams = BeamSearch { width, length_penalty: case["length_penalty"].as_f64().unwrap(), early_stopping };
        let max_tokens = case["max_tokens"].as_u64().unwrap() as usize;
        let request = searching(&ids(&case["prompt"]), width, beams, max_tokens);
        let weights = file.infer_weights(&backend, ActivationPrecision::Exact).unwrap();
        let options = EngineOptions::default().for_requests(std::slice::from_ref(&request), config);
        let mut engine = Engine::new(&backend, config, weights, &vocabulary, &options).unwrap();
        let answers = engine.answer(&[request], &AtomicBool::new(false)).unwrap().remove(0).unwrap();
        let expected = case["answers"].as_array().unwrap();
        assert_eq!(answers.choices.len(), expected.len());
        for ((tokens, score), expected) in found(&answers).iter().zip(expected) {
            assert_eq!(*tokens, ids(&expected["ids"]), "{case}");
            let expected = expected["score"].as_f64().unwrap();
            assert!((score - expected).abs() < 2e-5 * expected.abs().max(1.0), "{score} in {case}");
            n_answers += 1;
        }
    }
    assert!(n_answers > 200);
}

/// All answers of at most `left` more tokens, with the sums of their log-probabilities.
fn all_answers(tokens: &[u32], n_prompt: usize, left: usize, sum: f64, out: &mut Vec<(Vec<u32>, f64)>) {
    let logits = logits_after(tokens);
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
    for id in (0..N_VOCAB as u32).filter(|&id| id != 10) {
        let sum = sum + logits[id as usize] - max - total.ln();
        let longer: Vec<u32> = tokens.iter().copied().chain([id]).collect();
        if id == END || left == 1 {
            out.push((longer[n_prompt..].to_vec(), sum));
        } else {
            all_answers(&longer, n_prompt, left - 1, sum, out);
        }
    }
}

#[test]
fn with_room_for_all_beginnings_the_best_of_all_answers_are_found() {
    let vocabulary = vocabulary();
    for (length_penalty, early_stopping, seed) in [
        (0.0, EarlyStopping::Never, 1),
        (1.0, EarlyStopping::Never, 2),
        (2.0, EarlyStopping::Never, 3),
        (-1.0, EarlyStopping::Never, 4),
    ] {
        let prompt = Data::new(seed).ids(5, N_VOCAB - 2);
        let mut all = Vec::new();
        all_answers(&prompt, prompt.len(), 3, 0.0, &mut all);
        let score = |(ids, sum): &(Vec<u32>, f64)| sum / (ids.len() as f64).powf(length_penalty);
        all.sort_by(|a, b| score(b).total_cmp(&score(a)));
        // Of three tokens, there are 100 beginnings of two.
        let beams = BeamSearch { width: 128, length_penalty, early_stopping };
        let request = searching(&prompt, 20, beams, 3);
        let mut mock = Mock::new(350, 1000, 200, 300);
        let batch = Batch { requests: &[request], vocabulary: &vocabulary, cancel: &AtomicBool::new(false) };
        let (answers, _) = answer(&mut mock, &batch).unwrap();
        let answers = found(answers[0].as_ref().unwrap());
        assert_eq!(answers.len(), 20);
        for (found, expected) in answers.iter().zip(&all) {
            // Likelihoods are often equal.
            assert!((found.1 - score(expected)).abs() < 1e-4, "{found:?} {expected:?}");
            let (_, sum) = all.iter().find(|(ids, _)| *ids == found.0).unwrap();
            assert!((found.1 - score(&(found.0.clone(), *sum))).abs() < 1e-4);
        }
    }
}

fn core_of<'v>(mock: Mock, vocabulary: &'v Vocabulary) -> Core<'v, Mock> {
    let options = CoreOptions::for_limits(mock.limits);
    Core::new(mock, vocabulary, options).unwrap()
}

#[test]
fn beams_share_their_prompt_and_those_of_one_parent_all_but_its_last_block() {
    let vocabulary = vocabulary();
    let prompt = Data::new(5).ids(3 * KV_BLOCK + 40, N_VOCAB - 2);
    let params = SamplingParams { max_tokens: 20, ignore_eos: true, ..SamplingParams::default() };
    let request = Request { prompt, params, beams: Some(BeamSearch::default()), ..Request::default() };
    let mut core = core_of(Mock::new(350, 300, 8, 60), &vocabulary);
    let totals = core.answer_all(&[request], &AtomicBool::new(false), &mut |_| ControlFlow::Continue(())).unwrap();
    // One step for each token: those that start anew catch up in the step in which the others go on.
    assert_eq!(totals.steps, 20);
    let prompt_rows = 3 * KV_BLOCK + 40;
    assert!(totals.rows < prompt_rows + 20 * 3 * (KV_BLOCK + 1), "{totals:?}");
}

/// Runs a search, cancelled before a step; what it got, and the blocks that are left.
fn cancelled_before(step: usize, blocks: usize) -> (Answers, bool) {
    let vocabulary = vocabulary();
    let mut core = core_of(Mock::new(350, 50, 3, blocks), &vocabulary);
    let params = SamplingParams { max_tokens: 12, ignore_eos: true, ..SamplingParams::default() };
    let beams = Some(BeamSearch { width: 4, ..BeamSearch::default() });
    let request = Request { prompt: Data::new(1).ids(130, N_VOCAB - 2), params, n: 3, beams, ..Request::default() };
    let name = core.submit(request).unwrap();
    let mut collected = Collected::default();
    let mut n = 0;
    while !core.is_idle() {
        let mut on_event = |event: Event<'_>| {
            collected.take(event);
            ControlFlow::Continue(())
        };
        if n == step {
            core.cancel(name, &mut on_event);
        }
        core.step(&mut on_event).unwrap();
        core.scheduler().check();
        n += 1;
    }
    let blocks = core.scheduler().blocks();
    assert_eq!(blocks.n_available(), blocks.n_blocks());
    assert!(core.scheduler().is_idle());
    (collected.end().unwrap(), n <= step)
}

#[test]
fn a_search_can_be_cancelled_before_any_step() {
    // Blocks for all, and hardly for one at a time.
    for blocks in [40, 3] {
        let (whole, _) = cancelled_before(usize::MAX, blocks);
        assert!(whole.choices.iter().all(|answer| answer.finish.reason == FinishReason::Length));
        let mut step = 0;
        loop {
            let (answers, is_whole) = cancelled_before(step, blocks);
            assert_eq!(answers.choices.len(), 3, "before step {step}");
            if is_whole {
                assert_eq!(answers, whole);
                break;
            }
            for answer in &answers.choices {
                assert_eq!(answer.finish.reason, FinishReason::Cancelled);
                assert_eq!(answer.tokens.len(), answer.finish.n_generated);
            }
            step += 1;
        }
        assert!(step > 12);
    }
}

#[test]
fn scores_are_sums_of_the_reported_log_probabilities() {
    let vocabulary = vocabulary();
    let mut core = core_of(Mock::new(350, 50, 6, 40), &vocabulary);
    let beams = BeamSearch { width: 6, length_penalty: 0.5, ..BeamSearch::default() };
    let mut request = searching(&[2, 5, 3, 1], 4, beams, 30);
    request.params.n_logprobs = Some(3);
    request.params.stop = vec!["ab".to_owned()];
    let (mut answers, _) = core.whole_answers(&[request], &AtomicBool::new(false)).unwrap();
    let answers = answers.remove(0).unwrap().choices;
    let scores: Vec<f64> = answers.iter().map(|answer| answer.finish.score.unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b));
    for (answer, score) in answers.iter().zip(scores) {
        let sum: f64 = answer.tokens.iter().map(|token| f64::from(token.logprob.unwrap())).sum();
        assert!((sum / (answer.tokens.len() as f64).sqrt() - score).abs() < 1e-4);
        assert!(answer.tokens.iter().all(|token| token.alternatives.len() == 3));
        assert!(!answer.text.contains("ab"));
        assert_eq!(answer.finish.n_generated, answer.tokens.len());
    }
    assert!(answers.iter().any(|answer| answer.finish.reason == FinishReason::Stop));
}

#[test]
fn penalties_and_bias_change_what_is_found() {
    let vocabulary = vocabulary();
    let search = |params: SamplingParams| {
        let mut core = core_of(Mock::new(350, 50, 6, 40), &vocabulary);
        let params = SamplingParams { max_tokens: 8, ignore_eos: true, ..params };
        let request = Request { prompt: vec![1, 2], params, beams: Some(BeamSearch::default()), ..Request::default() };
        core.whole_answers(&[request], &AtomicBool::new(false)).unwrap().0.remove(0).unwrap().choices.remove(0)
    };
    let ids = |answer: &Answer| -> Vec<u32> { answer.tokens.iter().map(|token| token.id).collect() };
    let ban =
        search(SamplingParams { logit_bias: (1..12).map(|id| (id, -1000.0)).collect(), ..SamplingParams::default() });
    assert_eq!(ids(&ban), [0; 8]);
    // What is left is a matter of course, but for the rows that no token has.
    assert!(ban.finish.score.unwrap() > -5.0);
    let never_twice = search(SamplingParams { presence_penalty: 100.0, ..SamplingParams::default() });
    let mut seen = ids(&never_twice);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 8);
}

#[test]
fn what_cannot_go_with_beams_is_refused() {
    let vocabulary = vocabulary();
    let mut core = core_of(Mock::new(350, 50, 6, 40), &vocabulary);
    type Change = fn(&mut Request);
    let cases: &[(Change, &str)] = &[
        (|r| r.beams.as_mut().unwrap().width = 1, "beams.width is 1, must be from 2 to 128"),
        (|r| r.beams.as_mut().unwrap().width = 129, "beams.width is 129, must be from 2 to 128"),
        (
            |r| r.beams.as_mut().unwrap().length_penalty = f64::NAN,
            "beams.length_penalty is NaN, must be from -10 to 10",
        ),
        (|r| r.n = 5, "n is 5, must be at most 4, the width of the beam search"),
        (|r| r.best_of = 4, "best_of is 4, must be 0 with beam search, which draws nothing"),
        (|r| r.params.temperature = 0.7, "temperature is 0.7, must be 0 or 1 with beam search, which draws nothing"),
        (|r| r.params.top_k = 5, "top_k is 5, must be 0 with beam search, which draws nothing"),
        (|r| r.params.top_p = 0.9, "top_p is 0.9, must be 1 with beam search, which draws nothing"),
        (|r| r.params.min_p = 0.1, "min_p is 0.1, must be 0 with beam search, which draws nothing"),
        (|r| r.params.typical_p = 0.5, "typical_p is 0.5, must be 1 with beam search, which draws nothing"),
        (|r| r.params.top_n_sigma = 2.0, "top_n_sigma is 2, must be 0 with beam search, which draws nothing"),
        (|r| r.params.mirostat_tau = 3.0, "mirostat_tau is 3, must be 0 with beam search, which draws nothing"),
        (|r| r.embed = Some(Pooling::Mean), "embed is set together with beam search, must be asked for alone"),
    ];
    for (change, message) in cases {
        let mut request = searching(&[1], 1, BeamSearch::default(), 5);
        change(&mut request);
        assert_eq!(core.submit(request).unwrap_err().to_string(), *message);
    }
    // Only one answer is left.
    let mut request = searching(&[1], 2, BeamSearch::default(), 5);
    request.params.ignore_eos = true;
    request.params.logit_bias = (1..12).map(|id| (id, -1000.0)).collect();
    request.params.max_tokens = 1;
    let narrow = Vocabulary::from_bytes(["a"; N_VOCAB]).with_excluded(1..N_VOCAB as u32);
    let mut core = core_of(Mock::new(350, 50, 6, 40), &narrow);
    let (mut answers, _) = core.whole_answers(&[request], &AtomicBool::new(false)).unwrap();
    let message = "beam search has found 1 answers, not 2: no others are allowed; ask for fewer or for more beams";
    assert_eq!(answers.remove(0).unwrap_err().to_string(), message);
}
