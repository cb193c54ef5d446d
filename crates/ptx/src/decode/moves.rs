//! Moves, selections and conversions of addresses.

use super::integer::by_bits;
use super::{Decode, Decoder, Inst, Symbol, pure};
use crate::code::Action;
use crate::machine::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::num::Typed;
use crate::parse::Operand;
use crate::regs::{self, Lane, Reg, RegRef, set_pred, unary, uniform};
use crate::types::Ty;

impl<'a> Decoder<'a, '_> {
    pub(super) fn moves(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        match i.base() {
            "mov" => self.mov(i),
            "selp" => by_bits!(i.ty()?, T => self.select::<T>(i)),
            "slct" => self.slct(i),
            "prmt" => self.permute(i),
            "cvta" => self.convert_address(i),
            _ => self.is_space(i),
        }
    }

    fn mov(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        i.only(&[], 2)?;
        let ty = i.ty()?;
        let (to, from) = (i.operand(0)?, i.operand(1)?);
        if ty == Ty::Pred {
            let value = match from {
                Operand::Int(v) => Err(if *v != 0 { u32::MAX } else { 0 }),
                other => Ok(self.pred(other)?),
            };
            let Operand::Name(name, 0) = to else { return Err("the result needs a predicate".to_owned()) };
            let d = self.pred_out(name)?;
            return Ok(pure(move |regs, mask| {
                let v = value.map_or_else(|constant| constant, |p| p.mask(regs));
                set_pred(regs, d, mask, v);
            }));
        }
        match (to, from) {
            (_, Operand::Vector(parts)) => self.pack(ty, to, parts),
            (Operand::Vector(parts), _) => self.unpack(ty, parts, from),
            (_, Operand::Name(name, offset)) => match (*name, self.symbol(name)) {
                ("%clock" | "%clock_hi" | "%clock64" | "%globaltimer" | "%globaltimer_lo", _) => {
                    by_bits!(ty, T => {
                        let d = self.dst::<T>(to)?;
                        Ok(Action::Pure(uniform(d, |regs| Lane::from_u64(regs.clock))))
                    })
                }
                (_, Some(Symbol::Frame(at))) => {
                    let at = at.wrapping_add(*offset);
                    by_bits!(ty, T => {
                        let d = self.dst::<T>(to)?;
                        Ok(Action::Pure(uniform(d, move |regs| Lane::from_u64(regs.local_base + at))))
                    })
                }
                (_, Some(Symbol::Param(at))) => {
                    let at = at.wrapping_add(*offset);
                    by_bits!(ty, T => {
                        let d = self.dst::<T>(to)?;
                        Ok(Action::Pure(uniform(d, move |_| Lane::from_u64(at))))
                    })
                }
                _ => by_bits!(ty, T => self.op1::<T>(i, |a| a)),
            },
            _ => match ty {
                Ty::F32 => self.op1::<f32>(i, |a| a),
                Ty::F64 => self.op1::<f64>(i, |a| a),
                _ => by_bits!(ty, T => self.op1::<T>(i, |a| a)),
            },
        }
    }

    /// `mov.b64 d, {a, b}`: the first is the lowest.
    fn pack(&mut self, ty: Ty, to: &Operand<'a>, parts: &[Operand<'a>]) -> Decode<Action> {
        let bits = part_bits(ty, parts.len())?;
        let sources = parts.iter().map(|p| self.src::<u32>(p)).collect::<Decode<Vec<_>>>()?;
        let part = (1u64 << bits) - 1;
        let join = move |regs: &regs::Regs, lane: usize| {
            sources.iter().rev().fold(0u64, |v, s| v << bits | u64::from(s.get(regs)[lane]) & part)
        };
        by_bits!(ty, T => {
            let d = self.dst::<T>(to)?;
            Ok(pure(move |regs, mask| regs::lanes(mask, |lane| {
                let v = join(regs, lane);
                d.get_mut(regs)[lane] = Lane::from_u64(v);
            })))
        })
    }

    fn unpack(&mut self, ty: Ty, parts: &[Operand<'a>], from: &Operand<'a>) -> Decode<Action> {
        let bits = part_bits(ty, parts.len())?;
        by_bits!(ty, T => {
            let source = self.src::<T>(from)?;
            let targets = parts.iter().map(|p| self.dst::<u32>(p)).collect::<Decode<Vec<_>>>()?;
            let part = (1u64 << bits) - 1;
            Ok(pure(move |regs, mask| {
                let v = *source.get(regs);
                for (n, target) in targets.iter().enumerate() {
                    let out = target.get_mut(regs);
                    regs::lanes(mask, |lane| out[lane] = (v[lane].to_u64() >> (n as u32 * bits) & part) as u32);
                }
            }))
        })
    }

    fn select<T: Typed>(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let float = matches!(i.ty()?, Ty::F32 | Ty::F64);
        let source = |s: &mut Self, n: usize| -> Decode<Reg<T::Bits>> {
            let operand = i.operand(n)?;
            match (float, size_of::<T>(), operand) {
                // An f32 literal is bits of its own; a decimal one has to be converted.
                (true, 4, Operand::F64(v)) => s.src::<T>(&Operand::Int(u64::from((*v as f32).to_bits()))),
                _ => s.src::<T>(operand),
            }
        };
        let (a, b) = (source(self, 1)?, source(self, 2)?);
        let p = self.pred(i.operand(3)?)?;
        let d = self.dst::<T>(i.operand(0)?)?;
        Ok(pure(move |regs, mask| {
            let holds = p.mask(regs);
            let (x, y) = (*a.get(regs), *b.get(regs));
            let out = d.get_mut(regs);
            regs::lanes(mask, |lane| out[lane] = if holds >> lane & 1 == 1 { x[lane] } else { y[lane] });
        }))
    }

    fn slct(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        match i.ty()? {
            Ty::S32 if i.parts.get(1).and_then(|p| Ty::parse(p)).is_some_and(|t| t.bytes() == 4) => {
                self.op3::<u32>(i, |a, b, c| if c as i32 >= 0 { a } else { b })
            }
            _ => Err("this form is not known".to_owned()),
        }
    }

    /// Bytes of two registers in any order.
    fn permute(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        if i.parts != ["prmt", "b32"] {
            return Err("only the default mode is known".to_owned());
        }
        self.op3::<u32>(i, |a, b, selector| {
            let both = u64::from(b) << 32 | u64::from(a);
            let mut out = 0;
            for n in 0..4 {
                let pick = selector >> (4 * n) & 0xF;
                let byte = (both >> (8 * (pick & 7))) as u8;
                let byte = if pick & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 };
                out |= u32::from(byte) << (8 * n);
            }
            out
        })
    }

    /// Generic addresses of shared and local memory lie in windows of their own; those of global memory are the same.
    fn convert_address(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let window = if i.has("shared") || i.has("shared::cta") {
            SHARED_WINDOW
        } else if i.has("local") {
            LOCAL_WINDOW
        } else if i.has("param") {
            PARAM_WINDOW
        } else {
            0
        };
        let back = i.has("to");
        if i.ty()?.bytes() != 8 {
            return Err("addresses have 64 bits".to_owned());
        }
        let moved = move |a: u64| if back { a.wrapping_sub(window) } else { a.wrapping_add(window) };
        if let Operand::Name(name, offset) = i.operand(1)?
            && let Some(Symbol::Frame(at)) = self.symbol(name)
        {
            let at = at.wrapping_add(*offset);
            let d = self.dst::<u64>(i.operand(0)?)?;
            return Ok(Action::Pure(uniform(d, move |regs| moved(regs.local_base + at))));
        }
        if let Operand::Name(name, offset) = i.operand(1)?
            && let Some(Symbol::Param(at)) = self.symbol(name)
        {
            let at = at.wrapping_add(*offset);
            let d = self.dst::<u64>(i.operand(0)?)?;
            return Ok(Action::Pure(uniform(d, move |_| moved(at))));
        }
        let a = self.src::<u64>(i.operand(1)?)?;
        let d = self.dst::<u64>(i.operand(0)?)?;
        Ok(Action::Pure(unary(d, a, moved)))
    }

    fn is_space(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let inside = |window: u64| move |a: u64| a >= window && a - window < WINDOW_BYTES;
        match i.parts.get(1).copied() {
            Some("shared" | "shared::cta") => self.test::<u64>(i, inside(SHARED_WINDOW)),
            Some("local") => self.test::<u64>(i, inside(LOCAL_WINDOW)),
            Some("global") => self.test::<u64>(i, |a| a < SHARED_WINDOW),
            _ => Err("this space is not known".to_owned()),
        }
    }

    /// The register of a value that goes to memory or comes from it.
    pub(super) fn value(&mut self, operand: &Operand<'a>, ty: Ty) -> Decode<crate::code::Value> {
        if let Operand::Name(name, 0) = operand
            && self.register(name).is_some()
        {
            let (reg, bits) = self.width(name)?;
            if (bits as usize) < ty.bytes() * 8 {
                return Err(format!("register {name} has only {bits} bits"));
            }
            return Ok(crate::code::Value { reg, bits });
        }
        let reg: RegRef = match ty {
            Ty::F32 => u32::reference(self.src::<f32>(operand)?.0),
            Ty::F64 => u64::reference(self.src::<f64>(operand)?.0),
            _ if ty.bytes() == 8 => u64::reference(self.src::<u64>(operand)?.0),
            _ => u32::reference(self.src::<u32>(operand)?.0),
        };
        Ok(crate::code::Value { reg, bits: if ty.bytes() == 8 { 64 } else { 32 } })
    }
}

fn part_bits(ty: Ty, parts: usize) -> Decode<u32> {
    match (ty.bytes(), parts) {
        (2, 2) => Ok(8),
        (4, 2) => Ok(16),
        (4, 4) => Ok(8),
        (8, 2) => Ok(32),
        (8, 4) => Ok(16),
        _ => Err(format!("{parts} parts of {ty:?} are not known")),
    }
}
