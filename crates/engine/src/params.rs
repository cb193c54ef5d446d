//! How a request's tokens are chosen and when it ends.

use std::fmt::Display;

use crate::error::EngineError;
use crate::sampler::MAX_REPEAT;
use crate::vocabulary::Vocabulary;

/// Most bytes of all stop strings of a request together.
const MAX_STOP_BYTES: usize = 1 << 16;

/// Most breaking texts of DRY, and most bytes of one: they are looked for at each token.
const MAX_BREAKERS: usize = 128;
const MAX_BREAKER_BYTES: usize = 64;

/// How a request's tokens are chosen and when it ends. [`crate::Sampler`] documents the order in which the fields act.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 always takes the likeliest token. 0 to 100.
    pub temperature: f32,
    /// Keeps the `k` likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the fewest likeliest tokens that together have this probability (Holtzman et al. 2020). Above 0, at most 1.
    pub top_p: f32,
    /// Keeps tokens with at least this part of the likeliest token's probability (Nguyen et al. 2024). 0 to 1.
    pub min_p: f32,
    /// Keeps the tokens whose surprise is nearest to the distribution's entropy, the fewest that have this probability
    /// together: locally typical sampling (Meister et al. 2022). Above 0, at most 1.
    pub typical_p: f32,
    /// Keeps logits within this many standard deviations of the greatest (Tang et al. 2024); 0 keeps all. 0 to 100.
    pub top_n_sigma: f32,
    /// Bits of surprise a token that mirostat 2 aims at (Basu et al. 2021); 0 does without. 0 to 100. Takes the place of
    /// top-k, top-p, min-p, typical and top-n-sigma, which must then be off.
    pub mirostat_tau: f32,
    /// How fast mirostat 2 follows its aim. 0 to 1.
    pub mirostat_eta: f32,
    /// Logits of tokens in prompt or answer are divided by it when positive, multiplied when negative (Keskar et al.
    /// 2019, as transformers does it). Above 0, at most 1,000,000; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Taken off the logits of tokens in the answer. -100 to 100.
    pub presence_penalty: f32,
    /// Taken off a logit for each time the token is in the answer. -100 to 100.
    pub frequency_penalty: f32,
    /// DRY: taken off the logit of a token that would make a repetition of `dry_allowed_length` tokens one longer; 0 does
    /// without. 0 to 100.
    pub dry_multiplier: f32,
    /// DRY: the penalty is this many times greater for each token more. 1 to 100.
    pub dry_base: f32,
    /// DRY: longest repetition that may go on without a penalty, plus one. 1 to 50.
    pub dry_allowed_length: usize,
    /// DRY: texts that no repetition goes across. At most 128, each of 1 to 64 bytes.
    pub dry_breakers: Vec<String>,
    /// DRY: last tokens of prompt and answer that are looked at; 0 looks at all.
    pub dry_range: usize,
    /// Added to the logits of single tokens, each named once. -1000 to 1000.
    pub logit_bias: Vec<(u32, f32)>,
    /// The answer ends before the first of these texts to be completed in it. None may be empty; 64 KiB together.
    pub stop: Vec<String>,
    /// The same seed gives the same tokens.
    pub seed: u64,
    /// Most tokens of the answer, at least 1 where one is asked for. The context bounds it too: prompt and answer together have at most
    /// `n_ctx` tokens, or one more: the last token of an answer is never read. Either way the answer then ends with
    /// [`crate::FinishReason::Length`].
    pub max_tokens: usize,
    /// `Some(n)`: report each token's log-probability and the `n` likeliest tokens. At most the vocabulary's size. The
    /// probabilities are the model's own, before penalties, bias, temperature and filters.
    pub n_logprobs: Option<usize>,
    /// Go on after a token that ends a text.
    pub ignore_eos: bool,
}

impl Default for SamplingParams {
    /// The model's own distribution, 200 tokens.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            top_n_sigma: 0.0,
            mirostat_tau: 0.0,
            mirostat_eta: 0.1,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_breakers: ["\n", ":", "\"", "*"].map(String::from).to_vec(),
            dry_range: 0,
            logit_bias: Vec::new(),
            stop: Vec::new(),
            seed: 0,
            max_tokens: 200,
            n_logprobs: None,
            ignore_eos: false,
        }
    }
}

impl SamplingParams {
    /// Checks every field.
    ///
    /// # Errors
    /// [`EngineError::Parameter`], which names the first field that is wrong, its value and its range.
    pub fn validate(&self, vocabulary: &Vocabulary) -> Result<(), EngineError> {
        let range = |field, value: f32, low: f32, high: f32| {
            check(field, value, (low..=high).contains(&value), || format!("from {low} to {high}"))
        };
        range("temperature", self.temperature, 0.0, 100.0)?;
        let above_zero = |field, value: f32, high: f32| {
            check(field, value, value > 0.0 && value <= high, || format!("above 0 and at most {high}"))
        };
        above_zero("top_p", self.top_p, 1.0)?;
        range("min_p", self.min_p, 0.0, 1.0)?;
        above_zero("typical_p", self.typical_p, 1.0)?;
        range("top_n_sigma", self.top_n_sigma, 0.0, 100.0)?;
        range("mirostat_tau", self.mirostat_tau, 0.0, 100.0)?;
        range("mirostat_eta", self.mirostat_eta, 0.0, 1.0)?;
        self.validate_mirostat()?;
        above_zero("repetition_penalty", self.repetition_penalty, 1e6)?;
        range("presence_penalty", self.presence_penalty, -100.0, 100.0)?;
        range("frequency_penalty", self.frequency_penalty, -100.0, 100.0)?;
        range("dry_multiplier", self.dry_multiplier, 0.0, 100.0)?;
        range("dry_base", self.dry_base, 1.0, 100.0)?;
        let length = self.dry_allowed_length;
        check("dry_allowed_length", length, (1..=MAX_REPEAT).contains(&length), || format!("from 1 to {MAX_REPEAT}"))?;
        self.validate_breakers()?;
        let n_vocab = vocabulary.n_vocab();
        if let Some(n) = self.n_logprobs {
            check("n_logprobs", n, n <= n_vocab, || format!("from 0 to {n_vocab}, the size of the vocabulary"))?;
        }
        self.validate_logit_bias(n_vocab)?;
        self.validate_stop()
    }

    /// Mirostat decides by itself how many tokens to keep: other filters would be passed over, so they are refused.
    fn validate_mirostat(&self) -> Result<(), EngineError> {
        let free = |field, found: &dyn Display, off: bool, neutral: &str| {
            check(field, found, off || self.mirostat_tau == 0.0, || {
                format!("{neutral} when mirostat_tau is above 0: mirostat takes its place")
            })
        };
        free("top_k", &self.top_k, self.top_k == 0, "0")?;
        free("top_p", &self.top_p, self.top_p == 1.0, "1")?;
        free("min_p", &self.min_p, self.min_p == 0.0, "0")?;
        free("typical_p", &self.typical_p, self.typical_p == 1.0, "1")?;
        free("top_n_sigma", &self.top_n_sigma, self.top_n_sigma == 0.0, "0")
    }

    fn validate_breakers(&self) -> Result<(), EngineError> {
        let n = self.dry_breakers.len();
        check("dry_breakers", format!("{n} texts"), n <= MAX_BREAKERS, || format!("at most {MAX_BREAKERS} texts"))?;
        let bad = |text: &&String| text.is_empty() || text.len() > MAX_BREAKER_BYTES;
        match self.dry_breakers.iter().find(bad) {
            None => Ok(()),
            Some(text) => check("dry_breakers", format!("one text of {} bytes", text.len()), false, || {
                format!("texts of 1 to {MAX_BREAKER_BYTES} bytes")
            }),
        }
    }

    fn validate_logit_bias(&self, n_vocab: usize) -> Result<(), EngineError> {
        for &(id, bias) in &self.logit_bias {
            check("logit_bias", format!("{bias} for token {id}"), (-1000.0..=1000.0).contains(&bias), || {
                "from -1000 to 1000".to_owned()
            })?;
            check("logit_bias", format!("for token {id}"), (id as usize) < n_vocab, || {
                format!("for tokens below {n_vocab}, the size of the vocabulary")
            })?;
        }
        let mut ids: Vec<u32> = self.logit_bias.iter().map(|&(id, _)| id).collect();
        ids.sort_unstable();
        match ids.windows(2).find(|pair| pair[0] == pair[1]) {
            None => Ok(()),
            Some(pair) => {
                check("logit_bias", format!("given twice for token {}", pair[0]), false, || "given once".to_owned())
            }
        }
    }

    fn validate_stop(&self) -> Result<(), EngineError> {
        if let Some(place) = self.stop.iter().position(String::is_empty) {
            return check("stop", format!("empty at place {place}"), false, || "at least one character".to_owned());
        }
        let bytes: usize = self.stop.iter().map(String::len).sum();
        check("stop", format!("{bytes} bytes in all"), bytes <= MAX_STOP_BYTES, || {
            format!("at most {MAX_STOP_BYTES} bytes in all")
        })
    }

    /// Whether a penalty depends on how often tokens occur.
    pub(crate) fn penalises_counts(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

fn check(
    field: &'static str,
    found: impl Display,
    good: bool,
    allowed: impl FnOnce() -> String,
) -> Result<(), EngineError> {
    if good { Ok(()) } else { Err(EngineError::Parameter { field, found: found.to_string(), allowed: allowed() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bad_value_is_named_with_its_range() {
        let vocabulary = Vocabulary::from_bytes((0..10u8).map(|b| vec![b]));
        let good = SamplingParams { n_logprobs: Some(10), logit_bias: vec![(9, -1000.0)], ..Default::default() };
        good.validate(&vocabulary).unwrap();
        type Change = fn(&mut SamplingParams);
        let cases: &[(Change, &str)] = &[
            (|p| p.temperature = -0.1, "temperature is -0.1, must be from 0 to 100"),
            (|p| p.temperature = f32::NAN, "temperature is NaN, must be from 0 to 100"),
            (|p| p.temperature = f32::INFINITY, "temperature is inf, must be from 0 to 100"),
            (|p| p.top_p = 0.0, "top_p is 0, must be above 0 and at most 1"),
            (|p| p.top_p = 1.5, "top_p is 1.5, must be above 0 and at most 1"),
            (|p| p.top_p = f32::NAN, "top_p is NaN, must be above 0 and at most 1"),
            (|p| p.min_p = -1.0, "min_p is -1, must be from 0 to 1"),
            (|p| p.typical_p = 0.0, "typical_p is 0, must be above 0 and at most 1"),
            (|p| p.typical_p = 1.1, "typical_p is 1.1, must be above 0 and at most 1"),
            (|p| p.top_n_sigma = -1.0, "top_n_sigma is -1, must be from 0 to 100"),
            (|p| p.mirostat_tau = f32::NAN, "mirostat_tau is NaN, must be from 0 to 100"),
            (|p| p.mirostat_eta = 1.5, "mirostat_eta is 1.5, must be from 0 to 1"),
            (
                |p| (p.mirostat_tau, p.top_k) = (5.0, 40),
                "top_k is 40, must be 0 when mirostat_tau is above 0: mirostat takes its place",
            ),
            (
                |p| (p.mirostat_tau, p.top_p) = (5.0, 0.9),
                "top_p is 0.9, must be 1 when mirostat_tau is above 0: mirostat takes its place",
            ),
            (
                |p| (p.mirostat_tau, p.min_p) = (5.0, 0.1),
                "min_p is 0.1, must be 0 when mirostat_tau is above 0: mirostat takes its place",
            ),
            (
                |p| (p.mirostat_tau, p.typical_p) = (5.0, 0.9),
                "typical_p is 0.9, must be 1 when mirostat_tau is above 0: mirostat takes its place",
            ),
            (
                |p| (p.mirostat_tau, p.top_n_sigma) = (5.0, 1.0),
                "top_n_sigma is 1, must be 0 when mirostat_tau is above 0: mirostat takes its place",
            ),
            (|p| p.dry_multiplier = -0.5, "dry_multiplier is -0.5, must be from 0 to 100"),
            (|p| p.dry_base = 0.9, "dry_base is 0.9, must be from 1 to 100"),
            (|p| p.dry_allowed_length = 0, "dry_allowed_length is 0, must be from 1 to 50"),
            (|p| p.dry_allowed_length = 51, "dry_allowed_length is 51, must be from 1 to 50"),
            (
                |p| p.dry_breakers = vec!["a".into(), String::new()],
                "dry_breakers is one text of 0 bytes, must be texts of 1 to 64 bytes",
            ),
            (
                |p| p.dry_breakers = vec!["a".repeat(65)],
                "dry_breakers is one text of 65 bytes, must be texts of 1 to 64 bytes",
            ),
            (|p| p.dry_breakers = vec!["a".into(); 129], "dry_breakers is 129 texts, must be at most 128 texts"),
            (|p| p.repetition_penalty = 0.0, "repetition_penalty is 0, must be above 0 and at most 1000000"),
            (|p| p.presence_penalty = 101.0, "presence_penalty is 101, must be from -100 to 100"),
            (|p| p.frequency_penalty = f32::NAN, "frequency_penalty is NaN, must be from -100 to 100"),
            (|p| p.n_logprobs = Some(11), "n_logprobs is 11, must be from 0 to 10, the size of the vocabulary"),
            (|p| p.logit_bias = vec![(1, 1e4)], "logit_bias is 10000 for token 1, must be from -1000 to 1000"),
            (
                |p| p.logit_bias = vec![(10, 1.0)],
                "logit_bias is for token 10, must be for tokens below 10, the size of the vocabulary",
            ),
            (
                |p| p.logit_bias = vec![(3, 1.0), (1, 0.0), (3, 1.0)],
                "logit_bias is given twice for token 3, must be given once",
            ),
            (|p| p.stop = vec!["a".into(), String::new()], "stop is empty at place 1, must be at least one character"),
            (
                |p| p.stop = vec!["a".repeat(1 << 16), "b".into()],
                "stop is 65537 bytes in all, must be at most 65536 bytes in all",
            ),
        ];
        for (change, message) in cases {
            let mut params = good.clone();
            change(&mut params);
            assert_eq!(params.validate(&vocabulary).unwrap_err().to_string(), *message);
        }
    }
}
