//! SentencePiece `.model` files, as they are and with the input as the character map of a good one. One that is accepted
//! encodes anything, and keeps its identity when it is saved.
#![no_main]

use libfuzzer_sys::fuzz_target;
use verve_tokenizer::Tokenizer;

const GOOD: &[u8] = include_bytes!("../../tests/golden/tokenizer/models/bpe_bytes.model");

fn use_all(content: &[u8]) {
    let Ok(tokenizer) = Tokenizer::from_sentencepiece(content) else { return };
    let mut ids = Vec::new();
    tokenizer.encode_bytes_into("the cat\u{301} \r\n ﬁ日本 <0x0A> \u{0}".as_bytes(), &mut ids);
    tokenizer.encode_bytes_into(b"\xff\xe2\x96 \xf0\x9f", &mut ids);
    tokenizer.decode_bytes(&ids).expect("own ids");
    let again = Tokenizer::from_tokenizer_json(tokenizer.to_tokenizer_json().as_bytes());
    // Ids of pieces that are never used cannot be told from pieces there, and names may repeat.
    if let Ok(again) = again {
        again.encode("the cat");
    }
}

/// A field of bytes of a message.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = value.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(value);
    out
}

fuzz_target!(|data: &[u8]| {
    use_all(data);
    let trie = ((data.len() / 2 / 4 * 4) as u32).to_le_bytes();
    use_all(&[GOOD, &field(3, &field(2, &[&trie, data].concat()))].concat());
});
