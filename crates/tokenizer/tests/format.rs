//! Files: the same tokenizer in every form, refusals by name, damaged files.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use proptest::prelude::*;
use serde_json::{Value, json};
use verve_tokenizer::train::{TrainOptions, train};
use verve_tokenizer::{AddedToken, Error, SpecialTokens, Tokenizer};

fn small() -> &'static Tokenizer {
    static TOKENIZER: OnceLock<Tokenizer> = OnceLock::new();
    TOKENIZER.get_or_init(|| {
        let options = TrainOptions {
            n_vocab: 330,
            special_tokens: vec!["<|endoftext|>".into(), "<|user|>".into()],
            ..TrainOptions::default()
        };
        let text =
            "the cat and the dog and the hat; il était une fois é é, the end of many different words which follow "
                .to_owned()
                + "another thereupon: quickly jumping foxes, lazily observing neighbours. ";
        let tokenizer = train(options, [text.repeat(9)]).unwrap().0;
        assert_eq!(tokenizer.n_vocab(), 330);
        tokenizer
    })
}

fn small_json() -> Value {
    serde_json::from_str(&small().to_tokenizer_json()).unwrap()
}

fn parse(value: &Value) -> Result<Tokenizer, Error> {
    Tokenizer::from_tokenizer_json(value.to_string().as_bytes())
}

/// The two files of GPT-2's form and a rank file.
fn other_forms(tokenizer: &Tokenizer) -> (String, String, String) {
    let file: Value = serde_json::from_str(&tokenizer.to_tokenizer_json()).unwrap();
    let merges: Vec<&str> = file["model"]["merges"].as_array().unwrap().iter().map(|m| m.as_str().unwrap()).collect();
    let ordinary = (0..tokenizer.n_vocab() as u32)
        .map(|id| tokenizer.token_bytes(id).filter(|_| !tokenizer.is_special(id)).map(<[u8]>::to_vec));
    let ranks = common::rank_file(&ordinary.collect::<Vec<_>>());
    (file["model"]["vocab"].to_string(), format!("#version: 0.2\n{}\n", merges.join("\n")), ranks)
}

#[test]
fn all_forms_are_the_same_tokenizer() {
    let tokenizer = small();
    let (vocab, merges, ranks) = other_forms(tokenizer);
    let added = tokenizer.added_tokens().to_vec();
    let mut listed = small_json();
    for merge in listed["model"]["merges"].as_array_mut().unwrap() {
        *merge = merge.as_str().unwrap().split(' ').collect::<Vec<_>>().into();
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("vocab.json"), &vocab).unwrap();
    fs::write(at("merges.txt"), &merges).unwrap();
    let forms = [
        parse(&small_json()),
        parse(&listed),
        Tokenizer::from_vocab_and_merges(vocab.as_bytes(), merges.as_bytes()),
        Tokenizer::from_vocab_and_merges(vocab.as_bytes(), merges.replace('\n', "\r\n").as_bytes()),
        Tokenizer::from_tiktoken(ranks.as_bytes(), Some(added)),
        Tokenizer::load(folder.path()),
        Tokenizer::load(at("merges.txt")),
        tokenizer.save(folder.path()).and_then(|()| Tokenizer::load(folder.path())),
        tokenizer.save(at("other name")).and_then(|()| Tokenizer::load(at("other name"))),
    ];
    for form in forms {
        let form = form.unwrap();
        assert_eq!(form.hash(), tokenizer.hash());
        assert_eq!(form.summary(), tokenizer.summary());
        assert_eq!(form.to_tokenizer_json(), tokenizer.to_tokenizer_json());
    }
    let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["merges.txt", "other name", "tokenizer.json", "vocab.json"]);
}

#[test]
fn a_rank_file_is_found_by_its_ending() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(Tokenizer::load(folder.path()), Err(Error::NotFound { .. })));
    assert!(matches!(Tokenizer::load(folder.path().join("none")), Err(Error::Io { .. })));
    fs::write(folder.path().join("small.tiktoken"), other_forms(small()).2).unwrap();
    let loaded = Tokenizer::load(folder.path()).unwrap();
    assert_eq!(loaded.end_of_text(), Some(328));
    assert_eq!(loaded.encode("the cat"), small().encode("the cat"));
}

/// The published files beside the oracle's source, if cargo's folder is where it usually is.
fn published(name: &str) -> Option<Vec<u8>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")))?;
    for registry in fs::read_dir(home.join("registry/src")).ok()?.flatten() {
        for package in fs::read_dir(registry.path()).ok()?.flatten() {
            if package.file_name().to_string_lossy().starts_with("tiktoken-rs-")
                && let Ok(content) = fs::read(package.path().join("assets").join(name))
            {
                return Some(content);
            }
        }
    }
    println!("skipped: {name} of tiktoken-rs was not found");
    None
}

#[test]
fn gpt2_is_the_same_from_its_merges_and_from_its_ranks() {
    let Some(((vocab, merges), ranks)) =
        published("encoder.json").zip(published("vocab.bpe")).zip(published("r50k_base.tiktoken"))
    else {
        return;
    };
    let pair = Tokenizer::from_vocab_and_merges(&vocab, &merges).unwrap();
    let ranks = Tokenizer::from_tiktoken(&ranks, None).unwrap();
    assert_eq!(pair.hash(), ranks.hash());
    assert_eq!(pair.n_merges(), 50_000);
    let lines: Vec<&str> = std::str::from_utf8(&merges).unwrap().lines().skip(1).collect();
    let saved: Value = serde_json::from_str(&ranks.to_tokenizer_json()).unwrap();
    assert!(saved["model"]["merges"] == json!(lines));
    for (name, words) in [("cl100k_base.tiktoken", "cl100k_base"), ("o200k_base.tiktoken", "o200k_base")] {
        let error = Tokenizer::from_tiktoken(&published(name).unwrap(), None).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }) && error.to_string().contains(words), "{error}");
    }
}

#[test]
fn the_hash_shows_every_change_of_ids() {
    let base = small_json();
    let mut hashes = vec![small().hash().to_owned()];
    let mut changed = |change: &dyn Fn(&mut Value)| {
        let mut value = base.clone();
        change(&mut value);
        hashes.push(parse(&value).unwrap().hash().to_owned());
    };
    changed(&|value| value["model"]["merges"].as_array_mut().unwrap().swap(0, 1));
    changed(&|value| drop(value["model"]["merges"].as_array_mut().unwrap().pop()));
    changed(&|value| {
        let vocab = value["model"]["vocab"].as_object_mut().unwrap();
        let (a, b) = (vocab["!"].clone(), vocab["#"].clone());
        vocab["!"] = b;
        vocab["#"] = a;
    });
    changed(&|value| value["added_tokens"][1]["special"] = json!(false));
    changed(&|value| drop(value["added_tokens"].as_array_mut().unwrap().pop()));
    let n = hashes.len();
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), n);
    // What changes no id does not change the hash.
    let mut same = base.clone();
    same["truncation"] = json!({"max_length": 5});
    same["model"]["merges"].as_array_mut().unwrap().push(json!("<|user|> a"));
    same["model"]["vocab"]["<|user|>a"] = json!(330);
    same["added_tokens"].as_array_mut().unwrap().push(json!({"id": 330, "content": "<|user|>a", "special": true}));
    let with_more = parse(&same).unwrap();
    assert_eq!(with_more.n_merges(), small().n_merges());
    assert_eq!(with_more.encode("<|user|>a"), small().encode("<|user|>a"));
}

#[test]
fn what_is_not_reproduced_is_refused_by_name() {
    let split = |pattern: &str| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})
    };
    let gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    let mut accepted = small_json();
    accepted["pre_tokenizer"] = split(gpt2);
    assert_eq!(parse(&accepted).unwrap().hash(), small().hash());

    let cases = [
        ("/model/type", json!("WordPiece"), "model type WordPiece"),
        ("/model/type", json!("Unigram"), "pre_tokenizer ByteLevel"),
        ("/normalizer", json!({"type": "Lowercase"}), "normalizer Lowercase"),
        ("/pre_tokenizer", json!({"type": "Metaspace"}), "pre_tokenizer Metaspace"),
        ("/pre_tokenizer", json!(null), "pre_tokenizer none"),
        ("/pre_tokenizer/add_prefix_space", json!(true), "add_prefix_space true"),
        ("/pre_tokenizer/use_regex", json!(false), "use_regex false"),
        ("/pre_tokenizer", split(r"\p{N}{1,3}"), r"Split \p{N}{1,3}"),
        (
            "/pre_tokenizer",
            json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": false}, {"type": "ByteLevel", "add_prefix_space": false}]}),
            "Digits with individual_digits false",
        ),
        ("/post_processor", json!({"type": "TemplateProcessing"}), "post_processor TemplateProcessing"),
        ("/decoder", json!({"type": "WordPiece"}), "decoder WordPiece"),
        ("/model/dropout", json!(0.1), "model.dropout 0.1"),
        ("/model/end_of_word_suffix", json!("</w>"), "model.end_of_word_suffix \"</w>\""),
    ];
    for (path, value, words) in cases {
        let mut file = small_json();
        *file.pointer_mut(path).unwrap() = value;
        let error = parse(&file).unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error} should contain {words}");
    }
}

#[test]
fn malformed_files_say_where() {
    let mut cases: Vec<(Value, &str)> = Vec::new();
    let mut case = |words: &'static str, change: &dyn Fn(&mut Value)| {
        let mut file = small_json();
        change(&mut file);
        cases.push((file, words));
    };
    case("byte 0x21", &|f| drop(f["model"]["vocab"].as_object_mut().unwrap().remove("!")));
    case("merge 70: token \"zz\" is not in the vocabulary", &|f| {
        let merges = f["model"]["merges"].as_array_mut().unwrap();
        merges.truncate(69);
        merges.push(json!("zz b"));
    });
    case("not two tokens", &|f| f["model"]["merges"][3] = json!("abc"));
    case("two tokens", &|f| f["model"]["merges"][3] = json!(["a", "b", "c"]));
    case("which is not in the vocabulary", &|f| f["model"]["merges"][3] = json!(["~", "~"]));
    case("id 7 is used twice", &|f| f["model"]["vocab"]["!"] = json!(7));
    case("out of proportion", &|f| f["model"]["vocab"]["!"] = json!(4_000_000_000u32));
    case("id 2000 is out of proportion to 330 tokens", &|f| f["model"]["vocab"]["!"] = json!(2000));
    case("invalid value", &|f| f["model"]["vocab"]["!"] = json!(-1));
    case("stands for no byte", &|f| f["model"]["vocab"]["a b"] = json!(330));
    case("0 bytes long", &|f| f["model"]["vocab"][""] = json!(330));
    case("but the model's vocabulary has it as 329", &|f| f["added_tokens"][1]["id"] = json!(400));
    case("missing field `model`", &|f| drop(f.as_object_mut().unwrap().remove("model")));
    case("missing field `vocab`", &|f| drop(f["model"].as_object_mut().unwrap().remove("vocab")));
    case("two have the same text", &|f| {
        let again = f["added_tokens"][0].clone();
        f["added_tokens"][1] = again;
        f["model"]["vocab"].as_object_mut().unwrap().remove("<|endoftext|>");
        f["added_tokens"][1]["id"] = json!(331);
    });
    for (file, words) in cases {
        let error = parse(&file).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error} should contain {words}");
    }
    let lines = [("YQ== x\n", "line 1"), ("YQ== 0\n\n!! 1\n", "line 3"), ("YQ== 0\nYQ== 1\n", "listed twice")];
    for (file, words) in lines {
        let error = Tokenizer::from_tiktoken(file.as_bytes(), None).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    let long = format!("{} 256\n", "YWFh".repeat(342));
    let error = Tokenizer::from_tiktoken(long.as_bytes(), None).unwrap_err();
    assert!(error.to_string().contains("1026 bytes of tokens, the longest 1026"), "{error}");
    let (vocab, _, _) = other_forms(small());
    let error = Tokenizer::from_vocab_and_merges(vocab.as_bytes(), b"#version: 0.2\nt h\nth\n").unwrap_err();
    assert!(error.to_string().contains("line 3"), "{error}");
    assert!(Tokenizer::from_tokenizer_json("[".repeat(100_000).as_bytes()).is_err());
}

#[test]
fn added_tokens_that_are_not_special_are_always_found() {
    let mut file = small_json();
    file["added_tokens"].as_array_mut().unwrap().push(json!({"id": 340, "content": "  ", "special": false}));
    file["added_tokens"].as_array_mut().unwrap().push(json!({"id": 341, "content": "the", "special": true}));
    file["model"]["vocab"].as_object_mut().unwrap().retain(|name, _| name != "the");
    file["model"]["merges"].as_array_mut().unwrap().retain(|merge| {
        !merge.as_str().unwrap().split(' ').any(|part| part == "the") && merge != "th e" && merge != "t he"
    });
    let tokenizer = parse(&file).unwrap();
    // Ids 330 to 339 stand for nothing, and so does that of the former "the", if there was one.
    assert!(tokenizer.summary().n_unused >= 10);
    let ids = tokenizer.encode("the   the<|user|>");
    assert_eq!(ids.iter().filter(|id| **id == 340).count(), 1);
    assert!(!ids.contains(&341) && !ids.contains(&329));
    let parsed = tokenizer.encode_with("the   the<|user|>", SpecialTokens::Parse);
    assert_eq!(parsed, [vec![341, 340], tokenizer.encode(" "), vec![341, 329]].concat());
    assert_eq!(tokenizer.decode(&parsed).unwrap(), "the   the<|user|>");
    assert_eq!(parse(&serde_json::from_str(&tokenizer.to_tokenizer_json()).unwrap()).unwrap().hash(), tokenizer.hash());
}

#[test]
fn whole_pieces_become_their_token_when_the_file_says_so() {
    let mut file = small_json();
    file["model"]["vocab"]["zebra"] = json!(330);
    file["model"]["vocab"]["zebrazebrazebrazebra"] = json!(331);
    let merged = parse(&file).unwrap();
    assert!(!merged.encode("zebra").contains(&330));
    assert_eq!(merged.summary().n_unreachable, 2);
    file["model"]["ignore_merges"] = json!(true);
    let whole = parse(&file).unwrap();
    assert_eq!(whole.encode("zebra"), [330]);
    assert_eq!(whole.encode("zebrazebrazebrazebra"), [331]);
    assert_ne!(whole.encode("zebras"), [330, u32::from(b's')]);
    assert_ne!(whole.hash(), merged.hash());
    let saved: Value = serde_json::from_str(&whole.to_tokenizer_json()).unwrap();
    assert_eq!(saved["model"]["ignore_merges"], json!(true));
    assert_eq!(parse(&saved).unwrap().hash(), whole.hash());
}

#[test]
fn saving_where_it_cannot_be_names_the_file() {
    let error = small().save("/nonexistent/folder/tokenizer.json").unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/folder/tokenizer.json: "), "{error}");
    let added = vec![AddedToken::special("t", 1000)];
    let error = Tokenizer::from_tiktoken(other_forms(small()).2.as_bytes(), Some(added)).unwrap_err();
    assert!(error.to_string().contains("added token with another id"), "{error}");
}

/// Damages: overwritten bytes, a cut, a repeated part.
fn damaged(original: &str) -> impl Strategy<Value = Vec<u8>> {
    let bytes = original.as_bytes().to_vec();
    let flips = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (flips, any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..4u8).prop_map(
        move |(flips, from, to, kind)| {
            let mut bytes = bytes.clone();
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
            match kind {
                0 => bytes.truncate(from),
                1 => drop(bytes.drain(from.min(to)..from.max(to))),
                2 => drop(bytes.splice(from..from, bytes[from.min(to)..from.max(to)].to_vec())),
                _ => {}
            }
            bytes
        },
    )
}

/// A damaged file is refused, or is a tokenizer that works.
fn works_or_fails(result: Result<Tokenizer, Error>) {
    match result {
        Ok(tokenizer) => {
            let text = "the cat <|user|> ét\0";
            assert_eq!(tokenizer.decode(&tokenizer.encode(text)).unwrap(), text);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

#[test]
fn huge_files_are_refused_before_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "a.tiktoken", "vocab.json"] {
        let path = folder.path().join(name);
        // Sparse: takes no room on the disk.
        fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = Tokenizer::load(&path).unwrap_err();
        assert!(matches!(error, Error::TooLarge { bytes, .. } if bytes == 1 << 40), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_json_never_panics(bytes in damaged(&small().to_tokenizer_json())) {
        works_or_fails(Tokenizer::from_tokenizer_json(&bytes));
    }

    #[test]
    fn damaged_pairs_never_panic(vocab in damaged(&other_forms(small()).0), merges in damaged(&other_forms(small()).1)) {
        let (good_vocab, good_merges, _) = other_forms(small());
        works_or_fails(Tokenizer::from_vocab_and_merges(&vocab, good_merges.as_bytes()));
        works_or_fails(Tokenizer::from_vocab_and_merges(good_vocab.as_bytes(), &merges));
    }

    #[test]
    fn damaged_ranks_never_panic(bytes in damaged(&other_forms(small()).2)) {
        works_or_fails(Tokenizer::from_tiktoken(&bytes, None));
    }
}
