//! Which settings may change when a run goes on, and a hash over those that may not.

use toml::{Table, Value};

use crate::config::{Known, RunConfig, RunPlan};
use crate::error::{Result, TrainError};
use crate::schedule::LrShape;

/// Settings that change no number of a run, with the reason: `data` is compared by content; every level of `recompute`
/// gives the same bits; samples, evaluations and checkpoints only watch; and a resolved schedule is in tokens, so that its
/// past does not depend on where the run ends (but see [`check_fall`]). `None`: the whole section.
const HARMLESS: [(&str, Option<&str>); 6] = [
    ("data", None),
    ("sample", None),
    ("checkpoint", None),
    ("budget", None),
    ("eval", Some("every")),
    ("run", Some("recompute")),
];

fn is_harmless(section: &str, key: &str) -> bool {
    HARMLESS.iter().any(|(s, k)| *s == section && k.is_none_or(|k| k == key))
}

/// The settings that decide every number of a run, as one hash.
pub(super) fn identity_hash(config: &RunConfig) -> Result<String> {
    let mut table = config.to_table()?;
    for (section, value) in table.iter_mut() {
        if let Value::Table(keys) = value {
            keys.retain(|key, _| !is_harmless(section, key));
        }
    }
    // Keys are sorted, so that the text is one for equal settings.
    let text = toml::to_string(&table)
        .map_err(|e| TrainError::ConfigSyntax { origin: "settings".to_owned(), problem: e.to_string() })?;
    Ok(blake3::hash(text.as_bytes()).to_hex().to_string())
}

/// Compares recorded settings with those wanted now, both with every choice filled in; returns the plan to go on with.
pub(super) fn accept(recorded: &RunConfig, wanted: &RunConfig, known: &Known<'_>) -> Result<RunPlan> {
    let mut wanted = wanted.clone();
    if let Some(minutes) = wanted.budget.minutes {
        match recorded.budget.chosen_for_minutes {
            Some(then) if then == minutes => wanted.budget = recorded.budget.clone(),
            // Nothing was trained yet.
            None if recorded.budget.minutes == Some(minutes) => {}
            then => {
                let then = then.or(recorded.budget.minutes).map_or("no minutes".to_owned(), |then| then.to_string());
                return Err(changed("budget", "minutes", then, minutes.to_string()));
            }
        }
    }
    let plan = wanted.resolve(known)?;
    let [then, now] = [recorded.to_table()?, plan.config.to_table()?];
    for (section, key) in keys(&then).chain(keys(&now)) {
        let (a, b) = (get(&then, section, key), get(&now, section, key));
        // A choice that is open in the record, because the run waited for its number of steps, is made now.
        if a != b && !is_harmless(section, key) && !(a.is_none() && recorded.budget.minutes.is_some()) {
            let text = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
            return Err(changed(section, key, text(a), text(b)));
        }
    }
    Ok(plan)
}

/// A budget may change unless the part of the run that is done would have had other learning rates: once the fall of a
/// warm-up-stable-decay schedule has begun, or would have begun.
pub(super) fn check_fall(recorded: &RunPlan, now: &RunPlan, tokens: u64) -> Result<()> {
    let (Some(then), Some(new)) = (&recorded.schedule, &now.schedule) else { return Ok(()) };
    if then.steps == new.steps || then.lr.shape == new.lr.shape {
        return Ok(());
    }
    let begun = |shape: LrShape| matches!(shape, LrShape::WarmupStableDecay { start, .. } if tokens > start);
    if begun(then.lr.shape) || begun(new.lr.shape) {
        return Err(changed("budget", "steps", then.steps.to_string(), new.steps.to_string()));
    }
    Ok(())
}

fn changed(section: &str, key: &str, then: String, now: String) -> TrainError {
    TrainError::SettingChanged { key: format!("[{section}] {key}"), then, now }
}

fn get<'a>(table: &'a Table, section: &str, key: &str) -> Option<&'a Value> {
    table.get(section)?.as_table()?.get(key)
}

fn keys(table: &Table) -> impl Iterator<Item = (&str, &str)> {
    table
        .iter()
        .filter_map(|(section, value)| Some((section, value.as_table()?)))
        .flat_map(|(section, keys)| keys.keys().map(move |key| (section.as_str(), key.as_str())))
}
