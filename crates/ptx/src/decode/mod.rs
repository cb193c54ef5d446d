//! Statements to executable instructions: names are resolved, forms are checked, semantics are chosen.

mod control;
mod convert;
mod float;
mod integer;
pub(crate) mod matrix;
mod memory;
mod moves;
mod packed;
mod predicate;
mod warp;

pub(crate) use matrix::whole_warp;

use std::collections::HashMap;

use crate::PtxError;
use crate::code::{Action, Code, Instr, Kernel, LOCAL_BYTES, LaneMask, Special};
use crate::control_flow;
use crate::error::Space;
use crate::num::Typed;
use crate::parse::{Ast, Function, Instruction, Kind, Operand, VarSpace, Variable};
use crate::regs::{Lane, Pred, PredSource, Reg, RegRef, Regs};
use crate::types::Ty;

/// A step of decoding: what is wrong with the instruction, as text.
type Decode<T> = Result<T, String>;

/// Deepest nesting of braces within a function.
const MAX_SCOPES: usize = 64;

/// What names outside of functions stand for.
pub struct Names<'a> {
    /// Addresses of variables in global memory.
    pub globals: HashMap<&'a str, u64>,
    /// The text, in lines.
    pub lines: Vec<&'a str>,
}

/// Decodes a kernel and what it calls.
pub fn kernel<'a>(ast: &'a Ast<'a>, names: &Names<'a>, entry: usize) -> Result<Kernel, PtxError> {
    let order = reachable(ast, entry);
    let (shared, static_shared, dynamic_shared) = shared_layout(ast, &order);
    let mut functions = Vec::with_capacity(order.len());
    for &index in &order {
        let function = &ast.functions[index];
        functions.push(Decoder::new(ast, names, &shared, &order, index).function(function)?);
    }
    let function = &ast.functions[entry];
    let granule = |space: Space| {
        let actions = functions.iter().flat_map(|f| &f.instrs).flat_map(|i| i.action.accesses()).flatten();
        let bytes = actions.filter_map(|(s, bytes)| match s {
            Space::Generic => Some(1),
            _ => (s == space).then_some(bytes),
        });
        bytes.min().unwrap_or(16).min(16).trailing_zeros()
    };
    let (shared_granule, global_granule) = (granule(Space::Shared), granule(Space::Global));
    let param_bytes = functions[0].params.last().map_or(0, |(offset, bytes)| offset + bytes) as usize;
    Ok(Kernel {
        name: function.name.to_owned(),
        functions,
        param_bytes,
        static_shared,
        dynamic_shared,
        shared_granule,
        global_granule,
        max_threads: function.max_threads,
        required: function.required,
    })
}

/// The function itself and all that it may call, each once.
fn reachable(ast: &Ast<'_>, entry: usize) -> Vec<usize> {
    let by_name: HashMap<&str, usize> = ast.functions.iter().enumerate().map(|(i, f)| (f.name, i)).collect();
    let mut order = vec![entry];
    let mut at = 0;
    while at < order.len() {
        for statement in &ast.functions[order[at]].body {
            let Kind::Instruction(instruction) = &statement.kind else { continue };
            for operand in &instruction.operands {
                if let Operand::Name(name, 0) = operand
                    && instruction.opcode.starts_with("call")
                    && let Some(index) = by_name.get(name)
                    && !order.contains(index)
                {
                    order.push(*index);
                }
            }
        }
        at += 1;
    }
    order
}

/// Offsets of shared variables: by function, where they are declared in one, and name.
type SharedLayout<'a> = HashMap<(Option<usize>, &'a str), u64>;

/// Places the shared variables that the functions use one after another; those without a length behind all others.
fn shared_layout<'a>(ast: &'a Ast<'a>, order: &[usize]) -> (SharedLayout<'a>, u64, u64) {
    let mut used: Vec<(Option<usize>, &Variable<'a>)> = Vec::new();
    let module: HashMap<&str, &Variable<'a>> =
        ast.variables.iter().filter(|v| v.space == VarSpace::Shared).map(|v| (v.name, v)).collect();
    for &index in order {
        for statement in &ast.functions[index].body {
            match &statement.kind {
                Kind::Variable(v) if v.space == VarSpace::Shared => used.push((Some(index), v)),
                Kind::Instruction(instruction) => {
                    for operand in &instruction.operands {
                        let (Operand::Name(name, _) | Operand::Address(Some(name), _)) = operand else { continue };
                        if let Some(v) = module.get(name)
                            && !used.iter().any(|(f, u)| f.is_none() && u.name == *name)
                        {
                            used.push((None, v));
                        }
                    }
                }
                _ => {}
            }
        }
    }
    let mut layout = SharedLayout::new();
    let mut end = 0u64;
    for (function, v) in used.iter().filter(|(_, v)| v.bytes > 0) {
        end = end.next_multiple_of(v.align);
        layout.insert((*function, v.name), end);
        end += v.bytes;
    }
    let dynamic_align = used.iter().filter(|(_, v)| v.bytes == 0).map(|(_, v)| v.align.max(16)).max();
    let dynamic = dynamic_align.map_or(end, |align| end.next_multiple_of(align));
    for (function, v) in used.iter().filter(|(_, v)| v.bytes == 0) {
        layout.insert((*function, v.name), dynamic);
    }
    (layout, end, dynamic)
}

/// What a name within a function stands for.
#[derive(Debug, Clone, Copy)]
enum Local {
    /// Registers `name0`, `name1` and so on.
    Range { ty: Ty, start: u32, count: u64 },
    /// A register.
    Register { ty: Ty, index: u32 },
    /// Memory in the function's frame.
    Frame(u64),
    /// Parameter of the kernel.
    Param(u64),
    /// Shared memory.
    Shared(u64),
}

/// An address that a name stands for.
#[derive(Debug, Clone, Copy)]
enum Symbol {
    Global(u64),
    Shared(u64),
    Frame(u64),
    Param(u64),
}

/// State while a function is decoded.
pub(crate) struct Decoder<'a, 'b> {
    ast: &'a Ast<'a>,
    names: &'b Names<'a>,
    shared: &'b SharedLayout<'a>,
    order: &'b [usize],
    index: usize,
    code: Code,
    scopes: Vec<HashMap<&'a str, Local>>,
    /// Numbers of the open scopes.
    open: Vec<usize>,
    labels: HashMap<(usize, &'a str), u32>,
    targets: HashMap<(usize, &'a str), &'b [&'a str]>,
    literals32: HashMap<u32, u32>,
    literals64: HashMap<u64, u32>,
    reads: Vec<RegRef>,
    writes: Vec<RegRef>,
    /// What each instruction reads and writes.
    touched: Vec<(Vec<RegRef>, Vec<RegRef>)>,
}

impl<'a, 'b> Decoder<'a, 'b>
where
    'a: 'b,
{
    fn new(
        ast: &'a Ast<'a>,
        names: &'b Names<'a>,
        shared: &'b SharedLayout<'a>,
        order: &'b [usize],
        index: usize,
    ) -> Self {
        Self {
            ast,
            names,
            shared,
            order,
            index,
            code: Code::default(),
            scopes: vec![HashMap::new()],
            open: vec![0],
            labels: HashMap::new(),
            targets: HashMap::new(),
            literals32: HashMap::new(),
            literals64: HashMap::new(),
            reads: Vec::new(),
            writes: Vec::new(),
            touched: Vec::new(),
        }
    }

    fn error(&self, line: usize, what: String) -> PtxError {
        PtxError::Instruction {
            line,
            function: self.ast.functions[self.index].name.to_owned(),
            text: self.names.lines.get(line.saturating_sub(1)).map_or("", |l| l.trim()).to_owned(),
            what,
        }
    }

    fn function(mut self, function: &'a Function<'a>) -> Result<Code, PtxError> {
        function.name.clone_into(&mut self.code.name);
        self.signature(function);
        self.find_labels(function)?;
        let mut scope_count = 0;
        for statement in &function.body {
            match &statement.kind {
                Kind::Open => {
                    scope_count += 1;
                    self.open.push(scope_count);
                    self.scopes.push(HashMap::new());
                }
                Kind::Close => {
                    self.open.pop();
                    self.scopes.pop();
                }
                Kind::Registers(ty, list) => {
                    self.registers(*ty, list).map_err(|what| self.error(statement.line, what))?;
                }
                Kind::Variable(v) => self.variable(v),
                Kind::Label(_) | Kind::Targets(..) => {}
                Kind::Instruction(instruction) => {
                    let instr = self
                        .instruction(instruction, statement.line)
                        .map_err(|what| self.error(statement.line, what))?;
                    self.code.instrs.push(instr);
                }
            }
        }
        // Whoever runs into the end returns.
        let line = function.body.last().map_or(function.line, |s| s.line) as u32;
        self.code.instrs.push(Instr {
            guard: None,
            action: Action::Ret,
            meet: u32::MAX,
            line,
            reads: Box::default(),
            writes: Box::default(),
        });
        self.code.literals32 = self.literals32.iter().map(|(v, i)| (*i, *v)).collect();
        self.code.literals64 = self.literals64.iter().map(|(v, i)| (*i, *v)).collect();
        self.code.frame_bytes = self.code.frame_bytes.next_multiple_of(16);
        if self.code.frame_bytes > LOCAL_BYTES {
            let what = format!("{} bytes of local memory, more than {LOCAL_BYTES}", self.code.frame_bytes);
            return Err(self.error(function.line, what));
        }
        self.number_registers();
        control_flow::set_meeting_points(&mut self.code.instrs);
        Ok(self.code)
    }

    /// What instructions read and write, by the numbers that registers have now that all are known.
    fn number_registers(&mut self) {
        let code = &self.code;
        let numbers = |list: &[RegRef]| -> Box<[u32]> { list.iter().map(|r| code.number(*r)).collect() };
        let all: Vec<_> = self.touched.iter().map(|(reads, writes)| (numbers(reads), numbers(writes))).collect();
        let literals32 = code.literals32.iter().map(|(i, _)| RegRef::B32(*i));
        let literals64 = code.literals64.iter().map(|(i, _)| RegRef::B64(*i));
        let specials = code.specials.iter().map(|(r, _)| *r);
        let preset = literals32.chain(literals64).chain(specials).map(|r| code.number(r)).collect();
        self.code.preset = preset;
        for (instr, (reads, writes)) in self.code.instrs.iter_mut().zip(all) {
            (instr.reads, instr.writes) = (reads, writes);
        }
    }

    fn signature(&mut self, function: &'a Function<'a>) {
        if function.entry {
            let mut end = 0u64;
            for v in &function.params {
                end = end.next_multiple_of(v.align);
                self.scopes[0].insert(v.name, Local::Param(end));
                self.code.params.push((end, v.bytes));
                end += v.bytes;
            }
            return;
        }
        for v in &function.params {
            let at = self.frame(v);
            self.code.params.push((at, v.bytes));
        }
        for v in &function.returns {
            let at = self.frame(v);
            self.code.returns.push((at, v.bytes));
        }
    }

    /// Room for a variable in the frame.
    fn frame(&mut self, v: &Variable<'a>) -> u64 {
        let at = self.code.frame_bytes.next_multiple_of(v.align);
        self.code.frame_bytes = at + v.bytes;
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(v.name, Local::Frame(at));
        }
        at
    }

    fn variable(&mut self, v: &Variable<'a>) {
        if v.space == VarSpace::Shared {
            let at = self.shared.get(&(Some(self.index), v.name)).copied().unwrap_or(0);
            if let Some(scope) = self.scopes.last_mut() {
                scope.insert(v.name, Local::Shared(at));
            }
        } else {
            self.frame(v);
        }
    }

    fn find_labels(&mut self, function: &'a Function<'a>) -> Result<(), PtxError> {
        let (mut open, mut count, mut pc) = (vec![0usize], 0, 0u32);
        for statement in &function.body {
            let scope = open.last().copied().unwrap_or(0);
            match &statement.kind {
                Kind::Open => {
                    count += 1;
                    open.push(count);
                    if open.len() > MAX_SCOPES {
                        return Err(self.error(statement.line, "braces nested too deep".to_owned()));
                    }
                }
                Kind::Close => {
                    open.pop();
                }
                Kind::Label(name) => {
                    let before = self.labels.insert((scope, name), pc);
                    if before.is_some() {
                        return Err(self.error(statement.line, format!("label {name} is here twice")));
                    }
                }
                Kind::Targets(name, list) => {
                    self.targets.insert((scope, name), list);
                }
                Kind::Instruction(_) => pc += 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn registers(&mut self, ty: Ty, list: &[(&'a str, Option<u64>)]) -> Decode<()> {
        let bank = match ty {
            Ty::Pred => 2,
            _ => usize::from(ty.bytes() == 8),
        };
        for &(name, count) in list {
            let start = self.code.counts[bank];
            let n = count.unwrap_or(1);
            let total = u64::from(start) + n;
            if total > 1 << 16 {
                return Err("more than 2^16 registers".to_owned());
            }
            self.code.counts[bank] = total as u32;
            let local = match count {
                Some(count) => Local::Range { ty, start, count },
                None => Local::Register { ty, index: start },
            };
            if let Some(scope) = self.scopes.last_mut() {
                scope.insert(name, local);
            }
        }
        Ok(())
    }

    /// The innermost meaning of a name.
    fn local(&self, name: &str) -> Option<Local> {
        for scope in self.scopes.iter().rev() {
            match scope.get(name) {
                None | Some(Local::Range { .. }) => {}
                Some(found) => return Some(*found),
            }
            let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count().min(7);
            for take in 1..=digits {
                let (prefix, number) = name.split_at(name.len() - take);
                if let Some(Local::Range { ty, start, count }) = scope.get(prefix)
                    && let Ok(n) = number.parse::<u32>()
                    && u64::from(n) < *count
                    && (take == 1 || !number.starts_with('0'))
                {
                    return Some(Local::Register { ty: *ty, index: start + n });
                }
            }
        }
        None
    }

    fn symbol(&self, name: &str) -> Option<Symbol> {
        match self.local(name) {
            Some(Local::Frame(at)) => Some(Symbol::Frame(at)),
            Some(Local::Param(at)) => Some(Symbol::Param(at)),
            Some(Local::Shared(at)) => Some(Symbol::Shared(at)),
            Some(_) => None,
            None => {
                let shared = self.shared.get(&(None, name)).map(|at| Symbol::Shared(*at));
                shared.or_else(|| self.names.globals.get(name).map(|at| Symbol::Global(*at)))
            }
        }
    }

    fn label(&self, name: &str) -> Decode<u32> {
        self.open
            .iter()
            .rev()
            .find_map(|scope| self.labels.get(&(*scope, name)).copied())
            .ok_or_else(|| format!("no label {name}"))
    }

    fn register(&mut self, name: &str) -> Option<(RegRef, Ty)> {
        let Some(Local::Register { ty, index }) = self.local(name) else { return None };
        let reference = match ty {
            Ty::Pred => RegRef::Pred(index),
            _ if ty.bytes() == 8 => RegRef::B64(index),
            _ => RegRef::B32(index),
        };
        self.code.names.entry(reference).or_insert_with(|| name.to_owned());
        Some((reference, ty))
    }

    fn instruction(&mut self, instruction: &Instruction<'a>, line: usize) -> Decode<Instr> {
        let guard = match instruction.guard {
            Some((name, negated)) => Some(PredSource { pred: self.pred_name(name)?, negated }),
            None => None,
        };
        // The guard is looked at in all lanes, and checked on its own.
        self.reads.clear();
        let action = self.action(&Inst::new(instruction))?;
        self.touched.push((std::mem::take(&mut self.reads), std::mem::take(&mut self.writes)));
        Ok(Instr { guard, action, meet: u32::MAX, line: line as u32, reads: Box::default(), writes: Box::default() })
    }

    fn action(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        match i.base() {
            "mov" | "selp" | "slct" | "prmt" | "cvta" | "isspacep" => self.moves(i),
            "setp" | "set" => self.set(i),
            "cvt" => self.convert(i),
            "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "abs" | "neg" | "min" | "max" | "rcp" | "sqrt"
            | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" | "copysign" | "testp" => match i.ty()? {
                Ty::F32 | Ty::F64 => self.float(i),
                Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 => self.half(i),
                _ => self.integer(i),
            },
            "and" | "or" | "xor" | "not" | "cnot" | "lop3" | "shl" | "shr" | "shf" | "popc" | "clz" | "bfind"
            | "brev" | "bfe" | "bfi" | "bmsk" | "sad" | "mul24" | "mad24" | "addc" | "subc" | "dp4a" | "dp2a"
            | "szext" => self.integer(i),
            "ld" | "ldu" | "st" | "atom" | "red" | "prefetch" | "prefetchu" | "cp" => self.memory(i),
            "ldmatrix" | "stmatrix" | "mma" | "movmatrix" => self.matrix(i),
            "shfl" | "vote" | "redux" | "match" | "activemask" | "elect" => self.warp(i),
            "bra" | "brx" | "call" | "ret" | "exit" | "trap" | "brkpt" | "bar" | "barrier" | "membar" | "fence"
            | "nanosleep" | "pmevent" => self.control(i),
            _ => Err("unknown instruction".to_owned()),
        }
    }

    fn pred_name(&mut self, name: &str) -> Decode<Pred> {
        match self.register(name) {
            Some((reference @ RegRef::Pred(index), _)) => {
                self.reads.push(reference);
                Ok(Pred(index))
            }
            _ => Err(format!("{name} is no predicate")),
        }
    }

    /// A predicate that is read.
    fn pred(&mut self, operand: &Operand<'a>) -> Decode<PredSource> {
        match operand {
            Operand::Name(name, 0) => Ok(PredSource { pred: self.pred_name(name)?, negated: false }),
            Operand::Not(name) => Ok(PredSource { pred: self.pred_name(name)?, negated: true }),
            _ => Err("expected a predicate".to_owned()),
        }
    }

    /// A predicate that is written; `_` is one that nobody reads.
    fn pred_out(&mut self, name: &str) -> Decode<Pred> {
        if name == "_" {
            self.code.counts[2] += 1;
            return Ok(Pred(self.code.counts[2] - 1));
        }
        match self.register(name) {
            Some((reference @ RegRef::Pred(index), _)) => {
                self.writes.push(reference);
                Ok(Pred(index))
            }
            _ => Err(format!("{name} is no predicate")),
        }
    }

    /// A value that is read: register, special register, literal or address of a variable.
    fn src<T: Typed>(&mut self, operand: &Operand<'a>) -> Decode<Reg<T::Bits>> {
        if let Some(bits) = T::literal(operand) {
            return Ok(self.literal(bits));
        }
        let Operand::Name(name, offset) = operand else {
            return Err("an operand of another kind is needed".to_owned());
        };
        if *offset == 0
            && let Some((reference, _)) = self.register(name)
        {
            let index = same_bank::<T::Bits>(reference, name)?;
            self.reads.push(reference);
            return Ok(Reg::new(index));
        }
        if *name == "WARP_SZ" {
            return Ok(self.literal(T::Bits::from_u64(32)));
        }
        if let Some(special) = special(name) {
            return Ok(self.special_register(name, special));
        }
        match self.symbol(name) {
            Some(Symbol::Global(at) | Symbol::Shared(at)) => {
                Ok(self.literal(T::Bits::from_u64(at.wrapping_add(*offset))))
            }
            _ => Err(format!("{name} is neither a register nor the address of a variable here")),
        }
    }

    /// A register that is written.
    fn dst<T: Typed>(&mut self, operand: &Operand<'a>) -> Decode<Reg<T::Bits>> {
        let Operand::Name(name, 0) = operand else { return Err("the result needs a register".to_owned()) };
        self.dst_name::<T::Bits>(name)
    }

    fn dst_name<L: Lane>(&mut self, name: &str) -> Decode<Reg<L>> {
        if name == "_" {
            return Ok(Reg::new(self.fresh::<L>()));
        }
        let (reference, _) = self.register(name).ok_or_else(|| format!("no register {name}"))?;
        let index = same_bank::<L>(reference, name)?;
        self.writes.push(reference);
        Ok(Reg::new(index))
    }

    fn fresh<L: Lane>(&mut self) -> u32 {
        let bank = usize::from(matches!(L::reference(0), RegRef::B64(_)));
        self.code.counts[bank] += 1;
        self.code.counts[bank] - 1
    }

    /// A register that holds `bits` in every lane.
    fn literal<L: Lane>(&mut self, bits: L) -> Reg<L> {
        let wide = bits.to_u64();
        let known = match L::reference(0) {
            RegRef::B64(_) => self.literals64.get(&wide).copied(),
            _ => self.literals32.get(&(wide as u32)).copied(),
        };
        Reg::new(known.unwrap_or_else(|| {
            let index = self.fresh::<L>();
            match L::reference(0) {
                RegRef::B64(_) => self.literals64.insert(wide, index),
                _ => self.literals32.insert(wide as u32, index),
            };
            index
        }))
    }

    fn special_register<L: Lane>(&mut self, name: &str, special: Special) -> Reg<L> {
        let same = self.code.specials.iter().find(|(reference, s)| {
            *s == special && std::mem::discriminant(reference) == std::mem::discriminant(&L::reference(0))
        });
        if let Some((RegRef::B32(index) | RegRef::B64(index), _)) = same {
            return Reg::new(*index);
        }
        let index = self.fresh::<L>();
        self.code.specials.push((L::reference(index), special));
        self.code.names.insert(L::reference(index), name.to_owned());
        Reg::new(index)
    }

    /// The bits that a register has.
    fn width(&mut self, name: &str) -> Decode<(RegRef, u32)> {
        match self.register(name) {
            Some((reference, ty)) if ty != Ty::Pred => Ok((reference, ty.bytes() as u32 * 8)),
            _ => Err(format!("{name} is no register for numbers")),
        }
    }
}

fn same_bank<L: Lane>(reference: RegRef, name: &str) -> Decode<u32> {
    match (reference, L::reference(0)) {
        (RegRef::B32(i), RegRef::B32(_)) | (RegRef::B64(i), RegRef::B64(_)) => Ok(i),
        _ => Err(format!("register {name} is of another size")),
    }
}

fn special(name: &str) -> Option<Special> {
    let dim = |rest: &str| match rest {
        ".x" => Some(0),
        ".y" => Some(1),
        ".z" => Some(2),
        _ => None,
    };
    for (prefix, make) in [
        ("%tid", Special::Tid as fn(usize) -> Special),
        ("%ntid", Special::Ntid),
        ("%ctaid", Special::Ctaid),
        ("%nctaid", Special::Nctaid),
    ] {
        if let Some(d) = name.strip_prefix(prefix).and_then(dim) {
            return Some(make(d));
        }
    }
    Some(match name {
        "%laneid" => Special::LaneId,
        "%warpid" => Special::WarpId,
        "%nwarpid" => Special::WarpCount,
        "%lanemask_eq" => Special::LaneMask(LaneMask::Equal),
        "%lanemask_lt" => Special::LaneMask(LaneMask::Less),
        "%lanemask_le" => Special::LaneMask(LaneMask::LessOrEqual),
        "%lanemask_gt" => Special::LaneMask(LaneMask::Greater),
        "%lanemask_ge" => Special::LaneMask(LaneMask::GreaterOrEqual),
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        "%smid" | "%gridid" => Special::Fixed(0),
        "%nsmid" => Special::Fixed(1),
        _ => return None,
    })
}

/// An instruction, its opcode in parts.
pub(crate) struct Inst<'a, 'i> {
    parts: Vec<&'a str>,
    operands: &'i [Operand<'a>],
}

impl<'a, 'i> Inst<'a, 'i> {
    fn new(instruction: &'i Instruction<'a>) -> Self {
        Self { parts: instruction.opcode.split('.').collect(), operands: &instruction.operands }
    }

    fn base(&self) -> &'a str {
        self.parts[0]
    }

    fn has(&self, part: &str) -> bool {
        self.parts[1..].contains(&part)
    }

    /// The type at the end of the opcode.
    fn ty(&self) -> Decode<Ty> {
        self.parts.last().and_then(|p| Ty::parse(p)).ok_or_else(|| "no type at the end of the opcode".to_owned())
    }

    fn operand(&self, n: usize) -> Decode<&'i Operand<'a>> {
        self.operands.get(n).ok_or_else(|| format!("operand {} is missing", n + 1))
    }

    /// Fails where the opcode has a part that is not in the list, or more operands than `count`.
    fn only(&self, known: &[&str], count: usize) -> Decode<()> {
        for part in &self.parts[1..] {
            if !known.contains(part) && Ty::parse(part).is_none() {
                return Err(format!(".{part} is not known here"));
            }
        }
        if self.operands.len() > count {
            return Err(format!("{} operands, at most {count} are known here", self.operands.len()));
        }
        Ok(())
    }
}

/// An action of registers only.
fn pure(f: impl Fn(&mut Regs, u32) + Send + Sync + 'static) -> Action {
    Action::Pure(Box::new(f))
}
