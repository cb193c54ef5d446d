//! What is written is read again, byte for byte the same each time; bad settings and folders are errors.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;

use common::{joined, options, random_documents, write};
use verve_shard::{Error, Existing, MANIFEST_FILE, Shard, ShardManifest, ShardSet, ShardWriter, Split};

#[test]
fn sequences_equal_the_joined_documents_at_both_token_widths() {
    for n_vocab in [300, 65_536, 65_537, 200_000] {
        let folder = tempfile::tempdir().unwrap();
        let documents = random_documents(n_vocab as u64, 200, n_vocab);
        let manifest = write(folder.path(), options(n_vocab, 500), &documents);
        assert!(manifest.shards.len() > 6, "the test is to cross shard boundaries");
        let set = ShardSet::open(folder.path()).unwrap();
        set.verify().unwrap();
        assert_eq!(set.n_vocab(), n_vocab);
        for split in Split::ALL {
            let expected = joined(&documents, split, n_vocab as u32 - 1);
            assert_eq!(set.n_tokens(split), expected.len() as u64);
            let mut found = vec![0; expected.len()];
            set.copy_tokens(split, 0, &mut found).unwrap();
            assert_eq!(found, expected);
            let bytes: u64 = documents.iter().filter(|d| d.0 == split).map(|d| d.2).sum();
            assert_eq!(set.counts(split).text_bytes, bytes);
            assert_eq!(set.bytes_per_token(split), Some(bytes as f64 / expected.len() as f64));
            assert_eq!(manifest.counts(split), set.counts(split));
        }
        let width = set.shards(Split::Train)[0].header().token_bytes;
        assert_eq!(width, if n_vocab <= 65_536 { 2 } else { 4 });
    }
}

#[test]
fn documents_are_found_by_number() {
    let folder = tempfile::tempdir().unwrap();
    let documents = random_documents(1, 50, 300);
    write(folder.path(), options(300, 200), &documents);
    let set = ShardSet::open(folder.path()).unwrap();
    for split in Split::ALL {
        let mut expected = documents.iter().filter(|d| d.0 == split);
        for shard in set.shards(split) {
            for index in 0..shard.header().n_documents {
                let (_, ids, bytes) = expected.next().unwrap();
                let range = shard.document(index).unwrap();
                let mut found = vec![0; (range.end - range.start) as usize];
                shard.copy_tokens(range.start, &mut found).unwrap();
                assert_eq!(found.pop(), Some(299));
                assert_eq!(&found, ids);
                assert_eq!(shard.document_text_bytes(index), *bytes);
            }
        }
        assert!(expected.next().is_none());
    }
}

#[test]
fn same_documents_same_bytes() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let documents = random_documents(2, 100, 300);
    write(a.path(), options(300, 300), &documents);
    // In parts, which must make no difference.
    let mut writer = ShardWriter::create(b.path(), options(300, 300)).unwrap();
    for (split, ids, bytes) in &documents {
        for part in ids.chunks(7) {
            writer.push_part(*split, part, 0).unwrap();
        }
        writer.push_part(*split, &[], *bytes).unwrap();
        writer.end_document(*split).unwrap();
    }
    writer.finish().unwrap();
    let mut names: Vec<_> = fs::read_dir(a.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
    names.sort();
    assert!(names.len() > 3);
    assert_eq!(fs::read_dir(b.path()).unwrap().count(), names.len());
    for name in names {
        assert_eq!(fs::read(a.path().join(&name)).unwrap(), fs::read(b.path().join(&name)).unwrap(), "{name:?}");
    }
}

#[test]
fn several_folders_are_one_sequence_and_mixed_tokenizers_are_refused() {
    let folders: Vec<_> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let documents = random_documents(3, 40, 300);
    write(folders[0].path(), options(300, 1000), &documents[..20]);
    write(folders[1].path(), options(300, 1000), &documents[20..]);
    let set = ShardSet::open_all(&[folders[0].path(), folders[1].path()]).unwrap();
    let expected = joined(&documents, Split::Train, 299);
    let mut found = vec![0; expected.len()];
    set.copy_tokens(Split::Train, 0, &mut found).unwrap();
    assert_eq!(found, expected);

    let mut other = options(300, 1000);
    other.tokenizer_hash = "another".to_owned();
    write(folders[2].path(), other, &documents);
    write(folders[3].path(), options(301, 1000), &documents);
    for (folder, what) in [(2, "tokenizer"), (3, "vocabulary size")] {
        let error = ShardSet::open_all(&[folders[0].path(), folders[folder].path()]).unwrap_err();
        assert!(matches!(error, Error::Mixed { .. }), "{error:?}");
        assert!(error.to_string().contains(what), "{error}");
    }
    assert!(set.check_tokenizer(&"0123456789abcdef".repeat(4), 300).is_ok());
    let error = set.check_tokenizer("feedbeef", 300).unwrap_err();
    assert!(error.to_string().contains("feedbeef"), "{error}");
    assert!(set.check_tokenizer(&"0123456789abcdef".repeat(4), 301).is_err());
}

#[test]
fn a_folder_that_is_not_empty_is_refused_or_its_shards_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let documents = random_documents(4, 60, 300);
    write(folder.path(), options(300, 100), &documents);
    let before = ShardManifest::read(folder.path()).unwrap();
    let error = ShardWriter::create(folder.path(), options(300, 100)).unwrap_err();
    assert!(matches!(error, Error::FolderNotEmpty { .. }), "{error:?}");
    assert_eq!(ShardManifest::read(folder.path()).unwrap(), before, "refusing must change nothing");

    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    fs::write(folder.path().join(".train-00007.shard.tmp"), "left by a killed job").unwrap();
    let mut replace = options(300, 1_000_000);
    replace.existing = Existing::Replace;
    write(folder.path(), replace, &documents[..10]);
    let set = ShardSet::open(folder.path()).unwrap();
    assert_eq!(set.shards(Split::Train).len(), 1);
    assert_eq!(fs::read_to_string(folder.path().join("notes.txt")).unwrap(), "mine");
    let mut names: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["held-out-00000.shard", "notes.txt", "shards.json", "train-00000.shard"]);
}

#[test]
fn an_unfinished_writer_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = ShardWriter::create(folder.path(), options(300, 10)).unwrap();
    writer.push(Split::Train, &[1; 30], 30).unwrap();
    writer.push(Split::Train, &[1; 3], 3).unwrap();
    writer.push(Split::HeldOut, &[1; 3], 3).unwrap();
    assert_eq!(writer.n_tokens(Split::Train), 35);
    assert!(fs::read_dir(folder.path()).unwrap().count() >= 3);
    drop(writer);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let error = ShardSet::open(folder.path()).unwrap_err();
    assert!(error.to_string().contains("not a folder of shards"), "{error}");
}

#[test]
fn bad_settings_and_ids_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let bad = |change: fn(&mut verve_shard::ShardOptions), field: &str| {
        let mut options = options(300, 100);
        change(&mut options);
        match ShardWriter::create(folder.path(), options).unwrap_err() {
            Error::Options { field: found, .. } => assert_eq!(found, field),
            other => panic!("{other:?}"),
        }
    };
    bad(|o| o.n_vocab = 0, "n_vocab");
    bad(|o| o.n_vocab = 1 << 33, "n_vocab");
    bad(|o| o.end_of_text = 300, "end_of_text");
    bad(|o| o.shard_tokens = 0, "shard_tokens");
    bad(|o| o.tokenizer_hash.clear(), "tokenizer_hash");
    bad(|o| o.source = "x".repeat(4096), "source");
    bad(|o| o.source = "\u{1}".repeat(700), "source");

    let mut writer = ShardWriter::create(folder.path(), options(300, 100)).unwrap();
    let error = writer.push(Split::Train, &[1, 2, 300], 3).unwrap_err();
    assert!(matches!(error, Error::TokenOutOfRange { id: 300, position: 2, .. }), "{error:?}");
}

#[test]
fn the_data_manifest_notices_other_data_but_not_another_place() {
    let (a, b, c) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let documents = random_documents(5, 40, 300);
    write(a.path(), options(300, 100), &documents);
    write(b.path(), options(300, 100), &documents);
    let mut changed = documents.clone();
    let long = changed.iter().position(|d| d.1.len() > 3).unwrap();
    changed[long].1[1] ^= 1;
    write(c.path(), options(300, 100), &changed);
    let [a, b, c] = [a, b, c].map(|folder| ShardSet::open(folder.path()).unwrap().data_manifest());
    assert_eq!(a.hash(), b.hash());
    a.check_same(&b).unwrap();
    assert_ne!(a.hash(), c.hash());
    assert!(matches!(a.check_same(&c), Err(Error::DataChanged { .. })));
    let text = serde_json::to_string(&a).unwrap();
    assert_eq!(serde_json::from_str::<verve_shard::DataManifest>(&text).unwrap(), a);
}

#[test]
fn a_manifest_that_lies_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), options(300, 100), &random_documents(6, 40, 300));
    let path = folder.path().join(MANIFEST_FILE);
    let good = fs::read_to_string(&path).unwrap();
    let train0 = fs::read(folder.path().join("train-00000.shard")).unwrap();
    let lie = |change: &dyn Fn(&mut serde_json::Value), expected: &str| {
        let mut value: serde_json::Value = serde_json::from_str(&good).unwrap();
        change(&mut value);
        fs::write(&path, value.to_string()).unwrap();
        let error = ShardSet::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    lie(&|v| v["shards"][0]["file"] = "../../etc/passwd".into(), "not the name of a shard file");
    lie(&|v| v["shards"][0]["file"] = "/train-00000.shard".into(), "not the name of a shard file");
    lie(&|v| v["shards"][0]["file"] = "train-99999.shard".into(), "no such file");
    lie(&|v| v["shards"][0]["file"] = "train-00001.shard".into(), "hash");
    lie(&|v| v["shards"][0]["n_tokens"] = 5.into(), "totals");
    lie(&|v| v["tokenizer_hash"] = "x".into(), "tokenizer");
    lie(&|v| v["n_vocab"] = 299.into(), "vocabulary");
    lie(&|v| v["version"] = 2.into(), "format");
    lie(&|v| v["shards"] = serde_json::json!([]), "totals");
    lie(
        &|v| {
            let entry = v["shards"][0].clone();
            for field in ["n_tokens", "n_documents", "text_bytes"] {
                v["train"][field] = (v["train"][field].as_u64().unwrap() + entry[field].as_u64().unwrap()).into();
            }
            v["shards"].as_array_mut().unwrap().push(entry);
        },
        "twice",
    );
    fs::write(&path, "{").unwrap();
    assert!(ShardSet::open(folder.path()).unwrap_err().to_string().contains("cannot be read"));
    fs::write(&path, &good).unwrap();
    ShardSet::open(folder.path()).unwrap();
    fs::write(folder.path().join("train-00077.shard"), train0).unwrap();
    assert!(ShardSet::open(folder.path()).unwrap_err().to_string().contains("train-00077.shard"));
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = ShardWriter::create(file.join("shards"), options(300, 100)).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    assert!(matches!(Shard::open(folder.path()), Err(Error::NotAShard { .. } | Error::Io { .. })));
}
