//! From text to settings and back: unknown keys are named together with the nearest known one.

use toml::{Table, Value};

use super::RunConfig;
use crate::error::{Result, TrainError};

/// Every section with its keys. `[model]` also takes the keys of the model's configuration.
const SECTIONS: [(&str, &[&str]); 10] = [
    ("model", &["preset"]),
    ("data", &["text", "shards", "tokenizer", "vocab", "held_out"]),
    ("run", &["seed", "dtype", "recompute", "init"]),
    ("budget", &["steps", "tokens", "minutes", "chosen_for_minutes"]),
    ("batch", &["micro_batch", "batch_tokens", "ramp_start_tokens", "ramp_tokens"]),
    ("optimizer", &["lr", "beta1", "beta2", "eps", "weight_decay", "clip"]),
    (
        "schedule",
        &["kind", "min_lr_ratio", "warmup_steps", "warmup_tokens", "decay_tokens", "decay_share", "decay_curve"],
    ),
    ("eval", &["every", "rows"]),
    ("sample", &["every", "prompt", "max_tokens"]),
    ("checkpoint", &["every_steps", "every_minutes", "keep_last", "write"]),
];

/// Keys of which a later setting replaces an earlier one, instead of contradicting it.
const ALTERNATIVES: [(&str, &[&str]); 2] = [
    ("budget", &["steps", "tokens", "minutes", "chosen_for_minutes"]),
    ("schedule", &["warmup_steps", "warmup_tokens"]),
];

fn keys(section: &str) -> Option<Vec<&'static str>> {
    let (_, own) = SECTIONS.iter().find(|(name, _)| *name == section)?;
    let model = (section == "model").then_some(verve_model::config::CONFIG_KEYS);
    Some(own.iter().copied().chain(model.into_iter().flatten()).collect())
}

impl RunConfig {
    /// Reads settings from TOML text. `origin` names the text in messages. Values are checked by [`RunConfig::resolve`].
    ///
    /// # Errors
    /// What is not TOML, an unknown section or key, a value of the wrong type.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let syntax = |e: toml::de::Error| TrainError::ConfigSyntax {
            origin: origin.to_owned(),
            problem: e.to_string().trim_end().to_owned(),
        };
        let table: Table = toml::from_str(text).map_err(syntax)?;
        check_keys(&table, origin)?;
        // From the text again, not from the table: errors then show the line.
        toml::from_str(text).map_err(syntax)
    }

    /// These settings with those of `text` in their place, key by key: a setting of `text` also replaces its
    /// alternatives (`steps` replaces `minutes`), and a `[model]` replaces the whole `[model]`.
    ///
    /// # Errors
    /// As [`RunConfig::parse`].
    pub fn overlaid(&self, text: &str, origin: &str) -> Result<Self> {
        Self::parse(text, origin)?;
        let syntax = |problem: String| TrainError::ConfigSyntax { origin: origin.to_owned(), problem };
        let over: Table = toml::from_str(text).map_err(|e| syntax(e.to_string()))?;
        let mut base = self.to_table()?;
        for (section, over) in over {
            let Value::Table(over) = over else { continue };
            let entry = base.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
            let Value::Table(entry) = entry else { continue };
            if section == "model" {
                *entry = over;
                continue;
            }
            for (_, group) in ALTERNATIVES.iter().filter(|(name, _)| *name == section) {
                if group.iter().any(|key| over.contains_key(*key)) {
                    group.iter().for_each(|key| drop(entry.remove(*key)));
                }
            }
            entry.extend(over);
        }
        base.try_into().map_err(|e: toml::de::Error| syntax(e.to_string()))
    }

    /// The settings as TOML text.
    ///
    /// # Errors
    /// A number that TOML cannot hold.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(cannot_write)
    }

    pub(crate) fn to_table(&self) -> Result<Table> {
        Table::try_from(self).map_err(cannot_write)
    }
}

fn cannot_write(error: toml::ser::Error) -> TrainError {
    TrainError::ConfigSyntax { origin: "settings".to_owned(), problem: error.to_string() }
}

fn check_keys(table: &Table, origin: &str) -> Result<()> {
    for (section, value) in table {
        let Some(known) = keys(section) else {
            return Err(unknown_section(section, value, origin));
        };
        let Value::Table(entries) = value else {
            return Err(TrainError::ConfigSyntax {
                origin: origin.to_owned(),
                problem: format!("`{section}` is a section: write [{section}] on a line of its own and its keys below"),
            });
        };
        if let Some(key) = entries.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(TrainError::UnknownKey {
                origin: origin.to_owned(),
                what: format!("key `{key}` in section [{section}]"),
                hint: hint(key, section, &known),
            });
        }
    }
    Ok(())
}

fn unknown_section(name: &str, value: &Value, origin: &str) -> TrainError {
    let sections: Vec<&str> = SECTIONS.iter().map(|(name, _)| *name).collect();
    let what = if value.is_table() { format!("section [{name}]") } else { format!("key `{name}` outside any section") };
    let hint = match nearest(name, &sections) {
        Some(near) => format!("did you mean [{near}]?"),
        None => match elsewhere(name) {
            Some(place) => format!("did you mean {place}?"),
            None => format!("there are the sections {}", sections.join(", ")),
        },
    };
    TrainError::UnknownKey { origin: origin.to_owned(), what, hint }
}

/// What the writer of an unknown key may have meant: the key in another section, a similar one in this, or in any.
fn hint(key: &str, section: &str, known: &[&'static str]) -> String {
    let exact = SECTIONS.iter().find(|(name, _)| keys(name).is_some_and(|keys| keys.contains(&key)));
    if let Some((name, _)) = exact {
        return format!("it belongs into section [{name}]");
    }
    match nearest(key, known).map(|near| format!("`{near}`")).or_else(|| elsewhere(key)) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("[{section}] has {}", known.join(", ")),
    }
}

/// The nearest key of any section, with its section.
fn elsewhere(key: &str) -> Option<String> {
    let all = SECTIONS.iter().flat_map(|(name, _)| keys(name).unwrap_or_default().into_iter().map(move |k| (k, *name)));
    let all: Vec<(&str, &str)> = all.collect();
    let near = nearest(key, &all.iter().map(|(key, _)| *key).collect::<Vec<_>>())?;
    let (_, section) = all.iter().find(|(key, _)| *key == near)?;
    Some(format!("`{near}` in section [{section}]"))
}

/// The candidate most similar to `name`, if one is similar at all.
pub(crate) fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let scored = candidates.iter().map(|candidate| (strsim::jaro_winkler(name, candidate), *candidate));
    scored.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}
