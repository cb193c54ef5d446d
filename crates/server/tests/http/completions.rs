//! `/v1/completions` over HTTP: every form of prompt, whole and streamed.

use crate::common::{Setup, TestServer, tokenizer};
use serde_json::{Value, json};

/// Text, finish reason and log-probabilities of each choice of a whole answer.
fn whole(answer: &Value) -> Vec<(String, String, Value)> {
    let choice = |(index, choice): (usize, &Value)| {
        assert_eq!(choice["index"], index);
        let text = |field: &str| choice[field].as_str().unwrap().to_owned();
        (text("text"), text("finish_reason"), choice["logprobs"].clone())
    };
    answer["choices"].as_array().unwrap().iter().enumerate().map(choice).collect()
}

/// The same of a stream's chunks.
fn joined(chunks: &[Value], n: usize) -> Vec<(String, String, Value)> {
    let mut out = vec![(String::new(), String::new(), Value::Null); n];
    for chunk in chunks.iter().filter(|chunk| chunk["choices"] != json!([])) {
        assert_eq!(chunk["object"], "text_completion");
        assert_eq!((&chunk["id"], &chunk["created"]), (&chunks[0]["id"], &chunks[0]["created"]));
        let choice = &chunk["choices"][0];
        let (text, reason, logprobs) = &mut out[choice["index"].as_u64().unwrap() as usize];
        assert_eq!(reason, "", "a part after the last");
        text.push_str(choice["text"].as_str().unwrap());
        reason.push_str(choice["finish_reason"].as_str().unwrap_or_default());
        if let Value::Object(part) = &choice["logprobs"] {
            let all = logprobs.as_object_mut();
            match all {
                None => *logprobs = Value::Object(part.clone()),
                Some(all) => {
                    for (name, list) in part {
                        match (&mut all[name], list) {
                            (Value::Array(all), Value::Array(more)) => all.extend(more.clone()),
                            (Value::Null, Value::Null) => {}
                            other => panic!("{name}: {other:?}"),
                        }
                    }
                }
            }
        }
    }
    out
}

#[test]
fn a_streamed_answer_is_the_whole_one_in_parts() {
    let server = TestServer::start(Setup::default());
    for seed in 0..12 {
        let mut body = json!({
            "model": "tiny", "prompt": ["the cat", "日本"], "max_tokens": 30, "seed": seed, "temperature": 1.3, "n": 2,
            "stop": ["t", "the", "語"], "echo": seed % 2 == 0,
        });
        if seed % 3 > 0 {
            body["logprobs"] = (seed % 3 * 2).into();
        }
        let answer = server.post("/v1/completions", &body).ok();
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
        let chunks = server.post("/v1/completions", &body).events();
        assert_eq!(joined(&chunks, 4), whole(&answer), "seed {seed}");
        let (last, others) = chunks.split_last().unwrap();
        let mut usage = (last["usage"].clone(), answer["usage"].clone());
        // The second request found the first one's prompt in the cache.
        for usage in [&mut usage.0, &mut usage.1] {
            usage["prompt_tokens_details"]["cached_tokens"] = 0.into();
        }
        assert_eq!((&last["choices"], usage.0), (&json!([]), usage.1));
        assert!(others.iter().all(|chunk| chunk.as_object().unwrap()["usage"].is_null()));
    }
}

#[test]
fn prompts_come_in_four_forms() {
    let server = TestServer::start(Setup::default());
    let ids = tokenizer().encode("the cat");
    let ask = |prompt: Value| {
        let body = json!({"prompt": prompt, "max_tokens": 5, "temperature": 0});
        whole(&server.post("/v1/completions", &body).ok())
    };
    let one = ask(json!("the cat"));
    assert_eq!(one.len(), 1);
    assert_eq!(ask(json!(ids)), one);
    assert_eq!(ask(json!(["the cat", "the cat"])), [one.clone(), one.clone()].concat());
    assert_eq!(ask(json!([ids, ids])), [one.clone(), one].concat());
    assert_eq!(ask(json!("")).len(), 1, "an empty prompt starts a text");
}

#[test]
fn echo_with_log_probabilities_scores_the_prompt() {
    let server = TestServer::start(Setup::default());
    let text = "the café, 日本";
    let ids = tokenizer().encode(text);
    let body = json!({"prompt": [ids], "max_tokens": 1, "logprobs": 1, "echo": true, "temperature": 0});
    let answer = server.post("/v1/completions", &body).ok();
    let choice = &answer["choices"][0];
    assert!(choice["text"].as_str().unwrap().starts_with(text));
    let list = |name: &str| choice["logprobs"][name].as_array().unwrap().clone();
    let (tokens, logprobs, top, offsets) =
        (list("tokens"), list("token_logprobs"), list("top_logprobs"), list("text_offset"));
    let n = ids.len() + 1;
    assert_eq!((tokens.len(), logprobs.len(), top.len(), offsets.len()), (n, n, n, n));
    assert!(logprobs[0].is_null() && top[0].is_null());
    for at in 1..n {
        let best = top[at].as_object().unwrap().values().map(|v| v.as_f64().unwrap()).fold(f64::MIN, f64::max);
        assert!(logprobs[at].as_f64().unwrap() <= best && best <= 0.0);
    }
    // A token begins where the characters before it end.
    let offset = |at: usize| offsets[at].as_u64().unwrap() as usize;
    assert_eq!((offset(0), offset(ids.len())), (0, text.chars().count()));
    // The score endpoint sees the same numbers.
    let items = json!([{"context": ids[..2], "continuation": ids[2..]}]);
    let score = server.post("/v1/score", &json!({"items": items, "tokens": true})).ok();
    let scored = &score["data"][0];
    assert_eq!(scored["n_tokens"], ids.len() - 2);
    assert_eq!(scored["token_logprobs"].as_array().unwrap()[..], logprobs[2..ids.len()]);
    // Nothing generated: the prompt alone.
    let body = json!({"prompt": text, "max_tokens": 0, "logprobs": 0, "echo": true});
    let answer = server.post("/v1/completions", &body).ok();
    assert_eq!(answer["choices"][0]["text"], text);
    assert_eq!(answer["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap()[..], logprobs[..ids.len()]);
    assert_eq!(answer["usage"]["completion_tokens"], 0);
}

#[test]
fn the_best_of_several_is_given_and_all_are_counted() {
    let server = TestServer::start(Setup::default());
    let body = json!({"prompt": "the", "max_tokens": 6, "n": 2, "best_of": 5, "seed": 3, "ignore_eos": true});
    let answer = server.post("/v1/completions", &body).ok();
    assert_eq!(whole(&answer).len(), 2);
    assert_eq!(answer["usage"]["completion_tokens"], 30);
    // Without any of these fields in the answer, nothing but the texts.
    let seeds: Vec<String> = (3..8)
        .map(|seed| {
            let body = json!({"prompt": "the", "max_tokens": 6, "seed": seed, "ignore_eos": true});
            whole(&server.post("/v1/completions", &body).ok())[0].0.clone()
        })
        .collect();
    assert!(whole(&answer).iter().all(|(text, _, _)| seeds.contains(text)));
}

#[test]
fn ids_come_back_when_asked_for() {
    let server = TestServer::start(Setup::default());
    let mut body =
        json!({"prompt": "the cat", "max_tokens": 4, "seed": 1, "return_token_ids": true, "ignore_eos": true});
    let answer = server.post("/v1/completions", &body).ok();
    let choice = &answer["choices"][0];
    assert_eq!(choice["prompt_token_ids"], json!(tokenizer().encode("the cat")));
    assert_eq!(choice["token_ids"].as_array().unwrap().len(), 4);
    body["stream"] = true.into();
    let chunks = server.post("/v1/completions", &body).events();
    let ids: Vec<Value> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["token_ids"].as_array()).flatten().cloned().collect();
    assert_eq!(Value::Array(ids), choice["token_ids"]);
    assert_eq!(chunks[0]["choices"][0]["prompt_token_ids"], choice["prompt_token_ids"]);
}
