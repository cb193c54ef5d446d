//! What is refused, and how: status, code and field of every rule, over HTTP.

use crate::common::{Answer, N_CTX, Setup, TestLoader, TestServer};
use serde_json::{Value, json};
use verve_server::ServerOptions;

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const EMBEDDINGS: &str = "/v1/embeddings";
const SCORE: &str = "/v1/score";

fn server() -> TestServer {
    let loader = TestLoader { names: vec!["tiny", "plain", "broken"], ..TestLoader::default() };
    let aliases = vec![("gpt-3.5-turbo".to_owned(), "tiny".to_owned())];
    TestServer::start(Setup { loader, aliases, ..Setup::default() })
}

/// A request that is answered.
fn valid(path: &str) -> Value {
    let messages = json!([{"role": "user", "content": "the cat"}]);
    match path {
        COMPLETIONS => json!({"prompt": "the", "max_tokens": 2, "temperature": 0, "seed": 1}),
        CHAT => json!({"messages": messages, "max_tokens": 2, "temperature": 0, "seed": 1}),
        RESPONSES => json!({"input": "the", "max_output_tokens": 16, "temperature": 0, "seed": 1}),
        EMBEDDINGS => json!({"input": "the"}),
        SCORE => json!({"items": [{"context": "the", "continuation": " cat"}]}),
        "/tokenize" => json!({"content": "the"}),
        "/detokenize" => json!({"tokens": [1, 2]}),
        "/apply-template" => json!({"messages": messages}),
        "/v1/moderations" => json!({"input": "the"}),
        other => panic!("{other}"),
    }
}

/// The valid request with these fields instead of its own.
fn with(path: &str, changes: &Value) -> Value {
    let mut body = valid(path);
    body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    body
}

/// Changes to a valid request, the field they are refused for, and what the message must say.
type Rows<'a> = &'a [(Value, &'a str, &'a str)];

#[track_caller]
fn refused(server: &TestServer, path: &str, code: &str, rows: Rows<'_>) {
    for (changes, param, words) in rows {
        let answer = server.post(path, &with(path, changes));
        let error = answer.error(400);
        let shown = format!("{path} {changes}: {error}");
        assert_eq!(error["param"], *param, "{shown}");
        assert_eq!((&error["code"], &error["type"]), (&json!(code), &json!("invalid_request_error")), "{shown}");
        assert!(error["message"].as_str().unwrap().contains(words), "{shown}");
    }
}

#[test]
fn valid_requests_are_answered() {
    let server = server();
    for path in [COMPLETIONS, CHAT, RESPONSES, EMBEDDINGS, SCORE, "/tokenize", "/detokenize", "/apply-template"] {
        server.post(path, &valid(path)).ok();
        let named = with(path, &json!({"model": "gpt-3.5-turbo"}));
        server.post(path, &named).ok();
    }
}

#[test]
fn completions_have_ranges() {
    let server = server();
    refused(
        &server,
        COMPLETIONS,
        "invalid_value",
        &[
            (json!({"temperature": 2.1}), "temperature", "2.1"),
            (json!({"temperature": -0.1}), "temperature", "from 0 to 2"),
            (json!({"temperature": 1e300}), "temperature", "temperature"),
            (json!({"temperature": "hot"}), "temperature", "temperature"),
            (json!({"top_p": 1.1}), "top_p", "from 0 to 1"),
            (json!({"top_p": -0.1}), "top_p", "from 0 to 1"),
            (json!({"presence_penalty": 2.5}), "presence_penalty", "-2 to 2"),
            (json!({"frequency_penalty": -2.1}), "frequency_penalty", "-2 to 2"),
            (json!({"n": 0}), "n", "from 1 to 128"),
            (json!({"n": 129}), "n", "from 1 to 128"),
            (json!({"n": -1}), "n", "n"),
            (json!({"n": 1.5}), "n", "n"),
            (json!({"n": 3, "best_of": 2}), "best_of", "best_of is 2"),
            (json!({"best_of": 21}), "best_of", "20"),
            (json!({"best_of": 2, "stream": true}), "best_of", "stream"),
            (json!({"logprobs": 6}), "logprobs", "from 0 to 5"),
            (json!({"logprobs": true}), "logprobs", "logprobs"),
            (json!({"stream_options": {"include_usage": true}}), "stream_options", "stream: true"),
            (json!({"stream_options": {}}), "stream_options", "stream: true"),
            (
                json!({"stream": true, "stream_options": {"include_usage": 1}}),
                "stream_options.include_usage",
                "boolean",
            ),
            (json!({"stream": "yes"}), "stream", "boolean"),
            (json!({"logit_bias": {"the": 1}}), "logit_bias", "\"the\""),
            (json!({"logit_bias": {"-1": 1}}), "logit_bias", "\"-1\""),
            (json!({"logit_bias": {"5": 101}}), "logit_bias", "-100 to 100"),
            (json!({"logit_bias": {"99999": 1}}), "logit_bias", "99999"),
            (json!({"logit_bias": {"5": 1, "05": 2}}), "logit_bias", "twice"),
            (json!({"logit_bias": [1]}), "logit_bias", "logit_bias"),
            (json!({"logit_bias": {"5": "x"}}), "logit_bias.5", "logit_bias"),
            (json!({"prompt": []}), "prompt", "empty"),
            (json!({"prompt": [[]]}), "prompt", "empty"),
            (json!({"prompt": [1, "a"]}), "prompt", "token id"),
            (json!({"prompt": ["a", 1]}), "prompt", "a number"),
            (json!({"prompt": [[1], "a"]}), "prompt", "a string"),
            (json!({"prompt": [99_999]}), "prompt", "99999"),
            (json!({"prompt": [-1]}), "prompt", "-1"),
            (json!({"prompt": [1.5]}), "prompt", "1.5"),
            (json!({"prompt": [null]}), "prompt", "null"),
            (json!({"prompt": {}}), "prompt", "an object"),
            (json!({"suffix": " end"}), "suffix", "leave it out"),
            (json!({"max_tokens": -1}), "max_tokens", "max_tokens"),
            (json!({"max_tokens": "4"}), "max_tokens", "max_tokens"),
            (json!({"echo": "yes"}), "echo", "boolean"),
            (json!({"user": 5}), "user", "string"),
            (json!({"model": 5}), "model", "a number"),
            (json!({"stop": 5}), "stop", "a number"),
            (json!({"stop": [1]}), "stop", "a number"),
            (json!({"stop": ""}), "stop", "stop"),
            (json!({"seed": 1.5}), "seed", "seed"),
            (json!({"seed": u64::MAX}), "seed", "seed"),
            (json!({"top_k": -2}), "top_k", "-2"),
            (json!({"min_p": 1.5}), "min_p", "1.5"),
            (json!({"typical_p": -1}), "typical_p", "-1"),
            (json!({"repetition_penalty": 0}), "repetition_penalty", "0"),
            (json!({"dry_allowed_length": 0}), "dry_allowed_length", "0"),
            (json!({"dry_sequence_breakers": [""]}), "dry_sequence_breakers", "bytes"),
            (json!({"mirostat_tau": 5, "top_k": 3}), "top_k", "mirostat"),
            (json!({"regex": "("}), "regex", "regular expression"),
            (json!({"regex": 5}), "regex", "string"),
            (json!({"grammar": "start: ("}), "grammar", "grammar"),
            (json!({"grammar": "start: \"a\"", "regex": "a"}), "regex", "exclude"),
            (json!({"json_schema": {}, "regex": "a"}), "json_schema", "exclude"),
            (json!({"json_schema": {"type": "nope"}}), "json_schema", "$.type"),
            (json!({"json_schema": {"properties": {"a": {"not": {}}}}}), "json_schema", "$.properties.a"),
        ],
    );
    let too_many = vec!["a"; 2049];
    refused(&server, COMPLETIONS, "invalid_value", &[(json!({"prompt": too_many}), "prompt", "2048")]);
}

#[test]
fn chats_have_rules() {
    let server = server();
    let tool = |name: &str| json!({"type": "function", "function": {"name": name}});
    let message = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    let format = |value: Value| json!({"response_format": value});
    let schema = |schema: Value| format(json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}));
    let many: Vec<Value> = (0..129).map(|i| tool(&format!("f{i}"))).collect();
    refused(
        &server,
        CHAT,
        "invalid_value",
        &[
            (json!({"messages": []}), "messages", "at least one"),
            (json!({"messages": null}), "messages", "missing"),
            (json!({"messages": "hi"}), "messages", "messages"),
            (json!({"messages": ["hi"]}), "messages[0]", "messages[0]"),
            (json!({"messages": [{"role": "king", "content": "a"}]}), "messages[0].role", "king"),
            (json!({"messages": [{"content": "a"}]}), "messages[0]", "role"),
            (json!({"messages": [{"role": "user"}]}), "messages[0].content", "missing"),
            (
                json!({"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]}),
                "messages[1].tool_call_id",
                "missing",
            ),
            (message(json!(5)), "messages[0].content", "messages[0].content"),
            (
                message(json!([{"type": "image_url", "image_url": {"url": "data:,"}}])),
                "messages[0].content[0].type",
                "image_url",
            ),
            (json!({"top_logprobs": 3}), "top_logprobs", "logprobs: true"),
            (json!({"logprobs": false, "top_logprobs": 3}), "top_logprobs", "logprobs: true"),
            (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", "from 0 to 20"),
            (json!({"logprobs": 2}), "logprobs", "boolean"),
            (json!({"tools": {}}), "tools", "a list"),
            (json!({"tools": [{}]}), "tools[0].type", "function"),
            (json!({"tools": ["now"]}), "tools[0].type", "function"),
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type", "web_search"),
            (json!({"tools": [tool("a"), tool("a b")]}), "tools[1].function.name", "a b"),
            (json!({"tools": [tool("a"), tool("")]}), "tools[1].function.name", "1 to 64"),
            (json!({"tools": [tool(&"a".repeat(65))]}), "tools[0].function.name", "1 to 64"),
            (json!({"tools": [tool("a"), tool("b"), tool("a")]}), "tools[2]", "two tools"),
            (json!({"tools": many}), "tools", "128"),
            (
                json!({"tools": [{"type": "function", "function": {"name": "a", "parameters": 5}}]}),
                "tools[0].function.parameters",
                "a number",
            ),
            (
                json!({"tools": [{"type": "function", "function": {"name": "a", "strict": "yes"}}]}),
                "tools[0].function.strict",
                "true or false",
            ),
            (
                json!({"tools": [{"type": "function", "name": "a", "description": ["b"]}]}),
                "tools[0].description",
                "a string",
            ),
            (json!({"tools": [tool("a")], "tool_choice": tool("b")}), "tool_choice", "\"b\""),
            (json!({"tools": [tool("a")], "tool_choice": {"type": "function"}}), "tool_choice", "name"),
            (json!({"tools": [tool("a")], "tool_choice": "sometimes"}), "tool_choice", "sometimes"),
            (json!({"tools": [tool("a")], "tool_choice": 1}), "tool_choice", "a number"),
            (json!({"tool_choice": "required"}), "tool_choice", "without tools"),
            (
                json!({"tools": [tool("a")], "tool_choice":
                    {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("b")]}}}),
                "tool_choice",
                "\"b\"",
            ),
            (
                json!({"tools": [tool("a")], "tool_choice":
                    {"type": "allowed_tools", "allowed_tools": {"mode": "maybe", "tools": [tool("a")]}}}),
                "tool_choice",
                "auto or required",
            ),
            (
                json!({"tools": [tool("a")], "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}}),
                "tool_choice",
                "list of tools",
            ),
            (json!({"tools": [], "tool_choice": "required"}), "tool_choice", "without tools"),
            (format(json!("json")), "response_format", "a string"),
            (format(json!({})), "response_format.type", "missing"),
            (format(json!({"type": "xml"})), "response_format.type", "xml"),
            (format(json!({"type": "json_schema"})), "response_format.json_schema", "missing"),
            (format(json!({"type": "json_schema", "json_schema": 5})), "response_format.json_schema", "a number"),
            (format(json!({"type": "json_schema", "json_schema": {}})), "response_format.json_schema.name", "1 to 64"),
            (
                format(json!({"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}})),
                "response_format.json_schema.name",
                "a b",
            ),
            (
                format(json!({"type": "json_schema", "json_schema": {"name": "a", "schema": []}})),
                "response_format.json_schema.schema",
                "a list",
            ),
            (
                schema(json!({"type": "object", "properties": {"x": {"type": "text"}}})),
                "response_format",
                "$.properties.x",
            ),
            (schema(json!({"properties": {"x": {"if": {}}}})), "response_format", "$.properties.x"),
            (schema(json!({"$ref": "https://example.com/a.json"})), "response_format", "$"),
            (schema(json!({"type": "integer", "minimum": 5, "maximum": 4})), "response_format", "nothing satisfies"),
            (json!({"response_format": {"type": "json_object"}, "regex": "a"}), "regex", "exclude"),
            (json!({"functions": [{"name": "a"}], "tools": [tool("a")]}), "functions", "tools"),
            (json!({"functions": [{"name": "a"}], "tool_choice": "auto"}), "functions", "tool_choice"),
            (json!({"functions": {"name": "a"}}), "functions", "an object"),
            (json!({"functions": [{"name": "a b"}]}), "functions[0].name", "a b"),
            (json!({"functions": [{"name": "a"}], "function_call": "required"}), "function_call", "none, auto"),
            (
                json!({"functions": [{"name": "a"}], "function_call": {"name": "b"}}),
                "function_call",
                "\"b\" is not among",
            ),
            (json!({"messages": [{"role": "function", "content": "a"}]}), "messages[0].name", "missing"),
            (json!({"messages": [{"role": "function", "name": "f", "content": "a"}]}), "messages[0]", "there is none"),
            (
                json!({"messages": [{"role": "assistant", "function_call": "f"}]}),
                "messages[0].function_call",
                "a string",
            ),
            (json!({"modalities": ["text", "audio"]}), "modalities", "text only"),
            (json!({"audio": {"voice": "a"}}), "modalities", "text only"),
            (json!({"web_search_options": {}}), "web_search_options", "web"),
            (json!({"max_tokens": 0}), "max_completion_tokens", "at least one"),
            (json!({"max_tokens": null, "max_completion_tokens": 0}), "max_completion_tokens", "at least one"),
            (json!({"max_tokens": 2, "max_completion_tokens": 3}), "max_completion_tokens", "3"),
            (json!({"chat_template_kwargs": []}), "chat_template_kwargs", "chat_template_kwargs"),
            (json!({"n": 129}), "n", "128"),
            (json!({"temperature": 3}), "temperature", "2"),
            (json!({"model": "plain"}), "model", "chat template"),
        ],
    );
    let broken =
        json!({"type": "function", "function": {"name": "a", "parameters": {"properties": {"x": {"not": {}}}}}});
    let changes = json!({"tools": [broken], "tool_choice": "required"});
    refused(&server, CHAT, "invalid_value", &[(changes, "tools", "not")]);
}

#[test]
fn responses_embeddings_and_the_others_have_rules() {
    let server = server();
    let invalid = |path: &str, rows: Rows<'_>| refused(&server, path, "invalid_value", rows);
    invalid(
        RESPONSES,
        &[
            (json!({"max_output_tokens": 15}), "max_output_tokens", "16"),
            (json!({"truncation": "auto"}), "truncation", "disabled"),
            (json!({"background": true}), "background", "background"),
            (json!({"store": true}), "store", "store: false"),
            (json!({"input": null}), "input", "input"),
            (json!({"input": 5}), "input", "a number"),
            (json!({"input": []}), "input", "at least one"),
            (json!({"input": [5]}), "input[0]", "input[0]"),
            (json!({"input": [{"role": "king", "content": "a"}]}), "input[0]", "role"),
            (json!({"input": [{"role": "user"}]}), "input[0]", "content"),
            (json!({"input": [{"type": "image_generation_call"}]}), "input[0]", "image_generation_call"),
            (json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}), "input[0]", "input_image"),
            (json!({"input": [{"type": "function_call"}]}), "input[0]", "name"),
            (json!({"input": [{"type": "function_call_output", "output": "a"}]}), "input", "call"),
            (json!({"top_logprobs": 21}), "top_logprobs", "20"),
            (json!({"text": "json"}), "text", "a string"),
            (json!({"text": {"format": {"type": "xml"}}}), "text.format.type", "xml"),
            (json!({"text": {"format": 5}}), "text.format", "a number"),
            (json!({"temperature": 2.5}), "temperature", "2"),
            (json!({"model": "plain"}), "model", "chat template"),
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type", "web_search"),
        ],
    );
    refused(
        &server,
        RESPONSES,
        "unknown_parameter",
        &[(json!({"n": 2}), "n", "n"), (json!({"stop": "a"}), "stop", "stop")],
    );
    let error = server.post(RESPONSES, &with(RESPONSES, &json!({"previous_response_id": "resp_1"}))).error(404);
    assert_eq!((&error["param"], &error["code"]), (&json!("previous_response_id"), &json!("not_found")));
    invalid(
        EMBEDDINGS,
        &[
            (json!({"input": null}), "input", "missing"),
            (json!({"input": ""}), "input", "empty"),
            (json!({"input": []}), "input", "empty"),
            (json!({"input": ["a", ""]}), "input", "empty"),
            (json!({"input": [[]]}), "input", "empty"),
            (json!({"input": [99_999]}), "input", "99999"),
            (json!({"input": [[1], [99_999]]}), "input", "99999"),
            (json!({"input": {}}), "input", "an object"),
            (json!({"input": vec!["a"; 2049]}), "input", "2048"),
            (json!({"encoding_format": "hex"}), "encoding_format", "base64"),
            (json!({"dimensions": 0}), "dimensions", "from 1"),
            (json!({"dimensions": 100_000}), "dimensions", "from 1"),
            (json!({"pooling": "max"}), "pooling", "mean or last"),
        ],
    );
    invalid(
        SCORE,
        &[
            (json!({"items": null}), "items", "missing"),
            (json!({"items": []}), "items", "1 to 2048"),
            (json!({"items": [{}]}), "items[0]", "continuation"),
            (json!({"items": [{"continuation": ""}]}), "items[0]", "no tokens"),
            (json!({"items": [{"continuation": "a"}, {"context": "a", "continuation": ""}]}), "items[1]", "no tokens"),
            (json!({"items": [{"context": [1], "continuation": [99_999]}]}), "items", "99999"),
            (json!({"items": [{"continuation": "a", "context": 5}]}), "items[0].context", "items[0].context"),
            (json!({"items": [{"continuation": "a", "contxt": "b"}]}), "items[0].contxt", "contxt"),
        ],
    );
    invalid(
        "/tokenize",
        &[
            (json!({"content": null}), "content", "give content"),
            (json!({"content": 5}), "content", "string"),
            (json!({"messages": []}), "messages", "exclude"),
            (
                json!({"content": null, "messages": [{"role": "user", "content": "a"}], "model": "plain"}),
                "model",
                "template",
            ),
        ],
    );
    invalid(
        "/detokenize",
        &[
            (json!({"tokens": null}), "tokens", "missing"),
            (json!({"tokens": [99_999]}), "tokens", "99999"),
            (json!({"tokens": ["a"]}), "tokens[0]", "tokens[0]"),
            (json!({"tokens": [-1]}), "tokens[0]", "tokens[0]"),
        ],
    );
    invalid(
        "/apply-template",
        &[
            (json!({"messages": null}), "messages", "missing"),
            (json!({"model": "plain"}), "model", "chat template"),
            (json!({"tools": 5}), "tools", "a number"),
        ],
    );
    invalid(
        "/v1/moderations",
        &[
            (json!({"input": null}), "input", "missing"),
            (json!({"input": []}), "input", "1 to"),
            (json!({"input": [5]}), "input", "a number"),
            (json!({"input": [{"type": "image_url"}]}), "input", "texts"),
        ],
    );
    let error = server.post("/v1/moderations", &valid("/v1/moderations")).error(400);
    assert_eq!(error["code"], "not_supported");
}

#[test]
fn unknown_fields_are_named_with_the_nearest_there_is() {
    let server = server();
    for (path, field, nearest) in [
        (COMPLETIONS, "temprature", Some("temperature")),
        (COMPLETIONS, "max_token", Some("max_tokens")),
        (COMPLETIONS, "messages", None),
        (CHAT, "respose_format", Some("response_format")),
        (CHAT, "best_of", None),
        (CHAT, "prompt", None),
        (RESPONSES, "max_tokens", None),
        (RESPONSES, "inputs", Some("input")),
        (EMBEDDINGS, "temperature", None),
        (SCORE, "item", Some("items")),
        ("/tokenize", "contents", Some("content")),
        ("/detokenize", "token", Some("tokens")),
        ("/apply-template", "message", Some("messages")),
        ("/v1/moderations", "text", None),
    ] {
        let error = server.post(path, &with(path, &json!({field: 1}))).error(400);
        assert_eq!((&error["param"], &error["code"]), (&json!(field), &json!("unknown_parameter")), "{path} {field}");
        let hint = nearest.map(|name| format!("Did you mean {name}?"));
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(field), "{message}");
        match hint {
            Some(hint) => assert!(message.contains(&hint), "{message}"),
            None => assert!(!message.contains("Did you mean"), "{message}"),
        }
    }
    let long = "x".repeat(100_000);
    let answer = server.post(COMPLETIONS, &json!({ (long): 1 }));
    answer.error(400);
    assert!(answer.body.len() < 1000, "a field's name is not repeated at any length");
}

#[test]
fn nothing_is_cut_to_fit() {
    let server = server();
    let ids = vec![5; N_CTX + 1];
    let long = "日".repeat(N_CTX * 2);
    let messages = json!([{"role": "user", "content": long}]);
    for (path, changes, param, words) in [
        (COMPLETIONS, json!({"prompt": ids}), "prompt", "1025 tokens"),
        (COMPLETIONS, json!({"prompt": [[1], ids]}), "prompt", "1025 tokens"),
        (COMPLETIONS, json!({"prompt": long}), "prompt", "maximum context length is 1024"),
        (COMPLETIONS, json!({"prompt": [1, 2, 3], "max_tokens": 1022}), "prompt", "1025 tokens (3 in the prompt, 1022"),
        (COMPLETIONS, json!({"prompt": [1], "max_tokens": u64::MAX}), "prompt", "maximum context length"),
        (COMPLETIONS, json!({"prompt": [1, 2], "max_tokens": 1023, "stream": true}), "prompt", "1025 tokens"),
        (CHAT, json!({"messages": messages}), "messages", "maximum context length is 1024"),
        (CHAT, json!({"max_tokens": 1020}), "messages", "1020 for the answer"),
        (RESPONSES, json!({"input": long}), "input", "maximum context length is 1024"),
        (RESPONSES, json!({"max_output_tokens": 1020}), "input", "1020 for the answer"),
        (EMBEDDINGS, json!({"input": ids}), "input", "1025 tokens"),
        (SCORE, json!({"items": [{"continuation": long}]}), "items[0]", "maximum context length is 1024"),
    ] {
        refused(&server, path, "context_length_exceeded", &[(changes, param, words)]);
    }
    // What just fits is answered.
    server.post(COMPLETIONS, &json!({"prompt": ids[..N_CTX - 2], "max_tokens": 2, "ignore_eos": true})).ok();
    server.post(COMPLETIONS, &json!({"prompt": ids[..N_CTX], "max_tokens": 0})).ok();
    server.post(EMBEDDINGS, &json!({"input": ids[..N_CTX]})).ok();
    // Constraints that no answer of that length meets.
    for changes in
        [json!({"regex": "a{40}", "max_tokens": 3}), json!({"json_schema": {"type": "string", "minLength": 50}})]
    {
        let error = server.post(COMPLETIONS, &with(COMPLETIONS, &changes)).error(400);
        assert!(error["message"].as_str().unwrap().contains("constraint"), "{error}");
        assert_ne!(error["param"], "response_format", "this endpoint has no such field");
    }
}

#[test]
fn more_prompts_than_the_queue_ever_takes_are_no_matter_of_waiting() {
    let loader = TestLoader { queue: 10, ..TestLoader::default() };
    let server = TestServer::start(Setup { loader, ..Setup::default() });
    let texts = |n: usize| json!(vec!["a"; n]);
    for (path, field) in [(COMPLETIONS, "prompt"), (EMBEDDINGS, "input")] {
        let error = server.post(path, &with(path, &json!({field: texts(11)}))).error(400);
        assert_eq!(error["param"], field);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("11") && message.contains("10"), "{message}");
        server.post(path, &with(path, &json!({field: texts(10)}))).ok();
        // An answer may be read a moment before its places are free.
        server.until("an idle engine", |server| server.n_busy() == 0);
    }
    let items = vec![json!({"continuation": "a"}); 11];
    assert_eq!(server.post(SCORE, &json!({"items": items})).error(400)["param"], "items");
}

#[test]
fn models_are_found_or_it_is_said_why_not() {
    let server = server();
    for path in [COMPLETIONS, CHAT, RESPONSES, EMBEDDINGS, SCORE, "/tokenize", "/detokenize", "/apply-template"] {
        let error = server.post(path, &with(path, &json!({"model": "tinny"}))).error(404);
        assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")), "{path}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("Did you mean \"tiny\"?") && message.contains("plain"), "{message}");
        let answer = server.post(path, &with(path, &json!({"model": "broken"})));
        let error = answer.error(503);
        assert!(error["message"].as_str().unwrap().contains("its file is damaged"));
        assert_eq!(error["type"], "server_error");
        assert!(answer.headers["retry-after"].parse::<u64>().unwrap() >= 1);
    }
    let error = server.get("/v1/models/tinny").error(404);
    assert_eq!(error["code"], "model_not_found");
    assert_eq!(server.get("/v1/models/gpt-3.5-turbo").ok()["root"], "tiny");
    assert_eq!(server.get("/tokenizer_info?model=tinny").error(404)["code"], "model_not_found");
    assert_eq!(server.get("/v1/responses/resp_1").error(404)["code"], "not_found");
    server.call("DELETE", "/v1/responses/resp_1", &[], "").error(404);
    server.get("/v1/responses/resp_1/input_items").error(404);
}

#[test]
fn paths_methods_and_bodies_that_cannot_be_read() {
    let options = ServerOptions { max_body_bytes: 4000, ..ServerOptions::default() };
    let server = TestServer::start(Setup { options, ..Setup::default() });
    for path in ["/v1/nothing", "/v1/chat", "/v1/models/", "/assets/nothing.js", "/assets/..%2fopenapi.json", "/%ff"] {
        server.get(path).error(404);
    }
    for (method, path) in [
        ("GET", COMPLETIONS),
        ("PUT", CHAT),
        ("POST", "/v1/models"),
        ("DELETE", "/v1/models/tiny"),
        ("POST", "/health"),
        ("OPTIONS", COMPLETIONS),
        ("PATCH", "/v1/responses/resp_1"),
    ] {
        let answer = server.call(method, path, &[], "");
        assert_eq!(answer.error(405)["code"], "method_not_allowed", "{method} {path}");
        assert!(answer.headers.contains_key("allow"), "{method} {path}");
    }
    // Paths and queries that are no text.
    for path in ["/v1/models/%ff", "/assets/%ff", "/v1/responses/%ff", "/v1/responses/%ff/input_items"] {
        let answer = server.get(path);
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
        answer.error(answer.status);
    }
    server.get("/tokenizer_info?model=tiny&model=tiny").error(400);
    let raw = |kind: &str, body: &[u8]| {
        let kind = if kind.is_empty() { String::new() } else { format!("Content-Type: {kind}\r\n") };
        let head = format!("POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{kind}");
        let mut bytes = format!("{head}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
        bytes.extend_from_slice(body);
        Answer::parse(&server.raw(&bytes))
    };
    let good = valid(COMPLETIONS).to_string();
    assert_eq!(raw("application/json", good.as_bytes()).status, 200);
    assert_eq!(raw("Application/JSON; charset=utf-8", good.as_bytes()).status, 200);
    for kind in ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp", "multipart/form-data"] {
        assert_eq!(raw(kind, good.as_bytes()).error(415)["code"], "unsupported_media_type", "{kind}");
    }
    let deep = format!("{{\"prompt\": {}{}}}", "[".repeat(200), "]".repeat(200));
    let deep_schema = format!("{{\"json_schema\": {}1{}}}", "{\"not\":".repeat(200), "}".repeat(200));
    let cases: &[&[u8]] = &[
        b"",
        b"{",
        b"{\"prompt\": \"a\"",
        b"{\"prompt\": \"a\",}",
        b"{\"prompt\": NaN}",
        b"{'prompt': 'a'}",
        b"\xff\xfe",
        b"{\"prompt\": \"\xff\"}",
        b"{\"prompt\": \"\\ud800\"}",
        b"{\"temperature\": 1e999}",
        b"[]",
        b"\"the\"",
        b"null",
        b"17",
        b"{} {}",
        deep.as_bytes(),
        deep_schema.as_bytes(),
    ];
    for body in cases {
        let error = raw("application/json", body).error(400);
        assert_eq!(error["type"], "invalid_request_error", "{}", String::from_utf8_lossy(body));
    }
    // Too large, said before or found out on the way.
    let large = format!("{{\"prompt\": \"{}\"}}", "a".repeat(4000));
    assert_eq!(raw("application/json", large.as_bytes()).error(413)["code"], "body_too_large");
    let head = format!(
        "POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    );
    let chunk = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    let answer = Answer::parse(&server.raw(format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}").as_bytes()));
    assert_eq!(answer.error(413)["code"], "body_too_large");
}

#[test]
fn without_keys_only_this_machines_own_names_are_answered() {
    let server = server();
    let ask = |host: &str| {
        let host = if host == "-" { String::new() } else { format!("Host: {host}\r\n") };
        Answer::parse(&server.raw(format!("GET /v1/models HTTP/1.1\r\n{host}Connection: close\r\n\r\n").as_bytes()))
    };
    for host in ["localhost", "LocalHost:80", "127.0.0.1:8080", "[::1]:8080", "[::1]"] {
        assert_eq!(ask(host).status, 200, "{host}");
    }
    for host in
        ["evil.example", "localhost.evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::2]", "10.0.0.1"]
    {
        let error = ask(host).error(403);
        assert_eq!(error["code"], "insufficient_permissions");
        assert!(error["message"].as_str().unwrap().contains("--allow-anonymous"), "{host}");
    }
    // Where others are served on purpose, any name will do.
    let options = ServerOptions { allow_anonymous: true, ..ServerOptions::default() };
    let server = TestServer::start(Setup { options, ..Setup::default() });
    let answer = server.raw(b"GET /v1/models HTTP/1.1\r\nHost: models.example\r\nConnection: close\r\n\r\n");
    assert_eq!(Answer::parse(&answer).status, 200);
}

/// What of an answer must be the same for the same request.
fn essence(path: &str, answer: &Answer) -> Value {
    let mut value = answer.ok();
    let object = value.as_object_mut().unwrap();
    for name in ["id", "created", "created_at", "timings"] {
        object.remove(name);
    }
    for details in ["/usage/prompt_tokens_details", "/usage/input_tokens_details"] {
        value.pointer_mut(details).into_iter().for_each(|details| *details = Value::Null);
    }
    if path == RESPONSES {
        value["output"][0]["id"] = Value::Null;
    }
    value
}

#[test]
fn null_is_the_same_as_leaving_a_field_out() {
    let server = TestServer::start(Setup::default());
    let document = server.get("/openapi.json").ok();
    for path in [COMPLETIONS, CHAT, RESPONSES, EMBEDDINGS, SCORE, "/tokenize", "/detokenize", "/apply-template"] {
        let schema = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
        let schema = document.pointer(&schema["$ref"].as_str().unwrap()[1..]).unwrap();
        let body = valid(path);
        let expected = essence(path, &server.post(path, &body));
        let fields: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        let free = || fields.iter().filter(|field| body.get(field.as_str()).is_none());
        assert!(free().count() > 0 && body.as_object().unwrap().keys().all(|field| fields.contains(&field)));
        let all: Value = free().map(|field| ((*field).clone(), Value::Null)).collect::<serde_json::Map<_, _>>().into();
        assert_eq!(essence(path, &server.post(path, &with(path, &all))), expected, "{path} all");
        for field in free() {
            let answer = server.post(path, &with(path, &json!({ (*field).clone(): null })));
            assert_eq!(essence(path, &answer), expected, "{path} {field}");
        }
    }
}
