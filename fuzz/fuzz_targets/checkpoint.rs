//! A model folder: the input is `config.json`, a NUL byte, and `model.safetensors` without the length of its header, which
//! is put in front; the header ends at the next NUL byte.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;
use verve_model::{formats, layout};

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(3, |byte| *byte == 0);
    let (config, header, tensors) =
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
    let model = [&(header.len() as u64).to_le_bytes(), header, tensors].concat();
    if fs::write(folder.path().join("config.json"), config).is_err()
        || fs::write(folder.path().join("model.safetensors"), &model).is_err()
    {
        return;
    }
    if let Ok(checkpoint) = formats::load(folder.path()) {
        let mut read = 0;
        for spec in layout(checkpoint.config()).iter() {
            let mut out = vec![0.0f32; spec.len()];
            read += spec.len();
            checkpoint.read(spec, &mut out).expect("a checkpoint that opens can be read");
        }
        assert!(2 * read <= model.len());
    }
});
