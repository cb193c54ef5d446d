//! A shard file, as it is and behind a header whose checksum is right, which a fuzzer would never guess.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use verve_shard::format::{HEADER_BYTES, MAGIC, VERSION};
use verve_shard::{Error, Shard};

fn use_all(bytes: &[u8]) -> Result<(), Error> {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return Ok(()) };
    let path = folder.path().join("train-00000.shard");
    if fs::write(&path, bytes).is_err() {
        return Ok(());
    }
    let shard = Shard::open(&path)?;
    let mut ids = vec![0; shard.header().n_tokens as usize];
    shard.copy_tokens(0, &mut ids)?;
    for index in 0..shard.header().n_documents {
        shard.document(index)?;
        shard.document_text_bytes(index);
    }
    shard.verify()
}

fuzz_target!(|data: &[u8]| {
    let _ = use_all(data);
    // The input is the header's JSON, a NUL byte, and the body.
    let split = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (json, body) = data.split_at(split);
    if json.len() > HEADER_BYTES - 48 {
        return;
    }
    let mut file = vec![0; HEADER_BYTES];
    file[..8].copy_from_slice(&MAGIC);
    file[8..12].copy_from_slice(&VERSION.to_le_bytes());
    file[12..16].copy_from_slice(&(json.len() as u32).to_le_bytes());
    file[16..16 + json.len()].copy_from_slice(json);
    let hash = blake3::hash(&file[..HEADER_BYTES - 32]);
    file[HEADER_BYTES - 32..].copy_from_slice(hash.as_bytes());
    file.extend_from_slice(body.get(1..).unwrap_or_default());
    let _ = use_all(&file);
});
