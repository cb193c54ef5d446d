//! A server on loopback with small random models, and a client that sees every byte.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::oneshot;
use verve_access::KeyStore;
use verve_chat::{ChatFormat, ModelTemplates, SpecialTexts};
use verve_constrain::Rules;
use verve_cpu::{CpuBackend, Isa};
use verve_engine::{Engine, EngineOptions, Vocabulary, engine_channel, serve};
use verve_model::{ModelConfig, Network, init, layout};
use verve_moderate::Chain;
use verve_server::{App, Loaded, ModelEntry, ModelLoader, Registry, Server, ServerOptions};
use verve_tokenizer::Tokenizer;
use verve_tokenizer::train::{TrainOptions, train};

/// Tokens of the models' context.
pub const N_CTX: usize = 1024;
/// Bytes that a test's model is said to take.
pub const MODEL_BYTES: u64 = 1000;

/// The tokenizer of all test models.
pub fn tokenizer() -> Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    let text = "the cat sat on the mat; über café, 日本語 naïve \"json\": {\"a\": [1, 2]} the end of the text \n";
    let made = || {
        let options = TrainOptions { n_vocab: 320, ..TrainOptions::default() };
        Arc::new(train(options, [text.repeat(20)]).unwrap().0)
    };
    TOKENIZER.get_or_init(made).clone()
}

/// Models by name, all random but of different seeds.
pub struct TestLoader {
    pub names: Vec<&'static str>,
    pub queue: usize,
    pub max_sequences: usize,
}

impl Default for TestLoader {
    fn default() -> Self {
        Self { names: vec!["tiny"], queue: 256, max_sequences: 8 }
    }
}

impl ModelLoader for TestLoader {
    fn entries(&self) -> Vec<ModelEntry> {
        let entry = |name: &&str| ModelEntry {
            name: (*name).to_owned(),
            created: 1_700_000_000,
            bytes: MODEL_BYTES,
            n_ctx: N_CTX,
        };
        self.names.iter().map(entry).collect()
    }

    fn load(&self, name: &str) -> Result<Loaded, String> {
        if name == "broken" {
            return Err("its file is damaged".to_owned());
        }
        let seed = self.names.iter().position(|known| *known == name).unwrap() as u64;
        let tokenizer = tokenizer();
        let vocabulary = Arc::new(Vocabulary::new(&tokenizer));
        let templates = ModelTemplates {
            named: vec![("default".to_owned(), verve_chat::builtin("chatml").unwrap().to_owned())],
            specials: SpecialTexts::default(),
            adds_bos: None,
        };
        let chat = (name != "plain").then(|| ChatFormat::new(&templates, None, &tokenizer).unwrap().unwrap());
        let (engine, requests) = engine_channel(self.queue);
        let n_vocab = tokenizer.n_vocab();
        let config = ModelConfig { n_ctx: N_CTX, ..ModelConfig::preset("nano", Some(n_vocab)).unwrap() };
        let d_model = config.d_model;
        let options = EngineOptions {
            max_sequences: self.max_sequences,
            cache_tokens: Some(N_CTX * 8),
            ..EngineOptions::default()
        };
        let words = vocabulary.clone();
        let thread = std::thread::spawn(move || {
            let backend = CpuBackend::<f32>::new(1, Isa::from_env().unwrap()).unwrap();
            let weights = init::<_, f32>(&backend, &layout(&config), 100 + seed).unwrap();
            let network = Network { backend: &backend, config: &config, weights: &weights };
            let mut engine = Engine::from_network(network, &words, &options).unwrap();
            serve(engine.core(), &requests).unwrap();
        });
        Ok(Loaded {
            name: name.to_owned(),
            engine,
            thread: Some(thread),
            rules: Rules::new(tokenizer.clone(), &vocabulary),
            tokenizer,
            vocabulary,
            chat,
            n_ctx: N_CTX,
            d_model,
            fingerprint: "fp_test".to_owned(),
            queue_limit: self.queue,
        })
    }
}

/// What a server is made of.
#[derive(Default)]
pub struct Setup {
    pub loader: TestLoader,
    pub options: ServerOptions,
    pub aliases: Vec<(String, String)>,
    pub budget: Option<u64>,
    pub keys: Option<KeyStore>,
    pub moderation: Option<Chain>,
}

/// A running server.
pub struct TestServer {
    pub address: SocketAddr,
    pub app: Arc<App>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TestServer {
    pub fn start(setup: Setup) -> Self {
        let Setup { loader, options, aliases, budget, keys, moderation } = setup;
        let registry = Registry::new(Arc::new(loader), &aliases, budget).unwrap();
        let app = App::new(ServerOptions { port: 0, ..options }, registry, keys, moderation);
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let shared = app.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::bind(shared).await.unwrap();
                tell.send(server.address()).unwrap();
                server.run(async { drop(stopped.await) }).await;
            });
        });
        Self { address: told.recv().unwrap(), app, stop: Some(stop), thread: Some(thread) }
    }

    /// Tells the server to end; what is open goes on.
    pub fn tell_to_end(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until the server has ended.
    pub fn wait(&mut self) {
        self.thread.take().unwrap().join().unwrap();
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Sends bytes and returns all that comes back until the server closes.
    pub fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        // The server may close before everything is sent.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    /// Sends a request and returns the stream to read the answer from.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> TcpStream {
        let mut stream = self.connect();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        let _ = stream.write_all(format!("{head}\r\n{body}").as_bytes());
        stream
    }

    pub fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut bytes = Vec::new();
        let _ = self.send(method, path, headers, body).read_to_end(&mut bytes);
        Answer::parse(&bytes)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.call("GET", path, &[], "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, &[], &body.to_string())
    }

    /// Waits until `is_so`.
    pub fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            assert!(start.elapsed() < Duration::from_secs(30), "{what} does not come to pass");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sequences of all models that are computed or wait.
    pub fn n_busy(&self) -> usize {
        let models = self.app.models.status();
        models.iter().filter_map(|status| status.model.as_ref()).map(|model| model.engine.load().n_requests).sum()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.tell_to_end();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the server broke down");
        }
    }
}

/// An answer over HTTP.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("an answer with a head");
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: BTreeMap<String, String> = lines
            .map(|line| line.split_once(": ").unwrap_or((line.trim_end_matches(':'), "")))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let rest = &bytes[end + 4..];
        let is_chunked = headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked");
        let body = if is_chunked { unchunked(rest) } else { rest.to_vec() };
        Self { status, headers, body }
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The JSON of an answer that went well.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// `error` of an answer that did not, its four keys checked.
    #[track_caller]
    pub fn error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.headers["content-type"], "application/json");
        let error = self.json()["error"].clone();
        let keys: Vec<&String> = error.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["message", "type", "param", "code"]);
        assert!(!error["message"].as_str().unwrap().is_empty());
        error
    }

    /// Data of a stream of unnamed events; `[DONE]` at the end is checked and left out.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        assert!(self.headers["content-type"].starts_with("text/event-stream"));
        let mut data: Vec<&str> = self.text().split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
        assert_eq!(data.pop(), Some("[DONE]"));
        data.into_iter().map(|json| serde_json::from_str(json).unwrap()).collect()
    }

    /// Names and data of a stream of named events.
    #[track_caller]
    pub fn named_events(&self) -> Vec<(String, Value)> {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        let event = |event: &str| {
            let (name, data) = event.strip_prefix("event: ")?.split_once("\ndata: ")?;
            Some((name.to_owned(), serde_json::from_str(data).unwrap()))
        };
        self.text().split("\n\n").filter_map(event).collect()
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 || rest.len() < end + 2 + size {
            break;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[(end + 4 + size).min(rest.len())..];
    }
    body
}

/// Takes out what differs from one answer to the same request to the next.
pub fn scrub(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for name in ["id", "created", "created_at", "timings", "cached_tokens", "item_id", "call_id"] {
                map.remove(name);
            }
            map.values_mut().for_each(scrub);
        }
        Value::Array(items) => items.iter_mut().for_each(scrub),
        _ => {}
    }
}

/// What an answer says, the chunks of each choice of a stream behind each other: those of several come as they come.
pub fn said(answer: &Answer) -> Value {
    let is_stream = answer.headers["content-type"].starts_with("text/event-stream");
    let mut value = match is_stream {
        false => answer.ok(),
        true if answer.text().starts_with("event: ") => json!(answer.named_events()),
        true => {
            let mut events = answer.events();
            events.sort_by_key(|event| event["choices"][0]["index"].as_u64().unwrap_or(u64::MAX));
            events.into()
        }
    };
    scrub(&mut value);
    value
}

/// The value of a line of `/metrics`.
pub fn metric(server: &TestServer, line: &str) -> u64 {
    let text = server.get("/metrics");
    let found = text.text().lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' ').map(str::to_owned));
    found.map_or(0, |value| value.parse().unwrap())
}

/// Reads until `words` have come.
pub fn read_to(stream: &mut TcpStream, words: &str) -> String {
    let (mut all, mut part) = (Vec::new(), [0; 1024]);
    loop {
        let n = stream.read(&mut part).unwrap();
        assert!(n > 0, "{words:?} does not come: {}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&part[..n]);
        let text = String::from_utf8_lossy(&all);
        if text.contains(words) {
            return text.into_owned();
        }
    }
}
