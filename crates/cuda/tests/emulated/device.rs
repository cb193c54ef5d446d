//! A device that interprets the PTX of the kernels, strictly: whatever a kernel does that is not defined ends the test.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use verve_cuda::compile::{Compiler, Target};
use verve_cuda::kernels::Program;
use verve_cuda::{Device, DeviceError, DeviceInfo, DevicePtr, ElemKind, KernelHandle, Launch};
use verve_ptx::{Machine, Module, PtxError};

/// The architecture that is played.
const TARGET: Target = Target::Ptx(8, 0);
/// Its memory.
const MEMORY_BYTES: usize = 256 << 20;

/// The emulated card.
pub struct EmulatedDevice {
    info: DeviceInfo,
    compiler: Compiler,
    state: Mutex<State>,
}

struct State {
    machine: Machine,
    modules: HashMap<(&'static str, ElemKind), Arc<Module>>,
    kernels: Vec<(Arc<Module>, String)>,
    free: u64,
    sizes: HashMap<DevicePtr, u64>,
}

impl EmulatedDevice {
    /// A card whose kernels this compiler makes.
    pub fn new(compiler: Compiler) -> Arc<Self> {
        let info = DeviceInfo {
            name: "emulated card".to_owned(),
            capability: (8, 0),
            multiprocessors: 4,
            memory_bytes: MEMORY_BYTES as u64,
            shared_bytes_per_block: 163 << 10,
        };
        let state = State {
            machine: Machine::new(MEMORY_BYTES),
            modules: HashMap::new(),
            kernels: Vec::new(),
            free: MEMORY_BYTES as u64,
            sizes: HashMap::new(),
        };
        Arc::new(EmulatedDevice { info, compiler, state: Mutex::new(state) })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What a host's or a kernel's mistake is here: the end of the test.
fn sound<T>(result: Result<T, PtxError>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

impl Device for EmulatedDevice {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn free_memory(&self) -> Result<u64, DeviceError> {
        Ok(self.state().free)
    }

    fn alloc(&self, bytes: usize) -> Result<DevicePtr, DeviceError> {
        let mut state = self.state();
        let address = state.machine.alloc(bytes as u64).map_err(|_| DeviceError::OutOfMemory { bytes })?;
        state.free -= bytes as u64;
        state.sizes.insert(address, bytes as u64);
        Ok(address)
    }

    fn free(&self, address: DevicePtr) {
        let mut state = self.state();
        // Nothing more to say where a test has failed already.
        if state.machine.free(address).is_err() {
            assert!(std::thread::panicking(), "free of {address:#x}, which is not allocated");
        }
        let bytes = state.sizes.remove(&address).unwrap_or(0);
        state.free += bytes;
    }

    fn upload(&self, src: &[u8], dst: DevicePtr) -> Result<(), DeviceError> {
        sound(self.state().machine.write(dst, src));
        Ok(())
    }

    fn download(&self, src: DevicePtr, dst: &mut [u8]) -> Result<(), DeviceError> {
        sound(self.state().machine.read(src, dst));
        Ok(())
    }

    fn copy(&self, src: DevicePtr, dst: DevicePtr, bytes: usize) -> Result<(), DeviceError> {
        sound(self.state().machine.copy(dst, src, bytes as u64));
        Ok(())
    }

    fn fill_zero(&self, dst: DevicePtr, bytes: usize) -> Result<(), DeviceError> {
        sound(self.state().machine.fill(dst, 0, bytes as u64));
        Ok(())
    }

    fn kernel(&self, program: &'static Program, elem: ElemKind, name: &str) -> Result<KernelHandle, DeviceError> {
        let mut state = self.state();
        let module = match state.modules.get(&(program.name, elem)) {
            Some(module) => module.clone(),
            None => {
                let (compiled, _) = self.compiler.compile(program, elem, TARGET)?;
                let text = String::from_utf8_lossy(&compiled.image);
                let module = Arc::new(sound(state.machine.load(text.trim_end_matches('\0'))));
                state.modules.insert((program.name, elem), module.clone());
                module
            }
        };
        if !module.kernels().contains(&name) {
            return Err(DeviceError::NoSuchKernel { program: program.name, kernel: name.to_owned() });
        }
        state.kernels.push((module, name.to_owned()));
        Ok(KernelHandle(state.kernels.len() as u64 - 1))
    }

    fn launch(&self, launch: Launch<'_>) -> Result<(), DeviceError> {
        let mut state = self.state();
        let (module, name) = state.kernels[usize::try_from(launch.kernel.0).unwrap()].clone();
        let dims = |dims: [usize; 3]| dims.map(|d| u32::try_from(d).unwrap());
        let (grid, block) = (dims(launch.grid.blocks), dims(launch.grid.threads));
        let shared = u32::try_from(launch.grid.shared_bytes).unwrap();
        sound(state.machine.launch(&module, &name, grid, block, shared, launch.params));
        Ok(())
    }

    fn synchronize(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}
