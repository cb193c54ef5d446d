//! What answers must look like: JSON, a regular expression, a grammar.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::Value;
use verve_constrain::{Constraint, Rules};
use verve_engine::ConstraintSource;

use crate::args::RuleArgs;
use crate::commands::model::Model;

/// Compiles rules for a model, each once.
pub fn rules(model: &Model) -> Rules {
    Rules::new(model.tokenizer.clone(), &model.vocabulary())
}

/// The rule of the command line, if there is one.
pub fn of_args(rules: &Rules, args: &RuleArgs) -> Result<Option<Arc<dyn ConstraintSource>>> {
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let rule = if args.json {
        Some(Constraint::JsonObject)
    } else if let Some(path) = &args.json_schema {
        Some(Constraint::json_schema(&read(path)?).with_context(|| format!("{} is no schema", path.display()))?)
    } else if let Some(path) = &args.grammar {
        Some(Constraint::Grammar(read(path)?))
    } else {
        args.regex.clone().map(Constraint::Regex)
    };
    Ok(rule.map(|rule| rules.compile(&rule)).transpose()?)
}

/// The rule of a line: `true` for any JSON object, or a schema.
pub fn of_json(json: &Value) -> Constraint {
    match json {
        Value::Bool(true) => Constraint::JsonObject,
        schema => Constraint::JsonSchema(schema.clone()),
    }
}
