//! `verve keys`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use verve_access::{Key, KeyStore, KeyUsage, Limits, NewKey, Scope, UnixMillis};

use crate::args::{KeysAddArgs, KeysArgs, KeysCommand};
use crate::output;

pub fn run(args: KeysArgs) -> Result<()> {
    let path = match args.keys {
        Some(path) => path,
        None => default_path()?,
    };
    match args.command {
        KeysCommand::Add(add) => self::add(&KeyStore::open_or_create(&path)?, *add),
        KeysCommand::List(list) => self::list(&KeyStore::open(&path)?, list.json),
        KeysCommand::Revoke(revoke) => {
            let store = KeyStore::open(&path)?;
            let key = store.revoke(&revoke.key, UnixMillis::now())?;
            if revoke.json {
                return output::line(as_json(&key, KeyUsage::default()).to_string());
            }
            output::line(format!("revoked {} ({})", key.name, key.id))
        }
    }
}

/// Where keys are kept if nobody says otherwise.
pub fn default_path() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(path) = variable("VERVE_KEYS") {
        return Ok(path);
    }
    let data = variable("XDG_DATA_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/share")));
    let data =
        data.context("neither VERVE_KEYS, XDG_DATA_HOME nor HOME is set; name the file of keys with --keys FILE")?;
    Ok(data.join("verve/keys.redb"))
}

fn add(store: &KeyStore, args: KeysAddArgs) -> Result<()> {
    let now = UnixMillis::now();
    let scopes = match args.scopes.iter().map(|s| s.trim().parse()).collect::<Result<BTreeSet<Scope>, _>>()? {
        none if none.is_empty() => Scope::usual(),
        scopes => scopes,
    };
    let new = NewKey {
        name: args.name,
        scopes,
        models: args.models.iter().map(|m| m.trim().to_owned()).filter(|m| !m.is_empty()).collect(),
        expires_at: args.expires.as_deref().map(|text| expiry(text, now)).transpose()?,
        limits: Limits {
            requests_per_minute: args.requests_per_minute,
            tokens_per_minute: args.tokens_per_minute,
            requests_per_day: args.requests_per_day,
            tokens_per_day: args.tokens_per_day,
        },
    };
    let (key, secret) = store.add(new, now)?;
    if args.json {
        let mut line = as_json(&key, KeyUsage::default());
        line["secret"] = secret.reveal().into();
        return output::line(line.to_string());
    }
    eprintln!("key {} ({}), kept in {}", key.name, key.id, store.path().display());
    eprintln!("This is its secret. It is shown once; only a hash of it is kept.\n");
    output::line(secret.reveal())?;
    eprintln!("\nClients send it as the header  Authorization: Bearer SECRET");
    eprintln!("With the openai packages:      OPENAI_API_KEY=SECRET and OPENAI_BASE_URL=http://127.0.0.1:8080/v1");
    Ok(())
}

fn list(store: &KeyStore, json: bool) -> Result<()> {
    let now = UnixMillis::now();
    let mut usage = store.usage(now);
    let keys = store.keys();
    if json {
        for key in keys {
            output::line(as_json(&key, usage.remove(&key.id).unwrap_or_default()).to_string())?;
        }
        return Ok(());
    }
    if keys.is_empty() {
        return output::line(format!("no keys in {}", store.path().display()));
    }
    let head = ["id", "name", "state", "scopes", "models", "limits", "requests", "tokens", "last used"];
    let mut rows = vec![head.map(str::to_owned)];
    for key in keys {
        let used = usage.remove(&key.id).unwrap_or_default();
        rows.push([
            key.id.clone(),
            key.name.clone(),
            state(&key, now),
            if key.scopes == Scope::usual() { "usual".to_owned() } else { joined(key.scopes.iter().map(|s| s.name())) },
            if key.models.is_empty() { "all".to_owned() } else { key.models.join(",") },
            limits(&key.limits),
            format!("{} / {}", used.today.requests, used.total.requests),
            format!("{} / {}", used.today.tokens(), used.total.tokens()),
            used.last_used.map_or_else(|| "never".to_owned(), moment),
        ]);
    }
    for line in table(&rows) {
        output::line(line)?;
    }
    output::line("requests and tokens: today (UTC) / ever; usual scopes: all but admin")
}

/// Rows in columns.
fn table<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn joined<'a>(parts: impl Iterator<Item = &'a str>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

fn state(key: &Key, now: UnixMillis) -> String {
    match (key.revoked_at, key.expires_at) {
        (Some(at), _) => format!("revoked {}", moment(at)),
        (None, Some(end)) if now >= end => format!("expired {}", moment(end)),
        (None, Some(end)) => format!("until {}", moment(end)),
        (None, None) => "in force".to_owned(),
    }
}

fn limits(limits: &Limits) -> String {
    let each = [
        (limits.requests_per_minute, "requests/min"),
        (limits.tokens_per_minute, "tokens/min"),
        (limits.requests_per_day, "requests/day"),
        (limits.tokens_per_day, "tokens/day"),
    ];
    let set: Vec<_> = each.iter().filter_map(|(limit, what)| limit.map(|n| format!("{n} {what}"))).collect();
    if set.is_empty() { "none".to_owned() } else { set.join(", ") }
}

/// A moment in UTC, to the minute.
fn moment(at: UnixMillis) -> String {
    let time = i64::try_from(at.0).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
    time.map_or_else(|| format!("{} ms", at.0), |t| t.strftime("%Y-%m-%d %H:%MZ").to_string())
}

fn as_json(key: &Key, used: KeyUsage) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "scopes": key.scopes,
        "models": key.models,
        "created": key.created.seconds(),
        "expires_at": key.expires_at.map(UnixMillis::seconds),
        "revoked_at": key.revoked_at.map(UnixMillis::seconds),
        "limits": key.limits,
        "usage_today": used.today,
        "usage_total": used.total,
        "last_used": used.last_used.map(UnixMillis::seconds),
    })
}

/// The moment that `text` names: after a time, at the end of a day, or exactly.
fn expiry(text: &str, now: UnixMillis) -> Result<UnixMillis> {
    let text = text.trim();
    if let Some((at, unit)) = text.char_indices().next_back()
        && let Ok(number) = text[..at].parse::<u64>()
    {
        let millis = match unit {
            'm' => 60_000,
            'h' => 3_600_000,
            'd' => 86_400_000,
            'w' => 7 * 86_400_000,
            _ => bail!("`{text}`: expected a number with m, h, d or w (minutes, hours, days, weeks), such as 30d"),
        };
        let end = number.checked_mul(millis).and_then(|span| now.0.checked_add(span));
        return end
            .filter(|end| *end < i64::MAX as u64)
            .map(UnixMillis)
            .with_context(|| format!("`{text}` is too long"));
    }
    let moment = match text.parse::<Timestamp>() {
        Ok(moment) => moment,
        Err(_) => {
            // Not `parse`, which takes a date with a time and leaves the time out.
            let day = Date::strptime("%Y-%m-%d", text).map_err(|_| {
                anyhow::anyhow!("`{text}` is no time: expected such as 30d, 2027-01-31 or 2027-01-31T12:00:00Z")
            })?;
            day.tomorrow().and_then(|next| next.to_zoned_datetime(TimeZone::UTC))?.timestamp()
        }
    };
    Ok(UnixMillis(u64::try_from(moment.as_millisecond()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_expiry() {
        let now = UnixMillis(1_000_000);
        let at = |text| expiry(text, now).unwrap().0;
        assert_eq!(at("90m"), now.0 + 5_400_000);
        assert_eq!(at("12h"), now.0 + 12 * 3_600_000);
        assert_eq!(at("30d"), now.0 + 30 * 86_400_000);
        assert_eq!(at(" 2w "), now.0 + 14 * 86_400_000);
        assert_eq!(at("2027-01-31"), 1_801_440_000_000);
        assert_eq!(at("2027-01-31T12:00:00Z"), 1_801_396_800_000);
        assert_eq!(at("2027-01-31T12:00:00+02:00"), 1_801_389_600_000);
        for bad in [
            "",
            "soon",
            "30",
            "30x",
            "d",
            "-3d",
            "2027-02-30",
            "99999999999999999d",
            "2027-01-31 12",
            "2027-01-31T12:00:00",
            "é",
        ] {
            assert!(expiry(bad, now).is_err(), "{bad:?}");
        }
    }
}
