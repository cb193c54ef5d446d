//! The engine on its own thread.

#![allow(clippy::unwrap_used, reason = "in a test, a failure is a panic")]

mod common;

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::mock::{Mock, expected, vocabulary};
use verve_engine::*;

fn request(prompt: &[u32], max_tokens: usize) -> Request {
    let params = SamplingParams { max_tokens, ignore_eos: true, temperature: 0.0, ..SamplingParams::default() };
    Request { prompt: prompt.to_vec(), params, ..Request::default() }
}

/// Submits and returns the ticket and the events.
fn submit(handle: &EngineHandle, request: Request) -> Result<(u64, Receiver<OwnedEvent>), EngineError> {
    let (sender, events) = channel();
    let sink = Box::new(move |event| match sender.send(event) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    });
    Ok((handle.submit(request, sink)?, events))
}

/// The text, and the last event if it was no failure.
fn text(events: Receiver<OwnedEvent>) -> Result<(String, Finish), EngineError> {
    let (mut all, mut end) = (String::new(), None);
    for event in events {
        match event {
            OwnedEvent::Token { text, .. } => all.push_str(&text),
            OwnedEvent::Finished { text, finish, .. } => {
                all.push_str(&text);
                end = Some(finish);
            }
            OwnedEvent::Failed(error) => return Err(error),
            OwnedEvent::Prompt(_) | OwnedEvent::Embedding(_) => {}
        }
    }
    Ok((all, end.expect("a last event")))
}

/// Runs an engine on a mock while `user` uses it; its result.
fn with_engine(limit: usize, mut mock: Mock, user: impl FnOnce(EngineHandle)) -> Result<(), EngineError> {
    let (handle, requests) = engine_channel(limit);
    std::thread::scope(|scope| {
        let engine = scope.spawn(move || {
            let vocabulary = vocabulary();
            let options = CoreOptions::for_limits(mock.limits);
            let mut core = Core::new(&mut mock, &vocabulary, options)?;
            serve(&mut core, &requests)
        });
        user(handle);
        engine.join().expect("the engine does not panic")
    })
}

#[test]
fn many_users_at_once_get_what_they_asked_for() {
    with_engine(100, Mock::new(200, 32, 4, 20), |handle| {
        std::thread::scope(|scope| {
            for user in 0..8u32 {
                let handle = handle.clone();
                scope.spawn(move || {
                    for n in 0..4 {
                        let request = request(&[user, n, 3], 10 + n as usize);
                        let whole = expected(&request, 200);
                        let (_, events) = submit(&handle, request).unwrap();
                        let (text, finish) = text(events).unwrap();
                        assert_eq!(
                            (text, Some(Finish { n_cached: 0, n_discarded: 0, ..finish })),
                            (whole.text(), whole.finish)
                        );
                    }
                });
            }
        });
        let (_, events) = submit(&handle, request(&[99], 3)).unwrap();
        assert!(matches!(text(events), Err(EngineError::TokenId { found: 99, .. })));
        // The last step is over a moment after its events.
        let begun = Instant::now();
        while handle.load().n_running > 0 || handle.load().n_requests > 0 {
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", handle.load());
        }
        let load = handle.load();
        assert_eq!(load.n_waiting, 0);
        assert_eq!((load.n_available, load.n_blocks), (20, 20));
        assert_eq!(load.totals.n_generated, 8 * (10 + 11 + 12 + 13));
    })
    .unwrap();
}

#[test]
fn a_full_queue_refuses_and_a_cancelled_request_makes_room() {
    with_engine(2, Mock::new(4000, 32, 4, 200), |handle| {
        let long = || submit(&handle, request(&[1], 3900));
        let (first, first_events) = long().unwrap();
        let (_, second_events) = long().unwrap();
        assert!(matches!(long(), Err(EngineError::QueueFull { limit: 2 })));
        handle.cancel(first);
        let (_, finish) = text(first_events).unwrap();
        assert_eq!(finish.reason, FinishReason::Cancelled);
        // Someone who does not listen any more is cancelled too.
        drop(second_events);
        let begun = Instant::now();
        let third = loop {
            match submit(&handle, request(&[1, 2], 3)) {
                Ok(third) => break third,
                Err(_) => assert!(begun.elapsed() < Duration::from_secs(60), "no room was made"),
            }
            std::thread::yield_now();
        };
        assert_eq!(text(third.1).unwrap().1.n_generated, 3);
    })
    .unwrap();
}

#[test]
fn a_place_is_free_as_soon_as_its_request_is_known_to_be_over() {
    let user = |handle: EngineHandle| {
        for n in 0..200 {
            // One answer, several, one that cannot be given: refused only while a place is really taken.
            let n_answers = 1 + n % 3;
            let asked = match n % 4 {
                3 => Request { best_of: MAX_CHOICES + 1, ..request(&[1, 2], 2) },
                _ => Request { n: n_answers, ..request(&[1, 2], 1 + n % 2) },
            };
            let (_, events) = submit(&handle, asked).unwrap_or_else(|error| panic!("request {n}: {error}"));
            let n_ends = if n % 4 == 3 { 1 } else { n_answers };
            let is_end = |event: &OwnedEvent| matches!(event, OwnedEvent::Finished { .. } | OwnedEvent::Failed(_));
            // Not waiting for the sink to be dropped: the last end is enough.
            assert_eq!(events.iter().filter(is_end).take(n_ends).count(), n_ends);
        }
    };
    with_engine(1, Mock::new(64, 16, 4, 16), user).unwrap();
}

#[test]
fn a_sink_that_wants_no_more_after_one_answer_ends_the_others() {
    let user = |handle: EngineHandle| {
        let (sender, ends) = channel();
        let params = SamplingParams { max_tokens: 3, temperature: 1.0, ..SamplingParams::default() };
        let asked = Request { prompt: vec![1, 2], params, n: 3, ..Request::default() };
        let sink = Box::new(move |event| match event {
            OwnedEvent::Finished { choice, finish, .. } => {
                let _ = sender.send((choice, finish.reason));
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        });
        handle.submit(asked, sink).unwrap();
        let ends: Vec<_> = ends.iter().collect();
        assert_eq!(ends.len(), 3, "{ends:?}");
        assert_eq!(handle.load().n_requests, 0);
    };
    with_engine(1, Mock::new(64, 16, 4, 16), user).unwrap();
}

#[test]
fn a_failed_machine_is_told_to_everyone() {
    let mut mock = Mock::new(200, 32, 4, 20);
    mock.fails_at = Some(4);
    let result = with_engine(10, mock, |handle| {
        let (_, events) = submit(&handle, request(&[1], 50)).unwrap();
        let error = text(events).unwrap_err();
        assert!(matches!(&error, EngineError::Stopped { reason } if reason.contains("asked to")), "{error}");
        // The channel closes when the engine has ended.
        let begun = Instant::now();
        loop {
            match submit(&handle, request(&[1], 5)) {
                Err(EngineError::Stopped { .. }) => break,
                _ => assert!(begun.elapsed() < Duration::from_secs(60), "it goes on"),
            }
            std::thread::yield_now();
        }
    });
    assert!(matches!(result, Err(EngineError::Model(_))));
}
