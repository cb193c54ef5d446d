//! Agreement with PyTorch: logits, loss, every gradient, three AdamW steps and a greedy continuation.

#![allow(clippy::unwrap_used)]

mod common;

use common::golden::{BF16, CASES, F32, F64, generation, training};
use half::bf16;
use verve_cpu::{CpuBackend, Isa};
use verve_ops::reference::Reference;

fn on_every_cpu(test: impl Fn(Isa)) {
    for isa in Isa::available() {
        test(isa);
    }
}

#[test]
fn training_on_the_reference() {
    CASES.iter().for_each(|case| training(Reference::<f64>::new(), case, F64));
}

#[test]
fn training_on_the_reference_in_f32() {
    CASES.iter().for_each(|case| training(Reference::<f32>::new(), case, F32));
}

#[test]
fn generation_on_the_reference() {
    CASES.iter().for_each(|case| generation(Reference::<f64>::new(), case, F64));
    CASES.iter().for_each(|case| generation(Reference::<f32>::new(), case, F32));
}

#[test]
fn training_on_the_cpu() {
    on_every_cpu(|isa| {
        CASES.iter().for_each(|case| training(CpuBackend::<f32>::new(2, isa).unwrap(), case, F32));
        CASES.iter().for_each(|case| training(CpuBackend::<bf16>::new(2, isa).unwrap(), case, BF16));
    });
}

#[test]
fn generation_on_the_cpu() {
    on_every_cpu(|isa| {
        CASES.iter().for_each(|case| generation(CpuBackend::<f32>::new(2, isa).unwrap(), case, F32));
        CASES.iter().for_each(|case| generation(CpuBackend::<bf16>::new(2, isa).unwrap(), case, BF16));
    });
}
