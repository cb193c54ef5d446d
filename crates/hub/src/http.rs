//! Requests to a hub: redirects by hand, so that the token stays with the endpoint, and attempts with waits between them.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ureq::http::{HeaderMap, Response, StatusCode, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use crate::error::HubError;
use crate::settings::Settings;

/// Most redirects of one request.
const MAX_REDIRECTS: usize = 10;

/// How much of an error's text is kept.
const MESSAGE_BYTES: u64 = 2_000;

/// An HTTP client for one hub.
pub(crate) struct Http<'s> {
    agent: Agent,
    pub(crate) settings: &'s Settings,
    cancel: &'s AtomicBool,
}

/// An answer with a status below 400.
pub(crate) struct Answer {
    pub(crate) response: Response<Body>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(self.response.headers(), name)
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Why one attempt failed.
pub(crate) enum Failure {
    /// Another attempt may succeed, at the earliest after this time.
    Again { error: HubError, wait: Option<Duration> },
    /// It makes no sense to try again.
    Final(HubError),
}

/// Counts attempts in a row that bring nothing, and waits between them.
pub(crate) struct Attempts<'h, 's> {
    http: &'h Http<'s>,
    failed: u32,
}

impl Attempts<'_, '_> {
    /// The number of the attempt that is being made.
    pub(crate) fn number(&self) -> u32 {
        self.failed + 1
    }

    /// Starts to count anew: something arrived.
    pub(crate) fn progressed(&mut self) {
        self.failed = 0;
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// The failure itself if it was the last attempt, [`HubError::Cancelled`].
    pub(crate) fn failed(
        &mut self,
        failure: Failure,
        on_wait: &mut dyn FnMut(&HubError, Duration),
    ) -> Result<(), HubError> {
        let (error, asked) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Again { error, wait } => (error, wait),
        };
        self.failed += 1;
        let patience = &self.http.settings.patience;
        if self.failed >= patience.attempts {
            return Err(error);
        }
        let own = patience.first_wait.saturating_mul(1 << (self.failed - 1).min(16));
        let wait = asked.unwrap_or(own).max(own).min(patience.longest_wait);
        on_wait(&error, wait);
        let until = Instant::now() + wait;
        while Instant::now() < until {
            self.http.check()?;
            std::thread::sleep(Duration::from_millis(50).min(until.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }
}

impl<'s> Http<'s> {
    /// A client.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub(crate) fn new(settings: &'s Settings, cancel: &'s AtomicBool) -> Result<Self, HubError> {
        let patience = &settings.patience;
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("verve/", env!("CARGO_PKG_VERSION")))
            // Compressed answers have no length to compare.
            .accept_encoding("identity")
            .timeout_resolve(Some(patience.connect))
            .timeout_connect(Some(patience.connect))
            .timeout_recv_response(Some(patience.stall))
            .timeout_per_read(Some(patience.stall));
        if let Some(path) = &settings.certificates {
            let pem = std::fs::read(path).map_err(crate::error::io("read the certificates of SSL_CERT_FILE,", path))?;
            let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
                .filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                })
                .collect();
            if certificates.is_empty() {
                let found = path.display().to_string();
                let why = "the file holds no certificate".to_owned();
                return Err(HubError::Setting { name: "SSL_CERT_FILE", found, why });
            }
            let tls = TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates)).build();
            config = config.tls_config(tls);
        }
        Ok(Self { agent: config.build().new_agent(), settings, cancel })
    }

    pub(crate) fn attempts(&self) -> Attempts<'_, 's> {
        Attempts { http: self, failed: 0 }
    }

    /// Fails if the caller asked to stop.
    pub(crate) fn check(&self) -> Result<(), HubError> {
        if self.cancel.load(Ordering::SeqCst) { Err(HubError::Cancelled) } else { Ok(()) }
    }

    /// One request. `from` asks for the bytes from there on. `what` and `repo` are for messages.
    pub(crate) fn get(&self, url: &str, from: u64, ask: &Ask<'_>, attempt: u32) -> Result<Answer, Failure> {
        let network = |message: String| Failure::Again {
            error: HubError::Network { what: ask.what.to_owned(), attempts: attempt, message },
            wait: None,
        };
        let answer_bad = |message: String| Failure::Final(HubError::Answer { what: ask.what.to_owned(), message });
        let mut url: Uri = url.parse().map_err(|error| answer_bad(format!("{url} is no URL: {error}")))?;
        let endpoint: Uri =
            self.settings.endpoint.parse().map_err(|_| answer_bad("the endpoint is no URL".to_owned()))?;
        let mut linked = HeaderMap::new();
        for _ in 0..MAX_REDIRECTS {
            self.check().map_err(Failure::Final)?;
            let mut request = self.agent.get(url.clone());
            if same_origin(&url, &endpoint)
                && let Some(token) = &self.settings.token
            {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            let mut response = request.call().map_err(|error| match explain(&error) {
                message if message.contains("certificate") => {
                    let endpoint = url.authority().map_or_else(|| self.settings.endpoint.clone(), ToString::to_string);
                    Failure::Final(HubError::Certificate { endpoint, message })
                }
                message => network(message),
            })?;
            let status = response.status();
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                let Some(place) = header(response.headers(), "location") else {
                    return Err(answer_bad(format!("{status} without a place to go to")));
                };
                let next = absolute(&url, place).ok_or_else(|| answer_bad(format!("it redirects to {place:?}")))?;
                if url.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                    return Err(answer_bad(format!("it redirects from https to {next}")));
                }
                for (name, value) in response.headers() {
                    if name.as_str().starts_with("x-linked-") || name == "x-repo-commit" {
                        linked.insert(name, value.clone());
                    }
                }
                url = next;
                continue;
            }
            if status.is_client_error() || status.is_server_error() {
                return Err(self.failure(&mut response, ask, attempt));
            }
            for (name, value) in &linked {
                response.headers_mut().insert(name, value.clone());
            }
            return Ok(Answer { response });
        }
        Err(answer_bad(format!("more than {MAX_REDIRECTS} redirects")))
    }

    fn failure(&self, response: &mut Response<Body>, ask: &Ask<'_>, attempt: u32) -> Failure {
        let status = response.status();
        let wait = header(response.headers(), "retry-after").and_then(|text| text.trim().parse().ok());
        let said = header(response.headers(), "x-error-message").map(str::to_owned);
        let code = header(response.headers(), "x-error-code").unwrap_or_default().to_owned();
        let mut body = Vec::new();
        // What cannot be read of an error's text is not missed.
        drop(response.body_mut().as_reader().take(MESSAGE_BYTES).read_to_end(&mut body));
        let message = said.unwrap_or_else(|| body_message(&body));
        let repo = ask.repo.to_owned();
        let error = match (status.as_u16(), code.as_str()) {
            (401 | 403, "GatedRepo") | (403, _) => {
                HubError::Forbidden { page: format!("{}/{repo}", self.settings.endpoint), repo, message }
            }
            (401, _) => HubError::Unauthorized { repo },
            (404, _) => HubError::NotFound { what: ask.what.to_owned(), endpoint: self.settings.endpoint.clone() },
            (status, _) => HubError::Status { status, what: ask.what.to_owned(), attempts: attempt, message },
        };
        if matches!(status.as_u16(), 408 | 425 | 429) || status.is_server_error() {
            Failure::Again { error, wait: wait.map(Duration::from_secs) }
        } else {
            Failure::Final(error)
        }
    }

    /// A JSON document of at most `limit` bytes.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(
        &self,
        url: &str,
        ask: &Ask<'_>,
        limit: u64,
        on_wait: &mut dyn FnMut(&HubError, Duration),
    ) -> Result<T, HubError> {
        let mut attempts = self.attempts();
        loop {
            let number = attempts.number();
            let read = self.get(url, 0, ask, number).and_then(|mut answer| {
                let mut bytes = Vec::new();
                let reader = answer.response.body_mut().as_reader();
                reader.take(limit + 1).read_to_end(&mut bytes).map_err(|error| Failure::Again {
                    error: HubError::Network {
                        what: ask.what.to_owned(),
                        attempts: number,
                        message: error.to_string(),
                    },
                    wait: None,
                })?;
                let bad = |message: String| Failure::Final(HubError::Answer { what: ask.what.to_owned(), message });
                if bytes.len() as u64 > limit {
                    return Err(bad(format!("more than {limit} bytes")));
                }
                serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))
            });
            match read {
                Ok(value) => return Ok(value),
                Err(failure) => attempts.failed(failure, on_wait)?,
            }
        }
    }
}

/// What a request is for, in messages.
pub(crate) struct Ask<'a> {
    /// The thing asked for.
    pub(crate) what: &'a str,
    /// Its repository.
    pub(crate) repo: &'a str,
}

/// The message in an error's JSON, or the start of its text in one line.
fn body_message(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = json.as_ref().and_then(|json| json.get("error")).and_then(serde_json::Value::as_str);
    let line: String = message.unwrap_or(&text).split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
    if line.is_empty() { "no reason given".to_owned() } else { line }
}

fn explain(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Timeout(_) => "nothing arrived within the time limit".to_owned(),
        ureq::Error::HostNotFound => "the hub's name cannot be resolved; is there a network?".to_owned(),
        error => error.to_string(),
    }
}

fn same_origin(a: &Uri, b: &Uri) -> bool {
    a.scheme() == b.scheme() && a.host().is_some() && a.host() == b.host() && port(a) == port(b)
}

fn port(uri: &Uri) -> Option<u16> {
    uri.port_u16().or(match uri.scheme_str() {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    })
}

/// Where a redirect leads.
fn absolute(from: &Uri, place: &str) -> Option<Uri> {
    if place.starts_with("http://") || place.starts_with("https://") {
        return place.parse().ok();
    }
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    if let Some(rest) = place.strip_prefix("//") {
        return format!("{scheme}://{rest}").parse().ok();
    }
    if place.starts_with('/') {
        return format!("{scheme}://{authority}{place}").parse().ok();
    }
    let folder = from.path().rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{scheme}://{authority}{folder}/{place}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_stays_with_the_endpoint() {
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        let endpoint = uri("https://hub.example");
        assert!(same_origin(&uri("https://hub.example:443/a"), &endpoint));
        for other in [
            "http://hub.example/a",
            "https://hub.example:8443/a",
            "https://cdn.hub.example/a",
            "https://hub.example.evil/a",
        ] {
            assert!(!same_origin(&uri(other), &endpoint), "{other}");
        }
    }

    #[test]
    fn redirects_may_be_relative() {
        let from: Uri = "http://h:1/a/b?c".parse().unwrap();
        let to = |place: &str| absolute(&from, place).unwrap().to_string();
        assert_eq!(to("/x?y"), "http://h:1/x?y");
        assert_eq!(to("x"), "http://h:1/a/x");
        assert_eq!(to("//o/x"), "http://o/x");
        assert_eq!(to("https://o/x"), "https://o/x");
    }
}
