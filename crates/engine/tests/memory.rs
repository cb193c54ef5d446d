//! Memory as planned, and none asked for from step to step. One test, because it counts all allocations of the process.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use common::models::configs;
use verve_cpu::{CpuBackend, Isa};
use verve_engine::*;
use verve_model::{InferWeights, MemoryPlan, ModelConfig};
use verve_ops::reference::Reference;
use verve_ops::{InferBackend, Real};

struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn count(new: usize, old: usize) {
    CALLS.fetch_add(1, Relaxed);
    let held = HELD.fetch_add(new, Relaxed) + new - old;
    HELD.fetch_sub(old, Relaxed);
    PEAK.fetch_max(held, Relaxed);
}

// SAFETY: every call is handed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs six requests and returns allocations in the steps after the first, and bytes planned and held at the peak.
fn run<B: InferBackend>(backend: &B, config: &ModelConfig, options: &EngineOptions) -> (usize, MemoryPlan, usize) {
    // Some ids have no text of their own: no character is ever incomplete.
    let vocabulary = Vocabulary::from_bytes((0..config.n_vocab).map(|id| [id as u8 % 128]));
    let params = SamplingParams {
        n_logprobs: Some(3),
        top_p: 0.9,
        frequency_penalty: 0.1,
        stop: vec!["\u{1}\u{2}\u{3}\u{4}\u{5}".to_owned()],
        max_tokens: 60,
        ..SamplingParams::default()
    };
    let request = |seed: u32| Request {
        prompt: vec![seed; 150],
        params: SamplingParams { seed: seed.into(), ..params.clone() },
        ..Request::default()
    };
    let requests: Vec<Request> = (0..6).map(request).collect();
    let before = HELD.load(Relaxed);
    PEAK.store(before, Relaxed);
    let mut host = Vec::new();
    let weights = InferWeights::build(backend, config, |spec, buffer| {
        host.clear();
        host.resize(spec.len(), B::Elem::from_f32(0.0));
        let stream = verve_model::rng::Stream::new(1, &spec.name);
        stream.fill_normal(0.1, spec.len(), |i, value| host[i] = B::Elem::from_f64(value));
        backend.upload(&host, buffer);
        Ok(())
    })
    .expect("memory");
    drop(host);
    let mut engine = Engine::new(backend, config, weights, &vocabulary, options).expect("memory");
    let (mut n_tokens, mut calls) = (0, 0);
    let totals = engine
        .generate(&requests, &AtomicBool::new(false), &mut |event| {
            n_tokens += usize::from(matches!(event, Event::Token { .. }));
            match n_tokens {
                60 => calls = CALLS.load(Relaxed),
                300 => calls = CALLS.load(Relaxed) - calls,
                _ => {}
            }
            ControlFlow::Continue(())
        })
        .expect("the machine works");
    assert_eq!(totals.n_generated, 360);
    let plan = memory_plan(backend, config, None, options).expect("good options");
    (calls, plan, PEAK.load(Relaxed) - before)
}

#[test]
fn memory_is_as_planned_and_steps_allocate_nothing() {
    let cpu = CpuBackend::<f32>::new(1, Isa::detect()).expect("a thread");
    // It keeps everything where it is counted; its own working memory is next to nothing.
    let reference = Reference::<f32>::new();
    let mut reading_counts = false;
    for (name, config) in configs() {
        let config =
            ModelConfig { n_layers: 3, d_model: 64, d_ff: 192, d_head: 16, n_ctx: 256, n_vocab: 1200, ..config };
        // Reading its two tables takes more than answering.
        let large_head = ModelConfig { n_vocab: 3000, d_model: 256, n_layers: 1, ..config.clone() };
        for (config, max_sequences, max_rows) in [(config.clone(), 6, 64), (config, 20, 200), (large_head, 6, 64)] {
            let options =
                EngineOptions { max_sequences, max_rows, max_outputs: max_sequences, ..EngineOptions::default() };
            let (calls, ..) = run(&cpu, &config, &options);
            assert_eq!(calls, 0, "{name}: allocations in some forty steps");
            let (_, plan, peak) = run(&reference, &config, &options);
            reading_counts |= plan.items.iter().any(|item| item.purpose == "reading the weights");
            let ratio = peak as f64 / plan.total() as f64;
            assert!((ratio - 1.0).abs() < 0.05, "{name}: {plan:?} is {}, the peak was {peak}", plan.total());
        }
    }
    assert!(reading_counts);
}
