//! Tokenizer files of every form. One that is accepted round-trips, and keeps its identity when it is saved.
#![no_main]

use libfuzzer_sys::fuzz_target;
use verve_tokenizer::{ModelKind, Tokenizer};

fuzz_target!(|data: &[u8]| {
    let split = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (first, second) = data.split_at(split);
    let loaded = [
        Tokenizer::from_tokenizer_json(data),
        Tokenizer::from_vocab_and_merges(first, second),
        Tokenizer::from_tiktoken(data, None),
    ];
    for tokenizer in loaded.into_iter().flatten() {
        let text = "the cat <|endoftext|> 12 et\u{0}日本 aaaa";
        let back = tokenizer.decode(&tokenizer.encode(text)).expect("own ids");
        // Pieces may have nothing for a character.
        assert!(back == text || tokenizer.kind() != ModelKind::ByteLevelBpe);
        let again = Tokenizer::from_tokenizer_json(tokenizer.to_tokenizer_json().as_bytes()).expect("our own file");
        assert_eq!(again.hash(), tokenizer.hash());
    }
});
