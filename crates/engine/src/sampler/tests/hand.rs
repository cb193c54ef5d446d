//! Filters on numbers that can be worked out by hand, and what a whole answer keeps from token to token.

use super::*;

/// The ids that come up in many draws.
fn found(logits: &[f32], params: &SamplingParams) -> Vec<u32> {
    let vocabulary = vocabulary(logits.len(), &[]);
    params.validate(&vocabulary).unwrap();
    let question = Question::new(logits, &vocabulary, params);
    let mut sampler = question.sampler();
    let mut ids: Vec<u32> = (0..300).map(|index| question.ask(&mut sampler, index).unwrap().id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[test]
fn typical_takes_the_tokens_nearest_to_the_entropy() {
    // Surprises 1, 2, 3 and 3 bits; entropy 1.75 bits: the second is nearest, then the first, then both others.
    let logits = [0.5f32, 0.25, 0.125, 0.125].map(f32::ln);
    let kept = |typical_p| found(&logits, &SamplingParams { typical_p, ..SamplingParams::default() });
    assert_eq!(kept(0.2), [1]);
    assert_eq!(kept(0.3), [0, 1]);
    assert_eq!(kept(0.74), [0, 1]);
    assert_eq!(kept(0.76), [0, 1, 2, 3]);
    // Top-k first: of 2/3 and 1/3 the first is nearer.
    assert_eq!(found(&logits, &SamplingParams { typical_p: 0.2, top_k: 2, ..SamplingParams::default() }), [0]);
}

#[test]
fn of_many_equal_logits_the_lower_ids_stay() {
    let mut logits = vec![1.0f32; 50_000];
    let kept = |logits: &[f32], params: SamplingParams| {
        let found = found(logits, &params);
        (found[0], found[found.len() - 1])
    };
    let top_k = |top_k| SamplingParams { top_k, ..SamplingParams::default() };
    let top_p = |top_p| SamplingParams { top_p, ..SamplingParams::default() };
    assert_eq!(kept(&logits, top_k(3)), (0, 2));
    // Of 300 draws from 20,000 ids the greatest is hardly ever below 19,000, and never above.
    let (_, last) = kept(&logits, top_p(0.4));
    assert!((19_000..20_000).contains(&last), "{last}");
    // A likelier one far behind belongs to the few.
    logits[40_000] = 2.0;
    assert_eq!(found(&logits, &top_k(2)), [0, 40_000]);
    let (first, last) = kept(&logits, top_p(1e-5));
    assert_eq!((first, last), (40_000, 40_000));
}

#[test]
fn the_best_may_be_anywhere_in_a_vocabulary_of_any_size() {
    for n_vocab in [1usize, 127, 128, 255, 256, 304, 500, 640, 1153] {
        let vocabulary = vocabulary(n_vocab, &[]);
        let mut sampler = Sampler::new(&vocabulary);
        for place in 0..n_vocab {
            let mut logits: Vec<f32> = (0..n_vocab).map(|id| -(id as f32)).collect();
            logits[place] = 1.0;
            for n in [1, 2, 3] {
                let mut expected: Vec<u32> = (0..n_vocab as u32).filter(|&id| id != place as u32).collect();
                expected.insert(0, place as u32);
                expected.truncate(n);
                let (_, best) = sampler.logprobs_of(&logits, 0, n).unwrap();
                assert_eq!(best.iter().map(|t| t.id).collect::<Vec<_>>(), expected, "{place} of {n_vocab}");
            }
        }
    }
}

#[test]
fn sigmas_are_those_of_the_models_logits() {
    // Mean 1, deviation the square root of 3.
    let logits = [0.0f32, 0.0, 0.0, 4.0];
    let base = SamplingParams { temperature: 4.0, ..SamplingParams::default() };
    let kept = |top_n_sigma| SamplingParams { top_n_sigma, ..base.clone() };
    assert_eq!(found(&logits, &kept(2.3)), [3]);
    assert_eq!(found(&logits, &kept(2.32)), [0, 1, 2, 3]);
    // A ban of one token does not move the limit for the others.
    let banned = |n| SamplingParams { logit_bias: vec![(0, -1000.0)], ..kept(n) };
    assert_eq!(found(&logits, &banned(2.3)), [3]);
    assert_eq!(found(&logits, &banned(2.32)), [1, 2, 3]);
}

#[test]
fn mirostat_follows_its_aim() {
    // Each of four equal tokens has two bits. With tau 1.1: mu is 2.2, then 2.2 - 0.5 (2 - 1.1) = 1.75, which lets only
    // one token through, then 1.75 + 0.5 x 1.1 = 2.3.
    let params =
        SamplingParams { mirostat_tau: 1.1, mirostat_eta: 0.5, seed: 5, n_logprobs: Some(0), ..Default::default() };
    let vocabulary = vocabulary(4, &[]);
    params.validate(&vocabulary).unwrap();
    let mut sampler = Sampler::new(&vocabulary);
    let mut history = History::new(&params, &[]);
    let mut ids = Vec::new();
    for index in 0..200 {
        let sampled = sampler.sample(&[0.5f32; 4], &params, &history, &draws(5), index, None).unwrap();
        let bits = sampled.surprise.unwrap();
        let expected = if index == 1 { 0.0 } else { bits };
        assert!((bits - expected).abs() < 1e-6 && [0.0, 2.0].iter().any(|b| (bits - b).abs() < 1e-6), "{bits}");
        assert!((sampled.logprob.unwrap() - 0.25f32.ln()).abs() < 1e-6);
        if bits == 0.0 {
            assert_eq!(sampled.id, 0, "equal logits: the lowest id");
        }
        ids.push((sampled.id, bits));
        history.push(sampled.id, sampled.surprise);
    }
    assert!((0..4).all(|id| ids.iter().any(|&(other, _)| other == id)));
    let mean = ids.iter().map(|&(_, bits)| bits).sum::<f32>() / 200.0;
    assert!((mean - 1.1).abs() < 0.05, "{mean} bits a token");
}

#[test]
fn a_copied_history_goes_on_to_the_bit() {
    let mut data = verve_testkit::Data::new(3);
    let rows: Vec<Vec<f32>> = (0..40).map(|_| data.normal(300).into_iter().map(|x| 2.0 * x as f32).collect()).collect();
    let vocabulary = vocabulary(300, &[]);
    let params = SamplingParams {
        temperature: 0.9,
        mirostat_tau: 4.0,
        mirostat_eta: 0.3,
        dry_multiplier: 1.0,
        frequency_penalty: 0.5,
        n_logprobs: Some(2),
        seed: 8,
        ..SamplingParams::default()
    };
    params.validate(&vocabulary).unwrap();
    let answer = |sampler: &mut Sampler, history: &mut History, from: usize| {
        let mut answer = Vec::new();
        for (index, row) in rows.iter().enumerate().skip(from) {
            let sampled = sampler.sample(row, &params, history, &draws(8), index, None).unwrap();
            let (id, surprise) = (sampled.id, sampled.surprise);
            answer.push((id, surprise.map(f32::to_bits), sampled.logprob.map(f32::to_bits)));
            history.push(id, surprise);
        }
        answer
    };
    let mut sampler = Sampler::new(&vocabulary);
    let whole = answer(&mut sampler, &mut History::new(&params, &[1, 2]), 0);
    let mut history = History::new(&params, &[1, 2]);
    for (index, row) in rows.iter().enumerate() {
        // A copy, another sampler, and steps that are thrown away.
        assert_eq!(answer(&mut Sampler::new(&vocabulary), &mut history.clone(), index), whole[index..]);
        let sampled = sampler.sample(row, &params, &history, &draws(8), index, None).unwrap();
        let (id, surprise) = (sampled.id, sampled.surprise);
        history.push(id, surprise);
    }
}

#[test]
fn nothing_allowed_is_an_error_and_one_allowed_is_taken() {
    let vocabulary = vocabulary(70, &[65]);
    let logits: Vec<f32> = (0..70).map(|id| id as f32).collect();
    for temperature in [0.0, 1.0] {
        let params = SamplingParams {
            temperature,
            n_logprobs: Some(1),
            logit_bias: vec![(3, -1000.0)],
            top_n_sigma: 1.0,
            ..SamplingParams::default()
        };
        let ask = |allowed: &[u32]| {
            let question = Question { allowed: Some(allowed), ..Question::new(&logits, &vocabulary, &params) };
            question.ask(&mut question.sampler(), 2)
        };
        for none in [&[][..], &[0, 0], &[0, 0, 0], &[0, 0, 0b10, 1], &[0, 0, 1 << 6, 7]] {
            assert!(matches!(ask(none), Err(EngineError::NothingLeft { n_generated: 2 })), "{none:?}");
        }
        let reply = ask(&[1 << 3]).unwrap();
        assert_eq!(reply.id, 3);
        assert_eq!(reply.alternatives[0].id, 69, "the model's own likeliest");
        assert_eq!(ask(&[0, 1 << 31]).unwrap().id, 63);
    }
}

#[test]
fn log_probabilities_of_a_given_token() {
    // The last row belongs to no token; it takes its share all the same.
    let logits = [0.125f32, 0.5, 0.25, 0.125].map(f32::ln);
    let vocabulary = vocabulary(3, &[0]);
    let mut sampler = Sampler::new(&vocabulary);
    let (logprob, best) = sampler.logprobs_of(&logits, 0, 2).unwrap();
    assert!((logprob - 0.125f32.ln()).abs() < 1e-6);
    assert_eq!(best.iter().map(|t| t.id).collect::<Vec<_>>(), [1, 2], "an excluded token is no alternative");
    assert!((best[0].logprob - 0.5f32.ln()).abs() < 1e-6);
    assert!(sampler.logprobs_of(&logits, 1, 0).unwrap().1.is_empty());
    assert_eq!(sampler.logprobs_of(&[0.0, f32::NEG_INFINITY, 0.0], 1, 9).unwrap().0, f32::NEG_INFINITY);
    assert!(matches!(sampler.logprobs_of(&[0.0, f32::NAN, 0.0], 0, 1), Err(EngineError::BadLogit { id: 1, .. })));
}
