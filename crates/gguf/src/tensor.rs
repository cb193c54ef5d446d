//! Tensors and their types.

use std::fmt;
use std::ops::Range;

use verve_ops::quant::QuantKind;

/// Element type or block format of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorType {
    /// Four bytes.
    F32,
    /// Two bytes, IEEE half precision.
    F16,
    /// Two bytes, the range of `f32`.
    Bf16,
    /// Blocks.
    Quant(QuantKind),
    /// A type of this number that cannot be computed with. Its size is not known.
    Other(u32),
}

/// Numbers of the supported types, from GGML's `enum ggml_type`.
const IDS: [(u32, TensorType); 13] = [
    (0, TensorType::F32),
    (1, TensorType::F16),
    (30, TensorType::Bf16),
    (2, TensorType::Quant(QuantKind::Q4_0)),
    (3, TensorType::Quant(QuantKind::Q4_1)),
    (6, TensorType::Quant(QuantKind::Q5_0)),
    (7, TensorType::Quant(QuantKind::Q5_1)),
    (8, TensorType::Quant(QuantKind::Q8_0)),
    (10, TensorType::Quant(QuantKind::Q2K)),
    (11, TensorType::Quant(QuantKind::Q3K)),
    (12, TensorType::Quant(QuantKind::Q4K)),
    (13, TensorType::Quant(QuantKind::Q5K)),
    (14, TensorType::Quant(QuantKind::Q6K)),
];

/// Names of numbers that are met in files and not supported.
const OTHER_NAMES: [(u32, &str); 19] = [
    (9, "q8_1"),
    (15, "q8_k"),
    (16, "iq2_xxs"),
    (17, "iq2_xs"),
    (18, "iq3_xxs"),
    (19, "iq1_s"),
    (20, "iq4_nl"),
    (21, "iq3_s"),
    (22, "iq2_s"),
    (23, "iq4_xs"),
    (24, "i8"),
    (25, "i16"),
    (26, "i32"),
    (27, "i64"),
    (28, "f64"),
    (29, "iq1_m"),
    (34, "tq1_0"),
    (35, "tq2_0"),
    (39, "mxfp4"),
];

impl TensorType {
    /// The type of a number in a file.
    pub fn from_id(id: u32) -> Self {
        IDS.iter().find(|(known, _)| *known == id).map_or(Self::Other(id), |(_, kind)| *kind)
    }

    /// Its number in a file.
    pub fn id(self) -> u32 {
        match self {
            Self::Other(id) => id,
            known => IDS.iter().find(|(_, kind)| *kind == known).map_or(0, |(id, _)| *id),
        }
    }

    /// Values in a block; 1 for numbers by themselves. `None` if not known.
    pub fn block_len(self) -> Option<usize> {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => Some(1),
            Self::Quant(kind) => Some(kind.block_len()),
            Self::Other(_) => None,
        }
    }

    /// Bytes of a block. `None` if not known.
    pub fn block_bytes(self) -> Option<usize> {
        match self {
            Self::F32 => Some(4),
            Self::F16 | Self::Bf16 => Some(2),
            Self::Quant(kind) => Some(kind.block_bytes()),
            Self::Other(_) => None,
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::F16 => f.write_str("f16"),
            Self::Bf16 => f.write_str("bf16"),
            Self::Quant(kind) => f.write_str(kind.name()),
            Self::Other(id) => match OTHER_NAMES.iter().find(|(known, _)| known == id) {
                Some((_, name)) => f.write_str(name),
                None => write!(f, "number {id}"),
            },
        }
    }
}

/// What a file says about a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Name.
    pub name: String,
    /// Extents, slowest first: `[d_out, d_in]` for a matrix. Files have them the other way round.
    pub shape: Vec<usize>,
    /// Type.
    pub kind: TensorType,
    /// Where its bytes are in the file; empty for a type whose size is not known.
    pub(crate) bytes: Range<usize>,
}

impl Tensor {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True when there are none; no tensor of an opened file is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in the file; 0 for a type whose size is not known.
    pub fn n_bytes(&self) -> usize {
        self.bytes.len()
    }
}
