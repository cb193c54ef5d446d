//! The fields that say how an answer is chosen, common to several endpoints.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use verve_constrain::Constraint;
use verve_engine::SamplingParams;

use crate::error::ApiError;
use crate::parse::request;

/// Most answers to one request, as in the public API.
const MAX_N: u64 = 128;

/// One text or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts(pub Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(vec![text])),
            Value::Array(items) => {
                let text = |item| match item {
                    Value::String(text) => Ok(text),
                    other => {
                        Err(serde::de::Error::custom(format!("expected strings, found {}", crate::parse::kind(&other))))
                    }
                };
                Ok(Self(items.into_iter().map(text).collect::<Result<_, _>>()?))
            }
            other => Err(serde::de::Error::custom(format!(
                "expected a string or a list of strings, found {}",
                crate::parse::kind(&other)
            ))),
        }
    }
}

request! {
    /// How an answer is chosen. The first part is the public API's, the second what this server adds to it.
    pub struct SamplingFields {
        /// 0 to 2.
        pub temperature: f32,
        /// 0 to 1.
        pub top_p: f32,
        /// Answers, 1 to 128.
        pub n: u64,
        /// Texts that end an answer.
        pub stop: Texts,
        /// -2 to 2.
        pub presence_penalty: f32,
        /// -2 to 2.
        pub frequency_penalty: f32,
        /// Token id to -100 to 100.
        pub logit_bias: BTreeMap<String, f32>,
        /// Any integer.
        pub seed: i64,
        /// Who asks; of no consequence.
        pub user: String,

        /// See [`SamplingParams::top_k`]; -1 for all, as vLLM has it.
        pub top_k: i64,
        /// See [`SamplingParams::min_p`].
        pub min_p: f32,
        /// See [`SamplingParams::typical_p`].
        pub typical_p: f32,
        /// See [`SamplingParams::top_n_sigma`].
        pub top_n_sigma: f32,
        /// See [`SamplingParams::mirostat_tau`].
        pub mirostat_tau: f32,
        /// See [`SamplingParams::mirostat_eta`].
        pub mirostat_eta: f32,
        /// See [`SamplingParams::repetition_penalty`].
        pub repetition_penalty: f32,
        /// See [`SamplingParams::dry_multiplier`].
        pub dry_multiplier: f32,
        /// See [`SamplingParams::dry_base`].
        pub dry_base: f32,
        /// See [`SamplingParams::dry_allowed_length`].
        pub dry_allowed_length: usize,
        /// See [`SamplingParams::dry_breakers`].
        pub dry_sequence_breakers: Vec<String>,
        /// See [`SamplingParams::dry_range`].
        pub dry_range: usize,
        /// See [`SamplingParams::ignore_eos`].
        pub ignore_eos: bool,
        /// The answer follows this grammar (Lark).
        pub grammar: String,
        /// The answer matches this regular expression.
        pub regex: String,
        /// The answer is JSON that satisfies this schema.
        pub json_schema: Value,
        /// Whether the answer comes with the ids of prompt and answer.
        pub return_token_ids: bool,
    }
}

impl SamplingFields {
    /// The engine's parameters; a seed is drawn where none is given. No log-probabilities yet.
    ///
    /// # Errors
    /// 400 that names the first field out of the public API's range.
    pub fn params(&self, max_tokens: usize) -> Result<SamplingParams, ApiError> {
        let range = |param: &str, value: Option<f32>, low: f32, high: f32| match value {
            Some(value) if !(low..=high).contains(&value) => {
                Err(ApiError::invalid(param, format!("{param} is {value}, must be from {low} to {high}")))
            }
            _ => Ok(()),
        };
        range("temperature", self.temperature, 0.0, 2.0)?;
        range("top_p", self.top_p, 0.0, 1.0)?;
        range("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        let standard = SamplingParams::default();
        let top_k = match self.top_k {
            None | Some(-1) => 0,
            Some(k) => usize::try_from(k)
                .map_err(|_| ApiError::invalid("top_k", format!("top_k is {k}, must be 0 (all), -1 (all) or more")))?,
        };
        Ok(SamplingParams {
            temperature: self.temperature.unwrap_or(1.0),
            top_k,
            // The public API allows 0, which leaves the likeliest token.
            top_p: self.top_p.map_or(1.0, |p| p.max(f32::MIN_POSITIVE)),
            min_p: self.min_p.unwrap_or(standard.min_p),
            typical_p: self.typical_p.unwrap_or(standard.typical_p),
            top_n_sigma: self.top_n_sigma.unwrap_or(standard.top_n_sigma),
            mirostat_tau: self.mirostat_tau.unwrap_or(standard.mirostat_tau),
            mirostat_eta: self.mirostat_eta.unwrap_or(standard.mirostat_eta),
            repetition_penalty: self.repetition_penalty.unwrap_or(standard.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            dry_multiplier: self.dry_multiplier.unwrap_or(standard.dry_multiplier),
            dry_base: self.dry_base.unwrap_or(standard.dry_base),
            dry_allowed_length: self.dry_allowed_length.unwrap_or(standard.dry_allowed_length),
            dry_breakers: self.dry_sequence_breakers.clone().unwrap_or(standard.dry_breakers),
            dry_range: self.dry_range.unwrap_or(standard.dry_range),
            logit_bias: self.bias()?,
            stop: self.stop.as_ref().map(|stop| stop.0.clone()).unwrap_or_default(),
            seed: match self.seed {
                Some(seed) => seed as u64,
                None => crate::ids::random(),
            },
            max_tokens,
            n_logprobs: None,
            ignore_eos: self.ignore_eos.unwrap_or(false),
        })
    }

    fn bias(&self) -> Result<Vec<(u32, f32)>, ApiError> {
        let mut out = Vec::new();
        for (id, &bias) in self.logit_bias.iter().flatten() {
            let id = id.parse().map_err(|_| {
                ApiError::invalid(
                    "logit_bias",
                    format!("logit_bias: {id:?} is no token id; keys are the model's token ids"),
                )
            })?;
            if !(-100.0..=100.0).contains(&bias) {
                let message = format!("logit_bias of token {id} is {bias}, must be from -100 to 100");
                return Err(ApiError::invalid("logit_bias", message));
            }
            // The ends ban and force, whatever the logits are.
            out.push((id, if bias.abs() == 100.0 { bias * 10.0 } else { bias }));
        }
        Ok(out)
    }

    /// Answers wanted.
    ///
    /// # Errors
    /// 400 for a number out of range.
    pub fn n(&self) -> Result<usize, ApiError> {
        match self.n.unwrap_or(1) {
            n @ 1..=MAX_N => Ok(n as usize),
            n => Err(ApiError::invalid("n", format!("n is {n}, must be from 1 to {MAX_N}"))),
        }
    }

    /// The constraint that one of this server's own fields puts on the answer.
    ///
    /// # Errors
    /// 400 where there is more than one.
    pub fn constraint(&self) -> Result<Option<(Constraint, &'static str)>, ApiError> {
        let given = [
            self.grammar.clone().map(|text| (Constraint::Grammar(text), "grammar")),
            self.regex.clone().map(|text| (Constraint::Regex(text), "regex")),
            self.json_schema.clone().map(|schema| (Constraint::JsonSchema(schema), "json_schema")),
        ];
        let mut given = given.into_iter().flatten();
        let first = given.next();
        match (&first, given.next()) {
            (Some((_, a)), Some((_, b))) => {
                Err(ApiError::invalid(b, format!("{a} and {b} exclude each other: give one of them")))
            }
            _ => Ok(first),
        }
    }
}
