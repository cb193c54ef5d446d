//! GPT-2's vocabulary: any bytes round-trip, and text has the ids that tiktoken gives.
#![no_main]

use std::fmt::Write;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use verve_tokenizer::Tokenizer;

static GPT2: LazyLock<Tokenizer> = LazyLock::new(|| {
    let oracle = tiktoken_rs::r50k_base_singleton();
    let mut ranks = String::new();
    for id in 0..50_256 {
        let _ = writeln!(ranks, "{} {id}", base64(&oracle.decode_bytes(&[id]).unwrap_or_default()));
    }
    Tokenizer::from_tiktoken(ranks.as_bytes(), None).expect("the oracle's vocabulary is well-formed")
});

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let word = (0..3).fold(0usize, |word, i| word << 8 | group.get(i).map_or(0, |byte| usize::from(*byte)));
        for i in 0..4 {
            text.push(if i <= group.len() { char::from(DIGITS[word >> (18 - 6 * i) & 63]) } else { '=' });
        }
    }
    text
}

fuzz_target!(|data: &[u8]| {
    let mut ids = Vec::new();
    GPT2.encode_bytes_into(data, &mut ids);
    assert_eq!(GPT2.decode_bytes(&ids).expect("own ids"), data);
    if let Ok(text) = std::str::from_utf8(data) {
        assert_eq!(ids, tiktoken_rs::r50k_base_singleton().encode_ordinary(text));
    }
});
