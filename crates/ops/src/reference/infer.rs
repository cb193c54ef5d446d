//! What generation needs: "prepared" weights (a plain copy) and attention over a paged KV cache, laid out as
//! `[block][token in block][K][D]`.

use std::borrow::Cow;

use half::f16;

use super::activation::apply;
use super::attention::{attend, first_visible};
use super::embed::embed_rows;
use super::linear::products;
use super::{HostBuf, Reference, Scalar, check_index};
use crate::args::{AttentionCached, EmbedPrepared, GatherRows, InferEpilogue, KvWrite, LinearPrepared, Logits};
use crate::quant::{ActivationBlock, ActivationPrecision, QuantKind, QuantPart, check_parts};
use crate::{KV_BLOCK, KvLayer, KvShape, LinearShape, quantize_head, to_f16};

/// A weight matrix `[d_out, d_in]` as it is, or dequantised.
#[derive(Debug, Clone, PartialEq)]
pub struct PlainWeight<R> {
    elements: Vec<R>,
    d_out: usize,
    d_in: usize,
    /// How activations are rounded, and the blocks of each row, where they are.
    rounded: Option<(ActivationPrecision, Vec<BlockRow>)>,
}

/// A row's format and its blocks.
type BlockRow = (QuantKind, Vec<u8>);

impl<R: Scalar> PlainWeight<R> {
    /// Copies a matrix; panics if its length is not `d_out * d_in`.
    pub(super) fn new(weight: &HostBuf<R>, d_out: usize, d_in: usize) -> Self {
        let found = weight.as_slice().len();
        assert!(
            found == d_out * d_in,
            "prepare: weight has {found} elements, [{d_out}, {d_in}] implies {}",
            d_out * d_in
        );
        Self { elements: weight.as_slice().to_vec(), d_out, d_in, rounded: None }
    }

    /// The values of a quantised weight, part below part; panics if the blocks do not fit the sizes.
    pub(super) fn quantized(parts: &[QuantPart<'_>], d_in: usize, precision: ActivationPrecision) -> Self {
        let d_out = check_parts(parts, d_in);
        let mut elements = Vec::with_capacity(d_out * d_in);
        for part in parts {
            let mut values = vec![0f32; part.rows * d_in];
            part.kind.dequantize(part.blocks, &mut values);
            elements.extend(values.into_iter().map(R::from_f32));
        }
        let rows_of = |part: &QuantPart<'_>| {
            let (kind, bytes) = (part.kind, part.kind.bytes(d_in));
            (0..part.rows).map(|row| (kind, part.blocks[row * bytes..][..bytes].to_vec())).collect::<Vec<_>>()
        };
        let blocks = match precision {
            ActivationPrecision::Exact => None,
            ActivationPrecision::Int8 | ActivationPrecision::Int16 => Some(parts.iter().flat_map(rows_of).collect()),
        };
        Self { elements, d_out, d_in, rounded: blocks.map(|blocks| (precision, blocks)) }
    }

    /// Calls `store(n, o, sum)` for each output, with `sum = inp[n] . weight[o] + bias[o]`.
    fn products(&self, inp: &[R], bias: Option<&[R]>, shape: LinearShape, mut store: impl FnMut(usize, usize, R)) {
        let Some((precision, rows)) = &self.rounded else {
            return products(inp, &self.elements, bias, shape, store);
        };
        for n in 0..shape.rows {
            let row: Vec<f32> = inp[n * shape.d_in..][..shape.d_in].iter().map(|x| x.to_f32()).collect();
            let whole = ActivationBlock::quantize_row(&row);
            let parts = ActivationBlock::quantize_row_parts(&row);
            for (o, (kind, blocks)) in rows.iter().enumerate() {
                let product = match precision {
                    ActivationPrecision::Int16 => kind.dot_int16(blocks, &parts),
                    _ => kind.dot_int8(blocks, &whole),
                };
                let product = R::from_f32(product);
                store(n, o, product + bias.map_or(R::ZERO, |bias| bias[o]));
            }
        }
    }

    /// The elements, or a panic if the weight has not the given sizes.
    #[track_caller]
    fn sized(&self, op: &str, d_out: usize, d_in: usize) -> &Self {
        assert!(
            (self.d_out, self.d_in) == (d_out, d_in),
            "{op}: weight is [{}, {}], the shape implies [{d_out}, {d_in}]",
            self.d_out,
            self.d_in
        );
        self
    }
}

/// `out[n] = table[tokens[n]] + pos_table[positions[n]]`.
pub(super) fn embed_prepared<R: Scalar>(args: EmbedPrepared<'_, Reference<R>>) {
    args.check();
    let EmbedPrepared { tokens, positions, table, pos_table, out, shape } = args;
    let table = &table.sized("embed_prepared", shape.n_vocab, shape.d_model).elements;
    let pos_table = pos_table.map(|pos| pos.as_slice());
    embed_rows(tokens.as_slice(), positions.as_slice(), table, pos_table, out.as_mut_slice(), shape);
}

/// `out = epilogue(inp . weight^T + bias)`.
pub(super) fn linear_prepared<R: Scalar>(args: LinearPrepared<'_, Reference<R>>) {
    args.check();
    let LinearPrepared { inp, weight, bias, out, epilogue, shape } = args;
    let weight = weight.sized("linear_prepared", shape.d_out, shape.d_in);
    let (inp, bias, out) = (inp.as_slice(), bias.map(|b| b.as_slice()), out.as_mut_slice());
    weight.products(inp, bias, shape, |n, o, sum| {
        let at = n * shape.d_out + o;
        out[at] = match &epilogue {
            InferEpilogue::Store => sum,
            InferEpilogue::Residual(residual) => residual.as_slice()[at] + sum,
            InferEpilogue::Activate(activation) => apply(*activation, sum),
        };
    });
}

/// `out = inp . weight^T`.
pub(super) fn logits<R: Scalar>(args: Logits<'_, Reference<R>>) {
    args.check();
    let Logits { inp, weight, out, shape } = args;
    let weight = weight.sized("logits", shape.n_vocab, shape.d_model);
    let out = out.as_mut_slice();
    let linear = LinearShape { rows: shape.rows, d_in: shape.d_model, d_out: shape.n_vocab };
    weight.products(inp.as_slice(), None, linear, |n, v, sum| out[n * shape.n_vocab + v] = sum);
}

/// `out[i] = inp[rows[i]]`.
pub(super) fn gather_rows<R: Scalar>(args: GatherRows<'_, Reference<R>>) {
    args.check();
    let GatherRows { inp, rows, n_rows, out, cols } = args;
    let (inp, out) = (inp.as_slice(), out.as_mut_slice());
    let available = inp.len().checked_div(cols).unwrap_or(0);
    for (i, &row) in rows.as_slice()[..n_rows].iter().enumerate() {
        let row = check_index("gather_rows", "rows", i, row, available);
        out[i * cols..][..cols].copy_from_slice(&inp[row * cols..][..cols]);
    }
}

/// Where the vector of one key/value head of a token is in the cache.
fn cache_at(shape: &KvShape, slot: usize, kv_head: usize) -> usize {
    (slot * shape.n_kv_heads + kv_head) * shape.d_head
}

/// `keys[slots[n]] = k[n]`, `values[slots[n]] = v[n]`, in the cache's format.
pub(super) fn kv_write<R: Scalar>(args: KvWrite<'_, Reference<R>>) {
    args.check();
    let KvWrite { qkv, n_heads, rows, slots, cache, shape } = args;
    let (qkv, slots) = (qkv.as_slice(), slots.as_slice());
    let d = shape.d_head;
    let kv_width = shape.n_kv_heads * d;
    let row_width = n_heads * d + 2 * kv_width;
    for n in 0..rows {
        let slot = check_index("kv_write", "slots", n, slots[n], shape.n_blocks * KV_BLOCK);
        let (key, value) = qkv[n * row_width + n_heads * d..][..2 * kv_width].split_at(kv_width);
        let at = cache_at(&shape, slot, 0);
        match cache {
            KvLayer::Elem { keys, values } => {
                keys.as_mut_slice()[at..][..kv_width].copy_from_slice(key);
                values.as_mut_slice()[at..][..kv_width].copy_from_slice(value);
            }
            KvLayer::F16 { keys, values } => {
                for (cache, new) in [(keys, key), (values, value)] {
                    let places = &mut cache.as_mut_slice()[at..][..kv_width];
                    places.iter_mut().zip(new).for_each(|(place, x)| *place = to_f16(x.to_f32()));
                }
            }
            KvLayer::Int8 { keys, values, key_scales, value_scales } => {
                for (codes, scales, new) in [(keys, key_scales, key), (values, value_scales, value)] {
                    let heads = codes.as_mut_slice()[at..][..kv_width].chunks_exact_mut(d).zip(new.chunks_exact(d));
                    for (head, (codes, new)) in heads.enumerate() {
                        let new: Vec<f32> = new.iter().map(|x| x.to_f32()).collect();
                        scales.as_mut_slice()[slot * shape.n_kv_heads + head] = quantize_head(&new, codes);
                    }
                }
            }
        }
    }
}

/// All keys, and all values, as numbers; copied only where they are kept in another format.
fn cached<'a, R: Scalar>(cache: &'a KvLayer<Reference<R>>, shape: &KvShape) -> [Cow<'a, [R]>; 2] {
    let halves = |codes: &[f16]| codes.iter().map(|x| R::from_f32(x.to_f32())).collect();
    let codes = |codes: &[i8], scales: &[f32]| {
        let heads = codes.chunks_exact(shape.d_head).zip(scales);
        heads
            .flat_map(|(codes, scale)| codes.iter().map(|&q| R::from_f32(*scale) * R::from_f32(f32::from(q))))
            .collect()
    };
    match cache {
        KvLayer::Elem { keys, values } => [keys.as_slice().into(), values.as_slice().into()],
        KvLayer::F16 { keys, values } => [halves(keys.as_slice()), halves(values.as_slice())],
        KvLayer::Int8 { keys, values, key_scales, value_scales } => {
            [codes(keys.as_slice(), key_scales.as_slice()), codes(values.as_slice(), value_scales.as_slice())]
        }
    }
}

/// For each row and head: [`attend`] to the visible positions of the row's sequence, found through the block table.
pub(super) fn attention_cached<R: Scalar>(args: AttentionCached<'_, Reference<R>>) {
    args.check();
    let AttentionCached { qkv, cache, out, batch, n_heads, window, scale, shape } = args;
    let [keys, values] = cached(cache, &shape);
    let (qkv, out) = (qkv.as_slice(), out.as_mut_slice());
    let (positions, block_table) = (batch.positions.as_slice(), batch.block_table.as_slice());
    let n_sequences = block_table.len().checked_div(batch.max_blocks).unwrap_or(0);
    let d = shape.d_head;
    let row_width = (n_heads + 2 * shape.n_kv_heads) * d;
    let mut scores = vec![R::ZERO; batch.max_blocks * KV_BLOCK];
    for n in 0..batch.rows {
        let op = "attention_cached";
        let sequence = check_index(op, "sequences", n, batch.sequences.as_slice()[n], n_sequences);
        let position = check_index(op, "positions", n, positions[n], batch.max_blocks * KV_BLOCK);
        let blocks = &block_table[sequence * batch.max_blocks..][..batch.max_blocks];
        let first = first_visible(position, window);
        for (place, &block) in blocks.iter().enumerate().take(position / KV_BLOCK + 1).skip(first / KV_BLOCK) {
            check_index(op, "block_table", sequence * batch.max_blocks + place, block, shape.n_blocks);
        }
        let slot = |position: usize| blocks[position / KV_BLOCK] as usize * KV_BLOCK + position % KV_BLOCK;
        for head in 0..n_heads {
            let kv_head = head / (n_heads / shape.n_kv_heads);
            attend(
                &qkv[n * row_width + head * d..][..d],
                R::from_f32(scale),
                &mut scores[..position + 1 - first],
                |j| &keys[cache_at(&shape, slot(first + j), kv_head)..][..d],
                |j| &values[cache_at(&shape, slot(first + j), kv_head)..][..d],
                &mut out[(n * n_heads + head) * d..][..d],
            );
        }
    }
}
