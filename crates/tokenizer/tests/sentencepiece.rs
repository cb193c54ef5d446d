//! SentencePiece files that are damaged, hostile or of a kind that is not known; where they are found.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::json;
use verve_tokenizer::{Error, ModelKind, SpecialTokens, Tokenizer};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/tokenizer/models").join(name)
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number(field: u64, value: i64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(field << 3, &mut out);
    varint(value as u64, &mut out);
    out
}

fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(field << 3 | 2, &mut out);
    varint(value.len() as u64, &mut out);
    out.extend_from_slice(value);
    out
}

fn piece(text: &str, score: f32, kind: i64) -> Vec<u8> {
    let score = [&[2 << 3 | 5][..], &score.to_le_bytes()].concat();
    bytes(1, &[bytes(1, text.as_bytes()), score, number(3, kind)].concat())
}

/// A model of a few pieces with more fields behind them.
fn model(more: &[Vec<u8>]) -> Vec<u8> {
    let pieces = [
        piece("<unk>", 0.0, 2),
        piece("<s>", 0.0, 3),
        piece("</s>", 0.0, 3),
        piece("▁a", -1.0, 1),
        piece("b", -2.0, 1),
        piece("▁", -3.0, 1),
        piece("ab", -2.5, 1),
        piece("a", -2.0, 1),
    ];
    [pieces.concat(), more.concat()].concat()
}

fn ids(content: &[u8], text: &str) -> Vec<u32> {
    Tokenizer::from_sentencepiece(content).unwrap().encode(text)
}

#[test]
fn a_model_with_nothing_but_pieces_has_the_defaults_of_the_format() {
    let content = model(&[]);
    let tokenizer = Tokenizer::from_sentencepiece(&content).unwrap();
    assert_eq!(tokenizer.kind(), ModelKind::Unigram);
    assert_eq!((tokenizer.bos(), tokenizer.eos(), tokenizer.adds_bos()), (Some(1), Some(2), false));
    // "▁a" "b" has -3, "▁" "ab" has -5.5; unknown characters in a row are one token.
    assert_eq!(tokenizer.encode("  ab  zzb "), [3, 4, 5, 0, 4]);
    assert_eq!(tokenizer.encode("<s>"), [5, 0]);
    assert_eq!(tokenizer.decode(&[3, 4, 5, 4]).unwrap(), "ab b");
}

#[test]
fn settings_of_a_model_are_read() {
    let no_prefix = model(&[bytes(3, &[number(3, 0), number(4, 0)].concat())]);
    assert_eq!(ids(&no_prefix, "ab"), [6]);
    assert_eq!(ids(&no_prefix, "  a"), [5, 3]);
    let roles = model(&[bytes(2, &[number(41, -1), number(42, 1), number(43, 2)].concat())]);
    let tokenizer = Tokenizer::from_sentencepiece(&roles).unwrap();
    assert_eq!((tokenizer.bos(), tokenizer.eos()), (None, Some(1)));
    let bpe = Tokenizer::from_sentencepiece(&model(&[bytes(2, &number(3, 2))])).unwrap();
    assert_eq!(bpe.kind(), ModelKind::SentencePieceBpe);
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let cases = [
        (bytes(2, &number(3, 3)), "model type word (3)"),
        (bytes(2, &number(3, 4)), "model type char (4)"),
        (bytes(2, &number(3, 9)), "model type of unknown number (9)"),
        (bytes(2, &number(24, 1)), "treat_whitespace_as_suffix true"),
        (bytes(3, &number(5, 0)), "escape_whitespaces false"),
        (bytes(5, &bytes(2, b"map")), "denormalizer_spec with a character map"),
    ];
    for (field, words) in cases {
        let error = Tokenizer::from_sentencepiece(&model(&[field])).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains(words), "{error}: {words}");
    }
}

#[test]
fn damaged_models_say_where() {
    let bad_score = |score: f32| model(&[piece("c", score, 1)]);
    let map = |blob: &[u8]| model(&[bytes(3, &bytes(2, blob))]);
    let cases = [
        (Vec::new(), "pieces: none"),
        (bad_score(f32::NAN), "score of piece 8: NaN"),
        (model(&[piece("c", 0.0, 7)]), "type 7"),
        (model(&[piece("c", 0.0, 6)]), "a byte is written"),
        (model(&[piece("<0x41>", 0.0, 6)]), "missing; byte fallback needs one for each"),
        (model(&[piece("b", 0.0, 1)]), "listed twice"),
        (model(&[bytes(1, &number(1, 3))]), "field 1 is of another type"),
        (model(&[bytes(1, &bytes(1, &[0xff]))]), "piece 8: its text is not UTF-8"),
        (model(&[bytes(2, &number(40, 99))]), "id 99 has a role"),
        (model(&[vec![10, 200]]), "cut off"),
        (map(&[1, 0]), "precompiled_charsmap: shorter"),
        (map(&[255, 255, 255, 255, 0]), "precompiled_charsmap: says that its trie has"),
        (map(&[4, 0, 0, 0, 0, 0, 0, 0, 0xff]), "precompiled_charsmap: its texts are not UTF-8"),
    ];
    for (content, words) in cases {
        let error = Tokenizer::from_sentencepiece(&content).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }) && error.to_string().contains(words), "{error}: {words}");
    }
}

#[test]
fn models_are_found_in_folders_and_told_from_rank_files() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("spiece.model"), model(&[])).unwrap();
    assert_eq!(Tokenizer::load(folder.path()).unwrap().kind(), ModelKind::Unigram);
    std::fs::copy(golden("bpe.model"), folder.path().join("tokenizer.model")).unwrap();
    assert_eq!(Tokenizer::load(folder.path()).unwrap().kind(), ModelKind::SentencePieceBpe);
    std::fs::write(folder.path().join("tokenizer.model"), "YQ== 0\n").unwrap();
    let error = Tokenizer::load(folder.path()).unwrap_err();
    assert!(error.to_string().contains("byte 0x00"), "{error}");
}

#[test]
fn a_configuration_beside_the_file_says_what_goes_around_a_text() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.model"), model(&[])).unwrap();
    let configured = |config: serde_json::Value| {
        std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        Tokenizer::load(folder.path()).unwrap()
    };
    let around = |tokenizer: &Tokenizer| tokenizer.encode_with_specials("b", SpecialTokens::Ordinary);
    let plain = configured(json!({"bos_token": "</s>", "clean_up_tokenization_spaces": false}));
    assert_eq!((around(&plain), plain.bos()), (vec![5, 4], Some(1)), "the model's own role counts");
    assert_eq!(around(&configured(json!({"tokenizer_class": "LlamaTokenizerFast"}))), [1, 5, 4]);
    assert_eq!(around(&configured(json!({"tokenizer_class": "T5Tokenizer"}))), [5, 4, 2]);
    let told = json!({"tokenizer_class": "LlamaTokenizer", "add_bos_token": false, "add_eos_token": true});
    assert_eq!(around(&configured(told)), [5, 4, 2]);
    let more = configured(json!({"added_tokens_decoder": {
        "0": {"content": "<unk>", "special": true}, "8": {"content": "<|end|>", "special": true},
        "9": {"content": "\n\n", "special": false, "normalized": false},
    }, "pad_token": {"content": "<|end|>"}}));
    assert_eq!(more.n_vocab(), 10);
    assert_eq!(more.encode_with("b<|end|>b\n\n", SpecialTokens::Parse), [5, 4, 8, 5, 4, 9]);
    assert_eq!(more.encode("<|end|>").len(), 2);
    std::fs::write(folder.path().join("tokenizer_config.json"), "{").unwrap();
    assert!(Tokenizer::load(folder.path()).unwrap_err().to_string().contains("tokenizer_config.json: JSON"));
}

#[test]
fn a_tokenizer_file_without_roles_takes_them_from_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let families = golden("../families");
    for (family, bos, front) in [("qwen2", "<|endoftext|>", 1), ("llama3", "<|endoftext|>", 0)] {
        std::fs::copy(families.join(format!("{family}.json")), folder.path().join("tokenizer.json")).unwrap();
        let config = json!({"bos_token": bos, "eos_token": {"content": "<|endoftext|>"}, "add_bos_token": true});
        std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        let tokenizer = Tokenizer::load(folder.path()).unwrap();
        let end = tokenizer.end_of_text();
        assert_eq!(tokenizer.eos(), end, "{family}");
        let ids = tokenizer.encode_with_specials("a", SpecialTokens::Ordinary);
        assert_eq!(ids.len(), 2);
        // What the file's own template says stays.
        assert_eq!(ids.first().copied(), if front == 1 { end } else { tokenizer.special_id("<s>") }, "{family}");
    }
}

#[test]
fn a_megabyte_without_spaces_is_encoded() {
    let tokenizer = Tokenizer::load(golden("unigram_bytes.model")).unwrap();
    let long = "the龘".repeat(150_000);
    assert_eq!(tokenizer.decode(&tokenizer.encode(&long)).unwrap(), long);
}

/// Opens a model and uses it; what it says must not matter.
fn use_all(content: &[u8]) {
    if let Ok(tokenizer) = Tokenizer::from_sentencepiece(content) {
        let mut ids = Vec::new();
        tokenizer.encode_bytes_into("the cat\u{301} \r\n ﬁ日本 <0x0A> \u{0}".as_bytes(), &mut ids);
        tokenizer.encode_bytes_into(b"\xff\xe2\x96 \xf0\x9f", &mut ids);
        tokenizer.decode_bytes(&ids).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_bytes_are_a_model_or_an_error(content in proptest::collection::vec(any::<u8>(), 0..200)) {
        use_all(&content);
        use_all(&model(std::slice::from_ref(&content)));
        use_all(&model(&[bytes(3, &bytes(2, &content))]));
        // A map whose length fits: any trie.
        let trie = (content.len() / 2 / 4 * 4) as u32;
        let map = [&trie.to_le_bytes()[..], &content, b"text\0more\0"].concat();
        use_all(&model(&[bytes(3, &bytes(2, &map))]));
    }

    #[test]
    fn damaged_models_are_errors_or_models(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        end in any::<prop::sample::Index>(),
        name in prop::sample::select(vec!["unigram.model", "bpe_bytes.model"]),
    ) {
        let mut content = std::fs::read(golden(name)).unwrap();
        use_all(&content[..end.index(content.len())]);
        for (place, byte) in changes {
            let at = place.index(content.len());
            content[at] = byte;
        }
        use_all(&content);
    }
}
