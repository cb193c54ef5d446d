//! What can go wrong when PTX is read, launched or run.

use std::fmt;

/// Everything that this crate refuses.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PtxError {
    /// The text is no PTX.
    #[error("PTX line {line}: {what}")]
    Syntax {
        /// Line of the text, from 1.
        line: usize,
        /// What was found and what was expected.
        what: String,
    },
    /// An instruction, or a form of one, that the interpreter does not know.
    #[error("PTX line {line}, function {function}: {what}, in `{text}`")]
    Instruction {
        /// Line of the text, from 1.
        line: usize,
        /// The function that holds it.
        function: String,
        /// The line's text.
        text: String,
        /// What is wrong with it.
        what: String,
    },
    /// A launch of a kernel that the module does not have.
    #[error("no kernel {name} in the module; it has {found}")]
    NoKernel {
        /// The name asked for.
        name: String,
        /// The names that are there.
        found: String,
    },
    /// A launch that a device would refuse.
    #[error("launch of {kernel}: {what}")]
    Launch {
        /// The kernel.
        kernel: String,
        /// What is wrong, with the limit.
        what: String,
    },
    /// The device's memory is used up.
    #[error("out of device memory: {requested} bytes asked for, the largest free piece has {free}")]
    OutOfMemory {
        /// Bytes asked for.
        requested: u64,
        /// Bytes of the largest free piece.
        free: u64,
    },
    /// The host named memory that is not allocated.
    #[error("{what}: {bytes} bytes at {address:#x} are not within one allocation")]
    HostAccess {
        /// The host's operation.
        what: &'static str,
        /// First byte.
        address: u64,
        /// Number of bytes.
        bytes: u64,
    },
    /// A kernel did what it must not.
    #[error("{0}")]
    Fault(Box<Fault>),
}

/// Where and how a kernel went wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// The kernel that was launched.
    pub kernel: String,
    /// Line of the PTX text, from 1.
    pub line: usize,
    /// The text of that line.
    pub text: String,
    /// The block's coordinates in the grid.
    pub block: [u32; 3],
    /// The thread's coordinates in the block.
    pub thread: [u32; 3],
    /// What it did.
    pub kind: FaultKind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(
            f,
            "kernel {}, PTX line {} (`{}`), block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz}): {}",
            self.kernel, self.line, self.text, self.kind
        )
    }
}

/// A kind of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Device memory, variables and constants of modules.
    Global,
    /// Memory of a block.
    Shared,
    /// Memory of a thread.
    Local,
    /// Parameters of the kernel.
    Param,
    /// An address that says itself which memory it is in.
    Generic,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Global => "global",
            Self::Shared => "shared",
            Self::Local => "local",
            Self::Param => "parameter",
            Self::Generic => "generic",
        })
    }
}

/// What a kernel did that it must not.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// An access outside of what is allocated.
    #[error("{bytes} bytes at {address:#x} of {space} memory are out of bounds")]
    OutOfBounds {
        /// Which memory.
        space: Space,
        /// First byte.
        address: u64,
        /// Bytes of the access.
        bytes: u64,
    },
    /// An address that is no multiple of the access's size.
    #[error("address {address:#x} of {space} memory is not a multiple of {bytes}")]
    Misaligned {
        /// Which memory.
        space: Space,
        /// The address.
        address: u64,
        /// The alignment needed.
        bytes: u64,
    },
    /// A read of memory that nobody wrote, or whose asynchronous copy was not waited for.
    #[error("{bytes} bytes at {address:#x} of {space} memory were never written, or their cp.async was not waited for")]
    UninitialisedMemory {
        /// Which memory.
        space: Space,
        /// First byte.
        address: u64,
        /// Bytes of the access.
        bytes: u64,
    },
    /// A read of a register that was never written.
    #[error("register {0} is read before it is written")]
    UninitialisedRegister(String),
    /// Two threads touch the same byte, one of them writes, and nothing orders them.
    #[error("race in {space} memory at {address:#x}: this {access} and a {other_access} by {other} are not ordered")]
    Race {
        /// Which memory.
        space: Space,
        /// The byte.
        address: u64,
        /// What this thread does: read, write or atomic.
        access: &'static str,
        /// What the other did.
        other_access: &'static str,
        /// The other thread or block.
        other: String,
    },
    /// A barrier that only a part of a warp reaches.
    #[error("barrier reached by lanes {active:#010x} of a warp of {all:#010x}: the rest went another way or has ended")]
    DivergentBarrier {
        /// Lanes at the barrier.
        active: u32,
        /// Lanes of the warp.
        all: u32,
    },
    /// Warps wait for others that will not come.
    #[error("waits at barrier {barrier} for {expected} threads, of which {arrived} came; no other thread will")]
    BarrierStuck {
        /// Number of the barrier.
        barrier: u32,
        /// Threads that have to come.
        expected: u32,
        /// Threads that came.
        arrived: u32,
    },
    /// Misuse of a barrier's number or count.
    #[error("barrier {barrier} with {count} threads: {what}")]
    Barrier {
        /// Number of the barrier.
        barrier: u32,
        /// Threads named.
        count: u32,
        /// What is wrong.
        what: &'static str,
    },
    /// An instruction for a whole warp, or for the lanes of a mask, which not all of them execute.
    #[error("executed by lanes {active:#010x}, but its mask names {named:#010x} of the living")]
    DivergentWarp {
        /// Lanes at the instruction.
        active: u32,
        /// Lanes that have to be.
        named: u32,
    },
    /// A shuffle from a lane that does not take part.
    #[error("shuffle from lane {source_lane}, which does not take part")]
    ShuffleSource {
        /// The lane.
        source_lane: u32,
    },
    /// More instructions than the budget.
    #[error("budget of {0} warp instructions for a launch is used up: an endless loop?")]
    Budget(u64),
    /// Calls nested too deep.
    #[error("calls are nested deeper than {0}, or take more than 512 KiB of local memory")]
    CallDepth(usize),
    /// `trap`.
    #[error("trap")]
    Trap,
    /// Something else that is undefined.
    #[error("{0}")]
    Undefined(&'static str),
}
