//! Keys: who may do what, how much of it, and what is written down of it.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::PathBuf;

use crate::common::{Answer, N_CTX, Setup, TestLoader, TestServer, read_to};
use serde_json::{Value, json};
use verve_access::{KeyStore, Limits, NewKey, Now, Scope, UnixMillis};
use verve_server::ServerOptions;

const COMPLETIONS: &str = "/v1/completions";

/// A server with a key store in a file, and another way to that file.
struct Keyed {
    server: TestServer,
    /// As `verve keys` has it.
    other: KeyStore,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Keyed {
    fn new() -> Self {
        Self::with(Setup::default())
    }

    fn with(setup: Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.redb");
        let keys = KeyStore::open_or_create(&path).unwrap();
        let server = TestServer::start(Setup { keys: Some(keys), ..setup });
        Self { server, other: KeyStore::open(&path).unwrap(), path, _folder: folder }
    }

    /// A new key's secret, known to the server.
    fn key(&self, new: NewKey) -> String {
        let (_, secret) = self.other.add(new, Now::read().unix).unwrap();
        self.server.app.access.refresh().unwrap();
        secret.reveal().to_owned()
    }

    fn limited(&self, name: &str, limits: Limits) -> String {
        self.key(NewKey { limits, ..NewKey::named(name) })
    }

    fn call(&self, method: &str, path: &str, key: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.server.call(method, path, &[("Authorization", &format!("Bearer {key}"))], &body)
    }

    fn post(&self, path: &str, key: &str, body: &Value) -> Answer {
        self.call("POST", path, key, body)
    }
}

/// An answer of a few tokens, whatever is allowed.
fn short(max_tokens: usize) -> Value {
    json!({"prompt": [5, 6, 7], "max_tokens": max_tokens, "regex": "ab", "seed": 1})
}

fn endless(n: usize, stream: bool) -> Value {
    json!({"prompt": "the", "n": n, "max_tokens": N_CTX - 8, "ignore_eos": true, "stream": stream})
}

/// Every endpoint that asks for a key, with what a valid request has and the scope it takes.
fn endpoints() -> Vec<(&'static str, &'static str, Value, Option<Scope>)> {
    let messages = json!([{"role": "user", "content": "a"}]);
    let generate = Some(Scope::Generate);
    vec![
        ("GET", "/v1/models", Value::Null, None),
        ("GET", "/v1/models/tiny", Value::Null, None),
        ("POST", COMPLETIONS, json!({"prompt": "a", "max_tokens": 1}), generate),
        ("POST", "/v1/chat/completions", json!({"messages": messages, "max_tokens": 1}), generate),
        ("POST", "/v1/responses", json!({"input": "a", "max_output_tokens": 16}), generate),
        ("GET", "/v1/responses/resp_1", Value::Null, generate),
        ("DELETE", "/v1/responses/resp_1", Value::Null, generate),
        ("GET", "/v1/responses/resp_1/input_items", Value::Null, generate),
        ("POST", "/v1/embeddings", json!({"input": "a"}), Some(Scope::Embed)),
        ("POST", "/v1/moderations", json!({"input": "a"}), Some(Scope::Moderate)),
        ("POST", "/v1/score", json!({"items": [{"continuation": "ab"}]}), Some(Scope::Score)),
        ("POST", "/tokenize", json!({"content": "a"}), Some(Scope::Score)),
        ("POST", "/detokenize", json!({"tokens": [1]}), Some(Scope::Score)),
        ("GET", "/tokenizer_info", Value::Null, Some(Scope::Score)),
        ("POST", "/apply-template", json!({"messages": messages}), Some(Scope::Score)),
        ("GET", "/metrics", Value::Null, Some(Scope::Admin)),
        ("GET", "/admin/status", Value::Null, Some(Scope::Admin)),
    ]
}

#[test]
fn nothing_is_answered_without_a_key_that_is_in_force() {
    let keyed = Keyed::new();
    let good = keyed.key(NewKey::named("good"));
    let past = NewKey { expires_at: Some(UnixMillis(2000)), ..NewKey::named("past") };
    let (_, past) = keyed.other.add(past, UnixMillis(1000)).unwrap();
    let revoked = keyed.key(NewKey::named("revoked"));
    keyed.other.revoke("revoked", Now::read().unix).unwrap();
    keyed.server.app.access.refresh().unwrap();
    let (longer, shorter) = (format!("{good}x"), &good[..good.len() - 1]);
    let swapped = good.to_uppercase();
    for (method, path, body, _) in endpoints() {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let ask = |header: Option<&str>| {
            let headers: Vec<(&str, &str)> = header.map(|value| ("Authorization", value)).into_iter().collect();
            keyed.server.call(method, path, &headers, &body)
        };
        let bearer = |key: &str| ask(Some(&format!("Bearer {key}")));
        let refused = [
            ask(None),
            ask(Some(&good)),
            ask(Some(&format!("Basic {good}"))),
            ask(Some("Bearer")),
            ask(Some("Bearer ")),
            bearer("sk-xyzzyx"),
            bearer(&longer),
            bearer(shorter),
            bearer(&swapped),
            bearer(&"x".repeat(10_000)),
            bearer(past.reveal()),
            bearer(&revoked),
        ];
        for answer in refused {
            let error = answer.error(401);
            assert_eq!((&error["code"], &error["type"]), (&json!("invalid_api_key"), &json!("invalid_request_error")));
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
            for secret in [&good, past.reveal(), &revoked, "sk-xyzzyx"] {
                assert!(!answer.text().contains(&secret[3..]), "{error}");
            }
        }
        let answer = bearer(&good);
        assert_ne!(answer.status, 401, "{method} {path}");
    }
    // However it is written.
    for header in [format!("bearer {good}"), format!("BEARER  {good} ")] {
        keyed.server.call("GET", "/v1/models", &[("authorization", &header)], "").ok();
    }
    // What is open to all.
    for path in ["/", "/admin", "/assets/main.js", "/health", "/v1/health", "/openapi.json"] {
        assert_eq!(keyed.server.get(path).status, 200, "{path}");
    }
    // With keys, any name of the machine will do.
    let bytes = keyed.server.raw(b"GET /health HTTP/1.1\r\nHost: models.example\r\nConnection: close\r\n\r\n");
    assert_eq!(Answer::parse(&bytes).status, 200);
}

#[test]
fn a_key_does_what_its_scopes_say() {
    let keyed = Keyed::new();
    for scope in Scope::ALL {
        let key = keyed.key(NewKey { scopes: BTreeSet::from([scope]), ..NewKey::named(scope.name()) });
        for (method, path, body, needed) in endpoints() {
            let answer = keyed.call(method, path, &key, &body);
            let shown = format!("{method} {path} with {}: {}", scope.name(), answer.text());
            if needed.is_none_or(|needed| needed == scope) {
                let expected = if path.starts_with("/v1/responses/") {
                    404
                } else if path == "/v1/moderations" {
                    400
                } else {
                    200
                };
                assert_eq!(answer.status, expected, "{shown}");
            } else {
                assert_eq!(answer.error(403)["code"], "insufficient_permissions", "{shown}");
            }
        }
    }
}

#[test]
fn a_key_for_some_models_sees_no_others() {
    let loader = TestLoader { names: vec!["tiny", "other"], ..TestLoader::default() };
    let aliases = [("small", "tiny"), ("gpt", "other")].map(|(alias, name)| (alias.to_owned(), name.to_owned()));
    let keyed = Keyed::with(Setup { loader, aliases: aliases.into(), ..Setup::default() });
    let key = keyed.key(NewKey { models: vec!["tiny".to_owned()], ..NewKey::named("a") });
    let list = keyed.call("GET", "/v1/models", &key, &Value::Null).ok();
    let ids: Vec<&Value> = list["data"].as_array().unwrap().iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, ["tiny", "small"]);
    for (method, path, body, _) in endpoints() {
        if path.starts_with("/v1/moderations") || method != "POST" {
            continue;
        }
        for (model, is_allowed) in [("tiny", true), ("small", true), ("other", false), ("gpt", false)] {
            let mut body = body.clone();
            body["model"] = model.into();
            let answer = keyed.post(path, &key, &body);
            if is_allowed {
                answer.ok();
            } else {
                let error = answer.error(403);
                assert_eq!((&error["code"], &error["param"]), (&json!("insufficient_permissions"), &json!("model")));
            }
        }
    }
    keyed.call("GET", "/v1/models/other", &key, &Value::Null).error(403);
    // Nor does it hear of any by asking for one that there is not.
    let error = keyed.call("GET", "/v1/models/othr", &key, &Value::Null).error(404);
    assert!(!error["message"].as_str().unwrap().contains("other"), "{error}");
    keyed.call("GET", "/tokenizer_info?model=other", &key, &Value::Null).error(403);
    // Of a model that the key may not use, nothing was loaded.
    assert!(
        keyed.server.app.models.status().iter().all(|status| status.entry.name == "tiny" || status.model.is_none())
    );
    // A key for another model cannot use the one that is meant where none is named.
    let key = keyed.key(NewKey { models: vec!["other".to_owned()], ..NewKey::named("b") });
    keyed.post(COMPLETIONS, &key, &short(5)).error(403);
}

#[test]
fn requests_in_a_minute_are_limited() {
    let keyed = Keyed::new();
    let limits = Limits { requests_per_minute: Some(3), ..Limits::default() };
    let (key, free) = (keyed.limited("a", limits), keyed.key(NewKey::named("b")));
    for left in ["2", "1", "0"] {
        let answer = keyed.post(COMPLETIONS, &key, &short(5));
        answer.ok();
        assert_eq!(answer.headers["x-ratelimit-limit-requests"], "3");
        assert_eq!(answer.headers["x-ratelimit-remaining-requests"], left);
        let reset = &answer.headers["x-ratelimit-reset-requests"];
        assert!(reset.ends_with('s') && reset.starts_with(|c: char| c.is_ascii_digit()), "{reset}");
        assert!(!answer.headers.contains_key("x-ratelimit-limit-tokens"), "tokens are not limited");
    }
    for (path, body) in [
        (COMPLETIONS, short(5)),
        (COMPLETIONS, json!({"prompt": "a", "max_tokens": 1, "stream": true})),
        ("/v1/embeddings", json!({"input": "a"})),
        ("/tokenize", json!({"content": "a"})),
    ] {
        let answer = keyed.post(path, &key, &body);
        let error = answer.error(429);
        assert_eq!((&error["code"], &error["type"]), (&json!("rate_limit_exceeded"), &json!("requests")), "{path}");
        let wait: u64 = answer.headers["retry-after"].parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
        assert_eq!(answer.headers["x-ratelimit-remaining-requests"], "0");
    }
    // Looking costs nothing, and others are not concerned.
    keyed.call("GET", "/v1/models", &key, &Value::Null).ok();
    let answer = keyed.post(COMPLETIONS, &free, &short(5));
    answer.ok();
    assert!(!answer.headers.keys().any(|name| name.starts_with("x-ratelimit")));
    // What is refused before it begins is not counted.
    let key = keyed.limited("c", limits);
    for _ in 0..5 {
        keyed.post(COMPLETIONS, &key, &json!({"prompt": []})).error(400);
    }
    assert_eq!(keyed.post(COMPLETIONS, &key, &short(5)).headers["x-ratelimit-remaining-requests"], "2");
}

#[test]
fn tokens_in_a_minute_are_limited_and_what_is_not_used_is_given_back() {
    let keyed = Keyed::new();
    let limits = Limits { tokens_per_minute: Some(100), ..Limits::default() };
    let key = keyed.limited("a", limits);
    let left = || -> u64 {
        let answer = keyed.call("GET", "/v1/models", &key, &Value::Null);
        answer.headers["x-ratelimit-remaining-tokens"].parse().unwrap()
    };
    let mut expected = 100;
    for stream in [false, true, false] {
        // Nearly all is held for it, little is used.
        let mut body = short(80);
        body["stream"] = stream.into();
        let answer = keyed.post(COMPLETIONS, &key, &body);
        let used = if stream {
            assert!(answer.events().last().unwrap()["choices"][0]["finish_reason"].is_string());
            expected - left()
        } else {
            answer.ok()["usage"]["total_tokens"].as_u64().unwrap()
        };
        assert!((4..10).contains(&used), "{used}");
        expected -= used;
        assert_eq!(left(), expected);
    }
    let error = keyed.post(COMPLETIONS, &key, &short(95)).error(429);
    assert_eq!((&error["code"], &error["type"]), (&json!("rate_limit_exceeded"), &json!("tokens")));
    // One that would never be let in is not told to wait.
    let answer = keyed.post(COMPLETIONS, &key, &short(200));
    let error = answer.error(429);
    assert!(error["message"].as_str().unwrap().contains("smaller"), "{error}");
    assert!(!answer.headers.contains_key("retry-after"));
    assert_eq!(left(), expected, "what is refused is not counted");
    // Given back too: what a client that left has not used.
    let key = keyed.limited("b", Limits { tokens_per_minute: Some(5000), ..Limits::default() });
    let headers = [("Authorization", format!("Bearer {key}"))];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut stream = keyed.server.send("POST", COMPLETIONS, &headers, &endless(4, true).to_string());
    read_to(&mut stream, "data: ");
    drop(stream);
    keyed.server.until("the rest given back", |_| {
        let answer = keyed.call("GET", "/v1/models", &key, &Value::Null);
        answer.headers["x-ratelimit-remaining-tokens"].parse::<u64>().unwrap() > 1500
    });
}

#[test]
fn a_days_limits_hold_over_a_restart() {
    let keyed = Keyed::new();
    let requests = keyed.limited("requests", Limits { requests_per_day: Some(2), ..Limits::default() });
    let tokens = keyed.limited("tokens", Limits { tokens_per_day: Some(40), ..Limits::default() });
    for _ in 0..2 {
        keyed.post(COMPLETIONS, &requests, &short(5)).ok();
    }
    let mut used = 0;
    let mut answer = keyed.post(COMPLETIONS, &tokens, &short(20));
    while answer.status == 200 {
        used += answer.ok()["usage"]["total_tokens"].as_u64().unwrap();
        answer = keyed.post(COMPLETIONS, &tokens, &short(20));
    }
    assert!(used + 23 > 40 && used <= 40, "{used}");
    let all_spent = |answers: [Answer; 2]| {
        for answer in answers {
            let error = answer.error(429);
            assert_eq!((&error["code"], &error["type"]), (&json!("insufficient_quota"), &json!("insufficient_quota")));
            assert!((1..=86_400).contains(&answer.headers["retry-after"].parse::<u64>().unwrap()));
        }
    };
    all_spent([keyed.post(COMPLETIONS, &requests, &short(5)), answer]);
    let Keyed { server, path, _folder, .. } = keyed;
    drop(server);
    let server = TestServer::start(Setup { keys: Some(KeyStore::open(&path).unwrap()), ..Setup::default() });
    let again = Keyed { server, other: KeyStore::open(&path).unwrap(), path, _folder };
    all_spent([again.post(COMPLETIONS, &requests, &short(5)), again.post(COMPLETIONS, &tokens, &short(20))]);
}

#[test]
fn usage_is_written_down() {
    let keyed = Keyed::new();
    let key = keyed.key(NewKey::named("a"));
    let admin = keyed.key(NewKey { scopes: BTreeSet::from([Scope::Admin]), ..NewKey::named("admin") });
    let (mut n, mut prompt, mut answer) = (0, 0, 0);
    let mut add = |usage: &Value| {
        let count = |name: &str| usage[name].as_u64().unwrap_or(0);
        n += 1;
        prompt += count("prompt_tokens") + count("input_tokens");
        answer += count("completion_tokens") + count("output_tokens");
    };
    let mut body = json!({"prompt": ["the cat", "sat"], "max_tokens": 7, "n": 2, "best_of": 3});
    add(&keyed.post(COMPLETIONS, &key, &body).ok()["usage"]);
    body = json!({"prompt": "the", "max_tokens": 9, "stream": true, "stream_options": {"include_usage": true}});
    add(&keyed.post(COMPLETIONS, &key, &body).events().last().unwrap()["usage"]);
    add(&keyed.post("/v1/responses", &key, &json!({"input": "the", "max_output_tokens": 16})).ok()["usage"]);
    add(&keyed.post("/v1/embeddings", &key, &json!({"input": ["the cat", "mat"]})).ok()["usage"]);
    add(&keyed.post("/v1/score", &key, &json!({"items": [{"context": "the", "continuation": " cat"}]})).ok()["usage"]);
    // A request without tokens counts as one.
    keyed.post("/tokenize", &key, &json!({"content": "the"})).ok();
    add(&json!({}));
    let status = keyed.call("GET", "/admin/status", &admin, &Value::Null).ok();
    let shown = status["keys"].as_array().unwrap().iter().find(|shown| shown["name"] == "a").unwrap();
    assert_eq!((&shown["requests_today"], &shown["tokens_today"]), (&json!(n), &json!(prompt + answer)));
    let id = shown["id"].as_str().unwrap().to_owned();
    keyed.server.until("usage in the file", |_| {
        keyed.other.refresh().unwrap();
        keyed.other.usage(Now::read().unix).get(&id).is_some_and(|usage| usage.today.requests == n)
    });
    let usage = keyed.other.usage(Now::read().unix)[&id];
    assert_eq!((usage.today.prompt_tokens, usage.today.completion_tokens), (prompt, answer));
    assert_eq!(usage.total, usage.today);
    // And when the server ends, at once.
    keyed.post(COMPLETIONS, &key, &short(5)).ok();
    let Keyed { server, other, .. } = keyed;
    drop(server);
    other.refresh().unwrap();
    assert_eq!(other.usage(Now::read().unix)[&id].today.requests, n + 1);
}

#[test]
fn a_key_taken_back_ends_what_it_has_begun() {
    let keyed = Keyed::new();
    let key = keyed.key(NewKey::named("a"));
    let other_key = keyed.key(NewKey::named("b"));
    let authorization = format!("Bearer {key}");
    let headers = [("Authorization", authorization.as_str())];
    let other_authorization = format!("Bearer {other_key}");
    let mut stays = keyed.server.send(
        "POST",
        COMPLETIONS,
        &[("Authorization", other_authorization.as_str())],
        &json!({"prompt": "the", "max_tokens": 900, "ignore_eos": true, "stream": true}).to_string(),
    );
    let mut named = keyed.server.send(
        "POST",
        "/v1/responses",
        &headers,
        &json!({"input": "the", "ignore_eos": true, "stream": true, "max_output_tokens": 900}).to_string(),
    );
    let mut named_start = read_to(&mut named, "data: ");
    let mut stream = keyed.server.send("POST", COMPLETIONS, &headers, &endless(60, true).to_string());
    let mut whole = keyed.server.send("POST", COMPLETIONS, &headers, &endless(60, false).to_string());
    let mut start = read_to(&mut stream, "data: ");
    keyed.other.revoke("a", Now::read().unix).unwrap();
    stream.read_to_string(&mut start).unwrap();
    let answer = Answer::parse(start.as_bytes());
    let last = answer.text().trim_end().rsplit("data: ").next().unwrap();
    let error: Value = serde_json::from_str(last).unwrap();
    assert_eq!(error["error"]["code"], "invalid_api_key", "{error}");
    let mut bytes = Vec::new();
    whole.read_to_end(&mut bytes).unwrap();
    Answer::parse(&bytes).error(401);
    named.read_to_string(&mut named_start).unwrap();
    let events = Answer::parse(named_start.as_bytes()).named_events();
    let (name, event) = events.last().unwrap();
    // It may just have been over.
    if name == "response.failed" {
        assert_eq!(event["response"]["error"]["code"], "invalid_api_key");
    }
    keyed.post(COMPLETIONS, &key, &short(5)).error(401);
    // Others' streams go on.
    let mut bytes = Vec::new();
    stays.read_to_end(&mut bytes).unwrap();
    assert_eq!(Answer::parse(&bytes).events().last().unwrap()["choices"][0]["finish_reason"], "length");
    keyed.server.until("an idle engine", |server| server.n_busy() == 0);
}

#[test]
fn the_key_of_the_configuration_may_do_everything() {
    let options = || ServerOptions { api_key: Some("sk-operator".to_owned()), ..ServerOptions::default() };
    let alone = TestServer::start(Setup { options: options(), ..Setup::default() });
    let both = Keyed::with(Setup { options: options(), ..Setup::default() });
    let stored = both.key(NewKey::named("a"));
    for server in [&alone, &both.server] {
        for (method, path, body, _) in endpoints() {
            let body = if body.is_null() { String::new() } else { body.to_string() };
            for wrong in ["Bearer sk-operato", "Bearer sk-operator1", "Bearer SK-OPERATOR"] {
                server.call(method, path, &[("Authorization", wrong)], &body).error(401);
            }
            server.call(method, path, &[], &body).error(401);
            let answer = server.call(method, path, &[("Authorization", "Bearer sk-operator")], &body);
            assert!(
                matches!(answer.status, 200 | 404) || path == "/v1/moderations",
                "{method} {path}: {}",
                answer.text()
            );
            assert!(!answer.text().contains("sk-operator"));
        }
    }
    both.post(COMPLETIONS, &stored, &short(5)).ok();
}

#[test]
fn what_one_key_has_stored_no_other_sees() {
    let options =
        ServerOptions { stored_responses: 10, api_key: Some("sk-operator".to_owned()), ..ServerOptions::default() };
    let keyed = Keyed::with(Setup { options, ..Setup::default() });
    let (mine, other) = (keyed.key(NewKey::named("a")), keyed.key(NewKey::named("b")));
    let body = json!({"input": "the cat", "max_output_tokens": 16, "store": true});
    let id = keyed.post("/v1/responses", &mine, &body).ok()["id"].as_str().unwrap().to_owned();
    let (path, items) = (format!("/v1/responses/{id}"), format!("/v1/responses/{id}/input_items"));
    for stranger in [other.as_str(), "sk-operator"] {
        let answers = [
            keyed.call("GET", &path, stranger, &Value::Null),
            keyed.call("GET", &items, stranger, &Value::Null),
            keyed.call("DELETE", &path, stranger, &Value::Null),
            keyed.post("/v1/responses", stranger, &json!({"input": "a", "previous_response_id": id})),
        ];
        for answer in answers {
            // The same as for one that there never was.
            assert_eq!(answer.error(404)["code"], "not_found");
            assert!(!answer.text().contains("the cat"));
        }
    }
    keyed.call("GET", &path, &mine, &Value::Null).ok();
    keyed.call("GET", &items, &mine, &Value::Null).ok();
    keyed.call("DELETE", &path, &mine, &Value::Null).ok();
    keyed.call("GET", &path, &mine, &Value::Null).error(404);
}

#[test]
fn no_answer_holds_a_secret() {
    let options = ServerOptions { api_key: Some("sk-operator".to_owned()), ..ServerOptions::default() };
    let keyed = Keyed::with(Setup { options, ..Setup::default() });
    let secrets =
        [keyed.key(NewKey::named("a")), keyed.key(NewKey { scopes: Scope::ALL.into(), ..NewKey::named("b") })];
    let prompt = "an unmistakable prompt";
    for key in &secrets {
        keyed.post(COMPLETIONS, key, &json!({"prompt": prompt, "max_tokens": 2})).ok();
    }
    for path in ["/metrics", "/admin/status", "/openapi.json", "/v1/models", "/health", "/ready", "/admin", "/"] {
        let answer = keyed.call("GET", path, &secrets[1], &Value::Null);
        assert_eq!(answer.status, 200, "{path}");
        for secret in &secrets {
            assert!(!answer.text().contains(&secret[3..12]), "{path}");
        }
        assert!(!answer.text().contains("sk-operator") && !answer.text().contains(prompt), "{path}");
    }
}
