//! `verve serve`: settings, keys, several models, and ending in good order.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use assert_cmd::cargo::cargo_bin;
use common::{fails, succeeds, verve, write_texts};
use serde_json::{Value, json};

/// A small model in `folder/run`.
fn train(folder: &Path) -> String {
    let texts = write_texts(folder).to_string_lossy().into_owned();
    let run = folder.join("run").to_string_lossy().into_owned();
    let args = ["--preset", "nano", "--context", "256", "--steps", "2", "--seed", "5", "--batch-tokens", "512"];
    succeeds(verve().args(["train", &texts, "--out", &run]).args(args));
    run
}

/// A server that has said where it listens.
struct Served {
    child: Child,
    address: String,
}

impl Served {
    fn start(args: &[&str], folder: &Path) -> Self {
        let mut command = Command::new(cargo_bin("verve"));
        command.args(["serve", "--port", "0", "--threads", "1"]).args(args).current_dir(folder);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = String::new();
        let address = loop {
            let Some(line) = lines.next() else { panic!("it ended: {said}") };
            let line = line.unwrap();
            if let Some((_, rest)) = line.split_once("http://") {
                break rest.split([' ', '/']).next().unwrap().to_owned();
            }
            said.push_str(&line);
            said.push('\n');
        };
        // Somebody must read what it logs.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    fn send(&self, method: &str, path: &str, key: &str, body: &Value) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        stream
    }

    /// Status and the rest.
    fn call(&self, method: &str, path: &str, key: &str, body: &Value) -> (u16, String) {
        let mut text = String::new();
        self.send(method, path, key, body).read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_folder_of_models_is_served_and_sigterm_lets_answers_end() {
    let folder = tempfile::tempdir().unwrap();
    let run = train(folder.path());
    let models = folder.path().join("models");
    std::fs::create_dir(&models).unwrap();
    for (to, name) in [("q8_0", "small"), ("f32", "exact")] {
        let out = models.join(format!("{name}.gguf"));
        succeeds(verve().args(["quantize", &run, "--to", to, "--no-check", "--out"]).arg(&out));
    }
    let settings = "[serve]\nalias = [\"gpt-4o=small\"]\nhost = \"127.0.0.1\"\n";
    std::fs::write(folder.path().join("verve.toml"), settings).unwrap();
    let mut server = Served::start(&["--model", "models", "--model", &format!("mine={run}")], folder.path());
    let (status, list) = server.call("GET", "/v1/models", "", &Value::Null);
    let list: Value = serde_json::from_str(&list).unwrap();
    let names: Vec<&str> = list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!((status, names), (200, vec!["exact", "small", "mine", "gpt-4o"]));
    let ask = |model: &str| {
        let body = json!({"model": model, "prompt": "The tokenizer", "max_tokens": 8, "temperature": 0});
        let (status, answer) = server.call("POST", "/v1/completions", "", &body);
        assert_eq!(status, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        (answer["model"].clone(), answer["choices"][0]["text"].clone())
    };
    assert_eq!(ask("mine").0, "mine");
    assert_eq!(ask("gpt-4o"), ask("small"));
    assert_eq!(ask("exact").1, ask("mine").1, "the same numbers in another format");
    // An answer that has begun is finished.
    let body =
        json!({"model": "mine", "prompt": "The", "max_tokens": 200, "ignore_eos": true, "stream": true, "seed": 1});
    let mut stream = server.send("POST", "/v1/completions", "", &body);
    let mut first = [0; 64];
    stream.read_exact(&mut first).unwrap();
    server.signal("TERM");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"finish_reason\":\"length\"") && rest.contains("[DONE]"), "{rest}");
    assert!(server.child.wait().unwrap().success());
}

#[test]
fn keys_and_usage_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let run = train(folder.path());
    let keys = folder.path().join("keys.redb");
    let made =
        succeeds(verve().args(["keys", "add", "shop", "--json", "--scopes", "generate,admin", "--keys"]).arg(&keys));
    let made: Value = serde_json::from_str(&made).unwrap();
    let secret = made["secret"].as_str().unwrap();
    let keys = keys.to_string_lossy().into_owned();
    let args = ["--model", &run, "--keys", &keys];
    let body = json!({"prompt": "The", "max_tokens": 5, "ignore_eos": true});
    let server = Served::start(&args, folder.path());
    assert_eq!(server.call("POST", "/v1/completions", "wrong", &body).0, 401);
    assert_eq!(server.call("POST", "/v1/embeddings", secret, &json!({"input": "a"})).0, 403);
    assert_eq!(server.call("POST", "/v1/completions", secret, &body).0, 200);
    let usage = |server: &Served| {
        let (status, text) = server.call("GET", "/admin/status", secret, &Value::Null);
        assert_eq!(status, 200, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()["keys"][0]["requests_today"].as_u64().unwrap()
    };
    assert_eq!(usage(&server), 1);
    let listed = || {
        let line = succeeds(verve().args(["keys", "list", "--json", "--keys", &keys]));
        serde_json::from_str::<Value>(line.lines().next().unwrap()).unwrap()
    };
    // Written soon, and then it is there whatever happens.
    while !listed().to_string().contains("\"requests\":1") {
        std::thread::sleep(Duration::from_millis(50));
    }
    server.signal("KILL");
    drop(server);
    let server = Served::start(&args, folder.path());
    assert_eq!(usage(&server), 1);
    assert_eq!(server.call("POST", "/v1/completions", secret, &body).0, 200);
    assert_eq!(usage(&server), 2);
}

#[test]
fn what_cannot_be_served_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let serve = |args: &[&str]| fails(verve().arg("serve").args(args).current_dir(folder.path()), 1);
    assert!(serve(&[]).contains("which model?"));
    assert!(serve(&["--model", "empty"]).contains("has no model in it"));
    assert!(serve(&["--model", "./nowhere"]).contains("there is no model at ./nowhere"));
    std::fs::write(folder.path().join("verve.toml"), "[serve]\nprot = 1\n").unwrap();
    assert!(serve(&["--model", "empty"]).contains("prot: there is no such setting; did you mean port?"));
    std::fs::write(folder.path().join("verve.toml"), "[serve]\nport = 81\nqueue = 7\n").unwrap();
    let table = succeeds(verve().args(["serve", "--print-config", "--port", "82"]).current_dir(folder.path()));
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("port").contains("82") && line("port").contains("--port"));
    assert!(line("queue").contains('7') && line("queue").contains("verve.toml"));
    assert!(line("host").contains("default"));
    let run = train(folder.path());
    let anonymous = serve(&["--model", &run, "--host", "0.0.0.0", "--port", "0"]);
    assert!(anonymous.contains("no key is asked for"), "{anonymous}");
    assert!(serve(&["--model", &run, "--keys", "none.redb"]).contains("none.redb"));
    assert!(serve(&["--model", &run, "--activations", "int4"]).contains("int4"));
    assert!(serve(&["--model", &run, "--tls-cert", "c.pem"]).contains("--tls-key"));
    assert!(serve(&["--model", &run, "--alias", "a=b"]).contains("\"b\""));
}
