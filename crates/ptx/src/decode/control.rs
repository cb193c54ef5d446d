//! Branches, calls, barriers.

use super::{Decode, Decoder, Inst, Local};
use crate::code::{Action, Barrier, BarrierKind, Call};
use crate::parse::Operand;

impl<'a> Decoder<'a, '_> {
    pub(super) fn control(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        match i.base() {
            "bra" => {
                let Operand::Name(name, 0) = i.operand(0)? else { return Err("a branch needs a label".to_owned()) };
                Ok(Action::Branch(self.label(name)?))
            }
            "brx" => self.branch_index(i),
            "call" => self.call(i),
            "ret" => Ok(Action::Ret),
            "exit" => Ok(Action::Exit),
            "trap" | "brkpt" => Ok(Action::Trap),
            "bar" | "barrier" => self.barrier(i),
            "membar" | "fence" | "nanosleep" | "pmevent" => Ok(Action::Nothing),
            _ => Err("this form is not known".to_owned()),
        }
    }

    fn branch_index(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let index = self.src::<u32>(i.operand(0)?)?;
        let Operand::Name(name, 0) = i.operand(1)? else { return Err("brx.idx needs a list of labels".to_owned()) };
        let list = self.open.iter().rev().find_map(|scope| self.targets.get(&(*scope, name)).copied());
        let list = list.ok_or_else(|| format!("no list of labels {name}"))?;
        let targets = list.iter().map(|l| self.label(l)).collect::<Decode<Vec<_>>>()?;
        Ok(Action::BranchIndex(index, targets))
    }

    /// `call (results), function, (arguments);` with the lists left out where they are empty.
    fn call(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let empty: &[Operand<'a>] = &[];
        let (results, name, args) = match i.operands {
            [Operand::List(r), Operand::Name(name, 0), Operand::List(a)] => (r.as_slice(), *name, a.as_slice()),
            [Operand::List(r), Operand::Name(name, 0)] => (r.as_slice(), *name, empty),
            [Operand::Name(name, 0), Operand::List(a)] => (empty, *name, a.as_slice()),
            [Operand::Name(name, 0)] => (empty, *name, empty),
            _ => return Err("only calls of a named function are known".to_owned()),
        };
        let ast = self.ast;
        let target = self.order.iter().position(|index| ast.functions[*index].name == name);
        let function = target.ok_or_else(|| format!("no function {name} with a body"))?;
        let callee = &ast.functions[self.order[function]];
        let places = |list: &[Operand<'a>], formal: &[u64]| -> Decode<Vec<u64>> {
            if list.len() != formal.len() {
                return Err(format!("{} values for {} of {name}", list.len(), formal.len()));
            }
            list.iter()
                .map(|operand| match operand {
                    Operand::Name(n, 0) => match self.local(n) {
                        Some(Local::Frame(at)) => Ok(at),
                        _ => Err(format!("{n} is no .param variable")),
                    },
                    _ => Err("values are passed in .param variables".to_owned()),
                })
                .collect()
        };
        // The callee's frame starts with its parameters, then what it returns, each aligned.
        let mut end = 0u64;
        let mut formal = Vec::new();
        for v in callee.params.iter().chain(&callee.returns) {
            end = end.next_multiple_of(v.align);
            formal.push((end, v.bytes));
            end += v.bytes;
        }
        let (formal_args, formal_results) = formal.split_at(callee.params.len());
        let offsets = |f: &[(u64, u64)]| f.iter().map(|(at, _)| *at).collect::<Vec<_>>();
        let args = places(args, &offsets(formal_args))?.into_iter().zip(formal_args);
        let results = places(results, &offsets(formal_results))?.into_iter().zip(formal_results);
        Ok(Action::Call(Call {
            function,
            args: args.map(|(from, (to, bytes))| (from, *to, *bytes)).collect(),
            results: results.map(|(to, (from, bytes))| (*from, to, *bytes)).collect(),
        }))
    }

    fn barrier(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let parts: Vec<&str> = i.parts[1..].iter().copied().filter(|p| !matches!(*p, "cta" | "aligned")).collect();
        match parts[..] {
            ["warp", "sync"] => return Ok(Action::WarpBarrier(self.src::<u32>(i.operand(0)?)?)),
            ["sync"] | ["arrive"] => {}
            ["red", "popc", "u32"] | ["red", "and" | "or", "pred"] => return self.barrier_reduce(i, parts[1]),
            _ => return Err("this form is not known".to_owned()),
        }
        let id = self.src::<u32>(i.operand(0)?)?;
        let threads = i.operands.get(1).map(|o| self.src::<u32>(o)).transpose()?;
        let kind = if parts == ["sync"] { BarrierKind::Sync } else { BarrierKind::Arrive };
        if matches!(kind, BarrierKind::Arrive) && threads.is_none() {
            return Err("bar.arrive needs a number of threads".to_owned());
        }
        Ok(Action::Barrier(Barrier { id, threads, kind }))
    }

    /// `bar.red.op d, id{, threads}, p`
    fn barrier_reduce(&mut self, i: &Inst<'a, '_>, op: &str) -> Decode<Action> {
        let last = i.operands.len().saturating_sub(1);
        let p = self.pred(i.operand(last)?)?;
        let id = self.src::<u32>(i.operand(1)?)?;
        let threads = if last == 3 { Some(self.src::<u32>(i.operand(2)?)?) } else { None };
        let kind = if op == "popc" {
            BarrierKind::Count(self.dst::<u32>(i.operand(0)?)?, p)
        } else {
            let Operand::Name(name, 0) = i.operand(0)? else { return Err("the result needs a predicate".to_owned()) };
            let d = self.pred_out(name)?;
            if op == "and" { BarrierKind::And(d, p) } else { BarrierKind::Or(d, p) }
        };
        Ok(Action::Barrier(Barrier { id, threads, kind }))
    }
}
