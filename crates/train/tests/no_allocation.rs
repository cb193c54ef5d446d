//! After the first steps, a step allocates nothing.
#![allow(clippy::unwrap_used)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use common::*;
use verve_cpu::{CpuBackend, Isa};
use verve_train::*;

/// The system's allocator, counting.
struct Counting;

static COUNT: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is handed to the system's allocator with the arguments as they came; counting changes nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller keeps the contract of `realloc`, and `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_step_allocates_nothing_after_the_first_ones() {
    let world = World::new();
    // One worker: which of several first needs its working memory, and when, is up to the system.
    let backend = CpuBackend::<f32>::new(1, Isa::from_env().unwrap()).unwrap();
    let config = config("[budget]\nsteps = 30\n[eval]\nevery = 0\n[sample]\nevery = 0\n[checkpoint]\nevery_steps = 0");
    let mut counts = [0; 31];
    let mut observer = On(|event: &Event<'_>| {
        if let Event::Step(record) = event {
            counts[record.step as usize] = COUNT.load(Ordering::SeqCst);
        }
    });
    world.start(&backend, "run", &config, &mut observer).unwrap();
    // After step 30 comes the last evaluation; nothing but steps between 3 and 30.
    assert!(counts[3] > 0);
    assert_eq!(counts[30] - counts[3], 0, "{counts:?}");
}
