//! Described hardware.

use std::str::FromStr;

use serde::Serialize;

use crate::error::{Result, TrainError};

/// A number of equal devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Devices {
    /// How many; at least 1.
    pub count: u64,
    /// Memory of each, bytes; at least 1.
    pub bytes: u64,
}

const EXPECTED: &str = "a description of devices such as 8x80GB or 1x24GiB: how many (1 to 1000000), an x, and the memory of each (1MB to 1PB)";

impl Devices {
    /// Reads `8x80GB`, `1x24GiB`, `96 x 80 GB`; a memory alone is one device. GB are powers of 1000, GiB of 1024.
    ///
    /// # Errors
    /// [`TrainError::Parse`], with the text and an example.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || TrainError::Parse { found: text.to_owned(), expected: EXPECTED };
        let lower = text.trim().to_ascii_lowercase();
        let (count, memory) = match lower.split_once(['x', '*']) {
            Some((count, memory)) => (count.trim().parse::<u64>().map_err(|_| wrong())?, memory.trim()),
            None => (1, lower.as_str()),
        };
        let unit_at = memory.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wrong)?;
        let (number, unit) = memory.split_at(unit_at);
        let number = number.trim();
        if !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
            return Err(wrong());
        }
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let factor = match unit {
            "mb" | "m" => 1e6,
            "mib" => 1_048_576.0,
            "gb" | "g" => 1e9,
            "gib" => 1_073_741_824.0,
            "tb" | "t" => 1e12,
            "tib" => 1_099_511_627_776.0,
            _ => return Err(wrong()),
        };
        let bytes = number * factor;
        if !(1e6..=1e15).contains(&bytes) || !(1..=1_000_000).contains(&count) {
            return Err(wrong());
        }
        Ok(Self { count, bytes: bytes.round() as u64 })
    }
}

impl FromStr for Devices {
    type Err = TrainError;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}
