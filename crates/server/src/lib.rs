//! Models served over HTTP, with the public API's endpoints, errors and streams.
//!
//! A [`ModelLoader`] finds and loads models; [`Registry`] keeps those that are in use. [`App`] is what all requests share,
//! [`Server`] listens. A request's way: `router` names it and finds out who calls; its endpoint in `api` reads and checks
//! its fields, makes requests for the engine and hands them over as a `Generation`, whose updates become one answer
//! (`answer`) or a stream (`sse`). Everything that a request is refused with is an `ApiError`.
#![forbid(unsafe_code)]

mod access;
mod answer;
mod api;
mod app;
mod conversation;
mod error;
mod filter;
mod format;
mod generation;
mod ids;
mod listen;
mod metrics;
mod models;
mod openapi;
mod options;
mod page;
mod parse;
mod pieces;
mod recent;
mod router;
mod sampling;
mod sse;
mod stored;
mod tools;
mod track;

pub use app::App;
pub use listen::{Server, ServerError, run};
pub use models::{Loaded, ModelEntry, ModelLoader, Registry, SlotState, SlotStatus};
pub use options::{ServerOptions, TlsFiles};
