//! Working memory of the workers: grown at first use, never given back.

use std::sync::{Mutex, TryLockError};

use bytemuck::Pod;
use verve_ops::Element;

use crate::buffer::CpuBuf;

/// One growing, 64-byte aligned piece of memory for each worker of a pool (and one more for the caller between runs).
/// After the first call with the largest sizes nothing is allocated.
pub struct Scratch {
    slots: Vec<Mutex<CpuBuf<u8>>>,
}

impl Scratch {
    /// Empty scratch for workers `0..n_workers` and the shared slot [`Scratch::shared`].
    pub fn new(n_workers: usize) -> Scratch {
        Scratch { slots: (0..=n_workers).map(|_| Mutex::new(CpuBuf::default())).collect() }
    }

    /// Calls `f` with `len` elements of the worker's memory, content unspecified.
    ///
    /// # Panics
    /// If the worker's memory is already in use further up the stack, or the system is out of memory.
    pub fn with<T: Element + Pod, R>(&self, worker: usize, len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
        let mut slot = match self.slots[worker].try_lock() {
            Ok(slot) => slot,
            // A task that panicked leaves only unspecified content behind, which is what everybody gets.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => panic!("scratch of worker {worker} is already in use"),
        };
        let bytes = len * size_of::<T>();
        if slot.len() < bytes {
            // Freed first: the two never need to exist side by side.
            *slot = CpuBuf::default();
            *slot = match CpuBuf::zeroed(bytes.next_multiple_of(4096)) {
                Ok(buf) => buf,
                Err(error) => panic!("kernel scratch: {error}"),
            };
        }
        f(bytemuck::cast_slice_mut(&mut slot[..bytes]))
    }

    /// Memory for partial sums that outlives a run: as [`Scratch::with`], for the caller of the pool and not its workers.
    pub fn shared<T: Element + Pod, R>(&self, len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
        self.with(self.slots.len() - 1, len, f)
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        let held = |slot: &Mutex<CpuBuf<u8>>| slot.try_lock().map_or(0, |buf| buf.len());
        self.slots.iter().map(held).sum()
    }
}
