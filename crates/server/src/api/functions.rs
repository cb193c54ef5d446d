//! `functions` and `function_call` of the chat endpoint, the public API's older form of `tools` and `tool_choice`. Requests are
//! translated to the newer form; answers show the model's first call in the older.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::parse::kind;

/// A chat request in the newer form.
pub struct Translated<'a> {
    /// The request.
    pub body: Cow<'a, Value>,
    /// Whether answers show calls in the older form.
    pub is_older: bool,
}

/// Whether a field is there and not `null`.
fn given<'a>(object: &'a Value, field: &str) -> Option<&'a Value> {
    object.get(field).filter(|value| !value.is_null())
}

/// Puts what is in the older form into the newer.
///
/// # Errors
/// 400 where both forms are used, or the older is used wrongly.
pub fn translate(body: &Value) -> Result<Translated<'_>, ApiError> {
    let is_older = given(body, "functions").is_some() || given(body, "function_call").is_some();
    let has_older_messages = body.get("messages").and_then(Value::as_array).is_some_and(|messages| {
        messages.iter().any(|message| message.get("function_call").is_some() || is_function_result(message))
    });
    if !is_older && !has_older_messages {
        return Ok(Translated { body: Cow::Borrowed(body), is_older });
    }
    let mut body = body.clone();
    if is_older {
        translate_fields(&mut body)?;
    }
    if let Some(Value::Array(messages)) = body.get_mut("messages") {
        translate_messages(messages)?;
    }
    Ok(Translated { body: Cow::Owned(body), is_older })
}

fn translate_fields(body: &mut Value) -> Result<(), ApiError> {
    for (older, newer) in [("functions", "tools"), ("functions", "tool_choice"), ("function_call", "tools")] {
        if given(body, older).is_some() && given(body, newer).is_some() {
            return Err(ApiError::invalid(
                older,
                format!("{older} and {newer} exclude each other: {newer} replaces it"),
            ));
        }
    }
    let Some(fields) = body.as_object_mut() else { return Ok(()) };
    match fields.remove("functions").unwrap_or(Value::Null) {
        Value::Null => {}
        Value::Array(functions) => {
            let tools = functions.into_iter().map(|function| json!({"type": "function", "function": function}));
            fields.insert("tools".to_owned(), tools.collect());
        }
        other => {
            return Err(ApiError::invalid("functions", format!("functions: expected a list, found {}", kind(&other))));
        }
    }
    match fields.remove("function_call").unwrap_or(Value::Null) {
        Value::Null => {}
        Value::String(word) if word == "none" || word == "auto" => {
            fields.insert("tool_choice".to_owned(), word.into());
        }
        Value::Object(named) if named.get("name").is_some_and(Value::is_string) => {
            fields.insert("tool_choice".to_owned(), json!({"type": "function", "function": {"name": named["name"]}}));
        }
        _ => {
            let message = "function_call: expected none, auto, or {\"name\": ...}";
            return Err(ApiError::invalid("function_call", message));
        }
    }
    Ok(())
}

fn is_function_result(message: &Value) -> bool {
    message.get("role").and_then(Value::as_str) == Some("function")
}

fn translate_messages(messages: &mut [Value]) -> Result<(), ApiError> {
    let mut last_call = None;
    for (at, message) in messages.iter_mut().enumerate() {
        let is_result = is_function_result(message);
        let Some(fields) = message.as_object_mut() else { continue };
        match fields.remove("function_call").unwrap_or(Value::Null) {
            Value::Null => {}
            Value::Object(call) => {
                let id = format!("call_{at}");
                fields.insert("tool_calls".to_owned(), json!([{"id": id, "type": "function", "function": call}]));
                last_call = Some(id);
            }
            other => {
                let param = format!("messages[{at}].function_call");
                let message = format!("{param}: expected a name and arguments, found {}", kind(&other));
                return Err(ApiError::invalid(param, message));
            }
        }
        if is_result {
            answer(fields, at, last_call.as_deref())?;
        }
    }
    Ok(())
}

/// A function's result as a tool's.
fn answer(fields: &mut Map<String, Value>, at: usize, call: Option<&str>) -> Result<(), ApiError> {
    let param = format!("messages[{at}]");
    if !fields.get("name").is_some_and(Value::is_string) {
        let message = format!("{param}.name: missing; a function message says which function it is from");
        return Err(ApiError::invalid(format!("{param}.name"), message));
    }
    let Some(call) = call else {
        let message =
            format!("{param}: a function message answers a message with a function_call before it; there is none");
        return Err(ApiError::invalid(param, message));
    };
    fields.insert("role".to_owned(), "tool".into());
    fields.insert("tool_call_id".to_owned(), call.into());
    Ok(())
}

/// An error about the newer form in the older's words.
pub fn in_older_words(mut error: ApiError) -> ApiError {
    let older = |text: &str| {
        text.replace("].function.", "].")
            .replace("].function:", "]:")
            .replace("tools[", "functions[")
            .replace("tool_choice", "function_call")
            .replace("the tools", "the functions")
    };
    error.param = error.param.map(|param| older(&param));
    error.message = older(&error.message);
    error
}
