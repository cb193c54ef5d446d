//! Moments in time, handed in by the caller so that everything that depends on them can be tested without waiting.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds in a day.
const DAY: u64 = 86_400_000;

/// A moment by the wall clock: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// The present, by this machine's clock. A clock set before 1970 counts as 1970.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// Whole seconds since 1970, as the public API gives times.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// Days since 1970, in UTC.
    pub(crate) fn day(self) -> u32 {
        u32::try_from(self.0 / DAY).unwrap_or(u32::MAX)
    }

    /// Time until the next midnight in UTC; a whole day at midnight.
    pub(crate) fn until_midnight(self) -> Duration {
        Duration::from_millis(DAY - self.0 % DAY)
    }
}

/// One moment by both clocks: the steady one, by which minutes are measured, and the wall clock, which says which day it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Time since a fixed moment of this process; never goes back.
    pub steady: Duration,
    /// The wall clock; an administrator may set it at any time.
    pub unix: UnixMillis,
}

impl Now {
    /// Reads both clocks.
    pub fn read() -> Self {
        static START: OnceLock<Instant> = OnceLock::new();
        Self { steady: START.get_or_init(Instant::now).elapsed(), unix: UnixMillis::now() }
    }

    /// The moment at which both clocks show `millis`; for tests and simulations.
    pub fn at(millis: u64) -> Self {
        Self { steady: Duration::from_millis(millis), unix: UnixMillis(millis) }
    }
}

/// A duration as `x-ratelimit-reset-*` headers show it: `12ms`, `1s`, `7.5s`, `6m0s`, `1h0m30s`. Rounded up to milliseconds,
/// so that a client that waits as long has waited long enough.
pub fn duration_text(duration: Duration) -> String {
    let millis = duration.as_nanos().div_ceil(1_000_000);
    if millis == 0 {
        return "0s".into();
    }
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (seconds, fraction) = (millis / 1000, millis % 1000);
    let fraction =
        if fraction == 0 { String::new() } else { format!(".{fraction:03}").trim_end_matches('0').to_string() };
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}{fraction}s"),
        (0, _) => format!("{minutes}m{seconds}{fraction}s"),
        _ => format!("{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_the_headers() {
        let cases = [
            (0, "0s"),
            (1, "1ms"),
            (12, "12ms"),
            (999, "999ms"),
            (1000, "1s"),
            (1500, "1.5s"),
            (8640, "8.64s"),
            (59_999, "59.999s"),
            (60_000, "1m0s"),
            (360_000, "6m0s"),
            (119_712, "1m59.712s"),
            (3_600_000, "1h0m0s"),
            (86_400_000, "24h0m0s"),
        ];
        for (millis, text) in cases {
            assert_eq!(duration_text(Duration::from_millis(millis)), text);
        }
        assert_eq!(duration_text(Duration::from_nanos(1)), "1ms");
        assert_eq!(duration_text(Duration::from_nanos(1_000_000_001)), "1.001s");
    }

    #[test]
    fn days_are_those_of_utc() {
        assert_eq!(UnixMillis(DAY - 1).day(), 0);
        assert_eq!(UnixMillis(DAY).day(), 1);
        assert_eq!(UnixMillis(DAY - 1).until_midnight(), Duration::from_millis(1));
        assert_eq!(UnixMillis(DAY).until_midnight(), Duration::from_millis(DAY));
    }
}
