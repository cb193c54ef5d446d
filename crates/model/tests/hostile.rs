//! Damaged and hostile checkpoints: never a panic, one message that names the file and what is wrong in it.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use common::{Bench, small_configs};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use verve_model::formats::tensor_file::TensorFile;
use verve_model::formats::{FileType, GenerationIds, SaveOptions, load, save_sharded};
use verve_model::*;
use verve_ops::reference::Reference;
use verve_testkit::golden_dir;

const MODEL: &str = "model.safetensors";

/// Opens a folder and reads everything in it.
fn read_all(folder: &Path) -> Result<Vec<Vec<f32>>, ModelError> {
    let checkpoint = load(folder)?;
    layout(checkpoint.config())
        .iter()
        .map(|spec| {
            let mut out = vec![0.0; spec.len()];
            checkpoint.read(spec, &mut out).map(|()| out)
        })
        .collect()
}

fn golden(case: &str, file: &str) -> Vec<u8> {
    fs::read(golden_dir(case).join(file)).unwrap()
}

fn folder_with(config: &[u8], model: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config).unwrap();
    fs::write(folder.path().join(MODEL), model).unwrap();
    folder
}

/// A safetensors file with this header.
fn with_header(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}

/// Header and data of GPT-2's golden file.
fn parts() -> (Map<String, Value>, Vec<u8>) {
    let bytes = golden("gpt2", MODEL);
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), bytes[8 + length..].to_vec())
}

fn message_of_model(model: &[u8]) -> String {
    let folder = folder_with(&golden("gpt2", "config.json"), model);
    let message = read_all(folder.path()).unwrap_err().to_string();
    assert!(message.contains(folder.path().to_str().unwrap()), "{message}");
    message
}

fn message_of_config(case: &str, edit: impl FnOnce(&mut Map<String, Value>)) -> String {
    let mut config: Map<String, Value> = serde_json::from_slice(&golden(case, "config.json")).unwrap();
    edit(&mut config);
    let config = Value::Object(config).to_string();
    let folder = folder_with(config.as_bytes(), &golden(case, MODEL));
    read_all(folder.path()).map(|_| config).unwrap_err().to_string()
}

#[test]
fn headers_that_lie_are_refused_by_tensor() {
    const NAME: &str = "transformer.h.1.ln_2.bias";
    let (header, data) = parts();
    let refused = |words: &str, edit: &dyn Fn(&mut Map<String, Value>)| {
        let mut header = header.clone();
        edit(&mut header);
        let message = message_of_model(&with_header(Value::Object(header).to_string().as_bytes(), &data));
        assert!(message.contains(words), "{message} should contain {words}");
    };
    let named = &format!("tensor {NAME:?}");
    for offsets in [json!([0, 128]), json!([u64::MAX, 4]), json!([u64::MAX - 3, u64::MAX]), json!([8, 4])] {
        refused("tensor", &|h| h[NAME]["data_offsets"] = offsets.clone());
    }
    refused(named, &|h| h[NAME]["data_offsets"] = json!([-1, 127]));
    refused(named, &|h| h[NAME]["data_offsets"] = json!([1.5, 127]));
    refused(named, &|h| h[NAME]["shape"] = json!([33]));
    refused(named, &|h| h[NAME]["shape"] = json!([]));
    refused(named, &|h| h[NAME]["shape"] = json!([u64::MAX, 2]));
    refused(named, &|h| h[NAME]["shape"] = json!([1_u64 << 62, 1_u64 << 62]));
    refused(named, &|h| h[NAME]["shape"] = json!(vec![1; 100_000]));
    refused(named, &|h| h[NAME]["dtype"] = json!("F64"));
    refused(named, &|h| h[NAME]["dtype"] = json!("I99"));
    refused(named, &|h| h[NAME] = json!(3));
    refused(named, &|h| h[NAME]["shape"] = json!([4, 8]));
    refused("holds I32", &|h| h[NAME]["dtype"] = json!("I32"));
    refused(&format!("tensor {NAME:?} is missing"), &|h| {
        let info = h.remove(NAME).unwrap();
        h.insert("transformer.h.1.ln_2.bjas".to_owned(), info);
    });
    refused("tensor \"transformer.ln_f.bias\"", &|h| {
        drop(h.insert("extra".to_owned(), h["transformer.ln_f.bias"].clone()))
    });
    refused("__metadata__", &|h| h["__metadata__"] = json!({"format": 3}));
    // A tensor more than the model has, properly stored.
    let mut more = header.clone();
    more.insert(
        "extra".to_owned(),
        json!({"dtype": "F32", "shape": [1], "data_offsets": [data.len(), data.len() + 4]}),
    );
    let longer = [&data[..], &[0; 4]].concat();
    let message = message_of_model(&with_header(Value::Object(more).to_string().as_bytes(), &longer));
    assert!(message.contains("tensor \"extra\" has no place in this model (1 such tensors)"), "{message}");
    // A name twice.
    let text = Value::Object(header.clone()).to_string();
    let again = format!("{},{:?}:{}}}", &text[..text.len() - 1], NAME, header[NAME]);
    let message = message_of_model(&with_header(again.as_bytes(), &data));
    assert!(message.contains(&format!("tensor {NAME:?} is there twice")), "{message}");
}

#[test]
fn files_that_are_no_model_are_refused() {
    let good = golden("gpt2", MODEL);
    let truncated = "truncated";
    let too_long = [&good[..], b"x"].concat();
    let mut huge = good.clone();
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut large = good.clone();
    large[..8].copy_from_slice(&100_000_000_u64.to_le_bytes());
    for (bytes, words) in [
        (&b""[..], "too few"),
        (b"PK\x03\x04", "too few"),
        (&good[..20], truncated),
        (&good[..good.len() - 1], truncated),
        (&too_long, "damaged"),
        (&huge, "header should have 18446744073709551615 bytes"),
        (&large, "header should have 100000000 bytes"),
        (&with_header(&b"[".repeat(200_000), b""), "invalid safetensors header"),
        (&with_header(b"[]", b""), "an object of tensors"),
        (&with_header(b"{}", b""), "is missing"),
        (&with_header(b"{}", b"abc"), "damaged"),
    ] {
        let message = message_of_model(bytes);
        assert!(message.contains(words) && !message.contains('\n'), "{message} should contain {words}");
    }
    let folder = tempfile::tempdir().unwrap();
    let message = |folder: &Path| load(folder).unwrap_err().to_string();
    assert!(message(&folder.path().join("none")).contains("none/config.json"));
    assert!(message(folder.path()).contains("config.json"));
    fs::write(folder.path().join("config.json"), golden("gpt2", "config.json")).unwrap();
    assert!(message(folder.path()).contains("holds no model.safetensors"));
    fs::create_dir(folder.path().join(MODEL)).unwrap();
    assert!(message(folder.path()).contains("holds no model.safetensors"));
}

/// Whatever the numbers say, nothing larger than the files is ever asked for: the tensors of a model that the
/// configuration describes must be in the file before any is read.
#[test]
fn absurd_configurations_are_refused_by_key() {
    for (case, key, values, words) in [
        ("gpt2", "n_layer", [json!(0), json!(u64::MAX), json!(-1), json!("two")], "n_layer"),
        ("gpt2", "n_embd", [json!(0), json!(1_u64 << 40), json!(33), json!(1.5)], "n_"),
        ("gpt2", "n_head", [json!(0), json!(5), json!(1 << 20), json!([])], "n_head"),
        ("gpt2", "vocab_size", [json!(0), json!(u64::MAX), json!({}), Value::Null], "vocab"),
        ("gpt2", "layer_norm_epsilon", [json!(0.0), json!(-1.0), json!(1e300), json!("small")], "eps"),
        ("gpt2", "activation_function", [json!("tanh"), json!(3), json!([]), json!("")], "activation_function"),
        (
            "gpt_neo",
            "attention_types",
            [json!([]), json!([[["global"], u64::MAX]]), json!([[[], 5]]), json!([[["odd"], 4]])],
            "attention_types",
        ),
        ("gpt_neo", "window_size", [json!(0), json!(-3), json!("8"), json!(1.5)], ""),
        ("llama", "num_key_value_heads", [json!(0), json!(3), json!(1_u64 << 50), json!(-2)], "kv"),
        ("llama", "head_dim", [json!(0), json!(7), json!(1_u64 << 63), json!("x")], "d_head"),
        ("llama", "rms_norm_eps", [json!(0), json!(2), json!([]), json!("1")], "eps"),
        (
            "llama",
            "rope_parameters",
            [json!(3), json!({"rope_type": "yarn"}), json!({"rope_theta": -1.0}), json!({"rope_theta": "x"})],
            "rope_parameters",
        ),
    ] {
        for value in values {
            let message = message_of_config(case, |config| drop(config.insert(key.to_owned(), value.clone())));
            // Our own name of the field or the file's.
            let found =
                [key, words, "rope_theta", "theta", "key_value", "n_kv_heads", "n_heads", "d_model", "head_dim"];
            assert!(found.iter().any(|word| message.contains(word)), "{case}: {key} = {value}: {message}");
            assert!(message.len() < 600 && !message.contains('\n'), "{message}");
        }
    }
    // Larger than the file, but not absurd: the first tensor that does not fit is named.
    let message = message_of_config("gpt2", |config| config["vocab_size"] = json!(1 << 23));
    assert!(message.contains("transformer.wte.weight") && message.contains("8388608"), "{message}");
    let message = message_of_config("gpt2", |config| config["n_layer"] = json!(4096));
    assert!(message.contains("\"transformer.h.2.ln_1.weight\" is missing"), "{message}");
    let message = message_of_config("gpt2", |config| config["model_type"] = json!("bert"));
    assert!(message.contains("bert") && message.contains("gpt_neo"), "{message}");
    for (case, key, value) in [
        ("gpt2", "scale_attn_by_inverse_layer_idx", json!(true)),
        ("gpt2", "quantization_config", json!({"bits": 4})),
        ("llama", "hidden_act", json!("gelu")),
        ("llama", "partial_rotary_factor", json!(0.5)),
    ] {
        let message = message_of_config(case, |config| drop(config.insert(key.to_owned(), value)));
        assert!(message.contains(&format!("`{key}`")), "{message}");
    }
}

/// A number that is none is a number to a file: whoever computes with it notices.
#[test]
fn values_that_are_no_numbers_are_read_as_they_are() {
    let mut bytes = golden("gpt2", MODEL);
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    let folder = folder_with(&golden("gpt2", "config.json"), &bytes);
    assert_eq!(read_all(folder.path()).unwrap().concat().iter().filter(|v| v.is_nan()).count(), 1);
}

#[test]
fn an_index_that_lies_is_refused() {
    let sound = golden_dir("gpt2_sharded");
    let index: Value = serde_json::from_slice(&fs::read(sound.join("model.safetensors.index.json")).unwrap()).unwrap();
    let refused = |words: &[&str], edit: &dyn Fn(&mut Value)| {
        let folder = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&sound).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        let mut index = index.clone();
        edit(&mut index);
        fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
        let message = load(folder.path()).unwrap_err().to_string();
        for words in words {
            assert!(message.contains(words), "{message} should contain {words}");
        }
    };
    const NAME: &str = "transformer.wte.weight";
    refused(&["`weight_map`"], &|index| drop(index.as_object_mut().unwrap().remove("weight_map")));
    refused(&["`weight_map`"], &|index| index["weight_map"] = json!([]));
    for name in ["../secret", "/etc/passwd", "a/b", "", "..", ".", "C:\\x", "a\u{0}b"] {
        refused(&[NAME, "not the name of a file"], &|index| index["weight_map"][NAME] = json!(name));
    }
    refused(&[NAME], &|index| index["weight_map"][NAME] = json!(7));
    refused(&["other.safetensors"], &|index| index["weight_map"][NAME] = json!("other.safetensors"));
    refused(&["new"], &|index| index["weight_map"]["new"] = json!("model-00001-of-00002.safetensors"));
    refused(&[NAME], &|index| drop(index["weight_map"].as_object_mut().unwrap().remove(NAME)));
}

/// Damages: overwritten bytes, a cut, a part taken out, a part written twice.
fn damaged(original: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let flips = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (flips, any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..4u8).prop_map(
        move |(flips, from, to, kind)| {
            let mut bytes = original.clone();
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
            let (from, to) = (from.min(to), from.max(to));
            match kind {
                0 => bytes.truncate(from),
                1 => drop(bytes.drain(from..to)),
                2 => drop(bytes.splice(from..from, bytes[from..to].to_vec())),
                _ => {}
            }
            bytes
        },
    )
}

/// A file small enough that damage hits its header.
fn small_model() -> &'static (Vec<u8>, Vec<u8>) {
    static FILES: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    FILES.get_or_init(|| {
        let (_, config) = small_configs().swap_remove(3);
        let bench = Bench::random(Reference::<f32>::new(), &ModelConfig { n_layers: 1, ..config }, 1);
        let folder = tempfile::tempdir().unwrap();
        let options = SaveOptions { dtype: FileType::Bf16, ids: GenerationIds::default() };
        save_sharded::<_, f32>(folder.path(), &bench.backend, &bench.config, &bench.weights, &options, u64::MAX)
            .unwrap();
        let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
        (read("config.json"), read(MODEL))
    })
}

fn works_or_fails(config: &[u8], model: &[u8]) {
    let folder = folder_with(config, model);
    match read_all(folder.path()) {
        Ok(tensors) => {
            // What was read was there.
            let read: usize = tensors.iter().map(Vec::len).sum();
            assert!(2 * read <= model.len());
        }
        Err(error) => assert!(error.to_string().contains(folder.path().to_str().unwrap()) || config_error(&error)),
    }
}

/// Errors about the shape name the field instead of the file.
fn config_error(error: &ModelError) -> bool {
    matches!(error, ModelError::Config { .. })
}

/// Keys that a hostile header may change, and to what.
fn hostile_number() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u64>().prop_map(|n| json!(n)),
        (0..64u32).prop_map(|bits| json!(1u64 << bits)),
        (0..5u64).prop_map(|n| json!(u64::MAX - n)),
        any::<i64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        Just(Value::Null),
        Just(json!([])),
        Just(json!({})),
        ".{0,8}".prop_map(|text| json!(text)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_models_never_panic(model in damaged(small_model().1.clone())) {
        works_or_fails(&small_model().0, &model);
    }

    #[test]
    fn damaged_headers_never_panic(header in damaged({
        let model = &small_model().1;
        let length = u64::from_le_bytes(model[..8].try_into().unwrap()) as usize;
        model[8..8 + length].to_vec()
    })) {
        let model = &small_model().1;
        let length = u64::from_le_bytes(model[..8].try_into().unwrap()) as usize;
        works_or_fails(&small_model().0, &with_header(&header, &model[8 + length..]));
    }

    #[test]
    fn damaged_configurations_never_panic(config in damaged(small_model().0.clone())) {
        works_or_fails(&config, &small_model().1);
    }

    #[test]
    fn hostile_configurations_never_panic(
        case in prop::sample::select(vec!["gpt2", "gpt_neo", "llama", "llama_tied"]),
        edits in prop::collection::vec((any::<prop::sample::Index>(), hostile_number()), 1..4),
    ) {
        let mut config: Map<String, Value> = serde_json::from_slice(&golden(case, "config.json")).unwrap();
        let keys: Vec<String> = config.keys().cloned().collect();
        for (key, value) in edits {
            config[key.get(&keys)] = value;
        }
        works_or_fails(Value::Object(config).to_string().as_bytes(), &golden(case, MODEL));
    }

    #[test]
    fn hostile_headers_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, hostile_number(), hostile_number()), 1..4),
    ) {
        let (mut header, data) = parts();
        let names: Vec<String> = header.keys().cloned().collect();
        for (name, what, a, b) in edits {
            let entry = &mut header[name.get(&names)];
            match what {
                0 => *entry = a,
                1 => *entry = json!({"dtype": "F32", "shape": [a, b], "data_offsets": [0, 4]}),
                2 => *entry = json!({"dtype": "BF16", "shape": [2], "data_offsets": [a, b]}),
                _ => *entry = json!({"dtype": a, "shape": [2], "data_offsets": [0, 8]}),
            }
        }
        works_or_fails(&golden("gpt2", "config.json"), &with_header(Value::Object(header).to_string().as_bytes(), &data));
    }

    #[test]
    fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), length in 0..64u64) {
        let mut bytes = bytes;
        if bytes.len() > 8 {
            bytes[..8].copy_from_slice(&length.to_le_bytes());
        }
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(MODEL), &bytes).unwrap();
        if let Ok(file) = TensorFile::open(&folder.path().join(MODEL)) {
            prop_assert!(file.names().iter().all(|name| file.bytes(name).is_ok()));
        }
        works_or_fails(&bytes, &bytes);
    }
}
