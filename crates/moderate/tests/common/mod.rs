//! What the tests share.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::Path;

use verve_moderate::{Chain, ModerationConfig, ModerationError, OutputScan, Refusal};

/// A chain from settings in TOML.
pub fn try_chain(toml: &str) -> Result<Chain, ModerationError> {
    let config: ModerationConfig = toml::from_str(toml).unwrap();
    Chain::from_config(&config, Path::new("."))
}

/// A chain from settings in TOML that are right.
pub fn chain(toml: &str) -> Chain {
    try_chain(toml).unwrap()
}

/// One refusing filter on both stages.
pub fn filter(source: &str) -> Chain {
    chain(&format!("[[filters]]\nname = 'f'\nreason_code = 'r'\n{source}"))
}

/// Everything that comes out of a scan, piece by piece, and how it ends.
pub fn stream<'a>(scan: &mut OutputScan, pieces: impl IntoIterator<Item = &'a str>) -> (String, Option<Refusal>) {
    let mut sent = String::new();
    for piece in pieces {
        match scan.push(piece) {
            Ok(text) => sent.push_str(&text),
            Err(refusal) => {
                sent.push_str(&refusal.safe);
                return (sent, Some(refusal));
            }
        }
    }
    match scan.finish() {
        Ok(text) => {
            sent.push_str(&text);
            (sent, None)
        }
        Err(refusal) => {
            sent.push_str(&refusal.safe);
            (sent, Some(refusal))
        }
    }
}
