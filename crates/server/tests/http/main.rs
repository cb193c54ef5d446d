//! The server over HTTP, one binary for all of it: most of its build is the same.
#![allow(clippy::unwrap_used, reason = "in a test, a failure is a panic")]

mod access;
mod chat;
mod common;
mod completions;
mod errors;
mod filters;
mod hostile;
mod load;
mod other;
mod responses;
