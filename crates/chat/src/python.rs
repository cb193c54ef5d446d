//! The environment that templates expect: Jinja2's, with Python's methods, and what transformers adds.

use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior};
use minijinja_contrib::pycompat;

use crate::clock::Clock;
use crate::json::{Style, as_float, dumps, float_repr};
use crate::meter;
use crate::strings;
use crate::template::Limits;

/// What `raise_exception` was called with; found again in the chain of the engine's errors.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Raised(pub String);

/// Filters of the engine that Jinja2 lacks, and those that build values which nothing pays for and no template uses.
const NOT_JINJA: [&str; 8] = ["chain", "zip", "split", "lines", "bool", "batch", "slice", "pprint"];

/// An environment without templates.
///
/// # Errors
/// None in practice: the syntax is the usual one.
pub fn environment(limits: &Limits, clock: Clock) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    add_builtins(&mut env);
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_formatter(write_value);
    env.set_recursion_limit(limits.recursion);
    env.set_fuel(Some(limits.fuel));
    env.set_unknown_method_callback(call_method);
    env.add_function("raise_exception", |state: &State<'_, '_>, message: Value| -> Result<Value, Error> {
        let message = text_of(state, &message)?;
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    env.add_function("strftime_now", move |format: &str| clock.format(format));
    Ok(env)
}

fn add_builtins(env: &mut Environment<'static>) {
    // A fresh environment holds all built-in filters and tests; those below act as Jinja2's where they differ.
    env.add_filter(meter::FILTER, |state: &State<'_, '_>, value: Value| {
        measure(state, &value)?;
        // The engine adds lists lazily; a sum of sums of sums would be walked through all of them, again and again.
        Ok::<_, Error>(if value.kind() == ValueKind::Iterable { value.try_iter()?.collect() } else { value })
    });
    env.add_filter("tojson", to_json);
    env.add_filter("string", |state: &State<'_, '_>, value: Value| text_of(state, &value));
    env.add_filter("trim", |state: &State<'_, '_>, value: Value, chars: Option<String>| {
        let text = text_of(state, &value)?;
        Ok::<_, Error>(strings::strip(&text, chars.as_deref(), strings::Ends::Both).to_owned())
    });
    env.add_filter("sum", sum);
    env.add_function("dict", dict);
    env.add_filter("join", join);
    env.add_filter("default", default);
    env.add_filter("d", default);
    env.add_filter("int", to_int);
    env.add_filter("float", to_float);
    env.add_filter("escape", escape);
    env.add_filter("e", escape);
    env.add_filter("wordcount", |state: &State<'_, '_>, value: Value| {
        text_of(state, &value).map(|text| word_count(&text))
    });
    env.add_filter("length", length);
    env.add_filter("count", length);
    for name in NOT_JINJA {
        env.remove_filter(name);
    }
    env.remove_global("debug");
    env.add_test("sequence", |value: Value| {
        value.is_undefined() || matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String)
    });
}

/// Deepest nesting of values.
const MAX_DEPTH: usize = 200;

/// Pays for a value as a tree, however often it holds the same thing, and refuses what is nested too deeply or holds a
/// namespace, which could hold itself.
pub fn measure(state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    let mut units = 0;
    walk(state, value, 0, &mut units)?;
    state.consume_fuel(units / UNITS_PER_FUEL)
}

/// Parts of values that one unit of fuel pays for.
const UNITS_PER_FUEL: u64 = 4;

fn walk(state: &State<'_, '_>, value: &Value, depth: usize, units: &mut u64) -> Result<(), Error> {
    *units += 1 + value.as_str().map_or(0, |text| text.len() as u64 / 64);
    if *units >= 64 * UNITS_PER_FUEL {
        state.consume_fuel(*units / UNITS_PER_FUEL)?;
        *units %= UNITS_PER_FUEL;
    }
    let kind = value.kind();
    if !matches!(kind, ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) {
        return Ok(());
    }
    if depth == MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "a value is nested too deeply"));
    }
    let is_namespace =
        |value: &Value| value.as_object().is_some_and(|object| object.type_name().ends_with("Namespace"));
    for item in value.try_iter()? {
        let inner = if kind == ValueKind::Map { value.get_item(&item)? } else { item };
        if is_namespace(&inner) {
            return Err(Error::new(ErrorKind::InvalidOperation, "a namespace cannot be part of another value"));
        }
        walk(state, &inner, depth + 1, units)?;
    }
    Ok(())
}

/// Text of a value as Python's `str` gives it, paid for.
pub fn text_of(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    measure(state, value)?;
    Ok(match as_float(value) {
        Some(x) => float_repr(x),
        None => value.to_string(),
    })
}

fn write_value(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let written = match (value.as_str(), as_float(value)) {
        (Some(text), _) => out.write_str(text),
        (None, Some(x)) => out.write_str(&float_repr(x)),
        (None, None) => {
            measure(state, value)?;
            write!(out, "{value}")
        }
    };
    written.map_err(Error::from)
}

/// `sum(attribute=None, start=0)`, for numbers: lists are added with `+`.
fn sum(values: Value, attribute: Option<Value>, start: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let attribute = match attribute {
        Some(attribute) => Some(attribute),
        None => kwargs.get::<Option<Value>>("attribute")?,
    };
    let start = match start {
        Some(start) => Some(start),
        None => kwargs.get::<Option<Value>>("start")?,
    };
    kwargs.assert_all_used()?;
    let bad = |value: &Value| {
        Error::new(ErrorKind::InvalidOperation, format!("cannot sum up a value of type {}", value.kind()))
    };
    let (mut whole, mut float) = (Some(0_i64), 0.0);
    let values = values.try_iter()?.map(|value| match attribute.as_ref().filter(|name| !name.is_none()) {
        Some(name) => value.get_item(name),
        None => Ok(value),
    });
    for value in start.map(Ok).into_iter().chain(values) {
        let value = value?;
        float += f64::try_from(value.clone()).map_err(|_| bad(&value))?;
        whole = whole.filter(|_| value.is_integer()).and_then(|sum| sum.checked_add(i64::try_from(value).ok()?));
    }
    Ok(whole.map_or_else(|| Value::from(float), Value::from))
}

fn length(state: &State<'_, '_>, value: Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    let n = value.len().ok_or_else(|| {
        Error::new(ErrorKind::InvalidOperation, format!("a value of type {} has no length", value.kind()))
    })?;
    state.consume_fuel(value.as_str().map_or(0, |text| text.len() as u64 / 64))?;
    Ok(n)
}

/// `default(value, fallback="", boolean=false)`.
fn default(value: Value, fallback: Option<Value>, boolean: Option<bool>, kwargs: Kwargs) -> Result<Value, Error> {
    let fallback = match fallback {
        Some(fallback) => Some(fallback),
        None => kwargs.get("default_value")?,
    };
    let boolean = match boolean {
        Some(boolean) => boolean,
        None => kwargs.get::<Option<bool>>("boolean")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    let absent = value.is_undefined() || (boolean && !value.is_true());
    Ok(if absent { fallback.unwrap_or_else(|| Value::from("")) } else { value })
}

/// `int(value, default=0, base=10)`: what is no number becomes the default.
fn to_int(value: Value, fallback: Option<Value>, base: Option<u32>, kwargs: Kwargs) -> Result<Value, Error> {
    let fallback = match fallback {
        Some(fallback) => fallback,
        None => kwargs.get::<Option<Value>>("default")?.unwrap_or_else(|| Value::from(0)),
    };
    let base = match base {
        Some(base) => base,
        None => kwargs.get::<Option<u32>>("base")?.unwrap_or(10),
    };
    kwargs.assert_all_used()?;
    if !(2..=36).contains(&base) {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("no numbers have the base {base}")));
    }
    let number = match value.as_str() {
        Some(text) => {
            let text = strings::strip(text, None, strings::Ends::Both);
            match i64::from_str_radix(text, base) {
                Ok(whole) => Some(Value::from(whole)),
                Err(_) => text.parse().ok().and_then(truncated),
            }
        }
        None if value.kind() == ValueKind::Bool => Some(Value::from(i64::from(value.is_true()))),
        None => as_float(&value).map_or_else(|| value.is_number().then(|| value.clone()), truncated),
    };
    Ok(number.unwrap_or(fallback))
}

/// The whole part of a float.
fn truncated(x: f64) -> Option<Value> {
    let whole = x.trunc();
    // Beyond 2^63 nothing in a template is a count.
    (whole.abs() < 9.2e18).then(|| Value::from(whole as i64))
}

/// `float(value, default=0.0)`.
fn to_float(value: Value, fallback: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let fallback = match fallback {
        Some(fallback) => fallback,
        None => kwargs.get::<Option<Value>>("default")?.unwrap_or_else(|| Value::from(0.0)),
    };
    kwargs.assert_all_used()?;
    let number = match value.as_str() {
        Some(text) => strings::strip(text, None, strings::Ends::Both).parse::<f64>().ok(),
        None if value.kind() == ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        None if value.is_number() => f64::try_from(value).ok(),
        None => None,
    };
    Ok(number.map_or(fallback, Value::from))
}

/// HTML's five characters, as Jinja2's library writes them.
fn escape(state: &State<'_, '_>, value: Value) -> Result<String, Error> {
    let mut out = String::new();
    for c in text_of(state, &value)?.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
    Ok(out)
}

/// Runs of letters, digits and underscores.
fn word_count(text: &str) -> usize {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count()
}

fn join(state: &State<'_, '_>, values: Value, separator: Option<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let separator = match separator {
        Some(separator) => Some(separator),
        None => kwargs.get("d")?,
    };
    let separator = separator.map(|separator| text_of(state, &separator)).transpose()?.unwrap_or_default();
    let attribute: Option<Value> = kwargs.get("attribute")?;
    kwargs.assert_all_used()?;
    let mut out = String::new();
    for (place, value) in values.try_iter()?.enumerate() {
        let before = out.len();
        if place > 0 {
            out.push_str(&separator);
        }
        let value = match &attribute {
            Some(attribute) => value.get_item(attribute)?,
            None => value,
        };
        out.push_str(&text_of(state, &value)?);
        state.consume_fuel(1 + (out.len() - before) as u64 / 64)?;
    }
    Ok(out)
}

/// The `tojson` filter of transformers: `json.dumps` with `ensure_ascii` off.
fn to_json(state: &State<'_, '_>, value: Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let named = ["ensure_ascii", "indent", "separators", "sort_keys"];
    if args.len() > named.len() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let argument = |place: usize| -> Result<Option<Value>, Error> {
        match args.get(place) {
            Some(value) => Ok(Some(value.clone())),
            None => kwargs.get(named[place]),
        }
    };
    let indent = match argument(1)? {
        None => None,
        Some(value) if value.is_none() => None,
        Some(value) => Some(match value.as_str() {
            Some(text) => text.to_owned(),
            None => {
                let wide = i64::try_from(value)?;
                if wide > 64 {
                    return Err(Error::new(ErrorKind::InvalidOperation, format!("an indent of {wide} is too wide")));
                }
                " ".repeat(usize::try_from(wide).unwrap_or(0))
            }
        }),
    };
    let (item_separator, key_separator) = match argument(2)? {
        Some(pair) if !pair.is_none() => {
            (text_of(state, &pair.get_item_by_index(0)?)?, text_of(state, &pair.get_item_by_index(1)?)?)
        }
        _ if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        _ => (", ".to_owned(), ": ".to_owned()),
    };
    let style = Style {
        ensure_ascii: argument(0)?.is_some_and(|value| value.is_true()),
        sort_keys: argument(3)?.is_some_and(|value| value.is_true()),
        indent,
        item_separator,
        key_separator,
    };
    kwargs.assert_all_used()?;
    dumps(state, &value, &style)
}

/// Methods of Python's types.
fn call_method(state: &mut State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match value.as_str() {
        Some(text) => string_method(text, method, args)?,
        None => match (value.kind(), method) {
            (ValueKind::Seq, "index") => Some(index_of(value, args)?),
            (ValueKind::Map | ValueKind::Seq, "copy") => {
                let () = from_args(args)?;
                Some(value.clone())
            }
            _ => None,
        },
    };
    match own {
        Some(result) => Ok(result),
        None => pycompat::unknown_method_callback(state, value, method, args),
    }
}

/// `dict(...)`.
fn dict(state: &State<'_, '_>, base: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let mut pairs: Vec<(Value, Value)> = Vec::new();
    if let Some(base) = base {
        for item in base.try_iter()? {
            pairs.push(match base.kind() {
                ValueKind::Map => (item.clone(), base.get_item(&item)?),
                _ => (item.get_item_by_index(0)?, item.get_item_by_index(1)?),
            });
        }
    }
    for name in kwargs.args() {
        pairs.push((Value::from(name), kwargs.get(name)?));
    }
    let value = Value::from_pairs(pairs);
    measure(state, &value)?;
    Ok(value)
}

fn index_of(list: &Value, args: &[Value]) -> Result<Value, Error> {
    let (wanted,): (Value,) = from_args(args)?;
    match list.try_iter()?.position(|item| item == wanted) {
        Some(place) => Ok(Value::from(place)),
        None => Err(Error::new(ErrorKind::InvalidOperation, format!("{wanted} is not in the list"))),
    }
}

/// The methods of `str` that differ from those of the compatibility library, or that it lacks.
fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    use strings::Ends;
    let strip = |ends: Ends| -> Result<Option<Value>, Error> {
        let (chars,): (Option<String>,) = from_args(args)?;
        Ok(Some(Value::from(strings::strip(text, chars.as_deref(), ends))))
    };
    let split = |from: strings::From| -> Result<Option<Value>, Error> {
        let (separator, most, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
        let separator = match separator {
            Some(separator) => Some(separator),
            None => kwargs.get("sep")?,
        };
        let separator = separator.filter(|s| !s.is_none());
        let separator = separator.as_ref().map(|s| s.as_str().ok_or_else(|| not_text("split"))).transpose()?;
        let most = match most {
            Some(most) => Some(most),
            None => kwargs.get("maxsplit")?,
        };
        kwargs.assert_all_used()?;
        if separator == Some("") {
            return Err(Error::new(ErrorKind::InvalidOperation, "split needs a separator that is not empty"));
        }
        let most = usize::try_from(most.unwrap_or(-1)).unwrap_or(usize::MAX);
        let parts = strings::split(text, separator, most, from);
        Ok(Some(parts.into_iter().map(Value::from).collect()))
    };
    match method {
        "strip" => strip(Ends::Both),
        "lstrip" => strip(Ends::Start),
        "rstrip" => strip(Ends::End),
        "split" => split(strings::From::Start),
        "rsplit" => split(strings::From::End),
        "splitlines" => {
            let (keep, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = match keep {
                Some(keep) => keep,
                None => kwargs.get::<Option<bool>>("keepends")?.unwrap_or(false),
            };
            kwargs.assert_all_used()?;
            Ok(Some(strings::lines(text, keep).into_iter().map(Value::from).collect()))
        }
        "removeprefix" | "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            let rest = if method == "removeprefix" { text.strip_prefix(part) } else { text.strip_suffix(part) };
            Ok(Some(Value::from(rest.unwrap_or(text))))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let parts = match method {
                "partition" => text.split_once(separator).map(|(a, b)| [a, separator, b]).unwrap_or([text, "", ""]),
                _ => text.rsplit_once(separator).map(|(a, b)| [a, separator, b]).unwrap_or(["", "", text]),
            };
            Ok(Some(Value::from(Tuple::from(parts.map(Value::from)))))
        }
        "title" => {
            let () = from_args(args)?;
            Ok(Some(Value::from(strings::title(text))))
        }
        "index" => {
            let (part,): (&str,) = from_args(args)?;
            match text.find(part) {
                Some(at) => Ok(Some(Value::from(text[..at].chars().count()))),
                None => Err(Error::new(ErrorKind::InvalidOperation, format!("{part:?} is not in the text"))),
            }
        }
        "casefold" => {
            let () = from_args(args)?;
            Ok(Some(Value::from(text.to_lowercase())))
        }
        _ => Ok(None),
    }
}

fn not_text(method: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{method} takes a text"))
}

/// Shares texts with the engine without copying them again.
pub fn shared(text: &str) -> Value {
    Value::from(Arc::<str>::from(text))
}
