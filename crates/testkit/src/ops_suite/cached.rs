//! Attention over the paged KV cache.

use half::f16;
use verve_ops::args::{AttentionCached, KvWrite, RaggedBatch};
use verve_ops::reference::Reference;
use verve_ops::{AttnShape, Backend, InferBackend, KV_BLOCK, KvFormat, KvLayer, KvShape};

use super::attention::AttentionCase;
use super::case::{Case, Outputs};
use crate::tolerance::{Class, Stored, bound};
use crate::{Data, Host, assert_bits, assert_close};

/// Heads and window of one layer, and the lengths of some sequences.
#[derive(Debug, Clone)]
struct Layer {
    heads: (usize, usize),
    d_head: usize,
    window: Option<usize>,
    lengths: Vec<usize>,
}

/// Some sequences of one layer, with the place of each in the cache.
struct CachedCase {
    layer: Layer,
    sequences: Vec<AttentionCase>,
    kv: KvShape,
    block_table: Vec<u32>,
    max_blocks: usize,
}

/// How the tokens of the sequences come: for each call, how many new tokens of each sequence.
type Schedule = Vec<Vec<usize>>;

impl CachedCase {
    fn new<B: Backend>(seed: u64, layer: Layer) -> Self {
        let (n_heads, n_kv_heads) = layer.heads;
        let sequence = |(i, &seq_len): (usize, &usize)| {
            let shape = AttnShape {
                batch: 1,
                seq_len,
                n_heads,
                n_kv_heads,
                d_head: layer.d_head,
                window: layer.window,
                scale: 1.0 / (layer.d_head as f32).sqrt(),
            };
            AttentionCase::new::<B>(seed + 100 * i as u64, shape, 1.0)
        };
        let sequences: Vec<_> = layer.lengths.iter().enumerate().map(sequence).collect();
        let blocks: Vec<usize> = layer.lengths.iter().map(|len| len.div_ceil(KV_BLOCK)).collect();
        // More room than needed, and blocks in no order. The unused ends of the table are no blocks at all.
        let max_blocks = blocks.iter().max().map_or(0, |most| most + 1);
        let n_blocks = blocks.iter().sum::<usize>() + 3;
        let mut free = Data::new(seed).permutation(n_blocks).into_iter();
        let mut block_table = vec![u32::MAX; blocks.len() * max_blocks];
        for (row, &count) in block_table.chunks_exact_mut(max_blocks).zip(&blocks) {
            row.iter_mut().zip(free.by_ref().take(count)).for_each(|(place, block)| *place = block);
        }
        let kv = KvShape { n_blocks, n_kv_heads, d_head: layer.d_head };
        Self { layer, sequences, kv, block_table, max_blocks }
    }

    /// All tokens in one call.
    fn at_once(&self) -> Schedule {
        vec![self.layer.lengths.clone()]
    }

    /// One token of each sequence a call, as long as it has any.
    fn one_by_one(&self) -> Schedule {
        let longest = self.layer.lengths.iter().copied().max().unwrap_or(0);
        (0..longest).map(|step| self.layer.lengths.iter().map(|&len| usize::from(step < len)).collect()).collect()
    }

    /// Random numbers of tokens, often none, often one.
    fn in_chunks(&self, seed: u64) -> Schedule {
        let mut data = Data::new(seed);
        let mut left = self.layer.lengths.clone();
        let mut schedule = Schedule::new();
        while left.iter().any(|&left| left > 0) {
            let sizes = data.ids(left.len(), 7);
            let step = |(left, size): (&mut usize, &u32)| {
                let count = [0, 0, 1, 1, 5, 33, 90][*size as usize].min(*left);
                *left -= count;
                count
            };
            schedule.push(left.iter_mut().zip(&sizes).map(step).collect());
        }
        schedule
    }

    /// A cache that is NaN where it is not written.
    fn cache<X: InferBackend>(&self, host: Host<'_, X>, format: KvFormat) -> KvLayer<X> {
        let (len, n) = (self.kv.len(), self.kv.n_vectors());
        match format {
            KvFormat::Elem => KvLayer::Elem { keys: host.unset(len), values: host.unset(len) },
            KvFormat::F16 => {
                let unset = || host.buffer(&vec![f16::NAN; len]);
                KvLayer::F16 { keys: unset(), values: unset() }
            }
            KvFormat::Int8 => {
                let codes = || host.buffer(&vec![i8::MIN; len]);
                let scales = || host.buffer(&vec![f32::NAN; n]);
                KvLayer::Int8 { keys: codes(), values: codes(), key_scales: scales(), value_scales: scales() }
            }
        }
    }

    /// Runs the schedule and returns the outputs of each sequence in order. All of the cache that is not written is NaN.
    fn run<X: InferBackend>(&self, host: Host<'_, X>, format: KvFormat, schedule: &Schedule) -> Vec<Vec<f64>> {
        let (n_heads, n_kv_heads) = self.layer.heads;
        let qkv_width = (n_heads + 2 * n_kv_heads) * self.layer.d_head;
        let out_width = n_heads * self.layer.d_head;
        let mut cache = self.cache(host, format);
        let block_table = host.buffer(&self.block_table);
        let mut outputs = vec![Vec::new(); self.sequences.len()];
        let mut done = vec![0; self.sequences.len()];
        for counts in schedule {
            let (mut qkv, mut sequences, mut positions, mut slots) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for (s, &count) in counts.iter().enumerate() {
                for position in done[s]..done[s] + count {
                    qkv.extend_from_slice(&self.sequences[s].qkv()[position * qkv_width..][..qkv_width]);
                    sequences.push(s as u32);
                    positions.push(position as u32);
                    let block = self.block_table[s * self.max_blocks + position / KV_BLOCK];
                    slots.push(block * KV_BLOCK as u32 + (position % KV_BLOCK) as u32);
                }
            }
            let rows = sequences.len();
            let qkv = host.long_elems(&qkv);
            host.0.kv_write(KvWrite {
                qkv: &qkv,
                n_heads,
                rows,
                slots: &host.long_ids(&slots),
                cache: &mut cache,
                shape: self.kv,
            });
            let mut out = host.unset_long(rows * out_width);
            host.0.attention_cached(AttentionCached {
                qkv: &qkv,
                cache: &cache,
                out: &mut out,
                batch: RaggedBatch {
                    rows,
                    sequences: &host.long_ids(&sequences),
                    positions: &host.long_ids(&positions),
                    block_table: &block_table,
                    max_blocks: self.max_blocks,
                },
                n_heads,
                window: self.layer.window,
                scale: 1.0 / (self.layer.d_head as f32).sqrt(),
                shape: self.kv,
            });
            let mut out = &host.read_long("attention_cached", &out)[..];
            for (s, &count) in counts.iter().enumerate() {
                let (mine, rest) = out.split_at(count * out_width);
                outputs[s].extend_from_slice(mine);
                done[s] += count;
                out = rest;
            }
        }
        outputs
    }
}

fn layers() -> Vec<Layer> {
    let layer = |heads, d_head, window, lengths: &[usize]| Layer { heads, d_head, window, lengths: lengths.to_vec() };
    vec![
        layer((1, 1), 8, None, &[1]),
        layer((2, 1), 16, None, &[3, 1, 17]),
        layer((4, 2), 64, None, &[64, 65, 63]),
        layer((3, 3), 80, Some(17), &[129, 40]),
        layer((4, 1), 96, Some(64), &[130, 1, 65]),
        layer((2, 2), 128, None, &[67]),
        layer((6, 2), 64, Some(100), &[200]),
        layer((2, 1), 10, Some(1), &[70, 5]),
        layer((1, 1), 32, None, &[260, 128]),
        // More query heads of one key/value head than any tile has rows.
        layer((70, 1), 16, Some(40), &[2, 67]),
    ]
}

/// Prefill equals `attention` within tolerance, with what the cache rounds where it does; prefill at once, token by token and in
/// chunks, and alone or in a batch, are equal bit for bit.
pub fn attention_cached<B: InferBackend>(backend: &B, format: KvFormat) {
    let host = Host(backend);
    for (i, layer) in layers().into_iter().enumerate() {
        let seed = 1700 + i as u64;
        let case = CachedCase::new::<B>(seed, layer);
        let label = format!("attention_cached {:?} over {format:?} on {}", case.layer, backend.describe());
        let at_once = case.run(host, format, &case.at_once());
        // In 64 bits, with a cache that rounds the same way.
        let rounded = case.run(Host(&Reference::<f64>::new()), format, &case.at_once());
        for ((sequence, found), rounded) in case.sequences.iter().zip(&at_once).zip(&rounded) {
            let exact = sequence.run(Host(&Reference::<f64>::new()));
            let expected = if format == KvFormat::Elem { exact.values("out") } else { rounded };
            let class = Class::Softmax(sequence.shape.seq_len + sequence.shape.d_head);
            let bound = bound::<B::Elem, B::Acc>(class, Stored::Elem, 1.0);
            assert_close(&format!("{label}, sequence of {}", sequence.shape.seq_len), found, expected, bound);
        }
        let schedules = [
            ("token by token", case.one_by_one()),
            ("in chunks", case.in_chunks(1)),
            ("in other chunks", case.in_chunks(2)),
        ];
        for (how, schedule) in schedules {
            for (found, expected) in case.run(host, format, &schedule).iter().zip(&at_once) {
                assert_bits(&format!("{label}: {how} and at once"), found, expected);
            }
        }
        for (s, expected) in at_once.iter().enumerate() {
            let alone = CachedCase::new::<B>(
                seed + 100 * s as u64,
                Layer { lengths: vec![case.layer.lengths[s]], ..case.layer.clone() },
            );
            assert_bits(
                &format!("{label}: sequence {s} alone and in a batch"),
                &alone.run(host, format, &alone.in_chunks(3))[0],
                expected,
            );
        }
    }
}

/// The outputs of every case, for comparison of bits.
pub fn outputs<B: InferBackend>(backend: &B) -> Vec<(String, Outputs)> {
    let output = |(i, layer): (usize, Layer)| {
        let case = CachedCase::new::<B>(1700 + i as u64, layer);
        [KvFormat::Elem, KvFormat::F16, KvFormat::Int8].map(|format| {
            let mut outputs = Outputs::default();
            outputs.elem("out", case.run(Host(backend), format, &case.in_chunks(1)).concat(), Class::Exact);
            (format!("attention_cached {:?} over {format:?}", case.layer), outputs)
        })
    };
    layers().into_iter().enumerate().flat_map(output).collect()
}
