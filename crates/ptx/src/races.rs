//! The search for races.
//!
//! Shared memory: each warp has a vector clock (Mattern 1989, as used for races by Flanagan and Freund, "FastTrack", 2009): what
//! it knows of the others' progress. A barrier joins the clocks of those who meet there, `bar.warp.sync` orders the lanes of a
//! warp. Each granule remembers the last write and two reads; an access that none of these orders is a race, also between lanes of one
//! warp. Global memory: nothing orders the blocks of a launch, so that any byte that one block writes and another one touches is
//! a race.
//!
//! A granule is as long as the shortest access that the kernel's code has.

use crate::error::{FaultKind, Space};
use crate::memory::BASE;
use crate::regs::LANES;

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Both, undivided.
    Atomic,
}

impl Access {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Atomic => "atomic",
        }
    }
}

/// Who touched a granule, and when: 24 bits of the block, 24 of the clock, then whether it was atomic, warp and lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Stamp(u64);

impl Stamp {
    fn new(block: u64, clock: u32, atomic: bool, warp: usize, lane: usize) -> Self {
        Self(
            (block << 40)
                | (u64::from(clock & 0xFF_FFFF) << 16)
                | (u64::from(atomic) << 15)
                | ((warp as u64) << 5)
                | lane as u64,
        )
    }

    fn block(self) -> u64 {
        self.0 >> 40
    }

    fn clock(self) -> u32 {
        (self.0 >> 16) as u32 & 0xFF_FFFF
    }

    fn atomic(self) -> bool {
        self.0 & (1 << 15) != 0
    }

    fn warp(self) -> usize {
        (self.0 >> 5) as usize & 0x1F
    }

    /// Number in the block.
    fn thread(self) -> u64 {
        self.0 & 0x3FF
    }
}

/// Accesses to a granule of shared memory.
#[derive(Debug, Clone, Copy, Default)]
struct Granule {
    write: Stamp,
    reads: [Stamp; 2],
}

/// Races in shared memory.
#[derive(Debug, Default)]
pub struct SharedRaces {
    granules: Vec<Granule>,
    shift: u32,
    /// What each warp knows of the clock of each.
    clocks: Vec<[u32; LANES]>,
    /// Number of the block; stamps of others mean nothing.
    block: u64,
}

impl SharedRaces {
    /// For memory of this size, with granules of `2^shift` bytes.
    pub fn new(bytes: usize, shift: u32, warps: usize) -> Self {
        let granules = vec![Granule::default(); (bytes >> shift) + 1];
        Self { granules, shift, clocks: vec![[0; LANES]; warps], block: 0 }
    }

    /// A new block begins.
    pub fn reset(&mut self) {
        self.block += 1;
        if self.block >= 1 << 24 {
            self.block = 1;
            self.granules.fill(Granule::default());
        }
        self.clocks.fill([0; LANES]);
    }

    /// The lanes of a warp have waited for each other.
    pub fn tick(&mut self, warp: usize) {
        self.clocks[warp][warp] += 1;
    }

    /// A warp comes to a barrier: what it knows goes to the barrier.
    pub fn arrive(&mut self, warp: usize, barrier: &mut [u32; LANES]) {
        self.tick(warp);
        join(barrier, &self.clocks[warp]);
    }

    /// A warp leaves a barrier: it knows what all others knew.
    pub fn leave(&mut self, warp: usize, barrier: &[u32; LANES]) {
        join(&mut self.clocks[warp], barrier);
    }

    /// An access of one thread.
    #[inline]
    pub fn note(
        &mut self,
        at: usize,
        bytes: usize,
        access: Access,
        (warp, lane): (usize, usize),
    ) -> Result<(), FaultKind> {
        let clocks = &self.clocks[warp];
        let own = Stamp::new(self.block, clocks[warp], access == Access::Atomic, warp, lane);
        let block = self.block;
        // Whether nothing puts an earlier access before this one.
        let loose =
            |s: Stamp| s.block() == block && s.thread() != own.thread() && clocks[s.warp()] & 0xFF_FFFF <= s.clock();
        let first = at >> self.shift;
        let last = (at + bytes - 1) >> self.shift;
        for (n, granule) in self.granules[first..=last].iter_mut().enumerate() {
            let both_atomic = access == Access::Atomic && granule.write.atomic();
            let mut other = if loose(granule.write) && !both_atomic { Some((granule.write, None)) } else { None };
            if access == Access::Read {
                // Two readers of two threads are enough to see any later write that is not ordered behind all.
                let slot = usize::from(loose(granule.reads[0]));
                granule.reads[slot] = own;
            } else {
                let reader = granule.reads.iter().find(|s| loose(**s));
                other = other.or(reader.map(|s| (*s, Some(Access::Read))));
                granule.write = own;
            }
            if let Some((stamp, kind)) = other {
                let kind = kind.unwrap_or(if stamp.atomic() { Access::Atomic } else { Access::Write });
                return Err(FaultKind::Race {
                    space: Space::Shared,
                    address: ((first + n) << self.shift) as u64,
                    access: access.name(),
                    other_access: kind.name(),
                    other: format!("thread {} of the block", stamp.thread()),
                });
            }
        }
        Ok(())
    }
}

fn join(into: &mut [u32; LANES], from: &[u32; LANES]) {
    into.iter_mut().zip(from).for_each(|(a, b)| *a = (*a).max(*b));
}

/// Blocks that touched a granule of global memory, from 1.
#[derive(Debug, Clone, Copy, Default)]
struct Touched {
    writer: u32,
    reader: u32,
}

/// More than one block.
const MANY: u32 = u32::MAX;
/// Marks a writer that was atomic.
const ATOMIC: u32 = 1 << 31;
/// Bytes of a page.
const PAGE_SHIFT: u32 = 8;

/// Races in global memory.
#[derive(Debug, Default)]
pub struct GlobalRaces {
    /// Number of each page's entries in `touched`, from 1, in units of a page.
    pages: Vec<u32>,
    touched: Vec<Touched>,
    /// Pages that have entries.
    used: Vec<usize>,
    shift: u32,
    block: u32,
}

impl GlobalRaces {
    /// For memory of this size.
    pub fn new(bytes: usize) -> Self {
        Self { pages: vec![0; (bytes >> PAGE_SHIFT) + 1], ..Self::default() }
    }

    /// A launch begins, with granules of `2^shift` bytes.
    pub fn reset(&mut self, shift: u32) {
        self.used.drain(..).for_each(|page| self.pages[page] = 0);
        self.touched.clear();
        (self.shift, self.block) = (shift, 0);
    }

    /// The next block begins.
    pub fn next_block(&mut self) {
        self.block = (self.block + 1) % ATOMIC;
    }

    /// The accesses of a warp's lanes, each within a page; on failure also says which lane.
    #[inline]
    pub fn note_all(
        &mut self,
        offsets: &[u64; LANES],
        mask: u32,
        bytes: usize,
        access: Access,
    ) -> Result<(), (usize, FaultKind)> {
        let page_mask = (1u64 << PAGE_SHIFT) - 1;
        let per_page_shift = PAGE_SHIFT - self.shift;
        let mut rest = mask;
        let mut before = u64::MAX;
        let (mut page, mut start) = (u64::MAX, 0usize);
        while rest != 0 {
            let lane = rest.trailing_zeros() as usize % LANES;
            rest &= rest - 1;
            let at = offsets[lane];
            // Many lanes read one place; one note of it is enough. Of writes too, as lanes of a block do not race here.
            if at == before {
                continue;
            }
            before = at;
            if access == Access::Read {
                if at >> PAGE_SHIFT != page {
                    page = at >> PAGE_SHIFT;
                    start = (self.pages[page as usize] as usize).wrapping_sub(1) << per_page_shift;
                }
                // Of what this block has read before, and nobody else written, there is nothing new.
                let first = start.wrapping_add(((at & page_mask) >> self.shift) as usize);
                let last = start.wrapping_add((((at & page_mask) + bytes as u64 - 1) >> self.shift) as usize);
                let known = |t: &Touched| t.reader == self.block && (t.writer == 0 || t.writer == self.block);
                if self.touched.get(first..=last).is_some_and(|list| list.iter().all(known)) {
                    continue;
                }
                page = u64::MAX;
            }
            self.note(at as usize, bytes, access).map_err(|kind| (lane, kind))?;
        }
        Ok(())
    }

    /// An access of the block, within a page.
    #[inline]
    pub fn note(&mut self, at: usize, bytes: usize, access: Access) -> Result<(), FaultKind> {
        let per_page = 1usize << (PAGE_SHIFT - self.shift);
        let page = &mut self.pages[at >> PAGE_SHIFT];
        if *page == 0 {
            self.used.push(at >> PAGE_SHIFT);
            self.touched.resize(self.touched.len() + per_page, Touched::default());
            *page = (self.touched.len() / per_page) as u32;
        }
        let start = (*page as usize - 1) * per_page;
        let first = (at & ((1 << PAGE_SHIFT) - 1)) >> self.shift;
        let last = ((at & ((1 << PAGE_SHIFT) - 1)) + bytes - 1) >> self.shift;
        let me = self.block;
        for (n, granule) in self.touched[start + first..=start + last].iter_mut().enumerate() {
            let Touched { writer, reader } = *granule;
            let both_atomic = access == Access::Atomic && writer & ATOMIC != 0;
            let mut other =
                if writer != 0 && writer & !ATOMIC != me && !both_atomic { Some((writer, false)) } else { None };
            if access == Access::Read {
                granule.reader = if reader == 0 || reader == me { me } else { MANY };
            } else {
                if reader != 0 && reader != me {
                    other = other.or(Some((reader, true)));
                }
                granule.writer = if access == Access::Atomic { me | ATOMIC } else { me };
            }
            if let Some((who, read)) = other {
                let other_access = match (read, who & ATOMIC != 0) {
                    (true, _) => "read",
                    (false, true) => "atomic",
                    (false, false) => "write",
                };
                let other = if read && who == MANY {
                    "several blocks".to_owned()
                } else {
                    format!("block number {}", (who & !ATOMIC) - 1)
                };
                let address = BASE + (((at >> self.shift) + n) << self.shift) as u64;
                return Err(FaultKind::Race {
                    space: Space::Global,
                    address,
                    access: access.name(),
                    other_access,
                    other,
                });
            }
        }
        Ok(())
    }
}
