//! What a template can do with messages, found by rendering short ones, and messages put into the form it takes.
//!
//! Clients of the OpenAI API send content as parts, arguments of calls as strings and `developer` messages. Templates were
//! mostly written for content that is one text, arguments that are objects, and `system` messages, a few for the opposite.

use serde_json::{Map, Value, json};

use crate::guard::Guard;
use crate::message::{Content, Message, Role};
use crate::template::{ChatInput, ChatTemplate, Ending};

/// The form of something in a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A string.
    Text,
    /// A list of parts, or an object.
    Structured,
}

/// What a template can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Takes content that is one string.
    pub text_content: bool,
    /// Takes content that is a list of parts.
    pub part_content: bool,
    /// Shows a system message.
    pub system: bool,
    /// Has a word for the `developer` role.
    pub developer: bool,
    /// Shows the functions a model may call.
    pub tools: bool,
    /// Shows calls of functions, with arguments in this form.
    pub tool_calls: Option<Form>,
}

/// Texts that no template writes by itself.
const NEEDLE: &str = "verve-needle-1";
const OTHER: &str = "verve-needle-2";

/// Finds out what a template can do.
pub(crate) fn abilities(template: &ChatTemplate) -> Abilities {
    let shows = |messages: &[Value], tools: Option<&[Value]>, needle: &str| {
        let input = ChatInput { tools, ..ChatInput::default() };
        template.render_json(messages, &input, &Guard::default()).is_ok_and(|text| {
            text.contains(needle) && !text.contains("'type': 'text'") && !text.contains("\"type\": \"text\"")
        })
    };
    let user = json!({"role": "user", "content": OTHER});
    let parts = json!({"role": "user", "content": [{"type": "text", "text": OTHER}]});
    let text_content = shows(std::slice::from_ref(&user), None, OTHER);
    let part_content = shows(std::slice::from_ref(&parts), None, OTHER);
    let user = if text_content || !part_content { user } else { parts };
    let system = match (text_content, part_content) {
        (false, true) => json!({"role": "system", "content": [{"type": "text", "text": NEEDLE}]}),
        _ => json!({"role": "system", "content": NEEDLE}),
    };
    let tool = json!({"type": "function", "function": {
        "name": NEEDLE, "description": "d", "parameters": {"type": "object", "properties": {}}
    }});
    let calls = |arguments: Value| {
        let call = json!({"id": "call00001", "type": "function", "function": {"name": "f", "arguments": arguments}});
        [
            user.clone(),
            json!({"role": "assistant", "content": "", "tool_calls": [call]}),
            json!({"role": "tool", "tool_call_id": "call00001", "name": "f", "content": OTHER}),
        ]
    };
    let object = json!({"key": NEEDLE});
    let tool_calls = if shows(&calls(object.clone()), None, NEEDLE) {
        Some(Form::Structured)
    } else if shows(&calls(Value::String(object.to_string())), None, NEEDLE) {
        Some(Form::Text)
    } else {
        None
    };
    Abilities {
        text_content,
        part_content,
        system: shows(&[system, user.clone()], None, NEEDLE),
        developer: template.source().contains("developer"),
        tools: shows(std::slice::from_ref(&user), Some(std::slice::from_ref(&tool)), NEEDLE),
        tool_calls,
    }
}

/// Messages in the form that a template takes.
pub(crate) fn adapt(messages: &[Message], abilities: &Abilities) -> Vec<Value> {
    messages.iter().map(|message| Value::Object(adapt_one(message, abilities))).collect()
}

fn adapt_one(message: &Message, abilities: &Abilities) -> Map<String, Value> {
    let mut out = Map::new();
    let role = match message.role {
        Role::Developer if !abilities.developer => Role::System,
        role => role,
    };
    let thought = message.reasoning_content.clone().or_else(|| match message.extra.get("thinking") {
        Some(Value::String(text)) => Some(text.clone()),
        _ => None,
    });
    // As transformers does: templates look for a model's thoughts under either name.
    if let Some(thought) = &thought {
        out.insert("thinking".to_owned(), Value::String(thought.clone()));
    }
    out.insert("role".to_owned(), Value::String(role.name().to_owned()));
    if let Some(content) = &message.content {
        out.insert("content".to_owned(), adapt_content(content, abilities));
    }
    if let Some(name) = &message.name {
        out.insert("name".to_owned(), Value::String(name.clone()));
    }
    if let Some(thought) = thought {
        out.insert("reasoning_content".to_owned(), Value::String(thought));
    }
    if let Some(calls) = &message.tool_calls {
        let calls = calls.iter().map(|call| {
            let mut value = Map::new();
            if let Some(id) = &call.id {
                value.insert("id".to_owned(), Value::String(id.clone()));
            }
            value.insert("type".to_owned(), Value::String(call.kind.clone()));
            let arguments = adapt_arguments(&call.function.arguments, abilities);
            value.insert("function".to_owned(), json!({"name": call.function.name, "arguments": arguments}));
            Value::Object(value)
        });
        out.insert("tool_calls".to_owned(), calls.collect());
    }
    if let Some(id) = &message.tool_call_id {
        out.insert("tool_call_id".to_owned(), Value::String(id.clone()));
    }
    for (key, value) in &message.extra {
        if !value.is_null() && !out.contains_key(key) {
            out.insert(key.clone(), value.clone());
        }
    }
    out
}

fn adapt_content(content: &Content, abilities: &Abilities) -> Value {
    match content {
        Content::Text(text) if !abilities.text_content && abilities.part_content => {
            json!([{"type": "text", "text": text}])
        }
        Content::Parts(parts) if abilities.part_content => json!(parts),
        content => Value::String(content.text()),
    }
}

fn adapt_arguments(arguments: &Value, abilities: &Abilities) -> Value {
    match (arguments, abilities.tool_calls) {
        (Value::String(text), Some(Form::Structured)) => match serde_json::from_str(text) {
            Ok(object @ Value::Object(_)) => object,
            _ => arguments.clone(),
        },
        (Value::Object(_), Some(Form::Text)) => Value::String(arguments.to_string()),
        _ => arguments.clone(),
    }
}

/// What the template writes after an assistant's words, up to the end of the first token-like piece: `<|im_end|>`. `None`
/// where nothing but white space follows.
pub(crate) fn end_of_turn(template: &ChatTemplate) -> Option<String> {
    let messages = [Message::new(Role::User, OTHER), Message::new(Role::Assistant, NEEDLE)];
    let input = ChatInput { ending: Ending::Closed, ..ChatInput::new(&messages) };
    let text = template.render(&input).ok()?;
    let after = text.rsplit_once(NEEDLE)?.1.trim_start();
    let eos = template.specials().eos.as_deref().filter(|eos| !eos.is_empty() && after.starts_with(eos));
    if let Some(eos) = eos {
        return Some(eos.to_owned());
    }
    let closing = match after.chars().next()? {
        '<' => '>',
        '[' => ']',
        _ => return after.split_whitespace().next().map(str::to_owned),
    };
    let end = after.find(closing).map_or(after.len(), |end| end + closing.len_utf8());
    Some(after[..end].to_owned())
}
