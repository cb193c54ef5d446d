//! What the backend needs of a device: the seam between it and the driver, or the tests' emulator.

use crate::DeviceError;
use crate::kernels::Program;

/// An address in the device's memory; 0 is no memory.
pub type DevicePtr = u64;

/// Facts about a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Name for people.
    pub name: String,
    /// Compute capability, for example `(9, 0)`.
    pub capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Memory in all, bytes.
    pub memory_bytes: u64,
    /// Most shared memory that one block can have, bytes.
    pub shared_bytes_per_block: u32,
}

/// Type of weights and activations, of which every kernel is compiled for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ElemKind {
    /// 16 bits, `ELEM_BF16` in the sources.
    Bf16,
    /// 32 bits, `ELEM_F32` in the sources.
    F32,
}

impl ElemKind {
    /// The macro that the sources look at.
    pub fn define(self) -> &'static str {
        match self {
            ElemKind::Bf16 => "ELEM_BF16",
            ElemKind::F32 => "ELEM_F32",
        }
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            ElemKind::Bf16 => 2,
            ElemKind::F32 => 4,
        }
    }
}

/// A kernel that a device has loaded. Only the device that gave it knows what the number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelHandle(pub u64);

/// Blocks, threads and shared memory of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in x, y, z: below 2^31, 2^16, 2^16. With a zero among them there is nothing to do.
    pub blocks: [usize; 3],
    /// Threads of a block in x, y, z, 1024 in all.
    pub threads: [usize; 3],
    /// Dynamic shared memory of a block, bytes. More than 48 KiB is asked of the driver.
    pub shared_bytes: usize,
}

impl Grid {
    /// `blocks` blocks of `threads` threads in a row.
    pub fn blocks(blocks: usize, threads: usize) -> Self {
        Grid { blocks: [blocks, 1, 1], threads: [threads, 1, 1], shared_bytes: 0 }
    }

    /// One thread for each of `items`, in blocks of 256.
    pub fn items(items: usize) -> Self {
        Self::blocks(items.div_ceil(256), 256)
    }

    /// The same with dynamic shared memory.
    pub fn shared(self, bytes: usize) -> Self {
        Grid { shared_bytes: bytes, ..self }
    }
}

/// One launch of a kernel.
#[derive(Debug, Clone, Copy)]
pub struct Launch<'a> {
    /// Which kernel.
    pub kernel: KernelHandle,
    /// Blocks and threads, none of them zero.
    pub grid: Grid,
    /// Its arguments, see [`crate::Args`].
    pub params: &'a [u8],
}

/// How a matrix of a [`MatrixProduct`] is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// As it is.
    Plain,
    /// Its transpose.
    Transposed,
}

/// What a library's matrix product does with the sums before it stores them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProductEpilogue {
    /// Nothing.
    Store,
    /// Adds `bias[column]`, at this address.
    Bias(DevicePtr),
    /// Multiplies with the derivative of GELU (tanh form) at the number at the same place of this matrix.
    GeluBackward(DevicePtr),
}

/// `out[rows, cols] = epilogue(a . b) + c`, all matrices row by row without gaps, sums in `f32`. `a` is `[rows, depth]`
/// (transposed: stored as `[depth, rows]`), `b` is `[depth, cols]` (transposed: stored as `[cols, depth]`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MatrixProduct {
    /// Type of `a` and `b`.
    pub elem: ElemKind,
    /// Type of `c` and `out`.
    pub out_elem: ElemKind,
    /// Rows of the result.
    pub rows: usize,
    /// Columns of the result.
    pub cols: usize,
    /// Terms of each sum.
    pub depth: usize,
    /// Left factor and how it is read.
    pub a: (DevicePtr, Op),
    /// Right factor and how it is read.
    pub b: (DevicePtr, Op),
    /// Row stride of `a` as stored, elements.
    pub a_stride: usize,
    /// Added to the product if not 0; may be `out` itself.
    pub c: DevicePtr,
    /// The result.
    pub out: DevicePtr,
    /// What happens to the sums.
    pub epilogue: ProductEpilogue,
}

/// A device: memory, kernels, one queue in which everything happens in order. Calls return before the work is done, but for
/// [`Device::download`] and [`Device::synchronize`]; memory on the host may be reused as soon as a call returns.
pub trait Device: Send + Sync + 'static {
    /// Facts about the card.
    fn info(&self) -> &DeviceInfo;
    /// Memory that is free now, bytes.
    fn free_memory(&self) -> Result<u64, DeviceError>;
    /// Memory of undefined content at an address that is a multiple of 256. `bytes` is not 0.
    fn alloc(&self, bytes: usize) -> Result<DevicePtr, DeviceError>;
    /// Gives memory back once all work before is done.
    fn free(&self, address: DevicePtr);
    /// Host to device.
    fn upload(&self, src: &[u8], dst: DevicePtr) -> Result<(), DeviceError>;
    /// Device to host, after all work before.
    fn download(&self, src: DevicePtr, dst: &mut [u8]) -> Result<(), DeviceError>;
    /// Device to device; the two do not overlap.
    fn copy(&self, src: DevicePtr, dst: DevicePtr, bytes: usize) -> Result<(), DeviceError>;
    /// Zeros.
    fn fill_zero(&self, dst: DevicePtr, bytes: usize) -> Result<(), DeviceError>;
    /// A kernel of a program, compiled for an element type. The program is compiled at the first call.
    fn kernel(&self, program: &'static Program, elem: ElemKind, name: &str) -> Result<KernelHandle, DeviceError>;
    /// Puts a launch into the queue.
    fn launch(&self, launch: Launch<'_>) -> Result<(), DeviceError>;
    /// Waits for all work.
    fn synchronize(&self) -> Result<(), DeviceError>;
    /// A product by the vendor's library, or `false` if there is none or it has no algorithm for it.
    fn product(&self, _product: &MatrixProduct) -> Result<bool, DeviceError> {
        Ok(false)
    }
    /// True if [`Device::product`] can compute anything.
    fn has_products(&self) -> bool {
        false
    }
}
