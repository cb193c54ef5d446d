//! Operands of products: where their elements are and how they are stored.

use half::bf16;

use crate::CpuElem;
use crate::isa::Isa;

/// Elements of either storage type.
#[derive(Clone, Copy)]
pub(super) enum Data<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

impl<'a> Data<'a> {
    pub(super) fn new<E: CpuElem>(elements: &'a [E]) -> Self {
        // The only storage types of this backend; the casts check the sizes.
        if size_of::<E>() == size_of::<f32>() {
            Data::F32(bytemuck::cast_slice(elements))
        } else {
            Data::Bf16(bytemuck::cast_slice(elements))
        }
    }
}

/// What the register tiles read: four bytes, either one `f32` or two neighbours in `k` as `bf16` (the even one in the low
/// half) for the dot-product instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    F32,
    Pair,
}

impl Unit {
    /// What products of `E` are computed in.
    pub(super) fn of<E: CpuElem>(isa: Isa) -> Unit {
        if size_of::<E>() == size_of::<bf16>() && isa.features().bf16_dot { Unit::Pair } else { Unit::F32 }
    }

    /// Units that `k` elements take.
    pub(super) fn count(self, k: usize) -> usize {
        k.div_ceil(self.elements())
    }

    /// Elements in a unit.
    pub(super) fn elements(self) -> usize {
        match self {
            Unit::F32 => 1,
            Unit::Pair => 2,
        }
    }
}

/// Which index of an operand runs along memory. `i` is the index that the result keeps, `k` the one that is summed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Element `(i, k)` is at `i * stride + k`.
    KInner,
    /// Element `(i, k)` is at `k * stride + i`.
    KOuter,
}

/// A matrix `[len, k]` somewhere in memory.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) data: Data<'a>,
    pub(super) stride: usize,
    pub(super) order: Order,
}

impl<'a> View<'a> {
    pub(super) fn new<E: CpuElem>(elements: &'a [E], stride: usize, order: Order) -> Self {
        View { data: Data::new(elements), stride, order }
    }

    /// Panics unless all of `[len, k]` lies inside the data: what the packing and the tiles rely on.
    #[track_caller]
    pub(super) fn check(&self, len: usize, k: usize) {
        let found = match self.data {
            Data::F32(data) => data.len(),
            Data::Bf16(data) => data.len(),
        };
        let (outer, inner) = match self.order {
            Order::KInner => (len, k),
            Order::KOuter => (k, len),
        };
        let needed = if outer == 0 || inner == 0 { 0 } else { (outer - 1) * self.stride + inner };
        assert!(
            inner <= self.stride && needed <= found,
            "product: operand [{len}, {k}], {:?} with stride {}, in {found} elements",
            self.order,
            self.stride
        );
    }

    /// The operand as rows of units that a tile can read in place, if its elements already are such units: the first
    /// unit and the units between rows.
    pub(super) fn direct(&self, unit: Unit, k: usize) -> Option<(*const u32, usize)> {
        match (self.order, unit, self.data) {
            (Order::KInner, Unit::F32, Data::F32(data)) => Some((data.as_ptr().cast(), self.stride)),
            (Order::KInner, Unit::Pair, Data::Bf16(data)) if self.stride.is_multiple_of(2) && k.is_multiple_of(2) => {
                Some((data.as_ptr().cast(), self.stride / 2))
            }
            _ => None,
        }
    }
}
