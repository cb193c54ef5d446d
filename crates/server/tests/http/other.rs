//! Embeddings, scores, tokens, lists of models, and what those who run the server look at.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{N_CTX, Setup, TestLoader, TestServer, metric, tokenizer};
use serde_json::{Value, json};

const COMPLETIONS: &str = "/v1/completions";
const EMBEDDINGS: &str = "/v1/embeddings";
const SCORE: &str = "/v1/score";

fn vectors(server: &TestServer, body: &Value) -> Vec<Vec<f32>> {
    let answer = server.post(EMBEDDINGS, body).ok();
    let data = answer["data"].as_array().unwrap();
    let vector = |(index, item): (usize, &Value)| {
        assert_eq!((&item["object"], &item["index"]), (&json!("embedding"), &json!(index)));
        item["embedding"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
    };
    data.iter().enumerate().map(vector).collect()
}

fn length(vector: &[f32]) -> f64 {
    vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt()
}

/// Bytes of base64, which a test can afford to read slowly.
fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("{other}"),
    };
    let mut out = Vec::new();
    for group in text.trim_end_matches('=').as_bytes().chunks(4) {
        let bits = group.iter().fold(0u32, |bits, &byte| bits << 6 | u32::from(digit(byte))) << (6 * (4 - group.len()));
        out.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    out
}

#[test]
fn embeddings_come_in_order_and_in_every_form() {
    let server = TestServer::start(Setup::default());
    let texts = ["the cat", "日本語", "a", "the cat sat on the mat"];
    let many = vectors(&server, &json!({"input": texts}));
    assert_eq!(many.len(), texts.len());
    for (text, vector) in texts.iter().zip(&many) {
        assert!((length(vector) - 1.0).abs() < 1e-5, "unit length");
        assert_eq!(vectors(&server, &json!({"input": text})), std::slice::from_ref(vector), "alone");
        let ids = tokenizer().encode(text);
        assert_eq!(vectors(&server, &json!({"input": ids})), std::slice::from_ref(vector), "as ids");
    }
    let ids: Vec<Vec<u32>> = texts.iter().map(|text| tokenizer().encode(text)).collect();
    assert_eq!(vectors(&server, &json!({"input": ids, "encoding_format": "float"})), many);
    assert_ne!(many[0], many[1]);
    // The public API's other form: the same numbers.
    let answer = server.post(EMBEDDINGS, &json!({"input": texts, "encoding_format": "base64"})).ok();
    for (item, vector) in answer["data"].as_array().unwrap().iter().zip(&many) {
        let bytes = base64(item["embedding"].as_str().unwrap());
        let values: Vec<f32> = bytes.chunks(4).map(|chunk| f32::from_le_bytes(chunk.try_into().unwrap())).collect();
        assert_eq!(values, *vector);
    }
    let n_tokens: usize = ids.iter().map(Vec::len).sum();
    assert_eq!(answer["usage"], json!({"prompt_tokens": n_tokens, "total_tokens": n_tokens}));
    // Fewer numbers: the first, at unit length again.
    for dimensions in [1, 7, many[0].len()] {
        let short = vectors(&server, &json!({"input": "the cat", "dimensions": dimensions}));
        assert_eq!(short[0].len(), dimensions);
        assert!((length(&short[0]) - 1.0).abs() < 1e-5);
        let scale = length(&many[0][..dimensions]);
        for (short, full) in short[0].iter().zip(&many[0]) {
            assert!((f64::from(*short) * scale - f64::from(*full)).abs() < 1e-6);
        }
    }
    // The last token's state is another than the mean, but of a single token.
    let pooled =
        |input: &Value, pooling: &str| vectors(&server, &json!({"input": input, "pooling": pooling})).remove(0);
    assert_eq!(pooled(&json!("the cat"), "mean"), many[0]);
    assert_ne!(pooled(&json!("the cat"), "last"), many[0]);
    assert_eq!(pooled(&json!([5]), "last"), pooled(&json!([5]), "mean"));
}

#[test]
fn scores_are_those_of_an_echoed_prompt() {
    let server = TestServer::start(Setup::default());
    let score = |items: Value| server.post(SCORE, &json!({"items": items, "tokens": true})).ok();
    let pairs = [("the cat", " sat on"), ("the", " mat"), ("the cat  ", "日本"), ("über", " naïve"), ("a", "b")];
    let items: Vec<Value> = pairs.iter().map(|(a, b)| json!({"context": a, "continuation": b})).collect();
    let answer = score(json!(items));
    let data = answer["data"].as_array().unwrap();
    assert_eq!(data.len(), pairs.len());
    for (index, ((context, continuation), found)) in pairs.iter().zip(data).enumerate() {
        assert_eq!(found["index"], index);
        // Together as one text, cut where the context's own ids end, spaces at its end going to the continuation.
        let whole = tokenizer().encode(&format!("{context}{continuation}"));
        let start = tokenizer().encode(context.trim_end()).len();
        assert_eq!(found["token_ids"], json!(whole[start..]), "{context:?}");
        assert_eq!(found["n_tokens"], whole.len() - start);
        let body = json!({"prompt": whole, "max_tokens": 0, "echo": true, "logprobs": 1});
        let echoed = server.post(COMPLETIONS, &body).ok()["choices"][0]["logprobs"].clone();
        let logprobs: Vec<f64> =
            echoed["token_logprobs"].as_array().unwrap()[start..].iter().map(|value| value.as_f64().unwrap()).collect();
        assert!((found["logprob"].as_f64().unwrap() - logprobs.iter().sum::<f64>()).abs() < 1e-4);
        let is_greedy = (start..whole.len()).all(|at| {
            let top = echoed["top_logprobs"][at].as_object().unwrap().values().map(|v| v.as_f64().unwrap());
            top.fold(f64::MIN, f64::max) == echoed["token_logprobs"][at].as_f64().unwrap()
        });
        assert_eq!(found["is_greedy"], is_greedy);
        // The same by ids.
        let by_ids = score(json!([{"context": whole[..start], "continuation": whole[start..]}]));
        assert_eq!(by_ids["data"][0]["token_logprobs"], found["token_logprobs"]);
    }
    let n_tokens: usize = pairs.iter().map(|(a, b)| tokenizer().encode(&format!("{a}{b}")).len()).sum();
    assert_eq!(answer["usage"]["prompt_tokens"], n_tokens);
    // What the model says by itself is greedy, anything else is not.
    let body =
        json!({"prompt": [5, 6, 7], "max_tokens": 4, "temperature": 0, "return_token_ids": true, "ignore_eos": true});
    let ids = server.post(COMPLETIONS, &body).ok()["choices"][0]["token_ids"].clone();
    let mut wrong = ids.clone();
    wrong[3] = ((ids[3].as_u64().unwrap() + 1) % 300).into();
    let answer =
        score(json!([{"context": [5, 6, 7], "continuation": ids}, {"context": [5, 6, 7], "continuation": wrong}]));
    assert_eq!((&answer["data"][0]["is_greedy"], &answer["data"][1]["is_greedy"]), (&json!(true), &json!(false)));
    assert!(answer["data"][0]["logprob"].as_f64() > answer["data"][1]["logprob"].as_f64());
    // Without a context, the text's own beginning.
    for item in [
        json!({"continuation": "the cat"}),
        json!({"context": "", "continuation": "the cat"}),
        json!({"context": null, "continuation": "the cat"}),
    ] {
        assert_eq!(score(json!([item]))["data"][0]["token_ids"], json!(tokenizer().encode("the cat")));
    }
}

#[test]
fn texts_become_ids_and_ids_texts() {
    let server = TestServer::start(Setup::default());
    for text in ["the cat", "", "  日本語 naïve\n\u{1f600}", "<|endoftext|>"] {
        let ids = tokenizer().encode_with_specials(text, verve_tokenizer::SpecialTokens::Ordinary);
        let flags = ["add_special", "add_special_tokens"];
        for field in ["content", "prompt"] {
            for flag in flags {
                let answer = server.post("/tokenize", &json!({field: text, flag: true, "parse_special": false})).ok();
                assert_eq!((&answer["tokens"], &answer["count"]), (&json!(ids), &json!(ids.len())), "{text:?}");
                assert_eq!(answer["max_model_len"], N_CTX);
                let plain = server.post("/tokenize", &json!({field: text, flag: false, "parse_special": false})).ok();
                assert_eq!(
                    plain["tokens"],
                    json!(tokenizer().encode_with(text, verve_tokenizer::SpecialTokens::Ordinary))
                );
                let back = server.post("/detokenize", &json!({"tokens": plain["tokens"]})).ok();
                assert_eq!((&back["content"], &back["prompt"]), (&json!(text), &json!(text)));
            }
        }
        let pieces = server
            .post(
                "/tokenize",
                &json!({"content": text, "with_pieces": true, "return_token_strs": true, "parse_special": false}),
            )
            .ok();
        let mut bytes = Vec::new();
        for (piece, id) in pieces["tokens"].as_array().unwrap().iter().zip(&ids) {
            assert_eq!(piece["id"], *id);
            match &piece["piece"] {
                Value::String(piece) => bytes.extend_from_slice(piece.as_bytes()),
                list => bytes.extend(list.as_array().unwrap().iter().map(|byte| byte.as_u64().unwrap() as u8)),
            }
        }
        assert_eq!(bytes, text.as_bytes());
        assert_eq!(pieces["token_strs"].as_array().unwrap().len(), ids.len());
    }
    // Special tokens act as such unless told otherwise.
    let special = "a<|endoftext|>b";
    let ids = server.post("/tokenize", &json!({"content": special})).ok()["tokens"].clone();
    assert_eq!(ids, json!(tokenizer().encode_with_specials(special, verve_tokenizer::SpecialTokens::Parse)));
    let messages = json!([{"role": "user", "content": "the cat"}]);
    let ids = server.post("/tokenize", &json!({"messages": messages})).ok()["tokens"].clone();
    assert_eq!(ids, server.post("/apply-template", &json!({"messages": messages})).ok()["tokens"]);
    // What the evaluation harness reads.
    let info = server.get("/tokenizer_info?model=tiny").ok();
    for field in ["eos_token", "bos_token", "pad_token", "chat_template"] {
        assert!(info.get(field).is_some(), "{field}");
    }
    assert!(info["chat_template"].as_str().unwrap().contains("im_start"));
    assert_eq!((&info["n_vocab"], &info["model_max_length"]), (&json!(tokenizer().n_vocab()), &json!(N_CTX)));
}

#[test]
fn models_are_listed_with_their_other_names() {
    let loader = TestLoader { names: vec!["tiny", "org/other"], ..TestLoader::default() };
    let alias = |alias: &str, name: &str| (alias.to_owned(), name.to_owned());
    let aliases = vec![alias("gpt-4o", "org/other"), alias("*", "tiny")];
    let server = TestServer::start(Setup { loader, aliases, ..Setup::default() });
    let list = server.get("/v1/models").ok();
    assert_eq!(list["object"], "list");
    let models: Vec<(&str, &str)> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| {
            assert_eq!((&model["object"], &model["max_model_len"]), (&json!("model"), &json!(N_CTX)));
            assert!(model["created"].is_u64() && model["owned_by"].is_string());
            (model["id"].as_str().unwrap(), model["root"].as_str().unwrap())
        })
        .collect();
    assert_eq!(models, [("tiny", "tiny"), ("org/other", "org/other"), ("gpt-4o", "org/other")]);
    for (path, root) in
        [("org/other", "org/other"), ("org%2Fother", "org/other"), ("gpt-4o", "org/other"), ("anything", "tiny")]
    {
        assert_eq!(server.get(&format!("/v1/models/{path}")).ok()["root"], root, "{path}");
    }
    // Listing loads nothing.
    assert!(server.app.models.status().iter().all(|status| status.model.is_none()));
    for (name, model) in [
        (json!("gpt-4o"), "org/other"),
        (json!("whatever"), "tiny"),
        (json!(null), "tiny"),
        (json!("org/other"), "org/other"),
    ] {
        let answer = server.post(COMPLETIONS, &json!({"model": name, "prompt": "a", "max_tokens": 1})).ok();
        assert_eq!(answer["model"], model);
    }
}

#[test]
fn requests_have_names_and_answers_headers() {
    let server = TestServer::start(Setup::default());
    let body = json!({"prompt": "a", "max_tokens": 1}).to_string();
    let named =
        |id: &str| server.call("POST", COMPLETIONS, &[("X-Request-Id", id)], &body).headers["x-request-id"].clone();
    assert_eq!(named("my-request_1.a:b"), "my-request_1.a:b");
    let recent = server.get("/admin/status").ok()["recent"].clone();
    assert_eq!(recent[0]["request_id"], "my-request_1.a:b");
    for bad in ["", "a b", "a\"b", &"x".repeat(129), "ü"] {
        let id = named(bad);
        assert!(id.starts_with("req_") && id.len() > 20, "{bad:?}: {id}");
    }
    assert_ne!(named(""), named(""));
    for answer in [server.get("/health"), server.get("/nothing"), server.post(COMPLETIONS, &json!({"prompt": []}))] {
        assert!(answer.headers["x-request-id"].starts_with("req_"));
        answer.headers["openai-processing-ms"].parse::<u64>().unwrap();
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "no other site may read");
    }
    let stream = server.post(COMPLETIONS, &json!({"prompt": "a", "max_tokens": 1, "stream": true}));
    assert_eq!(
        (stream.headers["cache-control"].as_str(), stream.headers["x-accel-buffering"].as_str()),
        ("no-cache", "no")
    );
}

#[test]
fn other_sites_may_call_only_where_it_is_allowed() {
    let options = |origins: &[&str]| verve_server::ServerOptions {
        cors_origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
        ..verve_server::ServerOptions::default()
    };
    let server = TestServer::start(Setup { options: options(&["https://good.example"]), ..Setup::default() });
    let allowed = |server: &TestServer, origin: &str| {
        let headers = [
            ("Origin", origin),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "authorization,content-type"),
        ];
        let preflight = server.call("OPTIONS", COMPLETIONS, &headers, "");
        let simple = server.call("GET", "/v1/models", &headers[..1], "");
        let header = |answer: &crate::common::Answer| answer.headers.get("access-control-allow-origin").cloned();
        assert_eq!(header(&preflight), header(&simple));
        header(&simple)
    };
    assert_eq!(allowed(&server, "https://good.example").as_deref(), Some("https://good.example"));
    assert_eq!(allowed(&server, "https://evil.example"), None);
    let any = TestServer::start(Setup { options: options(&["*"]), ..Setup::default() });
    assert_eq!(allowed(&any, "https://evil.example").as_deref(), Some("*"));
    let none = TestServer::start(Setup::default());
    none.call(
        "OPTIONS",
        COMPLETIONS,
        &[("Origin", "https://good.example"), ("Access-Control-Request-Method", "POST")],
        "",
    )
    .error(405);
}

/// Values of attributes of this name.
fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    page.split(&format!(" {name}=\"")).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

#[test]
fn pages_take_nothing_from_elsewhere() {
    let server = TestServer::start(Setup::default());
    let mut assets = BTreeSet::new();
    for path in ["/", "/admin"] {
        let answer = server.get(path);
        assert_eq!(answer.headers["content-type"], "text/html; charset=utf-8");
        let page = answer.text();
        for (at, _) in page.match_indices("<script") {
            let tag = &page[at..];
            assert!(tag[..tag.find('>').unwrap()].contains(" src=\"/assets/"), "{path}: an inline script");
            assert!(tag[tag.find('>').unwrap() + 1..].starts_with("</script>"), "{path}");
        }
        assert!(!page.contains("<style") && !page.contains(" style=\""), "{path}: an inline style");
        assert!(
            !page.contains("javascript:")
                && !page.split(" on").skip(1).any(|rest| rest
                    .split_once("=\"")
                    .is_some_and(|(name, _)| name.chars().all(char::is_alphabetic) && name.len() > 3)),
            "{path}: an inline handler"
        );
        for link in attributes(page, "src").into_iter().chain(attributes(page, "href")) {
            match link.strip_prefix("/assets/") {
                Some(name) => assets.extend([name.to_owned()]),
                None => assert!(
                    link.starts_with('/') || link.starts_with('#') || link.starts_with("data:image/"),
                    "{path}: {link}"
                ),
            }
        }
    }
    assert!(assets.contains("main.js") && assets.contains("style.css") && assets.contains("admin.js"));
    // Scripts bring in others.
    let mut left: Vec<String> = assets.iter().cloned().collect();
    let mut pages = vec!["/".to_owned(), "/admin".to_owned()];
    while let Some(name) = left.pop() {
        let path = format!("/assets/{name}");
        let answer = server.get(&path);
        assert_eq!(answer.status, 200, "{path}");
        let kind = if name.ends_with(".css") { "text/css" } else { "text/javascript" };
        assert!(answer.headers["content-type"].starts_with(kind), "{path}");
        let quoted = answer.text().split(['"', '\'']).filter_map(|text| text.strip_prefix("./"));
        let new: Vec<String> = quoted.filter(|text| text.ends_with(".js")).map(str::to_owned).collect();
        left.extend(new.into_iter().filter(|name| assets.insert(name.clone())));
        pages.push(path);
    }
    assert!(assets.len() >= 10, "{assets:?}");
    for path in &pages {
        let answer = server.get(path);
        let policy: BTreeMap<&str, &str> =
            answer.headers["content-security-policy"].split("; ").filter_map(|part| part.split_once(' ')).collect();
        assert_eq!(
            (policy["default-src"], policy["script-src"], policy["style-src"]),
            ("'none'", "'self'", "'self'"),
            "{path}"
        );
        assert_eq!((policy["connect-src"], policy["frame-ancestors"]), ("'self'", "'none'"), "{path}");
        assert_eq!(answer.headers["x-frame-options"], "DENY");
        // Names of XML's forms are no addresses that anything is fetched from.
        let text = answer.text().replace("http://www.w3.org/", "");
        for (at, _) in text.match_indices("://") {
            let before: String = text[..at].chars().rev().take(5).collect::<Vec<_>>().into_iter().rev().collect();
            assert!(
                !before.ends_with("http") && !before.ends_with("https"),
                "{path}: {:?}",
                &text[at.saturating_sub(30)..(at + 30).min(text.len())]
            );
        }
    }
}

#[test]
fn health_readiness_and_the_document() {
    let server = TestServer::start(Setup::default());
    for path in ["/health", "/v1/health"] {
        assert_eq!(server.get(path).ok(), json!({"status": "ok"}));
    }
    let answer = server.get("/ready");
    answer.error(503);
    assert!(answer.headers.contains_key("retry-after"));
    server.post(COMPLETIONS, &json!({"prompt": "a", "max_tokens": 1})).ok();
    assert_eq!(server.get("/ready").ok()["status"], "ready");
    let document = server.get("/openapi.json").ok();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    assert!(document["paths"].as_object().unwrap().len() > 15);
    let status = server.get("/admin/status").ok();
    assert_eq!((&status["draining"], &status["keys"]), (&json!(false), &json!([])));
    assert_eq!((&status["models"][0]["name"], &status["models"][0]["state"]), (&json!("tiny"), &json!("loaded")));
}

/// Checks the text of `/metrics` line by line; returns every sample.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut out = BTreeMap::new();
    let mut kinds: BTreeMap<&str, &str> = BTreeMap::new();
    let mut family = "";
    let body = text.strip_suffix("# EOF\n").expect("the end is marked");
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let (what, rest) = rest.split_once(' ').unwrap();
            let (name, value) = rest.split_once(' ').unwrap();
            assert!(name.starts_with("verve_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{line}");
            match what {
                "TYPE" => assert!(kinds.insert(name, value).is_none(), "{name} twice"),
                "HELP" => assert!(!value.is_empty(), "{line}"),
                "UNIT" => assert!(name.ends_with(value), "{line}"),
                other => panic!("{other}"),
            }
            family = name;
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap();
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let plain = name.split('{').next().unwrap();
        let suffix = plain.strip_prefix(family).unwrap_or_else(|| panic!("{line} is not of {family}"));
        match kinds[family] {
            "counter" => assert_eq!(suffix, "_total", "{line}"),
            "gauge" => assert_eq!(suffix, "", "{line}"),
            "histogram" => assert!(["_bucket", "_sum", "_count"].contains(&suffix), "{line}"),
            other => panic!("{other}"),
        }
        assert!(out.insert(name.to_owned(), value).is_none(), "{name} twice");
    }
    out
}

#[test]
fn metrics_can_be_read_and_move() {
    let server = TestServer::start(Setup::default());
    let read = || {
        let answer = server.get("/metrics");
        assert!(answer.headers["content-type"].starts_with("application/openmetrics-text; version=1.0.0"));
        samples(answer.text())
    };
    read();
    let prompt = "the cat sat on the mat; ".repeat(30);
    let body = json!({"prompt": prompt, "max_tokens": 6, "ignore_eos": true, "seed": 1});
    server.post(COMPLETIONS, &body).ok();
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    server.post(COMPLETIONS, &streamed).events();
    server.post(COMPLETIONS, &json!({"prompt": []})).error(400);
    server.post(EMBEDDINGS, &json!({"input": "the"})).ok();
    server.get("/no/such/path/%22%7d").error(404);
    let found = read();
    let value = |name: &str| found.get(name).copied().unwrap_or_else(|| panic!("{name} is missing: {found:#?}"));
    let n_prompt = tokenizer().encode(&prompt).len() as f64;
    let requests = |endpoint: &str, status: u16| {
        value(&format!("verve_http_requests_total{{endpoint=\"{endpoint}\",status=\"{status}\"}}"))
    };
    assert_eq!((requests(COMPLETIONS, 200), requests(COMPLETIONS, 400), requests("none", 404)), (2.0, 1.0, 1.0));
    let tokens = |kind: &str| value(&format!("verve_tokens_total{{model=\"tiny\",key=\"anonymous\",kind=\"{kind}\"}}"));
    assert_eq!(tokens("generated"), 12.0);
    assert_eq!(tokens("prompt"), 2.0 * n_prompt + tokenizer().encode("the").len() as f64);
    assert!(
        tokens("cached") > 0.0 && tokens("cached") < n_prompt,
        "the second found the first one's prompt: {found:#?}"
    );
    assert_eq!(value("verve_generations_total{model=\"tiny\",outcome=\"done\"}"), 3.0);
    assert_eq!(
        (value("verve_time_to_first_token_seconds_count"), value("verve_inter_token_latency_seconds_count")),
        (2.0, 10.0)
    );
    assert!(value("verve_time_to_first_token_seconds_sum") > 0.0);
    assert_eq!(value("verve_time_to_first_token_seconds_bucket{le=\"+Inf\"}"), 2.0);
    assert_eq!((value("verve_models_loaded"), value("verve_http_requests_in_flight")), (1.0, 1.0));
    assert!(value("verve_kv_blocks{model=\"tiny\"}") > 0.0 && value("verve_engine_steps_total{model=\"tiny\"}") > 0.0);
    assert_eq!(value("verve_requests_running{model=\"tiny\"}"), 0.0);
    // No series is named by what a client writes.
    for i in 0..50 {
        server.get(&format!("/v1/models/x{i}")).error(404);
        server.get(&format!("/x{i}")).error(404);
        server.post(COMPLETIONS, &json!({"model": format!("x{i}"), "prompt": "a"})).error(404);
    }
    let n_new = read().len() - found.len();
    assert!(n_new < 10, "{n_new} new series");
    assert_eq!(metric(&server, "verve_http_requests_total{endpoint=\"/v1/models/{*id}\",status=\"404\"}"), 50);
}
