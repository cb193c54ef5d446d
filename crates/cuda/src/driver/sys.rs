//! The functions that are called, by library. Signatures follow `cuda.h`, `nvrtc.h`, `cublasLt.h` and `nccl.h`.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;

use libloading::Library as Opened;

use crate::DeviceError;
use crate::libraries::{Library, Search};

/// Handles of the libraries: pointers whose target is theirs.
pub type Handle = *mut c_void;

/// A table of functions that a library must have.
pub trait Api: Sized {
    /// Finds every function; the error names the first that is not there.
    fn load(library: Opened) -> Result<Self, String>;
}

macro_rules! api {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $symbol:literal = fn($($arg:ty),*) -> $ret:ty;)* }) => {
        $(#[$meta])*
        pub struct $name {
            $(pub $field: unsafe extern "C" fn($($arg),*) -> $ret,)*
            /// The functions are valid as long as this is open.
            _library: Opened,
        }

        impl Api for $name {
            fn load(library: Opened) -> Result<Self, String> {
                $(
                    // SAFETY: the header declares the symbol with this signature, and the pointer does not outlive the
                    // library, which is kept beside it.
                    let $field = unsafe {
                        *library
                            .get::<unsafe extern "C" fn($($arg),*) -> $ret>($symbol.as_bytes())
                            .map_err(|_| format!("it has no function {}", $symbol))?
                    };
                )*
                Ok($name { $($field,)* _library: library })
            }
        }
    };
}

api! {
    /// `libcuda.so.1`.
    Driver {
        init: "cuInit" = fn(c_uint) -> c_int;
        driver_version: "cuDriverGetVersion" = fn(*mut c_int) -> c_int;
        error_name: "cuGetErrorName" = fn(c_int, *mut *const c_char) -> c_int;
        error_string: "cuGetErrorString" = fn(c_int, *mut *const c_char) -> c_int;
        device_count: "cuDeviceGetCount" = fn(*mut c_int) -> c_int;
        device_get: "cuDeviceGet" = fn(*mut c_int, c_int) -> c_int;
        device_name: "cuDeviceGetName" = fn(*mut c_char, c_int, c_int) -> c_int;
        device_attribute: "cuDeviceGetAttribute" = fn(*mut c_int, c_int, c_int) -> c_int;
        device_memory: "cuDeviceTotalMem_v2" = fn(*mut usize, c_int) -> c_int;
        context_retain: "cuDevicePrimaryCtxRetain" = fn(*mut Handle, c_int) -> c_int;
        context_release: "cuDevicePrimaryCtxRelease_v2" = fn(c_int) -> c_int;
        context_set: "cuCtxSetCurrent" = fn(Handle) -> c_int;
        memory_info: "cuMemGetInfo_v2" = fn(*mut usize, *mut usize) -> c_int;
        memory_alloc: "cuMemAlloc_v2" = fn(*mut u64, usize) -> c_int;
        memory_free: "cuMemFree_v2" = fn(u64) -> c_int;
        host_alloc: "cuMemHostAlloc" = fn(*mut *mut c_void, usize, c_uint) -> c_int;
        host_free: "cuMemFreeHost" = fn(*mut c_void) -> c_int;
        copy_to_device: "cuMemcpyHtoDAsync_v2" = fn(u64, *const c_void, usize, Handle) -> c_int;
        copy_to_host: "cuMemcpyDtoHAsync_v2" = fn(*mut c_void, u64, usize, Handle) -> c_int;
        copy_on_device: "cuMemcpyDtoDAsync_v2" = fn(u64, u64, usize, Handle) -> c_int;
        fill: "cuMemsetD8Async" = fn(u64, u8, usize, Handle) -> c_int;
        stream_create: "cuStreamCreate" = fn(*mut Handle, c_uint) -> c_int;
        stream_destroy: "cuStreamDestroy_v2" = fn(Handle) -> c_int;
        stream_synchronize: "cuStreamSynchronize" = fn(Handle) -> c_int;
        module_load: "cuModuleLoadData" = fn(*mut Handle, *const c_void) -> c_int;
        module_unload: "cuModuleUnload" = fn(Handle) -> c_int;
        module_function: "cuModuleGetFunction" = fn(*mut Handle, Handle, *const c_char) -> c_int;
        function_attribute: "cuFuncSetAttribute" = fn(Handle, c_int, c_int) -> c_int;
        launch: "cuLaunchKernel" = fn(
            Handle, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, Handle, *mut *mut c_void, *mut *mut c_void
        ) -> c_int;
    }
}

api! {
    /// `libnvrtc.so`.
    NvrtcApi {
        version_numbers: "nvrtcVersion" = fn(*mut c_int, *mut c_int) -> c_int;
        arch_count: "nvrtcGetNumSupportedArchs" = fn(*mut c_int) -> c_int;
        archs: "nvrtcGetSupportedArchs" = fn(*mut c_int) -> c_int;
        error_string: "nvrtcGetErrorString" = fn(c_int) -> *const c_char;
        create: "nvrtcCreateProgram" = fn(
            *mut Handle, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char
        ) -> c_int;
        destroy: "nvrtcDestroyProgram" = fn(*mut Handle) -> c_int;
        compile: "nvrtcCompileProgram" = fn(Handle, c_int, *const *const c_char) -> c_int;
        log_size: "nvrtcGetProgramLogSize" = fn(Handle, *mut usize) -> c_int;
        log: "nvrtcGetProgramLog" = fn(Handle, *mut c_char) -> c_int;
        cubin_size: "nvrtcGetCUBINSize" = fn(Handle, *mut usize) -> c_int;
        cubin: "nvrtcGetCUBIN" = fn(Handle, *mut c_char) -> c_int;
        ptx_size: "nvrtcGetPTXSize" = fn(Handle, *mut usize) -> c_int;
        ptx: "nvrtcGetPTX" = fn(Handle, *mut c_char) -> c_int;
    }
}

/// `cublasLtMatmulAlgo_t`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Algorithm {
    data: [u64; 8],
}

/// `cublasLtMatmulHeuristicResult_t`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct HeuristicResult {
    pub algorithm: Algorithm,
    pub workspace_bytes: usize,
    pub state: c_int,
    pub waves: f32,
    reserved: [c_int; 4],
}

api! {
    /// `libcublasLt.so`.
    CublasLt {
        version_number: "cublasLtGetVersion" = fn() -> usize;
        status_string: "cublasLtGetStatusString" = fn(c_int) -> *const c_char;
        create: "cublasLtCreate" = fn(*mut Handle) -> c_int;
        destroy: "cublasLtDestroy" = fn(Handle) -> c_int;
        product_create: "cublasLtMatmulDescCreate" = fn(*mut Handle, c_int, c_int) -> c_int;
        product_set: "cublasLtMatmulDescSetAttribute" = fn(Handle, c_int, *const c_void, usize) -> c_int;
        product_destroy: "cublasLtMatmulDescDestroy" = fn(Handle) -> c_int;
        layout_create: "cublasLtMatrixLayoutCreate" = fn(*mut Handle, c_int, u64, u64, i64) -> c_int;
        layout_destroy: "cublasLtMatrixLayoutDestroy" = fn(Handle) -> c_int;
        preference_create: "cublasLtMatmulPreferenceCreate" = fn(*mut Handle) -> c_int;
        preference_set: "cublasLtMatmulPreferenceSetAttribute" = fn(Handle, c_int, *const c_void, usize) -> c_int;
        preference_destroy: "cublasLtMatmulPreferenceDestroy" = fn(Handle) -> c_int;
        heuristic: "cublasLtMatmulAlgoGetHeuristic" = fn(
            Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut HeuristicResult, *mut c_int
        ) -> c_int;
        product: "cublasLtMatmul" = fn(
            Handle, Handle, *const c_void, u64, Handle, u64, Handle, *const c_void, u64, Handle, u64, Handle,
            *const Algorithm, u64, usize, Handle
        ) -> c_int;
    }
}

api! {
    /// `libnccl.so.2`, for its version alone.
    Nccl {
        version_number: "ncclGetVersion" = fn(*mut c_int) -> c_int;
    }
}

impl Driver {
    /// The newest CUDA that the driver can serve, for example `(13, 0)`.
    pub fn serves(&self) -> (u32, u32) {
        let mut version = 0;
        // SAFETY: writes one int.
        unsafe { (self.driver_version)(&raw mut version) };
        let version = version.unsigned_abs();
        (version / 1000, version % 1000 / 10)
    }

    /// The same for people.
    pub fn version(&self) -> String {
        let (major, minor) = self.serves();
        format!("for CUDA {major}.{minor}")
    }

    /// `Ok`, or the error with the driver's name for it.
    pub fn check(&self, call: &'static str, status: c_int) -> Result<(), DeviceError> {
        if status == 0 {
            return Ok(());
        }
        let text = |get: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int| {
            let mut text = std::ptr::null();
            // SAFETY: writes one pointer, to a constant string of the driver or null.
            unsafe { (get)(status, &raw mut text) };
            // SAFETY: as above.
            unsafe { string(text) }
        };
        let detail = format!("{} ({status}): {}", text(self.error_name), text(self.error_string));
        Err(DeviceError::Call { call, detail })
    }
}

impl NvrtcApi {
    /// For example `13.0`.
    pub fn version(&self) -> String {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: writes two ints.
        unsafe { (self.version_numbers)(&raw mut major, &raw mut minor) };
        format!("{major}.{minor}")
    }
}

impl CublasLt {
    /// For example `13.0.2`.
    pub fn version(&self) -> String {
        // SAFETY: no arguments.
        let version = unsafe { (self.version_number)() };
        format!("{}.{}.{}", version / 10_000, version % 10_000 / 100, version % 100)
    }
}

impl Nccl {
    /// For example `2.28.3`.
    pub fn version(&self) -> String {
        let mut version = 0;
        // SAFETY: writes one int.
        unsafe { (self.version_number)(&raw mut version) };
        format!("{}.{}.{}", version / 10_000, version % 10_000 / 100, version % 100)
    }
}

/// A string of a library, or nothing for null.
///
/// # Safety
/// Null, or a string that ends with a zero byte.
pub unsafe fn string(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Opens the first candidate that can be opened and has all functions.
pub fn open<A: Api>(search: &Search, library: Library) -> Result<(A, PathBuf), DeviceError> {
    let mut troubles = Vec::new();
    for path in search.candidates(library) {
        // SAFETY: opening runs the library's initialisers. It is a library of NVIDIA by its name, in a folder that the user
        // or the system named for such libraries.
        let opened = unsafe { Opened::new(&path) };
        match opened {
            Ok(opened) => match A::load(opened) {
                Ok(api) => return Ok((api, path)),
                Err(trouble) => troubles.push(format!("{}: {trouble}", path.display())),
            },
            // A name that the system's loader does not know is no news.
            Err(_) if path.components().count() == 1 => {}
            Err(error) => troubles.push(format!("{}: {error}", path.display())),
        }
    }
    Err(search.missing(library, &troubles))
}
