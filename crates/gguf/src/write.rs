//! Writing.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::error::GgufError;
use crate::tensor::TensorType;
use crate::value::{Array, Value};
use crate::{ALIGNMENT, ALIGNMENT_KEY, MAGIC, MAX_EXTENTS, VERSION};

/// What is to be written as one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name.
    pub name: String,
    /// Extents, slowest first; one to four.
    pub shape: Vec<usize>,
    /// Type; one whose size is known.
    pub kind: TensorType,
}

impl TensorSpec {
    /// Bytes of the tensor.
    ///
    /// # Panics
    /// For a type whose size is not known, or rows that are no whole number of its blocks.
    pub fn n_bytes(&self) -> usize {
        let (Some(block), Some(bytes)) = (self.kind.block_len(), self.kind.block_bytes()) else {
            panic!("{}: type {} cannot be written", self.name, self.kind);
        };
        let row = self.shape[self.shape.len() - 1];
        assert!(row.is_multiple_of(block), "{}: rows of {row} values in blocks of {block}", self.name);
        self.shape.iter().product::<usize>() / block * bytes
    }
}

/// Writes a file of version 3 under a temporary name and renames it when it is on the disk. `fill` appends the bytes of the
/// tensor at an index of `tensors`; tensors are asked for in order and held one at a time.
///
/// # Errors
/// Whatever the operating system says, or the first error of `fill`; the temporary file is removed then.
///
/// # Panics
/// When `fill` appends another number of bytes than the tensor has, for shapes without extents, and for metadata that gives
/// an alignment: it is always 32.
pub fn write<E: From<GgufError>>(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[TensorSpec],
    mut fill: impl FnMut(usize, &mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let mut header = Vec::new();
    header.extend_from_slice(&MAGIC);
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    header.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        assert!(key != ALIGNMENT_KEY, "the alignment is always {ALIGNMENT}");
        put_text(key, &mut header);
        put_value(value, &mut header);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        assert!((1..=MAX_EXTENTS).contains(&tensor.shape.len()), "{}: shape {:?}", tensor.name, tensor.shape);
        put_text(&tensor.name, &mut header);
        header.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
        for extent in tensor.shape.iter().rev() {
            header.extend_from_slice(&(*extent as u64).to_le_bytes());
        }
        header.extend_from_slice(&tensor.kind.id().to_le_bytes());
        header.extend_from_slice(&offset.to_le_bytes());
        offset += (tensor.n_bytes() as u64).next_multiple_of(ALIGNMENT);
    }
    pad(&mut header);
    atomically(path, |out| {
        let io = |source| E::from(GgufError::Io { action: "write", path: path.to_owned(), source });
        out.write_all(&header).map_err(io)?;
        let mut bytes = Vec::new();
        for (index, tensor) in tensors.iter().enumerate() {
            bytes.clear();
            fill(index, &mut bytes)?;
            assert!(bytes.len() == tensor.n_bytes(), "{}: {} bytes for {:?}", tensor.name, bytes.len(), tensor.shape);
            pad(&mut bytes);
            out.write_all(&bytes).map_err(io)?;
        }
        Ok(())
    })
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_value(value: &Value, out: &mut Vec<u8>) {
    let mut put = |kind: u32, bytes: &[u8]| {
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(bytes);
    };
    match value {
        Value::U8(x) => put(0, &x.to_le_bytes()),
        Value::I8(x) => put(1, &x.to_le_bytes()),
        Value::U16(x) => put(2, &x.to_le_bytes()),
        Value::I16(x) => put(3, &x.to_le_bytes()),
        Value::U32(x) => put(4, &x.to_le_bytes()),
        Value::I32(x) => put(5, &x.to_le_bytes()),
        Value::F32(x) => put(6, &x.to_le_bytes()),
        Value::Bool(x) => put(7, &[u8::from(*x)]),
        Value::String(x) => {
            put(8, &[]);
            put_text(x, out);
        }
        Value::Array(x) => {
            put(9, &[]);
            put_array(x, out);
        }
        Value::U64(x) => put(10, &x.to_le_bytes()),
        Value::I64(x) => put(11, &x.to_le_bytes()),
        Value::F64(x) => put(12, &x.to_le_bytes()),
    }
}

fn put_array(array: &Array, out: &mut Vec<u8>) {
    let kind: u32 = match array {
        Array::U8(_) => 0,
        Array::I8(_) => 1,
        Array::U16(_) => 2,
        Array::I16(_) => 3,
        Array::U32(_) => 4,
        Array::I32(_) => 5,
        Array::F32(_) => 6,
        Array::Bool(_) => 7,
        Array::String(_) => 8,
        Array::U64(_) => 10,
        Array::I64(_) => 11,
        Array::F64(_) => 12,
    };
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&(array.len() as u64).to_le_bytes());
    match array {
        Array::U8(x) => out.extend_from_slice(x),
        Array::I8(x) => x.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::U16(x) => x.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::I16(x) => x.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::U32(x) => x.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::I32(x) => x.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::F32(x) => x.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::U64(x) => x.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::I64(x) => x.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::F64(x) => x.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
        Array::Bool(x) => out.extend(x.iter().map(|&x| u8::from(x))),
        Array::String(x) => x.iter().for_each(|x| put_text(x, out)),
    }
}

/// Writes under a temporary name in the same folder, syncs, renames.
fn atomically<E: From<GgufError>>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<(), E>,
) -> Result<(), E> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let io = |action: &'static str| {
        let path = path.to_owned();
        move |source| E::from(GgufError::Io { action, path, source })
    };
    let attempt = || {
        let file = File::create(&temporary).map_err(io("create"))?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        write(&mut out)?;
        let file = out.into_inner().map_err(|e| io("write")(e.into_error()))?;
        file.sync_all().map_err(io("write"))?;
        std::fs::rename(&temporary, path).map_err(io("rename to"))
    };
    attempt().inspect_err(|_| {
        // Best effort: the first error is the one to report.
        let _ = std::fs::remove_file(&temporary);
    })
}
