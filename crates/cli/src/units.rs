//! Parsers of flag values: each says what was found and what is expected.

use crate::device::DeviceChoice;

/// Parses a number with an optional suffix k, M, B or G, or T (powers of 1000), such as `0.5M`.
pub fn count(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let (number, factor) = match trimmed.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (&trimmed[..at], 1e3),
        Some((at, 'm' | 'M')) => (&trimmed[..at], 1e6),
        Some((at, 'b' | 'B' | 'g' | 'G')) => (&trimmed[..at], 1e9),
        Some((at, 't' | 'T')) => (&trimmed[..at], 1e12),
        _ => (trimmed, 1.0),
    };
    let value: f64 =
        number.trim().parse().map_err(|_| format!("{text:?} is not a number such as 4096, 16k, 0.5M or 300B"))?;
    let value = value * factor;
    if !(1.0..=1e18).contains(&value) {
        return Err(format!("{text} must be between 1 and 1e18"));
    }
    Ok(value.round() as u64)
}

fn number<T: std::str::FromStr + PartialOrd + std::fmt::Display + Copy>(
    text: &str,
    low: T,
    high: T,
    what: &str,
) -> Result<T, String> {
    let value: T = text.trim().parse().map_err(|_| format!("{text:?} is not {what}"))?;
    if value >= low && value <= high {
        Ok(value)
    } else {
        Err(format!("{text} is out of range: expected {what} from {low} to {high}"))
    }
}

/// 1 to 1024.
/// Bytes: a number with `KiB`, `MiB`, `GiB`, `TiB`, `KB`, `MB`, `GB`, `TB` or nothing behind it.
pub fn size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024f64.powi(2),
        "g" | "gib" => 1024f64.powi(3),
        "t" | "tib" => 1024f64.powi(4),
        other => return Err(format!("{other:?} is no unit of bytes; use KiB, MiB, GiB or TiB")),
    };
    match number.parse::<f64>() {
        Ok(number) if number * factor >= 1.0 && number * factor < 1e18 => Ok((number * factor) as u64),
        _ => Err("must be a number of bytes such as 512MiB or 8GiB".to_owned()),
    }
}

pub fn threads(text: &str) -> Result<usize, String> {
    number(text, 1, 1024, "a number of threads")
}

/// `cpu`, `cuda` or `cuda:N`.
pub fn device(text: &str) -> Result<DeviceChoice, String> {
    let ordinal = match text.trim() {
        "cpu" => return Ok(DeviceChoice::Cpu),
        "cuda" => Some(0),
        other => other.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok()),
    };
    ordinal.map(DeviceChoice::Cuda).ok_or_else(|| format!("{text:?} is no device: expected cpu, cuda or cuda:N"))
}

/// 257 to 1,000,000.
pub fn vocabulary(text: &str) -> Result<usize, String> {
    number(text, 257, 1_000_000, "a vocabulary size")
}

/// 1 to 10^12.
pub fn steps(text: &str) -> Result<u64, String> {
    number(text, 1, 1_000_000_000_000, "a number of steps")
}

/// 1 to 10 million.
pub fn small_count(text: &str) -> Result<usize, String> {
    number(text, 1, 10_000_000, "a whole number")
}

/// Greater than 0 and finite.
pub fn positive(text: &str) -> Result<f64, String> {
    number(text, 1e-12, 1e12, "a positive number")
}

/// Greater than 0 and finite.
pub fn positive_f32(text: &str) -> Result<f32, String> {
    number(text, 1e-6, 1e6, "a positive number")
}

/// Greater than 0, at most 1.
pub fn probability(text: &str) -> Result<f32, String> {
    number(text, f32::MIN_POSITIVE, 1.0, "a probability above 0")
}

/// 0 to 1.
pub fn probability_or_zero(text: &str) -> Result<f32, String> {
    number(text, 0.0, 1.0, "a probability")
}

/// 0 to 100.
pub fn temperature(text: &str) -> Result<f32, String> {
    number(text, 0.0, 100.0, "a temperature")
}

/// 0 to 100.
pub fn from_0_to_100(text: &str) -> Result<f32, String> {
    number(text, 0.0, 100.0, "a number")
}

/// 1 to 100.
pub fn from_1_to_100(text: &str) -> Result<f32, String> {
    number(text, 1.0, 100.0, "a number")
}

/// -100 to 100.
pub fn penalty(text: &str) -> Result<f32, String> {
    number(text, -100.0, 100.0, "a penalty")
}

/// 0 to below 1.
pub fn share(text: &str) -> Result<f64, String> {
    number(text, 0.0, 1.0, "a share")
}

/// `ID=BIAS`.
pub fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let (id, bias) = text.split_once('=').ok_or_else(|| format!("{text:?} is not ID=BIAS, such as 198=-5"))?;
    let id = id.trim().parse().map_err(|_| format!("{id:?} is not a token id"))?;
    Ok((id, number(bias, -1000.0, 1000.0, "a bias")?))
}

/// `NAME=JSON`; what is no JSON is a text.
pub fn variable(text: &str) -> Result<(String, serde_json::Value), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=JSON, such as x=false"))?;
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(format!("{name:?} is no name of a variable"));
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| serde_json::Value::String(value.to_owned()));
    Ok((name.to_owned(), value))
}

/// Bytes for people: `1.5 GiB`.
pub fn bytes(n: u64) -> String {
    let names = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < names.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", names[unit]) }
}

/// Counts for people: `12.3M`.
pub fn short(n: f64) -> String {
    for (limit, suffix) in [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")] {
        if n >= limit {
            return format!("{:.1}{suffix}", n / limit);
        }
    }
    format!("{n:.0}")
}

/// Durations for people: `1h 02m`, `3m 20s`, `12s`.
pub fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return "?".to_owned();
    }
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m {:02}s", s / 60, s % 60),
        3600..172_800 => format!("{}h {:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{:.1} days", s as f64 / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_with_suffixes() {
        assert_eq!(count("4096"), Ok(4096));
        assert_eq!(count("0.5M"), Ok(500_000));
        assert_eq!(count("300B"), Ok(300_000_000_000));
        assert!(count("0").is_err());
        assert!(count("-3k").is_err());
        assert!(count("nan").is_err());
        assert!(count("many").unwrap_err().contains("many"));
        assert!(count("1é").is_err());
    }

    #[test]
    fn ranges_are_named() {
        assert!(threads("0").unwrap_err().contains("1 to 1024"));
        assert!(positive("nan").is_err());
        assert!(probability("0").is_err());
        assert_eq!(logit_bias("198=-5"), Ok((198, -5.0)));
        assert_eq!(variable("a=false"), Ok(("a".to_owned(), serde_json::Value::Bool(false))));
        assert_eq!(variable("a=b=c"), Ok(("a".to_owned(), "b=c".into())));
        assert!(variable("a b=1").is_err() && variable("a").is_err());
        assert!(logit_bias("x").unwrap_err().contains("ID=BIAS"));
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(short(12_345_678.0), "12.3M");
        assert_eq!(duration(3725.0), "1h 02m");
    }
}
