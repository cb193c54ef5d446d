//! Answers as server-sent events.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_core::Stream;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

use crate::access::Caller;
use crate::answer::{CHECK, Watch};
use crate::app::App;
use crate::error::ApiError;
use crate::generation::{Generation, Update};
use crate::track::Track;

/// How often a silent stream shows that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long to wait for something that decides whether there is an answer at all before the status is sent.
const FIRST: Duration = Duration::from_secs(5);
/// Bytes that are sent together at most; more wait for the client.
const MAX_FRAME: usize = 1 << 16;

/// Padded events are a multiple of this long.
const PADDED: usize = 128;

/// Whether the lengths of events say how long their texts are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Padding {
    /// They do.
    #[default]
    None,
    /// Each has a field `obfuscation` that makes it as long as others.
    Even,
}

/// What an endpoint makes of updates.
pub trait Shape: Send + 'static {
    /// Whether events are padded.
    fn padding(&self) -> Padding;
    /// Before anything has happened.
    fn begin(&mut self, out: &mut Events);
    /// Something happened.
    fn update(&mut self, update: Update, out: &mut Events);
    /// Everything has happened.
    fn end(&mut self, track: &Track, out: &mut Events);
    /// Nothing more will happen.
    fn fail(&mut self, error: &ApiError, out: &mut Events) {
        out.data(&error.body());
    }
}

/// Events on their way to a client.
#[derive(Debug, Default)]
pub struct Events {
    bytes: Vec<u8>,
    padding: Padding,
}

impl Events {
    /// An event without a name.
    pub fn data(&mut self, value: &impl Serialize) {
        self.bytes.extend_from_slice(b"data: ");
        self.json(value);
    }

    /// An event with a name.
    pub fn named(&mut self, name: &str, value: &impl Serialize) {
        self.bytes.extend_from_slice(b"event: ");
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b"\ndata: ");
        self.json(value);
    }

    fn json(&mut self, value: &impl Serialize) {
        let before = self.bytes.len();
        // What is serialised has string keys and finite numbers or null: it cannot fail.
        if serde_json::to_writer(&mut self.bytes, value).is_err() {
            self.bytes.truncate(before);
            self.bytes.extend_from_slice(b"null");
        }
        if self.padding == Padding::Even && self.bytes.ends_with(b"}") {
            self.pad(before);
        }
        self.bytes.extend_from_slice(b"\n\n");
    }

    /// Adds a field to the object that begins at `start`, so that its length is a multiple of [`PADDED`].
    fn pad(&mut self, start: usize) {
        const FIELD: &[u8] = b",\"obfuscation\":\"";
        self.bytes.pop();
        let len = self.bytes.len() - start + FIELD.len() + b"\"}".len();
        self.bytes.extend_from_slice(FIELD);
        let padded = self.bytes.len() + (PADDED - len % PADDED) % PADDED;
        self.bytes.resize(padded, b'-');
        self.bytes.extend_from_slice(b"\"}");
    }

    /// The end of a stream of unnamed events.
    pub fn done(&mut self) {
        self.bytes.extend_from_slice(b"data: [DONE]\n\n");
    }
}

/// Streams a generation. Waits for its first sign, so that a request that is refused, or does not begin before its deadline,
/// gets a status that says so.
///
/// # Errors
/// The refusal.
pub async fn stream<S: Shape>(
    app: &Arc<App>,
    caller: &Caller,
    mut generation: Generation,
    shape: S,
) -> Result<Response, ApiError> {
    let deadline = Instant::now() + app.options.request_timeout;
    let patience = FIRST.min(app.options.request_timeout);
    let first = tokio::time::timeout(patience, Watch::new(app, caller).next(&mut generation)).await;
    match first {
        Ok(Err(error) | Ok(Some(Update::Failed(error)))) => return Err(error),
        Ok(Ok(Some(first))) => generation.put_back(first),
        Err(_) if Instant::now() >= deadline => {
            generation.expire();
            return Err(ApiError::deadline(app.options.request_timeout.as_secs()));
        }
        Ok(Ok(None)) | Err(_) => {}
    }
    let stream = EventStream {
        app: app.clone(),
        caller: caller.clone(),
        deadline,
        ending: app.ending(),
        generation,
        events: Events { padding: shape.padding(), ..Events::default() },
        shape,
        timer: Box::pin(sleep(CHECK)),
        last_sent: Instant::now(),
        stage: Stage::Beginning,
    };
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that collect answers would undo the streaming.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Beginning,
    Running,
    Over,
}

struct EventStream<S> {
    app: Arc<App>,
    caller: Caller,
    deadline: Instant,
    ending: watch::Receiver<bool>,
    generation: Generation,
    shape: S,
    events: Events,
    timer: Pin<Box<Sleep>>,
    last_sent: Instant,
    stage: Stage,
}

impl<S> Unpin for EventStream<S> {}

impl<S: Shape> EventStream<S> {
    /// Takes what has come, as much as is sent together.
    fn take(&mut self, cx: &mut Context<'_>) {
        if self.stage == Stage::Beginning {
            self.shape.begin(&mut self.events);
            self.stage = Stage::Running;
        }
        while self.stage == Stage::Running && self.events.bytes.len() < MAX_FRAME {
            match self.generation.poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Update::Failed(error))) => self.fail(&error),
                Poll::Ready(Some(update)) => self.shape.update(update, &mut self.events),
                Poll::Ready(None) => {
                    self.shape.end(&self.generation.track, &mut self.events);
                    self.stage = Stage::Over;
                }
            }
        }
    }

    fn fail(&mut self, error: &ApiError) {
        self.shape.fail(error, &mut self.events);
        self.stage = Stage::Over;
    }

    /// What is looked at now and then.
    fn check(&mut self) {
        if Instant::now() >= self.deadline {
            self.generation.expire();
            self.fail(&ApiError::deadline(self.app.options.request_timeout.as_secs()));
        } else if *self.ending.borrow() {
            self.generation.expire();
            self.fail(&ApiError::unavailable("the server is shutting down", 5));
        } else if let Err(error) = self.caller.still_valid(&self.app) {
            self.generation.expire();
            self.fail(&error);
        } else if self.last_sent.elapsed() >= KEEP_ALIVE {
            self.events.bytes.extend_from_slice(b": still at it\n\n");
        }
    }
}

impl<S: Shape> Stream for EventStream<S> {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.stage != Stage::Over {
            this.take(cx);
        }
        while this.stage != Stage::Over && this.timer.as_mut().poll(cx).is_ready() {
            this.timer.as_mut().reset(tokio::time::Instant::now() + CHECK);
            this.check();
        }
        if !this.events.bytes.is_empty() {
            this.last_sent = Instant::now();
            return Poll::Ready(Some(Ok(Bytes::from(std::mem::take(&mut this.events.bytes)))));
        }
        if this.stage == Stage::Over { Poll::Ready(None) } else { Poll::Pending }
    }
}
