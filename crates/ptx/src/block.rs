//! Runs the blocks of a launch, one after another: warps in turns, barriers.

use crate::access::Shared;
use crate::code::{Action, Active, Barrier, BarrierKind, Call, Code, Kernel, LaneFault, Special};
use crate::code::{Instr, LOCAL_BYTES, LaneMask};
use crate::error::{Fault, FaultKind};
use crate::machine::{Checks, Module};
use crate::memory::Global;
use crate::races::{GlobalRaces, SharedRaces};
use crate::regs::{self, ALL, LANES, RegRef, Regs, set_pred};
use crate::warp::{Entry, Frame, State, Warp};

/// Instructions that a warp executes before another one has its turn.
const QUANTUM: u64 = 20_000;
/// Deepest nesting of calls.
const MAX_CALLS: usize = 64;
/// Named barriers of a block.
const BARRIERS: usize = 16;

/// What is launched.
pub struct Launch<'l> {
    /// The kernel.
    pub kernel: &'l Kernel,
    /// Its module.
    pub module: &'l Module,
    /// Number of blocks.
    pub grid: [u32; 3],
    /// Number of threads of a block.
    pub block: [u32; 3],
    /// Bytes of shared memory besides those that the text declares.
    pub dynamic_shared: u64,
    /// Parameters.
    pub params: &'l [u8],
}

impl Launch<'_> {
    /// Bytes of shared memory of a block.
    pub fn shared_bytes(&self) -> u64 {
        if self.dynamic_shared == 0 {
            self.kernel.static_shared
        } else {
            self.kernel.dynamic_shared + self.dynamic_shared
        }
    }
}

/// A barrier of the block.
#[derive(Debug, Default, Clone)]
struct Gathering {
    /// Threads that have to come; 0 while nobody has.
    expected: u32,
    arrived: u32,
    /// Warps that wait.
    waiting: Vec<usize>,
    /// Threads whose predicate holds.
    holds: u32,
    /// What those who came know of each other.
    clocks: [u32; LANES],
}

/// State of the block that runs.
pub struct Block<'l> {
    pub(crate) global: &'l mut Global,
    pub(crate) launch: &'l Launch<'l>,
    pub(crate) shared: Shared,
    pub(crate) checks: Checks,
    pub(crate) shared_races: SharedRaces,
    pub(crate) global_races: &'l mut GlobalRaces,
    pub(crate) id: [u32; 3],
    warps: Vec<Warp>,
    barriers: Vec<Gathering>,
    threads: u32,
    left: u64,
    budget: u64,
}

/// How a turn of a warp ended early.
struct Stop {
    fault: LaneFault,
    line: u32,
}

impl<'l> Block<'l> {
    /// State for all blocks of a launch.
    pub fn new(
        (global, global_races): (&'l mut Global, &'l mut GlobalRaces),
        launch: &'l Launch<'l>,
        checks: Checks,
        budget: u64,
    ) -> Self {
        let threads: u32 = launch.block.iter().product();
        let code = &launch.kernel.functions[0];
        let warps: Vec<Warp> = (0..threads.div_ceil(32))
            .map(|index| {
                let lanes = (threads - index * 32).min(32);
                let mut frame = Frame { regs: registers(code), ..Frame::default() };
                fill_specials(&mut frame.regs, code, launch, index);
                Warp {
                    index: index as usize,
                    frames: vec![frame],
                    all: ALL >> (32 - lanes),
                    local: vec![Vec::new(); LANES],
                    ..Warp::default()
                }
            })
            .collect();
        let shared = Shared::new(launch.shared_bytes() as usize);
        let shared_races = if checks.shared_races && launch.shared_bytes() > 0 {
            SharedRaces::new(launch.shared_bytes() as usize, launch.kernel.shared_granule, warps.len())
        } else {
            SharedRaces::default()
        };
        // A single block has nobody to race with.
        let checks = Checks {
            shared_races: checks.shared_races && launch.shared_bytes() > 0,
            global_races: checks.global_races && launch.grid.iter().any(|d| *d > 1),
            ..checks
        };
        global_races.reset(launch.kernel.global_granule);
        Self {
            global,
            launch,
            shared,
            checks,
            shared_races,
            global_races,
            id: [0; 3],
            warps,
            barriers: vec![Gathering::default(); BARRIERS],
            threads,
            left: budget,
            budget,
        }
    }

    /// Warp instructions executed so far.
    pub fn executed(&self) -> u64 {
        self.budget - self.left
    }

    /// Runs a block.
    pub fn run(&mut self, id: [u32; 3]) -> Result<(), Box<Fault>> {
        self.id = id;
        self.shared.reset();
        self.shared_races.reset();
        self.global_races.next_block();
        let code = &self.launch.kernel.functions[0];
        for warp in &mut self.warps {
            warp.frames.truncate(1);
            warp.living = warp.all;
            warp.state = State::Ready;
            warp.open_copies.clear();
            warp.groups.clear();
            let frame = &mut warp.frames[0];
            frame.stack.clear();
            frame.stack.push(Entry { pc: 0, meet: u32::MAX, mask: warp.all });
            fill_block_id(&mut frame.regs, code, id);
            if self.checks.registers {
                frame.reset_written(code);
            }
            for lane in &mut warp.local {
                lane.clear();
                lane.resize(code.frame_bytes as usize, 0xFF);
            }
        }
        loop {
            let mut progress = false;
            for w in 0..self.warps.len() {
                if self.warps[w].state == State::Ready {
                    progress = true;
                    let mut warp = std::mem::take(&mut self.warps[w]);
                    let result = self.turn(&mut warp);
                    self.warps[w] = warp;
                    if let Err(stop) = result {
                        return Err(self.fault(w, *stop));
                    }
                }
            }
            if !progress {
                return self.finished();
            }
        }
    }

    /// All warps have ended, or some wait for what does not come.
    fn finished(&mut self) -> Result<(), Box<Fault>> {
        let stuck = self.warps.iter().find_map(|w| match w.state {
            State::Waiting(barrier) => Some((w.index, barrier)),
            _ => None,
        });
        let Some((w, barrier)) = stuck else { return Ok(()) };
        let gathering = &self.barriers[barrier as usize];
        let kind = FaultKind::BarrierStuck { barrier, expected: gathering.expected, arrived: gathering.arrived };
        let lane = self.warps[w].all.trailing_zeros() as usize % LANES;
        let line = self.warps[w].frames.last().and_then(|f| {
            let pc = f.stack.last()?.pc.checked_sub(1)?;
            Some(self.launch.kernel.functions[f.function].instrs[pc as usize].line)
        });
        Err(self.fault(w, Stop { fault: LaneFault { lane, kind }, line: line.unwrap_or(0) }))
    }

    fn fault(&self, warp: usize, stop: Stop) -> Box<Fault> {
        Box::new(Fault {
            kernel: self.launch.kernel.name.clone(),
            line: stop.line as usize,
            text: self.launch.module.line(stop.line as usize).to_owned(),
            block: self.id,
            thread: thread_id((warp * LANES + stop.fault.lane) as u32, self.launch.block),
            kind: stop.fault.kind,
        })
    }

    /// Runs a warp until it waits, ends, or has had its turn.
    fn turn(&mut self, warp: &mut Warp) -> Result<(), Box<Stop>> {
        let kernel = self.launch.kernel;
        let mut turn = QUANTUM;
        loop {
            let Some(frame) = warp.frames.last_mut() else { return Ok(()) };
            let code = &kernel.functions[frame.function];
            let Some(top) = frame.stack.last_mut() else {
                if warp.frames.len() == 1 {
                    warp.state = State::Done;
                    return Ok(());
                }
                end_call(warp, kernel);
                continue;
            };
            if top.mask == 0 || top.pc == top.meet {
                frame.stack.pop();
                continue;
            }
            let pc = top.pc;
            let instr = &code.instrs[pc as usize];
            let stop = |fault: LaneFault| Box::new(Stop { fault, line: instr.line });
            let here = top.mask;
            let mask = instr.guard.map_or(here, |g| here & g.mask(&frame.regs));
            warp.clock += 1;
            turn -= 1;
            if self.left == 0 {
                let lane = here.trailing_zeros() as usize % LANES;
                return Err(stop(LaneFault { lane, kind: FaultKind::Budget(self.budget) }));
            }
            self.left -= 1;
            if self.checks.registers {
                check_registers(frame, code, instr, here, mask).map_err(stop)?;
            }
            let Some(top) = frame.stack.last_mut() else { continue };
            top.pc = pc + 1;
            if mask != 0 {
                match &instr.action {
                    Action::Pure(f) => {
                        frame.regs.clock = warp.clock;
                        f(&mut frame.regs, mask);
                    }
                    Action::Branch(target) => {
                        if mask == here {
                            top.pc = *target;
                        } else {
                            frame.diverge(instr.meet, &[(pc + 1, here & !mask), (*target, mask)]);
                        }
                    }
                    Action::Load(load) => self.load(warp, load, mask).map_err(stop)?,
                    Action::Store(store) => self.store(warp, store, mask).map_err(stop)?,
                    Action::Warp(f) => f(&mut frame.regs, Active { mask, living: warp.living }).map_err(stop)?,
                    Action::Barrier(barrier) => {
                        self.barrier(warp, *barrier, mask).map_err(stop)?;
                        if warp.state != State::Ready {
                            return Ok(());
                        }
                    }
                    action => self.rare(warp, instr, action, (pc, here, mask)).map_err(stop)?,
                }
            }
            if turn == 0 {
                return Ok(());
            }
        }
    }

    /// Actions that are not frequent.
    fn rare(
        &mut self,
        warp: &mut Warp,
        instr: &Instr,
        action: &Action,
        (pc, here, mask): (u32, u32, u32),
    ) -> Result<(), LaneFault> {
        let lane = mask.trailing_zeros() as usize % LANES;
        match action {
            Action::Atomic(atomic) => self.atomic(warp, atomic, mask),
            Action::CopyAsync(copy) => self.copy_async(warp, copy, mask),
            Action::Commit => {
                warp.commit(mask);
                Ok(())
            }
            Action::Wait(n) => self.wait_copies(warp, mask, *n),
            Action::WaitAll => {
                warp.commit(mask);
                self.wait_copies(warp, mask, 0)
            }
            Action::LoadMatrix(matrix) => self.load_matrix(warp, matrix, mask),
            Action::StoreMatrix(matrix) => self.store_matrix(warp, matrix, mask),
            Action::BranchIndex(index, targets) => {
                let Some(frame) = warp.frames.last_mut() else { return Ok(()) };
                let values = *index.get(&frame.regs);
                let mut sides: Vec<(u32, u32)> = vec![(pc + 1, here & !mask)];
                for lane in (0..LANES).filter(|l| mask >> l & 1 == 1) {
                    let Some(&target) = targets.get(values[lane] as usize) else {
                        return Err(LaneFault { lane, kind: FaultKind::Undefined("brx.idx beyond its list") });
                    };
                    match sides.iter_mut().find(|s| s.0 == target) {
                        Some(side) => side.1 |= 1 << lane,
                        None => sides.push((target, 1 << lane)),
                    }
                }
                sides.retain(|s| s.1 != 0);
                frame.diverge(instr.meet, &sides);
                Ok(())
            }
            Action::Call(call) => self.call(warp, call, pc, mask),
            Action::Ret => {
                if warp.frames.len() == 1 {
                    warp.living &= !mask;
                }
                if let Some(frame) = warp.frames.last_mut() {
                    frame.remove(mask);
                }
                Ok(())
            }
            Action::Exit => {
                warp.living &= !mask;
                warp.frames.iter_mut().for_each(|f| f.remove(mask));
                Ok(())
            }
            Action::WarpBarrier(members) => {
                let Some(frame) = warp.frames.last() else { return Ok(()) };
                let named = members.get(&frame.regs)[lane] & warp.living;
                if named & !mask != 0 || named >> lane & 1 == 0 {
                    return Err(LaneFault { lane, kind: FaultKind::DivergentWarp { active: mask, named } });
                }
                if self.checks.shared_races {
                    self.shared_races.tick(warp.index);
                }
                Ok(())
            }
            Action::Trap => Err(LaneFault { lane, kind: FaultKind::Trap }),
            _ => Ok(()),
        }
    }

    fn call(&mut self, warp: &mut Warp, call: &Call, pc: u32, mask: u32) -> Result<(), LaneFault> {
        let kernel = self.launch.kernel;
        let Some(caller) = warp.frames.last() else { return Ok(()) };
        let callee = &kernel.functions[call.function];
        let from = caller.regs.local_base;
        let base = from + kernel.functions[caller.function].frame_bytes;
        if warp.frames.len() >= MAX_CALLS || base + callee.frame_bytes > LOCAL_BYTES {
            let lane = mask.trailing_zeros() as usize % LANES;
            return Err(LaneFault { lane, kind: FaultKind::CallDepth(MAX_CALLS) });
        }
        for local in &mut warp.local {
            local.truncate(base as usize);
            local.resize((base + callee.frame_bytes) as usize, 0xFF);
            for (caller_at, callee_at, bytes) in &call.args {
                let start = (from + caller_at) as usize;
                local.copy_within(start..start + *bytes as usize, (base + callee_at) as usize);
            }
        }
        let mut frame = Frame {
            function: call.function,
            regs: registers(callee),
            stack: vec![Entry { pc: 0, meet: u32::MAX, mask }],
            mask,
            call: pc,
            ..Frame::default()
        };
        fill_specials(&mut frame.regs, callee, self.launch, warp.index as u32);
        fill_block_id(&mut frame.regs, callee, self.id);
        frame.regs.local_base = base;
        if self.checks.registers {
            frame.reset_written(callee);
        }
        warp.frames.push(frame);
        Ok(())
    }

    fn barrier(&mut self, warp: &mut Warp, barrier: Barrier, mask: u32) -> Result<(), LaneFault> {
        let lane = mask.trailing_zeros() as usize % LANES;
        let fail = |kind| Err(LaneFault { lane, kind });
        let Some(frame) = warp.frames.last() else { return Ok(()) };
        if mask != warp.all {
            return fail(FaultKind::DivergentBarrier { active: mask, all: warp.all });
        }
        let id = barrier.id.get(&frame.regs)[lane];
        let count = barrier.threads.map_or(self.threads, |t| t.get(&frame.regs)[lane]);
        if id as usize >= BARRIERS {
            return fail(FaultKind::Barrier { barrier: id, count, what: "there are 16 barriers" });
        }
        let whole = self.threads.next_multiple_of(32);
        if barrier.threads.is_some() && (count == 0 || !count.is_multiple_of(32) || count > whole) {
            let what = "the count must be a multiple of 32 and at most that of the block";
            return fail(FaultKind::Barrier { barrier: id, count, what });
        }
        let gathering = &mut self.barriers[id as usize];
        if gathering.expected == 0 {
            gathering.expected = count;
        } else if gathering.expected != count {
            return fail(FaultKind::Barrier { barrier: id, count, what: "others came with another count" });
        }
        // With a count whole warps are counted, without one the threads of the block.
        gathering.arrived += if barrier.threads.is_some() { 32 } else { warp.all.count_ones() };
        if let BarrierKind::Count(_, p) | BarrierKind::And(_, p) | BarrierKind::Or(_, p) = barrier.kind {
            gathering.holds += (p.mask(&frame.regs) & mask).count_ones();
        }
        if self.checks.shared_races {
            self.shared_races.arrive(warp.index, &mut gathering.clocks);
        }
        let waits = !matches!(barrier.kind, BarrierKind::Arrive);
        if gathering.arrived < gathering.expected {
            if waits {
                gathering.waiting.push(warp.index);
                warp.state = State::Waiting(id);
            }
            return Ok(());
        }
        let done = std::mem::take(gathering);
        if self.checks.shared_races {
            let all = done.waiting.iter().copied().chain(waits.then_some(warp.index));
            all.for_each(|w| self.shared_races.leave(w, &done.clocks));
        }
        complete(warp, barrier, &done);
        for &w in &done.waiting {
            let other = &mut self.warps[w];
            other.state = State::Ready;
            let kernel = self.launch.kernel;
            let own = other.frames.last().and_then(|f| {
                let pc = f.stack.last()?.pc.checked_sub(1)?;
                match kernel.functions[f.function].instrs[pc as usize].action {
                    Action::Barrier(b) => Some(b),
                    _ => None,
                }
            });
            if let Some(own) = own {
                complete(other, own, &done);
            }
        }
        Ok(())
    }
}

/// Gives a warp what a barrier with a predicate tells.
fn complete(warp: &mut Warp, barrier: Barrier, done: &Gathering) {
    let mask = warp.all;
    let Some(frame) = warp.frames.last_mut() else { return };
    let all = |holds: bool| if holds { u32::MAX } else { 0 };
    match barrier.kind {
        BarrierKind::Count(d, _) => {
            let out = d.get_mut(&mut frame.regs);
            regs::lanes(mask, |lane| out[lane] = done.holds);
        }
        BarrierKind::And(d, _) => set_pred(&mut frame.regs, d, mask, all(done.holds == done.expected)),
        BarrierKind::Or(d, _) => set_pred(&mut frame.regs, d, mask, all(done.holds > 0)),
        BarrierKind::Sync | BarrierKind::Arrive => {}
    }
}

#[inline(always)]
fn check_registers(frame: &mut Frame, code: &Code, instr: &Instr, here: u32, mask: u32) -> Result<(), LaneFault> {
    let mut missing = 0;
    for number in &instr.reads {
        missing |= mask & !frame.written[*number as usize];
    }
    if let Some(guard) = instr.guard {
        missing |= here & !frame.written[code.number(RegRef::Pred(guard.pred.0)) as usize];
    }
    if missing != 0 {
        return Err(unwritten(frame, code, instr, here));
    }
    for number in &instr.writes {
        frame.written[*number as usize] |= mask;
    }
    Ok(())
}

/// Which register it was.
#[cold]
fn unwritten(frame: &Frame, code: &Code, instr: &Instr, here: u32) -> LaneFault {
    let guard = instr.guard.map(|g| code.number(RegRef::Pred(g.pred.0)));
    let numbers = guard.into_iter().chain(instr.reads.iter().copied());
    let (number, lanes) =
        numbers.map(|n| (n, here & !frame.written[n as usize])).find(|(_, lanes)| *lanes != 0).unwrap_or((0, here));
    let lane = lanes.trailing_zeros() as usize % LANES;
    LaneFault { lane, kind: FaultKind::UninitialisedRegister(code.register_name(number)) }
}

/// Back to the caller, with what the function returns.
fn end_call(warp: &mut Warp, kernel: &Kernel) {
    let Some(frame) = warp.frames.pop() else { return };
    let Some(caller) = warp.frames.last() else { return };
    let to = caller.regs.local_base;
    let from = frame.regs.local_base;
    if let Action::Call(call) = &kernel.functions[caller.function].instrs[frame.call as usize].action {
        for lane in (0..LANES).filter(|l| frame.mask & warp.living & (1 << l) != 0) {
            for (callee_at, caller_at, bytes) in &call.results {
                let start = (from + callee_at) as usize;
                warp.local[lane].copy_within(start..start + *bytes as usize, (to + caller_at) as usize);
            }
        }
    }
}

/// Registers of a function, with literals; others hold NaN or -1.
fn registers(code: &Code) -> Regs {
    let mut regs = Regs {
        b32: vec![[u32::MAX; LANES]; code.counts[0] as usize],
        b64: vec![[u64::MAX; LANES]; code.counts[1] as usize],
        preds: vec![0; code.counts[2] as usize],
        ..Regs::default()
    };
    code.literals32.iter().for_each(|(i, v)| regs.b32[*i as usize] = [*v; LANES]);
    code.literals64.iter().for_each(|(i, v)| regs.b64[*i as usize] = [*v; LANES]);
    regs
}

fn set_lanes(regs: &mut Regs, reference: RegRef, f: impl Fn(u32) -> u32) {
    for lane in 0..LANES {
        let v = f(lane as u32);
        match reference {
            RegRef::B32(i) => regs.b32[i as usize][lane] = v,
            RegRef::B64(i) => regs.b64[i as usize][lane] = u64::from(v),
            RegRef::Pred(_) => {}
        }
    }
}

/// Special registers that are the same in all blocks.
fn fill_specials(regs: &mut Regs, code: &Code, launch: &Launch<'_>, warp: u32) {
    for (reference, special) in &code.specials {
        set_lanes(regs, *reference, |lane| match special {
            Special::Tid(d) => thread_id(warp * 32 + lane, launch.block)[*d],
            Special::Ntid(d) => launch.block[*d],
            Special::Nctaid(d) => launch.grid[*d],
            Special::Ctaid(_) => 0,
            Special::LaneId => lane,
            Special::WarpId => warp,
            Special::WarpCount => launch.block.iter().product::<u32>().div_ceil(32),
            Special::LaneMask(which) => match which {
                LaneMask::Equal => 1 << lane,
                LaneMask::Less => (1 << lane) - 1,
                LaneMask::LessOrEqual => u32::MAX >> (31 - lane),
                LaneMask::Greater => !(u32::MAX >> (31 - lane)),
                LaneMask::GreaterOrEqual => u32::MAX << lane,
            },
            Special::DynamicShared => launch.dynamic_shared as u32,
            Special::TotalShared => launch.shared_bytes() as u32,
            Special::Fixed(v) => *v,
        });
    }
}

fn fill_block_id(regs: &mut Regs, code: &Code, id: [u32; 3]) {
    for (reference, special) in &code.specials {
        if let Special::Ctaid(d) = special {
            set_lanes(regs, *reference, |_| id[*d]);
        }
    }
}

fn thread_id(n: u32, block: [u32; 3]) -> [u32; 3] {
    [n % block[0], n / block[0] % block[1], n / block[0] / block[1]]
}
