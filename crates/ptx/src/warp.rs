//! The state of a warp: frames of called functions, lanes that went different ways, copies under way.

use std::collections::VecDeque;

use crate::code::Code;
use crate::regs::{LANES, Regs};

/// Lanes at one place of a function.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The next instruction.
    pub pc: u32,
    /// Where they join those of the entry below.
    pub meet: u32,
    /// The lanes.
    pub mask: u32,
}

/// A call of a function.
#[derive(Debug, Default)]
pub struct Frame {
    /// Number of the function in the kernel.
    pub function: usize,
    /// Its registers.
    pub regs: Regs,
    /// Where its lanes are; the last entry runs.
    pub stack: Vec<Entry>,
    /// Lanes that made the call.
    pub mask: u32,
    /// The calling instruction.
    pub call: u32,
    /// Lanes in which each register has been written, by [`Code::number`].
    pub written: Vec<u32>,
}

impl Frame {
    /// Nothing has been written but literals and special registers.
    pub fn reset_written(&mut self, code: &Code) {
        self.written.clear();
        self.written.resize(code.counts.iter().sum::<u32>() as usize, 0);
        code.preset.iter().for_each(|n| self.written[*n as usize] = u32::MAX);
    }

    /// Splits the running lanes: `sides` are places with their lanes, and `meet` where they join again.
    pub fn diverge(&mut self, meet: u32, sides: &[(u32, u32)]) {
        let Some(top) = self.stack.pop() else { return };
        let meet = if meet == u32::MAX { top.meet } else { meet };
        // Those that would only wait for what their own entry waits for need none of their own.
        if meet != top.meet {
            self.stack.push(Entry { pc: meet, ..top });
        }
        for &(pc, mask) in sides {
            if pc != meet {
                self.stack.push(Entry { pc, meet, mask });
            }
        }
    }

    /// Takes lanes out.
    pub fn remove(&mut self, mask: u32) {
        self.stack.iter_mut().for_each(|e| e.mask &= !mask);
    }
}

/// What a warp waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    /// Runs.
    #[default]
    Ready,
    /// At a barrier.
    Waiting(u32),
    /// All its threads have ended.
    Done,
}

/// A `cp.async` whose bytes have been read and not been written.
#[derive(Debug, Clone, Copy)]
pub struct Copy16 {
    /// The lane.
    pub lane: usize,
    /// Offset in shared memory.
    pub to: usize,
    /// The bytes.
    pub data: [u8; 16],
    /// How many.
    pub bytes: usize,
}

/// A warp.
#[derive(Debug, Default)]
pub struct Warp {
    /// Number in the block.
    pub index: usize,
    /// Calls; the last one runs.
    pub frames: Vec<Frame>,
    /// Lanes that are threads of the block.
    pub all: u32,
    /// Those that have not ended.
    pub living: u32,
    /// What it waits for.
    pub state: State,
    /// Local memory of each lane.
    pub local: Vec<Vec<u8>>,
    /// Copies of no group yet.
    pub open_copies: Vec<Copy16>,
    /// Groups of copies, oldest first, with the lanes that made them.
    pub groups: VecDeque<(u32, Vec<Copy16>)>,
    /// Instructions executed.
    pub clock: u64,
}

impl Warp {
    /// Copies of the lanes that have to be complete when at most `n` groups of each stay under way; oldest first.
    pub fn wait(&mut self, mask: u32, n: u32) -> Vec<Copy16> {
        let mut newer = [0u32; LANES];
        let mut due: Vec<Vec<Copy16>> = Vec::new();
        for (lanes, copies) in self.groups.iter_mut().rev() {
            let mut complete = 0u32;
            for lane in (0..LANES).filter(|l| *lanes & mask & (1 << l) != 0) {
                complete |= u32::from(newer[lane] >= n) << lane;
                newer[lane] += 1;
            }
            *lanes &= !complete;
            let (done, kept) = std::mem::take(copies).into_iter().partition(|c| complete >> c.lane & 1 == 1);
            *copies = kept;
            due.push(done);
        }
        self.groups.retain(|(lanes, _)| *lanes != 0);
        due.into_iter().rev().flatten().collect()
    }

    /// Makes the open copies of the lanes a group.
    pub fn commit(&mut self, mask: u32) {
        let (group, kept) = std::mem::take(&mut self.open_copies).into_iter().partition(|c| mask >> c.lane & 1 == 1);
        self.open_copies = kept;
        self.groups.push_back((mask, group));
    }
}
