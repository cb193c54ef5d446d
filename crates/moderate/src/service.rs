//! Moderation services that answer as OpenAI's `/v1/moderations` does.

use std::collections::HashMap;
use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::Category;
use crate::config::{OnFailure, ServiceConfig};

/// Longest answer, bytes.
const ANSWER: u64 = 1 << 20;
/// Wait for an answer if nothing is set, and at most, ms.
const TIMEOUT: (u64, u64) = (5_000, 120_000);

/// A service to ask.
pub(crate) struct Service {
    agent: Agent,
    url: String,
    bearer: Option<String>,
    model: Option<String>,
    pub on_failure: OnFailure,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What a service says of a text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Opinion {
    pub flagged: bool,
    /// The categories that it names and we know.
    pub categories: Vec<(Category, bool, f64)>,
}

impl Opinion {
    /// The flagged category of which it is surest.
    pub fn category(&self) -> Option<Category> {
        let flagged = self.categories.iter().filter(|(_, flagged, _)| *flagged);
        flagged.max_by(|a, b| a.2.total_cmp(&b.2)).map(|(category, ..)| *category)
    }
}

#[derive(Deserialize)]
struct Answer {
    results: Vec<Judgement>,
}

#[derive(Deserialize)]
struct Judgement {
    flagged: bool,
    #[serde(default)]
    categories: HashMap<String, Option<bool>>,
    #[serde(default)]
    category_scores: HashMap<String, Option<f64>>,
}

impl Service {
    /// Prepares to ask; reads the token and, if `SSL_CERT_FILE` is set, certificates. Nothing is sent yet.
    pub fn new(config: &ServiceConfig) -> Result<Self, String> {
        if !config.url.starts_with("https://") && !config.url.starts_with("http://") {
            return Err(format!("url is `{}`; it must begin with https:// or http://", config.url));
        }
        let (usual, most) = TIMEOUT;
        let timeout = config.timeout_ms.unwrap_or(usual);
        if !(1..=most).contains(&timeout) {
            return Err(format!("timeout_ms is {timeout}; it must be from 1 to {most}"));
        }
        let bearer = match &config.bearer_env {
            None => None,
            Some(name) => match std::env::var(name) {
                Ok(token) if !token.trim().is_empty() => Some(token.trim().to_string()),
                _ => return Err(format!("the environment variable {name} (bearer_env) is not set")),
            },
        };
        let mut agent = Agent::config_builder()
            .http_status_as_error(false)
            // A token goes to the service that was named and nowhere else.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("verve/", env!("CARGO_PKG_VERSION")))
            .timeout_global(Some(Duration::from_millis(timeout)));
        if let Some(path) = std::env::var_os("SSL_CERT_FILE").filter(|p| !p.is_empty()) {
            let name = || format!("the certificates of SSL_CERT_FILE, {}", path.to_string_lossy());
            let pem = std::fs::read(&path).map_err(|e| format!("cannot read {}: {e}", name()))?;
            let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            if certificates.is_empty() {
                return Err(format!("{} are none", name()));
            }
            agent = agent.tls_config(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates)).build());
        }
        Ok(Self {
            agent: agent.build().new_agent(),
            url: config.url.clone(),
            bearer,
            model: config.model.clone(),
            on_failure: config.on_failure,
        })
    }

    /// Asks about one text; blocks until the answer is there or the time is over. The error says what happened, without the
    /// text.
    pub fn ask(&self, text: &str) -> Result<Opinion, String> {
        let mut body = json!({ "input": text });
        if let Some(model) = &self.model {
            body["model"] = model.as_str().into();
        }
        let mut request = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some(bearer) = &self.bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        let mut response = request.send(body.to_string()).map_err(|e| e.to_string())?;
        if response.status() != 200 {
            return Err(format!("status {}", response.status().as_u16()));
        }
        let mut bytes = Vec::new();
        let read = response.body_mut().as_reader().take(ANSWER + 1).read_to_end(&mut bytes);
        read.map_err(|e| e.to_string())?;
        if bytes.len() as u64 > ANSWER {
            return Err(format!("the answer is longer than {ANSWER} bytes"));
        }
        opinion(&bytes)
    }
}

fn opinion(answer: &[u8]) -> Result<Opinion, String> {
    // Of a wrong answer only the place is told: its text could hold ours.
    let answer: Answer = serde_json::from_slice(answer)
        .map_err(|e| format!("the answer has another form, line {} column {}", e.line(), e.column()))?;
    let [result] = &answer.results[..] else {
        return Err(format!("the answer has {} results, expected 1", answer.results.len()));
    };
    let known = |category: Category| {
        let flagged = result.categories.get(category.name()).copied().flatten();
        let score = result.category_scores.get(category.name()).copied().flatten();
        if flagged.is_none() && score.is_none() {
            return None;
        }
        let flagged = flagged.unwrap_or(false);
        let score = score.filter(|s| s.is_finite()).unwrap_or(if flagged { 1.0 } else { 0.0 }).clamp(0.0, 1.0);
        Some((category, flagged, score))
    };
    Ok(Opinion { flagged: result.flagged, categories: Category::ALL.into_iter().filter_map(known).collect() })
}
