//! Chat messages and chat templates.
//!
//! A model that was trained to converse comes with a template: a program in the Jinja language that turns messages into
//! the one text it was trained on. [`ModelTemplates`] finds it in a model's files, [`ChatTemplate`] renders it exactly as
//! the makers' code does, within [`Limits`], and [`Guard`] keeps special tokens that a message spells out from acting as
//! such.
//!
//! ```
//! use verve_chat::{ChatInput, ChatTemplate, Message, Role, SpecialTexts, builtin};
//!
//! let source = builtin("chatml").unwrap_or_default();
//! let template = ChatTemplate::new(source, SpecialTexts::default())?;
//! let messages = [Message::new(Role::User, "Hello!")];
//! let text = template.render(&ChatInput::new(&messages))?;
//! assert_eq!(text, "<|im_start|>user\nHello!<|im_end|>\n<|im_start|>assistant\n");
//! assert_eq!(template.end_of_turn().as_deref(), Some("<|im_end|>"));
//! # Ok::<(), verve_chat::ChatError>(())
//! ```
#![forbid(unsafe_code)]

mod builtin;
mod check;
mod clock;
mod error;
mod files;
mod format;
mod guard;
mod json;
mod message;
mod meter;
mod probe;
mod python;
mod source;
mod strings;
mod template;

pub use builtin::{builtin, builtin_names};
pub use check::{Vocabulary, Warning};
pub use clock::Clock;
pub use error::ChatError;
pub use files::{DEFAULT_NAME, ModelTemplates, read_source};
pub use format::{ChatFormat, Encoded};
pub use guard::{Guard, Prompt, Segment};
pub use message::{Content, FunctionCall, Message, Part, Role, ToolCall};
pub use probe::{Abilities, Form};
pub use template::{ChatInput, ChatTemplate, Ending, Limits, SpecialTexts};
