//! The sampler against the plainest possible computation in `f64`.

mod hand;
mod repeats;

use proptest::prelude::*;

use super::*;

/// How far the sampler's `f32` weights may move the borders between tokens, as a part of the total weight.
const BORDER: f64 = 2e-6;

struct Question<'a> {
    logits: &'a [f32],
    vocabulary: &'a Vocabulary,
    params: &'a SamplingParams,
    prompt: &'a [u32],
    answer: &'a [u32],
    allowed: Option<&'a [u32]>,
}

/// A [`Sampled`] on its own.
#[derive(Debug, Clone, PartialEq)]
struct Reply {
    id: u32,
    logprob: Option<f32>,
    alternatives: Vec<TokenLogprob>,
    surprise: Option<f32>,
}

/// By how much the limits of filters are moved.
#[derive(Debug, Clone, Copy)]
struct Slack {
    top_p: f64,
    least: f64,
    typical: f64,
    nearest: f64,
}

/// What the tests say a token of the answer surprised.
fn bits(id: u32) -> f32 {
    (id * 5 % 8) as f32 / 2.0
}

impl<'a> Question<'a> {
    fn new(logits: &'a [f32], vocabulary: &'a Vocabulary, params: &'a SamplingParams) -> Self {
        Self { logits, vocabulary, params, prompt: &[], answer: &[], allowed: None }
    }

    fn ask(&self, sampler: &mut Sampler, index: usize) -> Result<Reply, EngineError> {
        let mut history = History::new(self.params, self.prompt);
        self.answer.iter().for_each(|&id| history.push(id, Some(bits(id))));
        let draws = draws(self.params.seed);
        let sampled = sampler.sample(self.logits, self.params, &history, &draws, index, self.allowed)?;
        let Sampled { id, logprob, alternatives, surprise } = sampled;
        Ok(Reply { id, logprob, alternatives: alternatives.to_vec(), surprise })
    }

    fn sampler(&self) -> Sampler {
        Sampler::new(self.vocabulary)
    }

    /// Ids that may be chosen and their logits after penalties and bias, best first.
    fn ranking(&self) -> Vec<(u32, f64)> {
        let p = self.params;
        let mut ranking = Vec::new();
        for id in 0..self.vocabulary.n_vocab() as u32 {
            let mut logit = f64::from(self.logits[id as usize]);
            let word = self.allowed.map_or(u32::MAX, |words| words.get(id as usize / 32).copied().unwrap_or(0));
            let allowed = word >> (id % 32) & 1 == 1;
            if self.vocabulary.excluded().contains(&id) || logit == f64::NEG_INFINITY || !allowed {
                continue;
            }
            let count = self.answer.iter().filter(|&&other| other == id).count();
            if count > 0 || self.prompt.contains(&id) {
                let penalty = f64::from(p.repetition_penalty);
                logit = if logit > 0.0 { logit / penalty } else { logit * penalty };
            }
            if count > 0 {
                logit -= f64::from(p.presence_penalty) + count as f64 * f64::from(p.frequency_penalty);
            }
            logit -= repeats::penalty(self, id);
            logit += p.logit_bias.iter().filter(|&&(other, _)| other == id).map(|&(_, b)| f64::from(b)).sum::<f64>();
            ranking.push((id, logit));
        }
        // Stable: equal logits stay in order of ids.
        ranking.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranking
    }

    /// What the filters leave, in order of ids, with weights.
    fn kept(&self, slack: Slack) -> Vec<(u32, f64)> {
        let p = self.params;
        let mut kept = self.ranking();
        let best = kept[0].1;
        if p.mirostat_tau > 0.0 {
            let total: f64 = kept.iter().map(|&(_, logit)| ((logit - best) / f64::from(p.temperature)).exp()).sum();
            let (tau, eta) = (f64::from(p.mirostat_tau), f64::from(p.mirostat_eta));
            let mu = self.answer.iter().fold(2.0 * tau, |mu, &id| mu - eta * (f64::from(bits(id)) - tau));
            let least = -mu - slack.least;
            let bits = |logit: f64| (logit - best) / f64::from(p.temperature) / 2f64.ln() - total.log2();
            let n = kept.iter().filter(|&&(_, logit)| bits(logit) >= least).count();
            kept.truncate(n.max(1));
        }
        if p.top_n_sigma > 0.0 {
            let all: Vec<f64> = self.logits[..self.vocabulary.n_vocab()].iter().map(|&l| f64::from(l)).collect();
            let finite: Vec<f64> = all.into_iter().filter(|logit| logit.is_finite()).collect();
            let mean = finite.iter().sum::<f64>() / finite.len() as f64;
            let variance = finite.iter().map(|logit| (logit - mean).powi(2)).sum::<f64>() / finite.len() as f64;
            let below = f64::from(p.top_n_sigma) * variance.sqrt() + slack.least;
            kept.retain(|&(_, logit)| logit >= best - below.max(0.0));
        }
        for (_, value) in &mut kept {
            *value = ((*value - best) / f64::from(p.temperature)).exp();
        }
        if p.top_k > 0 {
            kept.truncate(p.top_k);
        }
        if p.top_p < 1.0 {
            kept.truncate(fewest(&kept, f64::from(p.top_p) * slack.top_p));
        }
        kept.retain(|&(_, weight)| weight >= (f64::from(p.min_p) / slack.top_p).min(1.0));
        if p.typical_p < 1.0 {
            // Weights this small can not be told from none.
            kept.retain(|&(_, weight)| weight > 1.1e-38);
            let total: f64 = kept.iter().map(|&(_, weight)| weight).sum();
            let surprise = |weight: f64| -(weight / total).ln();
            let entropy: f64 = kept.iter().map(|&(_, weight)| weight / total * surprise(weight)).sum();
            let far = |weight: f64| (surprise(weight) - entropy).abs();
            kept.sort_by(|a, b| far(a.1).total_cmp(&far(b.1)));
            let farthest = far(kept[fewest(&kept, f64::from(p.typical_p) * slack.typical) - 1].1);
            kept.retain(|&(_, weight)| far(weight) <= farthest + slack.nearest);
        }
        kept.sort_by_key(|&(id, _)| id);
        kept
    }

    /// Every way in which rounding may have moved the limits.
    fn slacks(&self) -> Vec<Slack> {
        let p = self.params;
        let around = |middle: f64, uses: bool| match uses {
            true => vec![middle - BORDER, middle, middle + BORDER],
            false => vec![middle],
        };
        let mut slacks = Vec::new();
        for top_p in around(1.0, p.top_p < 1.0 || p.min_p > 0.0) {
            for &least in &around(0.0, p.top_n_sigma > 0.0 || p.mirostat_tau > 0.0) {
                for &typical in &around(1.0, p.typical_p < 1.0) {
                    for nearest in around(1e-9, p.typical_p < 1.0) {
                        slacks.push(Slack { top_p, least, typical, nearest });
                    }
                }
            }
        }
        slacks
    }

    /// The ids that may be drawn at `index`, with their bits: one, or two at a border.
    fn drawn(&self, index: usize) -> Vec<(u32, f64)> {
        let mut ids = Vec::new();
        for slack in self.slacks() {
            let kept = self.kept(slack);
            let total: f64 = kept.iter().map(|&(_, weight)| weight).sum();
            let target = draws(self.params.seed).uniform(index as u64);
            let mut sum = 0.0;
            for (id, weight) in kept {
                let from = sum / total;
                sum += weight;
                if from - BORDER <= target && target < sum / total + BORDER && weight > 1e-38 {
                    ids.push((id, (total / weight).log2()));
                }
            }
        }
        ids
    }

    fn log_softmax(&self, id: u32) -> f64 {
        let logits = || self.logits.iter().map(|&logit| f64::from(logit));
        let max = logits().fold(f64::NEG_INFINITY, f64::max);
        f64::from(self.logits[id as usize]) - max - logits().map(|logit| (logit - max).exp()).sum::<f64>().ln()
    }

    fn check(&self, sampler: &mut Sampler, index: usize) -> Result<(), TestCaseError> {
        let reply = self.ask(sampler, index).unwrap();
        prop_assert_eq!(&reply, &self.ask(&mut self.sampler(), index).unwrap());
        let Reply { id, logprob, alternatives, surprise } = reply;
        if self.params.temperature == 0.0 {
            prop_assert_eq!((id, surprise), (self.ranking()[0].0, None));
        } else {
            let possible = self.drawn(index);
            let agrees = |&(other, bits): &(u32, f64)| {
                other == id && surprise.is_none_or(|found| (f64::from(found) - bits).abs() < 1e-4)
            };
            prop_assert!(possible.iter().any(agrees), "{} with {:?} was drawn, not {:?}", id, surprise, possible);
            prop_assert_eq!(surprise.is_some(), self.params.mirostat_tau > 0.0);
        }
        let Some(n) = self.params.n_logprobs else {
            prop_assert!(logprob.is_none() && alternatives.is_empty());
            return Ok(());
        };
        let near = |found: f32, id: u32| (f64::from(found) - self.log_softmax(id)).abs() < 1e-5;
        prop_assert!(near(logprob.unwrap(), id));
        let plain = SamplingParams::default();
        let mut best = Question::new(self.logits, self.vocabulary, &plain).ranking();
        best.truncate(n);
        let ids = |list: &[TokenLogprob]| list.iter().map(|t| t.id).collect::<Vec<_>>();
        prop_assert_eq!(ids(&alternatives), best.iter().map(|&(id, _)| id).collect::<Vec<_>>());
        prop_assert!(alternatives.iter().all(|t| near(t.logprob, t.id)));
        let given = sampler.logprobs_of(self.logits, id, n).unwrap();
        prop_assert_eq!((Some(given.0), given.1), (logprob, &alternatives[..]));
        Ok(())
    }
}

/// How many from the front have this part of the weight.
fn fewest(kept: &[(u32, f64)], part: f64) -> usize {
    let wanted = part * kept.iter().map(|&(_, weight)| weight).sum::<f64>();
    let mut sum = 0.0;
    let mut n = 0;
    while n < kept.len() && (n == 0 || sum < wanted) {
        sum += kept[n].1;
        n += 1;
    }
    n
}

fn vocabulary(n_vocab: usize, excluded: &[u32]) -> Vocabulary {
    Vocabulary::from_bytes((0..n_vocab).map(|_| [b'x'])).with_excluded(excluded.iter().copied())
}

/// Multiples of 1/8, so that there are many equal ones and so that penalties and biases of this form are exact in `f32`.
fn eighths(range: std::ops::Range<i32>) -> impl Strategy<Value = f32> {
    range.prop_map(|n| n as f32 / 8.0)
}

/// Zero and one are as likely as all between.
fn often_zero_or_one(between: std::ops::Range<f32>) -> impl Strategy<Value = f32> {
    prop_oneof![Just(0.0), Just(1.0), between]
}

fn params(n_vocab: u32) -> impl Strategy<Value = SamplingParams> {
    let filters = (often_zero_or_one(0.05..3.0), 0usize..20, often_zero_or_one(0.01..1.0), often_zero_or_one(0.0..1.0));
    let penalties = (prop::sample::select(vec![1.0f32, 0.5, 2.0]), eighths(-8..8), eighths(-8..8));
    let bias = prop::collection::btree_map(0..n_vocab, prop_oneof![eighths(-80..80), Just(-1000.0)], 0..4);
    let newer = (
        prop_oneof![2 => Just(1.0f32), 1 => 0.01f32..1.0],
        prop_oneof![2 => Just(0.0f32), 1 => 0.01f32..3.0],
        prop_oneof![3 => Just(0.0f32), 1 => 0.1f32..4.0],
        0f32..1.0,
    );
    let rest = (bias, any::<u64>(), prop::option::of(0usize..8));
    (filters, penalties, newer, rest).prop_map(|(f, p, newer, (bias, seed, n_logprobs))| {
        let mirostat = newer.2 > 0.0;
        SamplingParams {
            temperature: f.0,
            top_k: if mirostat { 0 } else { f.1 },
            top_p: if mirostat { 1.0 } else { f.2.max(1e-9) },
            min_p: if mirostat { 0.0 } else { f.3 },
            typical_p: if mirostat { 1.0 } else { newer.0 },
            top_n_sigma: if mirostat { 0.0 } else { newer.1 },
            mirostat_tau: newer.2,
            mirostat_eta: newer.3,
            repetition_penalty: p.0,
            presence_penalty: p.1,
            frequency_penalty: p.2,
            logit_bias: bias.into_iter().collect(),
            seed,
            n_logprobs,
            ..SamplingParams::default()
        }
    })
}

const N_VOCAB: u32 = 12;
const N_ROWS: usize = 15;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn small_vocabularies_with_many_ties(
        mut logits in prop::collection::vec(prop_oneof![9 => eighths(-24..24), 1 => Just(f32::NEG_INFINITY)], N_ROWS),
        params in params(N_VOCAB),
        excluded in prop::collection::vec(0..N_VOCAB, 0..3),
        prompt in prop::collection::vec(0..N_VOCAB, 0..5),
        answer in prop::collection::vec(0..N_VOCAB, 0..8),
        mask in prop::option::of(any::<u32>()),
    ) {
        // One that may always be chosen.
        let safe = (0..N_VOCAB).find(|id| !excluded.contains(id)).unwrap();
        logits[safe as usize] = logits[safe as usize].max(-3.0);
        let mask = mask.map(|mask| [mask | 1 << safe]);
        let vocabulary = vocabulary(N_VOCAB as usize, &excluded);
        params.validate(&vocabulary).unwrap();
        let question = Question {
            prompt: &prompt,
            answer: &answer,
            allowed: mask.as_ref().map(|mask| &mask[..]),
            ..Question::new(&logits, &vocabulary, &params)
        };
        let mut sampler = question.sampler();
        for index in 0..12 {
            question.check(&mut sampler, index)?;
        }
    }
}

#[test]
fn large_vocabularies() {
    for (n_vocab, seed) in [(255, 1), (256, 2), (257, 3), (5000, 4), (50_257, 5)] {
        let mut data = verve_testkit::Data::new(seed);
        let logits: Vec<f32> = data.normal(n_vocab + 7).into_iter().map(|x| 2.5 * x as f32).collect();
        let vocabulary = vocabulary(n_vocab, &[1, 200]);
        let base = SamplingParams { seed, n_logprobs: Some(5), ..SamplingParams::default() };
        for params in [
            SamplingParams { ..base.clone() },
            SamplingParams { temperature: 0.0, ..base.clone() },
            SamplingParams { temperature: 0.3, min_p: 0.02, ..base.clone() },
            SamplingParams { top_k: 70, ..base.clone() },
            SamplingParams { top_p: 0.9, ..base.clone() },
            SamplingParams { temperature: 2.0, top_p: 0.999, ..base.clone() },
            SamplingParams { temperature: 1.5, top_k: 200, top_p: 0.8, min_p: 0.01, ..base.clone() },
            SamplingParams { typical_p: 0.7, ..base.clone() },
            SamplingParams { temperature: 0.7, top_p: 0.95, typical_p: 0.5, ..base.clone() },
            SamplingParams { temperature: 1.5, top_n_sigma: 1.5, ..base.clone() },
            SamplingParams { temperature: 0.9, mirostat_tau: 3.0, ..base.clone() },
        ] {
            let question = Question { prompt: &[3], answer: &[9], ..Question::new(&logits, &vocabulary, &params) };
            let mut sampler = question.sampler();
            for index in 0..3 {
                question.check(&mut sampler, index).unwrap();
            }
        }
    }
}

#[test]
fn frequencies_are_those_of_the_distribution() {
    let logits = [0.0f32, 1.0, 2.0, -1.0];
    let (vocabulary, params) = (vocabulary(4, &[]), SamplingParams { seed: 11, ..SamplingParams::default() });
    let question = Question::new(&logits, &vocabulary, &params);
    let mut sampler = question.sampler();
    let n = 40_000;
    let mut counts = [0usize; 4];
    for index in 0..n {
        counts[question.ask(&mut sampler, index).unwrap().id as usize] += 1;
    }
    for (id, &count) in counts.iter().enumerate() {
        let expected = question.log_softmax(id as u32).exp();
        // Four standard deviations.
        let allowed = 4.0 * (expected * (1.0 - expected) / n as f64).sqrt();
        assert!((count as f64 / n as f64 - expected).abs() < allowed, "{counts:?}");
    }
}

#[test]
fn a_choice_depends_on_seed_and_place_but_not_on_what_the_sampler_did_before() {
    let logits = vec![0.0f32; 40];
    let vocabulary = vocabulary(40, &[]);
    let choices = |seed: u64, places: &[usize]| {
        let params = SamplingParams { seed, ..SamplingParams::default() };
        let question = Question::new(&logits, &vocabulary, &params);
        let mut sampler = question.sampler();
        places.iter().map(|&place| question.ask(&mut sampler, place).unwrap().id).collect::<Vec<_>>()
    };
    let forward = choices(3, &[0, 1, 2, 3, 4, 5, 6, 7]);
    let mut backward = choices(3, &[7, 6, 5, 4, 3, 2, 1, 0]);
    backward.reverse();
    assert_eq!(forward, backward);
    assert_ne!(forward, choices(4, &[0, 1, 2, 3, 4, 5, 6, 7]));
    assert!(forward.iter().any(|&id| id != forward[0]));
}

#[test]
fn numbers_that_are_no_logits_are_named() {
    let (vocabulary, params) =
        (vocabulary(8, &[]), SamplingParams { n_logprobs: Some(2), ..SamplingParams::default() });
    let ask = |logits: &[f32]| {
        let question = Question::new(logits, &vocabulary, &params);
        question.ask(&mut question.sampler(), 5)
    };
    for value in [f32::NAN, f32::INFINITY] {
        // The last is a row that is never sampled; it tells of damage all the same.
        for place in [0, 3, 8] {
            let mut logits = [1.0; 9];
            logits[place] = value;
            let error = ask(&logits).unwrap_err();
            let message = format!("the model's logit of token {place} is {value} after 5 tokens of the answer");
            assert!(error.to_string().starts_with(&message), "{error}");
        }
    }
    assert!(matches!(ask(&[f32::NEG_INFINITY; 9]), Err(EngineError::NothingLeft { n_generated: 5 })));
    let mut only_the_padding = [f32::NEG_INFINITY; 9];
    only_the_padding[8] = 0.0;
    assert!(matches!(ask(&only_the_padding), Err(EngineError::NothingLeft { n_generated: 5 })));
}

#[test]
fn extreme_temperatures_are_the_limits_they_should_be() {
    let logits = [3.0f32, 7.0, 7.0, -1e30];
    let vocabulary = vocabulary(4, &[]);
    for (temperature, possible) in [(1e-40, vec![1, 2]), (1e-6, vec![1, 2]), (100.0, vec![0, 1, 2])] {
        let params = SamplingParams { temperature, ..SamplingParams::default() };
        let question = Question::new(&logits, &vocabulary, &params);
        let mut sampler = question.sampler();
        let mut found: Vec<u32> = (0..200).map(|index| question.ask(&mut sampler, index).unwrap().id).collect();
        found.sort_unstable();
        found.dedup();
        assert_eq!(found, possible, "temperature {temperature}");
    }
}
