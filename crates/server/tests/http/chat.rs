//! `/v1/chat/completions` over HTTP: streamed and whole, calls of functions, answers of a given form.

use crate::common::{Setup, TestServer, scrub};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

/// Puts a stream's chunks together to the choices of a whole answer, checking their order.
fn joined(chunks: &[Value], n: usize) -> Vec<Value> {
    let empty =
        json!({"message": {"role": null, "content": "", "tool_calls": []}, "logprobs": null, "finish_reason": null});
    let mut out = vec![empty; n];
    for chunk in chunks.iter().filter(|chunk| chunk["choices"] != json!([])) {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!((&chunk["id"], &chunk["created"]), (&chunks[0]["id"], &chunks[0]["created"]));
        assert!(chunk["id"].as_str().unwrap().starts_with("chatcmpl-"));
        let (part, delta) = (&chunk["choices"][0], &chunk["choices"][0]["delta"]);
        let choice = &mut out[part["index"].as_u64().unwrap() as usize];
        assert!(choice["finish_reason"].is_null(), "a part after the last");
        // The role comes first, and once.
        assert_eq!(delta.get("role").is_some(), choice["message"]["role"].is_null());
        if let Some(role) = delta.get("role") {
            choice["message"]["role"] = role.clone();
            assert_eq!(delta["content"], "");
        }
        let message = &mut choice["message"];
        if let Some(text) = delta["content"].as_str() {
            message["content"] = format!("{}{text}", message["content"].as_str().unwrap()).into();
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let calls = message["tool_calls"].as_array_mut().unwrap();
            let index = call["index"].as_u64().unwrap() as usize;
            if index == calls.len() {
                // Name and id with the first piece.
                assert!(call["id"].as_str().unwrap().starts_with("call_"));
                let function = json!({"name": call["function"]["name"], "arguments": ""});
                calls.push(json!({"id": call["id"], "type": call["type"], "function": function}));
            }
            let arguments = &mut calls[index]["function"]["arguments"];
            let more = call["function"]["arguments"].as_str().unwrap();
            *arguments = format!("{}{more}", arguments.as_str().unwrap()).into();
        }
        if let Value::Object(list) = &part["logprobs"] {
            let more = list["content"].as_array().unwrap();
            match choice["logprobs"].as_array_mut() {
                Some(all) => all.extend(more.clone()),
                None => choice["logprobs"] = more.clone().into(),
            }
        }
        if !part["finish_reason"].is_null() {
            assert_eq!(*delta, json!({}), "the last delta is empty");
            choice["finish_reason"] = part["finish_reason"].clone();
        }
    }
    out
}

/// The choices of a whole answer, in the same form.
fn whole(answer: &Value) -> Vec<Value> {
    assert_eq!(answer["object"], "chat.completion");
    let choice = |(index, choice): (usize, &Value)| {
        assert_eq!(choice["index"], index);
        let message = &choice["message"];
        assert!(message["refusal"].is_null());
        let calls = message.get("tool_calls").cloned().unwrap_or_else(|| json!([]));
        let content = message["content"].as_str().unwrap_or_default();
        json!({
            "message": {"role": message["role"], "content": content, "tool_calls": calls},
            "logprobs": choice["logprobs"].get("content"),
            "finish_reason": choice["finish_reason"],
        })
    };
    answer["choices"].as_array().unwrap().iter().enumerate().map(choice).collect()
}

/// A request's choices, after checking that they come streamed as they come whole.
fn both(server: &TestServer, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    let n = body["n"].as_u64().unwrap_or(1) as usize;
    let answer = server.post(CHAT, &body).ok();
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let chunks = server.post(CHAT, &body).events();
    let scrubbed = |choices: Vec<Value>| {
        let mut choices = Value::from(choices);
        // Names of calls are drawn.
        scrub(&mut choices);
        choices
    };
    let expected = whole(&answer);
    let mut streamed = joined(&chunks, n);
    for (choice, expected) in streamed.iter_mut().zip(&expected) {
        // White space alone beside a call is no content.
        if expected["message"]["content"] == "" && expected["message"]["tool_calls"] != json!([]) {
            assert_eq!(choice["message"]["content"].as_str().unwrap().trim(), "");
            choice["message"]["content"] = "".into();
        }
    }
    assert_eq!(scrubbed(streamed), scrubbed(expected.clone()), "{body}");
    let (last, others) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    for total in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(last["usage"][total], answer["usage"][total], "{total}");
    }
    assert!(others.iter().all(|chunk| chunk.as_object().unwrap()["usage"].is_null()));
    expected
}

#[test]
fn a_streamed_answer_is_the_whole_one_in_parts() {
    let server = TestServer::start(Setup::default());
    for seed in 0..24u64 {
        let stop = [json!(null), json!("t"), json!(["the", "語", "at"])][seed as usize % 3].clone();
        let mut body =
            json!({"messages": user("the cat"), "max_tokens": 30, "seed": seed, "n": 1 + seed % 2, "stop": stop});
        if seed % 4 == 0 {
            body["logprobs"] = true.into();
            body["top_logprobs"] = (seed % 3 * 4).into();
        }
        if seed % 5 == 0 {
            body["regex"] = "[a-z ]*the[a-z ]*".into();
        }
        for choice in both(&server, &body) {
            let text = choice["message"]["content"].as_str().unwrap();
            for stop in body["stop"].as_array().into_iter().flatten().chain([&body["stop"]]).filter_map(Value::as_str) {
                assert!(!text.contains(stop));
            }
            for token in choice["logprobs"].as_array().into_iter().flatten() {
                let bytes: Vec<u8> = serde_json::from_value(token["bytes"].clone()).unwrap();
                assert_eq!(token["token"], *String::from_utf8_lossy(&bytes));
                let top = token["top_logprobs"].as_array().unwrap();
                assert_eq!(top.len() as u64, seed % 3 * 4);
                let values: Vec<f64> = top.iter().map(|top| top["logprob"].as_f64().unwrap()).collect();
                assert!(values.is_sorted_by(|a, b| a >= b) && values.iter().all(|value| *value <= 0.0));
            }
        }
    }
}

#[test]
fn text_that_is_not_streamed_to_its_end_has_no_usage_unless_asked() {
    let server = TestServer::start(Setup::default());
    let body = json!({"messages": user("the"), "max_tokens": 3, "stream": true});
    let chunks = server.post(CHAT, &body).events();
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none() && chunk["choices"] != json!([])));
}

fn add() -> Value {
    let parameters = json!({
        "type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["x", "y"]}},
        "required": ["a", "b"], "additionalProperties": false,
    });
    json!({"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": parameters}})
}

fn now() -> Value {
    json!({"type": "function", "function": {"name": "now"}})
}

/// Numbers may be larger than any that a program has.
fn is_json_object(text: &str) {
    serde_json::from_str::<serde::de::IgnoredAny>(text).unwrap_or_else(|error| panic!("{error}: {text:?}"));
    assert!(text.trim_start().starts_with('{'), "{text:?}");
}

/// Checks the one call of a choice; returns the function's name.
fn one_call(choice: &Value) -> String {
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert_eq!(calls.len(), 1, "{choice}");
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &json!("")),
        "{choice}"
    );
    assert_eq!(calls[0]["type"], "function");
    let name = calls[0]["function"]["name"].as_str().unwrap();
    let arguments = calls[0]["function"]["arguments"].as_str().unwrap();
    match name {
        "add" => {
            let arguments: Value = serde_json::from_str(arguments).unwrap();
            let keys: Vec<&String> = arguments.as_object().unwrap().keys().collect();
            assert_eq!(keys, ["a", "b"]);
            assert!((0..100).contains(&arguments["a"].as_u64().unwrap()));
        }
        "now" => is_json_object(arguments),
        other => panic!("{other}"),
    }
    name.to_owned()
}

#[test]
fn a_call_that_is_required_is_made() {
    let server = TestServer::start(Setup::default());
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..10u64 {
        let mut body = json!({
            "messages": user("one and one"), "tools": [add(), now()], "tool_choice": "required", "seed": seed,
            "max_tokens": 160, "n": 1 + seed % 2,
        });
        seen.extend(both(&server, &body).iter().map(one_call));
        body["tool_choice"] = json!({"type": "function", "function": {"name": "add"}});
        both(&server, &body).iter().for_each(|choice| assert_eq!(one_call(choice), "add"));
        let allowed = json!({"mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]});
        body["tool_choice"] = json!({"type": "allowed_tools", "allowed_tools": allowed});
        both(&server, &body).iter().for_each(|choice| assert_eq!(one_call(choice), "now"));
    }
    assert_eq!(seen.len(), 2, "both are called by some");
    // The content of a whole answer that is a call is null, as in the public API.
    let body = json!({"messages": user("a"), "tools": [add()], "tool_choice": "required", "max_tokens": 100});
    let answer = server.post(CHAT, &body).ok();
    assert!(answer["choices"][0]["message"]["content"].is_null());
    // Without room for the call there is none, and this is said.
    let body = json!({"messages": user("a"), "tools": [add()], "tool_choice": "required", "max_tokens": 3});
    let error = server.post(CHAT, &body).error(400);
    assert!(error["message"].as_str().unwrap().contains("tokens"), "{error}");
}

#[test]
fn calls_are_found_in_what_the_model_writes() {
    let server = TestServer::start(Setup::default());
    // As the model would write by itself: a constraint on the text stands in for training.
    let call = r#"<tool_call>\n\{"name": "add", "arguments": \{"a": [1-9], "b": "x"\}\}\n</tool_call>"#;
    let other = r#"<tool_call>\{"name": "now", "arguments": \{\}\}</tool_call>"#;
    let unknown = r#"<tool_call>\{"name": "rm", "arguments": \{\}\}</tool_call>"#;
    for (regex, n_calls, content) in [
        (call.to_owned(), 1, Some("")),
        (format!("I will see: {call}"), 1, Some("I will see: ")),
        (format!("{call}\\n{other}"), 2, Some("")),
        (format!("{other}{other}{call}"), 3, Some("")),
        (format!("{unknown}!"), 0, None),
        ("[a-z ]{20}".to_owned(), 0, None),
        ("a < b, <tool, <tool_call".to_owned(), 0, Some("a < b, <tool, <tool_call")),
    ] {
        for seed in 0..3u64 {
            let body = json!({
                "messages": user("one and one"), "tools": [add(), now()], "seed": seed, "max_tokens": 300, "regex": regex,
                "logprobs": seed == 1, "return_token_ids": seed == 2,
            });
            let choice = &both(&server, &body)[0];
            let calls = choice["message"]["tool_calls"].as_array().unwrap();
            assert_eq!(calls.len(), n_calls, "{regex}: {choice}");
            assert_eq!(choice["finish_reason"], if n_calls > 0 { "tool_calls" } else { "stop" });
            if let Some(content) = content {
                assert_eq!(choice["message"]["content"], content, "{regex}");
            }
            for call in calls {
                serde_json::from_str::<Value>(call["function"]["arguments"].as_str().unwrap()).unwrap();
            }
            let ids: std::collections::BTreeSet<&str> = calls.iter().map(|call| call["id"].as_str().unwrap()).collect();
            assert_eq!(ids.len(), n_calls, "names of calls differ");
        }
    }
    // Where no functions are to be called, the text is text.
    for extra in [json!({}), json!({"tools": [add()], "tool_choice": "none"})] {
        let mut body = json!({"messages": user("a"), "seed": 1, "max_tokens": 300, "regex": call});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let choice = &both(&server, &body)[0];
        assert!(choice["message"]["content"].as_str().unwrap().starts_with("<tool_call>"));
        assert_eq!((&choice["finish_reason"], &choice["message"]["tool_calls"]), (&json!("stop"), &json!([])));
    }
}

#[test]
fn the_older_form_of_tools_does_what_the_newer_does() {
    let server = TestServer::start(Setup::default());
    let asked = |fields: Value| {
        let mut body = json!({"messages": user("one and one"), "seed": 3, "max_tokens": 160});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };
    let functions = json!([add()["function"], now()["function"]]);
    let (newer, older) = (
        asked(json!({"tools": [add(), now()], "tool_choice": {"type": "function", "function": {"name": "add"}}})),
        asked(json!({"functions": functions, "function_call": {"name": "add"}})),
    );
    let expected = server.post(CHAT, &newer).ok()["choices"][0]["message"]["tool_calls"][0]["function"].clone();
    let answer = server.post(CHAT, &older).ok();
    let choice = &answer["choices"][0];
    assert_eq!((&choice["message"]["function_call"], &choice["finish_reason"]), (&expected, &json!("function_call")));
    assert!(choice["message"].get("tool_calls").is_none() && choice["message"]["content"].is_null(), "{choice}");
    let mut streamed = older.clone();
    streamed["stream"] = true.into();
    let chunks = server.post(CHAT, &streamed).events();
    let calls: Vec<&Value> =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"].get("function_call")).collect();
    assert_eq!(calls, [&expected]);
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "function_call");

    // Without a call to be made, the prompt is the same and so is the answer.
    for (newer, older) in
        [("auto", json!({"functions": functions})), ("none", json!({"functions": functions, "function_call": "none"}))]
    {
        let newer = asked(json!({"tools": [add(), now()], "tool_choice": newer, "max_tokens": 9}));
        let [mut a, mut b] = [newer, asked(older)].map(|mut body| {
            body["max_tokens"] = 9.into();
            server.post(CHAT, &body).ok()
        });
        scrub(&mut a);
        scrub(&mut b);
        assert_eq!(a, b);
    }

    // A conversation that went that way.
    let arguments = "{\"a\": 1}";
    let newer = json!([
        {"role": "user", "content": "one and one"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "add", "arguments": arguments}}]},
        {"role": "tool", "name": "add", "tool_call_id": "call_1", "content": "two"},
    ]);
    let older = json!([
        {"role": "user", "content": "one and one"},
        {"role": "assistant", "content": null, "function_call": {"name": "add", "arguments": arguments}},
        {"role": "function", "name": "add", "content": "two"},
    ]);
    let mut answers = [(newer, "tools", json!([add()])), (older, "functions", json!([add()["function"]]))].map(
        |(messages, name, list)| {
            let mut answer =
                server.post(CHAT, &json!({"messages": messages, name: list, "max_tokens": 8, "seed": 1})).ok();
            scrub(&mut answer);
            answer
        },
    );
    let [a, b] = &mut answers;
    assert_eq!(a, b);
}

#[test]
fn padded_events_have_lengths_that_say_nothing() {
    let server = TestServer::start(Setup::default());
    for (path, mut body) in [
        (CHAT, json!({"messages": user("the cat"), "max_tokens": 20, "seed": 1})),
        ("/v1/completions", json!({"prompt": "the cat", "max_tokens": 20, "seed": 1})),
        ("/v1/responses", json!({"input": "the cat", "max_output_tokens": 20, "seed": 1})),
    ] {
        body["stream"] = true.into();
        let plain = server.post(path, &body);
        assert!(!plain.text().contains("obfuscation"));
        body["stream_options"] = json!({"include_obfuscation": true});
        let padded = server.post(path, &body);
        let data = |answer: &crate::common::Answer| -> Vec<String> {
            let lines = answer.text().lines().filter_map(|line| line.strip_prefix("data: "));
            lines.filter(|data| *data != "[DONE]").map(str::to_owned).collect()
        };
        let (plain, padded) = (data(&plain), data(&padded));
        assert!(plain.len() > 5 && plain.len() == padded.len(), "{path}");
        for (plain, padded) in plain.iter().zip(&padded) {
            assert_eq!(padded.len() % 128, 0, "{path}: {padded}");
            let [mut plain, mut padded] = [plain, padded].map(|text| serde_json::from_str::<Value>(text).unwrap());
            assert!(padded.as_object_mut().unwrap().remove("obfuscation").is_some_and(|padding| padding.is_string()));
            scrub(&mut plain);
            scrub(&mut padded);
            assert_eq!(plain, padded, "{path}");
        }
    }
}

#[test]
fn calls_and_their_results_go_back_to_the_model() {
    let server = TestServer::start(Setup::default());
    let call = json!({"id": "call_1", "type": "function", "function": {"name": "add", "arguments": "{\"a\": 1}"}});
    let messages = json!([
        {"role": "developer", "content": "be short"},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "and one"}]},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "two"},
        {"role": "assistant", "content": "it is", "name": "helper", "refusal": null},
    ]);
    let prompt = server.post("/apply-template", &json!({"messages": messages, "tools": [add()]})).ok();
    let text = prompt["prompt"].as_str().unwrap();
    for part in ["be short", "one\nand one", "\"name\": \"add\"", "<tool_response>\ntwo", "it is", "Adds."] {
        let plain = part.replace("\": \"", "\":\"");
        assert!(text.contains(part) || text.contains(&plain), "{part:?} is not in {text}");
    }
    both(&server, &json!({"messages": messages, "tools": [add()], "max_tokens": 5, "seed": 1}));
}

#[test]
fn the_prompt_is_what_the_template_makes() {
    let server = TestServer::start(Setup::default());
    let messages = json!([{"role": "system", "content": "日本"}, {"role": "user", "content": "the cat"}]);
    for tools in [json!(null), json!([add()])] {
        let asked = json!({"messages": messages, "tools": tools});
        let template = server.post("/apply-template", &asked).ok();
        let mut body =
            json!({"messages": messages, "tools": tools, "max_tokens": 4, "return_token_ids": true, "seed": 1});
        let answer = server.post(CHAT, &body).ok();
        assert_eq!(answer["prompt_token_ids"], template["tokens"]);
        assert_eq!(answer["usage"]["prompt_tokens"], template["tokens"].as_array().unwrap().len());
        let decoded = server.post("/detokenize", &json!({"tokens": template["tokens"]})).ok();
        assert_eq!(decoded["content"], template["prompt"]);
        body["stream"] = true.into();
        let chunks = server.post(CHAT, &body).events();
        assert_eq!(chunks[0]["prompt_token_ids"], template["tokens"]);
        let ids: Vec<&Value> =
            chunks.iter().filter_map(|chunk| chunk["choices"][0]["token_ids"].as_array()).flatten().collect();
        assert_eq!(json!(ids), answer["choices"][0]["token_ids"]);
        // What the completions endpoint makes of the same ids.
        let plain = json!({"prompt": template["tokens"], "max_tokens": 4, "seed": 1, "stop": ["<|im_end|>"]});
        let completion = server.post("/v1/completions", &plain).ok();
        assert_eq!(completion["choices"][0]["text"], answer["choices"][0]["message"]["content"]);
    }
    let open = server.post("/apply-template", &json!({"messages": messages})).ok();
    let closed = server.post("/apply-template", &json!({"messages": messages, "add_generation_prompt": false})).ok();
    let (open, closed) = (open["prompt"].as_str().unwrap(), closed["prompt"].as_str().unwrap());
    assert!(open.starts_with(closed) && open.len() > closed.len());
}

#[test]
fn lengths_have_two_names() {
    let server = TestServer::start(Setup::default());
    for body in [
        json!({"max_tokens": 7}),
        json!({"max_completion_tokens": 7}),
        json!({"max_tokens": 7, "max_completion_tokens": 7}),
    ] {
        let mut body = body;
        body["messages"] = user("the");
        body["ignore_eos"] = true.into();
        let answer = server.post(CHAT, &body).ok();
        assert_eq!(answer["usage"]["completion_tokens"], 7);
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
    }
    // Without one, what the context holds.
    let answer = server.post(CHAT, &json!({"messages": user("the"), "ignore_eos": true})).ok();
    assert_eq!(answer["usage"]["total_tokens"], crate::common::N_CTX);
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
            "n": {"type": ["integer", "null"]},
        },
        "required": ["name", "n"],
        "additionalProperties": false,
    })
}

fn check_schema(value: &Value) {
    let object = value.as_object().unwrap();
    assert!(object.keys().all(|key| ["name", "tags", "n"].contains(&key.as_str())), "{value}");
    assert!(object["name"].as_str().unwrap().chars().count() <= 12, "{value}");
    assert!(object["n"].is_null() || object["n"].is_number(), "{value}");
    let tags = object.get("tags").map_or(&[][..], |tags| tags.as_array().unwrap());
    assert!(tags.len() <= 3 && tags.iter().all(|tag| tag == "a" || tag == "b"), "{value}");
}

#[test]
fn an_answer_has_the_form_that_was_asked_for_however_short_it_must_be() {
    let server = TestServer::start(Setup::default());
    let json_schema = json!({"type": "json_schema", "json_schema": {"name": "a", "strict": true, "schema": schema()}});
    let (mut n_answered, mut n_refused) = (0, 0);
    for seed in 0..12u64 {
        for max_tokens in [1, 4, 12, 20, 30, 60, 200] {
            for format in [json!({"type": "json_object"}), json_schema.clone()] {
                let body = json!({
                    "messages": user("JSON"), "response_format": format, "seed": seed, "max_tokens": max_tokens,
                    "temperature": 1.5, "ignore_eos": seed % 2 == 0,
                });
                let answer = server.post(CHAT, &body);
                if answer.status == 400 {
                    assert!(answer.error(400)["message"].as_str().unwrap().contains("tokens"));
                    assert!(max_tokens < 40, "there is room");
                    n_refused += 1;
                    continue;
                }
                n_answered += 1;
                let answer = answer.ok();
                let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
                is_json_object(text);
                if format["type"] == "json_schema" {
                    check_schema(&serde_json::from_str(text).unwrap());
                }
            }
        }
    }
    assert!(n_answered > 50 && n_refused > 10, "{n_answered} {n_refused}");
    for seed in 0..4u64 {
        let body =
            json!({"messages": user("JSON"), "response_format": json_schema, "seed": seed, "max_tokens": 80, "n": 2});
        for choice in both(&server, &body) {
            check_schema(&serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap());
        }
    }
    // Plain text is no form.
    let body = json!({"messages": user("a"), "response_format": {"type": "text"}, "max_tokens": 3});
    server.post(CHAT, &body).ok();
}
