//! Documents of files: kinds, compression, pieces, and what is wrong with them.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Numbers, document, documents, folder, gzip, json_lines, read_all, zstd};
use proptest::prelude::*;
use verve_corpus::Error;
use verve_corpus::read::{Documents, InvalidText, ReadCounts, ReadOptions, TextReader, find_files};

fn options(documents: Documents) -> ReadOptions {
    ReadOptions { documents, ..ReadOptions::default() }
}

/// The documents of one file with this name and content.
fn read_one(name: &str, bytes: &[u8], options: &ReadOptions) -> Result<Vec<String>, Error> {
    let root = folder(&[(name, bytes)]);
    read_all(&root.path().join(name), options)
}

fn counts(name: &str, bytes: &[u8], options: &ReadOptions) -> (Vec<String>, ReadCounts) {
    let root = folder(&[(name, bytes)]);
    let found = find_files(&[root.path()], options).unwrap();
    let mut reader = TextReader::new(&found.files, options).unwrap();
    let texts = reader.by_ref().map(|piece| piece.unwrap().text).collect();
    assert_eq!(reader.bytes_done(), bytes.len() as u64);
    (texts, reader.counts().clone())
}

#[test]
fn a_file_is_a_document_as_it_is() {
    let text = " \r\n Zwölf\r\n\n\nBoxkämpfer \n\n";
    assert_eq!(read_one("a.txt", text.as_bytes(), &ReadOptions::default()).unwrap(), [text]);
    let marked = format!("\u{feff}{text}");
    assert_eq!(read_one("a.md", marked.as_bytes(), &ReadOptions::default()).unwrap(), [text]);
    let (texts, counts) = counts("a.txt", b" \n\t\n", &ReadOptions::default());
    assert!(texts.is_empty());
    assert_eq!((counts.files, counts.documents, counts.blank_documents), (1, 0, 1));
}

#[test]
fn documents_in_a_file() {
    let text = b"\n\none\ntwo\n\nthree\n  \n\t\r\n\nfour\r\n\r\n  five\n\n";
    assert_eq!(
        read_one("a.txt", text, &options(Documents::BlankLine)).unwrap(),
        ["one\ntwo", "three", "four", "  five"]
    );
    assert_eq!(
        read_one("a.txt", text, &options(Documents::PerLine)).unwrap(),
        ["one", "two", "three", "four", "  five"]
    );
    let text = b"<|endoftext|>\none\n\ntwo\n<|endoftext|>\nthree<|endoftext|><|endoftext|>four\n";
    let delimiter = Documents::Delimiter("<|endoftext|>".to_owned());
    assert_eq!(read_one("a.txt", text, &options(delimiter)).unwrap(), ["one\n\ntwo", "three", "four"]);
    for bad in [String::new(), "x".repeat(5000)] {
        let error = read_one("a.txt", text, &options(Documents::Delimiter(bad))).unwrap_err();
        assert!(matches!(error, Error::Options { .. }), "{error:?}");
    }
}

#[test]
fn shared_speeches_are_read_as_the_naive_reader_does() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/speeches-en.txt");
    // The data lies beside the project where it is developed, not in it.
    let Ok(whole) = std::fs::read_to_string(&path) else { return };
    let found = read_all(&path, &options(Documents::PerFile)).unwrap();
    assert!(found.len() == 1 && found[0] == whole);
    for documents in [Documents::BlankLine, Documents::PerLine, Documents::Delimiter("\n\n\n".to_owned())] {
        let found = read_all(&path, &options(documents.clone())).unwrap();
        // Not `assert_eq`, which would print three megabytes.
        assert!(found == naive(&whole, &documents), "{documents:?}");
    }
    // Its addresses are parted by two blank lines, their paragraphs by one.
    let addresses = read_all(&path, &options(Documents::Delimiter("\n\n\n".to_owned()))).unwrap();
    assert!((100..200).contains(&addresses.len()), "{}", addresses.len());
}

#[test]
fn all_kinds_and_compressions_give_the_same_documents() {
    let texts = documents(1, 60, 3000);
    let json = json_lines(&texts).into_bytes();
    let lines = texts.join("\n\n").into_bytes();
    let half = json.len() / 2;
    let members = [gzip(&json[..half]), gzip(&json[half..])].concat();
    let frames = [zstd(&json[..half]), zstd(&json[half..])].concat();
    for (name, bytes) in [
        ("a.jsonl", json.clone()),
        ("a.jsonl.gz", gzip(&json)),
        ("a.jsonl.zst", zstd(&json)),
        ("b.jsonl.gz", members),
        ("b.jsonl.zst", frames),
        ("a.txt", lines.clone()),
        ("a.txt.gz", gzip(&lines)),
        ("a.md.zst", zstd(&lines)),
    ] {
        let small = ReadOptions { piece_bytes: 500, ..options(Documents::BlankLine) };
        assert_eq!(read_one(name, &bytes, &small).unwrap(), texts, "{name}");
        let (whole, counts) = counts(name, &bytes, &options(Documents::BlankLine));
        assert_eq!(whole, texts, "{name}");
        assert_eq!(counts.documents, 60);
        assert_eq!(counts.text_bytes, texts.iter().map(|t| t.len() as u64).sum::<u64>());
    }
}

#[test]
fn cut_off_or_corrupt_compressed_files_are_errors() {
    let text = document(&mut Numbers(3), 100_000);
    for (name, whole) in [("a.txt.gz", gzip(text.as_bytes())), ("a.txt.zst", zstd(text.as_bytes()))] {
        for cut in [whole.len() - 1, whole.len() / 2, 20] {
            let error = read_one(name, &whole[..cut], &ReadOptions::default()).unwrap_err();
            assert!(matches!(error, Error::Read { .. }), "{error:?}");
            assert!(error.to_string().contains(name), "{error}");
        }
        let mut corrupt = whole.clone();
        let middle = corrupt.len() / 2;
        corrupt[middle] ^= 0x55;
        assert!(read_one(name, &corrupt, &ReadOptions::default()).is_err());
        assert!(read_one(name, b"this is plain text, whatever its name says", &ReadOptions::default()).is_err());
    }
}

#[test]
fn json_fields_and_errors() {
    let lines = r#"{"id": 1, "body": "eins\n\u00e4", "meta": {"text": "no"}}

{"body": "  ", "x": [1, {"y": null}]}
  {"text": "other", "body": "zwei"}"#;
    let body = ReadOptions { json_field: "body".to_owned(), ..ReadOptions::default() };
    assert_eq!(read_one("a.jsonl", lines.as_bytes(), &body).unwrap(), ["eins\nä", "zwei"]);
    let says = |lines: &str, what: &str| {
        let error = read_one("a.jsonl", lines.as_bytes(), &ReadOptions::default()).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    says(lines, "a.jsonl:1: no field \"text\"; the line's fields are id, body, meta");
    says("{\"text\": \"a\"}\n{}", "a.jsonl:2: no field \"text\"; the line's fields are none");
    says("{\"text\": \"a\"}\n\n{\"text\": 5}", "a.jsonl:3: field \"text\" is a number, not a text");
    says("{\"text\": null}", "is null");
    says("{\"text\": \"a\"", "a.jsonl:1: not a JSON object: EOF while parsing an object (column 12)");
    says("{\"text\": \"a\"} {\"text\": \"b\"}", "trailing characters");
    says("[\"text\"]", "not a JSON object");
    says("plain text", "a.jsonl:1: not a JSON object");
    says("{\"text\": \"\\ud800\"}", "not a JSON object");
    says(&format!("{{\"x\": {}, \"text\": \"a\"}}", "[".repeat(10_000)), "not a JSON object");

    let skip = ReadOptions { invalid: InvalidText::Skip, ..ReadOptions::default() };
    let mixed = b"{\"text\": \"a\"}\nnonsense\n{\"text\": \"\xff\"}\n{\"text\": \"b\"}\n{\"body\": 1}\n";
    let (texts, counts) = counts("a.jsonl", mixed, &skip);
    assert_eq!(texts, ["a", "b"]);
    assert_eq!((counts.skipped_lines, counts.n_skipped_files), (3, 0));
}

#[test]
fn invalid_text_is_named_skipped_or_replaced() {
    let bad = b"abc\xc3\xa4\xff\xfedef\xe2\x82\n";
    let error = read_one("a.txt", bad, &ReadOptions::default()).unwrap_err();
    assert!(matches!(error, Error::InvalidUtf8 { offset: 5, .. }), "{error:?}");
    assert!(error.to_string().contains("a.txt: not valid UTF-8 at byte 5 (found ff fe 64 65)"), "{error}");
    let json = b"{\"text\": \"abc\"}\n{\"text\": \"\xff\"}";
    let error = read_one("a.jsonl", json, &ReadOptions::default()).unwrap_err();
    assert!(matches!(error, Error::InvalidUtf8 { offset: 26, .. }), "{error:?}");

    let replace = ReadOptions { invalid: InvalidText::Replace, ..ReadOptions::default() };
    let (texts, found) = counts("a.txt", bad, &replace);
    assert_eq!(texts, [String::from_utf8_lossy(bad)]);
    assert_eq!(found.replaced, 3);
    let (texts, found) = counts("a.jsonl", b"{\"text\": \"\xef\xbf\xbd\xff-\xc3\"}", &replace);
    assert_eq!((texts[0].as_str(), found.replaced), ("\u{fffd}\u{fffd}-\u{fffd}", 2));
    let (texts, found) = counts("a.txt", b"a\0b\0", &replace);
    assert_eq!((texts[0].as_str(), found.replaced), ("a\u{fffd}b\u{fffd}", 2));

    let root = folder(&[("a.txt", b"good"), ("b.txt", bad), ("c.txt", b"\x7fELF\0\0"), ("d.txt", b"fine")]);
    let skip = ReadOptions { invalid: InvalidText::Skip, ..ReadOptions::default() };
    let found = find_files(&[root.path()], &skip).unwrap();
    let mut reader = TextReader::new(&found.files, &skip).unwrap();
    let texts: Vec<_> = reader.by_ref().map(|piece| piece.unwrap().text).collect();
    assert_eq!(texts, ["good", "fine"]);
    assert_eq!(reader.counts().n_skipped_files, 2);
    assert!(reader.counts().skipped_files[0].path.ends_with("b.txt"));
    assert_eq!(reader.bytes_done(), found.bytes());
}

#[test]
fn binary_files_are_named() {
    let says = |bytes: &[u8], what: &str| {
        let error = read_one("a.txt", bytes, &ReadOptions::default()).unwrap_err();
        assert!(matches!(error, Error::Binary { .. }), "{error:?}");
        assert!(error.to_string().contains(what), "{error}");
    };
    says(b"PK\x03\x04\x14\0\0\0", "a NUL byte at byte 5");
    let late = ["x".repeat(300_000).as_bytes(), b"\0"].concat();
    says(&late, "a NUL byte at byte 300000");
    says(&b"ab\x01\x02\x03\x04".repeat(50), "200 control characters in 300 bytes, the first at byte 2");
    says(b"\xff\xfeh\0i\0", "UTF-16");
    // Escape sequences and a few stray controls are text still.
    let log = "\x1b[31mred\x1b[0m\x08\x0c\x01".repeat(3);
    assert_eq!(read_one("a.txt", log.as_bytes(), &ReadOptions::default()).unwrap(), [log]);
}

#[test]
fn a_file_that_vanished_is_an_error() {
    let root = folder(&[("a.txt", b"a"), ("b.txt", b"b")]);
    let options = ReadOptions::default();
    let found = find_files(&[root.path()], &options).unwrap();
    std::fs::remove_file(root.path().join("b.txt")).unwrap();
    let mut reader = TextReader::new(&found.files, &options).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().text, "a");
    assert!(matches!(reader.next(), Some(Err(Error::Read { .. }))));
    assert!(reader.next().is_none());
}

#[test]
fn texts_for_tokenizer_training_are_the_whole_text() {
    let text = document(&mut Numbers(8), 20_000);
    let root = folder(&[("a.txt", text.as_bytes()), ("b.txt", b"short")]);
    let options = ReadOptions { piece_bytes: 1000, ..ReadOptions::default() };
    let found = find_files(&[root.path()], &options).unwrap();
    let texts: Vec<String> = TextReader::new(&found.files, &options).unwrap().texts().map(|t| t.unwrap()).collect();
    assert!(texts.len() > 20 && texts.iter().all(|t| !t.is_empty() && t.len() <= 1000));
    assert_eq!(texts.concat(), text + "short");
}

/// The documents by the plainest means.
fn naive(text: &str, documents: &Documents) -> Vec<String> {
    let parts: Vec<String> = match documents {
        Documents::PerFile => vec![text.to_owned()],
        Documents::PerLine => text.split('\n').map(str::to_owned).collect(),
        Documents::Delimiter(d) => text.split(d.as_str()).map(str::to_owned).collect(),
        Documents::BlankLine => {
            let mut parts = vec![String::new()];
            for line in text.split('\n') {
                if line.trim_matches([' ', '\t', '\r']).is_empty() {
                    parts.push(String::new());
                } else {
                    let part = parts.last_mut().unwrap();
                    if !part.is_empty() {
                        part.push('\n');
                    }
                    part.push_str(line);
                }
            }
            parts
        }
    };
    let trimmed = parts.into_iter().map(|part| match documents {
        Documents::PerFile => part,
        _ => {
            // Blank lines at the start go, the first line's own spaces stay.
            let n = part.len() - part.trim_ascii_start().len();
            let start = part[..n].rfind('\n').map_or(0, |at| at + 1);
            part[start..].trim_end_matches(['\n', '\r']).to_owned()
        }
    });
    trimmed.filter(|part| !part.trim().is_empty()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn streaming_equals_the_naive_reader(text in "([ab\u{e4}]{0,30}[ \n]{0,3}(<>)?\r?){0,40}", piece_bytes in 64_usize..200) {
        prop_assume!(!text.starts_with('\u{feff}'));
        for documents in [Documents::PerFile, Documents::PerLine, Documents::BlankLine, Documents::Delimiter("<>".to_owned())] {
            let options = ReadOptions { piece_bytes, ..options(documents.clone()) };
            let found = read_one("a.txt", text.as_bytes(), &options).unwrap();
            prop_assert_eq!(found, naive(&text, &documents), "{:?}", documents);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), json: bool) {
        for invalid in [InvalidText::Error, InvalidText::Skip, InvalidText::Replace] {
            let options = ReadOptions { invalid, ..ReadOptions::default() };
            let found = read_one(if json { "a.jsonl" } else { "a.txt" }, &bytes, &options);
            if let (InvalidText::Replace, false, Ok(found)) = (invalid, json, found) {
                let expected = String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes)).replace('\0', "\u{fffd}");
                let expected = if expected.trim().is_empty() { vec![] } else { vec![expected] };
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn replacing_across_chunks_equals_the_standard_library(start in 262_100_usize..262_150, bad in prop::collection::vec(prop::sample::select(vec![0xe2_u8, 0x82, 0xac, 0xff, 0xf0, 0x9f, 0x98, 0x80, b'a']), 1..60)) {
        let bytes = [&vec![b'x'; start][..], &bad, b"end"].concat();
        let options = ReadOptions { invalid: InvalidText::Replace, ..ReadOptions::default() };
        prop_assert_eq!(read_one("a.txt", &bytes, &options).unwrap(), [String::from_utf8_lossy(&bytes).into_owned()]);
    }
}
