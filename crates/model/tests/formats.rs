//! Checkpoints in both directions: what is written is read again, names are Hugging Face's, both generations of keys are
//! understood.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{Bench, small_configs};
use half::bf16;
use serde_json::{Value, json};
use verve_model::formats::tensor_file::TensorFile;
use verve_model::formats::{Family, FileType, GenerationIds, SaveOptions, load, save, save_sharded};
use verve_model::*;
use verve_ops::Backend;
use verve_ops::reference::Reference;
use verve_testkit::{assert_bits, golden_dir};

const CASES: [&str; 15] = [
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "gpt_neox_serial",
    "opt",
    "opt_post_norm",
    "llama",
    "llama_tied",
    "llama_bias",
    "llama3",
    "llama_linear",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma3",
];

fn options(dtype: FileType) -> SaveOptions {
    SaveOptions { dtype, ids: GenerationIds { bos: Some(1), eos: vec![2, 3], pad: None } }
}

fn host(folder: &Path) -> (ModelConfig, Vec<Vec<f32>>) {
    let (backend, checkpoint) = (Reference::<f32>::new(), load(folder).unwrap());
    let weights = checkpoint.weights::<_, f32>(&backend).unwrap();
    let host = params::download::<Reference<f32>, f32>(&backend, &weights).unwrap();
    (checkpoint.config().clone(), host.iter().cloned().collect())
}

fn assert_same_weights(what: &str, found: &[Vec<f32>], expected: &[Vec<f32>]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    found.iter().zip(expected).enumerate().for_each(|(i, (f, e))| assert_bits(&format!("{what}: {i}"), f, e));
}

/// Names, shapes and bytes of all tensors of a folder.
fn tensors(folder: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("model") && name.ends_with(".safetensors") {
            let file = TensorFile::open(&path).unwrap();
            for name in file.names() {
                let tensor = (file.shape(&name).unwrap().to_vec(), file.bytes(&name).unwrap().to_vec());
                assert!(all.insert(name, tensor).is_none());
            }
        }
    }
    all
}

fn edited_config(case: &str, to: &Path, edit: impl FnOnce(&mut Value)) {
    let text = fs::read_to_string(golden_dir(case).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    edit(&mut config);
    fs::write(to.join("config.json"), config.to_string()).unwrap();
    fs::copy(golden_dir(case).join("model.safetensors"), to.join("model.safetensors")).unwrap();
}

#[test]
fn what_transformers_wrote_is_written_again_with_the_same_names_and_bytes() {
    let backend = Reference::<f32>::new();
    for case in CASES {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = load(&golden_dir(case)).unwrap();
        let weights = checkpoint.weights::<_, f32>(&backend).unwrap();
        let saved =
            save::<_, f32>(folder.path(), &backend, checkpoint.config(), &weights, &options(FileType::F32)).unwrap();
        assert_eq!((saved.family, saved.note), (checkpoint.family(), None), "{case}");
        let mut expected = tensors(&golden_dir(case));
        if let Some((shape, bytes)) = expected.get_mut("model.decoder.embed_positions.weight") {
            // Nothing reads the first two rows.
            bytes[..2 * 4 * shape[1]].fill(0);
        }
        assert_eq!(tensors(folder.path()), expected, "{case}");
        let again = load(folder.path()).unwrap();
        assert_eq!(again.config(), checkpoint.config(), "{case}");
        assert_eq!(*again.ids(), GenerationIds { bos: Some(1), eos: vec![2, 3], pad: None });
        assert_eq!(again.dtype().unwrap(), FileType::F32);
        // Keys that transformers wrote and that decide what is computed are written alike.
        let read = |folder: &Path| -> Value {
            serde_json::from_str(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap()
        };
        let (ours, theirs) = (read(folder.path()), read(&golden_dir(case)));
        let decided = [
            "model_type",
            "architectures",
            "vocab_size",
            "n_embd",
            "n_layer",
            "n_head",
            "n_positions",
            "activation_function",
            "layer_norm_epsilon",
            "attention_types",
            "window_size",
            "hidden_size",
            "num_layers",
            "num_heads",
            "intermediate_size",
            "max_position_embeddings",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "hidden_act",
            "rms_norm_eps",
            "attention_bias",
            "layer_norm_eps",
            "use_parallel_residual",
            "ffn_dim",
            "word_embed_proj_dim",
            "do_layer_norm_before",
            "enable_bias",
            "init_std",
            "mlp_bias",
            "rope_parameters",
            "tie_word_embeddings",
            "dtype",
        ];
        for key in decided {
            if theirs.get(key).is_some_and(|value| !value.is_null()) {
                // Another name of the same function.
                let expected = if theirs[key] == "gelu_fast" { &json!("gelu_new") } else { &theirs[key] };
                assert_eq!(&ours[key], expected, "{case}: {key}");
            }
        }
    }
}

#[test]
fn files_in_several_parts_hold_the_same_model() {
    let (config, expected) = host(&golden_dir("gpt2"));
    let (sharded, weights) = host(&golden_dir("gpt2_sharded"));
    assert_eq!(sharded, config);
    assert_same_weights("gpt2_sharded", &weights, &expected);

    let bench = Bench::new(
        Reference::<f32>::new(),
        &config,
        load(&golden_dir("gpt2")).unwrap().weights(&Reference::<f32>::new()).unwrap(),
    );
    let folder = tempfile::tempdir().unwrap();
    for (limit, files) in [(u64::MAX, 1), (70_000, 2), (20_000, 7), (1, 28)] {
        let (backend, options) = (&bench.backend, &options(FileType::F32));
        save_sharded::<_, f32>(folder.path(), backend, &config, &bench.weights, options, limit).unwrap();
        let (again, weights) = host(folder.path());
        assert_eq!(again, config);
        assert_same_weights("parts", &weights, &expected);
        let count = |text: &str| {
            fs::read_dir(folder.path())
                .unwrap()
                .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains(text))
                .count()
        };
        let (single, index) =
            (folder.path().join("model.safetensors"), folder.path().join("model.safetensors.index.json"));
        assert_eq!((single.exists(), index.exists()), (files == 1, files > 1));
        assert!(files == 1 || count(&format!("-of-{files:05}.safetensors")) == files, "{limit}");
        if files > 1 {
            let index: Value = serde_json::from_str(&fs::read_to_string(&index).unwrap()).unwrap();
            let total: usize = expected.iter().map(|tensor| 4 * tensor.len()).sum();
            assert_eq!(index["metadata"]["total_size"], json!(total));
            assert_eq!(index["weight_map"].as_object().unwrap().len(), 28);
        }
        for entry in fs::read_dir(folder.path()).unwrap() {
            let path = entry.unwrap().path();
            assert!(path.extension().is_none_or(|e| e != "tmp"), "{path:?} was left behind");
            if path.to_string_lossy().ends_with(".safetensors") {
                let size = fs::metadata(&path).unwrap().len();
                assert!(files == 28 || size <= limit.saturating_add(4096), "{path:?} has {size} bytes");
            }
        }
    }
}

#[test]
fn every_shape_survives_saving_in_f32_and_rounds_in_bf16() {
    for (name, config) in small_configs() {
        for (seed, dtype) in [(1, FileType::F32), (2, FileType::Bf16)] {
            let bench = Bench::random(Reference::<f32>::new(), &config, seed);
            let folder = tempfile::tempdir().unwrap();
            let saved =
                save::<_, f32>(folder.path(), &bench.backend, &config, &bench.weights, &options(dtype)).unwrap();
            let expected_family = match name {
                "gpt2" => Family::Gpt2,
                "gpt_neo" => Family::GptNeo,
                "llama" => Family::Llama,
                "gemma" => Family::Gemma3,
                "neox" => Family::GptNeoX,
                "post_norm" => Family::Opt,
                _ => Family::Verve,
            };
            assert_eq!(saved.family, expected_family, "{name}");
            assert_eq!(saved.note.is_some(), saved.family == Family::Verve, "{name}");
            let (again, weights) = host(folder.path());
            assert_eq!(again, config, "{name}");
            let round = |values: &Vec<f32>| match dtype {
                FileType::Bf16 => values.iter().map(|v| bf16::from_f32(*v).to_f32()).collect(),
                _ => values.clone(),
            };
            let expected: Vec<Vec<f32>> = bench.host_weights().iter().map(round).collect();
            assert_same_weights(name, &weights, &expected);
        }
    }
}

/// GPT-Neo files have no factor on the scores; a model that has one is saved with it in its queries.
#[test]
fn the_factor_on_scores_goes_into_gpt_neo_queries_and_back() {
    let (_, base) = small_configs().swap_remove(2);
    let config = ModelConfig { attn_scale: AttnScale::InvSqrtHead, ..base };
    assert_eq!(config.d_head, 4);
    let bench = Bench::random(Reference::<f32>::new(), &config, 3);
    let folder = tempfile::tempdir().unwrap();
    let saved =
        save::<_, f32>(folder.path(), &bench.backend, &config, &bench.weights, &options(FileType::F32)).unwrap();
    assert_eq!(saved.family, Family::GptNeo);
    let (again, weights) = host(folder.path());
    assert_eq!(again, config);
    assert_same_weights("folded", &weights, &bench.host_weights());
    let file = TensorFile::open(&folder.path().join("model.safetensors")).unwrap();
    let first = |name: &str| {
        let mut value = 0.0;
        file.numbers(&format!("transformer.h.0.attn.attention.{name}.weight")).unwrap().each(0, 1, |_, v| value = v);
        value
    };
    let qkv = &bench.host_weights()[bench.names().iter().position(|n| n == "layers.0.attn_qkv.weight").unwrap()];
    assert_eq!(first("q_proj"), qkv[0] * 0.5);
    assert_eq!(first("k_proj"), qkv[16 * 16]);
    // Without our own keys, as any other program would write it, the file is what GPT-Neo computes.
    let path = folder.path().join("config.json");
    let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    value.as_object_mut().unwrap().remove("verve");
    fs::write(&path, value.to_string()).unwrap();
    let (plain, weights) = host(folder.path());
    assert_eq!(plain.attn_scale, AttnScale::One);
    assert_eq!(weights[bench.names().iter().position(|n| n == "layers.0.attn_qkv.weight").unwrap()][0], qkv[0] * 0.5);
    // A width whose root is no power of two cannot be folded exactly.
    let odd = ModelConfig { d_head: 8, n_heads: 2, n_kv_heads: 2, ..config };
    let bench = Bench::random(Reference::<f32>::new(), &odd, 4);
    let saved = save::<_, f32>(folder.path(), &bench.backend, &odd, &bench.weights, &options(FileType::F32)).unwrap();
    assert_eq!(saved.family, Family::Verve);
    assert!(saved.note.unwrap().contains("d_head = 8"));
    assert_eq!(host(folder.path()).0, odd);
}

#[test]
fn keys_of_both_generations_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let read = |edit: &dyn Fn(&mut Value)| {
        edited_config("llama_tied", folder.path(), edit);
        load(folder.path()).map(|checkpoint| checkpoint.config().clone())
    };
    let expected = load(&golden_dir("llama_tied")).unwrap().config().clone();
    assert_eq!(expected.positions, Positions::Rotary { theta: 500.0 });
    let old = |config: &mut Value| {
        config.as_object_mut().unwrap().remove("rope_parameters");
        config.as_object_mut().unwrap().remove("dtype");
        config["rope_theta"] = json!(500.0);
        config["rope_scaling"] = Value::Null;
        config["torch_dtype"] = json!("float32");
    };
    assert_eq!(read(&old).unwrap(), expected);
    let default = |config: &mut Value| drop(config.as_object_mut().unwrap().remove("rope_parameters"));
    assert_eq!(read(&default).unwrap().positions, Positions::Rotary { theta: 10_000.0 });
    for key in ["rope_scaling", "rope_parameters"] {
        let message =
            read(&|config| config[key] = json!({"rope_type": "llama3", "factor": 8.0})).unwrap_err().to_string();
        assert!(message.contains(&format!("`{key}`")) && message.contains("llama3"), "{message}");
    }
}

#[test]
fn bare_names_buffers_and_a_repeated_head_are_understood() {
    let (config, expected) = host(&golden_dir("gpt2"));
    let source = TensorFile::open(&golden_dir("gpt2").join("model.safetensors")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::copy(golden_dir("gpt2").join("config.json"), folder.path().join("config.json")).unwrap();
    let write = |rename: &dyn Fn(&str) -> String, head: Option<u8>| {
        let mut all: Vec<(String, Vec<usize>, Vec<u8>)> = source
            .names()
            .iter()
            .map(|name| (rename(name), source.shape(name).unwrap().to_vec(), source.bytes(name).unwrap().to_vec()))
            .collect();
        all.push((rename("transformer.h.0.attn.bias"), vec![1, 1, 32, 32], vec![0; 4096]));
        if let Some(change) = head {
            let name = "transformer.wte.weight";
            let mut bytes = source.bytes(name).unwrap().to_vec();
            bytes[5] ^= change;
            all.push(("lm_head.weight".to_owned(), source.shape(name).unwrap().to_vec(), bytes));
        }
        let specs: Vec<_> = all
            .iter()
            .map(|(name, shape, _)| formats::tensor_file::TensorSpec {
                name: name.clone(),
                shape: shape.clone(),
                dtype: FileType::F32,
            })
            .collect();
        formats::tensor_file::write(&folder.path().join("model.safetensors"), &BTreeMap::new(), &specs, |i, out| {
            out.extend_from_slice(&all[i].2);
            Ok(())
        })
        .unwrap();
    };
    let bare = |name: &str| name.strip_prefix("transformer.").unwrap().to_owned();
    for (rename, head) in [(&bare as &dyn Fn(&str) -> String, None), (&|n: &str| n.to_owned(), Some(0))] {
        write(rename, head);
        let (found, weights) = host(folder.path());
        assert_eq!(found, config);
        assert_same_weights("renamed", &weights, &expected);
    }
    write(&|n: &str| n.to_owned(), Some(1));
    let message = load(folder.path()).unwrap_err().to_string();
    assert!(message.contains("lm_head.weight differs from transformer.wte.weight"), "{message}");
}

#[test]
fn a_folder_that_cannot_be_written_and_numbers_beyond_f16_are_errors() {
    let (_, config) = small_configs().swap_remove(0);
    let mut bench = Bench::random(Reference::<f32>::new(), &config, 1);
    let large = vec![65520.0; config.d_model];
    bench.backend.upload(&large, &mut bench.weights.final_norm.weight);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let run = |path: &Path, dtype| {
        save::<_, f32>(path, &bench.backend, &config, &bench.weights, &options(dtype)).unwrap_err().to_string()
    };
    assert!(run(&file.join("model"), FileType::F32).contains("file/model"));
    let message = run(folder.path(), FileType::F16);
    assert!(message.contains("65520 in final_norm.weight: more than f16 can hold"), "{message}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}
