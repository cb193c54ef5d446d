//! Filters on prompts and answers: what is refused never comes out, whole or streamed, and the rest comes as ever.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::common::{Answer, Setup, TestServer, metric, said, tokenizer};
use serde_json::{Value, json};
use verve_moderate::{Chain, ModerationConfig};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";

fn server(filters: Value) -> TestServer {
    let config: ModerationConfig = serde_json::from_value(json!({"filters": filters})).unwrap();
    let moderation = Some(Chain::from_config(&config, Path::new(".")).unwrap());
    TestServer::start(Setup { moderation, ..Setup::default() })
}

fn filter(stage: &str, source: Value) -> Value {
    let mut filter = json!({"name": "f", "reason_code": "internal_name", "stage": stage});
    filter.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
    filter
}

/// One choice of an answer, however it came.
#[derive(Debug, Default, Clone, PartialEq)]
struct Choice {
    text: String,
    reason: String,
    ids: Vec<u32>,
    logprobs: Vec<Value>,
}

impl Choice {
    fn add(&mut self, value: &Value) {
        for text in [&value["text"], &value["delta"]["content"], &value["message"]["content"]] {
            self.text.push_str(text.as_str().unwrap_or_default());
        }
        self.reason.push_str(value["finish_reason"].as_str().unwrap_or_default());
        let ids = value["token_ids"].as_array().into_iter().flatten();
        self.ids.extend(ids.map(|id| id.as_u64().unwrap() as u32));
        for list in [&value["logprobs"]["tokens"], &value["logprobs"]["content"]] {
            self.logprobs.extend(list.as_array().into_iter().flatten().cloned());
        }
    }

    /// The text of the tokens that came.
    fn spelled(&self) -> Vec<u8> {
        let tokenizer = tokenizer();
        self.ids.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap().to_vec()).collect()
    }
}

/// The choices of a request, whole or streamed.
fn choices(server: &TestServer, path: &str, body: &Value, stream: bool) -> Vec<Choice> {
    let mut body = body.clone();
    body["stream"] = stream.into();
    let answer = server.post(path, &body);
    let mut out = vec![Choice::default(); body["n"].as_u64().unwrap_or(1) as usize];
    let parts = if stream { answer.events() } else { vec![answer.ok()] };
    for choice in parts.iter().flat_map(|part| part["choices"].as_array().unwrap()) {
        out[choice["index"].as_u64().unwrap() as usize].add(choice);
    }
    out
}

fn chat(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

#[test]
fn filters_that_find_nothing_change_nothing() {
    let plain = TestServer::start(Setup::default());
    let watched = server(json!([
        filter("both", json!({"words": ["zyxwvut", "the cat sat on the moon"]})),
        filter("both", json!({"name": "g", "patterns": ["t[h-z]{3}!", "[a-f]{30}", "\u{65e5}.\u{672c}"]})),
    ]));
    for seed in 0..24u64 {
        let stop = [json!(null), json!("t"), json!(["the end", "\u{fffd}\u{fffd}", "caf"]), json!(["ab", "bc", "cab"])];
        let mut body = json!({
            "max_tokens": 40, "seed": seed, "n": 2, "stop": stop[seed as usize % 4], "return_token_ids": seed % 2 == 0,
            "temperature": 1.2,
        });
        if seed % 3 == 0 {
            body["regex"] = "[a-c]{1,60}".into();
        }
        let path = if seed % 2 == 0 { COMPLETIONS } else { CHAT };
        match path {
            COMPLETIONS => {
                body.as_object_mut().unwrap().extend([("prompt".into(), "the".into()), ("logprobs".into(), 2.into())])
            }
            _ => body
                .as_object_mut()
                .unwrap()
                .extend([("messages".into(), chat("the")), ("logprobs".into(), true.into())]),
        }
        let expected = choices(&plain, path, &body, false);
        for (server, stream) in [(&plain, true), (&watched, false), (&watched, true)] {
            assert_eq!(choices(server, path, &body, stream), expected, "seed {seed}, streamed {stream}: {body}");
        }
        // Nothing else of a whole answer differs either.
        assert_eq!(said(&watched.post(path, &body)), said(&plain.post(path, &body)));
    }
    let body = json!({"input": "the", "max_output_tokens": 30, "seed": 1});
    let text = |server: &TestServer| server.post(RESPONSES, &body).ok()["output"][0]["content"].clone();
    assert_eq!(text(&watched), text(&plain));
}

#[test]
fn what_a_filter_refuses_of_a_request_goes_no_further() {
    let server = server(json!([filter("input", json!({"words": ["operation lighthouse"]}))]));
    let words = "We plan Opér\u{200b}ation   LIGHTHOUSE!";
    let tool = json!({"type": "function", "function": {"name": "f", "description": words}});
    let call =
        json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": json!({"a": words}).to_string()}});
    let ids = tokenizer().encode(words);
    for (path, body) in [
        (COMPLETIONS, json!({"prompt": words})),
        (COMPLETIONS, json!({"prompt": words, "stream": true})),
        (COMPLETIONS, json!({"prompt": ["the", words]})),
        (COMPLETIONS, json!({"prompt": ids})),
        (COMPLETIONS, json!({"prompt": [[1, 2], ids]})),
        (CHAT, json!({"messages": chat(words)})),
        (CHAT, json!({"messages": chat(words), "stream": true})),
        (CHAT, json!({"messages": [{"role": "system", "content": words}, {"role": "user", "content": "a"}]})),
        (CHAT, json!({"messages": [{"role": "user", "content": [{"type": "text", "text": words}]}]})),
        (
            CHAT,
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]},
                                   {"role": "tool", "tool_call_id": "c", "content": "b"}]}),
        ),
        (CHAT, json!({"messages": chat("a"), "tools": [tool]})),
        (RESPONSES, json!({"input": words})),
        (RESPONSES, json!({"input": "a", "instructions": words})),
        (RESPONSES, json!({"input": [{"type": "function_call_output", "call_id": "c", "output": words}]})),
    ] {
        let answer = server.post(path, &body);
        let error = answer.error(400);
        assert_eq!(
            (&error["code"], &error["type"]),
            (&json!("content_filter"), &json!("invalid_request_error")),
            "{body}"
        );
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("internal_name") && !message.to_lowercase().contains("lighthouse"), "{message}");
    }
    let noted = "verve_filtered_total{filter=\"f\",stage=\"input\",outcome=\"refused\"}";
    assert_eq!(metric(&server, noted), 14);
    assert_eq!(metric(&server, "verve_generations_total{model=\"tiny\",outcome=\"done\"}"), 0);
    // What is not refused, and answers are not looked at.
    server.post(COMPLETIONS, &json!({"prompt": "operation lighthous", "max_tokens": 2})).ok();
    let body = json!({"prompt": "a", "regex": "operation lighthouse", "max_tokens": 40});
    assert_eq!(server.post(COMPLETIONS, &body).ok()["choices"][0]["text"], "operation lighthouse");
}

/// Where `t[a-d]` first matches.
fn first_match(text: &str) -> Option<usize> {
    text.as_bytes().windows(2).position(|pair| pair[0] == b't' && (b'a'..=b'd').contains(&pair[1]))
}

#[test]
fn an_answer_ends_where_a_filter_refuses_it() {
    let plain = TestServer::start(Setup::default());
    let watched = server(json!([filter("output", json!({"patterns": ["t[a-d]"]}))]));
    let mut n_refused = 0;
    for seed in 0..40u64 {
        // What may become a stop text is held back: the tokens must wait for it too.
        let stop = [json!(null), json!(["t~~"]), json!(["ta~", "a~"]), json!(["tt"])][seed as usize % 4].clone();
        let path = if seed % 3 == 0 { CHAT } else { COMPLETIONS };
        let mut body = json!({
            "max_tokens": 30, "seed": seed, "n": 2, "stop": stop, "regex": "[a-dt日]{1,40}", "return_token_ids": true,
        });
        match path {
            COMPLETIONS => {
                body.as_object_mut().unwrap().extend([("prompt".into(), "x".into()), ("logprobs".into(), 0.into())])
            }
            _ => {
                body.as_object_mut().unwrap().extend([("messages".into(), chat("x")), ("logprobs".into(), true.into())])
            }
        }
        let free = choices(&plain, path, &body, false);
        let whole = choices(&watched, path, &body, false);
        assert_eq!(choices(&watched, path, &body, true), whole, "seed {seed}");
        for (free, seen) in free.iter().zip(&whole) {
            let Some(end) = first_match(&free.text) else {
                assert_eq!(seen, free, "seed {seed}: it is not concerned");
                continue;
            };
            n_refused += 1;
            assert_eq!(seen.reason, "content_filter");
            assert_eq!(seen.text, free.text[..end], "seed {seed}");
            // Neither the match nor its tokens, nor a part of a character that belongs to it.
            assert!(seen.text.as_bytes().starts_with(&seen.spelled()), "seed {seed}: {seen:?}");
            assert_eq!(seen.logprobs.len(), seen.ids.len());
            assert_eq!(seen.ids[..], free.ids[..seen.ids.len()]);
        }
    }
    assert!((10..78).contains(&n_refused), "{n_refused} of 80 answers are refused: the test needs both kinds");
    let noted = "verve_filtered_total{filter=\"f\",stage=\"output\",outcome=\"refused\"}";
    assert_eq!(metric(&watched, noted), 2 * n_refused);
    watched.until("an idle engine", |server| server.n_busy() == 0);
}

#[test]
fn a_character_in_several_tokens_is_refused_whole() {
    let watched = server(json!([filter("output", json!({"patterns": ["é.", "\u{1f600}"]}))]));
    for word in ["aébc", "ab\u{1f600}cd"] {
        let body =
            json!({"prompt": "x", "regex": word, "max_tokens": 30, "seed": 1, "return_token_ids": true, "logprobs": 1});
        for stream in [false, true] {
            let choice = &choices(&watched, COMPLETIONS, &body, stream)[0];
            let safe = if word.starts_with("aé") { "a" } else { "ab" };
            assert_eq!((choice.text.as_str(), choice.reason.as_str()), (safe, "content_filter"), "{word} {stream}");
            assert!(safe.as_bytes().starts_with(&choice.spelled()), "{word} {stream}");
        }
    }
}

#[test]
fn responses_and_tool_calls_go_through_filters_too() {
    let watched = server(json!([filter("output", json!({"words": ["lighthouse"]}))]));
    let body = json!({"input": "x", "regex": "the lighthouse keeper", "max_output_tokens": 60, "seed": 1});
    let answer = watched.post(RESPONSES, &body).ok();
    assert_eq!(
        (&answer["status"], &answer["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("content_filter"))
    );
    assert_eq!(answer["output"][0]["content"][0]["text"], "the ");
    let mut body = body;
    body["stream"] = true.into();
    let answer = watched.post(RESPONSES, &body);
    assert!(!answer.text().contains("light"), "{}", answer.text());
    assert_eq!(answer.named_events().last().unwrap().0, "response.incomplete");
    let schema = json!({"type": "object", "properties": {"to": {"const": "lighthouse"}}, "required": ["to"]});
    let tool = json!({"type": "function", "function": {"name": "go", "parameters": schema}});
    for stream in [false, true] {
        let body = json!({"messages": chat("x"), "tools": [tool], "tool_choice": "required", "max_tokens": 90, "stream": stream});
        let answer = watched.post(CHAT, &body);
        assert!(!answer.text().contains("light"), "{}", answer.text());
        assert!(answer.text().contains("content_filter"));
    }
}

#[test]
fn of_several_answers_only_the_refused_end() {
    let watched = server(json!([filter("output", json!({"patterns": ["a"]}))]));
    let mut seen = [false; 2];
    for seed in 0..30u64 {
        let body =
            json!({"prompt": ["x", "y"], "regex": "[ab]{3}", "max_tokens": 8, "seed": seed, "n": 2, "stop": "bbbb"});
        let answer = watched.post(COMPLETIONS, &body).ok();
        let all = answer["choices"].as_array().unwrap();
        assert_eq!(all.len(), 4);
        for choice in all {
            let text = choice["text"].as_str().unwrap();
            assert!(!text.contains('a'));
            match choice["finish_reason"].as_str().unwrap() {
                "content_filter" => assert!(text.len() < 3),
                other => assert_eq!((other, text), ("stop", "bbb")),
            }
        }
        let n_refused = all.iter().filter(|choice| choice["finish_reason"] == "content_filter").count();
        seen[0] |= (1..4).contains(&n_refused);
        seen[1] |= n_refused == 4;
    }
    assert_eq!(seen, [true; 2], "some and all");
    watched.until("an idle engine", |server| server.n_busy() == 0);
}

#[test]
fn what_is_only_recorded_goes_on() {
    let watched = server(json!([filter("both", json!({"patterns": ["ab"], "action": "record"}))]));
    let body = json!({"prompt": "cab", "regex": "cabdabe", "max_tokens": 20});
    for stream in [false, true] {
        let choice = &choices(&watched, COMPLETIONS, &body, stream)[0];
        assert_eq!((choice.text.as_str(), choice.reason.as_str()), ("cabdabe", "stop"));
    }
    for stage in ["input", "output"] {
        let noted = format!("verve_filtered_total{{filter=\"f\",stage=\"{stage}\",outcome=\"recorded\"}}");
        assert_eq!(metric(&watched, &noted), 2, "{stage}");
    }
}

#[test]
fn moderations_have_the_public_apis_form() {
    let server = server(json!([
        filter("input", json!({"name": "a", "words": ["axe"], "category": "violence"})),
        filter("output", json!({"name": "b", "words": ["bomb"], "category": "illicit/violent", "action": "record"})),
        filter("both", json!({"name": "c", "words": ["lighthouse"]})),
    ]));
    let categories = [
        "hate",
        "hate/threatening",
        "harassment",
        "harassment/threatening",
        "illicit",
        "illicit/violent",
        "self-harm",
        "self-harm/intent",
        "self-harm/instructions",
        "sexual",
        "sexual/minors",
        "violence",
        "violence/graphic",
    ];
    let input = json!(["the cat", "an axe", "a bomb, an axe", "the lighthouse"]);
    let answer = server.post("/v1/moderations", &json!({"input": input, "model": "omni-moderation-latest"})).ok();
    assert!(answer["id"].as_str().unwrap().starts_with("modr-"));
    assert_eq!(answer["model"], "omni-moderation-latest");
    let results = answer["results"].as_array().unwrap();
    let expected: [(bool, &[&str]); 4] =
        [(false, &[]), (true, &["violence"]), (true, &["illicit/violent", "violence"]), (true, &[])];
    assert_eq!(results.len(), expected.len());
    for (result, (flagged, found)) in results.iter().zip(expected) {
        assert_eq!(result["flagged"], flagged);
        for field in ["categories", "category_scores", "category_applied_input_types"] {
            assert_eq!(result[field].as_object().unwrap().len(), 13, "{field}");
        }
        for category in categories {
            assert_eq!(result["categories"][category], found.contains(&category), "{category}");
            let score = result["category_scores"][category].as_f64().unwrap();
            assert_eq!(score > 0.5, found.contains(&category));
            assert!(result["category_applied_input_types"][category].is_array());
        }
    }
    for input in [json!("an axe"), json!([{"type": "text", "text": "an axe"}])] {
        let answer = server.post("/v1/moderations", &json!({"input": input})).ok();
        assert_eq!(answer["results"][0]["flagged"], true);
        assert_eq!(answer["results"].as_array().unwrap().len(), 1);
    }
}

/// A moderation service: flags what has "bad" in it, answers nothing useful to what has "down" in it. Keeps what it saw.
fn service() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1/moderations", listener.local_addr().unwrap());
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = seen.clone();
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut length = 0;
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap();
            let text = body["input"].as_str().unwrap().to_owned();
            let flagged = text.contains("bad");
            let answer = if text.contains("down") {
                "<html>".to_owned()
            } else {
                let result =
                    json!({"flagged": flagged, "categories": {"hate": flagged}, "category_scores": {"hate": 0.9}});
                json!({"id": "modr-1", "model": "m", "results": [result]}).to_string()
            };
            kept.lock().unwrap().push(text);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
            stream.write_all((head + &answer).as_bytes()).unwrap();
        }
    });
    (url, seen)
}

#[test]
fn a_service_judges_requests_and_answers() {
    let (url, seen) = service();
    let asking =
        |on_failure: &str| server(json!([filter("both", json!({"service": {"url": url, "on_failure": on_failure}}))]));
    let careful = asking("refuse");
    let lenient = asking("pass");
    let ask = |prompt: &str, answer: &str| json!({"prompt": prompt, "regex": answer, "max_tokens": 40, "return_token_ids": true});
    for server in [&careful, &lenient] {
        let error = server.post(COMPLETIONS, &ask("a bad thing", "the cat")).error(400);
        assert_eq!(error["code"], "content_filter");
        for stream in [false, true] {
            let choice = &choices(server, COMPLETIONS, &ask("good", "the cat"), stream)[0];
            assert_eq!((choice.text.as_str(), choice.reason.as_str()), ("the cat", "stop"));
            assert_eq!(choice.spelled(), b"the cat");
            // Nothing of an answer comes before the service has seen all of it.
            let choice = &choices(server, COMPLETIONS, &ask("good", "the bad cat"), stream)[0];
            assert_eq!((choice.text.as_str(), choice.reason.as_str()), ("", "content_filter"));
            assert!(choice.ids.is_empty());
        }
    }
    assert!(seen.lock().unwrap().contains(&"the bad cat".to_owned()));
    // The service is of no use.
    let error = careful.post(COMPLETIONS, &ask("it is down", "the cat")).error(400);
    assert_eq!(error["code"], "content_filter");
    lenient.post(COMPLETIONS, &ask("it is down", "the cat")).ok();
    for stream in [false, true] {
        let choice = &choices(&careful, COMPLETIONS, &ask("good", "down"), stream)[0];
        assert_eq!((choice.text.as_str(), choice.reason.as_str()), ("", "content_filter"));
        let choice = &choices(&lenient, COMPLETIONS, &ask("good", "down"), stream)[0];
        assert_eq!((choice.text.as_str(), choice.reason.as_str()), ("down", "stop"));
    }
    let moderate = |server: &TestServer, text: &str| server.post("/v1/moderations", &json!({"input": text}));
    let result = moderate(&careful, "a bad thing").ok()["results"][0].clone();
    assert_eq!((&result["flagged"], &result["categories"]["hate"]), (&json!(true), &json!(true)));
    let answer: Answer = moderate(&careful, "it is down");
    answer.error(503);
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(moderate(&lenient, "it is down").ok()["results"][0]["flagged"], false);
}
