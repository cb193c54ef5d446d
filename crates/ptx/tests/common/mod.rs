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

/// Numbers with all kinds of bits: corners of integers and floats, small ones, random ones.
pub fn bits(seed: u64, n: usize) -> Vec<u64> {
    let corners: &[u64] = &[
        0,
        1,
        31,
        32,
        33,
        64,
        0x7F,
        0x80,
        0xFFFF,
        0x8000,
        0x7FFF_FFFF,
        0x8000_0000,
        0xFFFF_FFFF,
        u64::MAX,
        1 << 63,
        0x3F80_0000,
        0xBF80_0000,
        0x7F80_0000,
        0xFF80_0000,
        0x7FC0_0000,
        0x0000_0001,
        0x8070_0000,
        0x7F7F_FFFF,
        0x3FF0_0000_0000_0000,
    ];
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match state % 8 {
                0 | 1 => corners[(state >> 8) as usize % corners.len()],
                2 => (state >> 8) % 70,
                // A float of moderate size.
                3 | 4 => u64::from((((state >> 9) as f32 / (1u64 << 54) as f32 - 1.0) * 8.0).to_bits()),
                5 => (((state >> 9) as f64 / (1u64 << 54) as f64 - 1.0) * 1e5).to_bits(),
                _ => state.rotate_left(23),
            }
        })
        .collect()
}

/// A kernel around `body`, which finds its thread's numbers in `%d1 %d2 %d3`, and their lowest bits in `%r1 %h1 %f1` and so on
/// (`%e` are doubles), and leaves its result in `%d9`.
pub fn around(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 a, .param .u64 b, .param .u64 c, .param .u64 out) {{
.reg .pred %p<10>; .reg .b16 %h<20>; .reg .b32 %r<30>; .reg .f32 %f<30>; .reg .b64 %d<30>; .reg .f64 %e<10>; .reg .b64 %x<9>; .reg .b32 %t<5>;
mov.u32 %t1, %tid.x; mov.u32 %t2, %ctaid.x; mov.u32 %t3, %ntid.x; mad.lo.u32 %t1, %t2, %t3, %t1; mul.wide.u32 %x0, %t1, 8;
ld.param.u64 %x1, [a]; ld.param.u64 %x2, [b]; ld.param.u64 %x3, [c]; ld.param.u64 %x4, [out];
add.u64 %x1, %x1, %x0; add.u64 %x2, %x2, %x0; add.u64 %x3, %x3, %x0; add.u64 %x4, %x4, %x0;
ld.global.u64 %d1, [%x1]; ld.global.u64 %d2, [%x2]; ld.global.u64 %d3, [%x3];
cvt.u32.u64 %r1, %d1; cvt.u32.u64 %r2, %d2; cvt.u32.u64 %r3, %d3;
cvt.u16.u64 %h1, %d1; cvt.u16.u64 %h2, %d2; cvt.u16.u64 %h3, %d3;
mov.b32 %f1, %r1; mov.b32 %f2, %r2; mov.b32 %f3, %r3;
mov.b64 %e1, %d1; mov.b64 %e2, %d2; mov.b64 %e3, %d3;
{body}
st.global.u64 [%x4], %d9;
ret;
}}\n"
    )
}

/// What `body` makes of three numbers in each of `a.len()` threads, a multiple of 32, in blocks of one warp.
pub fn run(body: &str, a: &[u64], b: &[u64], c: &[u64]) -> Vec<u64> {
    let mut device = Device::new(&around(body));
    let n = a.len();
    let params = [device.put(a), device.put(b), device.put(c), device.put(&vec![0u64; n])];
    let grid = [n as u32 / 32, 1, 1];
    device.launch("k", grid, [32, 1, 1], 0, &params, &[8; 4]).unwrap_or_else(|e| panic!("{body}: {e}"));
    device.get(params[3], n)
}
