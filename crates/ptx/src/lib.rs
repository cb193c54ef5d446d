//! An interpreter for PTX, as NVRTC writes it, to test CUDA kernels on machines without a GPU. Development only.
//!
//! ```
//! use verve_ptx::Machine;
//!
//! let ptx = "
//! .version 8.0
//! .target sm_80
//! .address_size 64
//! .visible .entry square(.param .u64 square_param_0) {
//!     .reg .b32 %r<3>;
//!     .reg .b64 %rd<3>;
//!     ld.param.u64 %rd1, [square_param_0];
//!     mov.u32 %r1, %tid.x;
//!     mul.lo.s32 %r2, %r1, %r1;
//!     mad.wide.u32 %rd2, %r1, 4, %rd1;
//!     st.global.u32 [%rd2], %r2;
//!     ret;
//! }";
//! let mut machine = Machine::new(1 << 16);
//! let module = machine.load(ptx)?;
//! let out = machine.alloc(8 * 4)?;
//! machine.launch(&module, "square", [1, 1, 1], [8, 1, 1], 0, &out.to_le_bytes())?;
//! let mut bytes = [0; 32];
//! machine.read(out, &mut bytes)?;
//! assert_eq!(bytes[28..], 49u32.to_le_bytes());
//! # Ok::<(), verve_ptx::PtxError>(())
//! ```
//!
//! Its value is that it is strict. Where a device would go on with wrong numbers it stops with kernel, line, block and thread:
//! accesses out of bounds (each allocation has its own) or not aligned, barriers and warp instructions that not all lanes reach,
//! and, if [`Checks`] say so, reads of what was never written and races. `cp.async` writes when it is waited for and no sooner.
//!
//! Semantics are those of the PTX ISA 8.x and 9.x documentation. Arithmetic is rounded as stated there; what PTX calls
//! approximate is correctly rounded here, and sums within `mma` are taken in one fixed order (`decode::matrix`), so that numbers
//! of a device differ in the last bits. There are no clusters, textures, `wgmma`, bulk copies or float atomics.
#![forbid(unsafe_code)]

mod access;
mod block;
mod code;
mod control_flow;
mod decode;
mod error;
mod lex;
mod machine;
mod memory;
mod num;
mod parse;
mod races;
mod regs;
mod types;
mod warp;

pub use error::{Fault, FaultKind, PtxError, Space};
pub use machine::{Checks, Machine, Module};
