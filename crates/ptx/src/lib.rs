//! Emulator of PTX, for tests.
#![forbid(unsafe_code)]
