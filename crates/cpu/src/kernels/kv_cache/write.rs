//! New keys and values on their way into the cache.

use verve_ops::args::KvWrite;
use verve_ops::{Element, KV_BLOCK, KvLayer, KvShape, quantize_head, to_f16};

use crate::kernels::check_ids;
use crate::pool::{GridMut, Parts, Tile};
use crate::{CpuBackend, CpuElem};

/// Elements from which on writing is worth handing out: keys lie across many lines of memory, which is waited for.
const WRITE: usize = 1024;

pub(crate) fn write<E: CpuElem>(backend: &CpuBackend<E>, args: KvWrite<'_, CpuBackend<E>>) {
    let KvWrite { qkv, n_heads, rows, slots, cache, shape } = args;
    let slots = &slots[..rows];
    check_ids("kv_write", "slots", slots, shape.n_blocks * KV_BLOCK);
    if rows == 0 || shape.is_empty() {
        return;
    }
    let task_heads = if rows * shape.n_kv_heads * shape.d_head < WRITE { shape.n_kv_heads } else { 1 };
    let new = New { qkv, n_heads, slots, shape, task_heads };
    match cache {
        KvLayer::Elem { keys, values } => new.write(backend, keys, values, |x| x),
        KvLayer::F16 { keys, values } => new.write(backend, keys, values, |x| to_f16(x.to_f32())),
        KvLayer::Int8 { keys, values, key_scales, value_scales } => {
            new.write_rounded(backend, (keys, key_scales), (values, value_scales));
        }
    }
}

/// What is new.
struct New<'a, E> {
    qkv: &'a [E],
    n_heads: usize,
    slots: &'a [u32],
    shape: KvShape,
    /// Heads that one task writes.
    task_heads: usize,
}

impl<E: CpuElem> New<'_, E> {
    /// The part of the cache that each task writes, `width` for a place of a head.
    fn tiles<'c, T: Element>(
        &self,
        cache: &'c mut [T],
        width: usize,
    ) -> impl Parts<Part = Tile<'c, T>> + use<'c, T, E> {
        let KvShape { n_blocks, n_kv_heads, .. } = self.shape;
        let head_len = KV_BLOCK * width;
        GridMut::new(cache, n_kv_heads * head_len).tiles(n_blocks, n_blocks, self.task_heads * head_len)
    }

    /// Block and place of each new token, with the keys and values of a task's heads.
    fn rows(&self, task: usize) -> impl Iterator<Item = (usize, usize, &[E], &[E])> {
        let KvShape { n_kv_heads, d_head, .. } = self.shape;
        let columns = task * self.task_heads * d_head..(task + 1) * self.task_heads * d_head;
        let rows = self.qkv.chunks_exact((self.n_heads + 2 * n_kv_heads) * d_head);
        self.slots.iter().zip(rows).map(move |(slot, row)| {
            let (keys, values) = row[self.n_heads * d_head..].split_at(n_kv_heads * d_head);
            (*slot as usize / KV_BLOCK, *slot as usize % KV_BLOCK, &keys[columns.clone()], &values[columns.clone()])
        })
    }

    /// Writes each number as `stored` says.
    fn write<T: Element>(
        &self,
        backend: &CpuBackend<E>,
        keys: &mut [T],
        values: &mut [T],
        stored: impl Fn(E) -> T + Sync,
    ) {
        let d_head = self.shape.d_head;
        let head_len = KV_BLOCK * d_head;
        backend.pool().for_each(
            (self.tiles(keys, d_head), self.tiles(values, d_head)),
            |task, _, (mut keys, mut values)| {
                for (block, place, new_keys, new_values) in self.rows(task) {
                    let heads = keys.row(block).chunks_exact_mut(head_len).zip(new_keys.chunks_exact(d_head));
                    for (keys, new) in heads {
                        keys[place..].iter_mut().step_by(KV_BLOCK).zip(new).for_each(|(key, x)| *key = stored(*x));
                    }
                    let heads = values.row(block).chunks_exact_mut(head_len).zip(new_values.chunks_exact(d_head));
                    for (values, new) in heads {
                        let places = &mut values[place * d_head..][..d_head];
                        places.iter_mut().zip(new).for_each(|(value, x)| *value = stored(*x));
                    }
                }
            },
        );
    }

    /// Rounds each key and value of a head to integers with a scale.
    fn write_rounded(
        &self,
        backend: &CpuBackend<E>,
        (keys, key_scales): (&mut [i8], &mut [f32]),
        (values, value_scales): (&mut [i8], &mut [f32]),
    ) {
        let d_head = self.shape.d_head;
        let head_len = KV_BLOCK * d_head;
        let parts = (
            (self.tiles(keys, d_head), self.tiles(key_scales, 1)),
            (self.tiles(values, d_head), self.tiles(value_scales, 1)),
        );
        backend.pool().for_each(parts, |task, worker, ((mut keys, mut key_scales), (mut values, mut value_scales))| {
            backend.scratch().with(worker, d_head + d_head.div_ceil(size_of::<f32>()), |memory: &mut [f32]| {
                let (wide, codes) = memory.split_at_mut(d_head);
                let codes = &mut bytemuck::cast_slice_mut::<f32, i8>(codes)[..d_head];
                for (block, place, new_keys, new_values) in self.rows(task) {
                    for (head, new) in new_keys.chunks_exact(d_head).enumerate() {
                        wide.iter_mut().zip(new).for_each(|(wide, x)| *wide = x.to_f32());
                        key_scales.row(block)[head * KV_BLOCK + place] = quantize_head(wide, codes);
                        let keys = &mut keys.row(block)[head * head_len + place..];
                        keys.iter_mut().step_by(KV_BLOCK).zip(&*codes).for_each(|(key, code)| *key = *code);
                    }
                    for (head, new) in new_values.chunks_exact(d_head).enumerate() {
                        wide.iter_mut().zip(new).for_each(|(wide, x)| *wide = x.to_f32());
                        let values = &mut values.row(block)[head * head_len + place * d_head..][..d_head];
                        value_scales.row(block)[head * KV_BLOCK + place] = quantize_head(wide, values);
                    }
                }
            });
        });
    }
}
