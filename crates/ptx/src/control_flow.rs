//! Where lanes meet again after a branch: the immediate post-dominator of the branch's block.
//!
//! Computed as in Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm" (2001), on the reversed graph. Paths that
//! end early, in any return but the last one, do not count: their lanes are gone, and the others meet without them.

use crate::code::{Action, Instr};

/// A block: its first instruction, the one behind its last, and the blocks that may follow.
struct Block {
    start: usize,
    end: usize,
    next: Vec<usize>,
}

/// Sets [`Instr::meet`] of all branches.
pub fn set_meeting_points(instrs: &mut [Instr]) {
    let blocks = blocks(instrs);
    let meet = immediate_post_dominators(instrs, &blocks);
    for (block, meet) in blocks.iter().zip(meet) {
        let last = &mut instrs[block.end - 1];
        if let (Action::Branch(_) | Action::BranchIndex(..), Some(meet)) = (&last.action, meet) {
            last.meet = blocks[meet].start as u32;
        }
    }
}

fn is_return(instr: &Instr) -> bool {
    instr.guard.is_none() && matches!(instr.action, Action::Ret | Action::Exit | Action::Trap)
}

fn blocks(instrs: &[Instr]) -> Vec<Block> {
    let mut leader = vec![false; instrs.len() + 1];
    leader[0] = true;
    for (pc, instr) in instrs.iter().enumerate() {
        match &instr.action {
            Action::Branch(target) => leader[*target as usize] = true,
            Action::BranchIndex(_, targets) => targets.iter().for_each(|t| leader[*t as usize] = true),
            _ if is_return(instr) => {}
            _ => continue,
        }
        leader[pc + 1] = true;
    }
    let starts: Vec<usize> = (0..instrs.len()).filter(|pc| leader[*pc]).collect();
    let block_of = |pc: u32| starts.partition_point(|s| *s <= pc as usize) - 1;
    let mut blocks = Vec::with_capacity(starts.len());
    for (b, &start) in starts.iter().enumerate() {
        let end = starts.get(b + 1).copied().unwrap_or(instrs.len());
        let last = &instrs[end - 1];
        let mut next = match &last.action {
            Action::Branch(target) => vec![block_of(*target)],
            Action::BranchIndex(_, targets) => targets.iter().map(|t| block_of(*t)).collect(),
            _ => Vec::new(),
        };
        let jumps = last.guard.is_none() && matches!(last.action, Action::Branch(_) | Action::BranchIndex(..));
        if !jumps && !is_return(last) && end < instrs.len() {
            next.push(b + 1);
        }
        blocks.push(Block { start, end, next });
    }
    blocks
}

fn immediate_post_dominators(instrs: &[Instr], blocks: &[Block]) -> Vec<Option<usize>> {
    let n = blocks.len();
    let mut reached = vec![false; n];
    let mut pending = vec![0];
    while let Some(b) = pending.pop() {
        if !std::mem::replace(&mut reached[b], true) {
            pending.extend(&blocks[b].next);
        }
    }
    let ends = |b: &usize| reached[*b] && is_return(&instrs[blocks[*b].end - 1]);
    let Some(exit) = (0..n).rev().find(ends) else { return vec![None; n] };
    let mut before = vec![Vec::new(); n];
    for (b, block) in blocks.iter().enumerate() {
        block.next.iter().for_each(|next| before[*next].push(b));
    }
    // Postorder of the reversed graph.
    let mut order = Vec::with_capacity(n);
    let mut rank = vec![usize::MAX; n];
    let mut seen = vec![false; n];
    let mut stack = vec![(exit, 0)];
    seen[exit] = true;
    while let Some((b, i)) = stack.pop() {
        if let Some(&p) = before[b].get(i) {
            stack.push((b, i + 1));
            if !std::mem::replace(&mut seen[p], true) {
                stack.push((p, 0));
            }
        } else {
            rank[b] = order.len();
            order.push(b);
        }
    }
    let mut dominator: Vec<Option<usize>> = vec![None; n];
    dominator[exit] = Some(exit);
    let mut changed = true;
    while changed {
        changed = false;
        for &b in order.iter().rev().filter(|b| **b != exit) {
            let mut found: Option<usize> = None;
            for &next in &blocks[b].next {
                if dominator[next].is_none() {
                    continue;
                }
                found = Some(found.map_or(next, |f| intersect(f, next, &dominator, &rank)));
            }
            if found != dominator[b] {
                dominator[b] = found;
                changed = true;
            }
        }
    }
    dominator[exit] = None;
    dominator
}

fn intersect(mut a: usize, mut b: usize, dominator: &[Option<usize>], rank: &[usize]) -> usize {
    while a != b {
        while rank[a] < rank[b] {
            a = dominator[a].unwrap_or(b);
        }
        while rank[b] < rank[a] {
            b = dominator[b].unwrap_or(a);
        }
    }
    a
}
