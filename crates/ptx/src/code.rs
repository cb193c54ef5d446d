//! Functions in the form in which they are executed.

use std::collections::HashMap;

use crate::FaultKind;
use crate::error::Space;
use crate::regs::{Pred, PredSource, Pure, Reg, RegRef, Regs};

/// Most local memory of a thread.
pub const LOCAL_BYTES: u64 = 512 << 10;

/// A kernel with all functions that it calls.
#[derive(Debug)]
pub struct Kernel {
    /// Its name.
    pub name: String,
    /// The kernel and the functions that it may call; the first is the kernel.
    pub functions: Vec<Code>,
    /// Bytes of the parameters, as the launch has to give them.
    pub param_bytes: usize,
    /// Bytes of shared memory that the text declares.
    pub static_shared: u64,
    /// Base-two logarithm of the shortest access to shared memory, bytes.
    pub shared_granule: u32,
    /// The same of global memory.
    pub global_granule: u32,
    /// Where shared memory starts whose size the launch gives.
    pub dynamic_shared: u64,
    /// Largest number of threads of a block.
    pub max_threads: Option<u64>,
    /// The block's size, where the text fixes it.
    pub required: Option<[u32; 3]>,
}

/// A function.
#[derive(Debug, Default)]
pub struct Code {
    /// Its name.
    pub name: String,
    /// Its instructions.
    pub instrs: Vec<Instr>,
    /// Numbers of registers of 32 and 64 bits and of predicates.
    pub counts: [u32; 3],
    /// Literals in registers of 32 bits.
    pub literals32: Vec<(u32, u32)>,
    /// Literals in registers of 64 bits.
    pub literals64: Vec<(u32, u64)>,
    /// Special registers.
    pub specials: Vec<(RegRef, Special)>,
    /// Bytes of local memory that a call takes.
    pub frame_bytes: u64,
    /// Offsets of the parameters in the frame; for a kernel, in the launch's buffer.
    pub params: Vec<(u64, u64)>,
    /// Offsets of returned values in the frame, with their bytes.
    pub returns: Vec<(u64, u64)>,
    /// Numbers of registers that are filled before the function starts.
    pub preset: Vec<u32>,
    /// Names of registers, for messages.
    pub names: HashMap<RegRef, String>,
}

impl Code {
    /// One numbering for the registers of all banks.
    pub fn number(&self, reference: RegRef) -> u32 {
        let [b32, b64, _] = self.counts;
        match reference {
            RegRef::B32(i) => i,
            RegRef::B64(i) => b32 + i,
            RegRef::Pred(i) => b32 + b64 + i,
        }
    }

    /// What a register is called in the text.
    pub fn register_name(&self, number: u32) -> String {
        let named = self.names.iter().find(|(reference, _)| self.number(**reference) == number);
        named.map_or_else(|| "of the instruction".to_owned(), |(_, name)| name.clone())
    }
}

/// Special registers that do not change while a block runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Special {
    /// `%tid`
    Tid(usize),
    /// `%ntid`
    Ntid(usize),
    /// `%ctaid`
    Ctaid(usize),
    /// `%nctaid`
    Nctaid(usize),
    /// `%laneid`
    LaneId,
    /// `%warpid`
    WarpId,
    /// `%nwarpid`
    WarpCount,
    /// `%lanemask_eq`, `le`, `lt`, `ge`, `gt`
    LaneMask(LaneMask),
    /// `%dynamic_smem_size`
    DynamicShared,
    /// `%total_smem_size`
    TotalShared,
    /// Registers that are always the same here.
    Fixed(u32),
}

/// Lanes as seen from one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LaneMask {
    /// The lane itself.
    Equal,
    /// Those before it.
    Less,
    /// Itself and those before it.
    LessOrEqual,
    /// Those after it.
    Greater,
    /// Itself and those after it.
    GreaterOrEqual,
}

/// An instruction.
#[derive(Debug)]
pub struct Instr {
    /// In which lanes it is executed.
    pub guard: Option<PredSource>,
    /// What it does.
    pub action: Action,
    /// Where lanes that a branch parts meet again; `u32::MAX` for nowhere.
    pub meet: u32,
    /// Line of the text.
    pub line: u32,
    /// Registers that it reads, by [`Code::number`].
    pub reads: Box<[u32]>,
    /// Registers that it writes.
    pub writes: Box<[u32]>,
}

/// A fault of one lane.
#[derive(Debug)]
pub struct LaneFault {
    /// The lane.
    pub lane: usize,
    /// What it did.
    pub kind: FaultKind,
}

/// Lanes that execute an instruction, and those of the warp that have not ended.
#[derive(Debug, Clone, Copy)]
pub struct Active {
    /// Execute it.
    pub mask: u32,
    /// Have not ended.
    pub living: u32,
}

/// An instruction that lanes execute together.
pub type WarpOp = Box<dyn Fn(&mut Regs, Active) -> Result<(), LaneFault> + Send + Sync>;

/// What an instruction does.
pub enum Action {
    /// Registers to registers, each lane for itself.
    Pure(Pure),
    /// Registers to registers, between lanes.
    Warp(WarpOp),
    /// From memory.
    Load(Load),
    /// To memory.
    Store(Store),
    /// Read, change and write at once.
    Atomic(Atomic),
    /// `cp.async`
    CopyAsync(CopyAsync),
    /// `cp.async.commit_group`
    Commit,
    /// `cp.async.wait_group`: all but the newest so many.
    Wait(u32),
    /// `cp.async.wait_all`: also those of no group yet.
    WaitAll,
    /// `ldmatrix`
    LoadMatrix(Matrix),
    /// `stmatrix`
    StoreMatrix(Matrix),
    /// To an instruction.
    Branch(u32),
    /// To one of several.
    BranchIndex(Reg<u32>, Vec<u32>),
    /// Of a function.
    Call(Call),
    /// Back to the caller, or the end of the kernel.
    Ret,
    /// The end of the thread.
    Exit,
    /// `bar.sync` and relatives.
    Barrier(Barrier),
    /// `bar.warp.sync`
    WarpBarrier(Reg<u32>),
    /// `trap`
    Trap,
    /// Nothing to do here: hints, and fences, as memory is always in order.
    Nothing,
}

impl std::fmt::Debug for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Action")
    }
}

/// An address as an instruction has it.
#[derive(Debug, Clone, Copy)]
pub struct Address {
    /// A register, if any.
    pub base: Option<RegRef>,
    /// What is added.
    pub offset: u64,
    /// Whether it counts from the start of the function's frame.
    pub frame: bool,
}

/// A register that takes or gives a value of memory.
#[derive(Debug, Clone, Copy)]
pub struct Value {
    /// The register.
    pub reg: RegRef,
    /// Bits that the register has.
    pub bits: u32,
}

/// `ld`
#[derive(Debug)]
pub struct Load {
    /// From where.
    pub space: Space,
    /// Address.
    pub address: Address,
    /// Bytes of an element.
    pub bytes: usize,
    /// Whether elements are extended with their sign.
    pub signed: bool,
    /// Registers, one for each element.
    pub values: Vec<Value>,
}

/// `st`
#[derive(Debug)]
pub struct Store {
    /// To where.
    pub space: Space,
    /// Address.
    pub address: Address,
    /// Bytes of an element.
    pub bytes: usize,
    /// Registers, one for each element.
    pub values: Vec<Value>,
}

/// What an atomic operation makes of the old value and its operands.
pub type AtomicOp = Box<dyn Fn(u64, u64, u64) -> u64 + Send + Sync>;

/// `atom` and `red`
pub struct Atomic {
    /// Which memory.
    pub space: Space,
    /// Address.
    pub address: Address,
    /// Bytes of the value.
    pub bytes: usize,
    /// Takes the old value.
    pub old: Option<Value>,
    /// Operand.
    pub b: Value,
    /// Second operand, of `cas`.
    pub c: Option<Value>,
    /// The operation.
    pub op: AtomicOp,
}

/// `cp.async`
#[derive(Debug)]
pub struct CopyAsync {
    /// In shared memory.
    pub to: Address,
    /// In global memory.
    pub from: Address,
    /// Bytes written.
    pub bytes: usize,
    /// Bytes read, where fewer; the rest is zero.
    pub source_bytes: Option<Reg<u32>>,
    /// Lanes that read nothing and write zeros.
    pub ignore: Option<PredSource>,
}

/// `ldmatrix` and `stmatrix`: 8x8 matrices of 16-bit elements.
#[derive(Debug)]
pub struct Matrix {
    /// Of the rows, in shared memory.
    pub address: Address,
    /// Whether the address is generic.
    pub generic: bool,
    /// One register for each matrix.
    pub regs: Vec<Reg<u32>>,
    /// Whether each matrix is transposed.
    pub transposed: bool,
}

/// `call`
#[derive(Debug)]
pub struct Call {
    /// Number of the function in the kernel.
    pub function: usize,
    /// From the caller's frame to the callee's: offsets and bytes.
    pub args: Vec<(u64, u64, u64)>,
    /// From the callee's frame to the caller's.
    pub results: Vec<(u64, u64, u64)>,
}

/// What a barrier does besides.
#[derive(Debug, Clone, Copy)]
pub enum BarrierKind {
    /// Waits.
    Sync,
    /// Only counts.
    Arrive,
    /// Waits, and counts threads for which a predicate holds.
    Count(Reg<u32>, PredSource),
    /// Waits, and tells whether a predicate holds for all.
    And(Pred, PredSource),
    /// Waits, and tells whether a predicate holds for any.
    Or(Pred, PredSource),
}

/// `bar`
#[derive(Debug, Clone, Copy)]
pub struct Barrier {
    /// Number.
    pub id: Reg<u32>,
    /// Number of threads; all of the block without.
    pub threads: Option<Reg<u32>>,
    /// What it does.
    pub kind: BarrierKind,
}

impl Action {
    /// The memory that it touches, with the bytes of one lane's access; twice for what touches two.
    pub fn accesses(&self) -> [Option<(Space, usize)>; 2] {
        match self {
            Self::Load(load) => [Some((load.space, load.bytes * load.values.len())), None],
            Self::Store(store) => [Some((store.space, store.bytes * store.values.len())), None],
            Self::Atomic(atomic) => [Some((atomic.space, atomic.bytes)), None],
            Self::CopyAsync(copy) => [Some((Space::Shared, copy.bytes)), Some((Space::Global, copy.bytes))],
            Self::LoadMatrix(m) | Self::StoreMatrix(m) => {
                [Some((if m.generic { Space::Generic } else { Space::Shared }, 16)), None]
            }
            _ => [None, None],
        }
    }
}
