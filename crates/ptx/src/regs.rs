//! Registers of a warp, and functions over its lanes.
//!
//! Registers of 16 and 32 bits lie in one bank as `[u32; 32]`, those of 64 bits in another; a predicate is a mask of lanes.
//! Literals and special registers are registers too, filled before the warp starts, so that an instruction knows nothing but
//! register numbers. A register of 16 bits keeps the upper half of its element zero.

use std::marker::PhantomData;

/// Lanes of a warp.
pub const LANES: usize = 32;
/// The mask of all lanes.
pub const ALL: u32 = u32::MAX;

/// Registers of one call of a function by a warp.
#[derive(Debug, Clone, Default)]
pub struct Regs {
    /// Registers of 16 and 32 bits.
    pub b32: Vec<[u32; LANES]>,
    /// Registers of 64 bits.
    pub b64: Vec<[u64; LANES]>,
    /// Predicates: bit l belongs to lane l.
    pub preds: Vec<u32>,
    /// Carry flags of the lanes.
    pub carry: u32,
    /// Where the function's frame starts in the local memory of every lane.
    pub local_base: u64,
    /// Instructions that the warp has executed: the clock.
    pub clock: u64,
}

/// An element of a register bank.
pub trait Lane: Copy + Default + Send + Sync + 'static {
    /// The bank.
    fn bank(regs: &Regs) -> &[[Self; LANES]];
    /// The bank.
    fn bank_mut(regs: &mut Regs) -> &mut [[Self; LANES]];
    /// Truncated.
    fn from_u64(v: u64) -> Self;
    /// Extended with zeros.
    fn to_u64(self) -> u64;
    /// A reference to a register, of no matter what bank.
    fn reference(index: u32) -> RegRef;
}

impl Lane for u32 {
    fn bank(regs: &Regs) -> &[[Self; LANES]] {
        &regs.b32
    }
    fn bank_mut(regs: &mut Regs) -> &mut [[Self; LANES]] {
        &mut regs.b32
    }
    fn from_u64(v: u64) -> Self {
        v as Self
    }
    fn to_u64(self) -> u64 {
        u64::from(self)
    }
    fn reference(index: u32) -> RegRef {
        RegRef::B32(index)
    }
}

impl Lane for u64 {
    fn bank(regs: &Regs) -> &[[Self; LANES]] {
        &regs.b64
    }
    fn bank_mut(regs: &mut Regs) -> &mut [[Self; LANES]] {
        &mut regs.b64
    }
    fn from_u64(v: u64) -> Self {
        v
    }
    fn to_u64(self) -> u64 {
        self
    }
    fn reference(index: u32) -> RegRef {
        RegRef::B64(index)
    }
}

/// A register of a bank.
#[derive(Debug)]
pub struct Reg<T>(pub u32, PhantomData<fn() -> T>);

impl<T> Clone for Reg<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Reg<T> {}

impl<T: Lane> Reg<T> {
    /// The register with this number.
    pub fn new(index: u32) -> Self {
        Self(index, PhantomData)
    }

    /// Its lanes.
    pub fn get(self, regs: &Regs) -> &[T; LANES] {
        &T::bank(regs)[self.0 as usize]
    }

    /// Its lanes.
    pub fn get_mut(self, regs: &mut Regs) -> &mut [T; LANES] {
        &mut T::bank_mut(regs)[self.0 as usize]
    }
}

/// A predicate register.
#[derive(Debug, Clone, Copy)]
pub struct Pred(pub u32);

/// A predicate as an operand.
#[derive(Debug, Clone, Copy)]
pub struct PredSource {
    /// The register.
    pub pred: Pred,
    /// Whether its negation is meant.
    pub negated: bool,
}

impl PredSource {
    /// Lanes where it holds.
    pub fn mask(self, regs: &Regs) -> u32 {
        let mask = regs.preds[self.pred.0 as usize];
        if self.negated { !mask } else { mask }
    }
}

/// A register of any bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RegRef {
    /// 16 and 32 bits
    B32(u32),
    /// 64 bits
    B64(u32),
    /// Predicate
    Pred(u32),
}

/// What an instruction without memory does to the lanes of a mask.
pub type Pure = Box<dyn Fn(&mut Regs, u32) + Send + Sync>;

/// Calls `f` for each lane of the mask.
#[inline(always)]
pub fn lanes(mask: u32, mut f: impl FnMut(usize)) {
    if mask == ALL {
        for lane in 0..LANES {
            f(lane);
        }
    } else {
        let mut rest = mask;
        while rest != 0 {
            f(rest.trailing_zeros() as usize % LANES);
            rest &= rest - 1;
        }
    }
}

/// `d = f(lane)`, where `f` looks at registers. All lanes are computed before the first is written, so that no register has to be
/// copied.
#[inline(always)]
fn assign<O: Lane>(
    regs: &mut Regs,
    d: Reg<O>,
    mask: u32,
    f: impl Fn(&Regs) -> [O; LANES],
    one: impl Fn(&Regs, usize) -> O,
) {
    if mask == ALL {
        let out = f(regs);
        *d.get_mut(regs) = out;
    } else {
        lanes(mask, |lane| {
            let v = one(regs, lane);
            d.get_mut(regs)[lane] = v;
        });
    }
}

#[inline(always)]
fn each<O: Lane>(f: impl Fn(usize) -> O) -> [O; LANES] {
    let mut out = [O::default(); LANES];
    for (lane, o) in out.iter_mut().enumerate() {
        *o = f(lane);
    }
    out
}

/// `d = f()`, for what is the same in all lanes.
pub fn uniform<O: Lane>(d: Reg<O>, f: impl Fn(&Regs) -> O + Send + Sync + 'static) -> Pure {
    Box::new(move |regs, mask| {
        let v = f(regs);
        let out = d.get_mut(regs);
        lanes(mask, |lane| out[lane] = v);
    })
}

/// `d = f(a)`
pub fn unary<A: Lane, O: Lane>(d: Reg<O>, a: Reg<A>, f: impl Fn(A) -> O + Send + Sync + 'static) -> Pure {
    Box::new(move |regs, mask| {
        let all = |regs: &Regs| {
            let x = a.get(regs);
            each(|l| f(x[l]))
        };
        assign(regs, d, mask, all, |regs, l| f(a.get(regs)[l]));
    })
}

/// `d = f(a, b)`
pub fn binary<A: Lane, B: Lane, O: Lane>(
    d: Reg<O>,
    (a, b): (Reg<A>, Reg<B>),
    f: impl Fn(A, B) -> O + Send + Sync + 'static,
) -> Pure {
    Box::new(move |regs, mask| {
        let all = |regs: &Regs| {
            let (x, y) = (a.get(regs), b.get(regs));
            each(|l| f(x[l], y[l]))
        };
        assign(regs, d, mask, all, |regs, l| f(a.get(regs)[l], b.get(regs)[l]));
    })
}

/// `d = f(a, b, c)`
pub fn ternary<A: Lane, B: Lane, C: Lane, O: Lane>(
    d: Reg<O>,
    (a, b, c): (Reg<A>, Reg<B>, Reg<C>),
    f: impl Fn(A, B, C) -> O + Send + Sync + 'static,
) -> Pure {
    Box::new(move |regs, mask| {
        let all = |regs: &Regs| {
            let (x, y, z) = (a.get(regs), b.get(regs), c.get(regs));
            each(|l| f(x[l], y[l], z[l]))
        };
        assign(regs, d, mask, all, |regs, l| f(a.get(regs)[l], b.get(regs)[l], c.get(regs)[l]));
    })
}

/// `d = f(a, b, c, e)`
pub fn quaternary<T: Lane>(
    d: Reg<T>,
    (a, b, c, e): (Reg<T>, Reg<T>, Reg<u32>, Reg<u32>),
    f: impl Fn(T, T, u32, u32) -> T + Send + Sync + 'static,
) -> Pure {
    Box::new(move |regs, mask| {
        let one = |regs: &Regs, l: usize| f(a.get(regs)[l], b.get(regs)[l], c.get(regs)[l], e.get(regs)[l]);
        assign(regs, d, mask, |regs| each(|l| one(regs, l)), one);
    })
}

/// Lanes where `f(a, b)` holds, among all 32.
#[inline(always)]
pub fn compare<T: Lane>(regs: &Regs, a: Reg<T>, b: Reg<T>, f: impl Fn(T, T) -> bool) -> u32 {
    let (x, y) = (a.get(regs), b.get(regs));
    let mut mask = 0;
    for lane in 0..LANES {
        mask |= u32::from(f(x[lane], y[lane])) << lane;
    }
    mask
}

/// Writes predicate `d` in the lanes of `mask`.
#[inline(always)]
pub fn set_pred(regs: &mut Regs, d: Pred, mask: u32, value: u32) {
    let p = &mut regs.preds[d.0 as usize];
    *p = *p & !mask | value & mask;
}
