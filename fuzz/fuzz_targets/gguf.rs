//! A GGUF file: all that is read of one that opens, and the vocabulary in it.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use verve_gguf::GgufFile;
use verve_tokenizer::{GgufVocab, Tokenizer};

/// The tokenizer in a file, if it has one.
fn vocabulary(file: &GgufFile) -> Option<GgufVocab> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let texts = |name: &str| file.texts(&key(name)).ok().flatten().map(<[String]>::to_vec);
    let id = |name: &str| file.count(&key(name)).ok().flatten().and_then(|id| u32::try_from(id).ok());
    Some(GgufVocab {
        model: file.text(&key("model")).ok()??.to_owned(),
        pre: file.text(&key("pre")).ok()?.map(str::to_owned),
        tokens: texts("tokens")?,
        scores: file.floats(&key("scores")).ok()?.map(<[f32]>::to_vec),
        token_types: file.integers(&key("token_type")).ok()?,
        merges: texts("merges"),
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        unk: id("unknown_token_id"),
        pad: id("padding_token_id"),
        add_bos: file.bool(&key("add_bos_token")).ok()?,
        add_eos: file.bool(&key("add_eos_token")).ok()?,
        add_space_prefix: file.bool(&key("add_space_prefix")).ok()?,
    })
}

fuzz_target!(|data: &[u8]| {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
    let path = folder.path().join("model.gguf");
    if fs::write(&path, data).is_err() {
        return;
    }
    let Ok(file) = GgufFile::open(&path) else { return };
    let read: usize = file.tensors().iter().filter_map(|tensor| file.bytes(&tensor.name).ok()).map(<[u8]>::len).sum();
    assert!(read <= data.len(), "tensors lie inside the file and over no other");
    for (key, _) in file.metadata() {
        let _ = (file.count(key), file.float(key), file.bool(key), file.text(key).map(|text| text.map(str::len)));
    }
    if let Some(Ok(tokenizer)) = vocabulary(&file).map(Tokenizer::from_gguf) {
        let ids = tokenizer.encode("the cat 12\n日本 \u{301}");
        tokenizer.decode(&ids).expect("own ids");
    }
});
