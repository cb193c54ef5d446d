//! Files written and read, and files that somebody has damaged.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use verve_gguf::{Array, GgufError, GgufFile, TensorSpec, TensorType, Value, write};
use verve_ops::quant::QuantKind;

fn metadata() -> Vec<(String, Value)> {
    let values = [
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-3)),
        ("u16", Value::U16(60000)),
        ("i16", Value::I16(-300)),
        ("u32", Value::U32(1 << 31)),
        ("i32", Value::I32(-1)),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(i64::MIN)),
        ("f32", Value::F32(0.1)),
        ("f64", Value::F64(0.1)),
        ("bool", Value::Bool(true)),
        ("text", Value::from("na\u{ef}ve")),
        ("texts", Value::Array(Array::String(vec!["a".to_owned(), String::new(), "\u{120}b".to_owned()]))),
        ("floats", Value::Array(Array::F32(vec![1.5, f32::MIN_POSITIVE]))),
        ("integers", Value::Array(Array::I32(vec![1, -1]))),
        ("bools", Value::Array(Array::Bool(vec![true, false]))),
        ("none", Value::Array(Array::U64(vec![]))),
    ];
    values.map(|(key, value)| (key.to_owned(), value)).to_vec()
}

fn tensors() -> Vec<TensorSpec> {
    let spec = |name: &str, shape: &[usize], kind| TensorSpec { name: name.to_owned(), shape: shape.to_vec(), kind };
    vec![
        spec("norm", &[5], TensorType::F32),
        spec("matrix", &[3, 64], TensorType::Quant(QuantKind::Q4_1)),
        spec("half", &[2, 3], TensorType::F16),
    ]
}

fn sample(folder: &Path) -> PathBuf {
    let path = folder.join("a.gguf");
    let specs = tensors();
    write::<GgufError>(&path, &metadata(), &specs, |index, out| {
        out.extend((0..specs[index].n_bytes()).map(|i| (i * 7 + index) as u8));
        Ok(())
    })
    .unwrap();
    path
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = GgufFile::open(&sample(folder.path())).unwrap();
    assert_eq!(file.metadata(), metadata());
    for (index, spec) in tensors().iter().enumerate() {
        let tensor = file.tensor(&spec.name).unwrap();
        assert_eq!((&tensor.shape, tensor.kind), (&spec.shape, spec.kind));
        let expected: Vec<u8> = (0..spec.n_bytes()).map(|i| (i * 7 + index) as u8).collect();
        assert_eq!(file.bytes(&spec.name).unwrap(), expected);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
    assert_eq!(file.count("u16").unwrap(), Some(60000));
    assert_eq!(file.count("absent").unwrap(), None);
    assert!(file.count("i32").unwrap_err().to_string().contains("`i32` is I32(-1), not a whole number"));
    assert!(file.texts("text").unwrap_err().to_string().contains("not a list of texts"));
    assert!(file.bytes("absent").unwrap_err().to_string().contains("no tensor \"absent\""));
}

/// Opens changed bytes; what is wrong with them.
fn problem(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.gguf");
    std::fs::write(&path, bytes).unwrap();
    GgufFile::open(&path).unwrap_err().to_string()
}

#[test]
fn wrong_files_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let good = std::fs::read(sample(folder.path())).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = good.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        problem(&changed)
    };
    assert!(problem(b"").contains("too few"));
    assert!(with(0, b"GGML").contains("no GGUF file"));
    assert!(with(4, &1u32.to_le_bytes()).contains("version 1"));
    assert!(with(4, &3u32.to_be_bytes()).contains("big-endian"));
    assert!(with(8, &u64::MAX.to_le_bytes()).contains("number of tensors"));
    assert!(with(16, &u64::MAX.to_le_bytes()).contains("number of metadata keys"));
    assert!(with(24, &u64::MAX.to_le_bytes()).contains("behind the end"));
    assert!(problem(&good[..good.len() - 64]).contains("truncated"));
    assert!(problem(&good[..100]).contains("truncated"));
    // The second tensor at the place of the first.
    let at = find(&good, b"matrix") + 6 + 4 + 16 + 4;
    assert!(with(at, &0u64.to_le_bytes()).contains("over one another"));
    assert!(with(at, &8u64.to_le_bytes()).contains("not a multiple of 32"));
    // A type that is not supported is known by name, and refused where it is used.
    let mut changed = good.clone();
    changed[at - 4..at].copy_from_slice(&20u32.to_le_bytes());
    let path = folder.path().join("b.gguf");
    std::fs::write(&path, changed).unwrap();
    let file = GgufFile::open(&path).unwrap();
    assert!(file.bytes("matrix").unwrap_err().to_string().contains("iq4_nl"));
    assert!(file.bytes("norm").is_ok());
    // The same key twice.
    let at = find(&good, b"\x02\0\0\0\0\0\0\0i8") + 8;
    assert!(with(at, b"u8").contains("`u8` twice"));
}

fn find(bytes: &[u8], what: &[u8]) -> usize {
    bytes.windows(what.len()).position(|window| window == what).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn damaged_files_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        static GOOD: std::sync::LazyLock<Vec<u8>> =
            std::sync::LazyLock::new(|| std::fs::read(sample(tempfile::tempdir().unwrap().path())).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged.gguf");
        let mut bytes = GOOD.clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(file) = GgufFile::open(&path) {
            for tensor in file.tensors() {
                let _ = file.bytes(&tensor.name);
            }
        }
    }
}
