//! Arguments of `verve serve`. The same fields are the keys of `verve.toml`, in the table `[serve]`, and with the prefix
//! `VERVE_SERVE_` the names of environment variables.

use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::Dtype;
use crate::units;

#[derive(Debug, Args)]
#[command(
    after_help = "Configuration:  flags go before environment variables (VERVE_SERVE_PORT=8080), those before verve.toml \
    (table [serve], the same names with _ for -), those before defaults; --print-config shows each value and where it came \
    from.\nKeys:  verve keys add NAME --keys FILE makes a key; verve serve --keys FILE asks for one.\n\nExample:  verve serve \
    --model model.gguf, then open http://127.0.0.1:8080"
)]
pub struct ServeArgs {
    /// Configuration file [default: verve.toml in this folder, if there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Show every setting and where it came from, and end
    #[arg(long)]
    pub print_config: bool,
    #[command(flatten)]
    pub settings: ServeSettings,
}

/// One layer of settings: what a file, the environment or the command line gives. What it does not give is `None`.
#[derive(Debug, Clone, Default, Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServeSettings {
    /// Model to serve, or a folder with several; may be given several times. NAME=MODEL gives it a name. The first is what
    /// requests without a model get
    #[arg(long, value_name = "[NAME=]MODEL|DIR")]
    pub model: Option<Vec<String>>,
    /// Another name for a model, so that a client's hard-coded name works; *=MODEL for every name; may be given several times
    #[arg(long, value_name = "NAME=MODEL")]
    pub alias: Option<Vec<String>>,
    /// Address to listen on; any but loopback needs keys [default: 127.0.0.1]
    #[arg(long, value_name = "HOST")]
    pub host: Option<String>,
    /// Port; 0 lets the system pick one [default: 8080]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Certificate chain for TLS, PEM; with --tls-key
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key for TLS, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Ask for keys of this file, see verve keys
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Ask for this one key (better given as VERVE_SERVE_API_KEY than where others can read it)
    #[arg(long, value_name = "TEXT")]
    pub api_key: Option<String>,
    /// Serve other machines, and names other than localhost, without asking for a key
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub allow_anonymous: Option<bool>,
    /// Let pages of this origin (https://example.org, or *) call the server; may be given several times
    #[arg(long, value_name = "ORIGIN")]
    pub cors_origin: Option<Vec<String>>,
    /// Most bytes of all models in memory together, such as 8GiB [default: what the machine has]
    #[arg(long, value_name = "BYTES")]
    pub memory: Option<String>,
    /// Seconds after which a model that nobody uses is unloaded; 0 for never [default: 0]
    #[arg(long, value_name = "SECONDS")]
    pub idle_unload: Option<u64>,
    /// Sequences computed at once [default: 16]
    #[arg(long, value_name = "N", value_parser = units::small_count)]
    pub max_sequences: Option<usize>,
    /// Requests that may wait or be answered at once, more get 429 [default: 1024]
    #[arg(long, value_name = "N", value_parser = units::small_count)]
    pub queue: Option<usize>,
    /// Longest sequence, prompt and answer together [default: the model's]
    #[arg(long, value_name = "TOKENS", value_parser = units::small_count)]
    pub context: Option<usize>,
    /// Tokens that the KV cache holds [default: 2048 for each sequence, at least one longest sequence]
    #[arg(long, value_name = "TOKENS", value_parser = units::small_count)]
    pub cache_tokens: Option<usize>,
    /// Chat template for all models: a file or a built-in name [default: each model's own]
    #[arg(long, value_name = "NAME|FILE")]
    pub template: Option<String>,
    /// Type of activations, and of weights that are not quantised [default: the model's own]
    #[arg(long, value_enum)]
    pub dtype: Option<Dtype>,
    /// What activations are in products with quantised weights: f32 (exact, slowest), int16 (fast, ties aside the same
    /// likeliest tokens) or int8 (fastest, with an error like that of q8_0 weights) [default: int16]
    #[arg(long, value_name = "f32|int16|int8")]
    pub activations: Option<String>,
    /// What the keys and values of past tokens are kept as: as-is (as activations are), f16 (half the memory of f32) or int8 (a
    /// quarter) [default: f16 where weights are quantised and activations f32, else as-is]
    #[arg(long, value_name = "as-is|f16|int8")]
    pub kv_cache: Option<String>,
    /// Guess what followed the last words before: faster where answers quote their prompt
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub prompt_lookup: Option<bool>,
    /// Largest body of a request, such as 8MiB [default: 8MiB]
    #[arg(long, value_name = "BYTES")]
    pub max_body: Option<String>,
    /// Connections at once [default: 4096]
    #[arg(long, value_name = "N", value_parser = units::small_count)]
    pub max_connections: Option<usize>,
    /// Seconds that the head of a request may take to come [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub header_timeout: Option<u64>,
    /// Seconds that the body of a request may take to come [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub body_timeout: Option<u64>,
    /// Seconds that a client may leave an answer unread [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub write_timeout: Option<u64>,
    /// Seconds that a request may take in all [default: 600]
    #[arg(long, value_name = "SECONDS")]
    pub request_timeout: Option<u64>,
    /// Seconds that open requests may go on when the server is told to end [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub drain_timeout: Option<u64>,
    /// Responses kept in memory for previous_response_id; 0 keeps none [default: 0]
    #[arg(long, value_name = "N")]
    pub stored_responses: Option<usize>,
    /// Form of log lines on standard error: text or json [default: text]
    #[arg(long, value_name = "text|json")]
    pub log: Option<String>,
    /// Let log lines quote what requests say
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub log_text: Option<bool>,
    /// Input and output filters, see the guide; only in a configuration file
    #[arg(skip)]
    pub moderation: Option<toml::Value>,
}
