//! Where the libraries of CUDA are: an explicit search, in an order that can be told.
//!
//! For each library: the folders of `VERVE_CUDA_PATH`, the toolkit of `CUDA_HOME` and `CUDA_PATH`, `/usr/local/cuda*`, the
//! wheel folders of the active Python (`VIRTUAL_ENV`, `CONDA_PREFIX`, or the one that stands first in `PATH`), and last the
//! system's loader by name. Nothing is run to find them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::DeviceError;
use crate::driver;

/// The environment variable with folders of libraries, which come before all others.
pub const PATH_VARIABLE: &str = "VERVE_CUDA_PATH";

/// A library that is looked for at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Library {
    /// The driver: comes with the card's driver package.
    Driver,
    /// The compiler of the kernels.
    Nvrtc,
    /// Matrix products for training. Without it the kernels of this crate compute them.
    CublasLt,
    /// Exchange between several cards.
    Nccl,
}

impl Library {
    /// All of them.
    pub const ALL: [Library; 4] = [Library::Driver, Library::Nvrtc, Library::CublasLt, Library::Nccl];

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Library::Driver => "NVIDIA driver",
            Library::Nvrtc => "NVRTC",
            Library::CublasLt => "cuBLASLt",
            Library::Nccl => "NCCL",
        }
    }

    /// File names, the newest major version that is known first.
    pub fn file_names(self) -> &'static [&'static str] {
        match self {
            Library::Driver => &["libcuda.so.1", "libcuda.so"],
            Library::Nvrtc => &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
            Library::CublasLt => &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
            Library::Nccl => &["libnccl.so.2", "libnccl.so"],
        }
    }

    /// What puts it there.
    pub fn fix(self) -> &'static str {
        match self {
            Library::Driver => "install the NVIDIA driver (version 580 or newer for CUDA 13), or use --device cpu",
            Library::Nvrtc => {
                "`pip install nvidia-cuda-nvrtc` in the active Python environment, or install the CUDA toolkit, or name its \
                 folder in VERVE_CUDA_PATH"
            }
            Library::CublasLt => {
                "`pip install nvidia-cublas` in the active Python environment, or install the CUDA toolkit, or name its \
                 folder in VERVE_CUDA_PATH"
            }
            Library::Nccl => "`pip install nvidia-nccl-cu13`, or name its folder in VERVE_CUDA_PATH",
        }
    }
}

/// The folders to look into, in order.
#[derive(Debug, Clone, Default)]
pub struct Search {
    folders: Vec<PathBuf>,
    system: SystemLoader,
    newest: Option<u32>,
}

/// Whether the system's loader is asked last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SystemLoader {
    /// Yes.
    #[default]
    Asked,
    /// No: only the folders count.
    Ignored,
}

impl Search {
    /// These folders alone.
    pub fn folders(folders: Vec<PathBuf>, system: SystemLoader) -> Self {
        Search { folders, system, newest: None }
    }

    /// The folders of this machine.
    pub fn from_env() -> Self {
        Self::of(&|name| std::env::var_os(name), Path::new("/"))
    }

    /// The folders that variables and a file system imply; `root` stands for `/`.
    pub fn of(variable: &dyn Fn(&str) -> Option<OsString>, root: &Path) -> Self {
        let paths = |name: &str| -> Vec<PathBuf> {
            variable(name).map(|value| std::env::split_paths(&value).collect()).unwrap_or_default()
        };
        let mut folders = paths(PATH_VARIABLE);
        let mut toolkits = paths("CUDA_HOME");
        toolkits.extend(paths("CUDA_PATH"));
        let local = root.join("usr/local");
        toolkits.push(local.join("cuda"));
        toolkits.extend(matching(&local, "cuda-").into_iter().rev());
        for toolkit in toolkits {
            folders.extend(["lib64", "targets/x86_64-linux/lib", "lib"].map(|folder| toolkit.join(folder)));
        }
        let mut pythons = paths("VIRTUAL_ENV");
        pythons.extend(paths("CONDA_PREFIX"));
        // `<prefix>/bin/python3` in the first folder of PATH that has one.
        let of_path = paths("PATH").into_iter().find(|folder| folder.join("python3").exists());
        pythons.extend(of_path.and_then(|bin| bin.parent().map(Path::to_path_buf)));
        pythons.extend(variable("HOME").map(|home| Path::new(&home).join(".local")));
        for prefix in pythons {
            folders.extend(wheel_folders(&prefix));
        }
        // Where the driver's library lies on systems whose loader does not know it.
        folders.extend(["usr/lib/wsl/lib", "usr/lib/x86_64-linux-gnu", "usr/lib64"].map(|folder| root.join(folder)));
        folders.retain(|folder| folder.is_dir());
        let mut seen = std::collections::HashSet::new();
        folders.retain(|folder| seen.insert(folder.clone()));
        Search { folders, system: SystemLoader::Asked, newest: None }
    }

    /// The same search without libraries of a newer major version of CUDA than a driver serves: it would not load what they
    /// compile.
    pub fn up_to(&self, major: u32) -> Self {
        Search { newest: Some(major), ..self.clone() }
    }

    /// Files that could be the library: by name first, so that a newer major version in a later folder comes before an older
    /// one in an earlier; what the system's loader is to find is a bare name at the end.
    pub fn candidates(&self, library: Library) -> Vec<PathBuf> {
        let served = |name: &&&str| {
            let major = name.rsplit_once(".so.").and_then(|(_, major)| major.parse::<u32>().ok());
            let counts = matches!(library, Library::Nvrtc | Library::CublasLt);
            !counts || self.newest.is_none_or(|newest| major.is_none_or(|major| major <= newest))
        };
        let names: Vec<&str> = library.file_names().iter().filter(served).copied().collect();
        let files = names.iter().flat_map(|name| self.folders.iter().map(move |folder| folder.join(name)));
        let mut candidates: Vec<PathBuf> = files.filter(|file| file.exists()).collect();
        if self.system == SystemLoader::Asked {
            candidates.extend(names.iter().map(PathBuf::from));
        }
        candidates
    }

    /// The folders that are looked into.
    pub fn looked_into(&self) -> &[PathBuf] {
        &self.folders
    }

    /// The error of a library that could not be opened, with what each candidate's trouble was.
    pub(crate) fn missing(&self, library: Library, troubles: &[String]) -> DeviceError {
        let detail = if troubles.is_empty() {
            let asked = if self.system == SystemLoader::Asked { " and through the system's loader" } else { "" };
            format!("{} not found in {} folders{asked}", library.file_names()[0], self.folders.len())
        } else {
            troubles.join("; ")
        };
        DeviceError::Library { library: library.name(), detail, fix: library.fix().to_owned() }
    }
}

/// Names in a folder that begin so, sorted.
fn matching(folder: &Path, beginning: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(beginning))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// `<prefix>/lib/python3*/site-packages/nvidia/*/lib`: where NVIDIA's wheels put their libraries.
fn wheel_folders(prefix: &Path) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for lib in ["lib", "lib64"] {
        for python in matching(&prefix.join(lib), "python3") {
            for packages in ["site-packages", "dist-packages"] {
                let mut wheels = matching(&python.join(packages).join("nvidia"), "");
                // `cu13` before `cu12`.
                wheels.sort_by(|a, b| b.cmp(a));
                folders.extend(wheels.into_iter().map(|wheel| wheel.join("lib")));
            }
        }
    }
    folders
}

/// A library that could be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where, or the bare name if the system's loader found it.
    pub path: PathBuf,
    /// What it says it is, for example `13.0`.
    pub version: String,
}

/// Opens each library and asks it for its version; for `verve doctor`.
pub fn survey(search: &Search) -> Vec<(Library, Result<Found, DeviceError>)> {
    Library::ALL.into_iter().map(|library| (library, driver::inspect(search, library))).collect()
}
