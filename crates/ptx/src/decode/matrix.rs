//! Matrix instructions of a warp.
//!
//! Fragments of `mma.m16n8k*`, from the PTX ISA, section "Matrix Fragments for mma": with g = lane / 4 and t = lane % 4, and n
//! elements in a register, register r of A holds row g + 8 (r mod 2), columns 4n (r div 2) + nt and following; register r of B
//! holds column g, rows 4nr + nt and following; C and D hold rows g (first two) and g + 8, columns 2t and 2t + 1.
//!
//! Sums of floats are taken in f32 with k ascending, starting from C, each addition rounded to nearest. (The products of bf16,
//! f16 and tf32 numbers are exact in f32 but for underflow.) A device keeps more bits within an instruction and truncates: it
//! differs in the last bits.

use super::{Decode, Decoder, Inst};
use crate::FaultKind;
use crate::code::{Action, Active, LaneFault, Matrix};
use crate::error::Space;
use crate::num::{Bf16, F16, Half};
use crate::parse::Operand;
use crate::regs::{ALL, LANES, Reg};
use crate::types::Ty;

/// Rows of A and of the result.
const M: usize = 16;
/// Columns of B and of the result.
const N: usize = 8;
/// Longest k.
const MAX_K: usize = 32;

impl<'a> Decoder<'a, '_> {
    pub(super) fn matrix(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        match i.base() {
            "mma" => self.mma(i),
            "movmatrix" => self.move_matrix(i),
            _ => self.memory_matrix(i),
        }
    }

    fn vector(&mut self, operand: &Operand<'a>, write: bool) -> Decode<Vec<Reg<u32>>> {
        let list = match operand {
            Operand::Vector(list) => list.as_slice(),
            single => std::slice::from_ref(single),
        };
        list.iter().map(|o| if write { self.dst::<u32>(o) } else { self.src::<u32>(o) }).collect()
    }

    fn mma(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let ["mma", "sync", "aligned", shape, "row", "col", d_ty, a_ty, b_ty, c_ty] = i.parts[..] else {
            return Err("this form of mma is not known".to_owned());
        };
        let element = match a_ty {
            "bf16" | "f16" => 2,
            "tf32" => 4,
            "s8" | "u8" => 1,
            _ => return Err(format!("mma of {a_ty} is not known")),
        };
        let k = match shape {
            "m16n8k4" if element == 4 => 4,
            "m16n8k8" if element >= 2 => 8,
            "m16n8k16" if element <= 2 => 16,
            "m16n8k32" if element == 1 => 32,
            _ => return Err(format!("mma of {a_ty} with {shape} is not known")),
        };
        let sum = if element == 1 { "s32" } else { "f32" };
        let inputs_differ = a_ty != b_ty && !(element == 1 && matches!(b_ty, "s8" | "u8"));
        if d_ty != sum || c_ty != sum || inputs_differ {
            return Err(format!("mma of {a_ty} and {b_ty} gives {sum} here"));
        }
        let (a, b) = (self.vector(i.operand(1)?, false)?, self.vector(i.operand(2)?, false)?);
        let c = if element == 1 { self.vector(i.operand(3)?, false)? } else { self.float_vector(i.operand(3)?)? };
        let d = self.vector(i.operand(0)?, true)?;
        let per_register = 4 / element;
        if a.len() != k / 4 / per_register * 2 || b.len() != k / 4 / per_register || c.len() != 4 || d.len() != 4 {
            return Err("a fragment has another number of registers".to_owned());
        }
        let place = Fragments { a, b, c, d, element, k };
        if element == 1 {
            let (a_signed, b_signed) = (a_ty == "s8", b_ty == "s8");
            let byte =
                |bits: u32, signed: bool| if signed { i32::from(bits as u8 as i8) } else { i32::from(bits as u8) };
            return Ok(Action::Warp(Box::new(move |regs, active| {
                whole_warp(active)?;
                let a = place.a(regs, |bits| byte(bits, a_signed));
                let b = place.b(regs, |bits| byte(bits, b_signed));
                place.multiply(regs, &a, &b, |c| c as i32, |sum, x, y| sum.wrapping_add(x * y), |v| v as u32);
                Ok(())
            })));
        }
        let value: fn(u32) -> f32 = match a_ty {
            "bf16" => |bits| Bf16(bits as u16).to_f32(),
            "f16" => |bits| F16(bits as u16).to_f32(),
            _ => |bits| f32::from_bits(bits & !0x1FFF),
        };
        Ok(Action::Warp(Box::new(move |regs, active| {
            whole_warp(active)?;
            let (a, b) = (place.a(regs, value), place.b(regs, value));
            place.multiply(regs, &a, &b, f32::from_bits, |sum, x, y| sum + x * y, f32::to_bits);
            Ok(())
        })))
    }

    fn float_vector(&mut self, operand: &Operand<'a>) -> Decode<Vec<Reg<u32>>> {
        let Operand::Vector(list) = operand else { return Err("a list of registers is needed".to_owned()) };
        list.iter().map(|o| self.src::<f32>(o)).collect()
    }

    /// `ldmatrix.sync.aligned.m8n8.num{.trans}{.shared}.b16 r, [p]` and `stmatrix`, whose operands stand the other way round.
    fn memory_matrix(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        let (mut count, mut transposed, mut generic) = (0, false, true);
        for part in &i.parts[1..] {
            match *part {
                "sync" | "aligned" | "m8n8" | "b16" => {}
                "x1" => count = 1,
                "x2" => count = 2,
                "x4" => count = 4,
                "trans" => transposed = true,
                "shared" | "shared::cta" => generic = false,
                _ => return Err(format!(".{part} is not known here")),
            }
        }
        if !i.has("m8n8") || i.ty()? != Ty::B16 {
            return Err("only m8n8 with b16 is known".to_owned());
        }
        let load = i.base() == "ldmatrix";
        let (list, place) = if load { (0, 1) } else { (1, 0) };
        let space = if generic { Space::Generic } else { Space::Shared };
        let (_, address) = self.address(i.operand(place)?, space)?;
        let regs = self.vector(i.operand(list)?, load)?;
        if regs.len() != count {
            return Err(format!("{} registers for {count} matrices", regs.len()));
        }
        let matrix = Matrix { address, generic, regs, transposed };
        Ok(if load { Action::LoadMatrix(matrix) } else { Action::StoreMatrix(matrix) })
    }

    fn move_matrix(&mut self, i: &Inst<'a, '_>) -> Decode<Action> {
        if i.parts != ["movmatrix", "sync", "aligned", "m8n8", "trans", "b16"] {
            return Err("this form is not known".to_owned());
        }
        let a = self.src::<u32>(i.operand(1)?)?;
        let d = self.dst::<u32>(i.operand(0)?)?;
        Ok(Action::Warp(Box::new(move |regs, active| {
            whole_warp(active)?;
            let x = *a.get(regs);
            let at = |row: usize, column: usize| x[row * 4 + column / 2] >> (16 * (column % 2)) & 0xFFFF;
            let out = d.get_mut(regs);
            for (lane, o) in out.iter_mut().enumerate() {
                let (row, column) = (lane / 4, lane % 4 * 2);
                *o = at(column, row) | at(column + 1, row) << 16;
            }
            Ok(())
        })))
    }
}

/// Instructions with `.aligned` need all 32 lanes.
pub(crate) fn whole_warp(active: Active) -> Result<(), LaneFault> {
    if active.mask == ALL {
        return Ok(());
    }
    let lane = active.mask.trailing_zeros() as usize % LANES;
    Err(LaneFault { lane, kind: FaultKind::DivergentWarp { active: active.mask, named: ALL } })
}

/// Registers of an mma and what they hold.
struct Fragments {
    a: Vec<Reg<u32>>,
    b: Vec<Reg<u32>>,
    c: Vec<Reg<u32>>,
    d: Vec<Reg<u32>>,
    /// Bytes of an element of A and B.
    element: usize,
    k: usize,
}

impl Fragments {
    fn unpack<T: Copy>(&self, bits: u32, value: impl Fn(u32) -> T, mut take: impl FnMut(usize, T)) {
        let n = 4 / self.element;
        for j in 0..n {
            take(j, value(bits >> (8 * self.element * j)));
        }
    }

    /// A by rows.
    fn a<T: Copy + Default>(&self, regs: &crate::regs::Regs, value: impl Fn(u32) -> T + Copy) -> [[T; MAX_K]; M] {
        let mut out = [[T::default(); MAX_K]; M];
        let n = 4 / self.element;
        for (r, reg) in self.a.iter().enumerate() {
            for (lane, &bits) in reg.get(regs).iter().enumerate() {
                let row = lane / 4 + 8 * (r % 2);
                let column = 4 * n * (r / 2) + n * (lane % 4);
                self.unpack(bits, value, |j, v| out[row][(column + j) % MAX_K] = v);
            }
        }
        out
    }

    /// B by rows.
    fn b<T: Copy + Default>(&self, regs: &crate::regs::Regs, value: impl Fn(u32) -> T + Copy) -> [[T; N]; MAX_K] {
        let mut out = [[T::default(); N]; MAX_K];
        let n = 4 / self.element;
        for (r, reg) in self.b.iter().enumerate() {
            for (lane, &bits) in reg.get(regs).iter().enumerate() {
                let row = 4 * n * r + n * (lane % 4);
                self.unpack(bits, value, |j, v| out[(row + j) % MAX_K][lane / 4] = v);
            }
        }
        out
    }

    /// D = A B + C.
    fn multiply<T: Copy + Default>(
        &self,
        regs: &mut crate::regs::Regs,
        a: &[[T; MAX_K]; M],
        b: &[[T; N]; MAX_K],
        read: impl Fn(u32) -> T,
        step: impl Fn(T, T, T) -> T,
        write: impl Fn(T) -> u32,
    ) {
        let c: [[u32; LANES]; 4] = std::array::from_fn(|r| *self.c[r].get(regs));
        for (row, a) in a.iter().enumerate() {
            let half = row / 8 * 2;
            let first = row % 8 * 4;
            let mut sums: [T; N] = std::array::from_fn(|n| read(c[half + n % 2][first + n / 2]));
            for (x, b) in a[..self.k].iter().zip(b) {
                for (sum, y) in sums.iter_mut().zip(b) {
                    *sum = step(*sum, *x, *y);
                }
            }
            for (n, sum) in sums.into_iter().enumerate() {
                self.d[half + n % 2].get_mut(regs)[first + n / 2] = write(sum);
            }
        }
    }
}
