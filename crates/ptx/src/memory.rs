//! Global memory: allocations, their bounds, and which bytes have been written.

use std::collections::BTreeMap;

use crate::error::{FaultKind, PtxError, Space};

/// The first address.
pub const BASE: u64 = 0x10_0000_0000;
/// Allocations start at multiples of this.
const PAGE: usize = 256;
/// What fresh memory holds: NaN in every floating-point type.
const FRESH: u8 = 0xFF;

/// One bit for every byte.
#[derive(Debug, Default, Clone)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// All zero.
    pub fn new(bytes: usize) -> Self {
        Self(vec![0; bytes.div_ceil(64)])
    }

    /// Sets the bits of an access that does not cross a multiple of 64 bytes.
    #[inline(always)]
    pub fn set(&mut self, at: usize, bytes: usize) {
        self.0[at / 64] |= mask(bytes) << (at % 64);
    }

    /// Clears them.
    pub fn clear(&mut self, at: usize, bytes: usize) {
        self.0[at / 64] &= !(mask(bytes) << (at % 64));
    }

    /// Whether all of them are set.
    #[inline(always)]
    pub fn all(&self, at: usize, bytes: usize) -> bool {
        let mask = mask(bytes) << (at % 64);
        self.0[at / 64] & mask == mask
    }

    /// Clears all.
    pub fn reset(&mut self, bytes: usize) {
        self.0.clear();
        self.0.resize(bytes.div_ceil(64), 0);
    }

    fn set_range(&mut self, at: usize, bytes: usize, value: bool) {
        let mut at = at;
        let end = at + bytes;
        while at < end {
            let n = (64 - at % 64).min(end - at);
            if value {
                self.set(at, n)
            } else {
                self.clear(at, n)
            }
            at += n;
        }
    }
}

#[inline(always)]
fn mask(bytes: usize) -> u64 {
    if bytes >= 64 { u64::MAX } else { (1 << bytes) - 1 }
}

/// The memory of the device.
#[derive(Debug)]
pub struct Global {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Which of them have been written.
    pub written: Bits,
    /// For each page of an allocation, the end of that; 0 for other pages.
    ends: Vec<usize>,
    /// Free pages: first and number.
    free: BTreeMap<usize, usize>,
    /// Allocations by first page: bytes and number of pages.
    taken: BTreeMap<usize, (usize, usize)>,
}

impl Global {
    /// Memory of this size, rounded up to pages.
    pub fn new(bytes: usize) -> Self {
        let pages = bytes.div_ceil(PAGE).max(1);
        Self {
            bytes: vec![0; pages * PAGE],
            written: Bits::new(pages * PAGE),
            ends: vec![0; pages],
            free: BTreeMap::from([(0, pages)]),
            taken: BTreeMap::new(),
        }
    }

    /// Takes memory; at least one page behind it stays unused, so that an access beyond its end is seen.
    pub fn alloc(&mut self, bytes: u64) -> Result<u64, PtxError> {
        let wanted = usize::try_from(bytes).ok().and_then(|b| b.div_ceil(PAGE).checked_add(1));
        let found =
            wanted.and_then(|n| self.free.iter().find(|(_, free)| **free >= n).map(|(at, free)| (*at, *free, n)));
        let Some((at, free, pages)) = found else {
            let largest = self.free.values().max().copied().unwrap_or(0);
            let free = (largest.saturating_sub(1) * PAGE) as u64;
            return Err(PtxError::OutOfMemory { requested: bytes, free });
        };
        self.free.remove(&at);
        if free > pages {
            self.free.insert(at + pages, free - pages);
        }
        let bytes = bytes as usize;
        self.taken.insert(at, (bytes, pages));
        self.ends[at..at + bytes.div_ceil(PAGE)].fill(at * PAGE + bytes);
        self.bytes[at * PAGE..at * PAGE + bytes].fill(FRESH);
        self.written.set_range(at * PAGE, bytes, false);
        Ok(BASE + (at * PAGE) as u64)
    }

    /// Gives an allocation back.
    pub fn free(&mut self, address: u64) -> Result<(), PtxError> {
        let page = address.checked_sub(BASE).map(|a| a as usize).filter(|a| a.is_multiple_of(PAGE)).map(|a| a / PAGE);
        let Some((mut start, (_, mut pages))) = page.and_then(|p| self.taken.remove(&p).map(|t| (p, t))) else {
            return Err(PtxError::HostAccess { what: "free", address, bytes: 0 });
        };
        self.ends[start..start + pages].fill(0);
        if let Some(after) = self.free.remove(&(start + pages)) {
            pages += after;
        }
        if let Some((&before, &n)) = self.free.range(..start).next_back()
            && before + n == start
        {
            self.free.remove(&before);
            start = before;
            pages += n;
        }
        self.free.insert(start, pages);
        Ok(())
    }

    /// Where the host's range lies, if within one allocation.
    pub fn range(&self, what: &'static str, address: u64, bytes: u64) -> Result<std::ops::Range<usize>, PtxError> {
        let error = PtxError::HostAccess { what, address, bytes };
        let Some(at) = address.checked_sub(BASE).and_then(|a| usize::try_from(a).ok()) else { return Err(error) };
        match self.taken.range(..=at / PAGE).next_back() {
            Some((page, (length, _))) if (at - page * PAGE) as u64 + bytes <= *length as u64 => {
                Ok(at..at + bytes as usize)
            }
            _ => Err(error),
        }
    }

    /// The host's bytes to a place that [`Global::range`] gave.
    pub fn write(&mut self, at: usize, data: &[u8]) {
        self.bytes[at..at + data.len()].copy_from_slice(data);
        self.written.set_range(at, data.len(), true);
    }

    /// The host's fill.
    pub fn fill(&mut self, range: std::ops::Range<usize>, value: u8) {
        self.written.set_range(range.start, range.len(), true);
        self.bytes[range].fill(value);
    }

    /// The host's copy.
    pub fn copy(&mut self, to: usize, from: std::ops::Range<usize>) {
        self.written.set_range(to, from.len(), true);
        self.bytes.copy_within(from, to);
    }

    /// Where a kernel's access lies: at most 16 bytes, aligned.
    #[inline(always)]
    pub fn locate(&self, address: u64, bytes: usize) -> Result<usize, FaultKind> {
        let at = address.wrapping_sub(BASE);
        if !address.is_multiple_of(bytes as u64) {
            return Err(FaultKind::Misaligned { space: Space::Global, address, bytes: bytes as u64 });
        }
        let end = self.ends.get((at / PAGE as u64) as usize).copied().unwrap_or(0);
        if (at as usize).saturating_add(bytes) > end {
            return Err(FaultKind::OutOfBounds { space: Space::Global, address, bytes: bytes as u64 });
        }
        Ok(at as usize)
    }

    /// Whether all accesses between these offsets, the first bytes of the first and last one, lie within one allocation.
    #[inline(always)]
    pub fn within(&self, first: u64, last: u64, bytes: usize) -> bool {
        let end = self.ends.get((first / PAGE as u64) as usize).copied().unwrap_or(0);
        last.saturating_add(bytes as u64) <= end as u64
    }
}
