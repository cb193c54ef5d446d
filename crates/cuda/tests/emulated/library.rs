//! Products of training as a library computes them: here plain loops behind [`Device::product`], with the emulated card for
//! everything else. What is checked is how each operation is put to the library.

use std::sync::Arc;

use half::bf16;
use verve_cuda::kernels::Program;
use verve_cuda::{
    CudaBackend, CudaElem, Device, DeviceError, DeviceInfo, DevicePtr, ElemKind, KernelHandle, Launch, MatrixProduct,
    Op, ProductEpilogue, Products,
};
use verve_testkit::ops_suite;

use crate::device::EmulatedDevice;
use crate::nvrtc;

/// An emulated card with a library.
struct WithLibrary(Arc<EmulatedDevice>);

impl WithLibrary {
    /// Numbers in the card's memory.
    fn read(&self, address: DevicePtr, len: usize, elem: ElemKind) -> Vec<f64> {
        let mut bytes = vec![0; len * elem.bytes()];
        self.0.download(address, &mut bytes).unwrap();
        match elem {
            ElemKind::F32 => {
                bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
            }
            ElemKind::Bf16 => {
                bytes.chunks_exact(2).map(|b| bf16::from_le_bytes(b.try_into().unwrap()).to_f64()).collect()
            }
        }
    }

    fn write(&self, address: DevicePtr, values: &[f64], elem: ElemKind) {
        let bytes: Vec<u8> = match elem {
            ElemKind::F32 => values.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect(),
            ElemKind::Bf16 => {
                values.iter().flat_map(|&x| <bf16 as verve_ops::Real>::from_f64(x).to_le_bytes()).collect()
            }
        };
        self.0.upload(&bytes, address).unwrap();
    }
}

/// Derivative of GELU, tanh form.
fn gelu_derivative(x: f64) -> f64 {
    let c = (2.0 / std::f64::consts::PI).sqrt();
    let t = (c * (x + 0.044715 * x * x * x)).tanh();
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * c * (1.0 + 3.0 * 0.044715 * x * x)
}

impl Device for WithLibrary {
    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }
    fn free_memory(&self) -> Result<u64, DeviceError> {
        self.0.free_memory()
    }
    fn alloc(&self, bytes: usize) -> Result<DevicePtr, DeviceError> {
        self.0.alloc(bytes)
    }
    fn free(&self, address: DevicePtr) {
        self.0.free(address);
    }
    fn upload(&self, src: &[u8], dst: DevicePtr) -> Result<(), DeviceError> {
        self.0.upload(src, dst)
    }
    fn download(&self, src: DevicePtr, dst: &mut [u8]) -> Result<(), DeviceError> {
        self.0.download(src, dst)
    }
    fn copy(&self, src: DevicePtr, dst: DevicePtr, bytes: usize) -> Result<(), DeviceError> {
        self.0.copy(src, dst, bytes)
    }
    fn fill_zero(&self, dst: DevicePtr, bytes: usize) -> Result<(), DeviceError> {
        self.0.fill_zero(dst, bytes)
    }
    fn kernel(&self, program: &'static Program, elem: ElemKind, name: &str) -> Result<KernelHandle, DeviceError> {
        self.0.kernel(program, elem, name)
    }
    fn launch(&self, launch: Launch<'_>) -> Result<(), DeviceError> {
        self.0.launch(launch)
    }
    fn synchronize(&self) -> Result<(), DeviceError> {
        self.0.synchronize()
    }
    fn has_products(&self) -> bool {
        true
    }
    fn product(&self, p: &MatrixProduct) -> Result<bool, DeviceError> {
        let (stored_rows, stored_cols) = match p.a.1 {
            Op::Plain => (p.rows, p.depth),
            Op::Transposed => (p.depth, p.rows),
        };
        let a = self.read(p.a.0, (stored_rows - 1) * p.a_stride + stored_cols, p.elem);
        let b = self.read(p.b.0, p.depth * p.cols, p.elem);
        let c = (p.c != 0).then(|| self.read(p.c, p.rows * p.cols, p.out_elem));
        let bias = |address| self.read(address, p.cols, p.elem);
        let (bias, pre) = match p.epilogue {
            ProductEpilogue::Store => (None, None),
            ProductEpilogue::Bias(address) => (Some(bias(address)), None),
            ProductEpilogue::GeluBackward(address) => (None, Some(self.read(address, p.rows * p.cols, p.elem))),
        };
        let of_a = |row: usize, k: usize| match p.a.1 {
            Op::Plain => a[row * p.a_stride + k],
            Op::Transposed => a[k * p.a_stride + row],
        };
        let of_b = |k: usize, col: usize| match p.b.1 {
            Op::Plain => b[k * p.cols + col],
            Op::Transposed => b[col * p.depth + k],
        };
        let mut out = Vec::with_capacity(p.rows * p.cols);
        for row in 0..p.rows {
            for col in 0..p.cols {
                let mut sum: f64 = (0..p.depth).map(|k| of_a(row, k) * of_b(k, col)).sum();
                sum += bias.as_ref().map_or(0.0, |bias| bias[col]);
                sum *= pre.as_ref().map_or(1.0, |pre| gelu_derivative(pre[row * p.cols + col]));
                out.push(sum + c.as_ref().map_or(0.0, |c| c[row * p.cols + col]));
            }
        }
        self.write(p.out, &out, p.out_elem);
        Ok(true)
    }
}

fn with_library<E: CudaElem>() -> Option<CudaBackend<E>> {
    let device = WithLibrary(EmulatedDevice::new(nvrtc::compiler()?));
    Some(CudaBackend::new(Arc::new(device), Products::Library))
}

macro_rules! families {
    ($($family:ident)*) => {
        $(
            #[test]
            fn $family() {
                if let (Some(narrow), Some(wide)) = (with_library::<bf16>(), with_library::<f32>()) {
                    ops_suite::$family(&narrow);
                    ops_suite::$family(&wide);
                }
            }
        )*
    };
}

families!(linear linear_backward head_loss);
