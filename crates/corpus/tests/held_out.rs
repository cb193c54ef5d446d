//! How much is held out, of which documents, and that the choice depends on nothing else.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use common::{documents, folder, json_lines};
use verve_corpus::Error;
use verve_corpus::held_out::{HeldOutOptions, HeldOutRule, document_key, survey};
use verve_corpus::read::{ReadOptions, find_files};

const DEFAULT: HeldOutOptions = HeldOutOptions { fraction: 0.005, min_bytes: 64 << 10 };

fn decide(documents: &[String], options: HeldOutOptions) -> HeldOutRule {
    let root = folder(&[("a.jsonl", json_lines(documents).as_bytes())]);
    let read = ReadOptions::default();
    let found = find_files(&[root.path()], &read).unwrap();
    survey(&found.files, &read, &options, |_| ControlFlow::Continue(())).unwrap()
}

/// The documents held out as a whole, and their share of the text.
fn held_out<'a>(documents: &'a [String], rule: &HeldOutRule) -> (BTreeSet<&'a str>, f64) {
    let held: BTreeSet<&str> =
        documents.iter().filter(|d| rule.holds_out(document_key(d))).map(String::as_str).collect();
    let total: usize = documents.iter().map(String::len).sum();
    let bytes: usize = held.iter().map(|d| d.len()).sum();
    (held, bytes as f64 / total as f64)
}

#[test]
fn a_large_corpus_holds_out_the_fraction_and_reads_little_to_know() {
    let documents = documents(1, 20_000, 200);
    let rule = decide(&documents, HeldOutOptions { fraction: 0.02, ..DEFAULT });
    assert!(rule.more.is_empty() && rule.tail.is_none());
    let (held, share) = held_out(&documents, &rule);
    // 400 expected, standard deviation 20.
    assert!((300..500).contains(&held.len()), "{}", held.len());
    assert!((0.015..0.025).contains(&share), "{share}");
    // The documents held out of a part are those of the whole that lie in it: the rule is about documents alone.
    let (of_part, _) = held_out(&documents[..7000], &rule);
    assert!(of_part.is_subset(&held));

    // The survey ends early: it never comes to the broken file at the end.
    let root = folder(&[("a.jsonl", json_lines(&documents).as_bytes()), ("b.jsonl", b"broken")]);
    let read = ReadOptions::default();
    let found = find_files(&[root.path()], &read).unwrap();
    let options = HeldOutOptions { fraction: 0.02, ..DEFAULT };
    assert_eq!(survey(&found.files, &read, &options, |_| ControlFlow::Continue(())).unwrap(), rule);
}

#[test]
fn a_small_corpus_holds_out_a_tenth_in_whole_documents() {
    let mut documents = documents(2, 150, 1000);
    let rule = decide(&documents, DEFAULT);
    assert!(rule.tail.is_none());
    let (held, share) = held_out(&documents, &rule);
    assert!(held.len() > 8 && (0.085..=0.1).contains(&share), "{} documents, {share}", held.len());
    // The order of the documents plays no part.
    let held: BTreeSet<String> = held.into_iter().map(str::to_owned).collect();
    documents.reverse();
    documents.swap(3, 90);
    let again = decide(&documents, DEFAULT);
    assert_eq!(again, rule);
    assert_eq!(held_out(&documents, &again).0.into_iter().map(str::to_owned).collect::<BTreeSet<_>>(), held);
}

#[test]
fn a_middling_corpus_holds_out_the_least_bytes() {
    let documents = documents(3, 300, 10_000);
    let rule = decide(&documents, HeldOutOptions { fraction: 0.0001, ..DEFAULT });
    assert!(rule.tail.is_none());
    let bytes: usize = held_out(&documents, &rule).0.iter().map(|d| d.len()).sum();
    assert!((64 << 10..(64 << 10) + 12_000).contains(&bytes), "{bytes}");
}

#[test]
fn equal_documents_fall_on_the_same_side() {
    let mut documents = documents(4, 60, 1000);
    documents.extend_from_within(..);
    let rule = decide(&documents, DEFAULT);
    let held: Vec<bool> = documents.iter().map(|d| rule.holds_out(document_key(d))).collect();
    assert!(held.contains(&true));
    assert_eq!(held[..60], held[60..]);
    let bytes: usize = documents.iter().zip(&held).filter(|(_, held)| **held).map(|(d, _)| d.len()).sum();
    assert!(bytes * 10 <= documents.iter().map(String::len).sum(), "copies count");
}

#[test]
fn few_or_single_documents_hold_out_the_end_of_the_longest() {
    let mut few = documents(5, 3, 100_000);
    few[1].push_str(" and some more");
    for (documents, longest) in [(&few[..], 1), (&few[..1], 0)] {
        let rule = decide(documents, DEFAULT);
        let tail = rule.tail.unwrap();
        assert_eq!(tail.document, longest as u64);
        let total: usize = documents.iter().map(String::len).sum();
        let held = documents[longest].len() as u64 - tail.from;
        assert_eq!(held, (total as u64 / 10).min(64 << 10));
        assert!(held_out(documents, &rule).0.is_empty());
    }
}

#[test]
fn a_fraction_that_hits_most_of_the_text_is_not_followed() {
    // Look for a single document whose key lies under the fraction: on its own it would leave nothing to train on.
    let hit = documents(6, 200, 3000).into_iter().find(|d| document_key(d) < u64::MAX / 100).unwrap();
    let rule = decide(std::slice::from_ref(&hit), HeldOutOptions { fraction: 0.01, ..DEFAULT });
    assert!(!rule.holds_out(document_key(&hit)));
    assert!(rule.tail.is_some());
    let rule = decide(&[hit.clone(), "short".to_owned()], HeldOutOptions { fraction: 0.01, ..DEFAULT });
    assert!(!rule.holds_out(document_key(&hit)));
}

#[test]
fn nothing_is_held_out_on_request_and_bad_fractions_are_errors() {
    let documents = documents(7, 10, 100);
    assert_eq!(decide(&documents, HeldOutOptions { fraction: 0.0, ..DEFAULT }), HeldOutRule::default());
    let root = folder(&[("a.txt", b"text")]);
    let read = ReadOptions::default();
    let found = find_files(&[root.path()], &read).unwrap();
    for fraction in [-0.1, 0.51, f64::NAN, f64::INFINITY] {
        let options = HeldOutOptions { fraction, ..DEFAULT };
        let error = survey(&found.files, &read, &options, |_| ControlFlow::Continue(())).unwrap_err();
        assert!(matches!(error, Error::Options { .. }), "{error:?}");
    }
}
