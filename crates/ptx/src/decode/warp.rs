//! Instructions between the lanes of a warp.

use super::{Decode, Decoder, Inst};
use crate::FaultKind;
use crate::code::{Action, Active, LaneFault};
use crate::parse::Operand;
use crate::regs::{self, LANES, Pred, Reg, set_pred};
use crate::types::Ty;

impl<'a> Decoder<'a, '_> {
    pub(super) fn warp(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        match i.base() {
            "shfl" => self.shuffle(i),
            "vote" => self.vote(i),
            "redux" => self.reduce(i),
            "match" => self.matching(i),
            "activemask" => {
                let d = self.dst::<u32>(i.operand(0)?)?;
                Ok(Action::Warp(Box::new(move |regs, active| {
                    let out = d.get_mut(regs);
                    regs::lanes(active.mask, |lane| out[lane] = active.mask);
                    Ok(())
                })))
            }
            _ => Err("this form is not known".to_owned()),
        }
    }

    /// `shfl.sync.mode.b32 d|p, a, b, c, membermask`
    fn shuffle(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let ["shfl", "sync", mode, "b32"] = i.parts[..] else { return Err("this form is not known".to_owned()) };
        let (a, b, c) =
            (self.src::<u32>(i.operand(1)?)?, self.src::<u32>(i.operand(2)?)?, self.src::<u32>(i.operand(3)?)?);
        let members = self.src::<u32>(i.operand(4)?)?;
        let (d, p): (Reg<u32>, Option<Pred>) = match i.operand(0)? {
            Operand::Pair(d, p) => (self.dst_name::<u32>(d)?, Some(self.pred_out(p)?)),
            other => (self.dst::<u32>(other)?, None),
        };
        // The lane that a lane reads from, and whether it lies within bounds, by lane, b, first lane of the segment and bound.
        let source: fn(u32, u32, u32, u32) -> (u32, bool) = match mode {
            "up" => |lane, b, _, bound| (lane.wrapping_sub(b), lane as i32 - b as i32 >= bound as i32),
            "down" => |lane, b, _, bound| (lane + b, lane + b <= bound),
            "bfly" => |lane, b, _, bound| (lane ^ b, lane ^ b <= bound),
            "idx" => |_, b, first, bound| (first | b, first | b <= bound),
            _ => return Err("this mode is not known".to_owned()),
        };
        let index = mode == "idx";
        Ok(Action::Warp(Box::new(move |regs, active| {
            groups(members.get(regs), active)?;
            let named = *members.get(regs);
            let (values, bs, cs) = (*a.get(regs), *b.get(regs), *c.get(regs));
            let mut inside = 0u32;
            for lane in (0..LANES).filter(|l| active.mask >> l & 1 == 1) {
                let (segment, clamp) = (cs[lane] >> 8 & 0x1F, cs[lane] & 0x1F);
                let first = lane as u32 & segment;
                let bound = first | clamp & !segment;
                let b = if index { bs[lane] & 0x1F & !segment } else { bs[lane] & 0x1F };
                let (from, ok) = source(lane as u32, b, first, bound);
                let from = if ok { from as usize } else { lane };
                if from >= LANES || named[lane] & active.mask & (1 << from) == 0 {
                    return Err(LaneFault { lane, kind: FaultKind::ShuffleSource { source_lane: from as u32 } });
                }
                d.get_mut(regs)[lane] = values[from];
                inside |= u32::from(ok) << lane;
            }
            if let Some(p) = p {
                set_pred(regs, p, active.mask, inside);
            }
            Ok(())
        })))
    }

    /// `vote.sync.mode d, p, membermask`
    fn vote(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let ["vote", "sync", mode, _] = i.parts[..] else { return Err("this form is not known".to_owned()) };
        let p = self.pred(i.operand(1)?)?;
        let members = self.src::<u32>(i.operand(2)?)?;
        if mode == "ballot" {
            let d = self.dst::<u32>(i.operand(0)?)?;
            return Ok(Action::Warp(Box::new(move |regs, active| {
                let holds = p.mask(regs);
                for group in groups(members.get(regs), active)?.iter() {
                    let out = d.get_mut(regs);
                    regs::lanes(group, |lane| out[lane] = holds & group);
                }
                Ok(())
            })));
        }
        let f: fn(u32, u32) -> bool = match mode {
            "all" => |v, mask| v == mask,
            "any" => |v, _| v != 0,
            "uni" => |v, mask| v == 0 || v == mask,
            _ => return Err("this mode is not known".to_owned()),
        };
        let Operand::Name(name, 0) = i.operand(0)? else { return Err("the result needs a predicate".to_owned()) };
        let d = self.pred_out(name)?;
        Ok(Action::Warp(Box::new(move |regs, active| {
            let holds = p.mask(regs);
            for group in groups(members.get(regs), active)?.iter() {
                set_pred(regs, d, group, if f(holds & group, group) { u32::MAX } else { 0 });
            }
            Ok(())
        })))
    }

    /// `redux.sync.op.type d, a, membermask`
    fn reduce(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let ["redux", "sync", op, _] = i.parts[..] else { return Err("this form is not known".to_owned()) };
        let f: fn(u32, u32) -> u32 = match (op, i.ty()?) {
            ("add", Ty::U32 | Ty::S32) => u32::wrapping_add,
            ("min", Ty::U32) => u32::min,
            ("max", Ty::U32) => u32::max,
            ("min", Ty::S32) => |a, b| (a as i32).min(b as i32) as u32,
            ("max", Ty::S32) => |a, b| (a as i32).max(b as i32) as u32,
            ("and", Ty::B32) => |a, b| a & b,
            ("or", Ty::B32) => |a, b| a | b,
            ("xor", Ty::B32) => |a, b| a ^ b,
            _ => return Err("this form is not known".to_owned()),
        };
        let a = self.src::<u32>(i.operand(1)?)?;
        let members = self.src::<u32>(i.operand(2)?)?;
        let d = self.dst::<u32>(i.operand(0)?)?;
        Ok(Action::Warp(Box::new(move |regs, active| {
            let values = *a.get(regs);
            for group in groups(members.get(regs), active)?.iter() {
                let all = (0..LANES).filter(|l| group >> l & 1 == 1).map(|l| values[l]);
                let v = all.reduce(f).unwrap_or_default();
                let out = d.get_mut(regs);
                regs::lanes(group, |lane| out[lane] = v);
            }
            Ok(())
        })))
    }

    /// `match.any.sync.b32 d, a, membermask` and `match.all.sync.b32 d|p, a, membermask`
    fn matching(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let ["match", mode @ ("any" | "all"), "sync", "b32"] = i.parts[..] else {
            return Err("this form is not known".to_owned());
        };
        let a = self.src::<u32>(i.operand(1)?)?;
        let members = self.src::<u32>(i.operand(2)?)?;
        let (d, p): (Reg<u32>, Option<Pred>) = match i.operand(0)? {
            Operand::Pair(d, p) => (self.dst_name::<u32>(d)?, Some(self.pred_out(p)?)),
            other => (self.dst::<u32>(other)?, None),
        };
        let any = mode == "any";
        Ok(Action::Warp(Box::new(move |regs, active| {
            let values = *a.get(regs);
            for group in groups(members.get(regs), active)?.iter() {
                for lane in (0..LANES).filter(|l| group >> l & 1 == 1) {
                    let mut same = 0u32;
                    regs::lanes(group, |l| same |= u32::from(values[l] == values[lane]) << l);
                    d.get_mut(regs)[lane] = if any || same == group { same } else { 0 };
                    if let Some(p) = p {
                        set_pred(regs, p, 1 << lane, if same == group { u32::MAX } else { 0 });
                    }
                }
            }
            Ok(())
        })))
    }
}

/// The groups of lanes that the masks name: lanes with one mask belong together. All lanes of a mask that have not ended have to
/// be here with the same mask.
fn groups(members: &[u32; LANES], active: Active) -> Result<Groups, LaneFault> {
    let mut groups = Groups { masks: [0; LANES], count: 0 };
    let mut rest = active.mask;
    while rest != 0 {
        let lane = rest.trailing_zeros() as usize % LANES;
        let named = members[lane] & active.living;
        let same = (0..LANES).all(|l| named >> l & 1 == 0 || members[l] & active.living == named);
        if named & rest != named || named >> lane & 1 == 0 || !same {
            return Err(LaneFault { lane, kind: FaultKind::DivergentWarp { active: active.mask, named } });
        }
        groups.masks[groups.count] = named;
        groups.count += 1;
        rest &= !named;
    }
    Ok(groups)
}

struct Groups {
    masks: [u32; LANES],
    count: usize,
}

impl Groups {
    fn iter(&self) -> impl Iterator<Item = u32> {
        self.masks[..self.count].iter().copied()
    }
}
