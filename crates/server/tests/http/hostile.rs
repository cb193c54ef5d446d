//! Requests changed at random and bytes at random: never a fault of the server, never silence, never half a stream.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::OnceLock;

use crate::common::{Answer, Setup, TestServer};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};
use verve_moderate::{Chain, ModerationConfig};
use verve_server::ServerOptions;

/// One server for all cases.
fn server() -> &'static TestServer {
    static SERVER: OnceLock<TestServer> = OnceLock::new();
    SERVER.get_or_init(|| {
        let filters = json!({"filters": [{"name": "f", "reason_code": "r", "patterns": ["qz[a-z]"]}]});
        let config: ModerationConfig = serde_json::from_value(filters).unwrap();
        let moderation = Some(Chain::from_config(&config, std::path::Path::new(".")).unwrap());
        let options = ServerOptions { stored_responses: 4, ..ServerOptions::default() };
        TestServer::start(Setup { moderation, options, ..Setup::default() })
    })
}

/// The same cases at every run, so many.
fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]))
}

/// Valid requests with nearly everything in them.
fn requests() -> Vec<(&'static str, Value)> {
    let messages = json!([
        {"role": "system", "content": "be short"},
        {"role": "user", "content": [{"type": "text", "text": "the cat"}]},
        {"role": "assistant", "content": null,
         "tool_calls": [{"id": "c", "type": "function", "function": {"name": "add", "arguments": "{\"a\": 1}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "2"},
    ]);
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", 1, null]}}, "required": ["a"]});
    let tool = json!({"type": "function", "function": {"name": "add", "description": "d", "parameters": schema}});
    let sampling = json!({
        "temperature": 0.7, "top_p": 0.9, "n": 2, "stop": ["zz", "y"], "presence_penalty": 0.1, "frequency_penalty": -0.1,
        "logit_bias": {"5": 1, "6": -100}, "seed": 3, "user": "me", "top_k": 40, "min_p": 0.01, "typical_p": 0.9,
        "top_n_sigma": 3, "repetition_penalty": 1.1, "dry_multiplier": 0.5, "dry_base": 1.5, "dry_allowed_length": 2,
        "dry_sequence_breakers": ["\n"], "dry_range": 64, "ignore_eos": true, "return_token_ids": true,
    });
    let with = |mut body: Value, more: &Value| {
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let stream = json!({"stream": true, "stream_options": {"include_usage": true}});
    let completion =
        json!({"model": "tiny", "prompt": ["the", "cat"], "max_tokens": 4, "logprobs": 2, "echo": true, "best_of": 2});
    let chat = json!({"messages": messages, "max_tokens": 4, "logprobs": true, "top_logprobs": 2, "tools": [tool], "tool_choice": "auto"});
    let format = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}});
    let response = json!({
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                  {"type": "function_call", "call_id": "c", "name": "add", "arguments": "{}"},
                  {"type": "function_call_output", "call_id": "c", "output": "1"}],
        "instructions": "be short", "max_output_tokens": 16, "temperature": 0.5, "tools": [tool], "store": true,
        "text": {"format": {"type": "json_object"}}, "include": ["message.output_text.logprobs"], "top_logprobs": 1,
        "metadata": {"a": "b"}, "truncation": "disabled",
    });
    vec![
        ("/v1/completions", with(completion.clone(), &sampling)),
        ("/v1/completions", with(completion, &with(sampling.clone(), &stream))),
        ("/v1/completions", json!({"prompt": [[1, 2], [3]], "max_tokens": 9, "regex": "[a-q]{2,5}", "stream": true})),
        ("/v1/completions", json!({"prompt": "", "max_tokens": 20, "json_schema": schema})),
        (
            "/v1/completions",
            json!({"prompt": "a", "max_tokens": 6, "grammar": "start: (\"a\" | \"b\" start)", "mirostat_tau": 5.0, "mirostat_eta": 0.1}),
        ),
        ("/v1/chat/completions", with(chat.clone(), &sampling)),
        ("/v1/chat/completions", with(chat, &with(sampling, &stream))),
        ("/v1/chat/completions", json!({"messages": messages, "max_completion_tokens": 60, "response_format": format})),
        ("/v1/responses", response.clone()),
        ("/v1/responses", with(response, &json!({"stream": true, "tool_choice": "required", "max_output_tokens": 60}))),
        (
            "/v1/embeddings",
            json!({"input": ["a", "the cat"], "encoding_format": "base64", "dimensions": 8, "pooling": "last"}),
        ),
        (
            "/v1/score",
            json!({"items": [{"context": "the", "continuation": " cat"}, {"context": [1], "continuation": [2]}], "tokens": true}),
        ),
        (
            "/tokenize",
            json!({"content": "the cat", "add_special": true, "with_pieces": true, "return_token_strs": true}),
        ),
        ("/tokenize", json!({"messages": messages, "add_generation_prompt": false})),
        ("/detokenize", json!({"tokens": [1, 2, 3, 200]})),
        ("/apply-template", json!({"messages": messages, "tools": [tool], "chat_template_kwargs": {"a": 1}})),
        ("/v1/moderations", json!({"input": ["a", "qza"], "model": "m"})),
    ]
}

/// JSON that is seldom what is expected.
fn odd() -> impl Strategy<Value = Value> {
    let plain = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3i64..40).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|x| serde_json::Number::from_f64(x).map_or(Value::Null, Value::Number)),
        (-3.0..3.0f64).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        select(vec![
            "",
            "tiny",
            "auto",
            "none",
            "required",
            "function",
            "text",
            "json_object",
            "user",
            "tool",
            "\0",
            "\u{fffd}",
            "qza",
            "("
        ])
        .prop_map(Value::from),
    ];
    plain.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-z_]{1,8}", inner), 0..3)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A change at some place.
#[derive(Debug, Clone)]
enum Change {
    Replace(Value),
    Remove,
    Double,
    Insert(String, Value),
}

fn change() -> impl Strategy<Value = (Index, Change)> {
    let names =
        select(vec!["stop", "n", "regex", "stream", "echo", "max_tokens", "prompt", "logprobs", "type", "role", "x"]);
    let change = prop_oneof![
        5 => odd().prop_map(Change::Replace),
        1 => Just(Change::Remove),
        1 => Just(Change::Double),
        1 => (names, odd()).prop_map(|(name, value)| Change::Insert(name.to_owned(), value)),
    ];
    (any::<Index>(), change)
}

/// Pointers to all values in a value, itself left out.
fn places(value: &Value, path: &str, out: &mut Vec<String>) {
    let mut visit = |key: String, inner: &Value| {
        let path = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
        out.push(path.clone());
        places(inner, &path, out);
    };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, inner)| visit(key.clone(), inner)),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, inner)| visit(at.to_string(), inner)),
        _ => {}
    }
}

fn apply(body: &mut Value, at: &Index, change: &Change) {
    let mut all = Vec::new();
    places(body, "", &mut all);
    if all.is_empty() {
        return;
    }
    let path = at.get(&all);
    let (parent, key) = path.rsplit_once('/').unwrap();
    match change {
        Change::Replace(value) => *body.pointer_mut(path).unwrap() = value.clone(),
        Change::Remove => match body.pointer_mut(parent).unwrap() {
            Value::Object(map) => drop(map.remove(&key.replace("~1", "/").replace("~0", "~"))),
            Value::Array(items) => drop(items.remove(key.parse().unwrap())),
            _ => {}
        },
        Change::Double => {
            let value = body.pointer_mut(path).unwrap();
            *value = json!([value, value]);
        }
        Change::Insert(name, value) => match body.pointer_mut(path).unwrap() {
            Value::Object(map) => {
                map.insert(name.clone(), value.clone());
            }
            Value::Array(items) => items.push(value.clone()),
            other => *other = json!({ (name): value }),
        },
    }
}

/// Whether an answer is one that a client can live with.
fn check(path: &str, body: &Value, answer: &Answer) {
    let shown = || format!("{path} {body}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
    match answer.status {
        200 if answer.headers["content-type"].starts_with("text/event-stream") => {
            assert!(answer.text().ends_with("\n\n"), "{}", shown());
            let events: Vec<&str> = answer.text().trim_end().split("\n\n").collect();
            for event in &events {
                let data = event.split_once("data: ").unwrap_or_else(|| panic!("{}", shown())).1;
                assert!(data == "[DONE]" || serde_json::from_str::<Value>(data).is_ok(), "{}", shown());
            }
            let last = events[events.len() - 1];
            let ends = ["data: [DONE]", "event: response.completed", "event: response.incomplete"];
            // A constraint may fail on the way: that is said.
            let is_whole = ends.iter().any(|end| last.starts_with(end));
            assert!(is_whole || last.contains("constraint"), "{}", shown());
        }
        200 => assert!(answer.json().is_object()),
        400..=499 => assert!(answer.error(answer.status).is_object()),
        _ => panic!("{}", shown()),
    }
}

#[test]
fn requests_are_good_before_they_are_changed() {
    for (path, body) in requests() {
        let answer = server().post(path, &body);
        assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text());
        check(path, &body, &answer);
    }
}

#[test]
fn requests_changed_at_random_are_answered_or_refused() {
    let all = requests();
    let strategy = (any::<Index>(), prop::collection::vec(change(), 1..4));
    let result = runner(3000).run(&strategy, |(which, changes)| {
        let (path, body) = which.get(&all);
        let mut body = body.clone();
        changes.iter().for_each(|(at, change)| apply(&mut body, at, change));
        check(path, &body, &server().post(path, &body));
        Ok(())
    });
    result.unwrap();
    server().until("an idle engine", |server| server.n_busy() == 0);
}

#[test]
fn text_that_is_nearly_json_is_answered_or_refused() {
    let all = requests();
    let strategy = (any::<Index>(), any::<Index>(), any::<Index>(), prop::collection::vec(any::<u8>(), 0..6));
    let result = runner(300).run(&strategy, |(which, from, to, bytes)| {
        let (path, body) = which.get(&all);
        let mut text = body.to_string().into_bytes();
        let (from, to) = (from.index(text.len()), to.index(text.len().min(20)));
        let end = (from + to).min(text.len());
        text.splice(from..end, bytes);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        );
        let mut sent = format!("{head}Content-Length: {}\r\n\r\n", text.len()).into_bytes();
        sent.extend_from_slice(&text);
        check(path, body, &Answer::parse(&server().raw(&sent)));
        Ok(())
    });
    result.unwrap();
}

#[test]
fn bytes_at_random_stop_nothing() {
    let pieces = select(vec![
        "GET ",
        "POST ",
        "/v1/completions",
        "/health",
        " HTTP/1.1\r\n",
        "Host: localhost\r\n",
        "Content-Length: ",
        "10",
        "Transfer-Encoding: chunked\r\n",
        "Content-Type: application/json\r\n",
        "\r\n",
        "\n",
        "\r\n\r\n",
        ": ",
        "{\"prompt\":",
        "5\r\n",
        "ffffffffffffffff\r\n",
        "0\r\n\r\n",
        "Expect: 100-continue\r\n",
        "Connection: upgrade\r\nUpgrade: websocket\r\n",
        "\0",
        "%00",
    ]);
    let piece = prop_oneof![
        3 => pieces.prop_map(|piece| piece.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    let result = runner(400).run(&prop::collection::vec(piece, 0..24), |pieces| {
        let mut stream = server().connect();
        // It may be closed before everything is sent.
        let _ = stream.write_all(&pieces.concat());
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        prop_assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{:?}", String::from_utf8_lossy(&answer));
        prop_assert!(!answer.starts_with(b"HTTP/1.1 5"), "{:?}", String::from_utf8_lossy(&answer));
        Ok(())
    });
    result.unwrap();
    assert_eq!(server().get("/health").status, 200);
}
