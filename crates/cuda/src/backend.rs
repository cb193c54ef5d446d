//! [`CudaBackend`]: the operations of the contract, each checked and handed to its launch function.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use half::bf16;
use verve_ops::args::*;
use verve_ops::quant::{ActivationPrecision, QuantKind, QuantPart};
use verve_ops::{Backend, BackendError, Buffer, Element, InferBackend, LinearShape, Real};

use crate::args::Args;
use crate::buffer::CudaBuf;
use crate::device::{Device, DevicePtr, ElemKind, Grid, KernelHandle, Launch, MatrixProduct};
use crate::error::DeviceError;
use crate::kernels::Program;
use crate::launch;
use crate::weight::CudaWeight;

/// An element type that the kernels are compiled for.
pub trait CudaElem: Real {
    /// Which.
    const KIND: ElemKind;
}

impl CudaElem for bf16 {
    const KIND: ElemKind = ElemKind::Bf16;
}

impl CudaElem for f32 {
    const KIND: ElemKind = ElemKind::F32;
}

/// Who computes the matrix products of training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Products {
    /// The kernels of this crate: the same bits in training and in generation.
    Own,
    /// cuBLASLt where it is there and has an algorithm, else the kernels of this crate. Training and generation then differ
    /// in the order of their sums; each repeats its own bits.
    Library,
}

/// A GPU, with weights and activations of type `E` (`f32` or `bf16`).
///
/// Ids out of range give numbers that are none (NaN) in the rows that hold them, where the reference panics: the host cannot
/// see them without waiting for the device.
pub struct CudaBackend<E: CudaElem> {
    device: Arc<dyn Device>,
    kernels: Mutex<HashMap<(&'static str, &'static str), KernelHandle>>,
    failure: Mutex<Option<DeviceError>>,
    scratch: Mutex<Option<CudaBuf<u8>>>,
    products: Products,
    elem: PhantomData<fn(E) -> E>,
}

/// The scratch memory of an operation; no other operation can take it while this lives.
pub(crate) struct Scratch<'a>(MutexGuard<'a, Option<CudaBuf<u8>>>);

impl Scratch<'_> {
    /// Its address.
    pub(crate) fn address(&self) -> DevicePtr {
        self.0.as_ref().map_or(0, CudaBuf::address)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panicking thread has left here is whole: every change is one assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<E: CudaElem> CudaBackend<E> {
    /// A backend on a device.
    pub fn new(device: Arc<dyn Device>, products: Products) -> Self {
        CudaBackend {
            device,
            kernels: Mutex::default(),
            failure: Mutex::default(),
            scratch: Mutex::default(),
            products,
            elem: PhantomData,
        }
    }

    /// Who computes the matrix products of training.
    pub fn products(&self) -> Products {
        self.products
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Remembers the first failure; it comes out of the next call that can return one.
    pub(crate) fn remember(&self, error: DeviceError) {
        lock(&self.failure).get_or_insert(error);
    }

    /// What a call gave, or its error remembered.
    pub(crate) fn note<T>(&self, result: Result<T, DeviceError>) -> Option<T> {
        result.map_err(|error| self.remember(error)).ok()
    }

    /// The first failure there was. It stays: after it, no number on the device can be trusted.
    fn failed(&self) -> Result<(), BackendError> {
        match &*lock(&self.failure) {
            Some(error) => Err(self.error(error.clone())),
            None => Ok(()),
        }
    }

    fn error(&self, error: DeviceError) -> BackendError {
        error.on(&self.device.info().name)
    }

    fn kernel(&self, program: &'static Program, name: &'static str) -> Result<KernelHandle, DeviceError> {
        let mut kernels = lock(&self.kernels);
        if let Some(kernel) = kernels.get(&(program.name, name)) {
            return Ok(*kernel);
        }
        let kernel = self.device.kernel(program, E::KIND, name)?;
        kernels.insert((program.name, name), kernel);
        Ok(kernel)
    }

    /// Puts a kernel into the device's queue. A grid without blocks does nothing; after a failure nothing is launched any
    /// more.
    pub(crate) fn launch(&self, program: &'static Program, kernel: &'static str, grid: Grid, args: Args) {
        if grid.blocks.contains(&0) || self.failed().is_err() {
            return;
        }
        let launched = self
            .kernel(program, kernel)
            .and_then(|kernel| self.device.launch(Launch { kernel, grid, params: args.bytes() }));
        self.note(launched);
    }

    /// Memory of at least this size for the duration of one operation's launches; it grows to the largest need and stays.
    /// `None` if it cannot be had: the failure is remembered.
    pub(crate) fn scratch(&self, bytes: usize) -> Option<Scratch<'_>> {
        let mut scratch = lock(&self.scratch);
        if scratch.as_ref().is_none_or(|buf| buf.bytes() < bytes) {
            // The old memory first: both may not fit. The device frees it when the work before is done.
            *scratch = None;
            *scratch = Some(self.note(CudaBuf::zeroed(&self.device, bytes.next_multiple_of(1 << 16)))?);
        }
        Some(Scratch(scratch))
    }

    /// Tries the vendor's library for a product of training; `false` if the own kernels have to compute it.
    pub(crate) fn library_product(&self, product: &MatrixProduct) -> bool {
        if self.products == Products::Own || self.failed().is_err() {
            return false;
        }
        self.note(self.device.product(product)).unwrap_or(false)
    }
}

impl<E: CudaElem> Backend for CudaBackend<E> {
    type Elem = E;
    type Acc = f32;
    type Buf<T: Element> = CudaBuf<T>;

    fn describe(&self) -> String {
        let info = self.device.info();
        let products = match self.products {
            Products::Library if self.device.has_products() => ", cuBLASLt",
            Products::Library | Products::Own => "",
        };
        format!("cuda ({}, {}, sm_{}{}{products})", E::NAME, info.name, info.capability.0, info.capability.1)
    }

    fn alloc<T: Element>(&self, len: usize) -> Result<CudaBuf<T>, BackendError> {
        CudaBuf::zeroed(&self.device, len).map_err(|error| self.error(error))
    }

    fn upload<T: Element>(&self, src: &[T], dst: &mut CudaBuf<T>) {
        assert!(src.len() == dst.len(), "upload: {} elements into {}", src.len(), dst.len());
        if !src.is_empty() {
            self.note(self.device.upload(bytemuck::cast_slice(src), dst.address()));
        }
    }

    fn download<T: Element>(&self, src: &CudaBuf<T>, dst: &mut [T]) -> Result<(), BackendError> {
        assert!(src.len() == dst.len(), "download: {} elements into {}", src.len(), dst.len());
        self.failed()?;
        if dst.is_empty() {
            return Ok(());
        }
        self.device.download(src.address(), bytemuck::cast_slice_mut(dst)).map_err(|error| {
            self.remember(error.clone());
            self.error(error)
        })
    }

    fn copy<T: Element>(&self, src: &CudaBuf<T>, dst: &mut CudaBuf<T>) {
        assert!(src.len() == dst.len(), "copy: {} elements into {}", src.len(), dst.len());
        if !src.is_empty() {
            self.note(self.device.copy(src.address(), dst.address(), src.bytes()));
        }
    }

    fn fill_zero<T: Element>(&self, dst: &mut CudaBuf<T>) {
        if !dst.is_empty() {
            self.note(self.device.fill_zero(dst.address(), dst.bytes()));
        }
    }

    fn round(&self, src: &CudaBuf<f32>, dst: &mut CudaBuf<E>) {
        assert!(src.len() == dst.len(), "round: {} elements into {}", src.len(), dst.len());
        launch::memory::round(self, src, dst);
    }

    fn synchronize(&self) -> Result<(), BackendError> {
        self.note(self.device.synchronize());
        self.failed()
    }

    fn embed(&self, args: Embed<'_, Self>) {
        args.check();
        launch::embed::forward(self, args);
    }

    fn embed_backward(&self, args: EmbedBackward<'_, Self>) {
        args.check();
        launch::embed::backward(self, args);
    }

    fn norm(&self, args: Norm<'_, Self>) {
        args.check();
        launch::norm::forward(self, args);
    }

    fn norm_backward(&self, args: NormBackward<'_, Self>) {
        args.check();
        launch::norm::backward(self, args);
    }

    fn head_norm(&self, args: HeadNorm<'_, Self>) {
        args.check();
        launch::head_norm::forward(self, args);
    }

    fn head_norm_backward(&self, args: HeadNormBackward<'_, Self>) {
        args.check();
        launch::head_norm::backward(self, args);
    }

    fn scaled_sum(&self, args: ScaledSum<'_, Self>) {
        args.check();
        launch::head_norm::scaled_sum(self, args);
    }

    fn linear(&self, args: Linear<'_, Self>) {
        args.check();
        launch::library::linear(self, args);
    }

    fn linear_backward_input(&self, args: LinearBackwardInput<'_, Self>) {
        args.check();
        launch::library::linear_backward_input(self, args);
    }

    fn linear_backward_weight(&self, args: LinearBackwardWeight<'_, Self>) {
        args.check();
        launch::library::linear_backward_weight(self, args);
    }

    fn linear_scratch_bytes(&self, shape: LinearShape) -> usize {
        launch::matmul::scratch_bytes(self, shape)
    }

    fn activate(&self, args: Activate<'_, Self>) {
        args.check();
        launch::pointwise::activate(self, args);
    }

    fn activate_backward(&self, args: ActivateBackward<'_, Self>) {
        args.check();
        launch::pointwise::activate_backward(self, args);
    }

    fn gate(&self, args: Gate<'_, Self>) {
        args.check();
        launch::pointwise::gate(self, args);
    }

    fn gate_backward(&self, args: GateBackward<'_, Self>) {
        args.check();
        launch::pointwise::gate_backward(self, args);
    }

    fn rope(&self, args: Rope<'_, Self>) {
        args.check();
        launch::rope::forward(self, args);
    }

    fn rope_backward(&self, args: Rope<'_, Self>) {
        args.check();
        launch::rope::backward(self, args);
    }

    fn attention(&self, args: Attention<'_, Self>) {
        args.check();
        launch::attention::forward(self, args);
    }

    fn attention_backward(&self, args: AttentionBackward<'_, Self>) {
        args.check();
        launch::attention::backward(self, args);
    }

    fn head_loss(&self, args: HeadLoss<'_, Self>) {
        args.check();
        launch::loss::forward(self, args);
    }

    fn head_loss_backward(&self, args: HeadLossBackward<'_, Self>) {
        args.check();
        launch::loss::backward(self, args);
    }

    fn adamw(&self, args: AdamW<'_, Self>) {
        args.check();
        launch::optimizer::adamw(self, args);
    }

    fn sum_squares<'a>(
        &self,
        bufs: impl Iterator<Item = &'a CudaBuf<f32>>,
        out: &mut [f64],
    ) -> Result<(), BackendError> {
        launch::optimizer::sum_squares(self, bufs, out);
        self.failed()
    }
}

impl<E: CudaElem> InferBackend for CudaBackend<E> {
    type Weight = CudaWeight<E>;

    fn prepare(&self, weight: &CudaBuf<E>, d_out: usize, d_in: usize) -> Result<CudaWeight<E>, BackendError> {
        let (found, expected) = (weight.len(), d_out * d_in);
        assert!(found == expected, "prepare: weight has {found} elements, [{d_out}, {d_in}] implies {expected}");
        launch::matmul::prepare(self, weight, d_out, d_in).map_err(|error| self.error(error))
    }

    fn prepared_bytes(&self, d_out: usize, d_in: usize) -> usize {
        launch::matmul::prepared_bytes::<E>(d_out, d_in)
    }

    fn prepare_quantized(
        &self,
        parts: &[QuantPart<'_>],
        d_in: usize,
        precision: ActivationPrecision,
    ) -> Result<CudaWeight<E>, BackendError> {
        launch::quantized::prepare(self, parts, d_in, precision).map_err(|error| self.error(error))
    }

    fn prepared_quantized_bytes(&self, parts: &[(QuantKind, usize)], d_in: usize) -> usize {
        launch::quantized::prepared_bytes(parts, d_in)
    }

    fn quantized_scratch_bytes(&self, shape: LinearShape) -> usize {
        launch::quantized::scratch_bytes(shape)
    }

    fn embed_prepared(&self, args: EmbedPrepared<'_, Self>) {
        args.check();
        args.table.check("embed_prepared", args.shape.n_vocab, args.shape.d_model);
        launch::embed::prepared(self, args);
    }

    fn linear_prepared(&self, args: LinearPrepared<'_, Self>) {
        args.check();
        args.weight.check("linear_prepared", args.shape.d_out, args.shape.d_in);
        launch::matmul::linear_prepared(self, args);
    }

    fn logits(&self, args: Logits<'_, Self>) {
        args.check();
        args.weight.check("logits", args.shape.n_vocab, args.shape.d_model);
        launch::matmul::logits(self, args);
    }

    fn gather_rows(&self, args: GatherRows<'_, Self>) {
        args.check();
        launch::memory::gather_rows(self, args);
    }

    fn kv_write(&self, args: KvWrite<'_, Self>) {
        args.check();
        launch::cached::write(self, args);
    }

    fn attention_cached(&self, args: AttentionCached<'_, Self>) {
        args.check();
        launch::cached::attention(self, args);
    }
}
