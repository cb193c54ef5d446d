//! What the server counts, in Prometheus' terms.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// A count per model, endpoint and how it went.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// Route, never what a client wrote.
    pub endpoint: &'static str,
    /// HTTP status.
    pub status: u16,
}

/// A count per model and key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TokenLabels {
    /// Model.
    pub model: String,
    /// Name of the key.
    pub key: String,
    /// `prompt`, `cached` (of those of prompts) or `generated`.
    pub kind: &'static str,
}

/// A count per model and how requests ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// Model.
    pub model: String,
    /// How.
    pub outcome: &'static str,
}

/// A count per filter.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FilterLabels {
    /// Its name.
    pub filter: String,
    /// `input` or `output`.
    pub stage: &'static str,
    /// `refused` or `recorded`.
    pub outcome: &'static str,
}

/// A number per model.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ModelLabels {
    /// Model.
    pub model: String,
}

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    /// Requests by endpoint and status.
    pub requests: Family<RequestLabels, Counter>,
    /// Requests being answered.
    pub in_flight: Gauge,
    /// Open connections.
    pub connections: Gauge,
    /// Seconds to answer a request.
    pub duration: Histogram,
    /// Seconds from a request's submission to its first token.
    pub first_token: Histogram,
    /// Seconds between tokens of a request.
    pub token_gap: Histogram,
    /// Tokens.
    pub tokens: Family<TokenLabels, Counter>,
    /// Generations by how they ended.
    pub outcomes: Family<OutcomeLabels, Counter>,
    /// Requests turned away by a limit or a full queue.
    pub turned_away: Counter,
    /// What filters found.
    pub filtered: Family<FilterLabels, Counter>,
    waiting: Family<ModelLabels, Gauge>,
    running: Family<ModelLabels, Gauge>,
    kv_blocks: Family<ModelLabels, Gauge>,
    kv_used: Family<ModelLabels, Gauge>,
    kv_idle: Family<ModelLabels, Gauge>,
    prefix_hits: Family<ModelLabels, Counter>,
    rows: Family<ModelLabels, Counter>,
    generated: Family<ModelLabels, Counter>,
    steps: Family<ModelLabels, Counter>,
    preemptions: Family<ModelLabels, Counter>,
    guesses: Family<ModelLabels, Counter>,
    right_guesses: Family<ModelLabels, Counter>,
    loaded: Gauge,
    uptime: Gauge<f64, AtomicU64>,
}

/// Seconds; from a cached prompt on a fast machine to a long one on a slow one.
const LATENCIES: [f64; 18] =
    [0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("verve"),
            requests: Family::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            duration: Histogram::new(LATENCIES),
            first_token: Histogram::new(LATENCIES),
            token_gap: Histogram::new(LATENCIES),
            tokens: Family::default(),
            outcomes: Family::default(),
            turned_away: Counter::default(),
            filtered: Family::default(),
            waiting: Family::default(),
            running: Family::default(),
            kv_blocks: Family::default(),
            kv_used: Family::default(),
            kv_idle: Family::default(),
            prefix_hits: Family::default(),
            rows: Family::default(),
            generated: Family::default(),
            steps: Family::default(),
            preemptions: Family::default(),
            guesses: Family::default(),
            right_guesses: Family::default(),
            loaded: Gauge::default(),
            uptime: Gauge::default(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let r = &mut self.registry;
        r.register("http_requests", "Requests by endpoint and status", self.requests.clone());
        r.register("http_requests_in_flight", "Requests being answered", self.in_flight.clone());
        r.register("connections", "Open connections", self.connections.clone());
        r.register("request_duration_seconds", "Time to answer a request", self.duration.clone());
        r.register("time_to_first_token_seconds", "Time to the first token of a request", self.first_token.clone());
        r.register("inter_token_latency_seconds", "Time between tokens of a request", self.token_gap.clone());
        r.register("tokens", "Tokens by model, key and kind", self.tokens.clone());
        r.register("generations", "Generations by model and outcome", self.outcomes.clone());
        r.register("turned_away", "Requests turned away by a limit or a full queue", self.turned_away.clone());
        r.register("filtered", "What filters found, by filter, stage and outcome", self.filtered.clone());
        r.register("requests_waiting", "Sequences that wait for a place", self.waiting.clone());
        r.register("requests_running", "Sequences that are being computed", self.running.clone());
        r.register("kv_blocks", "Blocks of the KV cache", self.kv_blocks.clone());
        r.register("kv_blocks_used", "Blocks of the KV cache in use", self.kv_used.clone());
        r.register("kv_blocks_idle", "Blocks that hold the beginnings of finished requests", self.kv_idle.clone());
        r.register("prefix_hit_tokens", "Tokens found in the KV cache", self.prefix_hits.clone());
        r.register("computed_tokens", "Tokens computed", self.rows.clone());
        r.register("generated_tokens", "Tokens chosen", self.generated.clone());
        r.register("engine_steps", "Passes through the model", self.steps.clone());
        r.register("preemptions", "Sequences that lost their place", self.preemptions.clone());
        r.register("guessed_tokens", "Tokens guessed", self.guesses.clone());
        r.register("right_guesses", "Guesses that were right", self.right_guesses.clone());
        r.register("models_loaded", "Models in memory", self.loaded.clone());
        r.register("uptime_seconds", "Time since the start", self.uptime.clone());
        self
    }

    /// The text of `/metrics`; engines' numbers are read now.
    pub fn render(&self, models: &crate::models::Registry, uptime: std::time::Duration) -> String {
        self.uptime.set(uptime.as_secs_f64());
        let mut n_loaded = 0;
        for status in models.status() {
            let load = status.model.as_ref().map(|model| model.engine.load()).unwrap_or_default();
            n_loaded += i64::from(status.model.is_some());
            let labels = ModelLabels { model: status.entry.name };
            let set = |family: &Family<ModelLabels, Gauge>, value: usize| {
                family.get_or_create(&labels).set(value as i64);
            };
            set(&self.waiting, load.n_waiting);
            set(&self.running, load.n_running);
            set(&self.kv_blocks, load.n_blocks);
            set(&self.kv_used, load.n_blocks - load.n_available);
            set(&self.kv_idle, load.n_idle);
            // Counted by the engine, from 0 again when the model is loaded again.
            let count = |family: &Family<ModelLabels, Counter>, value: usize| {
                family.get_or_create(&labels).inner().store(value as u64, Ordering::Relaxed);
            };
            count(&self.prefix_hits, load.totals.n_found);
            count(&self.rows, load.totals.rows);
            count(&self.generated, load.totals.n_generated);
            count(&self.steps, load.totals.steps);
            count(&self.preemptions, load.totals.n_preempted);
            count(&self.guesses, load.totals.n_guessed);
            count(&self.right_guesses, load.totals.n_right);
        }
        self.loaded.set(n_loaded);
        let mut text = String::new();
        // Writing into a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
