//! Finding calls in an answer as it is written.

use serde::de::IgnoredAny;
use serde_json::Value;

use super::{Call, CallForm, Tool};

/// What opens and closes a call that is tagged.
const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text.
    Text(String),
    /// A call of a function.
    Call(Call),
}

/// Takes an answer in parts and tells calls from text. What it gives does not depend on how the answer is cut. What looks
/// like a call but is none of a known function is text.
#[derive(Debug)]
pub struct CallScanner {
    form: CallForm,
    names: Vec<String>,
    /// Not yet known to be one or the other.
    held: String,
    /// Whether `held` is the inside of a call.
    inside: bool,
    /// Whether anything but white space was given.
    has_text: bool,
    /// Calls found.
    n_calls: usize,
}

impl CallScanner {
    /// For an answer of a model that writes calls of these tools in this form. `inside` where the prompt has opened one.
    pub fn new(form: CallForm, tools: &[Tool], inside: bool) -> Self {
        let names = tools.iter().map(|tool| tool.name.clone()).collect();
        Self { form, names, held: String::new(), inside, has_text: false, n_calls: 0 }
    }

    /// More of the answer.
    pub fn push(&mut self, text: &str, out: &mut Vec<Piece>) {
        self.held.push_str(text);
        if self.form != CallForm::Tagged {
            // Such an answer is calls from its first letter on, or it has none.
            let start = self.held.trim_start();
            let may_be_calls = self.inside || start.is_empty() || (!self.has_text && start.starts_with(['{', '[']));
            if !may_be_calls {
                self.give_text(self.held.len(), out);
            }
            return;
        }
        loop {
            if self.inside {
                let Some(end) = self.held.find(CLOSE) else { return };
                let inner = self.held[..end].to_owned();
                let raw: String = self.held.drain(..end + CLOSE.len()).collect();
                self.inside = false;
                match self.call(inner.trim()) {
                    Some(call) => self.give_call(call, out),
                    None => self.text(format!("{OPEN}{raw}"), out),
                }
            } else if let Some(start) = self.held.find(OPEN) {
                self.give_text(start, out);
                self.held.drain(..OPEN.len());
                self.inside = true;
            } else {
                let open = longest_beginning(&self.held, OPEN);
                self.give_text(self.held.len() - open, out);
                return;
            }
        }
    }

    /// The end of the answer.
    pub fn finish(&mut self, out: &mut Vec<Piece>) {
        let held = std::mem::take(&mut self.held);
        let text = held.trim();
        if text.is_empty() {
            if !self.inside && self.n_calls == 0 {
                self.text(held, out);
            }
            return;
        }
        let is_candidate = self.inside || (self.form != CallForm::Tagged && text.starts_with(['{', '[']));
        let calls = if is_candidate { self.calls(text.trim_end_matches(CLOSE).trim()) } else { None };
        match calls {
            Some(calls) => calls.into_iter().for_each(|call| self.give_call(call, out)),
            None if self.inside && self.form == CallForm::Tagged => self.text(format!("{OPEN}{held}"), out),
            None => self.text(held, out),
        }
    }

    fn give_text(&mut self, end: usize, out: &mut Vec<Piece>) {
        let text: String = self.held.drain(..end).collect();
        self.text(text, out);
    }

    fn text(&mut self, text: String, out: &mut Vec<Piece>) {
        // White space around calls belongs to them.
        if text.is_empty() || (self.n_calls > 0 && text.trim().is_empty()) {
            return;
        }
        self.has_text |= !text.trim().is_empty();
        match out.last_mut() {
            Some(Piece::Text(last)) => last.push_str(&text),
            _ => out.push(Piece::Text(text)),
        }
    }

    fn give_call(&mut self, call: Call, out: &mut Vec<Piece>) {
        self.n_calls += 1;
        out.push(Piece::Call(call));
    }

    fn call(&self, text: &str) -> Option<Call> {
        let members = members(text)?;
        let member = |name: &str| members.iter().find(|(known, _)| known == name).map(|(_, value)| *value);
        let name: String = serde_json::from_str(member("name")?).ok()?;
        if !self.names.contains(&name) {
            return None;
        }
        let arguments = match member("arguments").or_else(|| member("parameters")) {
            None | Some("null") => "{}".to_owned(),
            Some(value) => match serde_json::from_str(value) {
                Ok(Value::String(text)) => text,
                Ok(arguments) => arguments.to_string(),
                Err(_) => value.to_owned(),
            },
        };
        Some(Call { id: crate::ids::fresh("call_"), name, arguments })
    }

    /// One call, or a list of them.
    fn calls(&self, text: &str) -> Option<Vec<Call>> {
        match elements(text) {
            Some(items) if !items.is_empty() => items.iter().map(|item| self.call(item)).collect(),
            _ => self.call(text).map(|call| vec![call]),
        }
    }
}

/// The first JSON value of a text, as it stands there, and what follows. A number may be larger than any that a program
/// has: models write such numbers, and whoever reads them decides.
fn first_value(text: &str) -> Option<(&str, &str)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    let (value, rest) = text.split_at(values.byte_offset());
    Some((value.trim(), rest.trim_start()))
}

/// Names and values of a JSON object.
fn members(text: &str) -> Option<Vec<(String, &str)>> {
    let (mut rest, mut out) = (text.trim().strip_prefix('{')?.trim_start(), Vec::new());
    loop {
        let (name, after) = first_value(rest)?;
        let (value, after) = first_value(after.strip_prefix(':')?)?;
        out.push((serde_json::from_str(name).ok()?, value));
        match after.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None => return (after == "}").then_some(out),
        }
    }
}

/// Values of a JSON list.
fn elements(text: &str) -> Option<Vec<&str>> {
    let (mut rest, mut out) = (text.trim().strip_prefix('[')?.trim_start(), Vec::new());
    loop {
        let (value, after) = first_value(rest)?;
        out.push(value);
        match after.strip_prefix(',') {
            Some(more) => rest = more.trim_start(),
            None => return (after == "]").then_some(out),
        }
    }
}

/// Length of the longest end of `text` that `word` begins with.
fn longest_beginning(text: &str, word: &str) -> usize {
    (1..word.len()).rev().find(|&n| text.ends_with(&word[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tool(name: &str) -> Tool {
        Tool { name: name.to_owned(), parameters: json!({}), json: json!({}) }
    }

    /// What comes of a text cut at these places: text joined, calls without their names.
    fn scan(form: CallForm, inside: bool, text: &str, cuts: &[usize]) -> (String, Vec<(String, String)>) {
        let mut scanner = CallScanner::new(form, &[tool("add"), tool("now")], inside);
        let mut pieces = Vec::new();
        let mut from = 0;
        for &cut in cuts.iter().chain([&text.len()]) {
            scanner.push(&text[from..cut], &mut pieces);
            from = cut;
        }
        scanner.finish(&mut pieces);
        let mut out = (String::new(), Vec::new());
        for piece in pieces {
            match piece {
                Piece::Text(text) => out.0.push_str(&text),
                Piece::Call(call) => out.1.push((call.name, call.arguments)),
            }
        }
        out
    }

    #[test]
    fn calls_are_found_however_the_answer_is_cut() {
        let add = || vec![("add".to_owned(), r#"{"a":1}"#.to_owned())];
        let call = r#"{"name": "add", "arguments": {"a": 1}}"#;
        let tagged = format!("<tool_call>\n{call}\n</tool_call>");
        let two = format!("Let me see.\n{tagged}\n<tool_call>{{\"name\":\"now\"}}</tool_call>\n");
        let cases = [
            (CallForm::Tagged, false, tagged.clone(), "", add()),
            (CallForm::Tagged, true, format!("{call}\n</tool_call>"), "", add()),
            (CallForm::Tagged, true, call.to_owned(), "", add()),
            (CallForm::Tagged, false, two, "Let me see.\n", [add(), vec![("now".into(), "{}".into())]].concat()),
            (
                CallForm::Tagged,
                true,
                "{\"arguments\" : {\"a\": 1e99999} , \"name\":\"add\", \"x\": [] }".to_owned(),
                "",
                vec![("add".to_owned(), "{\"a\": 1e99999}".to_owned())],
            ),
            (CallForm::List, true, format!("[{call} , {call}]"), "", [add(), add()].concat()),
            (CallForm::List, true, format!("[{call} {call}]"), &format!("[{call} {call}]"), vec![]),
            (CallForm::Tagged, false, "a < b <tool".to_owned(), "a < b <tool", vec![]),
            (CallForm::Tagged, false, "<tool_call>no</tool_call>!".to_owned(), "<tool_call>no</tool_call>!", vec![]),
            (CallForm::Tagged, false, "<tool_call>{".to_owned(), "<tool_call>{", vec![]),
            (CallForm::Tagged, false, call.to_owned(), call, vec![]),
            (CallForm::List, false, format!(" [{call}]"), "", add()),
            (CallForm::List, false, "[1, 2]".to_owned(), "[1, 2]", vec![]),
            (CallForm::Bare, false, r#"{"name": "add", "parameters": {"a": 1}}"#.to_owned(), "", add()),
            (CallForm::Bare, false, r#"{"name": "rm"}"#.to_owned(), r#"{"name": "rm"}"#, vec![]),
            (CallForm::Bare, false, format!("Well: {call}"), &format!("Well: {call}"), vec![]),
        ];
        for (form, inside, text, rest, calls) in &cases {
            let whole = scan(*form, *inside, text, &[]);
            assert_eq!(whole, (rest.to_string(), calls.clone()), "{form:?} {text}");
            for cut in 0..=text.len() {
                assert_eq!(scan(*form, *inside, text, &[cut]), whole, "{form:?} {text} cut at {cut}");
            }
            let every: Vec<usize> = (0..text.len()).collect();
            assert_eq!(scan(*form, *inside, text, &every), whole, "{form:?} {text} byte by byte");
        }
    }
}
