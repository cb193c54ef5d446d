//! A device with one module, typed buffers, and data.
#![allow(dead_code, reason = "each test binary uses its own part")]

use verve_ptx::{Checks, Machine, Module, PtxError};

/// Plain numbers as bytes.
pub trait Number: Copy {
    fn bytes(self) -> Vec<u8>;
    fn from_bytes(bytes: &[u8]) -> Self;
}

macro_rules! number {
    ($($t:ty)*) => {$(
        impl Number for $t {
            fn bytes(self) -> Vec<u8> { self.to_le_bytes().to_vec() }
            fn from_bytes(bytes: &[u8]) -> Self { Self::from_le_bytes(bytes.try_into().unwrap()) }
        }
    )*};
}

number! { u8 i8 u16 u32 i32 u64 i64 f32 f64 }

pub struct Device {
    pub machine: Machine,
    pub module: Module,
}

impl Device {
    pub fn new(ptx: &str) -> Self {
        let mut machine = Machine::new(1 << 22);
        let module = machine.load(ptx).unwrap_or_else(|e| panic!("{e}"));
        Self { machine, module }
    }

    pub fn unchecked(ptx: &str) -> Self {
        let mut device = Self::new(ptx);
        device.machine.set_checks(Checks::NONE);
        device
    }

    pub fn put<T: Number>(&mut self, values: &[T]) -> u64 {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.bytes()).collect();
        let address = self.machine.alloc(bytes.len() as u64).unwrap();
        self.machine.write(address, &bytes).unwrap();
        address
    }

    pub fn get<T: Number>(&self, address: u64, n: usize) -> Vec<T> {
        let mut bytes = vec![0; n * size_of::<T>()];
        self.machine.read(address, &mut bytes).unwrap();
        bytes.chunks_exact(size_of::<T>()).map(T::from_bytes).collect()
    }

    /// Parameters with their sizes; each is aligned to its size.
    pub fn launch(
        &mut self,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        params: &[u64],
        sizes: &[usize],
    ) -> Result<(), PtxError> {
        let mut bytes = Vec::new();
        for (value, size) in params.iter().zip(sizes) {
            bytes.resize(bytes.len().next_multiple_of(*size), 0);
            bytes.extend_from_slice(&value.to_le_bytes()[..*size]);
        }
        self.machine.launch(&self.module, kernel, grid, block, shared, &bytes)
    }
}

/// Numbers between -1 and 1.
pub fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Upper halves of f32.
pub fn bf16(values: &[f32]) -> Vec<u16> {
    values.iter().map(|v| (v.to_bits() >> 16) as u16).collect()
}
