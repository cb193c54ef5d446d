//! A card through its driver.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::blas::Blas;
use super::sys::{self, Driver, Handle};
use crate::DeviceError;
use crate::compile::{Cache, Compiler, Target};
use crate::device::{Device, DeviceInfo, DevicePtr, ElemKind, KernelHandle, Launch, MatrixProduct};
use crate::kernels::Program;
use crate::libraries::{Library, Search};

/// `CUDA_ERROR_OUT_OF_MEMORY`.
const OUT_OF_MEMORY: i32 = 2;
/// `CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT`.
const MULTIPROCESSORS: i32 = 16;
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR`.
const CAPABILITY: [i32; 2] = [75, 76];
/// `CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN`.
const SHARED_PER_BLOCK: i32 = 97;
/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`.
const MAX_DYNAMIC_SHARED: i32 = 8;
/// `CU_STREAM_NON_BLOCKING`.
const NON_BLOCKING: u32 = 1;
/// `CU_LAUNCH_PARAM_BUFFER_POINTER`, `_SIZE` and `_END`.
const PARAM_BUFFER: usize = 1;
const PARAM_SIZE: usize = 2;
const PARAM_END: usize = 0;

/// Dynamic shared memory that needs no asking, bytes.
const SHARED_UNASKED: usize = 48 << 10;

/// Pinned memory through which small uploads go, so that the caller's memory is free again at once, bytes.
const STAGING_BYTES: usize = 4 << 20;

/// Uploads up to this size are staged, bytes.
const STAGED: usize = 256 << 10;

/// Oldest capability that the kernels run on: asynchronous copies and products of 16-bit brain floats.
const OLDEST: (u32, u32) = (8, 0);

/// A handle that any thread may use.
#[derive(Debug, Clone, Copy)]
struct Shared(Handle);

// SAFETY: handles of the driver may be used from any thread; a context is made current before each use.
unsafe impl Send for Shared {}
// SAFETY: as above; the driver locks what it must.
unsafe impl Sync for Shared {}

/// Pinned memory and how much of it holds uploads that may still be under way.
struct Staging {
    memory: Shared,
    used: usize,
}

/// A loaded kernel.
struct Kernel {
    function: Shared,
    /// Dynamic shared memory that has been asked for.
    asked: usize,
}

#[derive(Default)]
struct Loaded {
    modules: HashMap<(&'static str, ElemKind), Shared>,
    kernels: Vec<Kernel>,
}

/// A card with one stream. See [`Device`].
pub struct DriverDevice {
    api: Driver,
    ordinal: i32,
    context: Shared,
    stream: Shared,
    info: DeviceInfo,
    compiler: Compiler,
    target: Target,
    loaded: Mutex<Loaded>,
    staging: Mutex<Staging>,
    blas: Option<Blas>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Number of cards that the driver reports.
///
/// # Errors
/// [`DeviceError::Library`] without a driver, [`DeviceError::Call`] if it will not start.
pub fn card_count(search: &Search) -> Result<usize, DeviceError> {
    let (api, _) = sys::open::<Driver>(search, Library::Driver)?;
    count(&api)
}

/// What the cards that the driver reports are, for people.
///
/// # Errors
/// As [`card_count`].
pub fn card_names(search: &Search) -> Result<Vec<String>, DeviceError> {
    let (api, _) = sys::open::<Driver>(search, Library::Driver)?;
    let name = |ordinal: usize| {
        let mut card = 0;
        // SAFETY: writes one int.
        api.check("cuDeviceGet", unsafe { (api.device_get)(&raw mut card, ordinal as i32) })?;
        let DeviceInfo { name, capability, multiprocessors, memory_bytes, .. } = describe(&api, card)?;
        let gib = memory_bytes as f64 / (1u64 << 30) as f64;
        Ok(format!("{name}, sm_{}{}, {multiprocessors} multiprocessors, {gib:.0} GiB", capability.0, capability.1))
    };
    (0..count(&api)?).map(name).collect()
}

fn count(api: &Driver) -> Result<usize, DeviceError> {
    // SAFETY: no pointers.
    api.check("cuInit", unsafe { (api.init)(0) })?;
    let mut cards = 0;
    // SAFETY: writes one int.
    api.check("cuDeviceGetCount", unsafe { (api.device_count)(&raw mut cards) })?;
    Ok(usize::try_from(cards).unwrap_or(0))
}

fn describe(api: &Driver, card: i32) -> Result<DeviceInfo, DeviceError> {
    let mut name = [0u8; 128];
    // SAFETY: writes at most as many bytes as the array has, with a zero at the end.
    api.check("cuDeviceGetName", unsafe { (api.device_name)(name.as_mut_ptr().cast(), name.len() as i32, card) })?;
    let name = String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned();
    let mut memory = 0;
    // SAFETY: writes one size.
    api.check("cuDeviceTotalMem", unsafe { (api.device_memory)(&raw mut memory, card) })?;
    let attribute = |which| -> Result<u32, DeviceError> {
        let mut value = 0;
        // SAFETY: writes one int.
        api.check("cuDeviceGetAttribute", unsafe { (api.device_attribute)(&raw mut value, which, card) })?;
        Ok(value.unsigned_abs())
    };
    Ok(DeviceInfo {
        name,
        capability: (attribute(CAPABILITY[0])?, attribute(CAPABILITY[1])?),
        multiprocessors: attribute(MULTIPROCESSORS)?,
        memory_bytes: memory as u64,
        shared_bytes_per_block: attribute(SHARED_PER_BLOCK)?,
    })
}

impl DriverDevice {
    /// Opens card number `ordinal` with the libraries that the search finds; compiled kernels are kept in `cache`. cuBLASLt may
    /// be missing.
    ///
    /// # Errors
    /// What is missing and what would fix it, [`DeviceError::NoSuchCard`], [`DeviceError::TooOld`], or what the driver says.
    pub fn open(ordinal: usize, search: &Search, cache: Option<Cache>) -> Result<Self, DeviceError> {
        let (api, _) = sys::open::<Driver>(search, Library::Driver)?;
        let cards = count(&api)?;
        let wanted = i32::try_from(ordinal).ok().filter(|_| ordinal < cards);
        let Some(wanted) = wanted else { return Err(DeviceError::NoSuchCard { wanted: ordinal, found: cards }) };
        let mut card = 0;
        // SAFETY: writes one int.
        api.check("cuDeviceGet", unsafe { (api.device_get)(&raw mut card, wanted) })?;
        let info = describe(&api, card)?;
        let (major, minor) = info.capability;
        if info.capability < OLDEST {
            return Err(DeviceError::TooOld { name: info.name, major, minor });
        }
        let search = &search.up_to(api.serves().0);
        let compiler = Compiler::open(search, cache)?;
        let target = Target::for_card(info.capability, compiler.known_archs());

        let mut context = std::ptr::null_mut();
        // SAFETY: writes one handle.
        api.check("cuDevicePrimaryCtxRetain", unsafe { (api.context_retain)(&raw mut context, card) })?;
        // From here on the drop gives everything back.
        let mut device = DriverDevice {
            api,
            ordinal: card,
            context: Shared(context),
            stream: Shared(std::ptr::null_mut()),
            info,
            compiler,
            target,
            loaded: Mutex::default(),
            staging: Mutex::new(Staging { memory: Shared(std::ptr::null_mut()), used: 0 }),
            blas: None,
        };
        device.enter()?;
        let mut stream = std::ptr::null_mut();
        // SAFETY: writes one handle.
        let status = unsafe { (device.api.stream_create)(&raw mut stream, NON_BLOCKING) };
        device.api.check("cuStreamCreate", status)?;
        device.stream = Shared(stream);
        let mut memory = std::ptr::null_mut();
        // SAFETY: writes one pointer.
        let status = unsafe { (device.api.host_alloc)(&raw mut memory, STAGING_BYTES, 0) };
        device.api.check("cuMemHostAlloc", status)?;
        lock(&device.staging).memory = Shared(memory);
        if let Ok((blas, _)) = sys::open::<sys::CublasLt>(search, Library::CublasLt) {
            let workspace_bytes = Blas::workspace_bytes(major);
            let workspace = device.alloc(workspace_bytes)?;
            device.blas = Some(Blas::new(blas, workspace, workspace_bytes)?);
        }
        Ok(device)
    }

    /// Makes the context current for this thread.
    fn enter(&self) -> Result<(), DeviceError> {
        // SAFETY: the context lives as long as this.
        self.api.check("cuCtxSetCurrent", unsafe { (self.api.context_set)(self.context.0) })
    }

    fn wait(&self) -> Result<(), DeviceError> {
        // SAFETY: the stream lives as long as this.
        self.api.check("cuStreamSynchronize", unsafe { (self.api.stream_synchronize)(self.stream.0) })
    }

    /// Copies to the device. The memory at `src` must stay as it is until the stream has come so far.
    fn copy_in(&self, src: *const c_void, dst: DevicePtr, bytes: usize) -> Result<(), DeviceError> {
        // SAFETY: the callers pass memory of this size; the device side is checked by the driver.
        self.api.check("cuMemcpyHtoDAsync", unsafe { (self.api.copy_to_device)(dst, src, bytes, self.stream.0) })
    }

    fn module(&self, loaded: &mut Loaded, program: &'static Program, elem: ElemKind) -> Result<Shared, DeviceError> {
        if let Some(module) = loaded.modules.get(&(program.name, elem)) {
            return Ok(*module);
        }
        let (compiled, _) = self.compiler.compile(program, elem, self.target)?;
        let mut module = std::ptr::null_mut();
        // SAFETY: an image that the compiler made and whose checksum held, or a text that ends with a zero byte.
        let status = unsafe { (self.api.module_load)(&raw mut module, compiled.image.as_ptr().cast()) };
        self.api.check("cuModuleLoadData", status)?;
        loaded.modules.insert((program.name, elem), Shared(module));
        Ok(Shared(module))
    }
}

impl Drop for DriverDevice {
    fn drop(&mut self) {
        if self.enter().is_err() || (!self.stream.0.is_null() && self.wait().is_err()) {
            // The context is broken: the system takes everything back at the end of the process.
            return;
        }
        let blas = self.blas.take();
        let workspace = blas.as_ref().map_or(0, Blas::workspace);
        drop(blas);
        // SAFETY: everything here came from the driver, is given back once, and no work is under way.
        unsafe {
            if workspace != 0 {
                (self.api.memory_free)(workspace);
            }
            for module in lock(&self.loaded).modules.values() {
                (self.api.module_unload)(module.0);
            }
            let staging = lock(&self.staging).memory.0;
            if !staging.is_null() {
                (self.api.host_free)(staging);
            }
            if !self.stream.0.is_null() {
                (self.api.stream_destroy)(self.stream.0);
            }
            (self.api.context_release)(self.ordinal);
        }
    }
}

impl Device for DriverDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn free_memory(&self) -> Result<u64, DeviceError> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two sizes.
        self.api.check("cuMemGetInfo", unsafe { (self.api.memory_info)(&raw mut free, &raw mut total) })?;
        Ok(free as u64)
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr, DeviceError> {
        self.enter()?;
        let mut address = 0;
        // SAFETY: writes one address.
        let status = unsafe { (self.api.memory_alloc)(&raw mut address, bytes) };
        if status == OUT_OF_MEMORY {
            return Err(DeviceError::OutOfMemory { bytes });
        }
        self.api.check("cuMemAlloc", status)?;
        Ok(address)
    }

    fn free(&self, address: DevicePtr) {
        if self.enter().is_ok() && self.wait().is_ok() {
            // SAFETY: came from `alloc`, no work is under way. What the driver says is of no use to anybody here.
            unsafe { (self.api.memory_free)(address) };
        }
    }

    fn upload(&self, src: &[u8], dst: DevicePtr) -> Result<(), DeviceError> {
        self.enter()?;
        if src.len() > STAGED {
            self.copy_in(src.as_ptr().cast(), dst, src.len())?;
            return self.wait();
        }
        let mut staging = lock(&self.staging);
        if staging.used + src.len() > STAGING_BYTES {
            self.wait()?;
            staging.used = 0;
        }
        // SAFETY: the two ranges lie in memory of their own, the second within the pinned memory as just checked, and no
        // copy that is under way reads it.
        let place = unsafe {
            let place = staging.memory.0.cast::<u8>().add(staging.used);
            std::ptr::copy_nonoverlapping(src.as_ptr(), place, src.len());
            place
        };
        staging.used += src.len().next_multiple_of(64);
        self.copy_in(place.cast(), dst, src.len())
    }

    fn download(&self, src: DevicePtr, dst: &mut [u8]) -> Result<(), DeviceError> {
        self.enter()?;
        // SAFETY: memory of this size, which lives until the wait below is over.
        let status = unsafe { (self.api.copy_to_host)(dst.as_mut_ptr().cast(), src, dst.len(), self.stream.0) };
        let queued = self.api.check("cuMemcpyDtoHAsync", status);
        // Also after an error: nothing may write to the host's memory later.
        self.wait().and(queued)
    }

    fn copy(&self, src: DevicePtr, dst: DevicePtr, bytes: usize) -> Result<(), DeviceError> {
        self.enter()?;
        // SAFETY: addresses of the device, which the driver checks.
        let status = unsafe { (self.api.copy_on_device)(dst, src, bytes, self.stream.0) };
        self.api.check("cuMemcpyDtoDAsync", status)
    }

    fn fill_zero(&self, dst: DevicePtr, bytes: usize) -> Result<(), DeviceError> {
        self.enter()?;
        // SAFETY: an address of the device, which the driver checks.
        let status = unsafe { (self.api.fill)(dst, 0, bytes, self.stream.0) };
        self.api.check("cuMemsetD8Async", status)
    }

    fn kernel(&self, program: &'static Program, elem: ElemKind, name: &str) -> Result<KernelHandle, DeviceError> {
        self.enter()?;
        let missing = || DeviceError::NoSuchKernel { program: program.name, kernel: name.to_owned() };
        let symbol = CString::new(name).map_err(|_| missing())?;
        let mut loaded = lock(&self.loaded);
        let module = self.module(&mut loaded, program, elem)?;
        let mut function = std::ptr::null_mut();
        // SAFETY: writes one handle; the name ends with a zero byte; the module is loaded.
        let status = unsafe { (self.api.module_function)(&raw mut function, module.0, symbol.as_ptr()) };
        if status != 0 {
            return Err(missing());
        }
        loaded.kernels.push(Kernel { function: Shared(function), asked: SHARED_UNASKED });
        Ok(KernelHandle(loaded.kernels.len() as u64 - 1))
    }

    fn launch(&self, launch: Launch<'_>) -> Result<(), DeviceError> {
        self.enter()?;
        let grid = launch.grid;
        let mut loaded = lock(&self.loaded);
        let known = usize::try_from(launch.kernel.0).ok().and_then(|index| loaded.kernels.get_mut(index));
        let Some(kernel) = known else {
            return Err(DeviceError::Call { call: "cuLaunchKernel", detail: "a kernel of another device".to_owned() });
        };
        if grid.shared_bytes > kernel.asked {
            let bytes = i32::try_from(grid.shared_bytes).unwrap_or(i32::MAX);
            // SAFETY: a loaded function.
            let status = unsafe { (self.api.function_attribute)(kernel.function.0, MAX_DYNAMIC_SHARED, bytes) };
            self.api.check("cuFuncSetAttribute", status)?;
            kernel.asked = grid.shared_bytes;
        }
        let function = kernel.function;
        drop(loaded);
        let narrow = |sizes: [usize; 3]| sizes.map(|size| u32::try_from(size).unwrap_or(u32::MAX));
        let ([bx, by, bz], [tx, ty, tz]) = (narrow(grid.blocks), narrow(grid.threads));
        let shared = u32::try_from(grid.shared_bytes).unwrap_or(u32::MAX);
        let mut len = launch.params.len();
        let mut extra: [*mut c_void; 5] = [
            std::ptr::without_provenance_mut(PARAM_BUFFER),
            launch.params.as_ptr().cast_mut().cast(),
            std::ptr::without_provenance_mut(PARAM_SIZE),
            (&raw mut len).cast(),
            std::ptr::without_provenance_mut(PARAM_END),
        ];
        let no_params = std::ptr::null_mut();
        // SAFETY: the driver copies the parameters, a buffer of the length given, before it returns. That their types are
        // those of the kernel is the business of `launch`, which the tests run on an emulator that checks every access.
        let status = unsafe {
            (self.api.launch)(function.0, bx, by, bz, tx, ty, tz, shared, self.stream.0, no_params, extra.as_mut_ptr())
        };
        self.api.check("cuLaunchKernel", status)
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        self.enter()?;
        self.wait()
    }

    fn product(&self, product: &MatrixProduct) -> Result<bool, DeviceError> {
        let Some(blas) = &self.blas else { return Ok(false) };
        self.enter()?;
        blas.product(product, self.stream.0)
    }

    fn has_products(&self) -> bool {
        self.blas.is_some()
    }
}
