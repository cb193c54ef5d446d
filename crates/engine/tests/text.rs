//! Text streams: pieces joined are the whole text, nothing is shown too early, nothing is held back too long.

use std::sync::Arc;

use proptest::prelude::*;
use verve_engine::{StopSet, TextStream};

/// Few symbols, so that stop strings begin often and overlap; characters of one to four bytes, and bytes that are none.
const SYMBOLS: &[&[u8]] = &[
    b"a",
    b"b",
    b"ab",
    b"\n",
    "é".as_bytes(),
    "€".as_bytes(),
    "😀".as_bytes(),
    b"\xff",
    b"\xc3",
    b"\xe2\x82",
    b"\x98\x80",
];
const STOP_SYMBOLS: &[&str] = &["a", "b", "\n", "é", "€", "😀", "\u{fffd}"];

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(SYMBOLS), 0..40).prop_map(|symbols| symbols.concat())
}

fn stop_strings() -> impl Strategy<Value = Vec<String>> {
    let string = prop::collection::vec(prop::sample::select(STOP_SYMBOLS), 1..6).prop_map(|symbols| symbols.concat());
    prop::collection::vec(string, 0..5)
}

/// Where the text ends: before the stop string that is completed first, before the longest of several.
fn cut(text: &str, stops: &[String]) -> Option<usize> {
    (0..=text.len()).filter(|&end| text.is_char_boundary(end)).find_map(|end| {
        let longest = stops.iter().filter(|stop| text[..end].ends_with(*stop)).map(String::len).max()?;
        Some(end - longest)
    })
}

/// The text of `bytes` without an incomplete character at the end.
fn complete_text(bytes: &[u8]) -> String {
    let is_incomplete = |tail: &[u8]| {
        std::str::from_utf8(tail).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    let rest = (1..=3.min(bytes.len())).rev().find(|&n| is_incomplete(&bytes[bytes.len() - n..])).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..bytes.len() - rest]).into_owned()
}

/// How much of a text without stop strings is certain: all but the longest end that begins a stop string.
fn certain(text: &str, stops: &[String]) -> usize {
    let may_become_stop = |end: &str| stops.iter().any(|stop| stop.len() > end.len() && stop.starts_with(end));
    (0..=text.len())
        .find(|&at| text.is_char_boundary(at) && (at == text.len() || may_become_stop(&text[at..])))
        .unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn pieces_are_the_whole_text_and_each_comes_as_soon_as_it_is_certain(
        bytes in bytes(),
        stops in stop_strings(),
        chunks in prop::collection::vec(0usize..6, 1..40),
    ) {
        let mut stream = TextStream::new(Arc::new(StopSet::new(&stops)));
        let (mut shown, mut taken, mut stopped) = (String::new(), 0, false);
        for chunk in chunks.iter().cycle().take(100) {
            let next = bytes.len().min(taken + chunk);
            let piece = stream.push(&bytes[taken..next]);
            shown.push_str(piece.text);
            prop_assert!(!stopped || piece.text.is_empty() && piece.stopped, "text after a stop");
            stopped = piece.stopped;
            taken = next;
            let so_far = complete_text(&bytes[..taken]);
            match cut(&so_far, &stops) {
                Some(end) => prop_assert_eq!((&*shown, stopped), (&so_far[..end], true)),
                None => prop_assert_eq!((&*shown, stopped), (&so_far[..certain(&so_far, &stops)], false)),
            }
        }
        let piece = stream.finish();
        shown.push_str(piece.text);
        let whole = String::from_utf8_lossy(&bytes[..taken]).into_owned();
        let end = cut(&whole, &stops);
        prop_assert_eq!((&*shown, piece.stopped), (&whole[..end.unwrap_or(whole.len())], end.is_some()));
    }
}

#[test]
fn many_long_stop_strings_take_linear_time() {
    // Quadratic work on these would take minutes.
    let stops: Vec<String> = (1..=1000).map(|n| "a".repeat(n) + "b").collect();
    let mut stream = TextStream::new(Arc::new(StopSet::new(&stops)));
    let text = "a".repeat(2_000_000);
    let mut shown = 0;
    for chunk in text.as_bytes().chunks(7) {
        shown += stream.push(chunk).text.len();
    }
    assert_eq!(shown, text.len() - 1000, "as many may still become the longest stop string");
    let piece = stream.push(b"b");
    assert_eq!((piece.text, piece.stopped), ("", true));
}

#[test]
fn an_empty_stop_string_never_matches() {
    let stops = StopSet::new(&[""]);
    assert!(stops.is_empty());
    let mut stream = TextStream::new(Arc::new(stops));
    let piece = stream.push(b"abc");
    assert_eq!((piece.text, piece.stopped), ("abc", false));
}
