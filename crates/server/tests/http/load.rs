//! Many clients at once, clients that leave, stall or send nonsense, and a server that ends.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::{Answer, MODEL_BYTES, N_CTX, Setup, TestLoader, TestServer, metric, read_to, said, tokenizer};
use serde_json::{Value, json};
use verve_server::{ServerOptions, SlotState};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// A request that takes long.
fn long(seed: u64) -> Value {
    json!({"prompt": "the", "max_tokens": N_CTX - 8, "seed": seed, "ignore_eos": true, "stream": true})
}

/// A request of so many long answers: with a few there is room for others, with many it takes longer than any test waits.
fn endless(n: usize) -> Value {
    json!({"prompt": "the", "n": n, "max_tokens": N_CTX - 8, "seed": 1, "ignore_eos": true, "stream": true})
}

/// Text of a streamed or a whole completion's only choice.
fn text(answer: &Answer) -> String {
    answer.events().iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect()
}

/// Sends all requests, so many at once, and returns what the answers say in the requests' order.
fn all(server: &TestServer, requests: &[(&str, Value)], n_at_once: usize) -> Vec<Value> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((path, body)) = requests.get(at) else { return done };
            done.push((at, said(&server.post(path, body))));
        }
    };
    let mut answers: Vec<(usize, Value)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n_at_once).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    answers.sort_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

fn outcomes(server: &TestServer, outcome: &str) -> u64 {
    metric(server, &format!("verve_generations_total{{model=\"tiny\",outcome=\"{outcome}\"}}"))
}

/// Everything up to the end, whichever way it comes.
fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let (mut all, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut part) {
            Ok(0) => return all,
            Ok(n) => all.extend_from_slice(&part[..n]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("{error}: the connection was not closed"),
        }
    }
}

fn serves(server: &TestServer) {
    server.post(COMPLETIONS, &json!({"prompt": "the", "max_tokens": 1})).ok();
}

#[test]
fn the_same_bytes_at_any_concurrency() {
    let server = TestServer::start(Setup::default());
    let shared = "the cat sat on the mat; ".repeat(6);
    let mut requests = Vec::new();
    for seed in 0..64u64 {
        let (stream, n) = (seed % 2 == 0, 1 + seed % 3);
        let prompt = if seed % 4 == 0 { format!("{shared}{seed}") } else { format!("the {seed}") };
        let messages = json!([{"role": "user", "content": prompt}]);
        requests.push(match seed % 8 {
            0 | 1 => (COMPLETIONS, json!({"prompt": prompt, "max_tokens": 12, "seed": seed, "n": n, "stream": stream})),
            2 => (
                COMPLETIONS,
                json!({"prompt": [prompt, "cat"], "max_tokens": 9, "seed": seed, "logprobs": 3, "echo": true,
                                      "repetition_penalty": 1.3, "min_p": 0.01}),
            ),
            3 => (
                CHAT,
                json!({"messages": messages, "max_tokens": 8, "seed": seed, "n": n, "stream": seed % 16 == 3,
                               "logprobs": true, "top_logprobs": 4, "stop": "t", "frequency_penalty": 0.5}),
            ),
            4 => (CHAT, json!({"messages": messages, "max_tokens": 12, "seed": seed, "regex": "[a-z]{3,8}"})),
            5 => (
                "/v1/responses",
                json!({"input": prompt, "max_output_tokens": 16, "seed": seed, "stream": seed % 16 == 5}),
            ),
            6 => ("/v1/embeddings", json!({"input": [prompt, "cat"]})),
            _ => ("/v1/score", json!({"items": [{"context": prompt, "continuation": " mat"}], "tokens": true})),
        });
    }
    let alone = all(&server, &requests, 1);
    for n_at_once in [7, 64] {
        let together = all(&server, &requests, n_at_once);
        for ((request, alone), together) in requests.iter().zip(&alone).zip(&together) {
            assert!(together == alone, "{n_at_once} at once: {request:?}\n{alone}\n{together}");
        }
    }
    assert_eq!(server.n_busy(), 0);
}

#[test]
fn of_two_hundred_streams_nothing_is_lost_or_mixed() {
    let server = TestServer::start(Setup::default());
    let prompts: Vec<String> = (0..200).map(|i| format!("the {i} cat")).collect();
    let body = json!({"prompt": prompts, "max_tokens": 6, "seed": 5});
    let whole = server.post(COMPLETIONS, &body).ok();
    let stream = |prompt| {
        let body = json!({"prompt": prompt, "max_tokens": 6, "seed": 5, "stream": true});
        text(&server.post(COMPLETIONS, &body))
    };
    let texts: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = prompts.iter().map(|prompt| scope.spawn(move || stream(prompt))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let expected: Vec<&Value> = whole["choices"].as_array().unwrap().iter().map(|choice| &choice["text"]).collect();
    assert_eq!(json!(texts), json!(expected));
    server.until("everything over", |server| server.n_busy() == 0);
    assert_eq!(outcomes(&server, "done"), 201);
}

#[test]
fn a_full_queue_turns_away_and_harms_nobody() {
    let loader = TestLoader { queue: 4, max_sequences: 1, ..TestLoader::default() };
    let server = TestServer::start(Setup { loader, ..Setup::default() });
    let expected = text(&server.post(COMPLETIONS, &long(1)));
    let mut open: Vec<TcpStream> =
        (0..3).map(|_| server.send("POST", COMPLETIONS, &[], &long(1).to_string())).collect();
    server.until("three in the queue", |server| server.n_busy() == 3);
    // All of a request's prompts or none of them.
    let two = json!({"prompt": ["a", "b"], "max_tokens": 1});
    assert_eq!(server.post(COMPLETIONS, &two).error(429)["code"], "queue_full");
    server.until("none of it left", |server| server.n_busy() <= 3);
    open.push(server.send("POST", COMPLETIONS, &[], &long(1).to_string()));
    server.until("a full queue", |server| server.n_busy() == 4);
    for (path, body) in [
        (COMPLETIONS, json!({"prompt": "the", "max_tokens": 1})),
        (COMPLETIONS, long(2)),
        (CHAT, json!({"messages": [{"role": "user", "content": "the"}]})),
        ("/v1/embeddings", json!({"input": "the"})),
    ] {
        let answer = server.post(path, &body);
        let error = answer.error(429);
        assert_eq!((&error["code"], &error["type"]), (&json!("queue_full"), &json!("requests")), "{path}");
        assert_eq!(answer.headers["retry-after"], "1");
    }
    // What needs no engine is answered all the same.
    server.post("/tokenize", &json!({"content": "the"})).ok();
    server.get("/health").ok();
    for mut stream in open {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert_eq!(text(&Answer::parse(&bytes)), expected);
    }
    serves(&server);
    assert_eq!(metric(&server, "verve_turned_away_total"), 5);
}

#[test]
fn a_client_that_leaves_ends_its_request() {
    let loader = TestLoader { max_sequences: 1, ..TestLoader::default() };
    let server = TestServer::start(Setup { loader, ..Setup::default() });
    let whole = |mut body: Value| {
        body["stream"] = false.into();
        body
    };
    let mut expected = 0;
    let mut gone = |what: &str| {
        expected += 1;
        server.until(what, |server| server.n_busy() == 0 && outcomes(server, "cancelled") == expected);
    };
    // In mid-stream.
    let mut stream = server.send("POST", COMPLETIONS, &[], &endless(4).to_string());
    read_to(&mut stream, "data: ");
    drop(stream);
    gone("the end of a stream");
    // While a whole answer is made.
    let stream = server.send("POST", COMPLETIONS, &[], &whole(endless(4)).to_string());
    server.until("it runs", |server| server.n_busy() == 1);
    drop(stream);
    gone("the end of a whole answer");
    // In the queue, before the first token.
    let mut first = server.send("POST", COMPLETIONS, &[], &endless(4).to_string());
    read_to(&mut first, "data: ");
    let waiting = [endless(4), whole(endless(4))];
    let waiting: Vec<_> = waiting.iter().map(|body| server.send("POST", COMPLETIONS, &[], &body.to_string())).collect();
    server.until("two wait", |server| server.n_busy() == 3);
    drop(waiting);
    server.until("nobody waits", |server| server.n_busy() == 1);
    assert!(read_to(&mut first, "data: ").contains("text_completion"), "the one that stays goes on");
    drop(first);
    expected += 2;
    server.until("all over", |server| server.n_busy() == 0 && outcomes(server, "cancelled") == expected + 1);
    serves(&server);
    let cancelled = server.get("/admin/status").ok()["recent"].as_array().unwrap().clone();
    assert!(cancelled[1..].iter().all(|entry| entry["status"] == "cancelled"), "{cancelled:?}");
}

#[test]
fn many_clients_that_leave_at_any_time_leave_nothing_behind() {
    let server = TestServer::start(Setup::default());
    let expected = text(&server.post(COMPLETIONS, &long(3)));
    let leave = |i: usize| {
        let body = if i.is_multiple_of(2) { long(i as u64) } else { endless(4) };
        let mut stream = server.send("POST", COMPLETIONS, &[], &body.to_string());
        let mut part = vec![0; i * 97];
        let _ = stream.read_exact(&mut part);
    };
    std::thread::scope(|scope| {
        (0..40).for_each(|i| drop(scope.spawn(move || leave(i))));
        assert_eq!(text(&server.post(COMPLETIONS, &long(3))), expected);
    });
    server.until("an idle engine", |server| server.n_busy() == 0);
    server.until("no connections", |server| server.app.metrics.connections.get() == 0);
    let model = server.get("/admin/status").ok()["models"][0].clone();
    assert_eq!((&model["kv_used"], &model["running"], &model["waiting"]), (&json!(0), &json!(0), &json!(0)));
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let options = ServerOptions { write_timeout: Duration::from_millis(300), ..ServerOptions::default() };
    let server = TestServer::start(Setup { options, ..Setup::default() });
    // Many kilobytes to a token: more than the system's buffers hold.
    let body = json!({
        "messages": [{"role": "user", "content": "the"}], "n": 32, "max_tokens": 900, "seed": 1, "ignore_eos": true,
        "logprobs": true, "top_logprobs": 20, "stream": true,
    });
    let mut stream = server.send("POST", CHAT, &[], &body.to_string());
    server.until("it runs", |server| server.n_busy() == 1);
    server.until("its end", |server| server.n_busy() == 0 && outcomes(server, "cancelled") == 1);
    server.until("no connection", |server| server.app.metrics.connections.get() == 0);
    // The end of the stream is not there.
    let all = rest(&mut stream);
    assert!(!String::from_utf8_lossy(&all).contains("[DONE]"));
    // The same without any engine: many answers asked for, none read.
    let mut stream = server.connect();
    stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
    let ask = "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(4000);
    // It stops taking requests when answers are not read.
    let _ = stream.write_all(ask.as_bytes());
    server.until("no connection", |server| server.app.metrics.connections.get() == 0);
    serves(&server);
}

#[test]
fn clients_that_dawdle_are_cut_off() {
    let short = Duration::from_millis(300);
    let options = ServerOptions { header_timeout: short, body_timeout: short, ..ServerOptions::default() };
    let server = TestServer::start(Setup { options, ..Setup::default() });
    let head = format!("POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
    let body = json!({"prompt": "the", "max_tokens": 1}).to_string();
    let full = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    // Nothing, a part of a head, a request and then a part of a head.
    for sent in [String::new(), "GET /hea".to_owned(), head.clone(), format!("{full}{head}")] {
        let mut stream = server.connect();
        stream.write_all(sent.as_bytes()).unwrap();
        let answer = String::from_utf8(rest(&mut stream)).unwrap();
        let n_ok = answer.matches("HTTP/1.1 200").count();
        assert_eq!(n_ok, usize::from(sent.contains("prompt")), "{sent:?}: {answer}");
    }
    // Byte by byte, for ever.
    let drip = |start: &str| {
        let mut stream = server.connect();
        stream.write_all(start.as_bytes()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let (started, mut answer, mut part) = (Instant::now(), Vec::new(), [0; 1024]);
        loop {
            assert!(started.elapsed() < Duration::from_secs(30), "it is not cut off");
            let _ = stream.write_all(b"a");
            match stream.read(&mut part) {
                Ok(0) => return answer,
                Ok(n) => answer.extend_from_slice(&part[..n]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return answer,
            }
        }
    };
    drip(&format!("{head}X-A: "));
    let answer = drip(&format!("{head}Content-Length: 100000\r\n\r\n{{\"prompt\": \""));
    assert_eq!(Answer::parse(&answer).error(408)["code"], "request_timeout");
    let answer = drip(&format!("{head}Transfer-Encoding: chunked\r\n\r\n20000\r\n{{\"prompt\": \""));
    assert_eq!(Answer::parse(&answer).error(408)["code"], "request_timeout");
    server.until("no connection", |server| server.app.metrics.connections.get() == 0);
    serves(&server);
}

#[test]
fn half_closed_connections_are_answered_or_ended() {
    let server = TestServer::start(Setup::default());
    for body in [json!({"prompt": "the", "max_tokens": 3}), long(1), endless(4)] {
        let mut stream = server.send("POST", COMPLETIONS, &[], &body.to_string());
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = String::from_utf8(rest(&mut stream)).unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 200"), "{answer}");
        server.until("an idle engine", |server| server.n_busy() == 0);
    }
    // A body that ends before its end.
    let mut stream = server.connect();
    let head = format!("POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
    stream.write_all(format!("{head}Content-Length: 100\r\n\r\n{{\"prompt\"").as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let answer = String::from_utf8(rest(&mut stream)).unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    server.until("no connection", |server| server.app.metrics.connections.get() == 0);
    serves(&server);
}

/// The next of several answers on a connection.
fn next_answer(reader: &mut BufReader<TcpStream>) -> Answer {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "an answer is missing");
    }
    let mut body = Vec::new();
    if head.to_lowercase().contains("transfer-encoding: chunked") {
        while !body.ends_with(b"0\r\n\r\n") {
            assert!(reader.read_until(b'\n', &mut body).unwrap() > 0);
        }
    } else {
        let length = Answer::parse(head.as_bytes()).headers["content-length"].parse().unwrap();
        body.resize(length, 0);
        reader.read_exact(&mut body).unwrap();
    }
    Answer::parse(&[head.as_bytes(), &body].concat())
}

#[test]
fn a_connection_carries_many_requests_waiting_or_not() {
    let server = TestServer::start(Setup::default());
    let request = |body: &Value| {
        let body = body.to_string();
        let head = format!("POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n");
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let bodies: Vec<Value> = (0..6u64)
        .map(|seed| json!({"prompt": "the", "max_tokens": 4, "seed": seed, "stream": seed % 2 == 0}))
        .collect();
    let alone: Vec<Value> = bodies.iter().map(|body| said(&server.post(COMPLETIONS, body))).collect();
    // One after the other.
    let stream = server.connect();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for (body, alone) in bodies.iter().zip(&alone) {
        (&stream).write_all(request(body).as_bytes()).unwrap();
        assert_eq!(said(&next_answer(&mut reader)), *alone);
        // A refusal does not end the connection.
        (&stream).write_all(request(&json!({"prompt": []})).as_bytes()).unwrap();
        next_answer(&mut reader).error(400);
    }
    // All at once, in order.
    let sent: String = bodies.iter().map(request).collect();
    (&stream).write_all(sent.as_bytes()).unwrap();
    for alone in &alone {
        assert_eq!(said(&next_answer(&mut reader)), *alone);
    }
}

#[test]
fn heads_that_are_too_large_and_bytes_that_are_no_request() {
    let server = TestServer::start(Setup::default());
    let many: String = (0..500).map(|i| format!("X-{i}: a\r\n")).collect();
    let cases = [
        format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "a".repeat(300_000)),
        format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"),
        format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(300_000)),
        "GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n".to_owned(),
        "GET /health\r\n\r\n".to_owned(),
        "GE\0T /health HTTP/1.1\r\n\r\n".to_owned(),
        "GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n".to_owned(),
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n".to_owned(),
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n".to_owned(),
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}"
            .to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\x16\x03\x01\x02\x00\x01\x00\x01".to_owned(),
        "\r\n".repeat(50_000),
    ];
    for case in cases {
        let mut stream = server.connect();
        let _ = stream.write_all(case.as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
        let answer = String::from_utf8_lossy(&rest(&mut stream)).into_owned();
        let is_refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(is_refused, "{:?}: {answer:.200}", &case[..case.len().min(80)]);
    }
    // Two ways to say how long a body is: never a second request out of the body of the first.
    let smuggled = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let head = "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let sent = format!(
        "{head}Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}",
        smuggled.len() + 5
    );
    let mut stream = server.connect();
    stream.write_all(sent.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let answer = String::from_utf8_lossy(&rest(&mut stream)).into_owned();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    serves(&server);
}

#[test]
fn a_request_that_fails_on_its_constraint_leaves_the_others_alone() {
    let server = TestServer::start(Setup::default());
    let expected = text(&server.post(COMPLETIONS, &long(9)));
    let open = server.send("POST", COMPLETIONS, &[], &long(9).to_string());
    // Ever more ways to read a text as it grows, and ever more places where it may be.
    let ways: Vec<String> = (2..14).map(|n| vec!["e"; n].join(" ")).collect();
    let grammar = format!("start: e\ne: {} | \"a\" | \"b\"", ways.join(" | "));
    let end = tokenizer().end_of_text().map_or(json!({}), |id| json!({ (id.to_string()): -100 }));
    let mut n_failed = 0;
    for (field, text) in [
        ("grammar", grammar.as_str()),
        ("regex", "[ab]*a[ab]{300}"),
        ("regex", "([ab]*a[ab]{20}){9}"),
        ("regex", "([ab]*a[ab]{12}|[ab]*b[ab]{13}|[ab]*aa[ab]{14})*!"),
    ] {
        let body = json!({
            "prompt": "the", (field): text, "max_tokens": 900, "seed": 1, "stream": true, "ignore_eos": true,
            "logit_bias": end,
        });
        let answer = server.post(COMPLETIONS, &body);
        if answer.status != 200 {
            answer.error(400);
        } else if !answer.text().ends_with("data: [DONE]\n\n") {
            // An error event is the last thing that comes.
            let last = answer.text().trim_end().rsplit("data: ").next().unwrap();
            let error: Value = serde_json::from_str(last).unwrap();
            assert!(error["error"]["message"].as_str().unwrap().contains("constraint"), "{error}");
            n_failed += 1;
        }
    }
    assert!(n_failed > 0, "none of the constraints fails in mid-stream any more");
    let mut bytes = Vec::new();
    { open }.read_to_end(&mut bytes).unwrap();
    assert_eq!(text(&Answer::parse(&bytes)), expected);
    server.until("an idle engine", |server| server.n_busy() == 0);
}

#[test]
fn a_server_told_to_end_finishes_what_is_open() {
    let mut server = TestServer::start(Setup::default());
    let expected = text(&server.post(COMPLETIONS, &long(1)));
    let idle = server.connect();
    let mut stream = server.send("POST", COMPLETIONS, &[], &long(1).to_string());
    let mut start = read_to(&mut stream, "data: ");
    let whole = server.send(
        "POST",
        COMPLETIONS,
        &[],
        &json!({"prompt": "the", "max_tokens": 900, "ignore_eos": true}).to_string(),
    );
    server.until("both run", |server| server.n_busy() == 2);
    server.tell_to_end();
    server.until("no new connection", |server| TcpStream::connect(server.address).is_err());
    server.wait();
    stream.read_to_string(&mut start).unwrap();
    assert_eq!(text(&Answer::parse(start.as_bytes())), expected);
    let mut bytes = Vec::new();
    { whole }.read_to_end(&mut bytes).unwrap();
    assert_eq!(Answer::parse(&bytes).ok()["usage"]["completion_tokens"], 900);
    assert!(rest(&mut { idle }).is_empty());
}

#[test]
fn what_is_open_for_too_long_is_ended_with_an_error() {
    let options = ServerOptions { drain_timeout: Duration::from_millis(100), ..ServerOptions::default() };
    let mut server = TestServer::start(Setup { options, ..Setup::default() });
    let mut whole = endless(60);
    whole["stream"] = false.into();
    let mut stream = server.send("POST", COMPLETIONS, &[], &endless(60).to_string());
    let mut start = read_to(&mut stream, "data: ");
    let whole = server.send("POST", COMPLETIONS, &[], &whole.to_string());
    let responses = json!({"input": "the", "seed": 1, "ignore_eos": true, "stream": true, "max_output_tokens": 900});
    let chats: Vec<TcpStream> =
        (0..30).map(|_| server.send("POST", "/v1/responses", &[], &responses.to_string())).collect();
    server.until("all run", |server| server.n_busy() == 32);
    server.tell_to_end();
    server.wait();
    stream.read_to_string(&mut start).unwrap();
    let answer = Answer::parse(start.as_bytes());
    let last = answer.text().trim_end().rsplit("data: ").next().unwrap();
    let error: Value = serde_json::from_str(last).unwrap();
    assert_eq!(error["error"]["code"], "unavailable", "{error}");
    assert!(error["error"]["message"].as_str().unwrap().contains("shutting down"));
    let mut bytes = Vec::new();
    { whole }.read_to_end(&mut bytes).unwrap();
    Answer::parse(&bytes).error(503);
    let mut n_failed = 0;
    for mut chat in chats {
        let mut bytes = Vec::new();
        chat.read_to_end(&mut bytes).unwrap();
        let answer = Answer::parse(&bytes);
        if answer.status == 200 {
            let (name, event) = answer.named_events().pop().unwrap();
            n_failed += usize::from(name == "response.failed" && event["response"]["status"] == "failed");
        } else {
            n_failed += usize::from(!answer.error(503).is_null());
        }
    }
    assert!(n_failed > 0);
}

#[test]
fn the_deadline_ends_a_request() {
    let options = ServerOptions { request_timeout: Duration::from_millis(400), ..ServerOptions::default() };
    let server = TestServer::start(Setup { options, ..Setup::default() });
    let mut whole = endless(60);
    whole["stream"] = false.into();
    assert_eq!(server.post(COMPLETIONS, &whole).error(504)["code"], "deadline_exceeded");
    server.until("an idle engine", |server| server.n_busy() == 0);
    let answer = server.post(COMPLETIONS, &endless(60));
    assert_eq!(answer.status, 200);
    let last = answer.text().trim_end().rsplit("data: ").next().unwrap();
    let error: Value = serde_json::from_str(last).unwrap();
    assert_eq!(error["error"]["code"], "deadline_exceeded");
    server.until("an idle engine", |server| server.n_busy() == 0);
    assert_eq!(outcomes(&server, "expired"), 2);
    serves(&server);
}

fn state(server: &TestServer, name: &str) -> SlotState {
    server.app.models.status().into_iter().find(|status| status.entry.name == name).unwrap().state
}

#[test]
fn models_come_and_go_within_their_budget() {
    let loader = TestLoader { names: vec!["tiny", "other", "broken"], ..TestLoader::default() };
    let server = TestServer::start(Setup { loader, budget: Some(MODEL_BYTES), ..Setup::default() });
    server.get("/ready").error(503);
    let ask =
        |model: &str| server.post(COMPLETIONS, &json!({"model": model, "prompt": "the", "max_tokens": 8, "seed": 1}));
    let expected = [ask("tiny").ok()["choices"].clone(), ask("other").ok()["choices"].clone()];
    assert_ne!(expected[0], expected[1], "they are different models");
    assert_eq!((state(&server, "tiny"), state(&server, "other")), (SlotState::Unloaded, SlotState::Loaded));
    assert_eq!(ask("tiny").ok()["choices"], expected[0]);
    assert_eq!((state(&server, "tiny"), state(&server, "other")), (SlotState::Loaded, SlotState::Unloaded));
    server.get("/ready").ok();
    // A model in use does not go.
    let mut stream = server.send("POST", COMPLETIONS, &[], &endless(4).to_string());
    read_to(&mut stream, "data: ");
    for _ in 0..2 {
        let answer = ask("other");
        let error = answer.error(503);
        assert!(error["message"].as_str().unwrap().contains("in use"), "{error}");
        assert!(answer.headers.contains_key("retry-after"));
    }
    assert_eq!(ask("tiny").ok()["choices"], expected[0]);
    drop(stream);
    server.until("room", |_| ask("other").status == 200);
    // One that cannot be loaded takes no room for long.
    ask("broken").error(503);
    assert_eq!(ask("tiny").ok()["choices"], expected[0]);
    // Both wanted by many: right or told to come again.
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (ask, expected) = (&ask, &expected);
            scope.spawn(move || {
                for i in 0..6 {
                    let which = (thread + i) % 2;
                    let answer = ask(["tiny", "other"][which]);
                    match answer.status {
                        503 => assert!(answer.headers.contains_key("retry-after")),
                        _ => assert_eq!(answer.ok()["choices"], expected[which]),
                    }
                }
            });
        }
    });
    let none = TestServer::start(Setup { budget: Some(MODEL_BYTES - 1), ..Setup::default() });
    let error = none.post(COMPLETIONS, &json!({"prompt": "the"})).error(503);
    assert!(error["message"].as_str().unwrap().contains("999"), "{error}");
}

#[test]
fn an_idle_model_is_given_up_and_loaded_again() {
    let options = ServerOptions { idle_unload: Some(Duration::from_millis(50)), ..ServerOptions::default() };
    let server = TestServer::start(Setup { options, ..Setup::default() });
    let body = json!({"prompt": "the", "max_tokens": 8, "seed": 1});
    let expected = server.post(COMPLETIONS, &body).ok()["choices"].clone();
    server.until("it goes", |server| state(server, "tiny") == SlotState::Unloaded);
    let mut stream = server.send("POST", COMPLETIONS, &[], &endless(4).to_string());
    read_to(&mut stream, "data: ");
    assert_eq!(server.post(COMPLETIONS, &body).ok()["choices"], expected);
    assert_eq!(state(&server, "tiny"), SlotState::Loaded, "it is in use");
    drop(stream);
    server.until("it goes again", |server| state(server, "tiny") == SlotState::Unloaded);
}
