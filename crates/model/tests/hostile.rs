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

/// Header and data of a golden file.
fn parts_of(case: &str) -> (Map<String, Value>, Vec<u8>) {
    let bytes = golden(case, MODEL);
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), bytes[8 + length..].to_vec())
}

fn parts() -> (Map<String, Value>, Vec<u8>) {
    parts_of("gpt2")
}

fn message_of_model(model: &[u8]) -> String {
    message_of("gpt2", model)
}

/// What is said about a file of weights beside a case's configuration.
fn message_of(case: &str, model: &[u8]) -> String {
    let folder = folder_with(&golden(case, "config.json"), model);
    let message = read_all(folder.path()).map(|_| case).unwrap_err().to_string();
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

/// What no file of a family may say, or what contradicts another key: the message has the key or field, what was found and
/// what would do.
#[test]
fn contradictions_and_variants_are_refused_by_key() {
    let rope = |changes: Value| {
        let mut rope = json!({"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.75});
        rope.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        rope
    };
    let gemma_rope = |full: Value, sliding: Value| json!({"full_attention": full, "sliding_attention": sliding});
    let (full, sliding) = ("full_attention", "sliding_attention");
    let plain = json!({"rope_type": "default", "rope_theta": 100.0});
    const WANTED: &str = "only the type \"default\" (no scaling), \"linear\" or \"llama3\" is supported";
    const ACTIVATIONS: &str = "only gelu_new, gelu_pytorch_tanh, gelu_fast, gelu or relu is supported";
    let cases: Vec<(&str, &str, Value, &[&str])> = vec![
        ("gpt_neox", "num_attention_heads", json!(5), &["`num_attention_heads` is 5", "width 32"]),
        ("gpt_neox", "num_attention_heads", json!(32), &["d_head = 1", "even"]),
        (
            "gpt_neox",
            "rope_parameters",
            rope(json!({"partial_rotary_factor": 1.5})),
            &["rotary_pct = 1.5", "at most 1"],
        ),
        ("gpt_neox", "rope_parameters", rope(json!({"partial_rotary_factor": -1})), &["rotary_pct = -1", "above 0"]),
        ("gpt_neox", "rope_parameters", rope(json!({"partial_rotary_factor": 0.4})), &["d_head = 8", "3 dimensions"]),
        ("gpt_neox", "rope_parameters", rope(json!({"partial_rotary_factor": 0.1})), &["d_head = 8", "0 dimensions"]),
        (
            "gpt_neox",
            "rope_parameters",
            rope(json!({"partial_rotary_factor": "all"})),
            &["`rope_parameters`", "number"],
        ),
        ("gpt_neox", "rope_parameters", rope(json!({"rope_type": "yarn"})), &["`rope_parameters`", "yarn", WANTED]),
        ("gpt_neox", "rope_parameters", rope(json!({"rope_type": "linear"})), &["`rope_parameters`", "`factor`"]),
        ("gpt_neox", "rope_parameters", rope(json!({"rope_theta": 0.5})), &["theta = 0.5", "above 1"]),
        ("gpt_neox", "rope_parameters", json!([1]), &["`rope_parameters` is [1]", "an object"]),
        ("gpt_neox", "rope_scaling", json!({"type": "dynamic", "factor": 2.0}), &["`rope_scaling`", "dynamic", WANTED]),
        ("gpt_neox", "hidden_act", json!("mish"), &["`hidden_act` is \"mish\"", ACTIVATIONS]),
        ("gpt_neox", "use_parallel_residual", json!(1), &["`use_parallel_residual` is 1", "true or false"]),
        ("gpt_neox", "attention_bias", json!("yes"), &["`attention_bias` is \"yes\"", "true or false"]),
        ("gpt_neox", "attention_bias", json!(false), &["\"gpt_neox.layers.0.attention.dense.bias\" has no place"]),
        ("gpt_neox", "tie_word_embeddings", json!(true), &["embed_out.weight differs from gpt_neox.embed_in.weight"]),
        ("gpt_neox", "layer_norm_eps", json!(0), &["norm_eps = 0", "above 0"]),
        ("opt", "do_layer_norm_before", json!("no"), &["`do_layer_norm_before` is \"no\"", "true or false"]),
        ("opt", "do_layer_norm_before", json!(false), &["\"model.decoder.final_layer_norm.bias\" has no place"]),
        (
            "opt_post_norm",
            "do_layer_norm_before",
            json!(true),
            &["\"model.decoder.final_layer_norm.weight\" is missing"],
        ),
        ("opt", "word_embed_proj_dim", json!(16), &["`word_embed_proj_dim` is 16", "only 32", "supported"]),
        ("opt", "_remove_final_layer_norm", json!(true), &["`_remove_final_layer_norm` is true", "only false"]),
        ("opt", "layer_norm_elementwise_affine", json!(false), &["`layer_norm_elementwise_affine` is false", "true"]),
        ("opt", "activation_function", json!("silu"), &["`activation_function` is \"silu\"", ACTIVATIONS]),
        ("opt", "num_attention_heads", json!(0), &["`num_attention_heads` is 0", "width 32"]),
        ("opt", "ffn_dim", json!(-1), &["`ffn_dim` is -1", "a whole number"]),
        ("opt", "ffn_dim", json!(0), &["d_ff = 0", "from 1 to"]),
        ("opt", "max_position_embeddings", json!(31), &["embed_positions.weight", "[34, 32]", "[33, 32]"]),
        ("opt", "max_position_embeddings", json!(u64::MAX), &["n_ctx", "from 1 to"]),
        ("opt", "enable_bias", json!(false), &["\"model.decoder.layers.0.fc1.bias\" has no place"]),
        ("gpt_neo", "window_size", json!(0), &["attention.alternating.band = 0", "at least 1"]),
        ("mistral", "sliding_window", json!(0), &["attention.windowed.band = 0", "at least 1"]),
        ("mistral", "attention_bias", json!(true), &["`attention_bias` is true", "only false"]),
        ("gemma3", "sliding_window", json!(0), &["attention.periodic.band = 0", "at least 1"]),
        ("gemma3", "sliding_window", Value::Null, &["`sliding_window` is null", "only a number"]),
        ("gemma3", "layer_types", json!([sliding, sliding, full]), &["`layer_types`", "one of 4 layers"]),
        ("gemma3", "layer_types", json!([sliding, full, full, sliding]), &["`layer_types`", "every n-th is"]),
        (
            "gemma3",
            "layer_types",
            json!([sliding, sliding, "chunked_attention", sliding]),
            &["`layer_types`", "chunked"],
        ),
        ("gemma3", "layer_types", json!("all"), &["`layer_types` is \"all\"", "a list"]),
        ("gemma3", "num_key_value_heads", json!(3), &["n_kv_heads = 3", "must divide n_heads, which is 4"]),
        ("gemma3", "query_pre_attn_scalar", json!(0), &["attn_scale.inv_sqrt_of.width = 0", "from 1 to"]),
        ("gemma3", "hidden_activation", json!("silu"), &["`hidden_activation` is \"silu\"", "gelu_pytorch_tanh"]),
        ("gemma3", "final_logit_softcapping", json!(30.0), &["`final_logit_softcapping` is 30.0", "no cap"]),
        ("gemma3", "attn_logit_softcapping", json!(50.0), &["`attn_logit_softcapping` is 50.0", "no cap"]),
        ("gemma3", "use_bidirectional_attention", json!(true), &["`use_bidirectional_attention` is true", "false"]),
        ("gemma3", "rope_parameters", plain.clone(), &["`rope_parameters`", "full_attention and sliding_attention"]),
        (
            "gemma3",
            "rope_parameters",
            gemma_rope(plain.clone(), json!({"rope_type": "linear", "factor": 2.0})),
            &["`rope_parameters`", "no scaling of layers with a window"],
        ),
        (
            "gemma3",
            "rope_parameters",
            gemma_rope(rope(json!({})), plain.clone()),
            &["`rope_parameters`", "\"partial_rotary_factor\" 1"],
        ),
        ("qwen3", "num_key_value_heads", json!(5), &["n_kv_heads = 5", "must divide n_heads, which is 4"]),
        (
            "qwen3",
            "layer_types",
            json!([sliding, full]),
            &["`layer_types`", "\"full_attention\" for each of the 2 layers"],
        ),
        ("qwen3", "head_dim", json!(15), &["d_head = 15", "even"]),
        ("qwen3", "head_dim", json!(8), &["q_proj.weight", "[64, 32]", "[32, 32]"]),
        ("llama3", "rope_parameters", rope(json!({})), &["`rope_parameters`", "\"partial_rotary_factor\" 1"]),
        ("llama", "hidden_act", json!("gelu"), &["`hidden_act` is \"gelu\"", "silu"]),
        ("gpt2", "model_type", json!("bert"), &["model_type \"bert\"", "gpt_neox, opt, llama"]),
        ("gpt2", "model_type", json!("gpt_neox_japanese"), &["\"gpt_neox_japanese\"", "supported are gpt2"]),
        ("gpt2", "model_type", json!(7), &["model_type \"7\"", "supported are gpt2"]),
        ("gpt2", "model_type", Value::Null, &["\"(missing)\"", "supported are gpt2"]),
        // Another family's configuration beside these weights: its keys are missing, or its tensors.
        ("gpt_neox", "model_type", json!("opt"), &["`ffn_dim` is missing"]),
        ("opt", "model_type", json!("gpt2"), &["`n_embd` is missing"]),
        ("qwen3", "model_type", json!("llama"), &["self_attn.k_norm.weight\" has no place"]),
    ];
    for (case, key, value, words) in cases {
        let message = message_of_config(case, |config| drop(config.insert(key.to_owned(), value.clone())));
        for words in words {
            assert!(message.contains(words), "{case}: {key} = {value}: {message} should contain {words}");
        }
        assert!(message.len() < 600 && !message.contains('\n'), "{message}");
    }
}

/// Each tensor of each family in turn: not there, of another shape; and one too many.
#[test]
fn tensors_that_are_not_the_familys_are_refused_by_name() {
    for case in ["gpt_neox", "gpt_neox_serial", "opt", "opt_post_norm", "mistral", "qwen3", "gemma3"] {
        let (header, data) = parts_of(case);
        let message = |header: &Map<String, Value>, data: &[u8]| {
            let message = message_of(case, &with_header(Value::Object(header.clone()).to_string().as_bytes(), data));
            assert!(message.len() < 600 && !message.contains('\n'), "{message}");
            message
        };
        for name in header.keys().filter(|name| *name != "__metadata__") {
            let mut without = header.clone();
            let info = without.remove(name).unwrap();
            without.insert("something.else".to_owned(), info.clone());
            let said = message(&without, &data);
            assert!(said.contains(&format!("tensor {name:?} is missing")), "{case}: {said}");

            let shape: Vec<u64> = serde_json::from_value(info["shape"].clone()).unwrap();
            let other = if shape.len() == 1 { vec![shape[0] / 2, 2] } else { vec![shape[0] * shape[1]] };
            let mut changed = header.clone();
            changed[name]["shape"] = json!(other);
            let (said, found) = (message(&changed, &data), format!("{name:?} has shape {other:?}"));
            assert!(said.contains(&found) && said.contains(&format!("implies {shape:?}")), "{case}: {said}");
        }
        let mut more = header.clone();
        let place = json!({"dtype": "F32", "shape": [1], "data_offsets": [data.len(), data.len() + 4]});
        more.insert("layers.0.attention.extra".to_owned(), place);
        let said = message(&more, &[&data[..], &[0; 4]].concat());
        assert!(said.contains("\"layers.0.attention.extra\" has no place in this model (1 such"), "{case}: {said}");
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
        case in prop::sample::select(vec![
            "gpt2", "gpt_neo", "gpt_neox", "opt", "opt_post_norm", "llama", "llama_tied", "llama3", "mistral", "qwen2", "qwen3", "gemma3",
        ]),
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
