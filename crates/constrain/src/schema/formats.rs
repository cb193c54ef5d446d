//! Formats of strings.

/// How a format is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// By the grammar engine's own pattern.
    Known,
    /// By this pattern, which is stricter than the engine's (leap years, no leap seconds).
    Pattern(&'static str),
}

/// Names of the formats that are enforced, for messages.
pub(super) const NAMES: &str = "date, time, date-time, duration, email, hostname, ipv4, ipv6, uuid, uri";

const DATE: &str = r"^(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)$";
const TIME: &str =
    r"^(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])$";
const DATE_TIME: &str = r"^(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])$";

/// What enforces a format; `None` if nothing does.
pub(super) fn format(name: &str) -> Option<Format> {
    Some(match name {
        "date" => Format::Pattern(DATE),
        "time" => Format::Pattern(TIME),
        "date-time" => Format::Pattern(DATE_TIME),
        "duration" | "email" | "hostname" | "ipv4" | "ipv6" | "uuid" | "uri" => Format::Known,
        _ => return None,
    })
}

/// A short text of a format.
pub(super) fn example(name: &str) -> Option<&'static str> {
    Some(match name {
        "date" => "2000-01-01",
        "time" => "00:00:00Z",
        "date-time" => "2000-01-01T00:00:00Z",
        "duration" => "P1D",
        "email" => "a@a",
        "hostname" => "a",
        "ipv4" => "1.1.1.1",
        "ipv6" => "::",
        "uuid" => "00000000-0000-0000-0000-000000000000",
        "uri" => "a:",
        _ => return None,
    })
}
