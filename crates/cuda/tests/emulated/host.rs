//! What happens on the host: the search for libraries, the cache, arguments, and failures of a device.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use verve_cuda::compile::{Cache, Compiled, Compiler, Target};
use verve_cuda::kernels::Program;
use verve_cuda::libraries::{Library, Search, SystemLoader, survey};
use verve_cuda::{
    Args, CudaBackend, Device, DeviceError, DeviceInfo, DevicePtr, DriverDevice, ElemKind, KernelHandle, Launch,
    Products, card_count,
};
use verve_ops::{Backend, BackendError, Buffer};

fn touch(path: &Path, content: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

#[test]
fn without_libraries_there_are_errors_that_name_what_would_help() {
    let empty = Search::folders(Vec::new(), SystemLoader::Ignored);
    for (library, found) in survey(&empty) {
        let error = found.unwrap_err().to_string();
        assert!(error.contains(library.name()) && error.contains(library.fix()), "{error}");
        assert!(error.contains(library.file_names()[0]), "{error}");
    }
    let Err(error) = Compiler::open(&empty, None) else { panic!("a compiler out of nothing") };
    assert!(matches!(error, DeviceError::Library { library: "NVRTC", .. }), "{error}");
    let Err(error) = DriverDevice::open(0, &empty, None) else { panic!("a card out of nothing") };
    assert!(matches!(error, DeviceError::Library { library: "NVIDIA driver", .. }), "{error}");
    assert!(matches!(card_count(&empty), Err(DeviceError::Library { library: "NVIDIA driver", .. })));
}

#[test]
fn files_that_are_no_libraries_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for library in Library::ALL {
        touch(&folder.path().join(library.file_names()[0]), b"not a library");
    }
    let search = Search::folders(vec![folder.path().to_path_buf()], SystemLoader::Ignored);
    for (library, found) in survey(&search) {
        let error = found.unwrap_err().to_string();
        let path = folder.path().join(library.file_names()[0]);
        assert!(error.contains(&*path.to_string_lossy()), "{error}");
    }
}

#[test]
fn a_library_of_another_kind_lacks_functions() {
    // Any library of the system will do, under the names that are looked for.
    let system = ["/lib/x86_64-linux-gnu/libm.so.6", "/usr/lib64/libm.so.6", "/usr/lib/libm.so.6"];
    let Some(other) = system.iter().find(|path| Path::new(path).exists()) else {
        println!("skipped: no libm in {system:?}");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for (library, function) in [(Library::Driver, "cuInit"), (Library::Nvrtc, "nvrtcVersion")] {
        std::fs::copy(other, folder.path().join(library.file_names()[0])).unwrap();
        let search = Search::folders(vec![folder.path().to_path_buf()], SystemLoader::Ignored);
        let found = survey(&search).into_iter().find(|(which, _)| *which == library).unwrap().1;
        let error = found.unwrap_err().to_string();
        assert!(error.contains(&format!("no function {function}")), "{error}");
    }
}

#[test]
fn folders_are_searched_in_the_order_that_is_told() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let own = root.join("own");
    let wheels = root.join("venv/lib/python3.12/site-packages/nvidia");
    let (cu12, cu13) = (wheels.join("cuda_nvrtc/lib"), wheels.join("cu13/lib"));
    let toolkits = [root.join("usr/local/cuda-12.8/lib64"), root.join("usr/local/cuda-13.0/lib64")];
    touch(&own.join("libnvrtc.so.12"), b"");
    touch(&toolkits[0].join("libnvrtc.so.12"), b"");
    touch(&toolkits[1].join("libnvrtc.so.13"), b"");
    touch(&cu12.join("libnvrtc.so.12"), b"");
    touch(&cu13.join("libnvrtc.so.13"), b"");
    let variables: HashMap<&str, PathBuf> =
        [("VERVE_CUDA_PATH", own.clone()), ("VIRTUAL_ENV", root.join("venv"))].into_iter().collect();
    let variable = |name: &str| -> Option<OsString> { variables.get(name).map(|path| path.clone().into_os_string()) };
    let search = Search::of(&variable, root);
    let expected = [
        // The newer major version first, wherever it lies; then by folder.
        toolkits[1].join("libnvrtc.so.13"),
        cu13.join("libnvrtc.so.13"),
        own.join("libnvrtc.so.12"),
        toolkits[0].join("libnvrtc.so.12"),
        cu12.join("libnvrtc.so.12"),
        // Last what the system's loader may find.
        PathBuf::from("libnvrtc.so.13"),
        PathBuf::from("libnvrtc.so.12"),
        PathBuf::from("libnvrtc.so"),
    ];
    assert_eq!(search.candidates(Library::Nvrtc), expected);
    assert_eq!(search.candidates(Library::Nccl), ["libnccl.so.2", "libnccl.so"].map(PathBuf::from));
    // A driver for CUDA 12 does not load what a newer compiler makes.
    let older: Vec<PathBuf> =
        expected.iter().filter(|path| !path.to_string_lossy().ends_with(".13")).cloned().collect();
    assert_eq!(search.up_to(12).candidates(Library::Nvrtc), older);
    assert_eq!(search.up_to(13).candidates(Library::Nvrtc), expected);
    assert_eq!(search.up_to(1).candidates(Library::Nccl), search.candidates(Library::Nccl));
}

#[test]
fn a_card_gets_machine_code_that_the_compiler_can_make() {
    let known = [(7, 5), (8, 0), (9, 0), (10, 0), (12, 0)];
    assert_eq!(Target::for_card((9, 0), &known), Target::Card(9, 0));
    assert_eq!(Target::for_card((9, 0), &known).arch(), "sm_90");
    assert_eq!(Target::for_card((11, 0), &known), Target::Ptx(10, 0));
    assert_eq!(Target::for_card((13, 2), &known).arch(), "compute_120");
    assert_eq!(Target::for_card((8, 6), &[]), Target::Card(8, 6), "a compiler that cannot be asked is trusted");
}

#[test]
fn the_cache_keeps_what_it_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path().join("a/b"));
    assert_eq!(cache.get("key"), None);
    let compiled = |image: &[u8], log: &str| Compiled { image: image.to_vec(), log: log.to_owned() };
    cache.put("key", &compiled(b"image", "words")).unwrap();
    cache.put("other", &compiled(b"other image", "")).unwrap();
    assert_eq!(cache.get("key"), Some(compiled(b"image", "words")));
    cache.put("key", &compiled(b"newer", "")).unwrap();
    assert_eq!(cache.get("key"), Some(compiled(b"newer", "")));
    assert_eq!(std::fs::read_dir(cache.folder()).unwrap().count(), 2, "no temporary files stay");
    let nowhere = Cache::at("/proc/no/such/folder");
    assert!(nowhere.put("key", &compiled(b"image", "")).is_err() && nowhere.get("key").is_none());
}

proptest! {
    #[test]
    fn damaged_cache_files_are_as_good_as_none(
        image in proptest::collection::vec(any::<u8>(), 1..200), place in any::<prop::sample::Index>(), flip in 1u8.., cut in any::<bool>()
    ) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path());
        cache.put("key", &Compiled { image, log: "words".to_owned() }).unwrap();
        let file = folder.path().join("key.bin");
        let mut bytes = std::fs::read(&file).unwrap();
        let place = place.index(bytes.len());
        if cut { bytes.truncate(place) } else { bytes[place] ^= flip }
        std::fs::write(&file, &bytes).unwrap();
        prop_assert_eq!(cache.get("key"), None);
    }
}

#[test]
fn arguments_lie_at_their_alignment() {
    let args = Args::new().u32(1).address(2).f32(3.0).u32(4).f32(5.0).u64(6);
    let bytes = args.bytes();
    assert_eq!(bytes.len(), 40);
    assert_eq!(bytes[..4], 1u32.to_le_bytes());
    assert_eq!(bytes[8..16], 2u64.to_le_bytes());
    assert_eq!(bytes[16..20], 3f32.to_le_bytes());
    assert_eq!(bytes[24..28], 5f32.to_le_bytes());
    assert_eq!(bytes[32..40], 6u64.to_le_bytes());
    assert!(std::panic::catch_unwind(|| Args::new().u32(1 << 32)).is_err(), "a size beyond u32 is no argument");
}

/// A device with memory but no kernels: launching fails as it is told.
struct Broken {
    info: DeviceInfo,
    limit: usize,
    allocated: AtomicUsize,
    sizes: Mutex<HashMap<DevicePtr, Vec<u8>>>,
    launches: AtomicUsize,
}

impl Broken {
    fn new(limit: usize) -> Arc<Self> {
        let info = DeviceInfo {
            name: "broken card".to_owned(),
            capability: (9, 0),
            multiprocessors: 1,
            memory_bytes: limit as u64,
            shared_bytes_per_block: 48 << 10,
        };
        Arc::new(Broken {
            info,
            limit,
            allocated: AtomicUsize::new(0),
            sizes: Mutex::default(),
            launches: AtomicUsize::new(0),
        })
    }
}

impl Device for Broken {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }
    fn free_memory(&self) -> Result<u64, DeviceError> {
        Ok((self.limit - self.allocated.load(Ordering::SeqCst)) as u64)
    }
    fn alloc(&self, bytes: usize) -> Result<DevicePtr, DeviceError> {
        if self.allocated.load(Ordering::SeqCst) + bytes > self.limit {
            return Err(DeviceError::OutOfMemory { bytes });
        }
        self.allocated.fetch_add(bytes, Ordering::SeqCst);
        let mut sizes = self.sizes.lock().unwrap();
        let address = 256 * (sizes.len() as u64 + 1);
        sizes.insert(address, vec![0xff; bytes]);
        Ok(address)
    }
    fn free(&self, address: DevicePtr) {
        let bytes = std::mem::take(self.sizes.lock().unwrap().get_mut(&address).unwrap());
        self.allocated.fetch_sub(bytes.len(), Ordering::SeqCst);
    }
    fn upload(&self, src: &[u8], dst: DevicePtr) -> Result<(), DeviceError> {
        self.sizes.lock().unwrap().get_mut(&dst).unwrap().copy_from_slice(src);
        Ok(())
    }
    fn download(&self, src: DevicePtr, dst: &mut [u8]) -> Result<(), DeviceError> {
        dst.copy_from_slice(&self.sizes.lock().unwrap()[&src]);
        Ok(())
    }
    fn copy(&self, _src: DevicePtr, _dst: DevicePtr, _bytes: usize) -> Result<(), DeviceError> {
        Ok(())
    }
    fn fill_zero(&self, dst: DevicePtr, _bytes: usize) -> Result<(), DeviceError> {
        self.sizes.lock().unwrap().get_mut(&dst).unwrap().fill(0);
        Ok(())
    }
    fn kernel(&self, _program: &'static Program, _elem: ElemKind, _name: &str) -> Result<KernelHandle, DeviceError> {
        Ok(KernelHandle(0))
    }
    fn launch(&self, _launch: Launch<'_>) -> Result<(), DeviceError> {
        self.launches.fetch_add(1, Ordering::SeqCst);
        Err(DeviceError::Call { call: "cuLaunchKernel", detail: "the card fell off the bus".to_owned() })
    }
    fn synchronize(&self) -> Result<(), DeviceError> {
        Ok(())
    }
}

#[test]
fn memory_that_cannot_be_had_is_an_error_and_freed_memory_comes_back() {
    let device = Broken::new(1000);
    let backend = CudaBackend::<f32>::new(device.clone(), Products::Own);
    let held = backend.alloc::<f32>(200).unwrap();
    match backend.alloc::<f32>(100) {
        Err(BackendError::OutOfMemory { bytes: 400, device }) => assert_eq!(device, "broken card"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(backend.alloc::<f64>(usize::MAX), Err(BackendError::OutOfMemory { .. })));
    assert_eq!(device.free_memory().unwrap(), 200);
    drop(held);
    assert_eq!(device.free_memory().unwrap(), 1000);
    assert_eq!(backend.alloc::<f32>(250).unwrap().len(), 250);
    backend.synchronize().unwrap();
}

#[test]
fn a_failure_is_remembered_and_comes_out_of_everything_that_can_fail() {
    let device = Broken::new(10_000);
    let backend = CudaBackend::<f32>::new(device.clone(), Products::Own);
    let (src, mut dst) = (backend.alloc::<f32>(3).unwrap(), backend.alloc::<f32>(3).unwrap());
    let mut host = [9.0; 3];
    backend.download(&dst, &mut host).unwrap();
    assert_eq!(host, [0.0; 3]);
    backend.round(&src, &mut dst);
    backend.round(&src, &mut dst);
    assert_eq!(device.launches.load(Ordering::SeqCst), 1, "after a failure nothing is launched");
    for error in [
        backend.download(&dst, &mut host).unwrap_err(),
        backend.synchronize().unwrap_err(),
        backend.sum_squares([src].iter(), &mut [0.0]).unwrap_err(),
        backend.synchronize().unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(text.contains("broken card") && text.contains("fell off the bus"), "{text}");
    }
}

#[test]
fn nothing_is_launched_for_nothing() {
    let device = Broken::new(10_000);
    let backend = CudaBackend::<f32>::new(device.clone(), Products::Own);
    let (src, mut dst) = (backend.alloc::<f32>(0).unwrap(), backend.alloc::<f32>(0).unwrap());
    backend.round(&src, &mut dst);
    backend.copy(&src, &mut backend.alloc::<f32>(0).unwrap());
    backend.download(&dst, &mut []).unwrap();
    assert_eq!(device.launches.load(Ordering::SeqCst), 0);
    backend.synchronize().unwrap();
}
