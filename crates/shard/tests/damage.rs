//! Damaged and hostile shard files give errors, never a panic, and `verify` notices every changed byte.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{options, random_documents, write};
use proptest::prelude::*;
use verve_shard::format::HEADER_BYTES;
use verve_shard::{Error, Header, Shard, Split};

/// The bytes of a sound shard.
fn sound(n_vocab: usize) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let documents: Vec<_> =
        random_documents(9, 30, n_vocab).into_iter().map(|(_, ids, bytes)| (Split::Train, ids, bytes)).collect();
    write(folder.path(), options(n_vocab, 1_000_000), &documents);
    fs::read(folder.path().join("train-00000.shard")).unwrap()
}

/// Opens and uses everything a shard offers; panics only if the crate does.
fn use_all(path: &Path) -> Result<(), Error> {
    let shard = Shard::open(path)?;
    let mut ids = vec![0; shard.header().n_tokens as usize];
    shard.copy_tokens(0, &mut ids)?;
    assert!(ids.iter().all(|&id| id < shard.header().n_vocab));
    for index in 0..shard.header().n_documents {
        let range = shard.document(index)?;
        assert!(range.start < range.end && range.end <= shard.header().n_tokens);
        shard.document_text_bytes(index);
    }
    shard.verify()
}

fn use_bytes(bytes: &[u8]) -> Result<(), Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("train-00000.shard");
    fs::write(&path, bytes).unwrap();
    use_all(&path)
}

/// Puts an altered header with a correct checksum in front of a body: what a hostile program would write.
fn with_header(bytes: &[u8], json: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    out[16..HEADER_BYTES - 32].fill(0);
    out[12..16].copy_from_slice(&(json.len() as u32).to_le_bytes());
    out[16..16 + json.len()].copy_from_slice(json);
    let hash = blake3::hash(&out[..HEADER_BYTES - 32]);
    out[HEADER_BYTES - 32..HEADER_BYTES].copy_from_slice(hash.as_bytes());
    out
}

fn header(bytes: &[u8]) -> Header {
    let n = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    serde_json::from_slice(&bytes[16..16 + n]).unwrap()
}

#[test]
fn the_sound_shard_is_sound() {
    use_bytes(&sound(300)).unwrap();
    use_bytes(&sound(70_000)).unwrap();
    let bytes = sound(300);
    use_bytes(&with_header(&bytes, &serde_json::to_vec(&header(&bytes)).unwrap())).unwrap();
}

#[test]
fn hostile_headers_are_refused() {
    let bytes = sound(300);
    let refused = |change: &dyn Fn(&mut Header)| {
        let mut h = header(&bytes);
        change(&mut h);
        use_bytes(&with_header(&bytes, &serde_json::to_vec(&h).unwrap())).unwrap_err()
    };
    for n in [0, 1, u64::MAX, u64::MAX / 2, u64::MAX / 8, 1 << 40] {
        refused(&|h| h.n_tokens = n);
        refused(&|h| h.n_documents = n);
    }
    refused(&|h| h.text_bytes += 1);
    refused(&|h| h.token_bytes = 4);
    refused(&|h| h.token_bytes = 0);
    refused(&|h| h.n_vocab = 0);
    refused(&|h| h.n_vocab = 70_000);
    refused(&|h| h.end_of_text = 300);
    refused(&|h| h.body_blake3 = "00".to_owned());
    let error = refused(&|h| {
        h.n_vocab = 200;
        h.end_of_text = 199;
    });
    assert!(matches!(error, Error::TokenOutOfRange { .. }), "{error:?}");
    for json in [&b"{}"[..], b"", b"[1,2]", b"{\"split\":\"train\"}", &b"[".repeat(4000)] {
        assert!(use_bytes(&with_header(&bytes, json)).is_err());
    }
    let mut long = bytes.clone();
    long[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    let hash = blake3::hash(&long[..HEADER_BYTES - 32]);
    long[HEADER_BYTES - 32..HEADER_BYTES].copy_from_slice(hash.as_bytes());
    assert!(use_bytes(&long).is_err());
}

#[test]
fn errors_say_what_is_wrong() {
    let bytes = sound(300);
    let says = |bytes: &[u8], what: &str| {
        let error = use_bytes(bytes).unwrap_err().to_string();
        assert!(error.contains(what) && error.contains("train-00000.shard"), "{error}");
    };
    says(b"", "not a verve shard");
    says(b"PK\x03\x04 some zip file", "not a verve shard");
    says(&bytes[..100], "only 100 bytes");
    says(&bytes[..bytes.len() - 1], "bytes where its header calls for");
    says(&[&bytes[..], b"x"].concat(), "bytes where its header calls for");
    let mut other = bytes.clone();
    other[8] = 9;
    says(&other, "format version 9");
    let mut flipped = bytes.clone();
    flipped[20] ^= 1;
    says(&flipped, "checksum of its header");
    // The last byte belongs to the byte count of the last document: nothing looks at it but the checksum.
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    says(&flipped, "checksum of its tokens and documents");
}

/// A document that does not end, under checksums that are right.
#[test]
fn documents_that_do_not_end_are_noticed() {
    let mut bytes = sound(300);
    let mut h = header(&bytes);
    let last = HEADER_BYTES + 2 * (h.n_tokens as usize - 1);
    assert_eq!(bytes[last..last + 2], 299_u16.to_le_bytes());
    bytes[last..last + 2].fill(0);
    h.body_blake3 = blake3::hash(&bytes[HEADER_BYTES..]).to_hex().to_string();
    let error = use_bytes(&with_header(&bytes, &serde_json::to_vec(&h).unwrap())).unwrap_err().to_string();
    assert!(error.contains("does not end with end-of-text"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_changed_byte_is_noticed(at in any::<prop::sample::Index>(), change in 1_u8..) {
        let mut bytes = sound(300);
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        prop_assert!(use_bytes(&bytes).is_err(), "byte {at} changed by {change}");
    }

    #[test]
    fn any_cut_is_noticed(at in any::<prop::sample::Index>()) {
        let bytes = sound(300);
        prop_assert!(use_bytes(&bytes[..at.index(bytes.len())]).is_err());
    }

    #[test]
    fn rubbish_behind_a_sound_header_never_panics(body in prop::collection::vec(any::<u8>(), 0..2000)) {
        let mut bytes = sound(300);
        let n = body.len().min(bytes.len() - HEADER_BYTES);
        bytes[HEADER_BYTES..HEADER_BYTES + n].copy_from_slice(&body[..n]);
        let _ = use_bytes(&bytes);
        // And with a matching checksum, as a hostile program would write it.
        let mut h = header(&bytes);
        h.body_blake3 = blake3::hash(&bytes[HEADER_BYTES..]).to_hex().to_string();
        let _ = use_bytes(&with_header(&bytes, &serde_json::to_vec(&h).unwrap()));
    }

    #[test]
    fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        prop_assert!(use_bytes(&bytes).is_err());
        let mut bytes = bytes;
        let n = bytes.len().min(8);
        bytes[..n].copy_from_slice(&b"VERVESHD"[..n]);
        prop_assert!(use_bytes(&bytes).is_err());
    }
}
