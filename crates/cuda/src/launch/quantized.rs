//! Quantised weights: preparing, products, look-ups. `quantized.cuh` has the layout.

use verve_ops::quant::{ActivationPrecision, QuantKind, QuantPart, Unpacked, check_parts};
use verve_ops::{EmbedShape, LinearShape};

use crate::args::Args;
use crate::backend::{CudaBackend, CudaElem};
use crate::buffer::CudaBuf;
use crate::device::{DevicePtr, Grid};
use crate::error::DeviceError;
use crate::kernels::{self, Program};
use crate::launch::matmul::End;
use crate::weight::{CudaWeight, Storage};

/// Outputs side by side.
const PANEL: usize = 32;
/// Values of an output that a kernel takes at once.
const SLAB: usize = 32;
/// Rows of activations that the kernels for few rows take at once.
const FEW_ROWS: usize = 8;
/// The same for many rows.
const MANY_ROWS: usize = 32;
/// Bytes of 32 rounded activations, `ActivationBlock` in `activations.cu`.
const ACTIVATION_BYTES: usize = 48;
/// Planes begin at multiples of this, for vector loads.
const ALIGN: usize = 256;

/// A quantised weight in the device's memory.
pub struct Quantized {
    parts: Vec<Part>,
    d_out: usize,
    d_in: usize,
    precision: ActivationPrecision,
}

/// Some outputs of one format.
struct Part {
    kind: QuantKind,
    /// The first of them.
    first: usize,
    rows: usize,
    planes: CudaBuf<u8>,
}

/// What the layout of a format is made of, as the sources of the kernels define it.
#[derive(Debug, Clone, Copy)]
struct Layout {
    low: usize,
    high: usize,
    groups: usize,
    /// 16-bit numbers of a block, and multipliers of a group: 1, or 2 with offsets.
    numbers: usize,
    /// Slabs that share the 16-bit numbers.
    block_slabs: usize,
}

impl Layout {
    fn of(kind: QuantKind) -> Self {
        let (low, high) = match kind.code_bits() {
            2 => (2, 0),
            3 => (2, 1),
            4 => (4, 0),
            5 => (4, 1),
            6 => (4, 2),
            _ => (8, 0),
        };
        Layout {
            low,
            high,
            groups: SLAB / kind.group_len(),
            numbers: if kind.has_offsets() { 2 } else { 1 },
            block_slabs: kind.block_len() / SLAB,
        }
    }

    /// Bytes of multipliers of a slab of one output.
    fn factor_bytes(self) -> usize {
        if self.block_slabs > 1 { self.groups * self.numbers } else { 0 }
    }

    /// Bytes of a panel in each plane: codes, high bits, factors, 16-bit numbers.
    fn panel_bytes(self, d_in: usize) -> [usize; 4] {
        let lanes = d_in / SLAB * PANEL;
        [
            lanes * self.low * 4,
            lanes * self.high * 4,
            lanes * self.factor_bytes(),
            lanes / self.block_slabs * self.numbers * 2,
        ]
    }

    /// Where each plane of `rows` outputs begins, and bytes of all.
    fn planes(self, rows: usize, d_in: usize) -> ([usize; 4], usize) {
        let mut end = 0;
        let starts = self.panel_bytes(d_in).map(|bytes| {
            let start = end;
            end = (start + bytes * rows.div_ceil(PANEL)).next_multiple_of(ALIGN);
            start
        });
        (starts, end)
    }
}

/// Some panels' piece of each plane.
struct Panels<'a> {
    codes: &'a mut [u8],
    highs: &'a mut [u8],
    factors: &'a mut [u8],
    halves: &'a mut [u8],
}

impl<'a> Panels<'a> {
    /// Takes as many bytes off the front of each plane.
    fn split_off(&mut self, sizes: [usize; 4]) -> Panels<'a> {
        let front = |plane: &mut &'a mut [u8], size: usize| {
            let (front, rest) = std::mem::take(plane).split_at_mut(size);
            *plane = rest;
            front
        };
        Panels {
            codes: front(&mut self.codes, sizes[0]),
            highs: front(&mut self.highs, sizes[1]),
            factors: front(&mut self.factors, sizes[2]),
            halves: front(&mut self.halves, sizes[3]),
        }
    }

    /// Fills in the blocks of one output of the first panel.
    fn put_row(&mut self, kind: QuantKind, layout: Layout, lane: usize, row: &[u8]) {
        let mut unpacked = Unpacked::default();
        for (number, block) in row.chunks_exact(kind.block_bytes()).enumerate() {
            kind.unpack(block, &mut unpacked);
            let halves = [unpacked.scale.to_le_bytes(), unpacked.offset.to_le_bytes()];
            for (i, half) in halves.iter().take(layout.numbers).enumerate() {
                self.halves[((number * PANEL + lane) * layout.numbers + i) * 2..][..2].copy_from_slice(half);
            }
            for in_block in 0..layout.block_slabs {
                let at = (number * layout.block_slabs + in_block) * PANEL + lane;
                let codes = &unpacked.codes[in_block * SLAB..][..SLAB];
                self.put_codes(layout, at, codes);
                if layout.block_slabs > 1 {
                    let groups = in_block * layout.groups..(in_block + 1) * layout.groups;
                    let multipliers = unpacked.multipliers[groups.clone()].iter();
                    let all = multipliers.chain(&unpacked.offset_multipliers[groups]);
                    let to = &mut self.factors[at * layout.factor_bytes()..][..layout.factor_bytes()];
                    to.iter_mut().zip(all).for_each(|(to, multiplier)| *to = *multiplier as u8);
                }
            }
        }
    }

    /// The codes of a slab of one output: those at `4 j + b` go to byte `b` of a word.
    fn put_codes(&mut self, layout: Layout, at: usize, codes: &[u8]) {
        let Layout { low, high, .. } = layout;
        let (slab, lane) = (at / PANEL, at % PANEL);
        let per_word = 8 / low;
        for (i, &code) in codes.iter().enumerate() {
            let (quad, byte) = (i / 4, i % 4);
            let (word, place) = (quad / per_word, quad % per_word);
            // Words of a lane lie together up to four of them; the fours of all lanes follow each other.
            let word =
                if low == 2 { at * 2 + word } else { ((slab * (low / 4) + word / 4) * PANEL + lane) * 4 + word % 4 };
            let bits = if low == 8 { code ^ 0x80 } else { code & ((1 << low) - 1) };
            self.codes[word * 4 + byte] |= bits << (low * place);
            if high > 0 {
                let (word, place) = if high == 1 { (0, quad) } else { (quad / 4, quad % 4) };
                self.highs[(at * high + word) * 4 + byte] |= code >> low << (high * place);
            }
        }
    }
}

/// Puts the blocks of a part into the layout of the kernels, on all of the machine's cores: models have many of them.
fn pack(part: &QuantPart<'_>, d_in: usize) -> Vec<u8> {
    let layout = Layout::of(part.kind);
    let (starts, bytes) = layout.planes(part.rows, d_in);
    let sizes = layout.panel_bytes(d_in);
    let mut planes = vec![0; bytes];
    let row_bytes = part.kind.bytes(d_in);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let panels = part.rows.div_ceil(PANEL).div_ceil(workers);

    let (codes, rest) = planes.split_at_mut(starts[1]);
    let (highs, rest) = rest.split_at_mut(starts[2] - starts[1]);
    let (factors, halves) = rest.split_at_mut(starts[3] - starts[2]);
    let mut left = Panels { codes, highs, factors, halves };
    std::thread::scope(|scope| {
        for rows in part.blocks.chunks(row_bytes * PANEL * panels) {
            let mut mine = left.split_off(sizes.map(|size| size * rows.len().div_ceil(row_bytes * PANEL)));
            scope.spawn(move || {
                for rows in rows.chunks(row_bytes * PANEL) {
                    let mut panel = mine.split_off(sizes);
                    for (lane, row) in rows.chunks_exact(row_bytes).enumerate() {
                        panel.put_row(part.kind, layout, lane, row);
                    }
                }
            });
        }
    });
    planes
}

/// Puts quantised blocks into the layout that the kernels read.
pub fn prepare<E: CudaElem>(
    backend: &CudaBackend<E>,
    parts: &[QuantPart<'_>],
    d_in: usize,
    precision: ActivationPrecision,
) -> Result<CudaWeight<E>, DeviceError> {
    let d_out = check_parts(parts, d_in);
    let mut first = 0;
    let mut prepared = Vec::with_capacity(parts.len());
    for part in parts.iter().filter(|part| part.rows > 0 && d_in > 0) {
        let packed = pack(part, d_in);
        let planes = CudaBuf::zeroed(backend.device(), packed.len())?;
        backend.device().upload(&packed, planes.address())?;
        prepared.push(Part { kind: part.kind, first, rows: part.rows, planes });
        first += part.rows;
    }
    Ok(CudaWeight { d_out, d_in, storage: Storage::Quantized(Quantized { parts: prepared, d_out, d_in, precision }) })
}

/// Bytes of a prepared weight of such parts.
pub fn prepared_bytes(parts: &[(QuantKind, usize)], d_in: usize) -> usize {
    parts.iter().map(|(kind, rows)| Layout::of(*kind).planes(*rows, d_in).1).sum()
}

/// Parts in which a row of activations is rounded.
fn activation_parts(precision: ActivationPrecision) -> usize {
    if precision == ActivationPrecision::Int16 { 2 } else { 1 }
}

/// Rows of activations as the kernels take them: those of all parts, and zeros behind.
fn padded_rows(rows: usize, precision: ActivationPrecision) -> usize {
    let rows = rows * activation_parts(precision);
    if rows <= FEW_ROWS || precision == ActivationPrecision::Exact {
        rows.next_multiple_of(FEW_ROWS)
    } else {
        rows.next_multiple_of(MANY_ROWS)
    }
}

/// Bytes of the activations of a product: rounded or widened.
fn activation_bytes(rows: usize, d_in: usize, precision: ActivationPrecision) -> usize {
    padded_rows(rows, precision)
        * match precision {
            ActivationPrecision::Exact => d_in * size_of::<f32>(),
            ActivationPrecision::Int8 | ActivationPrecision::Int16 => d_in.div_ceil(SLAB) * ACTIVATION_BYTES,
        }
}

/// Most bytes of [`CudaBackend::scratch`] that products of these sizes take.
pub fn scratch_bytes(shape: LinearShape) -> usize {
    let all = [ActivationPrecision::Exact, ActivationPrecision::Int8, ActivationPrecision::Int16];
    all.map(|precision| activation_bytes(shape.rows, shape.d_in, precision)).into_iter().max().unwrap_or(0)
}

/// The program with the kernels of a format.
fn program(kind: QuantKind) -> &'static Program {
    match kind {
        QuantKind::Q8_0 => &kernels::Q8_0,
        QuantKind::Q4_0 => &kernels::Q4_0,
        QuantKind::Q4_1 => &kernels::Q4_1,
        QuantKind::Q5_0 => &kernels::Q5_0,
        QuantKind::Q5_1 => &kernels::Q5_1,
        QuantKind::Q2K => &kernels::Q2_K,
        QuantKind::Q3K => &kernels::Q3_K,
        QuantKind::Q4K => &kernels::Q4_K,
        QuantKind::Q5K => &kernels::Q5_K,
        QuantKind::Q6K => &kernels::Q6_K,
    }
}

/// What a call computes with one part, besides the part itself.
#[derive(Clone, Copy, Default)]
struct Call {
    activations: DevicePtr,
    /// Those of the part's first output.
    out: DevicePtr,
    bias: DevicePtr,
    aux: DevicePtr,
    aux_out: DevicePtr,
    rows: usize,
    padded: usize,
    parts: usize,
    width: usize,
    end: usize,
    function: usize,
}

/// The fields of `Quantized` in `quantized.cuh`.
fn part_args(part: &Part, d_in: usize, call: Call) -> Args {
    let (starts, _) = Layout::of(part.kind).planes(part.rows, d_in);
    let [codes, highs, factors, halves] = starts.map(|start| part.planes.address() + start as u64);
    Args::new()
        .address(codes)
        .address(highs)
        .address(factors)
        .address(halves)
        .address(call.activations)
        .address(call.out)
        .address(call.bias)
        .address(call.aux)
        .address(call.aux_out)
        .u32(call.rows)
        .u32(part.rows)
        .u32(d_in / SLAB)
        .u32(call.padded)
        .u32(call.parts)
        .u32(call.width)
        .u32(call.end)
        .u32(call.function)
}

/// `out = end(inp . weight^T + bias)`.
pub(super) fn product<E: CudaElem>(
    backend: &CudaBackend<E>,
    inp: DevicePtr,
    weight: &Quantized,
    out: DevicePtr,
    (bias, end): (DevicePtr, End),
    shape: LinearShape,
) {
    let (rows, d_in, slabs) = (shape.rows, weight.d_in, weight.d_in / SLAB);
    if rows == 0 || weight.parts.is_empty() {
        return;
    }
    let Some(activations) = backend.scratch(activation_bytes(rows, d_in, weight.precision)) else { return };
    let program_of_activations = &kernels::ACTIVATIONS;
    let (parts, padded) = (activation_parts(weight.precision), padded_rows(rows, weight.precision));
    let args = Args::new().address(inp).address(activations.address()).u32(rows);
    let exact = weight.precision == ActivationPrecision::Exact;
    if exact {
        let args = args.u32(d_in).u32(padded);
        backend.launch(program_of_activations, "widen_activations", Grid::items(padded * d_in), args);
    } else {
        let args = args.u32(slabs).u32(padded).u32(parts);
        let grid = Grid::blocks((padded / parts * slabs).div_ceil(8), 256);
        backend.launch(program_of_activations, "round_activations", grid, args);
    }

    let out_bytes = if matches!(end, End::Acc) { size_of::<f32>() } else { size_of::<E>() };
    let (end, aux, aux_out, function) = end.parameters();
    for part in &weight.parts {
        let behind =
            |address: DevicePtr, bytes: usize| if address == 0 { 0 } else { address + (part.first * bytes) as u64 };
        let call = Call {
            activations: activations.address(),
            out: behind(out, out_bytes),
            bias: behind(bias, size_of::<E>()),
            aux: behind(aux, size_of::<E>()),
            aux_out: behind(aux_out, size_of::<E>()),
            rows,
            padded,
            parts,
            width: weight.d_out,
            end,
            function,
        };
        let panels = part.rows.div_ceil(PANEL);
        let layout = Layout::of(part.kind);
        // The links of the chains of 64 pairs of a row and a slab.
        let links = 64 * layout.groups * layout.numbers * PANEL * 8;
        let tiles = |blocks: usize, rows: usize, threads| Grid {
            blocks: [blocks, padded / rows, 1],
            threads: [threads, 1, 1],
            shared_bytes: 0,
        };
        let (kernel, grid) = match rows * parts {
            _ if exact => ("exact_product", tiles(panels, FEW_ROWS, 256)),
            0..=2 => ("rounded_few_2", Grid::blocks(panels, 256).shared(links)),
            3..=FEW_ROWS => ("rounded_few_8", Grid::blocks(panels, 256).shared(links)),
            _ => ("rounded_many", tiles(panels.div_ceil(4), MANY_ROWS, 128)),
        };
        backend.launch(program(part.kind), kernel, grid, part_args(part, d_in, call));
    }
}

/// `out[n] = weight[tokens[n]] + pos_table[positions[n]]`, added in `f32` and rounded once; `(positions, pos_table)` with a
/// table of 0 for none. Ids out of range give NaN.
pub(super) fn embed<E: CudaElem>(
    backend: &CudaBackend<E>,
    tokens: DevicePtr,
    weight: &Quantized,
    (positions, pos_table): (DevicePtr, DevicePtr),
    out: DevicePtr,
    shape: EmbedShape,
) {
    for part in &weight.parts {
        let call = Call { out, rows: shape.rows, ..Call::default() };
        let args = part_args(part, weight.d_in, call)
            .address(tokens)
            .address(positions)
            .address(pos_table)
            .u32(part.first)
            .u32(shape.n_vocab)
            .u32(shape.n_positions);
        backend.launch(program(part.kind), "look_up", Grid::blocks(shape.rows, 256), args);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use half::f16;

    /// Reads a value back the way `Slab` in `quantized.cuh` does.
    fn value(kind: QuantKind, planes: &[u8], (rows, d_in): (usize, usize), row: usize, column: usize) -> f32 {
        let layout = Layout::of(kind);
        let ([codes, highs, factors, halves], _) = layout.planes(rows, d_in);
        let (panel, lane, slab, i) = (row / PANEL, row % PANEL, column / SLAB, column % SLAB);
        let word = |at: usize| u32::from_le_bytes(planes[at..at + 4].try_into().unwrap());
        let at = panel * (d_in / SLAB) + slab;
        let (quad, byte, per_word) = (i / 4, i % 4, 8 / layout.low);
        let place = quad / per_word;
        let code_word = match layout.low {
            2 => (at * PANEL + lane) * 2 + place,
            low => ((at * (low / 4) + place / 4) * PANEL + lane) * 4 + place % 4,
        };
        let pick = |word: u32, shift: usize, bits: usize| (word >> shift >> (8 * byte)) & ((1 << bits) - 1);
        let mut code = pick(word(codes + code_word * 4), layout.low * (quad % per_word), layout.low) as i32;
        if layout.low == 8 {
            code = i32::from(code as u8 as i8) + i32::from(kind.zero());
        }
        if let Some(per_word) = 8usize.checked_div(layout.high) {
            let high_word = word(highs + ((at * PANEL + lane) * layout.high + quad / per_word.min(8)) * 4);
            code |= (pick(high_word, layout.high * (quad % per_word), layout.high) as i32) << layout.low;
        }
        let block = panel * (d_in / SLAB / layout.block_slabs) + slab / layout.block_slabs;
        let half = |i: usize| {
            let at = halves + ((block * PANEL + lane) * layout.numbers + i) * 2;
            f16::from_le_bytes([planes[at], planes[at + 1]]).to_f32()
        };
        let group = i / kind.group_len();
        let factor = |i: usize| {
            if layout.block_slabs == 1 {
                return [1.0, -1.0][i];
            }
            let at = (at * PANEL + lane) * layout.factor_bytes() + i * layout.groups + group;
            f32::from(planes[factors + at] as i8)
        };
        let product = half(0) * factor(0) * (code - i32::from(kind.zero())) as f32;
        if kind.has_offsets() { product - half(1) * factor(1) } else { product }
    }

    /// Every value of every format is where the kernels look for it, also in a panel that is not full.
    #[test]
    fn packed_values_are_where_kernels_look() {
        for (seed, kind) in QuantKind::ALL.into_iter().enumerate() {
            let (rows, d_in) = (37, 512);
            let blocks =
                verve_testkit::quant::random_blocks(&mut verve_testkit::Data::new(seed as u64), kind, rows * d_in);
            let part = QuantPart { kind, blocks: &blocks, rows };
            let planes = pack(&part, d_in);
            assert_eq!(planes.len(), prepared_bytes(&[(kind, rows)], d_in));
            let mut expected = vec![0f32; rows * d_in];
            kind.dequantize(&blocks, &mut expected);
            for (at, expected) in expected.iter().enumerate() {
                let found = value(kind, &planes, (rows, d_in), at / d_in, at % d_in);
                assert_eq!(found.to_bits(), expected.to_bits(), "{kind}, value {at}: {found}, not {expected}");
            }
        }
    }
}
