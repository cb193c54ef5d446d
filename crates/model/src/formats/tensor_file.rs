//! safetensors files: read through a memory mapping, written one tensor at a time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use verve_gguf::{GgufError, Mapping};
use verve_ops::Real;

use super::header::Header;
use crate::error::ModelError;

/// Longest header that is read: the limit of the reference implementation.
const MAX_HEADER: u64 = 100_000_000;

/// A mapped safetensors file whose header has been checked: every tensor lies inside the file.
///
/// The file must not be truncated by another process while it is open: the operating system ends a process that reads
/// mapped pages which are gone.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    mapping: Mapping,
    /// Where the data begins.
    data: usize,
    header: Header,
}

impl TensorFile {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// A file that cannot be opened, is truncated, or has a header that does not describe exactly its bytes.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let mapping = Mapping::open(path).map_err(of_mapping)?;
        let malformed = |problem: String| ModelError::Malformed { path: path.to_owned(), problem };
        let Some((length, rest)) = mapping.split_first_chunk::<8>() else {
            return Err(malformed(format!("{} bytes are too few for a safetensors file", mapping.len())));
        };
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER || length > rest.len() as u64 {
            let problem = format!(
                "not a safetensors file, or truncated: its header should have {length} bytes, {} follow",
                rest.len()
            );
            return Err(malformed(problem));
        }
        let (json, data) = rest.split_at(length as usize);
        let header = Header::parse(json, data.len()).map_err(malformed)?;
        let data = 8 + length as usize;
        Ok(Self { path: path.to_owned(), data, header, mapping })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, in the order of their data.
    pub fn names(&self) -> Vec<String> {
        self.header.names().into_iter().cloned().collect()
    }

    /// The free text entries of the header.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// Extents of a tensor; `None` if there is none of this name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header.tensors.get(name).map(|info| info.shape.as_slice())
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, ModelError> {
        self.header
            .tensors
            .get(name)
            .ok_or_else(|| ModelError::MissingTensor { path: self.path.clone(), name: name.to_owned() })
    }

    /// Checks that a tensor is there, has this shape and holds `F32`, `BF16` or `F16`.
    ///
    /// # Errors
    /// What is not so.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<(), ModelError> {
        let info = self.info(name)?;
        if info.shape != shape {
            return Err(ModelError::TensorShape {
                path: self.path.clone(),
                name: name.to_owned(),
                found: info.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        self.file_type(name, info)?;
        Ok(())
    }

    fn file_type(&self, name: &str, info: &TensorInfo) -> Result<FileType, ModelError> {
        match info.dtype {
            Dtype::F32 => Ok(FileType::F32),
            Dtype::BF16 => Ok(FileType::Bf16),
            Dtype::F16 => Ok(FileType::F16),
            other => Err(ModelError::TensorType {
                path: self.path.clone(),
                name: name.to_owned(),
                found: format!("{other:?}"),
            }),
        }
    }

    /// A tensor's elements as they lie in the file, little-endian.
    ///
    /// # Errors
    /// A name that is not there.
    pub fn bytes(&self, name: &str) -> Result<&[u8], ModelError> {
        let (from, to) = self.info(name)?.data_offsets;
        Ok(&self.mapping[self.data + from..self.data + to])
    }

    /// A tensor of numbers, to be converted element by element.
    ///
    /// # Errors
    /// A name that is not there, or an element type that is no number.
    pub fn numbers(&self, name: &str) -> Result<Numbers<'_>, ModelError> {
        let dtype = self.file_type(name, self.info(name)?)?;
        Ok(Numbers { bytes: self.bytes(name)?, dtype })
    }

    /// Element type of a tensor.
    ///
    /// # Errors
    /// As [`TensorFile::numbers`].
    pub fn dtype(&self, name: &str) -> Result<FileType, ModelError> {
        self.file_type(name, self.info(name)?)
    }
}

/// A safetensors file that cannot be mapped is no matter of GGUF.
fn of_mapping(error: GgufError) -> ModelError {
    match error {
        GgufError::Io { action, path, source } => ModelError::Io { action, path, source },
        GgufError::Malformed { path, problem } => ModelError::Malformed { path, problem },
        other => other.into(),
    }
}

/// Element types of weights in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileType {
    /// Four bytes, exact for trained weights.
    F32,
    /// Two bytes, the range of `f32`.
    Bf16,
    /// Two bytes, IEEE half precision. Weights may be out of its range, which ends at 65504.
    F16,
}

impl FileType {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// Name in a safetensors header.
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::Bf16 => "BF16",
            Self::F16 => "F16",
        }
    }

    /// Name in a `config.json`.
    pub(super) fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }
}

/// The elements of one tensor in a file.
#[derive(Debug, Clone, Copy)]
pub struct Numbers<'a> {
    bytes: &'a [u8],
    dtype: FileType,
}

impl Numbers<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Calls `put` with the elements `from..from + len` in order.
    ///
    /// # Panics
    /// When there are not as many.
    pub fn each(&self, from: usize, len: usize, mut put: impl FnMut(usize, f32)) {
        let size = self.dtype.size();
        let bytes = &self.bytes[from * size..(from + len) * size];
        match self.dtype {
            FileType::F32 => {
                for (i, b) in bytes.as_chunks().0.iter().enumerate() {
                    put(i, f32::from_le_bytes(*b));
                }
            }
            FileType::Bf16 => {
                for (i, b) in bytes.as_chunks().0.iter().enumerate() {
                    put(i, bf16::from_le_bytes(*b).to_f32());
                }
            }
            FileType::F16 => {
                for (i, b) in bytes.as_chunks().0.iter().enumerate() {
                    put(i, f16::from_le_bytes(*b).to_f32());
                }
            }
        }
    }
}

/// What is to be written as one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorSpec {
    /// Name in the file.
    pub name: String,
    /// Extents.
    pub shape: Vec<usize>,
    /// Element type.
    pub dtype: FileType,
}

impl TensorSpec {
    pub(super) fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// Appends numbers to `bytes` in a file's element type, rounded to nearest even.
pub fn encode<T: Real>(values: impl Iterator<Item = T>, dtype: FileType, bytes: &mut Vec<u8>) {
    match dtype {
        FileType::F32 => values.for_each(|v| bytes.extend_from_slice(&v.to_f32().to_le_bytes())),
        FileType::Bf16 => {
            values.for_each(|v| bytes.extend_from_slice(&<bf16 as Real>::from_f64(v.to_f64()).to_le_bytes()))
        }
        FileType::F16 => values.for_each(|v| bytes.extend_from_slice(&f16::from_f32(v.to_f32()).to_le_bytes())),
    }
}

/// Writes a safetensors file under a temporary name and renames it when it is on the disk. `fill` appends the bytes of
/// the tensor at an index of `tensors`; tensors are asked for in order and held one at a time.
///
/// # Errors
/// Whatever the operating system says, or the first error of `fill`; the temporary file is removed then.
///
/// # Panics
/// When `fill` appends another number of bytes than the tensor has.
pub fn write(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    tensors: &[TensorSpec],
    mut fill: impl FnMut(usize, &mut Vec<u8>) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), serde_json::json!(metadata));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.bytes();
        let entry = serde_json::json!({
            "dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [offset, end],
        });
        header.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    // Data begins at a multiple of 8, so that a mapped file is aligned.
    header.resize(header.len().next_multiple_of(8), b' ');
    write_atomically(path, |out| {
        let io = |source| ModelError::Io { action: "write", path: path.to_owned(), source };
        out.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
        out.write_all(&header).map_err(io)?;
        let mut bytes = Vec::new();
        for (index, tensor) in tensors.iter().enumerate() {
            bytes.clear();
            fill(index, &mut bytes)?;
            assert!(bytes.len() == tensor.bytes(), "{}: {} bytes for {:?}", tensor.name, bytes.len(), tensor.shape);
            out.write_all(&bytes).map_err(io)?;
        }
        Ok(())
    })
}

/// Writes a file under a temporary name in its folder, syncs it, renames it.
pub(super) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let io = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| ModelError::Io { action, path, source }
    };
    let attempt = || {
        let file = File::create(&temporary).map_err(io("create", &temporary))?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        write(&mut out)?;
        let file = out.into_inner().map_err(|e| io("write", path)(e.into_error()))?;
        file.sync_all().map_err(io("write", path))?;
        std::fs::rename(&temporary, path).map_err(io("rename to", path))?;
        sync_folder(path).map_err(io("sync the folder of", path))
    };
    attempt().inspect_err(|_| {
        // Best effort: the first error is the one to report.
        let _ = std::fs::remove_file(&temporary);
    })
}

/// Makes a rename durable.
#[cfg(unix)]
fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Elsewhere a folder cannot be opened as a file, and renames are durable on their own.
#[cfg(not(unix))]
fn sync_folder(_: &Path) -> std::io::Result<()> {
    Ok(())
}
