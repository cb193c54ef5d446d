//! The OpenAPI document of the server, and the table of its routes.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;

/// The document.
const DOCUMENT: &str = include_str!("openapi.json");

/// Methods and routes, as the router has them.
pub const ROUTES: &[(&str, &str)] = &[
    ("get", "/"),
    ("get", "/admin"),
    ("get", "/assets/{file}"),
    ("get", "/health"),
    ("get", "/v1/health"),
    ("get", "/ready"),
    ("get", "/openapi.json"),
    ("get", "/v1/models"),
    ("get", "/v1/models/{*id}"),
    ("post", "/v1/completions"),
    ("post", "/v1/chat/completions"),
    ("post", "/v1/responses"),
    ("get", "/v1/responses/{id}"),
    ("delete", "/v1/responses/{id}"),
    ("get", "/v1/responses/{id}/input_items"),
    ("post", "/v1/embeddings"),
    ("post", "/v1/moderations"),
    ("post", "/v1/score"),
    ("post", "/tokenize"),
    ("post", "/detokenize"),
    ("get", "/tokenizer_info"),
    ("post", "/apply-template"),
    ("get", "/metrics"),
    ("get", "/admin/status"),
];

/// `GET /openapi.json`.
pub async fn document() -> Response {
    let mut response = Response::new(Body::from(DOCUMENT));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::api::{chat, completions, embeddings, moderations, responses, score, text};
    use crate::sampling::SamplingFields;

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    #[test]
    fn the_document_has_the_routes_that_there_are() {
        let document = document();
        let mut described: Vec<(String, String)> = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                described.push((method.clone(), path.clone()));
            }
        }
        // The router's notation for a rest of a path that may have slashes in it.
        let mut routes: Vec<(String, String)> =
            ROUTES.iter().map(|(method, path)| ((*method).to_owned(), path.replace("{*", "{"))).collect();
        described.sort();
        routes.sort();
        assert_eq!(described, routes);
    }

    #[test]
    fn the_document_has_the_fields_that_are_read() {
        let document = document();
        let check = |schema: &str, fields: &[&[&str]]| {
            let properties = document["components"]["schemas"][schema]["properties"].as_object().unwrap();
            let mut described: Vec<&str> = properties.keys().map(String::as_str).collect();
            let mut read: Vec<&str> = fields.concat();
            described.sort_unstable();
            read.sort_unstable();
            assert_eq!(described, read, "{schema}");
        };
        check("CompletionRequest", &[completions::CompletionFields::FIELDS, SamplingFields::FIELDS]);
        check("ChatRequest", &[chat::ChatFields::FIELDS, SamplingFields::FIELDS]);
        check("ResponseRequest", &[responses::ResponseFields::FIELDS, SamplingFields::FIELDS]);
        check("EmbeddingRequest", &[embeddings::EmbeddingFields::FIELDS]);
        check("ModerationRequest", &[moderations::ModerationFields::FIELDS]);
        check("ScoreRequest", &[score::ScoreFields::FIELDS]);
        check("TokenizeRequest", &[text::TokenizeFields::FIELDS]);
        check("DetokenizeRequest", &[text::DetokenizeFields::FIELDS]);
        check("TemplateRequest", &[text::TemplateFields::FIELDS]);
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        fn check(value: &Value, document: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(reference)) = map.get("$ref") {
                        assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
                    }
                    map.values().for_each(|value| check(value, document));
                }
                Value::Array(items) => items.iter().for_each(|value| check(value, document)),
                _ => {}
            }
        }
        let document = document();
        check(&document, &document);
    }
}
