//! Whole models and whole runs on the emulated card.

use verve_model::formats;
use verve_ops::Backend;
use verve_ops::reference::Reference;
use verve_train::{Which, locate, read_metrics};

use crate::model_tests::golden::{BF16, CASES, F32, Limits, generation, training};
use crate::table::backend;
use crate::train_tests::{World, config};

/// Tensor cores take the weights of attention and the gradients of scores and logits in 16 bits, which the processor keeps in 32.
const CARD_BF16: Limits = Limits { loss: 0.005, ..BF16 };

/// Golden cases, split in two so that they run side by side.
fn half(which: usize) -> impl Iterator<Item = &'static str> {
    CASES.into_iter().skip(which).step_by(2)
}

macro_rules! golden {
    ($($name:ident $work:ident $type:ty, $limits:expr, $half:expr;)*) => {
        $(
            #[test]
            fn $name() {
                half($half).for_each(|case| {
                    if let Some(backend) = backend::<$type>() {
                        $work(backend, case, $limits);
                    }
                });
            }
        )*
    };
}

golden!(
    training_in_f32_0 training f32, F32, 0;
    training_in_f32_1 training f32, F32, 1;
    training_in_bf16_0 training half::bf16, CARD_BF16, 0;
    training_in_bf16_1 training half::bf16, CARD_BF16, 1;
    generation_in_f32_0 generation f32, F32, 0;
    generation_in_f32_1 generation f32, F32, 1;
    generation_in_bf16_0 generation half::bf16, BF16, 0;
    generation_in_bf16_1 generation half::bf16, BF16, 1;
);

/// The losses of a run of twelve steps.
fn losses<B: Backend>(world: &World, name: &str, backend: &B, settings: &str) -> Vec<f64> {
    world.start(backend, name, &config(settings), &mut ()).unwrap();
    read_metrics(&world.path(name)).unwrap().steps.iter().map(|step| step.loss).collect()
}

fn weights(world: &World, name: &str) -> Vec<u8> {
    std::fs::read(locate(&world.path(name), Which::Last).unwrap().join("model.safetensors")).unwrap()
}

fn a_run<E: verve_cuda::CudaElem>(settings: &str, tolerance: f64) {
    let Some(card) = backend::<E>() else { return };
    let world = World::new();
    let found = losses(&world, "card", &card, settings);
    let expected = losses(&world, "reference", &Reference::<f32>::new(), "");
    assert_eq!(found.len(), 12);
    for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
        assert!((found - expected).abs() < tolerance, "step {step}: {found}, the reference has {expected}");
    }
    let bytes = weights(&world, "card");
    drop(card);

    let again = backend::<E>().unwrap();
    assert_eq!(losses(&world, "again", &again, settings), found);
    assert!(weights(&world, "again") == bytes, "the same run again must give the same bytes");

    world.start_and_stop(&again, "stopped", &config(settings), 5);
    world.resume(&again, "stopped", &mut ()).unwrap();
    assert!(weights(&world, "stopped") == bytes, "a run that was stopped and resumed must end with the same bytes");
    assert!(formats::load(&locate(&world.path("card"), Which::Last).unwrap()).is_ok());
}

#[test]
fn a_run_in_f32() {
    a_run::<f32>("", 1e-4);
}

#[test]
fn a_run_in_bf16() {
    // At a rate of 0.01, what eight bits round away shows after a few steps.
    a_run::<half::bf16>("[run]\ndtype = \"bf16\"", 0.06);
}
