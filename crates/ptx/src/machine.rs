//! The device: memory, modules, launches.

use std::collections::HashMap;

use crate::block::{Block, Launch};
use crate::code::Kernel;
use crate::decode::{self, Names};
use crate::error::PtxError;
use crate::memory::Global;
use crate::parse::{VarSpace, parse};
use crate::races::GlobalRaces;

/// Generic addresses of shared memory start here.
pub const SHARED_WINDOW: u64 = 0x4000_0000_0000;
/// Generic addresses of local memory start here.
pub const LOCAL_WINDOW: u64 = 0x5000_0000_0000;
/// Generic addresses of kernel parameters start here.
pub const PARAM_WINDOW: u64 = 0x6000_0000_0000;
/// Bytes of such a window.
pub const WINDOW_BYTES: u64 = 1 << 32;

/// Warp instructions that a launch may take.
const BUDGET: u64 = 1 << 31;
/// Shared memory that a text may declare.
const STATIC_SHARED: u64 = 48 << 10;

/// What is checked besides bounds, alignment and barriers, which always are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// Reads of registers that were never written.
    pub registers: bool,
    /// Reads of shared or global memory that was never written, or whose `cp.async` was not waited for.
    pub memory: bool,
    /// Unordered accesses of threads of a block to shared memory.
    pub shared_races: bool,
    /// Accesses of blocks of a launch to the same global memory.
    pub global_races: bool,
}

impl Checks {
    /// All of them.
    pub const ALL: Self = Self { registers: true, memory: true, shared_races: true, global_races: true };
    /// None of them.
    pub const NONE: Self = Self { registers: false, memory: false, shared_races: false, global_races: false };
}

/// A device that interprets PTX.
///
/// Everything runs on the calling thread: the blocks of a launch one after another, the warps of a block in turns between
/// barriers, so that two runs do the same.
#[derive(Debug)]
pub struct Machine {
    global: Global,
    races: GlobalRaces,
    checks: Checks,
    budget: u64,
    instructions: u64,
}

/// Code on the device.
#[derive(Debug)]
pub struct Module {
    kernels: HashMap<String, Kernel>,
    variables: HashMap<String, (u64, u64)>,
    lines: Vec<String>,
    target: u32,
}

impl Module {
    /// Names of the kernels, sorted.
    pub fn kernels(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.kernels.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Address and bytes of a variable in global or constant memory.
    pub fn variable(&self, name: &str) -> Option<(u64, u64)> {
        self.variables.get(name).copied()
    }

    /// The line of the text, from 1.
    pub(crate) fn line(&self, line: usize) -> &str {
        self.lines.get(line.wrapping_sub(1)).map_or("", |l| l.trim())
    }
}

impl Machine {
    /// A device with so much memory and all checks.
    pub fn new(memory_bytes: usize) -> Self {
        let global = Global::new(memory_bytes);
        let races = GlobalRaces::new(global.bytes.len());
        Self { global, races, checks: Checks::ALL, budget: BUDGET, instructions: 0 }
    }

    /// Chooses what later launches check.
    pub fn set_checks(&mut self, checks: Checks) {
        self.checks = checks;
    }

    /// Warp instructions that each later launch may take.
    pub fn set_budget(&mut self, warp_instructions: u64) {
        self.budget = warp_instructions;
    }

    /// Instructions of single lanes that all launches together have executed, nearly: those of partly active warps count in full.
    pub fn lane_instructions(&self) -> u64 {
        self.instructions * 32
    }

    /// Takes memory, which holds ones in all bits. The address is a multiple of 256.
    pub fn alloc(&mut self, bytes: u64) -> Result<u64, PtxError> {
        self.global.alloc(bytes)
    }

    /// Gives back what [`Machine::alloc`] gave.
    pub fn free(&mut self, address: u64) -> Result<(), PtxError> {
        self.global.free(address)
    }

    /// Device memory to the host.
    pub fn read(&self, address: u64, to: &mut [u8]) -> Result<(), PtxError> {
        let range = self.global.range("read", address, to.len() as u64)?;
        to.copy_from_slice(&self.global.bytes[range]);
        Ok(())
    }

    /// The host's bytes to device memory.
    pub fn write(&mut self, address: u64, from: &[u8]) -> Result<(), PtxError> {
        let range = self.global.range("write", address, from.len() as u64)?;
        self.global.write(range.start, from);
        Ok(())
    }

    /// Within device memory; the ranges may overlap.
    pub fn copy(&mut self, to: u64, from: u64, bytes: u64) -> Result<(), PtxError> {
        let source = self.global.range("copy from", from, bytes)?;
        let target = self.global.range("copy to", to, bytes)?;
        self.global.copy(target.start, source);
        Ok(())
    }

    /// Every byte to one value.
    pub fn fill(&mut self, address: u64, value: u8, bytes: u64) -> Result<(), PtxError> {
        let range = self.global.range("fill", address, bytes)?;
        self.global.fill(range, value);
        Ok(())
    }

    /// Reads PTX, places its variables in memory, decodes all its kernels.
    pub fn load(&mut self, text: &str) -> Result<Module, PtxError> {
        let ast = parse(text)?;
        let mut globals = HashMap::new();
        let mut variables = HashMap::new();
        for v in ast.variables.iter().filter(|v| v.space == VarSpace::Global) {
            let address = self.global.alloc(v.bytes)?;
            let at = self.global.range("load", address, v.bytes)?;
            self.global.fill(at.clone(), 0);
            self.global.write(at.start, &v.init);
            globals.insert(v.name, address);
            variables.insert(v.name.to_owned(), (address, v.bytes));
        }
        for v in ast.variables.iter().filter(|v| v.space == VarSpace::Global) {
            for (offset, name, addend) in &v.addresses {
                let target = globals.get(name).ok_or_else(|| PtxError::Syntax {
                    line: 1,
                    what: format!("{} holds the address of {name}, which is no variable here", v.name),
                })?;
                let at = self.global.range("load", globals[v.name] + *offset as u64, 8)?;
                self.global.write(at.start, &target.wrapping_add(*addend).to_le_bytes());
            }
        }
        let names = Names { globals, lines: text.lines().collect() };
        let mut kernels = HashMap::new();
        for (index, function) in ast.functions.iter().enumerate().filter(|(_, f)| f.entry) {
            kernels.insert(function.name.to_owned(), decode::kernel(&ast, &names, index)?);
        }
        let lines = text.lines().map(str::to_owned).collect();
        Ok(Module { kernels, variables, lines, target: ast.target })
    }

    /// Gives back the memory of a module's variables.
    pub fn unload(&mut self, module: Module) -> Result<(), PtxError> {
        module.variables.values().try_for_each(|(address, _)| self.free(*address))
    }

    /// Runs a kernel to its end.
    ///
    /// `params` holds the parameters as C lays them out in a struct without padding at its end. After an error memory holds what
    /// had been written before.
    pub fn launch(
        &mut self,
        module: &Module,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        params: &[u8],
    ) -> Result<(), PtxError> {
        let Some(code) = module.kernels.get(kernel) else {
            let found = module.kernels().join(", ");
            return Err(PtxError::NoKernel { name: kernel.to_owned(), found });
        };
        let launch = Launch { kernel: code, module, grid, block, dynamic_shared: u64::from(dynamic_shared), params };
        check_launch(&launch).map_err(|what| PtxError::Launch { kernel: kernel.to_owned(), what })?;
        let mut state = Block::new((&mut self.global, &mut self.races), &launch, self.checks, self.budget);
        let mut result = Ok(());
        'blocks: for z in 0..grid[2] {
            for y in 0..grid[1] {
                for x in 0..grid[0] {
                    result = state.run([x, y, z]);
                    if result.is_err() {
                        break 'blocks;
                    }
                }
            }
        }
        self.instructions += state.executed();
        result.map_err(PtxError::Fault)
    }
}

/// Most shared memory of a block, by target.
fn shared_limit(target: u32) -> u64 {
    match target {
        80 | 87 => 163 << 10,
        86 | 89 | 120 | 121 => 99 << 10,
        _ if target >= 90 => 227 << 10,
        _ => 96 << 10,
    }
}

fn check_launch(launch: &Launch<'_>) -> Result<(), String> {
    let (grid, block, kernel) = (launch.grid, launch.block, launch.kernel);
    let threads: u64 = block.iter().map(|d| u64::from(*d)).fold(1, u64::saturating_mul);
    if grid.contains(&0) || threads == 0 {
        return Err(format!("grid {grid:?} of blocks {block:?} is empty"));
    }
    if grid[0] > i32::MAX as u32 || grid[1] > 65_535 || grid[2] > 65_535 {
        return Err(format!("grid {grid:?} is larger than [2147483647, 65535, 65535]"));
    }
    let limit = kernel.max_threads.unwrap_or(1024).min(1024);
    if threads > limit || block[2] > 64 {
        return Err(format!("blocks {block:?} of {threads} threads; at most {limit}, and 64 in z"));
    }
    if let Some(required) = kernel.required
        && required != block
    {
        return Err(format!("blocks {block:?}; the kernel was compiled for {required:?}"));
    }
    if launch.params.len() != kernel.param_bytes {
        return Err(format!("{} bytes of parameters; the kernel takes {}", launch.params.len(), kernel.param_bytes));
    }
    let limit = shared_limit(launch.module.target);
    let shared = launch.shared_bytes();
    if kernel.static_shared > STATIC_SHARED || shared > limit {
        return Err(format!(
            "{} bytes of static and {shared} of all shared memory; at most {STATIC_SHARED} and {limit}",
            kernel.static_shared
        ));
    }
    Ok(())
}
