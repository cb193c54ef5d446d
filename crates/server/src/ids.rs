//! Names of answers and requests.

use std::time::{SystemTime, UNIX_EPOCH};

/// A number that nobody can foresee.
pub fn random() -> u64 {
    // A system without randomness has worse problems; names need only differ.
    getrandom::u64().unwrap_or_else(|_| nanos())
}

/// `prefix` and 24 hexadecimal digits that nobody can foresee.
pub fn fresh(prefix: &str) -> String {
    format!("{prefix}{:016x}{:08x}", random(), random() as u32)
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}
