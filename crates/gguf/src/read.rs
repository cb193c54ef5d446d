//! Reading.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::GgufError;
use crate::mapping::Mapping;
use crate::tensor::{Tensor, TensorType};
use crate::value::{Array, Value};
use crate::{ALIGNMENT, ALIGNMENT_KEY, MAGIC, MAX_EXTENTS, VERSION};

/// Bounds far above every published file, so that a hostile one cannot ask for absurd tables.
const MAX_TENSORS: u64 = 1 << 18;
const MAX_KEYS: u64 = 1 << 16;
const MAX_NAME: usize = 1 << 10;
const MAX_ARRAY: u64 = 1 << 24;
/// Metadata as a whole, in bytes of the file. The largest published vocabularies take about 20 MB.
const MAX_HEADER: usize = 1 << 28;

/// A mapped file whose header has been checked: every tensor of a known type lies inside the file and over no other.
///
/// The file must not be truncated by another process while it is open: the operating system ends a process that reads
/// mapped pages which are gone.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    mapping: Mapping,
    metadata: Vec<(String, Value)>,
    keys: HashMap<String, usize>,
    tensors: Vec<Tensor>,
    names: HashMap<String, usize>,
}

impl GgufFile {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// A file that cannot be opened, is of another kind or version, is truncated, or contradicts itself.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let mapping = Mapping::open(path)?;
        let parsed = parse(&mapping).map_err(|problem| GgufError::Malformed { path: path.to_owned(), problem })?;
        let Header { metadata, keys, tensors, names } = parsed;
        Ok(Self { path: path.to_owned(), mapping, metadata, keys, tensors, names })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All metadata in the order of the file.
    pub fn metadata(&self) -> &[(String, Value)] {
        &self.metadata
    }

    /// All tensors in the order of the file.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// A tensor; `None` if there is none of this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.names.get(name).map(|&at| &self.tensors[at])
    }

    /// The bytes of a tensor.
    ///
    /// # Errors
    /// A name that is not there, a type that is not supported.
    pub fn bytes(&self, name: &str) -> Result<&[u8], GgufError> {
        let Some(tensor) = self.tensor(name) else {
            return Err(GgufError::MissingTensor { path: self.path.clone(), name: name.to_owned() });
        };
        if matches!(tensor.kind, TensorType::Other(_)) {
            let (path, name, found) = (self.path.clone(), name.to_owned(), tensor.kind.to_string());
            return Err(GgufError::TensorType { path, name, found });
        }
        Ok(&self.mapping[tensor.bytes.clone()])
    }

    /// A value; `None` if the key is not there.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).map(|&at| &self.metadata[at].1)
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| GgufError::ValueType {
            path: self.path.clone(),
            key: key.to_owned(),
            found: match value {
                Value::String(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
                Value::Array(array) => format!("an array of {} values", array.len()),
                other => format!("{other:?}"),
            },
            expected,
        })
    }

    /// A whole number that is not negative.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn count(&self, key: &str) -> Result<Option<usize>, GgufError> {
        self.typed(key, "a whole number", |value| value.as_u64().and_then(|x| x.try_into().ok()))
    }

    /// A number.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.typed(key, "a number", Value::as_f64)
    }

    /// True or false.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// Text.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "text", Value::as_str)
    }

    /// A list of texts.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>, GgufError> {
        self.typed(key, "a list of texts", Value::as_strings)
    }

    /// A list of floats.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn floats(&self, key: &str) -> Result<Option<&[f32]>, GgufError> {
        self.typed(key, "a list of floats", Value::as_f32s)
    }

    /// A list of whole numbers of 32 bits.
    ///
    /// # Errors
    /// A value of another kind.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i32>>, GgufError> {
        self.typed(key, "a list of whole numbers", Value::as_i32s)
    }

    /// What a `Result<Option<_>>` of the readers above holds, where the key must be there.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`].
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, GgufError> {
        value.ok_or_else(|| GgufError::MissingKey { path: self.path.clone(), key: key.to_owned() })
    }
}

struct Header {
    metadata: Vec<(String, Value)>,
    keys: HashMap<String, usize>,
    tensors: Vec<Tensor>,
    names: HashMap<String, usize>,
}

fn parse(file: &[u8]) -> Result<Header, String> {
    let mut at = Cursor { file, at: 0 };
    let magic = at.bytes(4).map_err(|_| format!("{} bytes are too few for a GGUF file", file.len()))?;
    if magic != MAGIC {
        return Err(format!("is no GGUF file: it begins with {magic:02x?}, not with \"GGUF\""));
    }
    let version = at.u32("version")?;
    if version != 2 && version != VERSION {
        return Err(match version.swap_bytes() {
            2 | 3 => "is a big-endian GGUF file; only little-endian ones can be read".to_owned(),
            _ => format!("has GGUF version {version}; versions 2 and 3 can be read"),
        });
    }
    let n_tensors = at.count("number of tensors", MAX_TENSORS)?;
    let n_keys = at.count("number of metadata keys", MAX_KEYS)?;
    let mut metadata: Vec<(String, Value)> = Vec::new();
    let mut keys = HashMap::new();
    for index in 0..n_keys {
        let key = at.text("metadata key")?;
        if key.len() > MAX_NAME {
            return Err(format!("metadata key {index} has {} bytes, at most {MAX_NAME} are read", key.len()));
        }
        let kind = at.u32(&key)?;
        let value = at.value(kind, &key)?;
        if keys.insert(key.clone(), metadata.len()).is_some() {
            return Err(format!("has the metadata key `{key}` twice"));
        }
        metadata.push((key, value));
    }
    let alignment = match keys.get(ALIGNMENT_KEY).map(|&i| &metadata[i].1) {
        None => ALIGNMENT,
        Some(value) => value
            .as_u64()
            .filter(|a| a.is_power_of_two() && (8..=1 << 20).contains(a))
            .ok_or_else(|| format!("`{ALIGNMENT_KEY}` is {value:?}, not a power of two from 8 to {}", 1 << 20))?,
    };
    let mut infos = Vec::new();
    let mut names = HashMap::new();
    for index in 0..n_tensors {
        let name = at.text("tensor name")?;
        if name.len() > MAX_NAME {
            return Err(format!("the name of tensor {index} has {} bytes, at most {MAX_NAME} are read", name.len()));
        }
        let n_extents = at.u32(&name)? as usize;
        if n_extents == 0 || n_extents > MAX_EXTENTS {
            return Err(format!("tensor {name:?} has {n_extents} extents, there must be 1 to {MAX_EXTENTS}"));
        }
        let mut shape = Vec::with_capacity(n_extents);
        for _ in 0..n_extents {
            let extent = at.u64(&name)?;
            let limit = isize::MAX as u64;
            shape.push(usize::try_from(extent).ok().filter(|&e| e > 0 && extent <= limit).ok_or_else(|| {
                format!("tensor {name:?} has an extent of {extent}, it must be at least 1 and fit this machine")
            })?);
        }
        shape.reverse();
        let kind = TensorType::from_id(at.u32(&name)?);
        let offset = at.u64(&name)?;
        if !offset.is_multiple_of(alignment) {
            return Err(format!("tensor {name:?} begins at {offset}, which is not a multiple of {alignment}"));
        }
        if names.insert(name.clone(), infos.len()).is_some() {
            return Err(format!("has the tensor {name:?} twice"));
        }
        infos.push(Info { name, shape, kind, offset });
    }
    let data = (at.at as u64).next_multiple_of(alignment);
    let tensors = place(infos, data, file.len() as u64)?;
    Ok(Header { metadata, keys, tensors, names })
}

struct Info {
    name: String,
    shape: Vec<usize>,
    kind: TensorType,
    /// From the beginning of the data.
    offset: u64,
}

/// Finds the bytes of each tensor and checks that they are in the file and nobody else's.
fn place(infos: Vec<Info>, data: u64, file_len: u64) -> Result<Vec<Tensor>, String> {
    let mut tensors = Vec::with_capacity(infos.len());
    for Info { name, shape, kind, offset } in infos {
        let too_many = || format!("tensor {name:?} has more values than can be counted: {shape:?}");
        let len = shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent)).ok_or_else(too_many)?;
        let begin = data.checked_add(offset).filter(|&begin| begin <= file_len);
        let begin = begin.ok_or_else(|| {
            format!("tensor {name:?} begins at {offset} of the data, behind the end of the file: it is truncated")
        })?;
        let n_bytes = match (kind.block_len(), kind.block_bytes()) {
            (Some(block), Some(bytes)) => {
                let row = shape[shape.len() - 1];
                if !row.is_multiple_of(block) {
                    return Err(format!(
                        "tensor {name:?} has rows of {row} values, {kind} needs a multiple of {block}"
                    ));
                }
                (len / block).checked_mul(bytes).ok_or_else(too_many)? as u64
            }
            _ => 0,
        };
        let end = begin.checked_add(n_bytes).filter(|&end| end <= file_len).ok_or_else(|| {
            format!("tensor {name:?} needs {n_bytes} bytes from {begin} on, the file has {file_len}: it is truncated")
        })?;
        tensors.push(Tensor { name, shape, kind, bytes: begin as usize..end as usize });
    }
    let mut order: Vec<&Tensor> = tensors.iter().filter(|tensor| !tensor.bytes.is_empty()).collect();
    order.sort_by_key(|tensor| tensor.bytes.start);
    for pair in order.windows(2) {
        if pair[0].bytes.end > pair[1].bytes.start {
            return Err(format!("tensors {:?} and {:?} lie over one another", pair[0].name, pair[1].name));
        }
    }
    Ok(tensors)
}

struct Cursor<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.file.len().min(MAX_HEADER) - self.at
    }

    fn bytes(&mut self, n: usize) -> Result<&'a [u8], String> {
        if n > self.left() {
            return Err(format!(
                "is truncated, or its header longer than {MAX_HEADER} bytes: {n} bytes are missing from {} on",
                self.at
            ));
        }
        let bytes = &self.file[self.at..self.at + n];
        self.at += n;
        Ok(bytes)
    }

    fn number<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let bytes = self.bytes(N).map_err(|problem| format!("{problem}, in {what:?}"))?;
        let mut number = [0; N];
        number.copy_from_slice(bytes);
        Ok(number)
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        self.number(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        self.number(what).map(u64::from_le_bytes)
    }

    fn count(&mut self, what: &str, limit: u64) -> Result<u64, String> {
        let count = self.u64(what)?;
        if count > limit { Err(format!("{what} is {count}, at most {limit} are read")) } else { Ok(count) }
    }

    fn text(&mut self, what: &str) -> Result<String, String> {
        let len = self.u64(what)?;
        let bytes = usize::try_from(len)
            .ok()
            .filter(|&len| len <= self.left())
            .ok_or_else(|| format!("{what:?} has a text of {len} bytes, behind the end of the file or the header"))?;
        let bytes = self.bytes(bytes)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(format!("{what:?} has a text that is not UTF-8: {error}")),
        }
    }

    fn bool(&mut self, what: &str) -> Result<bool, String> {
        match self.number::<1>(what)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(format!("{what:?} should be true or false and is {other}")),
        }
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.number(key)?)),
            1 => Value::I8(i8::from_le_bytes(self.number(key)?)),
            2 => Value::U16(u16::from_le_bytes(self.number(key)?)),
            3 => Value::I16(i16::from_le_bytes(self.number(key)?)),
            4 => Value::U32(self.u32(key)?),
            5 => Value::I32(i32::from_le_bytes(self.number(key)?)),
            6 => Value::F32(f32::from_le_bytes(self.number(key)?)),
            7 => Value::Bool(self.bool(key)?),
            8 => Value::String(self.text(key)?),
            9 => Value::Array(self.array(key)?),
            10 => Value::U64(self.u64(key)?),
            11 => Value::I64(i64::from_le_bytes(self.number(key)?)),
            12 => Value::F64(f64::from_le_bytes(self.number(key)?)),
            other => return Err(format!("`{key}` has a value of type {other}, which there is not")),
        })
    }

    fn array(&mut self, key: &str) -> Result<Array, String> {
        let kind = self.u32(key)?;
        let len = self.count(&format!("length of `{key}`"), MAX_ARRAY)? as usize;
        Ok(match kind {
            0 => Array::U8(self.bytes(len)?.to_vec()),
            1 => Array::I8(self.numbers(len, i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(len, u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(len, i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(len, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(len, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(len, f32::from_le_bytes)?),
            7 => Array::Bool((0..len).map(|_| self.bool(key)).collect::<Result<_, _>>()?),
            8 => Array::String((0..len).map(|_| self.text(key)).collect::<Result<_, _>>()?),
            9 => return Err(format!("`{key}` is an array of arrays, which cannot be read")),
            10 => Array::U64(self.numbers(len, u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(len, i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(len, f64::from_le_bytes)?),
            other => return Err(format!("`{key}` is an array of type {other}, which there is not")),
        })
    }

    /// The bytes are taken before anything is allocated for the numbers.
    fn numbers<const N: usize, T>(&mut self, len: usize, read: impl Fn([u8; N]) -> T) -> Result<Vec<T>, String> {
        Ok(self.bytes(len * N)?.as_chunks().0.iter().map(|bytes| read(*bytes)).collect())
    }
}
