//! Causal attention and its gradient.

use verve_ops::args::{Attention, AttentionBackward};
use verve_ops::{AttnShape, Buffer};

use crate::args::Args;
use crate::backend::{CudaBackend, CudaElem};
use crate::device::{DevicePtr, ElemKind, Grid};
use crate::error::DeviceError;
use crate::kernels;

/// A width that kernels are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    D32,
    D64,
    D96,
    D128,
    D256,
}

impl Width {
    /// The next width for heads of `d_head` elements; a failure is remembered if there is none.
    pub(super) fn of<E: CudaElem>(backend: &CudaBackend<E>, d_head: usize) -> Option<Self> {
        match d_head {
            0..=32 => Some(Width::D32),
            33..=64 => Some(Width::D64),
            65..=96 => Some(Width::D96),
            97..=128 => Some(Width::D128),
            129..=256 => Some(Width::D256),
            _ => {
                let detail = format!("heads of {d_head} elements: the kernels go up to 256");
                backend.remember(DeviceError::Call { call: "attention", detail });
                None
            }
        }
    }

    pub(super) fn elements(self) -> usize {
        match self {
            Width::D32 => 32,
            Width::D64 => 64,
            Width::D96 => 96,
            Width::D128 => 128,
            Width::D256 => 256,
        }
    }

    /// Bytes of a row in shared memory, see `attention.cuh`.
    pub(super) fn line(self, kind: ElemKind) -> usize {
        match kind {
            ElemKind::Bf16 => self.elements() * 2 + 16,
            ElemKind::F32 => (self.elements() + 1) * 4,
        }
    }
}

/// Whether all heads begin at multiples of 16 bytes and are whole chunks of 16 bytes.
pub(super) fn aligned(addresses: &[DevicePtr], d_head: usize, kind: ElemKind) -> bool {
    (d_head * kind.bytes()).is_multiple_of(16) && addresses.iter().all(|address| address.is_multiple_of(16))
}

/// Rows of a block of queries or keys in the backward.
fn block_rows(kind: ElemKind) -> usize {
    match kind {
        ElemKind::Bf16 => 64,
        ElemKind::F32 => 16,
    }
}

fn shape_args(args: Args, shape: &AttnShape, aligned: bool) -> Args {
    args.u32(shape.seq_len)
        .u32(shape.n_heads)
        .u32(shape.n_kv_heads)
        .u32(shape.d_head)
        .u32(shape.window.map_or(0, |window| window.min(shape.seq_len)))
        .f32(shape.scale)
        .u32(usize::from(aligned))
        .u32(0)
}

/// `out` and the log-sum-exp of each row and head.
pub fn forward<E: CudaElem>(backend: &CudaBackend<E>, args: Attention<'_, CudaBackend<E>>) {
    let Attention { qkv, out, lse, shape } = args;
    if shape.d_head == 0 {
        return;
    }
    let Some(width) = Width::of(backend, shape.d_head) else { return };
    // Queries, then tiles of keys and values: two of each with tensor cores.
    let (queries, keys, stages) = match (E::KIND, width) {
        (ElemKind::F32, _) => (16, 32, 1),
        (ElemKind::Bf16, Width::D32 | Width::D64 | Width::D96) => (128, 64, 2),
        (ElemKind::Bf16, Width::D128) => (128, 32, 2),
        (ElemKind::Bf16, Width::D256) => (64, 32, 2),
    };
    let grid = Grid {
        blocks: [shape.seq_len.div_ceil(queries), shape.n_heads, shape.batch],
        threads: [128, 1, 1],
        shared_bytes: (queries + stages * 2 * keys) * width.line(E::KIND),
    };
    let kernel = match width {
        Width::D32 => "attention_32",
        Width::D64 => "attention_64",
        Width::D96 => "attention_96",
        Width::D128 => "attention_128",
        Width::D256 => "attention_256",
    };
    let aligned = aligned(&[qkv.address(), out.address()], shape.d_head, E::KIND);
    let args = shape_args(Args::new().buf(qkv).buf(out).buf(lse), &shape, aligned);
    backend.launch(&kernels::ATTENTION, kernel, grid, args);
}

/// Gradient of [`forward`].
pub fn backward<E: CudaElem>(backend: &CudaBackend<E>, args: AttentionBackward<'_, CudaBackend<E>>) {
    let AttentionBackward { qkv, out, lse, d_out, d_qkv, shape } = args;
    if shape.d_head == 0 {
        return;
    }
    let Some(width) = Width::of(backend, shape.d_head) else { return };
    let Some(delta) = backend.scratch(lse.len() * size_of::<f32>()) else { return };
    let program = &kernels::ATTENTION_BACKWARD;
    let statistics = lse.len();
    let args = Args::new().buf(out).buf(d_out).address(delta.address()).u32(statistics).u32(shape.d_head);
    backend.launch(program, "attention_delta", Grid::blocks(statistics.div_ceil(8), 256), args);

    let own = block_rows(E::KIND);
    let (other, stages) = match (E::KIND, width) {
        (ElemKind::F32, _) | (ElemKind::Bf16, Width::D256) => (32, 1),
        (ElemKind::Bf16, Width::D32 | Width::D64) => (64, 2),
        (ElemKind::Bf16, Width::D96 | Width::D128) => (32, 2),
    };
    let grid = |owners| Grid {
        blocks: [shape.seq_len.div_ceil(own), owners, shape.batch],
        threads: [128, 1, 1],
        shared_bytes: 2 * (own + stages * other) * width.line(E::KIND),
    };
    let aligned = aligned(&[qkv.address(), d_out.address(), d_qkv.address()], shape.d_head, E::KIND);
    let args = Args::new().buf(qkv).buf(d_out).buf(lse).address(delta.address()).buf(d_qkv);
    let args = shape_args(args, &shape, aligned);
    let (queries, keys) = match width {
        Width::D32 => ("attention_queries_32", "attention_keys_32"),
        Width::D64 => ("attention_queries_64", "attention_keys_64"),
        Width::D96 => ("attention_queries_96", "attention_keys_96"),
        Width::D128 => ("attention_queries_128", "attention_keys_128"),
        Width::D256 => ("attention_queries_256", "attention_keys_256"),
    };
    backend.launch(program, queries, grid(shape.n_heads), args.clone());
    // The widest heads take two blocks for the two halves of a head.
    let halves = if E::KIND == ElemKind::Bf16 && width == Width::D256 { 2 } else { 1 };
    backend.launch(program, keys, grid(shape.n_kv_heads * halves), args);
}
