//! Accesses of kernels to memory.

use crate::block::Block;
use crate::code::{Address, Atomic, CopyAsync, LaneFault, Load, Matrix, Store, Value};
use crate::decode::whole_warp;
use crate::error::{FaultKind, Space};
use crate::machine::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::memory::Bits;
use crate::races::Access;
use crate::regs::{LANES, RegRef, Regs, lanes};
use crate::warp::{Copy16, Warp};

/// Shared memory of the block that runs.
#[derive(Debug)]
pub struct Shared {
    bytes: Vec<u8>,
    written: Bits,
}

impl Shared {
    /// Of a size.
    pub fn new(bytes: usize) -> Self {
        Self { bytes: vec![0xFF; bytes], written: Bits::new(bytes) }
    }

    /// As a new block finds it.
    pub fn reset(&mut self) {
        self.bytes.fill(0xFF);
        self.written.reset(self.bytes.len());
    }
}

/// Where an access lies.
#[derive(Debug, Clone, Copy)]
struct Place {
    space: Space,
    at: usize,
}

impl Address {
    /// The address in each lane.
    #[inline(always)]
    fn lanes(self, regs: &Regs) -> [u64; LANES] {
        let offset = if self.frame { self.offset.wrapping_add(regs.local_base) } else { self.offset };
        match self.base {
            Some(RegRef::B64(i)) => regs.b64[i as usize].map(|a| a.wrapping_add(offset)),
            Some(RegRef::B32(i)) => regs.b32[i as usize].map(|a| u64::from(a.wrapping_add(offset as u32))),
            _ => [offset; LANES],
        }
    }
}

/// Places of a warp's access, all of it sound.
struct Batch {
    space: Space,
    /// Offsets in its memory, of the active lanes.
    offsets: [u64; LANES],
}

impl Value {
    /// Takes an element at `shift` bytes from each lane's place.
    #[inline(always)]
    fn gather(self, regs: &mut Regs, load: &Load, (memory, batch, shift): (&[u8], &Batch, usize), mask: u32) {
        let at = |lane: usize| batch.offsets[lane] as usize + shift;
        match (self.reg, load.bytes) {
            (RegRef::B32(i), 4) => {
                let out = &mut regs.b32[i as usize];
                lanes(mask, |lane| out[lane] = u32::from_le_bytes(piece(memory, at(lane))));
            }
            (RegRef::B32(i), 2) if !load.signed => {
                let out = &mut regs.b32[i as usize];
                lanes(mask, |lane| out[lane] = u32::from(u16::from_le_bytes(piece(memory, at(lane)))));
            }
            (RegRef::B32(i), 1) if !load.signed => {
                let out = &mut regs.b32[i as usize];
                lanes(mask, |lane| out[lane] = u32::from(memory[at(lane)]));
            }
            (RegRef::B64(i), 8) => {
                let out = &mut regs.b64[i as usize];
                lanes(mask, |lane| out[lane] = u64::from_le_bytes(piece(memory, at(lane))));
            }
            _ => lanes(mask, |lane| {
                let v = number(&memory[at(lane)..at(lane) + load.bytes], load.signed);
                self.set(regs, lane, v);
            }),
        }
    }

    /// Puts an element at `shift` bytes from each lane's place.
    #[inline(always)]
    fn scatter(self, regs: &Regs, bytes: usize, (memory, batch, shift): (&mut [u8], &Batch, usize), mask: u32) {
        let at = |lane: usize| batch.offsets[lane] as usize + shift;
        match (self.reg, bytes) {
            (RegRef::B32(i), 4) => {
                let from = &regs.b32[i as usize];
                lanes(mask, |lane| memory[at(lane)..at(lane) + 4].copy_from_slice(&from[lane].to_le_bytes()));
            }
            (RegRef::B32(i), 2) => {
                let from = &regs.b32[i as usize];
                lanes(mask, |lane| memory[at(lane)..at(lane) + 2].copy_from_slice(&from[lane].to_le_bytes()[..2]));
            }
            _ => lanes(mask, |lane| {
                let v = self.get(regs, lane).to_le_bytes();
                memory[at(lane)..at(lane) + bytes].copy_from_slice(&v[..bytes]);
            }),
        }
    }

    #[inline(always)]
    fn set(self, regs: &mut Regs, lane: usize, v: u64) {
        match self.reg {
            RegRef::B32(i) if self.bits == 16 => regs.b32[i as usize][lane] = v as u32 & 0xFFFF,
            RegRef::B32(i) => regs.b32[i as usize][lane] = v as u32,
            RegRef::B64(i) => regs.b64[i as usize][lane] = v,
            RegRef::Pred(_) => {}
        }
    }

    #[inline(always)]
    fn get(self, regs: &Regs, lane: usize) -> u64 {
        match self.reg {
            RegRef::B32(i) => u64::from(regs.b32[i as usize][lane]),
            RegRef::B64(i) => regs.b64[i as usize][lane],
            RegRef::Pred(_) => 0,
        }
    }
}

#[inline(always)]
fn piece<const N: usize>(memory: &[u8], at: usize) -> [u8; N] {
    memory[at..].first_chunk().copied().unwrap_or([0; N])
}

/// Little-endian bytes, at most eight, as a number.
#[inline(always)]
fn number(bytes: &[u8], signed: bool) -> u64 {
    match *bytes {
        [a] if signed => a as i8 as u64,
        [a] => u64::from(a),
        [a, b] if signed => i16::from_le_bytes([a, b]) as u64,
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] if signed => i32::from_le_bytes([a, b, c, d]) as u64,
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => 0,
    }
}

impl Block<'_> {
    /// Checks an access and finds its place.
    #[inline(always)]
    fn locate(&self, warp: &Warp, space: Space, address: u64, bytes: usize) -> Result<Place, FaultKind> {
        let (space, address) = if space == Space::Generic { generic(address)? } else { (space, address) };
        let length = match space {
            Space::Shared => self.shared.bytes.len(),
            Space::Local => warp.local[0].len(),
            Space::Param => self.launch.params.len(),
            _ => return Ok(Place { space: Space::Global, at: self.global.locate(address, bytes)? }),
        };
        if !address.is_multiple_of(bytes as u64) {
            return Err(FaultKind::Misaligned { space, address, bytes: bytes as u64 });
        }
        if address > length as u64 || length as u64 - address < bytes as u64 {
            return Err(FaultKind::OutOfBounds { space, address, bytes: bytes as u64 });
        }
        Ok(Place { space, at: address as usize })
    }

    /// The bytes of a place that is read.
    #[inline(always)]
    fn view<'b>(&'b self, warp: &'b Warp, lane: usize, place: Place, bytes: usize) -> Result<&'b [u8], FaultKind> {
        let (memory, written) = match place.space {
            Space::Shared => (&self.shared.bytes, Some(&self.shared.written)),
            Space::Local => (&warp.local[lane], None),
            Space::Param => return Ok(&self.launch.params[place.at..place.at + bytes]),
            _ => (&self.global.bytes, Some(&self.global.written)),
        };
        if self.checks.memory
            && let Some(written) = written
            && !written.all(place.at, bytes)
        {
            let address = place.at as u64 + if place.space == Space::Global { crate::memory::BASE } else { 0 };
            return Err(FaultKind::UninitialisedMemory { space: place.space, address, bytes: bytes as u64 });
        }
        Ok(&memory[place.at..place.at + bytes])
    }

    /// The bytes of a place that is written.
    #[inline(always)]
    fn view_mut<'b>(&'b mut self, warp: &'b mut Warp, lane: usize, place: Place, bytes: usize) -> &'b mut [u8] {
        let memory = match place.space {
            Space::Shared => {
                self.shared.written.set(place.at, bytes);
                &mut self.shared.bytes
            }
            Space::Local => &mut warp.local[lane],
            _ => {
                self.global.written.set(place.at, bytes);
                &mut self.global.bytes
            }
        };
        &mut memory[place.at..place.at + bytes]
    }

    /// Notes an access for the search for races.
    #[inline(always)]
    fn note(
        &mut self,
        (warp, lane): (usize, usize),
        place: Place,
        bytes: usize,
        access: Access,
    ) -> Result<(), FaultKind> {
        match place.space {
            Space::Shared if self.checks.shared_races => self.shared_races.note(place.at, bytes, access, (warp, lane)),
            Space::Global if self.checks.global_races => self.global_races.note(place.at, bytes, access),
            _ => Ok(()),
        }
    }

    /// The places of a warp's access where all of it is sound; whoever finds none looks at each lane to say why.
    #[inline(always)]
    fn together(&self, space: Space, addresses: &[u64; LANES], mask: u32, bytes: usize) -> Option<Batch> {
        let (space, base) = match space {
            Space::Shared => (Space::Shared, 0),
            Space::Global | Space::Generic => (Space::Global, crate::memory::BASE),
            Space::Local | Space::Param => return None,
        };
        let mut offsets = [0u64; LANES];
        let (mut low, mut high, mut bits) = (u64::MAX, 0, 0);
        lanes(mask, |lane| {
            let offset = addresses[lane].wrapping_sub(base);
            offsets[lane] = offset;
            low = low.min(offset);
            high = high.max(offset);
            bits |= offset;
        });
        let inside = match space {
            Space::Shared => high.saturating_add(bytes as u64) <= self.shared.bytes.len() as u64,
            _ => self.global.within(low, high, bytes),
        };
        (inside && bits & (bytes as u64 - 1) == 0).then_some(Batch { space, offsets })
    }

    /// Notes the accesses of all lanes.
    #[inline(always)]
    fn note_all(
        &mut self,
        warp: usize,
        batch: &Batch,
        mask: u32,
        bytes: usize,
        access: Access,
    ) -> Result<(), LaneFault> {
        match batch.space {
            Space::Shared if self.checks.shared_races => {
                each(mask, |lane| self.shared_races.note(batch.offsets[lane] as usize, bytes, access, (warp, lane)))
            }
            Space::Global if self.checks.global_races => {
                let noted = self.global_races.note_all(&batch.offsets, mask, bytes, access);
                noted.map_err(|(lane, kind)| LaneFault { lane, kind })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn load(&mut self, warp: &mut Warp, load: &Load, mask: u32) -> Result<(), LaneFault> {
        let bytes = load.bytes * load.values.len();
        let Some(frame) = warp.frames.last_mut() else { return Ok(()) };
        let addresses = load.address.lanes(&frame.regs);
        if let Some(batch) = self.together(load.space, &addresses, mask, bytes) {
            let (memory, written) = match batch.space {
                Space::Shared => (&self.shared.bytes, &self.shared.written),
                _ => (&self.global.bytes, &self.global.written),
            };
            let mut sound = true;
            if self.checks.memory {
                lanes(mask, |lane| sound &= written.all(batch.offsets[lane] as usize, bytes));
            }
            if sound {
                for (n, value) in load.values.iter().enumerate() {
                    value.gather(&mut frame.regs, load, (memory, &batch, n * load.bytes), mask);
                }
                return self.note_all(warp.index, &batch, mask, bytes, Access::Read);
            }
        }
        let index = warp.index;
        each(mask, |lane| {
            let place = self.locate(warp, load.space, addresses[lane], bytes)?;
            self.note((index, lane), place, bytes, Access::Read)?;
            let mut data = [0u8; 32];
            data[..bytes].copy_from_slice(self.view(warp, lane, place, bytes)?);
            if let Some(frame) = warp.frames.last_mut() {
                for (value, piece) in load.values.iter().zip(data.chunks_exact(load.bytes)) {
                    value.set(&mut frame.regs, lane, number(piece, load.signed));
                }
            }
            Ok(())
        })
    }

    pub(crate) fn store(&mut self, warp: &mut Warp, store: &Store, mask: u32) -> Result<(), LaneFault> {
        let bytes = store.bytes * store.values.len();
        let Some(frame) = warp.frames.last() else { return Ok(()) };
        let addresses = store.address.lanes(&frame.regs);
        let index = warp.index;
        if let Some(batch) = self.together(store.space, &addresses, mask, bytes) {
            self.note_all(index, &batch, mask, bytes, Access::Write)?;
            let (memory, written) = match batch.space {
                Space::Shared => (&mut self.shared.bytes, &mut self.shared.written),
                _ => (&mut self.global.bytes, &mut self.global.written),
            };
            lanes(mask, |lane| written.set(batch.offsets[lane] as usize, bytes));
            for (n, value) in store.values.iter().enumerate() {
                value.scatter(&frame.regs, store.bytes, (memory, &batch, n * store.bytes), mask);
            }
            return Ok(());
        }
        each(mask, |lane| {
            let place = self.locate(warp, store.space, addresses[lane], bytes)?;
            self.note((index, lane), place, bytes, Access::Write)?;
            let mut data = [0u8; 32];
            if let Some(frame) = warp.frames.last() {
                for (value, piece) in store.values.iter().zip(data.chunks_exact_mut(store.bytes)) {
                    piece.copy_from_slice(&value.get(&frame.regs, lane).to_le_bytes()[..store.bytes]);
                }
            }
            self.view_mut(warp, lane, place, bytes).copy_from_slice(&data[..bytes]);
            Ok(())
        })
    }

    pub(crate) fn atomic(&mut self, warp: &mut Warp, atomic: &Atomic, mask: u32) -> Result<(), LaneFault> {
        let bytes = atomic.bytes;
        let Some(frame) = warp.frames.last() else { return Ok(()) };
        let addresses = atomic.address.lanes(&frame.regs);
        let operand = |v: Option<Value>, lane: usize| {
            let wide = v.map_or(0, |v| v.get(&frame.regs, lane));
            number(&wide.to_le_bytes()[..bytes], false)
        };
        let b: [u64; LANES] = std::array::from_fn(|lane| operand(Some(atomic.b), lane));
        let c: [u64; LANES] = std::array::from_fn(|lane| operand(atomic.c, lane));
        let index = warp.index;
        each(mask, |lane| {
            let place = self.locate(warp, atomic.space, addresses[lane], bytes)?;
            self.note((index, lane), place, bytes, Access::Atomic)?;
            let old = number(self.view(warp, lane, place, bytes)?, false);
            let new = (atomic.op)(old, b[lane], c[lane]);
            self.view_mut(warp, lane, place, bytes).copy_from_slice(&new.to_le_bytes()[..bytes]);
            if let (Some(value), Some(frame)) = (atomic.old, warp.frames.last_mut()) {
                value.set(&mut frame.regs, lane, old);
            }
            Ok(())
        })
    }

    pub(crate) fn copy_async(&mut self, warp: &mut Warp, copy: &CopyAsync, mask: u32) -> Result<(), LaneFault> {
        let Some(frame) = warp.frames.last() else { return Ok(()) };
        let (to, from) = (copy.to.lanes(&frame.regs), copy.from.lanes(&frame.regs));
        let sizes: [u32; LANES] = copy.source_bytes.map_or([copy.bytes as u32; LANES], |r| *r.get(&frame.regs));
        let ignored = copy.ignore.map_or(0, |p| p.mask(&frame.regs));
        let index = warp.index;
        each(mask, |lane| {
            let place = self.locate(warp, Space::Shared, to[lane], copy.bytes)?;
            let size = if ignored >> lane & 1 == 1 { 0 } else { sizes[lane] as usize };
            if size > copy.bytes {
                return Err(FaultKind::Undefined("cp.async reads more than it writes"));
            }
            let mut data = [0u8; 16];
            if size == copy.bytes {
                let source = self.locate(warp, Space::Global, from[lane], size)?;
                self.note((index, lane), source, size, Access::Read)?;
                data[..size].copy_from_slice(self.view(warp, lane, source, size)?);
            } else {
                if !from[lane].is_multiple_of(copy.bytes as u64) {
                    let (address, bytes) = (from[lane], copy.bytes as u64);
                    return Err(FaultKind::Misaligned { space: Space::Global, address, bytes });
                }
                for (n, byte) in data[..size].iter_mut().enumerate() {
                    let source = self.locate(warp, Space::Global, from[lane] + n as u64, 1)?;
                    self.note((index, lane), source, 1, Access::Read)?;
                    *byte = self.view(warp, lane, source, 1)?[0];
                }
            }
            // From here on the old content may be gone, and the new one is not there before it is waited for.
            self.note((index, lane), place, copy.bytes, Access::Write)?;
            self.shared.written.clear(place.at, copy.bytes);
            warp.open_copies.push(Copy16 { lane, to: place.at, data, bytes: copy.bytes });
            Ok(())
        })
    }

    pub(crate) fn wait_copies(&mut self, warp: &mut Warp, mask: u32, n: u32) -> Result<(), LaneFault> {
        let index = warp.index;
        for copy in warp.wait(mask, n) {
            let place = Place { space: Space::Shared, at: copy.to };
            let lane = copy.lane;
            self.note((index, lane), place, copy.bytes, Access::Write).map_err(|kind| LaneFault { lane, kind })?;
            self.view_mut(warp, copy.lane, place, copy.bytes).copy_from_slice(&copy.data[..copy.bytes]);
        }
        Ok(())
    }

    /// Lane 8m + r gives the address of row r of matrix m; lane l takes row l / 4, columns 2 (l mod 4) and the next.
    pub(crate) fn load_matrix(&mut self, warp: &mut Warp, matrix: &Matrix, mask: u32) -> Result<(), LaneFault> {
        whole_warp(crate::code::Active { mask, living: warp.living })?;
        let Some(frame) = warp.frames.last() else { return Ok(()) };
        let addresses = matrix.address.lanes(&frame.regs);
        let space = if matrix.generic { Space::Generic } else { Space::Shared };
        let mut rows = [[0u8; 16]; LANES];
        let count = matrix.regs.len() * 8;
        let index = warp.index;
        each(crate::regs::ALL >> (32 - count), |lane| {
            let place = self.locate(warp, space, addresses[lane], 16)?;
            self.note((index, lane), place, 16, Access::Read)?;
            rows[lane].copy_from_slice(self.view(warp, lane, place, 16)?);
            Ok(())
        })?;
        let Some(frame) = warp.frames.last_mut() else { return Ok(()) };
        for (m, reg) in matrix.regs.iter().enumerate() {
            let at = |row: usize, column: usize| {
                let row = &rows[8 * m + row];
                u32::from(u16::from_le_bytes([row[2 * column], row[2 * column + 1]]))
            };
            let out = reg.get_mut(&mut frame.regs);
            for (lane, o) in out.iter_mut().enumerate() {
                let (r, c) = (lane / 4, lane % 4 * 2);
                *o = if matrix.transposed { at(c, r) | at(c + 1, r) << 16 } else { at(r, c) | at(r, c + 1) << 16 };
            }
        }
        Ok(())
    }

    /// The reverse of [`Block::load_matrix`].
    pub(crate) fn store_matrix(&mut self, warp: &mut Warp, matrix: &Matrix, mask: u32) -> Result<(), LaneFault> {
        whole_warp(crate::code::Active { mask, living: warp.living })?;
        let Some(frame) = warp.frames.last() else { return Ok(()) };
        let addresses = matrix.address.lanes(&frame.regs);
        let space = if matrix.generic { Space::Generic } else { Space::Shared };
        let mut rows = [[0u8; 16]; LANES];
        for (m, reg) in matrix.regs.iter().enumerate() {
            for (lane, bits) in reg.get(&frame.regs).iter().enumerate() {
                let (r, c) = (lane / 4, lane % 4 * 2);
                for (n, half) in [*bits as u16, (*bits >> 16) as u16].into_iter().enumerate() {
                    let (row, column) = if matrix.transposed { (c + n, r) } else { (r, c + n) };
                    rows[8 * m + row][2 * column..2 * column + 2].copy_from_slice(&half.to_le_bytes());
                }
            }
        }
        let index = warp.index;
        each(crate::regs::ALL >> (32 - matrix.regs.len() * 8), |lane| {
            let place = self.locate(warp, space, addresses[lane], 16)?;
            self.note((index, lane), place, 16, Access::Write)?;
            self.view_mut(warp, lane, place, 16).copy_from_slice(&rows[lane]);
            Ok(())
        })
    }
}

/// Which memory a generic address is in, and its address there.
fn generic(address: u64) -> Result<(Space, u64), FaultKind> {
    for (window, space) in [(SHARED_WINDOW, Space::Shared), (LOCAL_WINDOW, Space::Local), (PARAM_WINDOW, Space::Param)]
    {
        if address >= window && address - window < WINDOW_BYTES {
            return Ok((space, address - window));
        }
    }
    Ok((Space::Global, address))
}

/// Each lane of the mask; the first fault ends it.
#[inline(always)]
fn each(mask: u32, mut f: impl FnMut(usize) -> Result<(), FaultKind>) -> Result<(), LaneFault> {
    let mut result = Ok(());
    lanes(mask, |lane| {
        if result.is_ok() {
            result = f(lane).map_err(|kind| LaneFault { lane, kind });
        }
    });
    result
}
