//! All tests of this crate in one binary: the table of operations on an emulator of the instruction set and, where there is
//! one, on a card; every kernel through the real compiler; what happens on the host.
#![allow(clippy::unwrap_used, reason = "tests")]

mod card;
mod device;
mod host;
mod kernels;
mod library;
mod nvrtc;
mod sizes;
mod table;
mod whole;

/// The tests of models and of training, whose cases run on any backend.
#[path = "../../../model/tests/common/mod.rs"]
mod model_tests;
#[path = "../../../train/tests/common/mod.rs"]
mod train_tests;
