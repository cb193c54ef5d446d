//! Limits: never more than allowed, never less than possible, at made-up times.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use verve_access::{Exceeded, Key, Limited, Limiter, Limits, Now, RateState, UnixMillis, Usage};

const MINUTE: u64 = 60_000;
const DAY: u64 = 86_400_000;

fn key(limits: Limits) -> Key {
    Key {
        id: "key_1".into(),
        name: "a".into(),
        scopes: BTreeSet::new(),
        models: Vec::new(),
        created: UnixMillis(0),
        expires_at: None,
        revoked_at: None,
        limits,
    }
}

fn refusal(result: Result<verve_access::Reservation, Exceeded>) -> Exceeded {
    match result {
        Ok(_) => panic!("admitted"),
        Err(exceeded) => exceeded,
    }
}

#[test]
fn requests_of_a_minute() {
    let limiter = Limiter::new();
    let key = key(Limits { requests_per_minute: Some(2), ..Limits::default() });
    let first = limiter.admit(&key, 0, Now::at(1000)).unwrap();
    first.settle(10, Now::at(1500));
    drop(limiter.admit(&key, 0, Now::at(11_000)).unwrap());
    let exceeded = refusal(limiter.admit(&key, 0, Now::at(31_000)));
    assert_eq!(exceeded.what, Limited::RequestsPerMinute);
    assert!(!exceeded.what.is_daily());
    assert_eq!((exceeded.limit, exceeded.used, exceeded.requested), (2, 2, 1));
    assert_eq!(exceeded.retry_after, Some(Duration::from_secs(30)));
    assert!(exceeded.to_string().contains("Try again in 30s"), "{exceeded}");
    let state = limiter.state(&key, Now::at(31_000));
    let requests = state.requests.unwrap();
    assert_eq!((requests.limit, requests.remaining, requests.reset), (2, 0, Duration::from_secs(40)));
    assert_eq!(state.tokens, None);
    assert!(limiter.admit(&key, 0, Now::at(60_999)).is_err());
    assert!(limiter.admit(&key, 0, Now::at(61_000)).is_ok());
    assert!(limiter.admit(&key, 0, Now::at(61_000)).is_err());
    let later = limiter.state(&key, Now::at(1_000_000)).requests.unwrap();
    assert_eq!((later.remaining, later.reset), (2, Duration::ZERO));
}

#[test]
fn tokens_are_reserved_settled_and_given_back() {
    let limiter = Limiter::new();
    let limits = Limits { tokens_per_minute: Some(100), tokens_per_day: Some(150), ..Limits::default() };
    let key = key(limits);
    let left = |at| limiter.state(&key, Now::at(at)).tokens.unwrap().remaining;
    assert_eq!(left(0), 100);
    let a = limiter.admit(&key, 60, Now::at(0)).unwrap();
    assert_eq!(left(0), 40);
    let exceeded = refusal(limiter.admit(&key, 41, Now::at(10)));
    assert_eq!((exceeded.what, exceeded.used, exceeded.requested), (Limited::TokensPerMinute, 60, 41));
    let b = limiter.admit(&key, 40, Now::at(10)).unwrap();
    assert_eq!(left(10), 0);
    drop(b);
    assert_eq!(left(10), 40);
    a.settle(20, Now::at(20));
    assert_eq!(left(20), 80);
    // More than the estimate: the key is over its limit until that has left the window.
    let c = limiter.admit(&key, 10, Now::at(30_000)).unwrap();
    c.settle(95, Now::at(30_000));
    assert_eq!(left(30_000), 0);
    // What came at 0 counts as long as what came a moment later, at 10.
    let exceeded = refusal(limiter.admit(&key, 5, Now::at(30_000)));
    assert_eq!((exceeded.used, exceeded.retry_after), (115, Some(Duration::from_millis(30_010))));
    // The day has 150 - 115 left, the minute 100 again: the day's is the tighter.
    let state = limiter.state(&key, Now::at(100_000)).tokens.unwrap();
    assert_eq!((state.limit, state.remaining), (150, 35));
    assert_eq!(state.reset, Duration::from_millis(DAY - 100_000));
    let exceeded = refusal(limiter.admit(&key, 36, Now::at(100_000)));
    assert_eq!(exceeded.what, Limited::TokensPerDay);
    assert!(exceeded.what.is_daily());
    assert_eq!(exceeded.retry_after, Some(Duration::from_millis(DAY - 100_000)));
    assert!(limiter.admit(&key, 36, Now::at(DAY)).is_ok());
}

#[test]
fn a_request_over_the_whole_limit_is_told_so() {
    let limiter = Limiter::new();
    let key = key(Limits { tokens_per_minute: Some(100), ..Limits::default() });
    let exceeded = refusal(limiter.admit(&key, 101, Now::at(0)));
    assert_eq!(exceeded.retry_after, None);
    assert!(exceeded.to_string().contains("smaller"), "{exceeded}");
    assert_eq!(limiter.state(&key, Now::at(0)).tokens.unwrap().remaining, 100);
    refusal(limiter.admit(&key, u64::MAX, Now::at(0)));
}

#[test]
fn a_key_without_limits_is_never_refused() {
    let limiter = Limiter::new();
    let key = key(Limits::default());
    for i in 0..1000 {
        limiter.admit(&key, u64::MAX, Now::at(i)).unwrap().settle(u64::MAX, Now::at(i));
    }
    assert_eq!(limiter.state(&key, Now::at(1000)), RateState::default());
}

#[test]
fn the_day_goes_on_where_the_file_left_it() {
    let limiter = Limiter::new();
    let key = key(Limits { requests_per_day: Some(5), tokens_per_day: Some(1000), ..Limits::default() });
    let used = Usage { requests: 3, prompt_tokens: 400, completion_tokens: 100 };
    limiter.raise_day(&key.id, used, Now::at(3 * DAY));
    let state = limiter.state(&key, Now::at(3 * DAY + 1));
    assert_eq!((state.requests.unwrap().remaining, state.tokens.unwrap().remaining), (2, 500));
    let open = limiter.admit(&key, 100, Now::at(3 * DAY + 1)).unwrap();
    // Less than what is counted here: nothing changes. Reserved tokens are not in the file and stay on top.
    limiter.raise_day(&key.id, used, Now::at(3 * DAY + 2));
    let state = limiter.state(&key, Now::at(3 * DAY + 2));
    assert_eq!((state.requests.unwrap().remaining, state.tokens.unwrap().remaining), (1, 400));
    // Settled on the next day: that day owes nothing for it.
    open.settle(100, Now::at(4 * DAY));
    let state = limiter.state(&key, Now::at(4 * DAY));
    assert_eq!((state.requests.unwrap().remaining, state.tokens.unwrap().remaining), (5, 1000));
}

#[test]
fn a_clock_put_back_gives_nothing_twice() {
    let limiter = Limiter::new();
    let limits = Limits { requests_per_minute: Some(1), requests_per_day: Some(2), ..Limits::default() };
    let key = key(limits);
    let moment = |steady: u64, unix: u64| Now { steady: Duration::from_millis(steady), unix: UnixMillis(unix) };
    let midnight = 10 * DAY;
    drop(limiter.admit(&key, 0, moment(0, midnight)).unwrap());
    // The wall clock goes back over midnight; the steady clock does not go back, and if it did it would stand still.
    assert_eq!(refusal(limiter.admit(&key, 0, moment(0, midnight - 1))).what, Limited::RequestsPerMinute);
    drop(limiter.admit(&key, 0, moment(2 * MINUTE, midnight - 1)).unwrap());
    assert_eq!(refusal(limiter.admit(&key, 0, moment(MINUTE, midnight - 1))).what, Limited::RequestsPerDay);
    assert_eq!(refusal(limiter.admit(&key, 0, moment(4 * MINUTE, midnight + 5))).what, Limited::RequestsPerDay);
    // A clock that was wrong by years is put right: the key is not stuck in that year.
    drop(limiter.admit(&key, 0, moment(6 * MINUTE, 4000 * DAY)).unwrap());
    drop(limiter.admit(&key, 0, moment(8 * MINUTE, 11 * DAY)).unwrap());
    drop(limiter.admit(&key, 0, moment(10 * MINUTE, 11 * DAY)).unwrap());
    assert!(limiter.admit(&key, 0, moment(12 * MINUTE, 11 * DAY)).is_err());
}

#[test]
fn threads_together_get_no_more_than_the_limit() {
    let limiter = Limiter::new();
    let key = key(Limits { requests_per_minute: Some(100), tokens_per_minute: Some(450), ..Limits::default() });
    let admitted: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (limiter, key) = (limiter.clone(), key.clone());
                scope.spawn(move || {
                    (0..100)
                        .filter(|_| match limiter.admit(&key, 10, Now::at(5)) {
                            Ok(reservation) => {
                                reservation.settle(5, Now::at(6));
                                true
                            }
                            Err(_) => false,
                        })
                        .count()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert!((80..=89).contains(&admitted), "{admitted}");
}

/// What happens at one moment.
#[derive(Debug, Clone)]
enum Step {
    Ask { tokens: u64 },
    Settle { which: usize, share: u64 },
    Drop { which: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..60).prop_map(|tokens| Step::Ask { tokens }),
        2 => (any::<usize>(), 0u64..=100).prop_map(|(which, share)| Step::Settle { which, share }),
        1 => any::<usize>().prop_map(|which| Step::Drop { which }),
    ]
}

/// Steps with the time that passes before each: mostly short, sometimes long, sometimes back.
fn story() -> impl Strategy<Value = Vec<(i64, Step)>> {
    let pause = prop_oneof![4 => 0i64..400, 3 => 0i64..20_000, 1 => 0i64..100_000, 1 => -50_000i64..0];
    prop::collection::vec((pause, step()), 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_window_holds_more_than_the_limit(
        story in story(),
        requests in 1u64..8,
        tokens in 1u64..150,
        per_day in 5u64..40,
    ) {
        let limiter = Limiter::new();
        let key = key(Limits {
            requests_per_minute: Some(requests),
            tokens_per_minute: Some(tokens),
            requests_per_day: Some(per_day),
            tokens_per_day: None,
        });
        let mut clock: i64 = 3_600_000;
        // What the limiter takes the steady time for: it never goes back.
        let mut steady = 0u64;
        let mut admitted: Vec<(u64, u64)> = Vec::new();
        let mut open = Vec::new();
        for (pause, step) in story {
            clock = (clock + pause).max(0);
            let now = Now::at(clock.unsigned_abs());
            steady = steady.max(clock.unsigned_abs());
            match step {
                Step::Ask { tokens: wanted } => {
                    // Times here are the limiter's: what stands in the last window, counted one by one.
                    let within = |length: u64| admitted.iter().filter(move |(at, _)| at + length > steady);
                    let (n, sum) = (within(MINUTE).count() as u64, within(MINUTE).map(|(_, t)| t).sum::<u64>());
                    let (n_slack, sum_slack) =
                        (within(MINUTE + 250).count() as u64, within(MINUTE + 250).map(|(_, t)| t).sum::<u64>());
                    let fits = n < requests && sum + wanted <= tokens && (admitted.len() as u64) < per_day;
                    let surely = n_slack < requests && sum_slack + wanted <= tokens && (admitted.len() as u64) < per_day;
                    match limiter.admit(&key, wanted, now) {
                        Ok(reservation) => {
                            prop_assert!(fits, "admitted with {n} requests and {sum} tokens in the window");
                            open.push((admitted.len(), reservation));
                            admitted.push((steady, wanted));
                        }
                        Err(exceeded) => {
                            prop_assert!(!surely, "refused with {n} requests and {sum} tokens: {exceeded}");
                            match exceeded.retry_after {
                                None => prop_assert!(wanted > tokens),
                                Some(wait) if !exceeded.what.is_daily() => {
                                    // Not a millisecond too early; on time it gets past this limit.
                                    let wait = u64::try_from(wait.as_millis()).unwrap();
                                    prop_assert!(wait > 0 && wait <= MINUTE);
                                }
                                Some(_) => prop_assert!(admitted.len() as u64 >= per_day),
                            }
                        }
                    }
                }
                Step::Settle { which, share } if !open.is_empty() => {
                    let (index, reservation) = open.swap_remove(which % open.len());
                    let real = reservation.tokens() * share / 100;
                    admitted[index].1 = real;
                    reservation.settle(real, now);
                }
                Step::Drop { which } if !open.is_empty() => {
                    let (index, reservation) = open.swap_remove(which % open.len());
                    admitted[index].1 = 0;
                    drop(reservation);
                }
                _ => {}
            }
            let state = limiter.state(&key, now);
            let sum: u64 = admitted.iter().filter(|(at, _)| at + MINUTE > steady).map(|(_, t)| t).sum();
            prop_assert!(state.tokens.unwrap().remaining <= tokens - sum);
        }
    }

    #[test]
    fn who_waits_as_told_is_admitted(
        asks in prop::collection::vec((0u64..5_000, 0u64..60), 1..60),
        requests in 1u64..8,
        tokens in 60u64..150,
    ) {
        let limiter = Limiter::new();
        let key = key(Limits {
            requests_per_minute: Some(requests),
            tokens_per_minute: Some(tokens),
            ..Limits::default()
        });
        let mut clock = 0;
        for (pause, wanted) in asks {
            clock += pause;
            let mut refusals = 0;
            loop {
                match limiter.admit(&key, wanted, Now::at(clock)) {
                    Ok(reservation) => break reservation.settle(wanted, Now::at(clock)),
                    Err(exceeded) => {
                        refusals += 1;
                        // Once for requests, once for tokens.
                        prop_assert!(refusals <= 2, "{exceeded}");
                        let wait = u64::try_from(exceeded.retry_after.unwrap().as_millis()).unwrap();
                        let early = refusal(limiter.admit(&key, wanted, Now::at(clock + wait - 1)));
                        prop_assert_eq!(early.what, exceeded.what);
                        clock += wait;
                    }
                }
            }
        }
        let state = limiter.state(&key, Now::at(clock));
        for quota in [state.requests.unwrap(), state.tokens.unwrap()] {
            let reset = u64::try_from(quota.reset.as_millis()).unwrap();
            let then = limiter.state(&key, Now::at(clock + reset));
            prop_assert!([then.requests, then.tokens].iter().flatten().any(|q| q.remaining == q.limit));
        }
    }
}
