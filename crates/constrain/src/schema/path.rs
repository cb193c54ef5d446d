//! Places in a schema.

use std::fmt;

use crate::error::ConstrainError;

/// A place in a schema, shown as `$.properties.name.enum[3]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Longest key shown, in characters.
const MOST_KEY: usize = 60;
/// Most steps shown.
const MOST_STEPS: usize = 24;

impl Path {
    pub(crate) fn root() -> Self {
        Self::default()
    }

    pub(crate) fn key(&self, key: &str) -> Self {
        self.step(Step::Key(key.to_owned()))
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    fn step(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// An error about what stands here.
    pub(crate) fn refused(&self, problem: impl Into<String>) -> ConstrainError {
        ConstrainError::Schema { path: self.to_string(), problem: problem.into() }
    }

    /// An error: nothing satisfies what stands here.
    pub(crate) fn unsatisfiable(&self, problem: impl Into<String>) -> ConstrainError {
        ConstrainError::Unsatisfiable { path: self.to_string(), problem: problem.into() }
    }

    /// An error: too much of something here.
    pub(crate) fn too_large(&self, what: &'static str, found: u64, limit: u64) -> ConstrainError {
        ConstrainError::TooLarge { place: format!("JSON schema: {self}"), what, found, limit }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("$")?;
        for step in self.0.iter().take(MOST_STEPS) {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '$' || c == '-';
                    if key.chars().count() > MOST_KEY {
                        let start: String = key.chars().take(MOST_KEY).collect();
                        write!(f, "[{start:?}...]")?;
                    } else if !key.is_empty() && key.chars().all(plain) {
                        write!(f, ".{key}")?;
                    } else {
                        write!(f, "[{key:?}]")?;
                    }
                }
            }
        }
        if self.0.len() > MOST_STEPS { f.write_str("...") } else { Ok(()) }
    }
}
