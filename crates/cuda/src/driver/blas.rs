//! Matrix products by cuBLASLt.
//!
//! The library counts matrices column by column. Read so, a matrix stored row by row is its transpose: the product
//! `out = a . b` is computed as `out^T = b^T . a^T`, with `b` as the library's `A` and `a` as its `B`.
//!
//! Bits repeat: for each kind of product the first algorithm that the library proposes is kept, the workspace has one size,
//! and partial sums may be added only in the order of a workspace, never in place by whoever comes first.

use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::sync::{Mutex, PoisonError};

use super::sys::{self, Algorithm, CublasLt, Handle, HeuristicResult};
use crate::DeviceError;
use crate::device::{DevicePtr, ElemKind, MatrixProduct, Op, ProductEpilogue};

/// `CUBLAS_COMPUTE_32F`: no tensor cores for 32-bit numbers.
const COMPUTE_F32: c_int = 68;
/// `CUDA_R_32F` and `CUDA_R_16BF`.
const TYPE_F32: c_int = 0;
const TYPE_BF16: c_int = 14;
/// `CUBLASLT_MATMUL_DESC_*`.
const DESC_TRANSPOSE_A: c_int = 3;
const DESC_TRANSPOSE_B: c_int = 4;
const DESC_EPILOGUE: c_int = 7;
const DESC_BIAS: c_int = 8;
const DESC_AUX: c_int = 11;
const DESC_AUX_STRIDE: c_int = 12;
/// `CUBLASLT_EPILOGUE_*`.
const EPILOGUE_BIAS: c_int = 4;
const EPILOGUE_GELU_BACKWARD: c_int = 192;
/// `CUBLASLT_MATMUL_PREF_*`.
const PREFER_WORKSPACE: c_int = 1;
const PREFER_REDUCTIONS: c_int = 3;
/// `CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE`: partial sums in the workspace. `_NONE` is always allowed.
const REDUCTION_IN_WORKSPACE: u32 = 2;
/// `CUBLAS_STATUS_NOT_SUPPORTED`.
const NOT_SUPPORTED: c_int = 15;

/// Addresses are multiples of this or the own kernels compute: the library would choose other algorithms for each alignment.
const ALIGN: u64 = 16;

/// What an algorithm is chosen for: all of a product but its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    types: (ElemKind, ElemKind),
    sizes: [usize; 4],
    ops: (Op, Op),
    adds: bool,
    epilogue: u8,
}

/// An opened library with its workspace.
pub struct Blas {
    api: CublasLt,
    handle: usize,
    workspace: DevicePtr,
    workspace_bytes: usize,
    chosen: Mutex<HashMap<Kind, Option<Algorithm>>>,
}

/// Something of the library that is given back at the end.
struct Owned {
    handle: Handle,
    destroy: unsafe extern "C" fn(Handle) -> c_int,
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: the handle came from the `create` that belongs to this function, and is used no more.
        unsafe { (self.destroy)(self.handle) };
    }
}

/// Descriptors of one product.
struct Described {
    product: Owned,
    a: Owned,
    b: Owned,
    out: Owned,
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: came from `create`; the owner has waited for all work.
        unsafe { (self.api.destroy)(self.handle as Handle) };
    }
}

impl Blas {
    /// Bytes of workspace for a card: what NVIDIA recommends, 32 MiB from Hopper on.
    pub fn workspace_bytes(capability_major: u32) -> usize {
        if capability_major >= 9 { 32 << 20 } else { 4 << 20 }
    }

    /// Starts the library in the current context.
    pub fn new(api: CublasLt, workspace: DevicePtr, workspace_bytes: usize) -> Result<Self, DeviceError> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let status = unsafe { (api.create)(&raw mut handle) };
        check(&api, "cublasLtCreate", status)?;
        Ok(Blas { api, handle: handle as usize, workspace, workspace_bytes, chosen: Mutex::default() })
    }

    /// Its workspace, which the owner frees.
    pub fn workspace(&self) -> DevicePtr {
        self.workspace
    }

    fn layout(&self, elem: ElemKind, rows: usize, cols: usize, stride: usize) -> Result<Owned, DeviceError> {
        let mut handle = std::ptr::null_mut();
        let kind = type_of(elem);
        // SAFETY: writes one handle.
        let status =
            unsafe { (self.api.layout_create)(&raw mut handle, kind, rows as u64, cols as u64, stride as i64) };
        check(&self.api, "cublasLtMatrixLayoutCreate", status)?;
        Ok(Owned { handle, destroy: self.api.layout_destroy })
    }

    fn set<T>(&self, product: &Owned, attribute: c_int, value: T) -> Result<(), DeviceError> {
        // SAFETY: a value of the size given, which the library copies.
        let status = unsafe {
            (self.api.product_set)(product.handle, attribute, (&raw const value).cast::<c_void>(), size_of::<T>())
        };
        check(&self.api, "cublasLtMatmulDescSetAttribute", status)
    }

    fn describe(&self, p: &MatrixProduct) -> Result<Described, DeviceError> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let status = unsafe { (self.api.product_create)(&raw mut handle, COMPUTE_F32, TYPE_F32) };
        check(&self.api, "cublasLtMatmulDescCreate", status)?;
        let product = Owned { handle, destroy: self.api.product_destroy };
        let transposed = |op: Op, flipped: Op| c_int::from(op == flipped);
        // `b` row by row is `b^T` to the library: what is stored transposed has to be flipped for it.
        self.set(&product, DESC_TRANSPOSE_A, transposed(p.b.1, Op::Transposed))?;
        self.set(&product, DESC_TRANSPOSE_B, transposed(p.a.1, Op::Transposed))?;
        match p.epilogue {
            ProductEpilogue::Store => {}
            ProductEpilogue::Bias(bias) => {
                self.set(&product, DESC_EPILOGUE, EPILOGUE_BIAS)?;
                self.set(&product, DESC_BIAS, bias)?;
            }
            ProductEpilogue::GeluBackward(pre) => {
                self.set(&product, DESC_EPILOGUE, EPILOGUE_GELU_BACKWARD)?;
                self.set(&product, DESC_AUX, pre)?;
                self.set(&product, DESC_AUX_STRIDE, p.cols as i64)?;
            }
        }
        // Rows and columns as the library reads the memory.
        let b = match p.b.1 {
            Op::Plain => self.layout(p.elem, p.cols, p.depth, p.cols)?,
            Op::Transposed => self.layout(p.elem, p.depth, p.cols, p.depth)?,
        };
        let a = match p.a.1 {
            Op::Plain => self.layout(p.elem, p.depth, p.rows, p.a_stride)?,
            Op::Transposed => self.layout(p.elem, p.rows, p.depth, p.a_stride)?,
        };
        let out = self.layout(p.out_elem, p.cols, p.rows, p.cols)?;
        Ok(Described { product, a, b, out })
    }

    /// The algorithm for a product, or `None` if the library has none.
    fn algorithm(&self, p: &MatrixProduct, described: &Described) -> Result<Option<Algorithm>, DeviceError> {
        let kind = Kind {
            types: (p.elem, p.out_elem),
            sizes: [p.rows, p.cols, p.depth, p.a_stride],
            ops: (p.a.1, p.b.1),
            adds: p.c != 0,
            epilogue: match p.epilogue {
                ProductEpilogue::Store => 0,
                ProductEpilogue::Bias(_) => 1,
                ProductEpilogue::GeluBackward(_) => 2,
            },
        };
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(algorithm) = chosen.get(&kind) {
            return Ok(*algorithm);
        }
        let mut handle = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let status = unsafe { (self.api.preference_create)(&raw mut handle) };
        check(&self.api, "cublasLtMatmulPreferenceCreate", status)?;
        let preference = Owned { handle, destroy: self.api.preference_destroy };
        let workspace = (&raw const self.workspace_bytes).cast::<c_void>();
        let allowed = REDUCTION_IN_WORKSPACE;
        let reductions = (&raw const allowed).cast::<c_void>();
        for (attribute, value, size) in
            [(PREFER_WORKSPACE, workspace, size_of::<usize>()), (PREFER_REDUCTIONS, reductions, size_of::<u32>())]
        {
            // SAFETY: values of the sizes given, which the library copies.
            let status = unsafe { (self.api.preference_set)(preference.handle, attribute, value, size) };
            check(&self.api, "cublasLtMatmulPreferenceSetAttribute", status)?;
        }
        let mut result = HeuristicResult::default();
        let mut found = 0;
        // SAFETY: one result is asked for and there is room for one; all handles are alive.
        let status = unsafe {
            (self.api.heuristic)(
                self.handle as Handle,
                described.product.handle,
                described.b.handle,
                described.a.handle,
                described.out.handle,
                described.out.handle,
                preference.handle,
                1,
                &raw mut result,
                &raw mut found,
            )
        };
        if status != NOT_SUPPORTED {
            check(&self.api, "cublasLtMatmulAlgoGetHeuristic", status)?;
        }
        let usable = status == 0 && found == 1 && result.state == 0 && result.workspace_bytes <= self.workspace_bytes;
        let algorithm = usable.then_some(result.algorithm);
        chosen.insert(kind, algorithm);
        Ok(algorithm)
    }

    /// Puts a product into the stream; `false` if the library cannot compute it.
    pub fn product(&self, p: &MatrixProduct, stream: Handle) -> Result<bool, DeviceError> {
        let aligned = |address: u64| address.is_multiple_of(ALIGN);
        let pre_is_odd = matches!(p.epilogue, ProductEpilogue::GeluBackward(_)) && !p.cols.is_multiple_of(8);
        let empty = p.rows == 0 || p.cols == 0 || p.depth == 0;
        if empty || pre_is_odd || ![p.a.0, p.b.0, p.c, p.out].into_iter().all(aligned) {
            return Ok(false);
        }
        let described = self.describe(p)?;
        let Some(algorithm) = self.algorithm(p, &described)? else { return Ok(false) };
        let (one, beta) = (1.0f32, if p.c == 0 { 0.0f32 } else { 1.0 });
        let c = if p.c == 0 { p.out } else { p.c };
        // SAFETY: all handles are alive; the addresses are the device's and the sizes those that the front door checked; the
        // algorithm was chosen for this kind of product and this workspace.
        let status = unsafe {
            (self.api.product)(
                self.handle as Handle,
                described.product.handle,
                (&raw const one).cast(),
                p.b.0,
                described.b.handle,
                p.a.0,
                described.a.handle,
                (&raw const beta).cast(),
                c,
                described.out.handle,
                p.out,
                described.out.handle,
                &raw const algorithm,
                self.workspace,
                self.workspace_bytes,
                stream,
            )
        };
        check(&self.api, "cublasLtMatmul", status)?;
        Ok(true)
    }
}

fn type_of(elem: ElemKind) -> c_int {
    match elem {
        ElemKind::Bf16 => TYPE_BF16,
        ElemKind::F32 => TYPE_F32,
    }
}

fn check(api: &CublasLt, call: &'static str, status: c_int) -> Result<(), DeviceError> {
    if status == 0 {
        return Ok(());
    }
    // SAFETY: a constant string of the library.
    let text = unsafe { sys::string((api.status_string)(status)) };
    Err(DeviceError::Call { call, detail: format!("{text} ({status})") })
}
