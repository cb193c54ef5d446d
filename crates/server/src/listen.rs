//! Connections: accepting them, bounding them, ending them in good order.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep};
use tokio_rustls::TlsAcceptor;

use crate::app::App;
use crate::options::TlsFiles;
use crate::router::router;

/// Longest head of a request, bytes.
const MAX_HEAD: usize = 64 << 10;
/// How long requests that were told to end may take for it.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Why a server does not start or does not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Host and port.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// A wide address without keys.
    #[error(
        "{address} can be reached from other machines, and no key is asked for: give --keys FILE (verve keys add makes keys) \
         or --api-key, or say --allow-anonymous to serve everyone"
    )]
    Anonymous {
        /// The address.
        address: SocketAddr,
    },
    /// The model that is served by default cannot be loaded.
    #[error("{message}")]
    Model {
        /// Which and why.
        message: String,
    },
    /// The system gives no means to wait for connections.
    #[error("cannot wait for connections: {source}")]
    Runtime {
        /// Why.
        source: io::Error,
    },
    /// A file of the TLS identity cannot be used.
    #[error("TLS: {}: {message}", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

/// A server that listens.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    address: SocketAddr,
}

impl Server {
    /// Listens where the options say.
    ///
    /// # Errors
    /// As [`ServerError`].
    pub async fn bind(app: Arc<App>) -> Result<Self, ServerError> {
        let options = &app.options;
        let shown = format!("{}:{}", options.host, options.port);
        let failed = |source| ServerError::Listen { address: shown.clone(), source };
        let host = options.host.trim_start_matches('[').trim_end_matches(']');
        let listener = TcpListener::bind((host, options.port)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        if !address.ip().is_loopback() && !app.access.needs_key() && !options.allow_anonymous {
            return Err(ServerError::Anonymous { address });
        }
        let tls = options.tls.as_ref().map(acceptor).transpose()?;
        Ok(Self { app, listener, tls, address })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it is reached.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Answers requests until `shutdown`; then takes no more, lets those that are open go on for as long as the options
    /// say, and ends the rest.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let Self { app, listener, tls, .. } = self;
        let service = router(&app);
        let house = tokio::spawn(app.clone().keep_house());
        let graceful = GracefulShutdown::new();
        let places = Arc::new(Semaphore::new(app.options.max_connections));
        tokio::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                accepted = accept(&listener, &places) => accepted,
            };
            let Some((stream, place)) = accepted else { continue };
            let connection = Connection { app: app.clone(), tls: tls.clone(), service: service.clone() };
            let watcher = graceful.watcher();
            tokio::spawn(async move {
                connection.app.metrics.connections.inc();
                connection.serve(stream, watcher).await;
                connection.app.metrics.connections.dec();
                drop(place);
            });
        }
        drop(listener);
        app.drain();
        tracing::info!("shutting down: open requests are answered first");
        let drained = tokio::time::timeout(app.options.drain_timeout, graceful.shutdown()).await;
        if drained.is_err() {
            tracing::warn!(limit_s = app.options.drain_timeout.as_secs(), "open requests are ended");
            app.end_requests();
            let start = tokio::time::Instant::now();
            while app.metrics.connections.get() > 0 && start.elapsed() < LAST_WORDS {
                sleep(Duration::from_millis(20)).await;
            }
        }
        house.abort();
        app.flush().await;
    }
}

/// The next connection, when there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            // Out of file descriptors, mostly: the next will fail too until some are free.
            tracing::warn!(%error, "a connection could not be accepted");
            sleep(Duration::from_millis(50)).await;
            None
        }
    }
}

struct Connection {
    app: Arc<App>,
    tls: Option<TlsAcceptor>,
    service: Router,
}

impl Connection {
    async fn serve(&self, stream: TcpStream, watcher: hyper_util::server::graceful::Watcher) {
        // Tokens are small and should not wait for each other.
        let _ = stream.set_nodelay(true);
        let stream = StallGuard::new(stream, self.app.options.write_timeout);
        match &self.tls {
            None => self.answer(stream, watcher).await,
            Some(tls) => match tokio::time::timeout(self.app.options.header_timeout, tls.accept(stream)).await {
                Ok(Ok(stream)) => self.answer(stream, watcher).await,
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                Err(_) => tracing::debug!("TLS handshake took too long"),
            },
        }
    }

    async fn answer<T>(&self, stream: T, watcher: hyper_util::server::graceful::Watcher)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = TowerToHyperService::new(self.service.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.app.options.header_timeout)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "connection ended");
        }
    }
}

fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, ServerError> {
    let wrong = |path: &PathBuf, message: String| ServerError::Tls { path: path.clone(), message };
    let chain = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong(&files.certificate, format!("not a PEM certificate chain: {error}")))?;
    if chain.is_empty() {
        return Err(wrong(&files.certificate, "no certificate in it: PEM is expected".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| wrong(&files.key, format!("not a PEM private key: {error}")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| wrong(&files.certificate, format!("certificate and key cannot be used: {error}")))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Runs a server on this thread until the process is told to end (Ctrl-C, or SIGTERM where there is such a thing). `ready`
/// hears where it listens. The model that requests without a name get is loaded first of all.
///
/// # Errors
/// As [`Server::bind`]; [`ServerError::Model`] when that model cannot be loaded.
pub fn run(app: Arc<App>, ready: impl FnOnce(&Server)) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(16)
        .build()
        .map_err(|source| ServerError::Runtime { source })?;
    let result = runtime.block_on(async {
        let server = Server::bind(app.clone()).await?;
        app.models.get(None).await.map_err(|error| ServerError::Model { message: error.message })?;
        ready(&server);
        server.run(told_to_end()).await;
        Ok(())
    });
    // What still runs in the background has nobody to run for.
    runtime.shutdown_background();
    result
}

/// Waits for the signal to end.
async fn told_to_end() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut terminate), Ok(mut interrupt)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            return;
        }
    }
    // Without signals the server runs until it is killed.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A connection that fails when its other end does not read for too long: what waits for it takes memory.
struct StallGuard<T> {
    inner: T,
    limit: Duration,
    /// Since when nothing can be written.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<T> StallGuard<T> {
    fn new(inner: T, limit: Duration) -> Self {
        Self { inner, limit, timer: None }
    }

    fn watched<R>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if result.is_ready() {
            self.timer = None;
            return result;
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for StallGuard<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for StallGuard<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watched(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.watched(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.watched(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watched(cx, result)
    }
}
