//! Loads, stores, atomics and asynchronous copies.

use super::{Decode, Decoder, Inst, Symbol};
use crate::code::{Action, Address, Atomic, AtomicOp, CopyAsync, Load, Store, Value};
use crate::error::Space;
use crate::parse::Operand;
use crate::types::Ty;

/// Modifiers about caching and order, which change nothing here: memory is always in order.
const HINTS: &[&str] = &[
    "weak", "volatile", "relaxed", "acquire", "release", "acq_rel", "cta", "gpu", "sys", "cluster", "nc", "ca", "cg",
    "cs", "cv", "lu", "wb", "wt",
];

impl<'a> Decoder<'a, '_> {
    pub(super) fn memory(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        match i.base() {
            "ld" | "ldu" => self.load(i),
            "st" => self.store(i),
            "atom" | "red" => self.atomic(i),
            "cp" => self.copy_async(i),
            _ => {
                self.address(i.operand(0)?, Space::Generic)?;
                Ok(Action::Nothing)
            }
        }
    }

    /// State space and number of elements; all else has to be known.
    fn access(&self, i: &Inst<'a, '_>, more: &[&str]) -> Decode<(Space, usize)> {
        let (mut space, mut vector) = (Space::Generic, 1);
        for part in &i.parts[1..] {
            match *part {
                "global" | "const" => space = Space::Global,
                "shared" | "shared::cta" => space = Space::Shared,
                "local" => space = Space::Local,
                "param" | "param::entry" | "param::func" => space = Space::Param,
                "v2" => vector = 2,
                "v4" => vector = 4,
                _ if HINTS.contains(part) || more.contains(part) || Ty::parse(part).is_some() => {}
                _ if part.starts_with("L1::") || part.starts_with("L2::") => {}
                _ => return Err(format!(".{part} is not known here")),
            }
        }
        Ok((space, vector))
    }

    pub(super) fn address(&mut self, operand: &Operand<'a>, space: Space) -> Decode<(Space, Address)> {
        let Operand::Address(base, offset) = operand else { return Err("an address in brackets is needed".to_owned()) };
        let at = |offset: u64, frame: bool| Address { base: None, offset, frame };
        let Some(name) = base else { return Ok((space, at(*offset, false))) };
        if self.register(name).is_some() {
            let (reference, bits) = self.width(name)?;
            if bits < 32 {
                return Err(format!("register {name} has only {bits} bits"));
            }
            self.note_read(reference);
            return Ok((space, Address { base: Some(reference), offset: *offset, frame: false }));
        }
        match (self.symbol(name), space) {
            (Some(Symbol::Global(v)), Space::Global | Space::Generic) => {
                Ok((Space::Global, at(v.wrapping_add(*offset), false)))
            }
            (Some(Symbol::Shared(v)), Space::Shared | Space::Generic) => {
                Ok((Space::Shared, at(v.wrapping_add(*offset), false)))
            }
            (Some(Symbol::Param(v)), Space::Param) => Ok((Space::Param, at(v.wrapping_add(*offset), false))),
            // Parameters of functions lie in the frame.
            (Some(Symbol::Frame(v)), Space::Local | Space::Param) => {
                Ok((Space::Local, at(v.wrapping_add(*offset), true)))
            }
            _ => Err(format!("{name} is no variable of {space} memory")),
        }
    }

    fn values(&mut self, operand: &Operand<'a>, ty: Ty, vector: usize, write: bool) -> Decode<Vec<Value>> {
        let list = match operand {
            Operand::Vector(list) => list.as_slice(),
            single => std::slice::from_ref(single),
        };
        if list.len() != vector {
            return Err(format!("{} registers for {vector} elements", list.len()));
        }
        let mut values = Vec::with_capacity(vector);
        for operand in list {
            if write && *operand == Operand::Name("_", 0) {
                let reg = if ty.bytes() == 8 {
                    crate::regs::RegRef::B64(self.fresh::<u64>())
                } else {
                    crate::regs::RegRef::B32(self.fresh::<u32>())
                };
                values.push(Value { reg, bits: ty.bytes().max(4) as u32 * 8 });
                continue;
            }
            if write && !matches!(operand, Operand::Name(..)) {
                return Err("the result needs a register".to_owned());
            }
            let value = self.value(operand, ty)?;
            if write {
                self.wrote(value.reg);
            } else {
                self.note_read(value.reg);
            }
            values.push(value);
        }
        Ok(values)
    }

    fn load(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let (space, vector) = self.access(i, &[])?;
        let ty = memory_type(i)?;
        let (space, address) = self.address(i.operand(1)?, space)?;
        let values = self.values(i.operand(0)?, ty, vector, true)?;
        Ok(Action::Load(Load { space, address, bytes: ty.bytes(), signed: ty.signed(), values }))
    }

    fn store(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let (space, vector) = self.access(i, &[])?;
        let ty = memory_type(i)?;
        if i.has("const") {
            return Err("constants are not written".to_owned());
        }
        let (space, address) = self.address(i.operand(0)?, space)?;
        if space == Space::Param {
            return Err("parameters of a kernel are not written".to_owned());
        }
        let values = self.values(i.operand(1)?, ty, vector, false)?;
        Ok(Action::Store(Store { space, address, bytes: ty.bytes(), values }))
    }

    fn atomic(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        const OPS: &[&str] = &["add", "exch", "cas", "min", "max", "and", "or", "xor", "inc", "dec"];
        let (space, vector) = self.access(i, OPS)?;
        let ty = memory_type(i)?;
        if vector != 1 {
            return Err("atomics of vectors are not known".to_owned());
        }
        let name = i.parts[1..].iter().find(|p| OPS.contains(p)).ok_or("no operation")?;
        let op = atomic_op(name, ty)?;
        let skip = usize::from(i.base() == "atom");
        let (space, address) = self.address(i.operand(skip)?, space)?;
        let b = self.values(i.operand(skip + 1)?, ty, 1, false)?[0];
        let c = if *name == "cas" { Some(self.values(i.operand(skip + 2)?, ty, 1, false)?[0]) } else { None };
        let old = if skip == 1 { Some(self.values(i.operand(0)?, ty, 1, true)?[0]) } else { None };
        Ok(Action::Atomic(Atomic { space, address, bytes: ty.bytes(), old, b, c, op }))
    }

    fn copy_async(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        match i.parts[..] {
            ["cp", "async", "commit_group"] => return Ok(Action::Commit),
            ["cp", "async", "wait_all"] => return Ok(Action::WaitAll),
            ["cp", "async", "wait_group"] => {
                let Operand::Int(n) = i.operand(0)? else { return Err("wait_group needs a literal".to_owned()) };
                return Ok(Action::Wait(*n as u32));
            }
            ["cp", "async", "ca" | "cg", "shared" | "shared::cta", "global", ..] => {}
            _ => return Err("this form is not known".to_owned()),
        }
        for part in &i.parts[5..] {
            if !part.starts_with("L2::") {
                return Err(format!(".{part} is not known here"));
            }
        }
        let (_, to) = self.address(i.operand(0)?, Space::Shared)?;
        let (_, from) = self.address(i.operand(1)?, Space::Global)?;
        let Operand::Int(bytes) = i.operand(2)? else { return Err("the size needs a literal".to_owned()) };
        if !(*bytes == 16 || i.has("ca") && matches!(bytes, 4 | 8)) {
            return Err(format!("a copy of {bytes} bytes is not possible here"));
        }
        let (mut source_bytes, mut ignore) = (None, None);
        match i.operands.get(3) {
            None => {}
            Some(operand) => match self.pred(operand) {
                Ok(p) => ignore = Some(p),
                Err(_) => source_bytes = Some(self.src::<u32>(operand)?),
            },
        }
        Ok(Action::CopyAsync(CopyAsync { to, from, bytes: *bytes as usize, source_bytes, ignore }))
    }
}

fn memory_type(i: &Inst<'_, '_>) -> Decode<Ty> {
    match i.ty()? {
        Ty::Pred => Err("predicates do not lie in memory".to_owned()),
        ty => Ok(ty),
    }
}

fn atomic_op(name: &str, ty: Ty) -> Decode<AtomicOp> {
    if ty.float() || matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
        return Err("atomics on floats add in no fixed order: not known here".to_owned());
    }
    let bits = ty.bytes() as u32 * 8;
    if !(bits == 32 || bits == 64 || bits == 16 && matches!(name, "cas" | "exch")) {
        return Err(format!("no atomics of {bits} bits"));
    }
    let shift = 64 - bits;
    let signed = move |v: u64| (v << shift) as i64 >> shift;
    Ok(match name {
        "add" => Box::new(|a, b, _| a.wrapping_add(b)),
        "exch" => Box::new(|_, b, _| b),
        "cas" => Box::new(|a, b, c| if a == b { c } else { a }),
        "and" => Box::new(|a, b, _| a & b),
        "or" => Box::new(|a, b, _| a | b),
        "xor" => Box::new(|a, b, _| a ^ b),
        "min" if ty.signed() => Box::new(move |a, b, _| if signed(a) <= signed(b) { a } else { b }),
        "max" if ty.signed() => Box::new(move |a, b, _| if signed(a) >= signed(b) { a } else { b }),
        "min" => Box::new(|a, b, _| a.min(b)),
        "max" => Box::new(|a, b, _| a.max(b)),
        "inc" => Box::new(|a, b, _| if a >= b { 0 } else { a + 1 }),
        "dec" => Box::new(|a, b, _| if a == 0 || a > b { b } else { a - 1 }),
        _ => return Err("this operation is not known".to_owned()),
    })
}
