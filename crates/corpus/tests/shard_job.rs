//! Text to shards: the same bytes for any number of threads, the right tokens, nothing left behind after an error.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::{
    Numbers, byte_tokenizer, contents, document, documents, folder, gzip, json_lines, trained_tokenizer, zstd,
};
use proptest::prelude::*;
use verve_corpus::Error;
use verve_corpus::held_out::HeldOutOptions;
use verve_corpus::read::{Documents, InvalidText, ReadOptions};
use verve_corpus::shard_job::{Phase, Progress, ShardJob, ShardReport};
use verve_shard::{Existing, ShardSet, Split};
use verve_tokenizer::Tokenizer;

fn on(_: &Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn job(input: &Path, out: &Path) -> ShardJob {
    ShardJob::new(vec![input.to_owned()], out)
}

/// The documents of a split as ids.
fn ids(out: &Path, split: Split) -> Vec<Vec<u32>> {
    let set = ShardSet::open(out).unwrap();
    set.verify().unwrap();
    let mut documents = Vec::new();
    for shard in set.shards(split) {
        for index in 0..shard.header().n_documents {
            let range = shard.document(index).unwrap();
            let mut ids = vec![0; (range.end - range.start) as usize];
            shard.copy_tokens(range.start, &mut ids).unwrap();
            assert_eq!(ids.pop(), Some(set.end_of_text()));
            assert!(!ids.contains(&set.end_of_text()), "a special token was made from text");
            documents.push(ids);
        }
    }
    documents
}

fn texts(out: &Path, tokenizer: &Tokenizer, split: Split) -> Vec<String> {
    ids(out, split).iter().map(|ids| String::from_utf8(tokenizer.decode_bytes(ids).unwrap()).unwrap()).collect()
}

/// A folder of texts of every kind, with documents longer than a piece.
fn mixed() -> (tempfile::TempDir, Vec<String>) {
    let mut numbers = Numbers(1);
    let long = document(&mut numbers, 700_000);
    let (a, b, c) = (documents(2, 300, 800), documents(3, 400, 300), documents(4, 20, 20_000));
    let root = folder(&[
        ("a.txt", long.as_bytes()),
        ("b.jsonl.gz", &gzip(json_lines(&a).as_bytes())),
        ("c/d.jsonl.zst", &zstd(json_lines(&b).as_bytes())),
        ("e.jsonl", json_lines(&c).as_bytes()),
    ]);
    (root, [vec![long], a, b, c].concat())
}

#[test]
fn any_number_of_threads_gives_the_same_bytes_and_again_when_run_again() {
    let (root, documents) = mixed();
    let tokenizer = trained_tokenizer(&documents[1..100], 700);
    let outs = tempfile::tempdir().unwrap();
    let run = |name: &str, threads: usize| {
        let mut job = job(root.path(), &outs.path().join(name));
        job.threads = Some(threads);
        job.shard_tokens = 100_000;
        job.read.piece_bytes = 20_000;
        job.run(&tokenizer, on).unwrap();
        contents(&job.out)
    };
    let one = run("1", 1);
    assert!(one.len() > 4, "several shards");
    for threads in [2, 3, 8] {
        assert_eq!(run(&threads.to_string(), threads), one, "{threads} threads");
    }
    assert_eq!(run("again", 2), one);
}

#[test]
fn shards_hold_every_document_once_in_order_and_on_one_side() {
    let (root, documents) = mixed();
    let tokenizer = trained_tokenizer(&documents[1..100], 700);
    let out = tempfile::tempdir().unwrap();
    let report = job(root.path(), out.path()).run(&tokenizer, on).unwrap();
    let (train, held_out) =
        (texts(out.path(), &tokenizer, Split::Train), texts(out.path(), &tokenizer, Split::HeldOut));
    assert!(!held_out.is_empty());
    assert!(held_out.iter().all(|d| !train.contains(d)));
    // In reading order, each split; and nothing else.
    let mut rest = (train.iter().peekable(), held_out.iter().peekable());
    for document in &documents {
        let next = if rest.0.peek() == Some(&document) { rest.0.next() } else { rest.1.next() };
        assert!(next == Some(document));
    }
    assert!(rest.0.next().is_none() && rest.1.next().is_none());

    let bytes = |documents: &[String]| documents.iter().map(|d| d.len() as u64).sum::<u64>();
    assert_eq!(report.manifest.train.text_bytes, bytes(&train));
    assert_eq!(report.manifest.held_out.text_bytes, bytes(&held_out));
    assert_eq!(report.read.documents, documents.len() as u64);
    assert_eq!(report.read.text_bytes, bytes(&documents));
    assert_eq!(report.read.files, 4);
    assert_eq!(report.manifest.tokenizer_hash, tokenizer.hash());
    let set = ShardSet::open(out.path()).unwrap();
    set.check_tokenizer(tokenizer.hash(), tokenizer.n_vocab()).unwrap();
    assert!(set.shards(Split::Train)[0].header().source.contains(root.path().to_str().unwrap()));
    serde_json::to_string(&report).unwrap();
}

#[test]
fn ids_are_those_of_the_whole_document_also_when_it_is_cut_in_pieces() {
    let mut numbers = Numbers(9);
    let long = document(&mut numbers, 200_000) + "\n\n  Last words.\n\n";
    let tokenizer = trained_tokenizer(std::slice::from_ref(&long), 1000);
    let root = folder(&[("a.txt", long.as_bytes())]);
    let out = tempfile::tempdir().unwrap();
    let mut job = job(root.path(), out.path());
    job.read.piece_bytes = 500;
    job.held_out.fraction = 0.0;
    job.run(&tokenizer, on).unwrap();
    assert_eq!(ids(out.path(), Split::Train), [tokenizer.encode(&long)]);
    assert!(ids(out.path(), Split::HeldOut).is_empty());
}

#[test]
fn special_tokens_in_the_text_are_text() {
    let text = "one <|endoftext|> two<|endoftext|><|endoftext|>";
    let tokenizer = trained_tokenizer(&[text.repeat(9)], 300);
    let root = folder(&[("a.txt", text.as_bytes())]);
    let out = tempfile::tempdir().unwrap();
    let mut job = job(root.path(), out.path());
    job.held_out.fraction = 0.0;
    job.run(&tokenizer, on).unwrap();
    // `texts` checks that there is no end-of-text id but at the end.
    assert_eq!(texts(out.path(), &tokenizer, Split::Train), [text]);
}

#[test]
fn the_end_of_a_single_document_is_held_out_at_a_line_end() {
    let text = document(&mut Numbers(5), 300_000);
    let tokenizer = byte_tokenizer();
    for piece_bytes in [1 << 20, 10_000, 100] {
        let root = folder(&[("a.txt", text.as_bytes())]);
        let out = tempfile::tempdir().unwrap();
        let mut job = job(root.path(), out.path());
        job.read.piece_bytes = piece_bytes;
        let report = job.run(&tokenizer, on).unwrap();
        assert!(report.held_out.tail.is_some());
        let (train, held_out) =
            (texts(out.path(), &tokenizer, Split::Train), texts(out.path(), &tokenizer, Split::HeldOut));
        assert_eq!((train.len(), held_out.len()), (1, 1));
        assert!(train[0].clone() + &held_out[0] == text);
        assert!((28_000..=30_100).contains(&held_out[0].len()), "{}", held_out[0].len());
        if piece_bytes > 1000 {
            assert!(train[0].ends_with('\n'));
        }
        let counts = report.manifest.held_out;
        assert_eq!((counts.n_documents, counts.text_bytes), (1, held_out[0].len() as u64));
    }
}

#[test]
fn progress_goes_forward_to_the_end_and_can_stop_the_job() {
    let (root, _) = mixed();
    let tokenizer = byte_tokenizer();
    let outs = tempfile::tempdir().unwrap();
    let mut seen: Vec<Progress> = Vec::new();
    let report = job(root.path(), &outs.path().join("a"))
        .run(&tokenizer, |p| {
            seen.push(*p);
            ControlFlow::Continue(())
        })
        .unwrap();
    let last = seen.last().unwrap();
    assert_eq!(last.phase, Phase::Encode);
    assert_eq!(last.bytes_done, last.bytes_total);
    assert_eq!(last.tokens, report.manifest.train.n_tokens + report.manifest.held_out.n_tokens);
    assert_eq!(last.documents, report.read.documents);
    assert!(seen.windows(2).all(|w| w[0].phase != w[1].phase || w[0].bytes_done <= w[1].bytes_done));

    let out = outs.path().join("b");
    let error = job(root.path(), &out).run(&tokenizer, |_| ControlFlow::Break(())).unwrap_err();
    assert!(matches!(error, Error::Stopped), "{error:?}");
    assert!(!out.exists());
}

#[test]
fn errors_leave_nothing_behind() {
    let tokenizer = byte_tokenizer();
    let outs = tempfile::tempdir().unwrap();
    let out: PathBuf = outs.path().join("out");
    let fails = |files: &[(&str, &[u8])], change: fn(&mut ShardJob)| {
        let root = folder(files);
        let mut job = job(root.path(), &out);
        change(&mut job);
        let error = job.run(&tokenizer, on).unwrap_err();
        assert!(!out.exists(), "{error} left something behind");
        error
    };
    let good = documents(6, 2000, 3000).join("\n").into_bytes();
    let bad = [&good[..], b"\xff"].concat();
    let error = fails(&[("a.txt", &good), ("b.txt", &bad)], |job| job.held_out.fraction = 0.0);
    assert!(matches!(error, Error::InvalidUtf8 { .. }), "{error:?}");
    assert!(matches!(fails(&[("a.txt", &good), ("b.jsonl", b"{")], |_| ()), Error::JsonLine { .. }));
    let error = fails(&[("a.txt", b""), ("b.md", b" \n")], |_| ());
    assert!(matches!(&error, Error::NoText { files: 2, .. }), "{error:?}");
    assert!(matches!(fails(&[("a.pdf", b"")], |_| ()), Error::NoFiles { .. }));
    assert!(matches!(fails(&[("a.txt", b"a")], |job| job.threads = Some(0)), Error::Options { .. }));
    assert!(matches!(fails(&[("a.txt", b"a")], |job| job.held_out.fraction = 2.0), Error::Options { .. }));
    assert!(matches!(fails(&[("a.txt", b"a")], |job| job.shard_tokens = 0), Error::Shard(_)));

    let no_end = Tokenizer::from_tiktoken(
        (0..=255_u8).map(|b| format!("{} {b}\n", base64(b))).collect::<String>().as_bytes(),
        Some(Vec::new()),
    )
    .unwrap();
    let root = folder(&[("a.txt", b"a")]);
    assert!(matches!(job(root.path(), &out).run(&no_end, on), Err(Error::NoEndOfText)));
}

/// One byte in base 64, as tiktoken's files have it.
fn base64(byte: u8) -> String {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (high, low) = (digits[usize::from(byte >> 2)], digits[usize::from((byte & 3) << 4)]);
    format!("{}{}==", char::from(high), char::from(low))
}

#[test]
fn existing_shards_are_kept_or_replaced_as_asked() {
    let root = folder(&[("a.txt", documents(7, 50, 400).join("\n").as_bytes())]);
    let out = tempfile::tempdir().unwrap();
    let tokenizer = byte_tokenizer();
    let mut job = job(root.path(), out.path());
    job.run(&tokenizer, on).unwrap();
    let before = contents(out.path());
    let error = job.run(&tokenizer, on).unwrap_err();
    assert!(error.to_string().contains("is not empty"), "{error}");
    assert_eq!(contents(out.path()), before);
    job.existing = Existing::Replace;
    job.run(&tokenizer, on).unwrap();
    assert_eq!(contents(out.path()), before);
}

#[test]
fn skipping_and_replacing_are_counted() {
    let root = folder(&[("a.txt", b"good text"), ("b.txt", b"bad \xff text")]);
    let tokenizer = byte_tokenizer();
    let run = |invalid: InvalidText| -> (ShardReport, Vec<String>) {
        let out = tempfile::tempdir().unwrap();
        let mut job = job(root.path(), out.path());
        job.read.invalid = invalid;
        job.held_out.fraction = 0.0;
        let report = job.run(&tokenizer, on).unwrap();
        (report, texts(out.path(), &tokenizer, Split::Train))
    };
    let (report, texts) = run(InvalidText::Skip);
    assert_eq!(texts, ["good text"]);
    assert_eq!(report.read.n_skipped_files, 1);
    let (report, texts) = run(InvalidText::Replace);
    assert_eq!(texts, ["good text", "bad \u{fffd} text"]);
    assert_eq!(report.read.replaced, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_texts_come_back(
        texts in prop::collection::vec("\\PC{0,80}|[a \n\u{e4}]{0,300}", 1..30),
        fraction in prop::sample::select(vec![0.0, 0.1, 0.5]),
        piece_bytes in 64_usize..300,
        threads in 1_usize..4,
    ) {
        prop_assume!(texts.iter().any(|text| !text.trim().is_empty()));
        let root = folder(&[("a.jsonl", json_lines(&texts).as_bytes())]);
        let out = tempfile::tempdir().unwrap();
        let tokenizer = byte_tokenizer();
        let job = ShardJob {
            threads: Some(threads),
            read: ReadOptions { piece_bytes, documents: Documents::PerFile, ..ReadOptions::default() },
            held_out: HeldOutOptions { fraction, ..HeldOutOptions::default() },
            shard_tokens: 50,
            ..job(root.path(), out.path())
        };
        let report = job.run(&tokenizer, on).unwrap();
        let train = self::texts(out.path(), &tokenizer, Split::Train);
        let held_out = self::texts(out.path(), &tokenizer, Split::HeldOut);
        prop_assert!(!train.is_empty(), "something is left to train on");
        let mut expected: Vec<String> = texts.into_iter().filter(|t| !t.chars().all(char::is_whitespace)).collect();
        if report.held_out.tail.is_some() {
            // The longest document was cut in two: put it together again.
            prop_assert_eq!(held_out.len() + train.len(), expected.len() + 1);
            prop_assert_eq!(
                [train.concat().len(), held_out.concat().len()].iter().sum::<usize>(),
                expected.concat().len()
            );
        } else {
            let mut found = [train, held_out].concat();
            found.sort();
            expected.sort();
            prop_assert_eq!(found, expected);
        }
    }
}

#[test]
fn shared_text_is_sharded() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    // The data lies beside the project where it is developed, not in it.
    if !data.is_dir() {
        return;
    }
    let whole = fs::read_to_string(data.join("speeches-en.txt")).unwrap();
    let tokenizer = trained_tokenizer(std::slice::from_ref(&whole), 2000);
    let out = tempfile::tempdir().unwrap();
    let mut job = job(&data.join("speeches-en.txt"), out.path());
    job.read.documents = Documents::Delimiter("\n\n\n".to_owned());
    let report = job.run(&tokenizer, on).unwrap();
    let counts = report.manifest.held_out;
    assert!(counts.n_documents >= 1 && report.held_out.tail.is_none());
    assert!((64 << 10..288_000).contains(&counts.text_bytes), "{counts:?}");
    let all = report.manifest.train.text_bytes + counts.text_bytes;
    assert!(all <= whole.len() as u64 && all + 3000 > whole.len() as u64);
    assert!(ShardSet::open(out.path()).unwrap().row_order(1024, 1).is_ok());
}
