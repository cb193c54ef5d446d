//! Constrained output: which tokens may come next under a JSON schema, a regular expression or a grammar.
//!
//! [`Constraints`] is made once for a vocabulary. [`Constraints::start`] compiles a [`Constraint`] for one text, within
//! bounds on time and memory, and returns its [`Matcher`]: before each token it writes the mask of those that may come,
//! and it is told the one that came. With a token limit the text is complete before the limit is reached.
//!
//! [`Rules`] keeps compiled constraints in the form that the engine follows.
//!
//! Grammars are run by the `llguidance` crate. JSON schemas are read here first: whatever would not be enforced (unknown
//! keywords, `not`, `if`, references to elsewhere, recursion without end) is refused with its path.
//!
//! ```
//! use verve_constrain::{Accepted, Constraint, Constraints};
//!
//! // A vocabulary of all bytes and a token that ends a text.
//! let tokens = (0..=255u8).map(|byte| vec![byte]).chain([Vec::new()]);
//! let constraints = Constraints::from_bytes(tokens, &[256])?;
//! let schema = r#"{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}"#;
//! let mut matcher = constraints.start(&Constraint::json_schema(schema)?)?;
//! matcher.set_limit(20)?;
//!
//! let mut mask = vec![0u32; constraints.mask_words()];
//! let mut text = String::new();
//! while !matcher.is_finished() && matcher.left() != Some(0) {
//!     matcher.mask(&mut mask)?;
//!     let allowed = |id: u32| mask[id as usize / 32] >> (id % 32) & 1 == 1;
//!     // A model that would go on with nines forever.
//!     let id = if allowed(b'9'.into()) { b'9'.into() } else { (0..257).rev().find(|&id| allowed(id)).unwrap_or(256) };
//!     if matcher.accept(id)? == Accepted::Taken && id < 256 {
//!         text.push(char::from(id as u8));
//!     }
//! }
//! assert!(matcher.may_end()?);
//! assert!(text.contains("99999") && text.ends_with('}') && text.len() <= 20, "{text}");
//! # Ok::<(), verve_constrain::ConstrainError>(())
//! ```
#![forbid(unsafe_code)]

mod constraint;
mod constraints;
mod ending;
mod error;
mod hints;
mod matcher;
mod rules;
mod schema;
mod vocabulary;

pub use constraint::Constraint;
pub use constraints::Constraints;
pub use error::{ConstrainError, Result};
pub use matcher::{Accepted, Matcher};
pub use rules::Rules;
