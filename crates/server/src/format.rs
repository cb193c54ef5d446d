//! What answers must look like: `response_format` of the chat endpoint, `text.format` of the responses endpoint.

use serde_json::Value;
use verve_constrain::Constraint;

use crate::error::ApiError;
use crate::parse::kind;
use crate::tools::check_name;

/// The constraint that a format puts on the answer; `None` for plain text. `param` names the field.
///
/// # Errors
/// 400 for a format that there is not.
pub fn constraint(value: Option<&Value>, param: &'static str) -> Result<Option<(Constraint, &'static str)>, ApiError> {
    let object = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(object)) => object,
        Some(other) => {
            return Err(ApiError::invalid(param, format!("{param}: expected an object, found {}", kind(other))));
        }
    };
    match object.get("type").and_then(Value::as_str) {
        Some("text") => Ok(None),
        Some("json_object") => Ok(Some((Constraint::JsonObject, param))),
        Some("json_schema") => {
            // The responses endpoint has the schema's fields beside the type.
            let inner = match object.get("json_schema") {
                Some(Value::Object(inner)) => inner,
                Some(other) => {
                    let message = format!("{param}.json_schema: expected an object, found {}", kind(other));
                    return Err(ApiError::invalid(format!("{param}.json_schema"), message));
                }
                None if object.contains_key("schema") => object,
                None => {
                    return Err(ApiError::invalid(
                        format!("{param}.json_schema"),
                        format!("{param}.json_schema is missing: give {{\"name\": ..., \"schema\": {{...}}}}"),
                    ));
                }
            };
            let name = inner.get("name").and_then(Value::as_str).unwrap_or_default();
            check_name(name).map_err(|problem| {
                ApiError::invalid(format!("{param}.json_schema.name"), format!("{param}.json_schema.name: {problem}"))
            })?;
            match inner.get("schema") {
                Some(schema @ (Value::Object(_) | Value::Bool(_))) => {
                    Ok(Some((Constraint::JsonSchema(schema.clone()), param)))
                }
                None | Some(Value::Null) => Ok(Some((Constraint::JsonObject, param))),
                Some(other) => Err(ApiError::invalid(
                    format!("{param}.json_schema.schema"),
                    format!("{param}.json_schema.schema: expected a JSON schema, found {}", kind(other)),
                )),
            }
        }
        Some(other) => Err(ApiError::invalid(
            format!("{param}.type"),
            format!("{param}.type: {other:?} is none of text, json_object, json_schema"),
        )),
        None => Err(ApiError::invalid(
            format!("{param}.type"),
            format!("{param}.type is missing: it must be text, json_object or json_schema"),
        )),
    }
}
