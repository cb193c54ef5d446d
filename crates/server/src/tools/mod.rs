//! Functions that a model may call: what it is told of them, and how its calls are found in what it writes.
//!
//! Models write calls the way they were trained to, which their chat templates show. A model whose template knows no
//! functions is told of them in the system message, in the most common form.

mod scan;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use verve_chat::{ChatFormat, Content, Message, Role};

use crate::error::ApiError;
use crate::parse::kind;

pub use scan::{CallScanner, Piece};

/// Most functions of a request.
const MAX_TOOLS: usize = 128;

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The schema of its arguments.
    pub parameters: Value,
    /// The tool as the request has it.
    pub json: Value,
}

/// Whether functions are to be called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// None.
    None,
    /// As the model likes.
    #[default]
    Auto,
    /// One of them.
    Required,
    /// This one.
    Named(String),
}

/// A call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Call {
    /// What the answer to it refers to.
    pub id: String,
    /// Which function.
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

/// How a model writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallForm {
    /// `<tool_call>{"name": ..., "arguments": ...}</tool_call>`, as Hermes and Qwen do.
    Tagged,
    /// A list of such objects behind a special token, as Mistral does.
    List,
    /// `{"name": ..., "parameters": ...}` alone, as Llama 3 does.
    Bare,
}

/// Reads `tools`.
///
/// # Errors
/// 400 that says which tool is wrong.
pub fn tools(value: &Value) -> Result<Vec<Tool>, ApiError> {
    let Value::Array(items) = value else {
        return Err(ApiError::invalid("tools", format!("tools: expected a list, found {}", kind(value))));
    };
    if items.len() > MAX_TOOLS {
        return Err(ApiError::invalid(
            "tools",
            format!("tools has {} entries, at most {MAX_TOOLS} are taken", items.len()),
        ));
    }
    let tools = items.iter().enumerate().map(|(at, item)| tool(at, item)).collect::<Result<Vec<_>, _>>()?;
    for (at, tool) in tools.iter().enumerate() {
        if tools[..at].iter().any(|other| other.name == tool.name) {
            return Err(ApiError::invalid(format!("tools[{at}]"), format!("two tools are named {:?}", tool.name)));
        }
    }
    Ok(tools)
}

fn tool(at: usize, item: &Value) -> Result<Tool, ApiError> {
    let wrong = |field: &str, problem: String| {
        ApiError::invalid(format!("tools[{at}]{field}"), format!("tools[{at}]{field}: {problem}"))
    };
    match item.get("type").and_then(Value::as_str) {
        Some("function") => {}
        Some(other) => return Err(wrong(".type", format!("{other:?} is not supported here, only \"function\" is"))),
        None => return Err(wrong(".type", "missing; it must be \"function\"".to_owned())),
    }
    // The responses endpoint has the function's fields beside the type.
    let (function, prefix) = match item.get("function") {
        Some(function) => (function, ".function"),
        None => (item, ""),
    };
    let name = function.get("name").and_then(Value::as_str).unwrap_or_default();
    check_name(name).map_err(|problem| wrong(&format!("{prefix}.name"), problem))?;
    let parameters = match function.get("parameters") {
        None | Some(Value::Null) => json!({"type": "object", "properties": {}}),
        Some(parameters @ Value::Object(_)) => parameters.clone(),
        Some(other) => {
            return Err(wrong(
                &format!("{prefix}.parameters"),
                format!("expected a JSON schema, found {}", kind(other)),
            ));
        }
    };
    for (field, expected, fits) in [
        ("description", "a string", Value::is_string as fn(&Value) -> bool),
        ("strict", "true or false", Value::is_boolean),
    ] {
        if let Some(other) = function.get(field).filter(|value| !value.is_null() && !fits(value)) {
            let problem = format!("expected {expected}, found {}", kind(other));
            return Err(wrong(&format!("{prefix}.{field}"), problem));
        }
    }
    let mut described = Map::new();
    described.insert("name".to_owned(), name.into());
    if let Some(description) = function.get("description").filter(|text| !text.is_null()) {
        described.insert("description".to_owned(), description.clone());
    }
    described.insert("parameters".to_owned(), parameters.clone());
    Ok(Tool { name: name.to_owned(), parameters, json: json!({"type": "function", "function": described}) })
}

/// Checks a name as the public API has them.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_good = (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if is_good { Ok(()) } else { Err(format!("{name:?} must be 1 to 64 of the characters a-z, A-Z, 0-9, _ and -")) }
}

/// Reads `tool_choice`; takes tools away that it does not allow.
///
/// # Errors
/// 400 for a choice that there is not.
pub fn choice(value: Option<&Value>, tools: &mut Vec<Tool>) -> Result<ToolChoice, ApiError> {
    let wrong = |problem: String| ApiError::invalid("tool_choice", format!("tool_choice: {problem}"));
    let choice = match value {
        None | Some(Value::Null) => return Ok(if tools.is_empty() { ToolChoice::None } else { ToolChoice::Auto }),
        Some(Value::String(word)) => match word.as_str() {
            "none" => ToolChoice::None,
            "auto" => ToolChoice::Auto,
            "required" => ToolChoice::Required,
            other => return Err(wrong(format!("{other:?} is none of none, auto, required"))),
        },
        Some(Value::Object(object)) if object.get("type").and_then(Value::as_str) == Some("allowed_tools") => {
            // The responses endpoint has the fields beside the type.
            let fields = object.get("allowed_tools").and_then(Value::as_object).unwrap_or(object);
            let names = allowed(fields.get("tools")).ok_or_else(|| {
                wrong(
                    "allowed_tools has a list of tools: {\"type\": \"function\", \"function\": {\"name\": ...}}"
                        .to_owned(),
                )
            })?;
            if let Some(name) = names.iter().find(|name| !tools.iter().any(|tool| tool.name == **name)) {
                return Err(wrong(format!("{name:?} is not among the tools")));
            }
            tools.retain(|tool| names.contains(&tool.name));
            match fields.get("mode").and_then(Value::as_str) {
                Some("auto") if tools.is_empty() => ToolChoice::None,
                Some("auto") => ToolChoice::Auto,
                Some("required") => ToolChoice::Required,
                _ => return Err(wrong("the mode of allowed_tools must be auto or required".to_owned())),
            }
        }
        Some(Value::Object(object)) => {
            let function = object.get("function").and_then(Value::as_object).unwrap_or(object);
            match (object.get("type").and_then(Value::as_str), function.get("name").and_then(Value::as_str)) {
                (Some("function"), Some(name)) => ToolChoice::Named(name.to_owned()),
                _ => {
                    return Err(wrong(
                        "expected none, auto, required, an object of the type allowed_tools, or {\"type\": \"function\", \"function\": {\"name\": ...}}"
                            .to_owned(),
                    ));
                }
            }
        }
        Some(other) => return Err(wrong(format!("expected a string or an object, found {}", kind(other)))),
    };
    match &choice {
        ToolChoice::Named(name) if !tools.iter().any(|tool| tool.name == *name) => {
            Err(wrong(format!("{name:?} is not among the tools")))
        }
        ToolChoice::Required if tools.is_empty() => Err(wrong("\"required\" without tools".to_owned())),
        _ => Ok(choice),
    }
}

/// Names in a list of tools.
fn allowed(list: Option<&Value>) -> Option<Vec<String>> {
    let name = |tool: &Value| {
        let function = tool.get("function").unwrap_or(tool);
        function.get("name").and_then(Value::as_str).map(str::to_owned)
    };
    list?.as_array()?.iter().map(name).collect()
}

/// How a model writes calls, by its template.
pub fn form(format: &ChatFormat) -> CallForm {
    let template = format.template_for(true);
    let source = template.source();
    if !template.abilities().tools || source.contains("<tool_call>") {
        CallForm::Tagged
    } else if source.contains("[TOOL_CALLS]") {
        CallForm::List
    } else if source.contains("parameters") && source.contains("python_tag") {
        CallForm::Bare
    } else {
        CallForm::Tagged
    }
}

impl CallForm {
    /// What a call begins with, where the model must make one.
    pub fn opening(self) -> &'static str {
        match self {
            Self::Tagged => "<tool_call>\n",
            Self::List => "[TOOL_CALLS]",
            Self::Bare => "",
        }
    }

    /// The schema of a call behind its opening.
    pub fn schema(self, tools: &[&Tool]) -> Value {
        let arguments = if self == Self::Bare { "parameters" } else { "arguments" };
        let call = |tool: &&Tool| {
            json!({
                "type": "object",
                "properties": { "name": { "const": tool.name }, arguments: tool.parameters },
                "required": ["name", arguments],
                "additionalProperties": false,
            })
        };
        let calls: Vec<Value> = tools.iter().map(call).collect();
        let call = match &calls[..] {
            [only] => only.clone(),
            _ => json!({ "anyOf": calls }),
        };
        match self {
            Self::List => json!({ "type": "array", "items": call, "minItems": 1, "maxItems": 1 }),
            _ => call,
        }
    }
}

/// What a model whose template knows no functions is told of them.
pub fn introduction(tools: &[Tool]) -> String {
    let mut text = String::from(
        "You may call one or more functions to help with the user's request. The functions, one to a line:\n<tools>\n",
    );
    for tool in tools {
        text.push_str(&tool.json.to_string());
        text.push('\n');
    }
    text.push_str(
        "</tools>\n\nTo call a function, answer with a JSON object with its name and arguments within \
         <tool_call></tool_call> tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": <arguments>}\n</tool_call>",
    );
    text
}

/// Messages as a template shows them that knows neither functions nor calls.
pub fn without_tools(messages: Vec<Message>, tools: &[Tool], shows_system: bool) -> Vec<Message> {
    let mut out: Vec<Message> = Vec::with_capacity(messages.len() + 1);
    if !tools.is_empty() {
        let role = if shows_system { Role::System } else { Role::User };
        out.push(Message::new(role, introduction(tools)));
    }
    for mut message in messages {
        match message.role {
            Role::System | Role::Developer if out.len() == 1 && !tools.is_empty() => {
                // One system message, the caller's words first.
                let text = format!("{}\n\n{}", message.text(), out[0].text());
                out[0].content = Some(Content::Text(text));
            }
            Role::Tool => {
                out.push(Message::new(Role::User, format!("<tool_response>\n{}\n</tool_response>", message.text())));
            }
            Role::Assistant if message.tool_calls.is_some() => {
                let mut text = message.text();
                for call in message.tool_calls.take().unwrap_or_default() {
                    if !text.is_empty() {
                        text.push('\n');
                    }
                    let arguments = match call.function.arguments {
                        Value::String(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
                        other => other,
                    };
                    let call = json!({ "name": call.function.name, "arguments": arguments });
                    text.push_str(&format!("<tool_call>\n{call}\n</tool_call>"));
                }
                message.content = Some(Content::Text(text));
                out.push(message);
            }
            _ => out.push(message),
        }
    }
    out
}

/// A call in the public API's form.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct CallObject {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    function: FunctionObject,
}

/// Which function a call is of, and with what.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct FunctionObject {
    name: String,
    arguments: String,
}

impl CallObject {
    /// The call without what newer clients refer to it by.
    pub fn into_function(self) -> FunctionObject {
        self.function
    }
}

impl From<&Call> for CallObject {
    fn from(call: &Call) -> Self {
        let function = FunctionObject { name: call.name.clone(), arguments: call.arguments.clone() };
        Self { id: call.id.clone(), kind: "function".to_owned(), function }
    }
}
