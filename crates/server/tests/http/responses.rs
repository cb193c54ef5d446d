//! `/v1/responses` over HTTP: events, calls of functions, answers of a given form, what is kept.

use crate::common::{Setup, TestServer};
use serde_json::{Value, json};
use verve_server::ServerOptions;

const RESPONSES: &str = "/v1/responses";

fn keeping(stored_responses: usize) -> TestServer {
    let options = ServerOptions { stored_responses, ..ServerOptions::default() };
    TestServer::start(Setup { options, ..Setup::default() })
}

fn add() -> Value {
    let parameters = json!({
        "type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["a"],
        "additionalProperties": false,
    });
    json!({"type": "function", "name": "add", "description": "Adds.", "parameters": parameters, "strict": true})
}

/// The output without names that are drawn, and the rest that must be the same streamed or not.
fn essence(response: &Value) -> Value {
    let mut output = response["output"].clone();
    for item in output.as_array_mut().unwrap() {
        for name in ["id", "call_id"] {
            if let Some(id) = item.get_mut(name) {
                assert!(id.as_str().unwrap().len() > 10);
                *id = Value::Null;
            }
        }
    }
    let usage = ["input_tokens", "output_tokens", "total_tokens"].map(|name| response["usage"][name].clone());
    json!([output, usage, response["status"], response["incomplete_details"], response["error"], response["object"]])
}

/// The final response of a stream whose events are checked one after the other.
fn played(events: &[(String, Value)]) -> Value {
    let mut items: Vec<Value> = Vec::new();
    let mut is_open = false;
    for (number, (name, event)) in events.iter().enumerate() {
        assert_eq!(event["type"], *name);
        assert_eq!(event["sequence_number"], number);
        let index = event["output_index"].as_u64().map(|index| index as usize);
        if let (Some(index), Some(id)) = (index, event.get("item_id")) {
            assert_eq!(items[index]["id"], *id, "{name}");
        }
        match (name.as_str(), number) {
            ("response.created", 0) | ("response.in_progress", 1) => {
                assert_eq!(
                    (&event["response"]["status"], &event["response"]["output"]),
                    (&json!("in_progress"), &json!([]))
                );
                is_open = true;
            }
            ("response.output_item.added", 2..) => {
                assert_eq!(index, Some(items.len()));
                assert_eq!(event["item"]["status"], "in_progress");
                items.push(event["item"].clone());
            }
            ("response.content_part.added", 2..) => {
                let parts = items[index.unwrap()]["content"].as_array_mut().unwrap();
                assert!(parts.is_empty() && event["content_index"] == 0);
                parts.push(event["part"].clone());
            }
            ("response.output_text.delta", 2..) => {
                let part = &mut items[index.unwrap()]["content"][0];
                part["text"] = format!("{}{}", part["text"].as_str().unwrap(), event["delta"].as_str().unwrap()).into();
                part["logprobs"].as_array_mut().unwrap().extend(event["logprobs"].as_array().unwrap().clone());
            }
            ("response.output_text.done", 2..) => {
                let part = &items[index.unwrap()]["content"][0];
                assert_eq!((&event["text"], &event["logprobs"]), (&part["text"], &part["logprobs"]));
            }
            ("response.content_part.done", 2..) => assert_eq!(event["part"], items[index.unwrap()]["content"][0]),
            ("response.function_call_arguments.delta", 2..) => {
                let item = &mut items[index.unwrap()];
                let more = event["delta"].as_str().unwrap();
                item["arguments"] = format!("{}{more}", item["arguments"].as_str().unwrap()).into();
            }
            ("response.function_call_arguments.done", 2..) => {
                assert_eq!(event["arguments"], items[index.unwrap()]["arguments"]);
            }
            ("response.output_item.done", 2..) => {
                let item = &mut items[index.unwrap()];
                assert!(event["item"]["status"] == "completed" || event["item"]["status"] == "incomplete");
                item["status"] = event["item"]["status"].clone();
                assert_eq!(event["item"], *item);
            }
            ("response.completed" | "response.incomplete", 2..) => {
                assert!(is_open && number + 1 == events.len());
                let response = &event["response"];
                assert_eq!(*name, format!("response.{}", response["status"].as_str().unwrap()));
                assert_eq!(response["output"], json!(items), "the items are what the events made of them");
                assert_eq!(response["id"], events[0].1["response"]["id"]);
                return response.clone();
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("the stream has no end: {events:?}");
}

/// A request's response, after checking that it comes streamed as it comes whole.
fn both(server: &TestServer, body: &Value) -> Value {
    let mut body = body.clone();
    let whole = server.post(RESPONSES, &body).ok();
    assert!(whole["id"].as_str().unwrap().starts_with("resp_"));
    body["stream"] = true.into();
    let answer = server.post(RESPONSES, &body);
    assert!(!answer.text().contains("[DONE]"), "streams of named events end without");
    let response = played(&answer.named_events());
    assert_eq!(essence(&response), essence(&whole), "{body}");
    whole
}

#[test]
fn a_stream_of_events_builds_the_response() {
    let server = TestServer::start(Setup::default());
    for seed in 0..12u64 {
        let mut body = json!({"input": "the cat", "seed": seed, "max_output_tokens": 24, "ignore_eos": seed % 2 == 0});
        if seed % 3 == 0 {
            body["include"] = json!(["message.output_text.logprobs"]);
            body["top_logprobs"] = (seed % 2 * 3).into();
        }
        if seed % 4 == 1 {
            body["regex"] = "[a-e]{3,9}".into();
        }
        let response = both(&server, &body);
        let part = &response["output"][0]["content"][0];
        assert_eq!((&part["type"], &part["annotations"]), (&json!("output_text"), &json!([])));
        let n_logprobs = part["logprobs"].as_array().unwrap().len();
        assert_eq!(
            n_logprobs as u64,
            if seed % 3 == 0 { response["usage"]["output_tokens"].as_u64().unwrap() } else { 0 }
        );
        if seed % 4 == 0 {
            assert_eq!(
                (&response["status"], &response["incomplete_details"]["reason"]),
                (&json!("incomplete"), &json!("max_output_tokens"))
            );
            assert_eq!(response["output"][0]["status"], "incomplete");
            assert_eq!(response["usage"]["output_tokens"], 24);
        }
        if seed % 4 == 1 {
            assert_eq!((&response["status"], &response["incomplete_details"]), (&json!("completed"), &json!(null)));
        }
    }
    // What was asked for comes back.
    let asked = json!({
        "input": "the", "max_output_tokens": 16, "temperature": 0.5, "top_p": 0.9, "instructions": "be short",
        "metadata": {"a": "b"}, "user": "me", "parallel_tool_calls": false,
    });
    let response = server.post(RESPONSES, &asked).ok();
    for field in ["max_output_tokens", "instructions", "metadata", "user", "parallel_tool_calls"] {
        assert_eq!(response[field], asked[field], "{field}");
    }
    assert_eq!(
        (&response["store"], &response["error"], &response["truncation"]),
        (&json!(false), &json!(null), &json!("disabled"))
    );
    assert!((response["temperature"].as_f64().unwrap() - 0.5).abs() < 1e-6);
}

#[test]
fn calls_are_items_of_the_output() {
    let server = TestServer::start(Setup::default());
    for seed in 0..6u64 {
        let choice = if seed % 2 == 0 { json!("required") } else { json!({"type": "function", "name": "add"}) };
        let body = json!({
            "input": "one", "tools": [add()], "tool_choice": choice, "seed": seed, "max_output_tokens": 100,
        });
        let response = both(&server, &body);
        let items = response["output"].as_array().unwrap();
        assert_eq!((items.len(), &items[0]["type"], &items[0]["name"]), (1, &json!("function_call"), &json!("add")));
        assert!(items[0]["call_id"].as_str().unwrap().starts_with("call_"));
        let arguments: Value = serde_json::from_str(items[0]["arguments"].as_str().unwrap()).unwrap();
        assert!((0..10).contains(&arguments["a"].as_u64().unwrap()));
        assert_eq!(response["tools"][0]["name"], "add");
    }
    let call = r#"<tool_call>\{"name": "add", "arguments": \{"a": 1\}\}</tool_call>"#;
    for (regex, kinds) in [
        (format!("so: {call}{call}"), vec!["message", "function_call", "function_call"]),
        (call.to_owned(), vec!["function_call"]),
        ("nothing".to_owned(), vec!["message"]),
    ] {
        let body = json!({"input": "one", "tools": [add()], "regex": regex, "max_output_tokens": 300, "seed": 1});
        let response = both(&server, &body);
        let found: Vec<&Value> = response["output"].as_array().unwrap().iter().map(|item| &item["type"]).collect();
        assert_eq!(json!(found), json!(kinds), "{regex}");
    }
    // Results go back with the calls.
    let input = json!([
        {"role": "user", "content": [{"type": "input_text", "text": "one"}]},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": "{\"a\": 1}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "two"},
    ]);
    both(&server, &json!({"input": input, "tools": [add()], "max_output_tokens": 16, "seed": 1}));
}

#[test]
fn the_output_has_the_form_that_was_asked_for() {
    let server = TestServer::start(Setup::default());
    let schema = json!({"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": false});
    for seed in 0..4u64 {
        let format = json!({"type": "json_schema", "name": "a", "strict": true, "schema": schema});
        let body = json!({"input": "JSON", "text": {"format": format, "verbosity": "low"}, "seed": seed, "max_output_tokens": 60});
        let response = both(&server, &body);
        let value: Value = serde_json::from_str(response["output"][0]["content"][0]["text"].as_str().unwrap()).unwrap();
        assert!(value == json!({"a": "x"}) || value == json!({"a": "y"}), "{value}");
        assert_eq!(response["status"], "completed");
        let body = json!({"input": "JSON", "text": {"format": {"type": "json_object"}}, "seed": seed, "max_output_tokens": 40});
        let response = both(&server, &body);
        let text = response["output"][0]["content"][0]["text"].as_str().unwrap();
        serde_json::from_str::<serde::de::IgnoredAny>(text).unwrap();
        assert!(text.trim_start().starts_with('{'), "{text}");
    }
    let bad = json!({"type": "json_schema", "name": "a", "schema": {"properties": {"a": {"not": {}}}}});
    let error = server.post(RESPONSES, &json!({"input": "a", "text": {"format": bad}})).error(400);
    assert_eq!(error["param"], "text.format");
    assert!(error["message"].as_str().unwrap().contains("$.properties.a"), "{error}");
}

/// The text of a response's only message.
fn text(response: &Value) -> &str {
    response["output"][0]["content"][0]["text"].as_str().unwrap()
}

#[test]
fn a_conversation_goes_on_from_what_was_kept() {
    let server = keeping(10);
    let first = json!({"input": "the cat", "instructions": "be short", "regex": "[a-e]{8}", "seed": 1, "max_output_tokens": 30, "store": true});
    let second = |id: &Value| {
        json!({"input": [{"role": "user", "content": "and then"}], "previous_response_id": id, "seed": 2,
               "max_output_tokens": 30, "store": true, "regex": "[f-j]{8}"})
    };
    let whole = server.post(RESPONSES, &first).ok();
    let mut streamed = first.clone();
    streamed["stream"] = true.into();
    let streamed = played(&server.post(RESPONSES, &streamed).named_events());
    for response in [&whole, &streamed] {
        let id = &response["id"];
        let next = server.post(RESPONSES, &second(id)).ok();
        assert_eq!(next["previous_response_id"], *id);
        // The same as the conversation written out; instructions are not carried over.
        let written = json!([
            {"role": "user", "content": "the cat"},
            {"role": "assistant", "content": text(response)},
            {"role": "user", "content": "and then"},
        ]);
        let mut body = second(&Value::Null);
        body["input"] = written;
        let expected = server.post(RESPONSES, &body).ok();
        assert_eq!(text(&next), text(&expected));
        assert_eq!(next["usage"]["input_tokens"], expected["usage"]["input_tokens"]);
        // And once more from there.
        let third = server.post(RESPONSES, &second(&next["id"])).ok();
        assert!(third["usage"]["input_tokens"].as_u64() > next["usage"]["input_tokens"].as_u64());
    }
}

#[test]
fn what_is_kept_can_be_read_and_deleted() {
    let server = keeping(3);
    let ask = |store: bool| {
        server.post(RESPONSES, &json!({"input": "the cat", "seed": 1, "max_output_tokens": 16, "store": store})).ok()
    };
    let response = ask(true);
    assert_eq!(response["store"], true);
    let path = format!("{RESPONSES}/{}", response["id"].as_str().unwrap());
    assert_eq!(server.get(&path).ok(), response);
    let items = server.get(&format!("{path}/input_items")).ok();
    assert_eq!((&items["object"], &items["has_more"]), (&json!("list"), &json!(false)));
    assert_eq!(items["data"][0]["content"][0]["text"], "the cat");
    let deleted = server.call("DELETE", &path, &[], "").ok();
    assert_eq!((&deleted["id"], &deleted["deleted"]), (&response["id"], &json!(true)));
    server.get(&path).error(404);
    server.call("DELETE", &path, &[], "").error(404);
    server.post(RESPONSES, &json!({"input": "a", "previous_response_id": response["id"]})).error(404);
    // Not kept unless asked for.
    let path = format!("{RESPONSES}/{}", ask(false)["id"].as_str().unwrap());
    server.get(&path).error(404);
    // The oldest goes.
    let ids: Vec<String> = (0..5).map(|_| ask(true)["id"].as_str().unwrap().to_owned()).collect();
    let found: Vec<bool> = ids.iter().map(|id| server.get(&format!("{RESPONSES}/{id}")).status == 200).collect();
    assert_eq!(found, [false, false, true, true, true]);
}
