//! Embedding and its gradient.

use verve_ops::args::{Embed, EmbedBackward, EmbedPrepared};

use crate::args::Args;
use crate::backend::{CudaBackend, CudaElem};
use crate::buffer::CudaBuf;
use crate::device::Grid;
use crate::kernels::EMBED;
use crate::launch::memory::row_threads;
use crate::launch::quantized;
use crate::weight::Storage;

/// Rows of the table that one block of the gradient owns; `OWNED` in the source.
const OWNED: usize = 32;

/// `out[n] = table[tokens[n]] + pos_table[positions[n]]`.
pub fn forward<E: CudaElem>(backend: &CudaBackend<E>, args: Embed<'_, CudaBackend<E>>) {
    let Embed { tokens, positions, table, pos_table, out, shape } = args;
    let args = Args::new()
        .buf(tokens)
        .buf(positions)
        .buf(table)
        .optional(pos_table)
        .buf(out)
        .u32(shape.d_model)
        .u32(shape.n_vocab)
        .u32(shape.n_positions);
    backend.launch(&EMBED, "embed", Grid::blocks(shape.rows, row_threads(shape.d_model)), args);
}

/// The same from a prepared table.
pub fn prepared<E: CudaElem>(backend: &CudaBackend<E>, args: EmbedPrepared<'_, CudaBackend<E>>) {
    let EmbedPrepared { tokens, positions, table, pos_table, out, shape } = args;
    match &table.storage {
        Storage::Dense(table) => {
            forward(backend, Embed { tokens, positions, table, pos_table, out, shape });
        }
        Storage::Quantized(table) => {
            let pos_table = (positions.address(), pos_table.map_or(0, CudaBuf::address));
            quantized::embed(backend, tokens.address(), table, pos_table, out.address(), shape);
        }
    }
}

/// Adds each row of the gradient to the rows of the tables that it came from.
pub fn backward<E: CudaElem>(backend: &CudaBackend<E>, args: EmbedBackward<'_, CudaBackend<E>>) {
    let EmbedBackward { tokens, positions, d_out, d_table, d_pos_table, shape } = args;
    let add = |ids: &CudaBuf<u32>, table: &mut CudaBuf<f32>, n_table: usize| {
        let blocks = [n_table.div_ceil(OWNED), shape.d_model.div_ceil(256), 1];
        let args = Args::new().buf(ids).buf(d_out).buf(table).u32(shape.rows).u32(shape.d_model).u32(n_table);
        backend.launch(&EMBED, "embed_backward", Grid { blocks, threads: [256, 1, 1], shared_bytes: 0 }, args);
    };
    add(tokens, d_table, shape.n_vocab);
    if let Some(d_pos_table) = d_pos_table {
        add(positions, d_pos_table, shape.n_positions);
    }
}
