//! The header of a safetensors file: JSON that says where each tensor is. Checked as the reference implementation checks
//! it (tensors fill the data without gaps or overlaps), with messages that name the tensor.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use safetensors::tensor::TensorInfo;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// What a header says, not yet checked.
#[derive(Debug, Default)]
pub(super) struct Header {
    /// Free text entries.
    pub metadata: BTreeMap<String, String>,
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorInfo>,
}

impl Header {
    /// Reads a header and checks that its tensors fill `data_len` bytes exactly.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(super) fn parse(json: &[u8], data_len: usize) -> Result<Self, String> {
        let header: Self = serde_json::from_slice(json).map_err(|e| format!("invalid safetensors header: {e}"))?;
        header.check(data_len)?;
        Ok(header)
    }

    fn check(&self, data_len: usize) -> Result<(), String> {
        let mut filled = 0;
        for name in self.names() {
            let info = &self.tensors[name];
            let (from, to) = info.data_offsets;
            let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |product, &extent| product.checked_mul(extent));
            let Some(size) = bits.filter(|bits| bits % 8 == 0).map(|bits| bits / 8) else {
                return Err(format!("tensor {name:?}: shape {:?} of {:?} is no size in bytes", info.shape, info.dtype));
            };
            if from != filled || to < from {
                return Err(format!("tensor {name:?}: lies at {from}..{to}, where {filled} is expected to begin it"));
            }
            if to - from != size {
                let (shape, dtype) = (&info.shape, info.dtype);
                return Err(format!(
                    "tensor {name:?}: {} bytes for shape {shape:?} of {dtype:?}, not {size}",
                    to - from
                ));
            }
            if to > data_len {
                return Err(format!("truncated: tensor {name:?} ends at {to} of {data_len} bytes"));
            }
            filled = to;
        }
        if filled != data_len {
            return Err(format!("damaged: its tensors have {filled} bytes, {data_len} follow the header"));
        }
        Ok(())
    }

    /// Names of all tensors, in the order of their data.
    pub(super) fn names(&self) -> Vec<&String> {
        let mut names: Vec<&String> = self.tensors.keys().collect();
        names.sort_by_key(|name| self.tensors[*name].data_offsets);
        names
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;

        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        header.metadata = map.next_value().map_err(|e| A::Error::custom(format!("{name}: {e}")))?;
                        continue;
                    }
                    let info = map.next_value().map_err(|e| A::Error::custom(format!("tensor {name:?}: {e}")))?;
                    match header.tensors.entry(name) {
                        Entry::Vacant(place) => place.insert(info),
                        Entry::Occupied(place) => {
                            return Err(A::Error::custom(format!("tensor {:?} is there twice", place.key())));
                        }
                    };
                }
                Ok(header)
            }
        }

        deserializer.deserialize_map(HeaderVisitor)
    }
}
