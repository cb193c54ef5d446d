//! Moderation services, played by a thread with a socket.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::thread::JoinHandle;

use common::chain;
use serde_json::{Value, json};
use verve_moderate::{Category, Chain, Finding, ModerationError, Stage};

/// Answers the given requests, one after another, and returns what it was sent: the head in small letters, and the body.
fn service(answers: Vec<(u16, String)>) -> (String, JoinHandle<Vec<(String, Value)>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1/moderations", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        let mut seen = Vec::new();
        for (status, answer) in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let line = line.to_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if line.trim().is_empty() {
                    break;
                }
                head.push_str(&line);
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            seen.push((head, serde_json::from_slice(&body).unwrap()));
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", answer.len());
            stream.write_all((head + &answer).as_bytes()).unwrap();
        }
        seen
    });
    (url, thread)
}

fn answer(flagged: bool, category: &str, score: f64) -> (u16, String) {
    let result = json!({"flagged": flagged, "categories": {category: flagged, "unheard-of": true, "sexual": null},
        "category_scores": {category: score}});
    (200, json!({"id": "modr-1", "model": "m", "results": [result]}).to_string())
}

fn asking(url: &str, more: &str) -> Chain {
    chain(&format!(
        "[[filters]]\nname='words'\nreason_code='w'\nwords=['plain']\n\
         [[filters]]\nname='service'\nreason_code='s'\ncategory='illicit'\n{more}\nservice = {{ url = '{url}', model = 'mod-1' }}"
    ))
}

#[test]
fn a_service_is_asked_about_whole_texts() {
    let (url, thread) = service(vec![
        answer(false, "violence", 0.2),
        answer(true, "violence", 0.9),
        answer(true, "something new", 0.9),
        answer(true, "violence", 0.75),
    ]);
    let chain = asking(&url, "");
    assert!(chain.asks_services(Stage::Output));
    assert_eq!(chain.check(Stage::Input, "first"), verve_moderate::Verdict::default());
    // Refused without asking.
    assert_eq!(chain.check(Stage::Input, "plain").refused.unwrap().filter, "words");
    let finding = chain.check(Stage::Output, "second \"quoted\"").refused.unwrap();
    assert_eq!((finding.filter.as_str(), finding.reason_code.as_str()), ("service", "s"));
    assert_eq!((finding.category, finding.stage), (Some(Category::Violence), Stage::Output));
    // A category that nobody knows: the filter's own.
    assert_eq!(chain.check_services(Stage::Input, "plain").refused.unwrap().category, Some(Category::Illicit));
    let moderation = chain.categories("fourth").unwrap();
    assert!(moderation.flagged);
    let violence = moderation.categories.iter().find(|c| c.0 == Category::Violence).unwrap();
    assert_eq!((violence.1, violence.2), (true, 0.75));
    let seen = thread.join().unwrap();
    assert_eq!(seen[1].1, json!({"input": "second \"quoted\"", "model": "mod-1"}));
    assert!(seen[0].0.starts_with("post /v1/moderations http/1.1") && !seen[0].0.contains("authorization"));
    // An answer that is streamed never asks.
    assert_eq!(chain.output_scan().push("anything ").unwrap(), "anything ");
}

#[test]
fn a_service_that_does_not_answer_as_it_should_refuses_or_is_passed_over() {
    let long = format!("{{\"results\": [], \"x\": \"{}\"}}", "x".repeat(2 << 20));
    let wrong: Vec<(u16, String)> = vec![
        (500, "oops".into()),
        (200, "no json".into()),
        (200, json!({"results": []}).to_string()),
        (302, String::new()),
        (200, long),
    ];
    let count = wrong.len();
    let (url, thread) = service([wrong.clone(), wrong].concat());
    let refuses = asking(&url, "");
    for _ in 0..count {
        let finding = refuses.check(Stage::Input, "text").refused.unwrap();
        assert_eq!((finding.filter.as_str(), finding.reason_code.as_str()), ("service", Finding::UNAVAILABLE));
    }
    let passes = chain(&format!(
        "[[filters]]\nname='service'\nreason_code='s'\nservice = {{ url = '{url}', on_failure = 'pass' }}"
    ));
    for _ in 0..count {
        let verdict = passes.check(Stage::Input, "text");
        assert!(verdict.refused.is_none());
        assert_eq!(verdict.records[0].reason_code, Finding::UNAVAILABLE);
    }
    let _ = thread.join();
    // Nobody listens any more.
    assert_eq!(refuses.check(Stage::Input, "text").refused.unwrap().reason_code, Finding::UNAVAILABLE);
    assert!(matches!(refuses.categories("text"), Err(ModerationError::Unavailable { .. })));
    assert!(!passes.categories("text").unwrap().flagged);
}

#[test]
fn a_slow_service_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let chain =
        chain(&format!("[[filters]]\nname='s'\nreason_code='s'\nservice = {{ url = '{url}', timeout_ms = 50 }}"));
    assert_eq!(chain.check(Stage::Input, "text").refused.unwrap().reason_code, Finding::UNAVAILABLE);
    drop(listener);
}

#[test]
fn only_recording_lets_everything_pass() {
    let (url, thread) = service(vec![answer(true, "hate", 0.5), (500, String::new())]);
    let chain = asking(&url, "action='record'");
    let verdict = chain.check(Stage::Input, "text");
    assert!(verdict.refused.is_none());
    assert_eq!(verdict.records[0].category, Some(Category::Hate));
    assert_eq!(chain.check(Stage::Input, "text").records[0].reason_code, Finding::UNAVAILABLE);
    thread.join().unwrap();
}
