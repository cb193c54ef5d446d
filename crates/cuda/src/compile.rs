//! From a kernel's source to what a card runs: NVRTC, and a cache of its results on disk.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::device::ElemKind;
use crate::driver::Nvrtc;
use crate::error::DeviceError;
use crate::kernels::{HEADERS, Program};
use crate::libraries::Search;

/// The environment variable that names the cache's folder.
pub const CACHE_VARIABLE: &str = "VERVE_CUDA_CACHE";

/// What a program is compiled to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Machine code of one architecture, for example `sm_90`.
    Cubin(&'static str),
    /// Machine code for a card of this capability.
    Card(u32, u32),
    /// Text of the virtual instruction set of a capability, which the driver compiles itself.
    Ptx(u32, u32),
}

impl Target {
    /// What a card of this capability is given: machine code where the compiler knows the card, else the text for the newest
    /// architecture that it knows.
    pub fn for_card(capability: (u32, u32), known: &[(u32, u32)]) -> Self {
        let older = known.iter().copied().filter(|arch| *arch < capability).max();
        match older {
            Some((major, minor)) if !known.contains(&capability) => Target::Ptx(major, minor),
            _ => Target::Card(capability.0, capability.1),
        }
    }

    /// The compiler's name for it.
    pub fn arch(self) -> String {
        match self {
            Target::Cubin(arch) => arch.to_owned(),
            Target::Card(major, minor) => format!("sm_{major}{minor}"),
            Target::Ptx(major, minor) => format!("compute_{major}{minor}"),
        }
    }
}

/// A compiled program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// Machine code, or text that ends with a zero byte.
    pub image: Vec<u8>,
    /// What the compiler said, registers and spills among it.
    pub log: String,
}

/// Where a compiled program came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The compiler has run.
    Compiler,
    /// It had been compiled before.
    Cache,
}

/// The compiler of the kernels.
pub struct Compiler {
    nvrtc: Nvrtc,
    cache: Option<Cache>,
}

impl Compiler {
    /// Opens NVRTC.
    ///
    /// # Errors
    /// [`DeviceError::Library`].
    pub fn open(search: &Search, cache: Option<Cache>) -> Result<Self, DeviceError> {
        Ok(Compiler { nvrtc: Nvrtc::open(search)?, cache })
    }

    /// Version, for example `13.0`.
    pub fn version(&self) -> String {
        self.nvrtc.version()
    }

    /// Capabilities that it can compile for.
    pub fn known_archs(&self) -> &[(u32, u32)] {
        self.nvrtc.known_archs()
    }

    /// Compiles a program, or takes it from the cache.
    ///
    /// # Errors
    /// [`DeviceError::Compile`] with the compiler's words.
    pub fn compile(
        &self,
        program: &Program,
        elem: ElemKind,
        target: Target,
    ) -> Result<(Compiled, Origin), DeviceError> {
        let options = options(elem, target);
        let key = self.key(program, &options);
        if let Some(compiled) = self.cache.as_ref().and_then(|cache| cache.get(&key)) {
            return Ok((compiled, Origin::Cache));
        }
        let compiled = self.nvrtc.compile(program, &options, target)?;
        if let Some(cache) = &self.cache {
            // A cache that cannot be written costs time at the next start and nothing else.
            let _ = cache.put(&key, &compiled);
        }
        Ok((compiled, Origin::Compiler))
    }

    /// What the result depends on: the sources, the options (with the architecture), the compiler.
    fn key(&self, program: &Program, options: &[String]) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut add = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        add(&self.version());
        add(program.source);
        for (name, text) in HEADERS {
            add(name);
            add(text);
        }
        options.iter().for_each(|option| add(option));
        hasher.finalize().to_hex().to_string()
    }
}

fn options(elem: ElemKind, target: Target) -> Vec<String> {
    let mut options = vec![
        format!("--gpu-architecture={}", target.arch()),
        format!("-D{}", elem.define()),
        "--std=c++17".to_owned(),
        // A product and a sum may be one operation; fast but inexact functions are not asked for.
        "--fmad=true".to_owned(),
    ];
    if !matches!(target, Target::Ptx(..)) {
        options.push("--ptxas-options=-v".to_owned());
    }
    options
}

/// Compiled programs on disk, one file each: 32 bytes of BLAKE3 of the rest, the length of the image as 8 bytes, the image,
/// the compiler's words.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// A cache in this folder, which is made when the first file is written.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Cache { folder: folder.into() }
    }

    /// `VERVE_CUDA_CACHE`, or `verve/cuda` in the user's cache folder; `None` if there is no such folder.
    pub fn from_env() -> Option<Self> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let own = variable(CACHE_VARIABLE);
        let user = || variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
        own.or_else(|| user().map(|cache| cache.join("verve/cuda"))).map(Self::at)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn file(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.bin"))
    }

    /// What is kept under a key; a file that is damaged in any way is as good as none.
    pub fn get(&self, key: &str) -> Option<Compiled> {
        let bytes = std::fs::read(self.file(key)).ok()?;
        let (sum, rest) = bytes.split_at_checked(blake3::OUT_LEN)?;
        if blake3::hash(rest).as_bytes() != sum {
            return None;
        }
        let (len, rest) = rest.split_first_chunk::<8>()?;
        let (image, log) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*len)).ok()?)?;
        Some(Compiled { image: image.to_vec(), log: String::from_utf8(log.to_vec()).ok()? })
    }

    /// Keeps a program under a key. Two processes may do so at once: each writes a file of its own and renames it.
    ///
    /// # Errors
    /// What the file system says.
    pub fn put(&self, key: &str, compiled: &Compiled) -> std::io::Result<()> {
        let len = (compiled.image.len() as u64).to_le_bytes();
        let rest = [&len, compiled.image.as_slice(), compiled.log.as_bytes()].concat();
        std::fs::create_dir_all(&self.folder)?;
        let temporary = self.folder.join(format!(".{key}.{}", std::process::id()));
        let write = || -> std::io::Result<()> {
            let mut file = std::fs::File::create(&temporary)?;
            file.write_all(blake3::hash(&rest).as_bytes())?;
            file.write_all(&rest)?;
            file.sync_all()?;
            std::fs::rename(&temporary, self.file(key))
        };
        write().inspect_err(|_| drop(std::fs::remove_file(&temporary)))
    }
}
