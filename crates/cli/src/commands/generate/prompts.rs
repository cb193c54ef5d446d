//! The lines of `--prompts` and of `--out`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use verve_engine::{
    AnswerToken, Answers, BeamSearch, EarlyStopping, EngineError, FinishReason, Pooling, Request, SamplingParams,
    TokenLogprob, Vocabulary,
};

use crate::args::BeamArgs;

/// Longest prompts file that is read.
const MAX_BYTES: u64 = 1 << 30;

/// One line of the prompts file. What is left out is as on the command line.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptLine {
    pub prompt: String,
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    typical_p: Option<f32>,
    top_n_sigma: Option<f32>,
    mirostat_tau: Option<f32>,
    mirostat_eta: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    dry_multiplier: Option<f32>,
    dry_base: Option<f32>,
    dry_allowed_length: Option<usize>,
    dry_breakers: Option<Vec<String>>,
    dry_range: Option<usize>,
    logit_bias: Option<BTreeMap<u32, f32>>,
    stop: Option<Stop>,
    seed: Option<u64>,
    logprobs: Option<usize>,
    ignore_eos: Option<bool>,
    n: Option<usize>,
    best_of: Option<usize>,
    beams: Option<usize>,
    length_penalty: Option<f64>,
    early_stopping: Option<EarlyStop>,
    prompt_logprobs: Option<usize>,
    embed: Option<Embed>,
    pub json_schema: Option<Value>,
    pub regex: Option<String>,
    priority: Option<i32>,
}

/// When a beam search ends, as transformers has it.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum EarlyStop {
    Full(bool),
    Named(Never),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Never {
    Never,
}

/// How hidden states become one vector.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Embed {
    Mean,
    Last,
}

/// One stop string or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

impl PromptLine {
    /// What the line asks of the engine, but for its rule.
    pub fn request(&self, prompt: Vec<u32>, defaults: &SamplingParams, beams: &BeamArgs) -> Request {
        let mut params = self.params(defaults);
        // 0 turns off what the command line asks for.
        let search = beams.search().unwrap_or_default();
        let width = self.beams.or(beams.beams).filter(|&width| width > 0 && self.embed.is_none());
        let beams_asked = width.map(|width| BeamSearch {
            width,
            length_penalty: self.length_penalty.unwrap_or(search.length_penalty),
            early_stopping: match self.early_stopping {
                None => search.early_stopping,
                Some(EarlyStop::Full(false)) => EarlyStopping::Heuristic,
                Some(EarlyStop::Full(true)) => EarlyStopping::Full,
                Some(EarlyStop::Named(Never::Never)) => EarlyStopping::Never,
            },
        });
        if beams_asked.is_some() && self.temperature.is_none() {
            // Nothing is drawn.
            params.temperature = 0.0;
        }
        Request {
            prompt,
            params,
            n: self.n.unwrap_or(beams.n),
            best_of: self.best_of.unwrap_or(0),
            beams: beams_asked,
            prompt_logprobs: self.prompt_logprobs,
            embed: self.embed.map(|embed| match embed {
                Embed::Mean => Pooling::Mean,
                Embed::Last => Pooling::Last,
            }),
            priority: self.priority.unwrap_or(0),
            ..Request::default()
        }
    }

    /// The line's settings over those of the command line.
    pub fn params(&self, defaults: &SamplingParams) -> SamplingParams {
        let d = defaults.clone();
        SamplingParams {
            temperature: self.temperature.unwrap_or(d.temperature),
            top_k: self.top_k.unwrap_or(d.top_k),
            top_p: self.top_p.unwrap_or(d.top_p),
            min_p: self.min_p.unwrap_or(d.min_p),
            typical_p: self.typical_p.unwrap_or(d.typical_p),
            top_n_sigma: self.top_n_sigma.unwrap_or(d.top_n_sigma),
            mirostat_tau: self.mirostat_tau.unwrap_or(d.mirostat_tau),
            mirostat_eta: self.mirostat_eta.unwrap_or(d.mirostat_eta),
            repetition_penalty: self.repetition_penalty.unwrap_or(d.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(d.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(d.frequency_penalty),
            dry_multiplier: self.dry_multiplier.unwrap_or(d.dry_multiplier),
            dry_base: self.dry_base.unwrap_or(d.dry_base),
            dry_allowed_length: self.dry_allowed_length.unwrap_or(d.dry_allowed_length),
            dry_breakers: self.dry_breakers.clone().unwrap_or(d.dry_breakers),
            dry_range: self.dry_range.unwrap_or(d.dry_range),
            logit_bias: self
                .logit_bias
                .as_ref()
                .map_or(d.logit_bias, |map| map.iter().map(|(k, v)| (*k, *v)).collect()),
            stop: match &self.stop {
                None => d.stop,
                Some(Stop::One(text)) => vec![text.clone()],
                Some(Stop::Many(texts)) => texts.clone(),
            },
            seed: self.seed.unwrap_or(d.seed),
            max_tokens: self.max_tokens.unwrap_or(d.max_tokens),
            n_logprobs: self.logprobs.or(d.n_logprobs),
            ignore_eos: self.ignore_eos.unwrap_or(d.ignore_eos),
        }
    }
}

/// Reads all lines; empty ones are passed over.
pub fn read(path: &Path) -> anyhow::Result<Vec<PromptLine>> {
    let about = || format!("cannot read {}", path.display());
    let bytes = std::fs::metadata(path).with_context(about)?.len();
    if bytes > MAX_BYTES {
        bail!("{} has {bytes} bytes, more than the {MAX_BYTES} that are read at once: split it", path.display());
    }
    let text = std::fs::read(path).with_context(about)?;
    let text = String::from_utf8(text).with_context(|| format!("{} is not UTF-8", path.display()))?;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line = serde_json::from_str(line).with_context(|| {
            format!("{} line {}: expected an object such as {{\"prompt\": \"Once\"}}", path.display(), number + 1)
        })?;
        lines.push(line);
    }
    if lines.is_empty() {
        bail!("{} holds no prompts: write one JSON object a line, such as {{\"prompt\": \"Once\"}}", path.display());
    }
    Ok(lines)
}

/// One line of the answers file: an answer, or several, and what was asked about the prompt.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AnswerLine {
    #[serde(flatten)]
    pub answer: ChoiceLine,
    pub prompt_tokens: usize,
    pub seed: u64,
    /// Further answers, where more than one was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<ChoiceLine>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prompt_logprobs: Vec<TokenLine>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub embedding: Vec<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// An answer.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ChoiceLine {
    pub text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<&'static str>,
    pub completion_tokens: usize,
    /// Of beam search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<TokenLine>,
}

/// A token with its log-probability.
#[derive(Debug, Clone, Serialize)]
pub struct TokenLine {
    pub id: u32,
    pub token: String,
    /// None for the first token of a prompt.
    pub logprob: Option<f32>,
    pub top: Vec<Alternative>,
}

/// A token that could have been chosen.
#[derive(Debug, Clone, Serialize)]
pub struct Alternative {
    pub id: u32,
    pub token: String,
    pub logprob: f32,
}

impl AnswerLine {
    /// What a request got.
    pub fn new(vocabulary: &Vocabulary, request: &Request, got: Result<Answers, EngineError>) -> Self {
        let line = Self { seed: request.params.seed, prompt_tokens: request.prompt.len(), ..Self::default() };
        let Answers { prompt, embedding, choices } = match got {
            Ok(answers) => answers,
            Err(error) => return Self { error: Some(error.to_string()), ..line },
        };
        let prompt_tokens = choices.first().map_or(line.prompt_tokens, |answer| answer.finish.n_prompt);
        let mut choices = choices.into_iter().map(|answer| ChoiceLine {
            text: answer.text,
            finish_reason: Some(reason(answer.finish.reason)),
            completion_tokens: answer.finish.n_generated,
            score: answer.finish.score,
            logprobs: match request.params.n_logprobs {
                Some(_) => answer.tokens.iter().map(|token| token_line(vocabulary, token)).collect(),
                None => Vec::new(),
            },
        });
        Self {
            answer: choices.next().unwrap_or_default(),
            more: choices.collect(),
            prompt_logprobs: prompt.iter().map(|token| token_line(vocabulary, token)).collect(),
            embedding,
            prompt_tokens,
            ..line
        }
    }
}

fn token_line(vocabulary: &Vocabulary, token: &AnswerToken) -> TokenLine {
    let text = |id: u32| String::from_utf8_lossy(vocabulary.bytes(id)).into_owned();
    let other = |a: &TokenLogprob| Alternative { id: a.id, token: text(a.id), logprob: a.logprob };
    let top = token.alternatives.iter().map(other).collect();
    TokenLine { id: token.id, token: text(token.id), logprob: token.logprob, top }
}

/// Why an answer ended, in the words of the public API ("stop", "length"), and "cancelled".
pub fn reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop | FinishReason::EndOfText => "stop",
        FinishReason::Length => "length",
        FinishReason::Cancelled => "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_replaces_only_what_it_names() {
        let defaults = SamplingParams { temperature: 0.8, seed: 3, stop: vec!["x".into()], ..Default::default() };
        let line: PromptLine = serde_json::from_str(
            r#"{"prompt": "a", "temperature": 0, "stop": "\n", "logit_bias": {"5": -2.5}, "max_tokens": 4,
                "typical_p": 0.9, "dry_multiplier": 0.8, "dry_breakers": ["\n\n"]}"#,
        )
        .unwrap();
        let params = line.params(&defaults);
        assert_eq!((params.temperature, params.seed, params.max_tokens), (0.0, 3, 4));
        assert_eq!(params.stop, ["\n"]);
        assert_eq!((params.typical_p, params.dry_multiplier, params.dry_base), (0.9, 0.8, 1.75));
        assert_eq!(params.dry_breakers, ["\n\n"]);
        assert_eq!(params.logit_bias, [(5, -2.5)]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        for (text, part) in [
            ("{\"prompt\": \"a\"}\n\n{\"prompt\": 3}\n", "line 3"),
            ("{\"prompt\": \"a\", \"temprature\": 1}", "temprature"),
            ("\n", "no prompts"),
        ] {
            std::fs::write(&path, text).unwrap();
            let message = format!("{:#}", read(&path).unwrap_err());
            assert!(message.contains(part), "{message}");
        }
    }
}
