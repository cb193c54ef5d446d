//! Holding keys to their limits.
//!
//! Minutes are sliding windows: in no 60 seconds, wherever they begin, is more admitted than the limit. (A bucket that fills
//! up again would let twice the limit through in one minute.) Days are those of UTC, as usage is kept.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::window::Window;
use crate::{Key, Now};

/// More tokens than any request has. Estimates are cut to it so that sums stay far from overflowing.
const MOST_TOKENS: u64 = 1 << 40;

/// Which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limited {
    /// Requests in 60 seconds.
    RequestsPerMinute,
    /// Tokens in 60 seconds.
    TokensPerMinute,
    /// Requests in a day.
    RequestsPerDay,
    /// Tokens in a day.
    TokensPerDay,
}

impl Limited {
    /// In words, such as "requests per minute".
    pub fn words(self) -> &'static str {
        match self {
            Self::RequestsPerMinute => "requests per minute",
            Self::TokensPerMinute => "tokens per minute",
            Self::RequestsPerDay => "requests per day",
            Self::TokensPerDay => "tokens per day",
        }
    }

    /// Whether the limit is one of the day's (`insufficient_quota` in the public API: not worth trying again soon) and not of the
    /// minute's (`rate_limit_exceeded`).
    pub fn is_daily(self) -> bool {
        matches!(self, Self::RequestsPerDay | Self::TokensPerDay)
    }

    /// What is counted, as the public API's error type: `requests` or `tokens`.
    pub fn unit(self) -> &'static str {
        match self {
            Self::RequestsPerMinute | Self::RequestsPerDay => "requests",
            Self::TokensPerMinute | Self::TokensPerDay => "tokens",
        }
    }
}

/// A request that a limit refused. Nothing of it was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// Which limit.
    pub what: Limited,
    /// The limit.
    pub limit: u64,
    /// What counted against it before the request.
    pub used: u64,
    /// What the request would have added.
    pub requested: u64,
    /// After how long it would be admitted if nothing else comes; nothing if it alone is over the limit.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, limit, used, requested, retry_after } = self;
        write!(f, "limit of {} reached: limit {limit}, used {used}, requested {requested}. ", what.words())?;
        match retry_after {
            Some(wait) => write!(f, "Try again in {}.", crate::duration_text(*wait)),
            None => f.write_str("The request alone is over the limit: make it smaller."),
        }
    }
}

impl std::error::Error for Exceeded {}

/// Where a key stands with one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// The limit.
    pub limit: u64,
    /// What is left of it.
    pub remaining: u64,
    /// Time until all of it is there again if nothing else comes.
    pub reset: Duration,
}

/// Where a key stands, for the `x-ratelimit-*` headers. Where both a minute and a day are limited, that of which less is left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RateState {
    /// Requests, if they are limited.
    pub requests: Option<Quota>,
    /// Tokens, if they are limited.
    pub tokens: Option<Quota>,
}

/// Counts what keys ask for and refuses what is over their [`Limits`](crate::Limits). Clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct Limiter {
    keys: Arc<Mutex<HashMap<String, Counts>>>,
}

#[derive(Debug, Default)]
struct Counts {
    minute_requests: Window,
    minute_tokens: Window,
    /// The steady clock's latest, ms.
    latest: u64,
    day: Day,
}

#[derive(Debug, Default, Clone, Copy)]
struct Day {
    number: u32,
    requests: u64,
    /// Tokens of what is settled.
    settled: u64,
    /// Tokens of what is reserved.
    reserved: u64,
}

impl Counts {
    /// Brings the counts to the present, ms of the steady clock. A steady clock that goes back stands still instead.
    fn advance(&mut self, now: Now) -> u64 {
        self.latest = self.latest.max(u64::try_from(now.steady.as_millis()).unwrap_or(u64::MAX / 2));
        self.minute_requests.advance(self.latest);
        self.minute_tokens.advance(self.latest);
        // A wall clock put back over midnight must not give the day's quota twice; one that was wrong by days must not
        // hold the key to a day that is not.
        let day = now.unix.day();
        if day != self.day.number && day.saturating_add(1) != self.day.number {
            self.day = Day { number: day, ..Day::default() };
        }
        self.latest
    }
}

impl Day {
    fn tokens(&self) -> u64 {
        self.settled.saturating_add(self.reserved)
    }
}

impl Limiter {
    /// A limiter that has counted nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<String, Counts>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, id: &str, act: impl FnOnce(&mut Counts) -> T) -> T {
        act(self.keys().entry(id.to_string()).or_default())
    }

    /// Takes in what is known of a key's use on the present day from elsewhere: what was stored before a restart, or what
    /// other servers with the same file have counted since. Counts are raised to it, never lowered.
    pub fn raise_day(&self, id: &str, used: crate::Usage, now: Now) {
        self.with(id, |counts| {
            counts.advance(now);
            if counts.day.number == now.unix.day() {
                counts.day.requests = counts.day.requests.max(used.requests);
                counts.day.settled = counts.day.settled.max(used.tokens());
            }
        });
    }

    /// Counts one request and reserves `estimated_tokens` for it, or says which limit it is over and counts nothing. The
    /// estimate should be the most the request can take (prompt and answer together): then no window sees more tokens than the
    /// limit.
    pub fn admit(&self, key: &Key, estimated_tokens: u64, now: Now) -> Result<Reservation, Exceeded> {
        let tokens = estimated_tokens.min(MOST_TOKENS);
        let (slot, day) = self.with(&key.id, |counts| {
            let clock = counts.advance(now);
            let (limits, day) = (&key.limits, counts.day);
            let midnight = now.unix.until_midnight();
            for (what, limit, used, requested) in [
                (Limited::RequestsPerDay, limits.requests_per_day, day.requests, 1),
                (Limited::TokensPerDay, limits.tokens_per_day, day.tokens(), tokens),
            ] {
                let Some(limit) = limit else { continue };
                if used.saturating_add(requested) > limit {
                    let retry_after = (requested <= limit).then_some(midnight);
                    return Err(Exceeded { what, limit, used, requested, retry_after });
                }
            }
            for (what, limit, window, requested) in [
                (Limited::RequestsPerMinute, limits.requests_per_minute, &counts.minute_requests, 1),
                (Limited::TokensPerMinute, limits.tokens_per_minute, &counts.minute_tokens, tokens),
            ] {
                let Some(limit) = limit else { continue };
                let wait = window.wait_for(requested, limit, clock);
                if wait != Some(0) {
                    let retry_after = wait.map(Duration::from_millis);
                    return Err(Exceeded { what, limit, used: window.used(), requested, retry_after });
                }
            }
            counts.minute_requests.add(1, clock);
            let slot = counts.minute_tokens.add(tokens, clock);
            counts.day.requests = counts.day.requests.saturating_add(1);
            counts.day.reserved = counts.day.reserved.saturating_add(tokens);
            Ok((slot, counts.day.number))
        })?;
        Ok(Reservation { limiter: self.clone(), id: key.id.clone(), slot, day, tokens, open: true })
    }

    /// Where a key stands.
    pub fn state(&self, key: &Key, now: Now) -> RateState {
        self.with(&key.id, |counts| {
            let clock = counts.advance(now);
            let midnight = now.unix.until_midnight();
            let minute = |limit: Option<u64>, window: &Window| {
                limit.map(|limit| Quota {
                    limit,
                    remaining: limit.saturating_sub(window.used()),
                    reset: Duration::from_millis(window.until_empty(clock)),
                })
            };
            let daily = |limit: Option<u64>, used: u64| {
                limit.map(|limit| Quota {
                    limit,
                    remaining: limit.saturating_sub(used),
                    reset: if used == 0 { Duration::ZERO } else { midnight },
                })
            };
            let limits = &key.limits;
            RateState {
                requests: tighter(
                    minute(limits.requests_per_minute, &counts.minute_requests),
                    daily(limits.requests_per_day, counts.day.requests),
                ),
                tokens: tighter(
                    minute(limits.tokens_per_minute, &counts.minute_tokens),
                    daily(limits.tokens_per_day, counts.day.tokens()),
                ),
            }
        })
    }

    fn close(&self, reservation: &Reservation, used: u64, now: Option<Now>) {
        let used = used.min(MOST_TOKENS);
        self.with(&reservation.id, |counts| {
            let clock = now.map_or(counts.latest, |now| counts.advance(now));
            let (given_back, over) = (reservation.tokens.saturating_sub(used), used.saturating_sub(reservation.tokens));
            counts.minute_tokens.take_back(given_back, reservation.slot);
            if over > 0 {
                counts.minute_tokens.add(over, clock);
            }
            if counts.day.number == reservation.day {
                counts.day.reserved = counts.day.reserved.saturating_sub(reservation.tokens);
                counts.day.settled = counts.day.settled.saturating_add(used);
            } else {
                counts.day.settled = counts.day.settled.saturating_add(over);
            }
        });
    }
}

fn tighter(minute: Option<Quota>, day: Option<Quota>) -> Option<Quota> {
    match (minute, day) {
        (Some(minute), Some(day)) => Some(if day.remaining < minute.remaining { day } else { minute }),
        (minute, day) => minute.or(day),
    }
}

/// Tokens held for a request that was admitted. Dropped without [`Reservation::settle`], it gives them back; the request
/// stays counted.
#[derive(Debug)]
pub struct Reservation {
    limiter: Limiter,
    id: String,
    slot: u64,
    day: u32,
    tokens: u64,
    open: bool,
}

impl Reservation {
    /// Tokens reserved.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Puts what the request really took in place of the estimate. What it took less counts no more from now on; what it took
    /// more counts from now on, and may leave the key over its limit until it has left the window.
    pub fn settle(mut self, tokens: u64, now: Now) {
        self.open = false;
        self.limiter.close(&self, tokens, Some(now));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.open {
            self.limiter.close(self, 0, None);
        }
    }
}
