//! Models for `tools/golden/check_export.py`, which opens them with transformers and compares logits.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Bench, random_batch, small_configs};
use verve_model::formats::{FileType, GenerationIds, SaveOptions, save_sharded};
use verve_model::*;
use verve_ops::reference::Reference;
use verve_ops::{KV_BLOCK, KvFormat};

/// Writes a folder for each family into the folder that `VERVE_EXPORT` names, each with `ours.json`: ids and our logits.
#[test]
#[ignore = "writes files for a check by hand; see tools/golden/README.md"]
fn write_models_for_transformers() {
    let root = PathBuf::from(std::env::var_os("VERVE_EXPORT").expect("VERVE_EXPORT names a folder to write into"));
    for (name, config) in small_configs() {
        // Long enough that the band matters.
        let config = ModelConfig { n_ctx: 32, init_std: 0.02, ..config };
        if matches!(name, "gpt3" | "mixture") {
            // Shapes of no family.
            continue;
        }
        write(root.join(name), &config, u64::MAX);
        match name {
            "gpt2" => {
                let opt = ModelConfig { activation: FfnActivation::Relu, ..config };
                write(root.join("opt"), &opt, u64::MAX);
                write(root.join("opt_without_biases"), &ModelConfig { biases: Biases::NONE, ..opt }, u64::MAX);
            }
            "gpt_neo" => {
                let scaled = ModelConfig { attn_scale: AttnScale::InvSqrtHead, ..config };
                write(root.join("gpt_neo_scaled_in_parts"), &scaled, 3000);
            }
            "neox" => {
                let rotary_scaling = RotaryScaling::Linear { factor: 2.0 };
                let serial = ModelConfig {
                    residual: Residual::Sequential,
                    rotary_scaling,
                    tied_head: true,
                    activation: FfnActivation::GeluTanh,
                    ..config
                };
                write(root.join("neox_serial"), &serial, u64::MAX);
            }
            _ => {}
        }
    }
}

fn write(folder: PathBuf, config: &ModelConfig, max_file_bytes: u64) {
    let bench = Bench::random(Reference::<f64>::new(), config, 1);
    let options = SaveOptions { dtype: FileType::F32, ids: GenerationIds { bos: None, eos: vec![0], pad: None } };
    save_sharded::<_, f64>(&folder, &bench.backend, config, &bench.weights, &options, max_file_bytes).unwrap();
    // Our logits are those of the rounded weights in the file.
    let weights = formats::load(&folder).unwrap().infer_weights(&bench.backend).unwrap();
    let (tokens, _) = random_batch(config, config.n_ctx, 2);
    let rows: Vec<u32> = (0..config.n_ctx as u32).collect();
    let limits = StepLimits { max_rows: config.n_ctx, max_sequences: 1, max_blocks: 1 };
    assert!(config.n_ctx <= KV_BLOCK);
    let mut ws = InferStep::new(&bench.backend, config, limits).unwrap();
    let mut cache = KvCache::new(&bench.backend, config, 1, KvFormat::Elem).unwrap();
    let batch = StepBatch {
        tokens: &tokens,
        positions: &rows,
        slots: &rows,
        sequences: &vec![0; config.n_ctx],
        block_table: &[0],
        max_blocks: 1,
        output_rows: &rows,
    };
    let logits = infer_step(&bench.backend, config, &weights, &mut cache, &batch, &mut ws).unwrap();
    let rows: Vec<&[f64]> = logits.chunks(config.n_vocab).collect();
    let ours = serde_json::json!({ "input_ids": tokens, "logits": rows });
    fs::write(folder.join("ours.json"), ours.to_string()).unwrap();
}
