//! What answers must look like: JSON, a regular expression, a grammar.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::Value;
use verve_constrain::{Accepted, ConstrainError, Constraint as Rule, Constraints, Matcher};
use verve_engine::{Constraint, ConstraintSource};

use crate::args::RuleArgs;
use crate::commands::model::Model;

/// A rule that answers follow, compiled once for all of them.
#[derive(Debug)]
struct Compiled(Matcher);

/// The rule in one answer.
struct Following(Matcher);

impl Constraint for Following {
    fn allow(&mut self, _n_left: usize, allowed: &mut [u32]) -> std::result::Result<(), String> {
        // The matcher counts what is left by itself.
        self.0.mask(allowed).map_err(text)
    }

    fn accept(&mut self, id: u32) -> std::result::Result<bool, String> {
        self.0.accept(id).map(|accepted| accepted == Accepted::Taken).map_err(text)
    }

    fn is_complete(&self) -> bool {
        self.0.is_finished() || self.0.left() == Some(0)
    }
}

impl ConstraintSource for Compiled {
    fn start(&self, n_left: usize) -> std::result::Result<Box<dyn Constraint>, String> {
        let mut matcher = self.0.clone();
        matcher.set_limit(n_left).map_err(text)?;
        Ok(Box::new(Following(matcher)))
    }
}

fn text(error: ConstrainError) -> String {
    error.to_string()
}

/// Compiles rules for a model, each once.
pub struct Rules<'a> {
    model: &'a Model,
    constraints: Option<Constraints>,
    compiled: HashMap<String, Arc<dyn ConstraintSource>>,
}

impl<'a> Rules<'a> {
    pub fn new(model: &'a Model) -> Self {
        Self { model, constraints: None, compiled: HashMap::new() }
    }

    /// The rule of the command line, if there is one.
    pub fn of_args(&mut self, args: &RuleArgs) -> Result<Option<Arc<dyn ConstraintSource>>> {
        let read =
            |path: &Path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        let rule = if args.json {
            Some(Rule::JsonObject)
        } else if let Some(path) = &args.json_schema {
            Some(Rule::json_schema(&read(path)?).with_context(|| format!("{} is no schema", path.display()))?)
        } else if let Some(path) = &args.grammar {
            Some(Rule::Grammar(read(path)?))
        } else {
            args.regex.clone().map(Rule::Regex)
        };
        rule.map(|rule| self.compile(rule)).transpose()
    }

    /// The rule of a line: `true` for any JSON object, or a schema.
    pub fn of_json(&mut self, json: &Value) -> Result<Arc<dyn ConstraintSource>> {
        self.compile(match json {
            Value::Bool(true) => Rule::JsonObject,
            schema => Rule::JsonSchema(schema.clone()),
        })
    }

    /// The rule of a line that is a regular expression.
    pub fn of_regex(&mut self, regex: &str) -> Result<Arc<dyn ConstraintSource>> {
        self.compile(Rule::Regex(regex.to_owned()))
    }

    fn compile(&mut self, rule: Rule) -> Result<Arc<dyn ConstraintSource>> {
        let key = format!("{rule:?}");
        if let Some(known) = self.compiled.get(&key) {
            return Ok(known.clone());
        }
        let constraints = match &mut self.constraints {
            Some(constraints) => constraints,
            empty => {
                let vocabulary = self.model.vocabulary();
                let ends: Vec<u32> = (0..vocabulary.n_vocab() as u32).filter(|&id| vocabulary.ends_text(id)).collect();
                empty.insert(Constraints::new(&self.model.tokenizer, &ends)?)
            }
        };
        let start = constraints.start(&rule)?;
        let compiled: Arc<dyn ConstraintSource> = Arc::new(Compiled(start));
        self.compiled.insert(key, compiled.clone());
        Ok(compiled)
    }
}
