//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use verve_access::{AccessError, KeyStore};
use verve_moderate::Chain;

use crate::access::Access;
use crate::metrics::Metrics;
use crate::models::Registry;
use crate::options::ServerOptions;
use crate::recent::Recent;
use crate::stored::StoredResponses;

/// How often the key store is looked at.
const KEYS_REFRESH: Duration = Duration::from_millis(500);
/// How often usage is written.
const USAGE_FLUSH: Duration = Duration::from_millis(200);
/// How often idle models are looked for.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// The server's state.
pub struct App {
    /// What the operator decided.
    pub options: ServerOptions,
    /// Models.
    pub models: Arc<Registry>,
    /// Keys and limits.
    pub access: Access,
    /// Filters on prompts and answers.
    pub moderation: Option<Chain>,
    /// Counts.
    pub metrics: Metrics,
    /// The last generations.
    pub recent: Recent,
    /// Responses kept for follow-ups.
    pub stored: StoredResponses,
    /// When the server was started.
    pub started: Instant,
    /// Whether the server takes no more requests.
    draining: AtomicBool,
    /// True when open requests are to end.
    ending: watch::Sender<bool>,
}

impl App {
    /// A server that listens on nothing yet.
    pub fn new(
        options: ServerOptions,
        models: Registry,
        keys: Option<KeyStore>,
        moderation: Option<Chain>,
    ) -> Arc<Self> {
        let access = Access::new(keys, options.api_key.as_deref());
        let stored = StoredResponses::new(options.stored_responses);
        Arc::new(Self {
            options,
            models: Arc::new(models),
            access,
            moderation,
            metrics: Metrics::new(),
            recent: Recent::default(),
            stored,
            started: Instant::now(),
            draining: AtomicBool::new(false),
            ending: watch::Sender::new(false),
        })
    }

    /// Whether the server is about to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Takes no more requests.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Ends open requests.
    pub fn end_requests(&self) {
        self.ending.send_replace(true);
    }

    /// Turns true when open requests are to end.
    pub fn ending(&self) -> watch::Receiver<bool> {
        self.ending.subscribe()
    }

    /// Looks after keys, usage and idle models until the server's runtime ends.
    pub async fn keep_house(self: Arc<Self>) {
        let mut refresh = tokio::time::interval(KEYS_REFRESH);
        let mut flush = tokio::time::interval(USAGE_FLUSH);
        let mut idle = tokio::time::interval(IDLE_CHECK);
        let has_keys = self.access.store().is_some();
        loop {
            tokio::select! {
                _ = refresh.tick(), if has_keys => self.on_disk("the keys cannot be read", Access::refresh).await,
                _ = flush.tick(), if has_keys => self.flush().await,
                _ = idle.tick() => {
                    if let Some(after) = self.options.idle_unload {
                        self.models.unload_idle(after).await;
                    }
                }
            }
        }
    }

    /// Writes usage that is not written yet.
    pub async fn flush(self: &Arc<Self>) {
        if self.access.store().is_some_and(KeyStore::has_pending) {
            self.on_disk("usage cannot be written", |access| {
                access.store().map_or(Ok(()), |store| store.flush().map(drop))
            })
            .await;
        }
    }

    /// Work on the key store, off the thread that must not wait.
    async fn on_disk(
        self: &Arc<Self>,
        problem: &'static str,
        work: impl FnOnce(&Access) -> Result<(), AccessError> + Send + 'static,
    ) {
        let app = self.clone();
        let result = tokio::task::spawn_blocking(move || work(&app.access)).await;
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "{problem}"),
            Err(error) => tracing::error!(%error, "{problem}"),
        }
    }
}
