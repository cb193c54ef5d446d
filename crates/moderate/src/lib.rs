//! Filters on what goes into a model and what comes out of it: a chain of hooks, each with its stage, its reason and what
//! happens when it finds something.
//!
//! A filter looks for words and phrases, for regular expressions, for one of the built-in forms ([`Builtin`]: card numbers,
//! IBANs, e-mail addresses, private keys, API keys), or asks a moderation service. Words are compared without case, accents,
//! full-width forms and invisible characters. What is found is told as a [`Finding`], which never holds the text.
//!
//! Answers that are streamed go through an [`OutputScan`]. It holds back exactly what may still become a match, so that no
//! part of a refused match is ever sent, however the text is cut into pieces.
//!
//! ```
//! use verve_moderate::{Chain, ModerationConfig, Stage};
//!
//! let config: ModerationConfig = toml::from_str(r#"
//!     [[filters]]
//!     name = "project names"
//!     stage = "output"
//!     words = ["operation lighthouse"]
//!     reason_code = "internal_name"
//! "#).unwrap();
//! let chain = Chain::from_config(&config, ".".as_ref())?;
//! assert!(chain.check(Stage::Output, "They planned OPERATION  Líghthouse.").refused.is_some());
//!
//! let mut scan = chain.output_scan();
//! assert_eq!(scan.push("The operation")?, "The ");
//! assert_eq!(scan.push(" was our best ope")?, "operation was our best ");
//! assert_eq!(scan.finish()?, "ope");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Word lists that would deserve the name are long, depend on the language and on the place, and age: none is shipped.
//! [`FilterConfig::words_file`] takes yours.
#![forbid(unsafe_code)]

mod builtin;
mod category;
mod chain;
mod config;
mod error;
mod finding;
mod grouped;
mod normal;
mod patterns;
mod scan;
mod service;
mod threads;
mod words;

pub use builtin::Builtin;
pub use category::Category;
pub use chain::Chain;
pub use config::{Action, FilterConfig, FilterStage, ModerationConfig, OnFailure, ServiceConfig};
pub use error::ModerationError;
pub use finding::{Finding, Moderation, Stage, Verdict};
pub use scan::{OutputScan, Refusal};
