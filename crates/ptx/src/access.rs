//! Accesses of kernels to memory.

use crate::block::Block;
use crate::code::{Address, Atomic, CopyAsync, LaneFault, Load, Matrix, Store, Value};
use crate::decode::whole_warp;
use crate::error::{FaultKind, Space};
use crate::machine::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::memory::Bits;
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

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
    Atomic,
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

impl Value {
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
        _warp: &Warp,
        _lane: usize,
        _place: Place,
        _bytes: usize,
        _access: Access,
    ) -> Result<(), FaultKind> {
        Ok(())
    }

    pub(crate) fn load(&mut self, warp: &mut Warp, load: &Load, mask: u32) -> Result<(), LaneFault> {
        let bytes = load.bytes * load.values.len();
        let Some(frame) = warp.frames.last() else { return Ok(()) };
        let addresses = load.address.lanes(&frame.regs);
        each(mask, |lane| {
            let place = self.locate(warp, load.space, addresses[lane], bytes)?;
            self.note(warp, lane, place, bytes, Access::Read)?;
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
        each(mask, |lane| {
            let place = self.locate(warp, store.space, addresses[lane], bytes)?;
            self.note(warp, lane, place, bytes, Access::Write)?;
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
        each(mask, |lane| {
            let place = self.locate(warp, atomic.space, addresses[lane], bytes)?;
            self.note(warp, lane, place, bytes, Access::Atomic)?;
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
        each(mask, |lane| {
            let place = self.locate(warp, Space::Shared, to[lane], copy.bytes)?;
            let size = if ignored >> lane & 1 == 1 { 0 } else { sizes[lane] as usize };
            if size > copy.bytes {
                return Err(FaultKind::Undefined("cp.async reads more than it writes"));
            }
            let mut data = [0u8; 16];
            if size == copy.bytes {
                let source = self.locate(warp, Space::Global, from[lane], size)?;
                self.note(warp, lane, source, size, Access::Read)?;
                data[..size].copy_from_slice(self.view(warp, lane, source, size)?);
            } else {
                if !from[lane].is_multiple_of(copy.bytes as u64) {
                    let (address, bytes) = (from[lane], copy.bytes as u64);
                    return Err(FaultKind::Misaligned { space: Space::Global, address, bytes });
                }
                for (n, byte) in data[..size].iter_mut().enumerate() {
                    let source = self.locate(warp, Space::Global, from[lane] + n as u64, 1)?;
                    self.note(warp, lane, source, 1, Access::Read)?;
                    *byte = self.view(warp, lane, source, 1)?[0];
                }
            }
            // From here on the old content may be gone, and the new one is not there before it is waited for.
            self.note(warp, lane, place, copy.bytes, Access::Write)?;
            self.shared.written.clear(place.at, copy.bytes);
            warp.open_copies.push(Copy16 { lane, to: place.at, data, bytes: copy.bytes });
            Ok(())
        })
    }

    pub(crate) fn wait_copies(&mut self, warp: &mut Warp, mask: u32, n: u32) {
        for copy in warp.wait(mask, n) {
            let place = Place { space: Space::Shared, at: copy.to };
            self.view_mut(warp, copy.lane, place, copy.bytes).copy_from_slice(&copy.data[..copy.bytes]);
        }
    }

    /// Lane 8m + r gives the address of row r of matrix m; lane l takes row l / 4, columns 2 (l mod 4) and the next.
    pub(crate) fn load_matrix(&mut self, warp: &mut Warp, matrix: &Matrix, mask: u32) -> Result<(), LaneFault> {
        whole_warp(crate::code::Active { mask, living: warp.living })?;
        let Some(frame) = warp.frames.last() else { return Ok(()) };
        let addresses = matrix.address.lanes(&frame.regs);
        let space = if matrix.generic { Space::Generic } else { Space::Shared };
        let mut rows = [[0u8; 16]; LANES];
        let count = matrix.regs.len() * 8;
        each(crate::regs::ALL >> (32 - count), |lane| {
            let place = self.locate(warp, space, addresses[lane], 16)?;
            self.note(warp, lane, place, 16, Access::Read)?;
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
        each(crate::regs::ALL >> (32 - matrix.regs.len() * 8), |lane| {
            let place = self.locate(warp, space, addresses[lane], 16)?;
            self.note(warp, lane, place, 16, Access::Write)?;
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
