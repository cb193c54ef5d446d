//! Arguments of [`InferBackend`]: what generation needs beyond training.

use super::{Accs, Elems, Ids, at_least, check_heads, same};
use crate::shape::*;
use crate::{Backend, Buffer, InferBackend, KvLayer};

/// See [`InferBackend::embed_prepared`].
pub struct EmbedPrepared<'a, B: InferBackend> {
    /// `[N]`, each below `n_vocab`.
    pub tokens: &'a Ids<B>,
    /// `[N]`.
    pub positions: &'a Ids<B>,
    /// `[V, C]`, prepared.
    pub table: &'a B::Weight,
    /// `[n_positions, C]`.
    pub pos_table: Option<&'a Elems<B>>,
    /// `[N, C]` at its beginning.
    pub out: &'a mut Elems<B>,
    /// Sizes.
    pub shape: EmbedShape,
}

impl<B: InferBackend> EmbedPrepared<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        at_least("embed_prepared", "tokens", self.tokens.len(), s.rows, s);
        at_least("embed_prepared", "positions", self.positions.len(), s.rows, s);
        if let Some(pos) = self.pos_table {
            same("embed_prepared", "pos_table", pos.len(), s.n_positions * s.d_model, s);
        }
        at_least("embed_prepared", "out", self.out.len(), s.rows * s.d_model, s);
    }
}

/// What is fused behind a product with a prepared weight.
pub enum InferEpilogue<'a, B: Backend> {
    /// `out = product + bias`.
    Store,
    /// `out = residual + product + bias`.
    Residual(&'a Elems<B>),
    /// `out = activation(round(product + bias))`.
    Activate(Activation),
}

/// See [`InferBackend::linear_prepared`]. Buffers may be longer than `rows` needs: a step uses their beginning.
pub struct LinearPrepared<'a, B: InferBackend> {
    /// `[rows, d_in]` at its beginning.
    pub inp: &'a Elems<B>,
    /// `[d_out, d_in]`, prepared.
    pub weight: &'a B::Weight,
    /// `[d_out]`.
    pub bias: Option<&'a Elems<B>>,
    /// `[rows, d_out]` at its beginning.
    pub out: &'a mut Elems<B>,
    /// What happens to the product.
    pub epilogue: InferEpilogue<'a, B>,
    /// Sizes.
    pub shape: LinearShape,
}

impl<B: InferBackend> LinearPrepared<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        at_least("linear_prepared", "inp", self.inp.len(), s.rows * s.d_in, s);
        at_least("linear_prepared", "out", self.out.len(), s.rows * s.d_out, s);
        if let Some(bias) = self.bias {
            same("linear_prepared", "bias", bias.len(), s.d_out, s);
        }
        if let InferEpilogue::Residual(residual) = &self.epilogue {
            at_least("linear_prepared", "residual", residual.len(), s.rows * s.d_out, s);
        }
    }
}

/// See [`InferBackend::logits`].
pub struct Logits<'a, B: InferBackend> {
    /// `[rows, d_model]` at its beginning.
    pub inp: &'a Elems<B>,
    /// `[n_vocab, d_model]`, prepared.
    pub weight: &'a B::Weight,
    /// `[rows, n_vocab]` at its beginning.
    pub out: &'a mut Accs<B>,
    /// Sizes.
    pub shape: HeadShape,
}

impl<B: InferBackend> Logits<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        at_least("logits", "inp", self.inp.len(), s.rows * s.d_model, s);
        at_least("logits", "out", self.out.len(), s.rows * s.n_vocab, s);
    }
}

/// See [`InferBackend::gather_rows`].
pub struct GatherRows<'a, B: Backend> {
    /// `[_, cols]`.
    pub inp: &'a Elems<B>,
    /// Which rows, in order.
    pub rows: &'a Ids<B>,
    /// How many of `rows` to take.
    pub n_rows: usize,
    /// `[n_rows, cols]` at its beginning.
    pub out: &'a mut Elems<B>,
    /// Elements of a row.
    pub cols: usize,
}

impl<B: Backend> GatherRows<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        at_least("gather_rows", "rows", self.rows.len(), self.n_rows, &self.n_rows);
        at_least("gather_rows", "out", self.out.len(), self.n_rows * self.cols, &self.n_rows);
    }
}

/// See [`InferBackend::kv_write`].
pub struct KvWrite<'a, B: Backend> {
    /// `[rows, (H + 2K) D]` at its beginning; keys already rotated.
    pub qkv: &'a Elems<B>,
    /// `H`, to find the keys in a row.
    pub n_heads: usize,
    /// Number of new tokens.
    pub rows: usize,
    /// `[rows]` at its beginning: block number x [`KV_BLOCK`] + place in the block.
    pub slots: &'a Ids<B>,
    /// Keys and values of one layer.
    pub cache: &'a mut KvLayer<B>,
    /// Sizes of the cache.
    pub shape: KvShape,
}

impl<B: Backend> KvWrite<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        at_least("kv_write", "qkv", self.qkv.len(), self.rows * (self.n_heads + 2 * s.n_kv_heads) * s.d_head, s);
        at_least("kv_write", "slots", self.slots.len(), self.rows, s);
        self.cache.check("kv_write", s);
    }
}

/// Which rows of a step belong to which sequence, and where the sequences' blocks are. Rows of one sequence lie side by
/// side in increasing position; any mix of prefill (many rows) and decode (one row) may share a call.
pub struct RaggedBatch<'a, B: Backend> {
    /// Number of rows.
    pub rows: usize,
    /// `[rows]`: index of the row's sequence in `block_table`.
    pub sequences: &'a Ids<B>,
    /// `[rows]`: position of the row's token; it sees positions `0..=position` of its sequence.
    pub positions: &'a Ids<B>,
    /// `[n_sequences, max_blocks]`: block number of each [`KV_BLOCK`] tokens of a sequence.
    pub block_table: &'a Ids<B>,
    /// Row length of `block_table`.
    pub max_blocks: usize,
}

/// See [`InferBackend::attention_cached`].
pub struct AttentionCached<'a, B: Backend> {
    /// `[rows, (H + 2K) D]` at its beginning; only the queries are read.
    pub qkv: &'a Elems<B>,
    /// Keys and values of one layer.
    pub cache: &'a KvLayer<B>,
    /// `[rows, H D]` at its beginning.
    pub out: &'a mut Elems<B>,
    /// Rows, positions, blocks.
    pub batch: RaggedBatch<'a, B>,
    /// `H`.
    pub n_heads: usize,
    /// As [`AttnShape::window`].
    pub window: Option<usize>,
    /// As [`AttnShape::scale`].
    pub scale: f32,
    /// Sizes of the cache.
    pub shape: KvShape,
}

impl<B: Backend> AttentionCached<'_, B> {
    /// Panics on a size that does not fit.
    pub fn check(&self) {
        let s = &self.shape;
        let rows = self.batch.rows;
        check_heads("attention_cached", self.n_heads, s.n_kv_heads);
        assert!(self.window != Some(0), "attention_cached: a window of 0 sees nothing");
        at_least("attention_cached", "qkv", self.qkv.len(), rows * (self.n_heads + 2 * s.n_kv_heads) * s.d_head, s);
        at_least("attention_cached", "out", self.out.len(), rows * self.n_heads * s.d_head, s);
        at_least("attention_cached", "sequences", self.batch.sequences.len(), rows, s);
        at_least("attention_cached", "positions", self.batch.positions.len(), rows, s);
        self.cache.check("attention_cached", s);
    }
}
