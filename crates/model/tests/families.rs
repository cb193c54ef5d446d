//! What only some families' files have: heads whose rows lie together, rows that nothing reads, names of the bare model, keys
//! of two generations, buffers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::bf16;
use serde_json::{Map, Value, json};
use verve_model::formats::tensor_file::{TensorFile, TensorSpec, write};
use verve_model::formats::{Checkpoint, Family, FileType, GenerationIds, SaveOptions, load, save};
use verve_model::*;
use verve_ops::reference::Reference;
use verve_testkit::golden_dir;

fn tensor(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let table = layout(checkpoint.config());
    let spec = table.iter().find(|spec| spec.name == name).unwrap();
    let mut out = vec![0.0; spec.len()];
    checkpoint.read(spec, &mut out).unwrap();
    out
}

fn in_file(folder: &Path, name: &str) -> Vec<f32> {
    let file = TensorFile::open(&folder.join("model.safetensors")).unwrap();
    let numbers = file.numbers(name).unwrap();
    let mut out = vec![0.0; numbers.len()];
    numbers.each(0, numbers.len(), |i, value| out[i] = value);
    out
}

/// A golden folder with other keys and other tensors (name, shape, bytes).
fn edited(
    case: &str,
    keys: impl FnOnce(&mut Map<String, Value>),
    tensors: impl FnOnce(&mut Vec<(String, Vec<usize>, Vec<u8>)>),
) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(golden_dir(case).join("config.json")).unwrap();
    let mut config: Map<String, Value> = serde_json::from_str(&text).unwrap();
    keys(&mut config);
    fs::write(folder.path().join("config.json"), Value::Object(config).to_string()).unwrap();
    let source = TensorFile::open(&golden_dir(case).join("model.safetensors")).unwrap();
    let one = |name: String| {
        let (shape, bytes) = (source.shape(&name).unwrap().to_vec(), source.bytes(&name).unwrap().to_vec());
        (name, shape, bytes)
    };
    let mut all: Vec<_> = source.names().into_iter().map(one).collect();
    tensors(&mut all);
    let spec = |(name, shape, _): &(String, Vec<usize>, Vec<u8>)| TensorSpec {
        name: name.clone(),
        shape: shape.clone(),
        dtype: FileType::F32,
    };
    let specs: Vec<TensorSpec> = all.iter().map(spec).collect();
    write(&folder.path().join("model.safetensors"), &BTreeMap::new(), &specs, |i, out| {
        out.extend_from_slice(&all[i].2);
        Ok(())
    })
    .unwrap();
    folder
}

fn config_of(case: &str, keys: impl FnOnce(&mut Map<String, Value>)) -> ModelConfig {
    load(edited(case, keys, |_| ()).path()).unwrap().config().clone()
}

/// Rows of GPT-NeoX's one tensor are, head by head, those of queries, keys and values.
#[test]
fn heads_of_gpt_neox_are_taken_apart_and_put_together() {
    const NAME: &str = "gpt_neox.layers.1.attention.query_key_value";
    let folder = golden_dir("gpt_neox");
    let checkpoint = load(&folder).unwrap();
    let (heads, d_head, width) = (4, 8, 32);
    for (part, row_len) in [("weight", width), ("bias", 1)] {
        let (ours, file) =
            (tensor(&checkpoint, &format!("layers.1.attn_qkv.{part}")), in_file(&folder, &format!("{NAME}.{part}")));
        for (projection, head, place) in
            (0..3).flat_map(|p| (0..heads).flat_map(move |h| (0..d_head).map(move |place| (p, h, place))))
        {
            let at = (projection * heads + head) * d_head + place;
            let from = (head * 3 + projection) * d_head + place;
            assert_eq!(ours[at * row_len..][..row_len], file[from * row_len..][..row_len], "{part} {at}");
        }
    }
    // In another element type, back to the same order.
    let backend = Reference::<f32>::new();
    let weights = checkpoint.weights::<_, f32>(&backend).unwrap();
    let written = tempfile::tempdir().unwrap();
    let options = SaveOptions { dtype: FileType::Bf16, ids: GenerationIds::default() };
    save::<_, f32>(written.path(), &backend, checkpoint.config(), &weights, &options).unwrap();
    for part in ["weight", "bias"] {
        let expected = in_file(&folder, &format!("{NAME}.{part}"));
        let rounded: Vec<f32> = expected.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
        assert_eq!(in_file(written.path(), &format!("{NAME}.{part}")), rounded);
    }
}

#[test]
fn positions_of_opt_begin_at_row_two() {
    const NAME: &str = "model.decoder.embed_positions.weight";
    let folder = golden_dir("opt");
    let checkpoint = load(&folder).unwrap();
    let (ours, file) = (tensor(&checkpoint, "pos_embed"), in_file(&folder, NAME));
    assert_eq!((ours.len(), file.len()), (32 * 32, 34 * 32));
    assert_eq!(ours, file[2 * 32..]);
    let backend = Reference::<f32>::new();
    let weights = checkpoint.weights::<_, f32>(&backend).unwrap();
    let written = tempfile::tempdir().unwrap();
    let options = SaveOptions { dtype: FileType::F32, ids: GenerationIds::default() };
    let saved = save::<_, f32>(written.path(), &backend, checkpoint.config(), &weights, &options).unwrap();
    assert_eq!(saved.family, Family::Opt);
    assert_eq!(in_file(written.path(), NAME), [&[0.0; 2 * 32], &ours[..]].concat());
}

#[test]
fn both_generations_of_gpt_neox_keys_are_read() {
    let expected = load(&golden_dir("gpt_neox")).unwrap().config().clone();
    assert_eq!(expected.positions, Positions::Rotary { theta: 1000.0 });
    assert_eq!((expected.rotary_pct, expected.d_rot(), expected.residual), (0.75, 6, Residual::Parallel));
    let old = |keys: &mut Map<String, Value>| {
        for key in ["rope_parameters", "dtype", "use_parallel_residual", "attention_bias", "hidden_act"] {
            keys.remove(key);
        }
        keys.insert("rotary_emb_base".to_owned(), json!(1000));
        keys.insert("rotary_pct".to_owned(), json!(0.75));
    };
    assert_eq!(config_of("gpt_neox", old), expected);
    let scaled = |keys: &mut Map<String, Value>| {
        old(keys);
        keys.insert("rope_scaling".to_owned(), json!({"type": "linear", "factor": 3.0}));
    };
    let rotary_scaling = RotaryScaling::Linear { factor: 3.0 };
    assert_eq!(config_of("gpt_neox", scaled), ModelConfig { rotary_scaling, ..expected.clone() });
    let defaults = config_of("gpt_neox", |keys| drop(keys.remove("rope_parameters")));
    assert_eq!((defaults.positions, defaults.rotary_pct), (Positions::Rotary { theta: 10_000.0 }, 0.25));
    let serial = load(&golden_dir("gpt_neox_serial")).unwrap().config().clone();
    assert_eq!((serial.residual, serial.d_rot(), serial.tied_head), (Residual::Sequential, 2, true));
    assert_eq!(serial.activation, FfnActivation::GeluTanh);
    assert_eq!(serial.biases, Biases { qkv: false, attn_out: false, ffn: true });
}

#[test]
fn bare_names_buffers_and_a_repeated_head_of_the_newer_families() {
    // The bare OPT model lacks the part of the names that the head's class adds.
    let bare = edited(
        "opt",
        |_| (),
        |tensors| {
            for (name, ..) in tensors.iter_mut() {
                *name = name.strip_prefix("model.").unwrap().to_owned();
            }
        },
    );
    let (found, expected) = (load(bare.path()).unwrap(), load(&golden_dir("opt")).unwrap());
    assert_eq!(found.config(), expected.config());
    for name in ["tok_embed", "pos_embed", "layers.1.ffn_norm.weight", "final_norm.weight"] {
        assert_eq!(tensor(&found, name), tensor(&expected, name), "{name}");
    }
    assert_ne!(tensor(&found, "layers.1.ffn_norm.weight"), tensor(&found, "final_norm.weight"));
    // Masks and frequencies in files of GPT-NeoX are no weights, and its head is called otherwise.
    let with = |change: u8| {
        edited(
            "gpt_neox_serial",
            |_| (),
            |tensors| {
                for (name, shape) in [
                    ("attention.bias", vec![1, 1, 4, 4]),
                    ("attention.masked_bias", vec![]),
                    ("attention.rotary_emb.inv_freq", vec![1]),
                ] {
                    let bytes = vec![0; 4 * shape.iter().product::<usize>()];
                    tensors.push((format!("gpt_neox.layers.0.{name}"), shape, bytes));
                }
                let (_, shape, mut bytes) =
                    tensors.iter().find(|(name, ..)| name == "gpt_neox.embed_in.weight").unwrap().clone();
                bytes[9] ^= change;
                tensors.push(("embed_out.weight".to_owned(), shape, bytes));
            },
        )
    };
    let expected = load(&golden_dir("gpt_neox_serial")).unwrap();
    assert_eq!(load(with(0).path()).unwrap().config(), expected.config());
    let message = load(with(1).path()).unwrap_err().to_string();
    assert!(message.contains("embed_out.weight differs from gpt_neox.embed_in.weight"), "{message}");
}

/// OPT and GPT-2 compute the same where OPT's activation is another; each shape has one family.
#[test]
fn a_shape_goes_to_the_family_that_says_it() {
    let opt = load(&golden_dir("opt")).unwrap();
    let backend = Reference::<f32>::new();
    let weights = opt.weights::<_, f32>(&backend).unwrap();
    let family = |change: &dyn Fn(&mut ModelConfig)| {
        let mut config = opt.config().clone();
        change(&mut config);
        let folder = tempfile::tempdir().unwrap();
        let options = SaveOptions { dtype: FileType::F32, ids: GenerationIds::default() };
        let saved = save::<_, f32>(folder.path(), &backend, &config, &weights, &options).unwrap();
        assert_eq!(load(folder.path()).unwrap().config(), &config);
        saved.family
    };
    assert_eq!(family(&|_| ()), Family::Opt);
    assert_eq!(family(&|config| config.activation = FfnActivation::GeluErf), Family::Gpt2);
    assert_eq!(family(&|config| config.norm_eps = 1e-6), Family::Gpt2);
    assert_eq!(family(&|config| config.attn_scale = AttnScale::One), Family::Gpt2);
}
