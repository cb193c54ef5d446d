//! What the operator decides about the server; models are another matter, see [`crate::ModelLoader`].

use std::path::PathBuf;
use std::time::Duration;

/// Address, limits and access.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Host name or address to listen on.
    pub host: String,
    /// Port; 0 lets the system pick one.
    pub port: u16,
    /// Certificate and key for TLS.
    pub tls: Option<TlsFiles>,
    /// Whether a wider address than loopback may be served without keys.
    pub allow_anonymous: bool,
    /// One key that may do everything, beside those of a key store.
    pub api_key: Option<String>,
    /// Origins whose pages may call; `*` for any. Empty: none but the server's own.
    pub cors_origins: Vec<String>,
    /// Longest body of a request, bytes.
    pub max_body_bytes: usize,
    /// Connections at once.
    pub max_connections: usize,
    /// How long the head of a request may take to come.
    pub header_timeout: Duration,
    /// How long the body of a request may take to come.
    pub body_timeout: Duration,
    /// How long a client may leave an answer unread.
    pub write_timeout: Duration,
    /// How long a request may take in all.
    pub request_timeout: Duration,
    /// How long open requests may go on when the server is told to end.
    pub drain_timeout: Duration,
    /// How long a model stays loaded without use; `None` for ever.
    pub idle_unload: Option<Duration>,
    /// Whether log lines hold prompts and answers.
    pub log_text: bool,
    /// Responses kept for `previous_response_id`, in memory; 0 keeps none.
    pub stored_responses: usize,
}

/// Files of a TLS identity, PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Certificate chain, the server's own first.
    pub certificate: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

impl Default for ServerOptions {
    /// Loopback, port 8080, no keys.
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8080,
            tls: None,
            allow_anonymous: false,
            api_key: None,
            cors_origins: Vec::new(),
            max_body_bytes: 8 << 20,
            max_connections: 4096,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(600),
            drain_timeout: Duration::from_secs(30),
            idle_unload: None,
            log_text: false,
            stored_responses: 0,
        }
    }
}
