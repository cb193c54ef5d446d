//! Models that go out to GGUF files and folders and come back: the same bits where the types allow, what they should be
//! rounded to where not.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;

use std::path::{Path, PathBuf};

use common::{Bench, random_batch, small_configs};
use verve_gguf::{GgufFile, TensorType, Value};
use verve_model::formats::gguf::Architecture;
use verve_model::formats::{
    FileType, GenerationIds, GgufExport, GgufModel, ModelFile, Reading, SaveOptions, largest_difference, load, logits,
    save, save_model,
};
use verve_model::*;
use verve_ops::quant::QuantKind;
use verve_ops::reference::Reference;

const Q4_K: TensorType = TensorType::Quant(QuantKind::Q4K);

/// A random model in a folder.
fn folder(root: &Path, config: &ModelConfig, dtype: FileType) -> ModelFile {
    let bench = Bench::random(Reference::<f32>::new(), config, 3);
    let path = root.join("folder");
    save::<_, f32>(&path, &bench.backend, config, &bench.weights, &options(dtype)).unwrap();
    ModelFile::open(&path).unwrap()
}

fn options(dtype: FileType) -> SaveOptions {
    SaveOptions { dtype, ids: GenerationIds { bos: None, eos: vec![0], pad: None } }
}

fn export(root: &Path, source: &ModelFile, weights: TensorType) -> (PathBuf, bool) {
    let export = GgufExport::new(source, weights).unwrap();
    let path = root.join(format!("{weights}.gguf"));
    let eos = vec![("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(0))];
    let mut last = 0;
    let written = export.write(&path, eos, |bytes| last = bytes).unwrap();
    assert_eq!(last, export.bytes());
    export.verify(&path, &written).unwrap();
    (path, written.exact)
}

fn weights(model: &ModelFile) -> Vec<(String, Vec<f32>)> {
    let read = |spec: &ParamSpec| {
        let mut out = vec![0.0; spec.len()];
        model.read(spec, &mut out).unwrap();
        (spec.name.clone(), out)
    };
    layout(model.config()).iter().map(read).collect()
}

fn assert_same(what: &str, a: &ModelFile, b: &ModelFile) {
    assert_eq!(a.config(), b.config(), "{what}");
    assert_eq!(a.dtype().unwrap(), b.dtype().unwrap(), "{what}");
    for ((name, a), (_, b)) in weights(a).into_iter().zip(weights(b)) {
        assert!(a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits()), "{what}: {name}");
    }
}

/// More configurations that GGUF has an architecture for.
fn known_configs() -> Vec<(&'static str, ModelConfig, Architecture)> {
    let of = |wanted: &str| small_configs().into_iter().find(|(name, _)| *name == wanted).unwrap().1;
    let llama = of("llama");
    let llama3 =
        RotaryScaling::Llama3 { factor: 8.0, low_freq_factor: 2.0, high_freq_factor: 8.0, original_context: 16 };
    let gemma = ModelConfig {
        attention: AttentionPattern::Periodic { band: 3, global_every: 6 },
        attn_scale: AttnScale::InvSqrtOf { width: 6 },
        rotary_local_theta: Some(10_000.0),
        ..of("gemma")
    };
    vec![
        ("gpt2", of("gpt2"), Architecture::Gpt2),
        ("gpt2, own head", ModelConfig { tied_head: false, ..of("gpt2") }, Architecture::Gpt2),
        ("neox", of("neox"), Architecture::GptNeoX),
        ("llama", llama.clone(), Architecture::Llama),
        ("llama, biases", ModelConfig { biases: Biases::ALL, tied_head: true, ..llama.clone() }, Architecture::Llama),
        ("llama, scaled", ModelConfig { rotary_scaling: llama3, ..llama.clone() }, Architecture::Llama),
        (
            "mistral",
            ModelConfig { attention: AttentionPattern::Windowed { band: 12 }, ..llama.clone() },
            Architecture::Llama,
        ),
        ("qwen2", ModelConfig { biases: Biases::QKV, ..llama.clone() }, Architecture::Qwen2),
        ("qwen3", ModelConfig { qk_norm: true, ..llama }, Architecture::Qwen3),
        ("gemma", gemma, Architecture::Gemma3),
    ]
}

/// Norms are moved by one, which rounds; anything else is bit-equal.
fn is_moved(config: &ModelConfig) -> bool {
    config.norm == Norm::RmsNormPlusOne
}

#[test]
fn every_model_comes_back_from_both_formats_bit_for_bit() {
    let all = small_configs().into_iter().map(|(name, config)| (name, config, None));
    let known = known_configs().into_iter().map(|(name, config, architecture)| (name, config, Some(architecture)));
    for (name, config, architecture) in all.chain(known) {
        for (dtype, kind) in [(FileType::F32, TensorType::F32), (FileType::Bf16, TensorType::Bf16)] {
            // Waiting for the disk is most of the time: one model of each kind is enough for the second type.
            if dtype == FileType::Bf16 && !["gpt2", "gpt_neo", "llama", "gemma"].contains(&name) {
                continue;
            }
            let root = tempfile::tempdir().unwrap();
            let first = folder(root.path(), &config, dtype);
            let (path, exact) = export(root.path(), &first, kind);
            let gguf = GgufModel::open(&path).unwrap();
            assert!(
                architecture.is_none_or(|wanted| wanted == gguf.architecture()),
                "{name}: {:?}",
                gguf.architecture()
            );
            assert_eq!(gguf.ids().eos, [0]);
            let gguf = ModelFile::Gguf(gguf);
            let moved = is_moved(&config) && gguf.config().norm == Norm::RmsNorm;
            assert!(exact, "{name}");
            if !moved && !matches!(config.attention, AttentionPattern::Windowed { .. }) {
                assert_same(name, &first, &gguf);
            }
            let back = root.path().join("back");
            let mut read = 0;
            save_model(&back, &gguf, &options(dtype), u64::MAX, |done| read = done).unwrap();
            assert_eq!(read, layout(&config).iter().count());
            let back = load(&back).unwrap();
            if !moved && !matches!(config.attention, AttentionPattern::Windowed { .. }) {
                assert_same(name, &first, &ModelFile::Folder(back));
                continue;
            }
            // What is computed is the same.
            let backend = Reference::<f32>::new();
            let (tokens, _) = random_batch(&config, config.n_ctx, 1);
            let of = |model: &ModelFile| logits(&backend, model, Reading::Numbers, &tokens).unwrap();
            let expected = of(&first);
            for (form, model) in [("gguf", &gguf), ("folder", &ModelFile::Folder(back))] {
                let (difference, largest) = largest_difference(&expected, &of(model));
                let tolerance = if dtype == FileType::F32 || form == "gguf" { 1e-5 } else { 1e-2 };
                assert!(difference <= tolerance * largest, "{name}, {form}: {difference} of {largest}");
            }
        }
    }
}

#[test]
fn what_no_architecture_says_is_written_as_our_own_with_a_reason() {
    let reasons = [
        ("gpt3", "banded"),
        ("gpt_neo", "banded"),
        ("mixture", "share keys"),
        ("gemma", "a part of"),
        ("post_norm", "neither of GPT-2"),
    ];
    for (name, config) in small_configs() {
        let root = tempfile::tempdir().unwrap();
        let model = folder(root.path(), &config, FileType::F32);
        let export = GgufExport::new(&model, TensorType::F32).unwrap();
        let reason = reasons.iter().find(|(own, _)| *own == name).map(|(_, reason)| *reason);
        assert_eq!(export.architecture() == Architecture::Verve, reason.is_some(), "{name}");
        match (reason, export.why_own()) {
            (Some(reason), Some(why)) => assert!(why.contains(reason), "{name}: {why}"),
            (None, None) => {}
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn quantised_files_hold_the_blocks_of_the_source_and_say_what_did_not_fit() {
    let config = ModelConfig { d_model: 32, d_ff: 256, n_heads: 4, d_head: 16, ..known_configs().swap_remove(3).1 };
    let root = tempfile::tempdir().unwrap();
    let model = folder(root.path(), &config, FileType::F32);
    let plan = GgufExport::new(&model, Q4_K).unwrap();
    let kind_of = |name: &str| plan.tensors().iter().find(|tensor| tensor.name == name).unwrap().kind;
    assert_eq!(kind_of("blk.0.attn_q.weight"), TensorType::Quant(QuantKind::Q4_0));
    assert_eq!(kind_of("blk.0.ffn_down.weight"), TensorType::Quant(QuantKind::Q4K));
    assert_eq!(kind_of("blk.2.ffn_down.weight"), TensorType::Quant(QuantKind::Q6K));
    assert_eq!(kind_of("output.weight"), TensorType::Quant(QuantKind::Q8_0));
    assert_eq!(kind_of("blk.0.attn_norm.weight"), TensorType::F32);
    let fallbacks = plan.fallbacks();
    assert!(fallbacks.contains(&(QuantKind::Q6K, TensorType::Quant(QuantKind::Q8_0), 2)), "{fallbacks:?}");
    let backend = Reference::<f32>::new();
    let (tokens, _) = random_batch(&config, config.n_ctx, 1);
    for kind in [QuantKind::Q8_0, QuantKind::Q4_0, QuantKind::Q4K, QuantKind::Q6K] {
        let (path, exact) = export(root.path(), &model, TensorType::Quant(kind));
        assert!(!exact);
        let written = GgufModel::open(&path).unwrap();
        // Values of heads are not moved: their blocks are those of the source's rows.
        let tensor = written.file().tensor("blk.1.attn_v.weight").unwrap();
        let TensorType::Quant(found) = tensor.kind else { panic!("{}", tensor.kind) };
        let (_, qkv) = weights(&model).into_iter().find(|(name, _)| name == "layers.1.attn_qkv.weight").unwrap();
        let from = (config.n_heads + config.n_kv_heads) * config.d_head * config.d_model;
        let mut expected = vec![0; found.bytes(tensor.len())];
        found.quantize(&qkv[from..], &mut expected);
        assert_eq!(written.file().bytes("blk.1.attn_v.weight").unwrap(), expected, "{kind}");
        // Computed with in blocks or as numbers, it is the same model.
        let written = ModelFile::Gguf(written);
        let [blocks, numbers] =
            [Reading::Blocks, Reading::Numbers].map(|reading| logits(&backend, &written, reading, &tokens).unwrap());
        let (difference, largest) = largest_difference(&numbers, &blocks);
        assert!(difference <= 1e-4 * largest, "{kind}: {difference}");
        // A file of blocks goes on as it is.
        let again = root.path().join("again");
        std::fs::create_dir_all(&again).unwrap();
        let (copy, exact) = export(&again, &written, TensorType::Quant(kind));
        assert!(exact, "{kind}");
        assert_eq!(std::fs::read(copy).unwrap(), std::fs::read(path).unwrap(), "{kind}");
    }
}

#[test]
fn llama3_scaling_has_the_angles_of_the_configuration() {
    let (_, config, _) = known_configs().into_iter().find(|(name, ..)| *name == "llama, scaled").unwrap();
    let config = ModelConfig { d_head: 64, n_heads: 1, n_kv_heads: 1, d_model: 64, ..config };
    let usual =
        RotaryScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 };
    let config =
        ModelConfig { rotary_scaling: usual, positions: Positions::Rotary { theta: 500_000.0 }, ..config.clone() };
    let root = tempfile::tempdir().unwrap();
    let model = folder(root.path(), &config, FileType::F32);
    let (path, _) = export(root.path(), &model, TensorType::F32);
    let file = GgufFile::open(&path).unwrap();
    let factors = file.tensor("rope_freqs.weight").unwrap();
    assert_eq!((factors.kind, factors.shape.as_slice()), (TensorType::F32, [32].as_slice()));
    let bytes = file.bytes("rope_freqs.weight").unwrap();
    let factors: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    // As transformers computes them for Llama 3.2 1B: high frequencies stay, low ones are divided by 32.
    assert!(factors[..14].iter().all(|x| *x == 1.0) && factors[20..].iter().all(|x| *x == 32.0), "{factors:?}");
    // Files of other programs do not have our own key; the configuration follows from the factors.
    let metadata: Vec<(String, Value)> =
        file.metadata().iter().filter(|(key, _)| key != "verve.config").cloned().collect();
    let specs = specs_of(&file);
    let other = root.path().join("other.gguf");
    verve_gguf::write::<ModelError>(&other, &metadata, &specs, |index, out| {
        out.extend_from_slice(file.bytes(&specs[index].name)?);
        Ok(())
    })
    .unwrap();
    let found = GgufModel::open(&other).unwrap();
    assert_eq!(found.config(), &config);
    // Factors that are nobody's are refused.
    verve_gguf::write::<ModelError>(&other, &metadata, &specs, |index, out| {
        out.extend_from_slice(file.bytes(&specs[index].name)?);
        if specs[index].name == "rope_freqs.weight" {
            out[..4].copy_from_slice(&3.0f32.to_le_bytes());
        }
        Ok(())
    })
    .unwrap();
    assert!(GgufModel::open(&other).unwrap_err().to_string().contains("are not those of Llama 3's scaling"));
}

#[test]
fn our_own_key_counts_only_where_it_says_what_the_others_say() {
    let root = tempfile::tempdir().unwrap();
    let rewrite = |model: &ModelFile, change: &dyn Fn(&str, &Value) -> Value| {
        let (path, _) = export(root.path(), model, TensorType::F32);
        let file = GgufFile::open(&path).unwrap();
        let metadata: Vec<(String, Value)> =
            file.metadata().iter().map(|(key, value)| (key.clone(), change(key, value))).collect();
        let (specs, other) = (specs_of(&file), root.path().join("other.gguf"));
        verve_gguf::write::<ModelError>(&other, &metadata, &specs, |index, out| {
            out.extend_from_slice(file.bytes(&specs[index].name)?);
            Ok(())
        })
        .unwrap();
        GgufModel::open(&other)
    };
    let (_, llama, _) = known_configs().swap_remove(3);
    let llama = ModelConfig { init_std: 0.125, ..llama };
    let model = folder(root.path(), &llama, FileType::F32);
    let found = rewrite(&model, &|_, value| value.clone()).unwrap();
    assert_eq!(found.config(), &llama);
    let found = rewrite(&model, &|key, value| match key {
        "llama.rope.freq_base" => Value::F32(200.0),
        _ => value.clone(),
    });
    let expected = ModelConfig { positions: Positions::Rotary { theta: 200.0 }, init_std: 0.02, ..llama };
    assert_eq!(found.unwrap().config(), &expected);
    // Where there is nothing else it has to be sound.
    let (_, gpt3) = small_configs().swap_remove(1);
    let model = folder(root.path(), &gpt3, FileType::F32);
    for (own, words) in [
        ("{", "`verve.config`"),
        ("{}", "`verve.config`"),
        ("{\"n_layers\": 0, \"d_model\": 1, \"n_heads\": 1, \"n_ctx\": 1, \"n_vocab\": 1}", "n_layers"),
        (&" ".repeat(1 << 17), "longer than"),
    ] {
        let found = rewrite(&model, &|key, value| if key == "verve.config" { own.into() } else { value.clone() });
        let error = found.unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("other.gguf"), "{error}");
    }
}

fn specs_of(file: &GgufFile) -> Vec<verve_gguf::TensorSpec> {
    let spec = |tensor: &verve_gguf::Tensor| verve_gguf::TensorSpec {
        name: tensor.name.clone(),
        shape: tensor.shape.clone(),
        kind: tensor.kind,
    };
    file.tensors().iter().map(spec).collect()
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let (_, config) = small_configs().swap_remove(0);
    let root = tempfile::tempdir().unwrap();
    let mut bench = Bench::random(Reference::<f32>::new(), &config, 3);
    let path = root.path().join("folder");
    use verve_ops::Backend;
    for (value, kind, words) in
        [(7e4, TensorType::F16, "more than f16 can hold"), (f32::NAN, TensorType::Quant(QuantKind::Q8_0), "holds NaN")]
    {
        let config = ModelConfig { d_model: 32, d_head: 8, ..config.clone() };
        bench = Bench::random(bench.backend, &config, 3);
        let len = layout(&config).layers[0].ffn_up.weight.len();
        bench.backend.upload(&vec![value; len], &mut bench.weights.layers[0].ffn_up.weight);
        save::<_, f32>(&path, &bench.backend, &config, &bench.weights, &options(FileType::F32)).unwrap();
        let model = ModelFile::open(&path).unwrap();
        let file = root.path().join("out.gguf");
        let error = GgufExport::new(&model, kind).unwrap().write(&file, Vec::new(), |_| {}).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("blk.0.ffn_up.weight"), "{error}");
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }
    let model = ModelFile::open(&path).unwrap();
    let error = GgufExport::new(&model, TensorType::Quant(QuantKind::Q4_1)).unwrap_err().to_string();
    assert!(error.contains("q4_1") && error.contains("q4_k"), "{error}");
}
