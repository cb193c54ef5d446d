//! A hub on this machine that does what a test tells it to.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use verve_hub::{Patience, Settings};

/// A request as it arrived; header names in lower case.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What to answer.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Send only so many bytes of the body, then close.
    pub cut: Option<usize>,
    /// Send only so many bytes of the body, then nothing.
    pub stall: Option<usize>,
}

impl Reply {
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// All of `bytes`, or what the request's range asks for.
    pub fn file(request: &Request, bytes: &[u8]) -> Self {
        let from =
            request.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        match from {
            None => Self::ok(bytes),
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                Self { status: 206, ..Self::ok(&bytes[from..]) }.header("content-range", range)
            }
        }
    }
}

/// A running hub.
pub struct Mock {
    pub url: String,
    pub requests: Arc<Mutex<Vec<Request>>>,
}

impl Mock {
    /// Starts one. `answer` gets each request and how many of the same path came before it.
    pub fn start(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || drop(serve(stream, &seen, &*answer)));
            }
        });
        Self { url, requests }
    }

    pub fn seen(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Requests for paths that hold `part`.
    pub fn count(&self, part: &str) -> usize {
        self.seen().iter().filter(|request| request.path.contains(part)).count()
    }

    /// Settings for it, with little patience.
    pub fn settings(&self, cache: &Path) -> Settings {
        Settings {
            endpoint: self.url.clone(),
            cache: cache.to_owned(),
            token: Some("hf_secret".to_owned()),
            offline: false,
            certificates: None,
            patience: Patience {
                connect: Duration::from_secs(5),
                stall: Duration::from_millis(300),
                attempts: 4,
                first_wait: Duration::from_millis(5),
                longest_wait: Duration::from_secs(2),
            },
        }
    }
}

fn serve(
    stream: TcpStream,
    seen: &Mutex<Vec<Request>>,
    answer: &(dyn Fn(&Request, usize) -> Reply + Send + Sync),
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    let request = Request { path, headers };
    let before = {
        let mut seen = seen.lock().unwrap();
        let before = seen.iter().filter(|other| other.path == request.path).count();
        seen.push(request.clone());
        before
    };
    let reply = answer(&request, before);
    let mut stream = stream;
    write!(stream, "HTTP/1.1 {} X\r\nconnection: close\r\n", reply.status)?;
    if !reply.headers.iter().any(|(name, _)| name == "content-length") {
        write!(stream, "content-length: {}\r\n", reply.body.len())?;
    }
    for (name, value) in &reply.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    write!(stream, "\r\n")?;
    let most = reply.cut.or(reply.stall).unwrap_or(reply.body.len()).min(reply.body.len());
    stream.write_all(&reply.body[..most])?;
    stream.flush()?;
    if reply.stall.is_some() {
        std::thread::sleep(Duration::from_secs(3));
    }
    Ok(())
}
