//! Settings in layers: flags before the environment before the file before defaults.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::args::{ServeArgs, ServeSettings};

/// What the names of environment variables begin with.
const PREFIX: &str = "VERVE_SERVE_";
/// The file that is read if it is there.
const FILE: &str = "verve.toml";
/// The file's table.
const TABLE: &str = "serve";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Default,
    File(PathBuf),
    Environment(String),
    Flag(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// All settings, each with its origin.
pub struct Merged {
    values: Map<String, Value>,
    origins: Vec<(String, Origin)>,
}

/// The value of each setting that nobody gives; `null` where that is a choice of its own.
fn defaults() -> Value {
    json!({
        "model": [], "alias": [], "host": "127.0.0.1", "port": 8080, "tls_cert": null, "tls_key": null, "keys": null,
        "api_key": null, "allow_anonymous": false, "cors_origin": [], "memory": null, "idle_unload": 0,
        "max_sequences": 16, "queue": 1024, "context": null, "cache_tokens": null, "template": null, "dtype": null,
        "activations": "int16", "kv_cache": null, "prompt_lookup": false, "max_body": "8MiB", "max_connections": 4096, "header_timeout": 10,
        "body_timeout": 30, "write_timeout": 30, "request_timeout": 600, "drain_timeout": 30, "stored_responses": 0,
        "log": "text", "log_text": false, "moderation": null,
    })
}

/// Names of the settings.
pub fn names() -> Vec<String> {
    match defaults() {
        Value::Object(map) => map.keys().cloned().collect(),
        _ => Vec::new(),
    }
}

impl Merged {
    /// Everything that is said anywhere.
    pub fn new(args: &ServeArgs) -> Result<Self> {
        Self::of(args, std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))))
    }

    fn of(args: &ServeArgs, environment: impl Iterator<Item = (String, String)>) -> Result<Self> {
        let Value::Object(values) = defaults() else { bail!("the defaults are no table") };
        let origins = values.keys().map(|name| (name.clone(), Origin::Default)).collect();
        let mut merged = Self { values, origins };
        if let Some((path, table)) = file(args.config.as_deref())? {
            merged.put(table, |_| Origin::File(path.clone()));
        }
        let environment = variables(environment)?;
        merged.put(environment, |name| Origin::Environment(format!("{PREFIX}{}", name.to_uppercase())));
        merged.put(given(&args.settings)?, |name| Origin::Flag(format!("--{}", name.replace('_', "-"))));
        Ok(merged)
    }

    fn put(&mut self, layer: Map<String, Value>, origin: impl Fn(&str) -> Origin) {
        for (name, value) in layer {
            if let Some((_, old)) = self.origins.iter_mut().find(|(known, _)| *known == name) {
                *old = origin(&name);
            }
            self.values.insert(name, value);
        }
    }

    /// The settings.
    pub fn settings(&self) -> Result<ServeSettings> {
        serde_json::from_value(Value::Object(self.values.clone())).context("the settings contradict themselves")
    }

    /// A table of names, values and origins. Secrets are not shown.
    pub fn table(&self) -> String {
        let shown = |name: &str| match &self.values[name] {
            Value::Null => "-".to_owned(),
            _ if name == "api_key" => "(not shown)".to_owned(),
            value => value.to_string(),
        };
        let width = self.origins.iter().map(|(name, _)| shown(name).len()).max().unwrap_or(0).min(48);
        let mut out = String::new();
        for (name, origin) in &self.origins {
            out.push_str(&format!("{name:<17} {:<width$}  {origin}\n", shown(name)));
        }
        out
    }
}

/// What a layer gives.
fn given(settings: &ServeSettings) -> Result<Map<String, Value>> {
    let Value::Object(map) = serde_json::to_value(settings)? else { bail!("settings are no table") };
    Ok(map.into_iter().filter(|(_, value)| !value.is_null()).collect())
}

/// What the file gives, and which file.
fn file(asked: Option<&Path>) -> Result<Option<(PathBuf, Map<String, Value>)>> {
    let path = match asked {
        Some(path) => path.to_owned(),
        None if Path::new(FILE).is_file() => PathBuf::from(FILE),
        None => return Ok(None),
    };
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let table = table(&text).with_context(|| path.display().to_string())?;
    Ok(Some((path, table)))
}

fn table(text: &str) -> Result<Map<String, Value>> {
    let whole: toml::Table = text.parse()?;
    for name in whole.keys() {
        if name != TABLE {
            bail!("there is no table [{name}]: the settings of verve serve are in [{TABLE}]");
        }
    }
    let Some(table) = whole.get(TABLE) else { return Ok(Map::new()) };
    let Some(table) = table.as_table() else { bail!("{TABLE} must be a table: [{TABLE}]") };
    for name in table.keys() {
        known(name, name)?;
    }
    let settings: ServeSettings = toml::Value::Table(table.clone()).try_into()?;
    given(&settings)
}

/// Refuses a name that no setting has; `shown` is how it was written.
fn known(name: &str, shown: &str) -> Result<()> {
    let names = names();
    if names.iter().any(|known| known == name) {
        return Ok(());
    }
    let nearest = names.iter().min_by_key(|known| strsim::damerau_levenshtein(known, name));
    let hint = nearest
        .filter(|known| strsim::damerau_levenshtein(known, name) <= 3)
        .map_or_else(|| format!("there are: {}", names.join(", ")), |known| format!("did you mean {known}?"));
    bail!("{shown}: there is no such setting; {hint}")
}

/// What the environment gives. A list is separated by commas.
fn variables(environment: impl Iterator<Item = (String, String)>) -> Result<Map<String, Value>> {
    let mut out = Map::new();
    for (variable, text) in environment {
        let Some(name) = variable.strip_prefix(PREFIX) else { continue };
        let name = name.to_lowercase();
        known(&name, &variable)?;
        if name == "moderation" {
            bail!("{variable}: filters are set in a configuration file");
        }
        let value = match &defaults()[&name] {
            Value::Array(_) => text.split(',').map(|item| item.trim().to_owned()).collect(),
            Value::Bool(_) => match text.as_str() {
                "true" | "1" | "yes" => true.into(),
                "false" | "0" | "no" | "" => false.into(),
                other => bail!("{variable} is {other:?}, must be true or false"),
            },
            Value::Number(_) => number(&variable, &text)?,
            _ if name == "context" || name == "cache_tokens" => number(&variable, &text)?,
            _ => text.into(),
        };
        out.insert(name, value);
    }
    // The same checks as for a file.
    let _: ServeSettings =
        serde_json::from_value(Value::Object(out.clone())).context("the environment (VERVE_SERVE_...)")?;
    Ok(out)
}

fn number(variable: &str, text: &str) -> Result<Value> {
    let number: u64 = text.trim().parse().with_context(|| format!("{variable} is {text:?}, must be a whole number"))?;
    Ok(number.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(settings: ServeSettings) -> ServeArgs {
        ServeArgs { config: None, print_config: false, settings }
    }

    #[test]
    fn every_setting_has_a_default() {
        let Ok(Value::Object(all)) = serde_json::to_value(ServeSettings::default()) else { panic!() };
        let mut of_struct: Vec<String> = all.keys().cloned().collect();
        let mut of_defaults = names();
        of_struct.sort();
        of_defaults.sort();
        assert_eq!(of_struct, of_defaults);
    }

    #[test]
    fn flags_go_before_the_environment_before_the_file_before_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, "[serve]\nport = 1\nhost = \"a\"\nqueue = 9\ncors_origin = [\"https://x\"]\n").unwrap();
        let settings = ServeSettings { host: Some("c".into()), ..Default::default() };
        let args = ServeArgs { config: Some(path), ..args(settings) };
        let environment =
            [("VERVE_SERVE_PORT", "2"), ("VERVE_SERVE_HOST", "b"), ("VERVE_SERVE_MODEL", "m, n"), ("PATH", "x")];
        let merged = Merged::of(&args, environment.iter().map(|(k, v)| (k.to_string(), v.to_string()))).unwrap();
        let settings = merged.settings().unwrap();
        assert_eq!((settings.port, settings.queue), (Some(2), Some(9)));
        assert_eq!((settings.host.as_deref(), settings.max_sequences), (Some("c"), Some(16)));
        assert_eq!(settings.model, Some(vec!["m".to_owned(), "n".to_owned()]));
        let table = merged.table();
        for line in ["environment VERVE_SERVE_PORT", "--host", "c.toml", "default"] {
            assert!(table.contains(line), "{line} in {table}");
        }
    }

    #[test]
    fn unknown_names_are_refused_with_the_nearest() {
        let cases = [
            ("[serve]\nprot = 1", "prot: there is no such setting; did you mean port?"),
            ("[server]\nport = 1", "there is no table [server]"),
            ("[serve]\nport = \"x\"", "invalid type"),
            ("[serve]\nport = 70000", "invalid value"),
            ("serve = 3", "serve must be a table"),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", table(text).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
        let of = |name: &str, value: &str| {
            let error = variables(std::iter::once((name.to_owned(), value.to_owned()))).unwrap_err();
            format!("{error:#}")
        };
        assert!(of("VERVE_SERVE_PROT", "1").contains("VERVE_SERVE_PROT: there is no such setting; did you mean port?"));
        assert!(of("VERVE_SERVE_PORT", "x").contains("must be a whole number"));
        assert!(of("VERVE_SERVE_LOG_TEXT", "maybe").contains("must be true or false"));
    }

    #[test]
    fn the_key_is_not_shown() {
        let settings = ServeSettings { api_key: Some("secret".into()), ..Default::default() };
        let table = Merged::of(&args(settings), std::iter::empty()).unwrap().table();
        assert!(!table.contains("secret") && table.contains("--api-key"), "{table}");
    }
}
