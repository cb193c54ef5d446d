//! Values of metadata.

/// A value, with the type it has in a file.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names say the types")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// An array of values of one type. Arrays of arrays exist in the specification and in no published model: they are refused.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names say the types")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Vec<String>),
}

impl Value {
    /// The type's name.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
            Self::Bool(_) => "bool",
            Self::String(_) => "string",
            Self::Array(_) => "array",
        }
    }

    /// A whole number that is not negative, of any integer type.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(x) => Some(x.into()),
            Self::U16(x) => Some(x.into()),
            Self::U32(x) => Some(x.into()),
            Self::U64(x) => Some(x),
            Self::I8(x) => x.try_into().ok(),
            Self::I16(x) => x.try_into().ok(),
            Self::I32(x) => x.try_into().ok(),
            Self::I64(x) => x.try_into().ok(),
            _ => None,
        }
    }

    /// A number, of either float type.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(x) => Some(x.into()),
            Self::F64(x) => Some(x),
            _ => None,
        }
    }

    /// True or false.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(x) = *self { Some(x) } else { None }
    }

    /// Text.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// Texts.
    pub fn as_strings(&self) -> Option<&[String]> {
        if let Self::Array(Array::String(texts)) = self { Some(texts) } else { None }
    }

    /// Floats.
    pub fn as_f32s(&self) -> Option<&[f32]> {
        if let Self::Array(Array::F32(values)) = self { Some(values) } else { None }
    }

    /// Whole numbers of 32 bits, or of an integer type whose values all fit.
    pub fn as_i32s(&self) -> Option<Vec<i32>> {
        match self {
            Self::Array(Array::I32(values)) => Some(values.clone()),
            Self::Array(Array::U32(values)) => values.iter().map(|&x| x.try_into().ok()).collect(),
            Self::Array(Array::I64(values)) => values.iter().map(|&x| x.try_into().ok()).collect(),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl Array {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Self::U8(x) => x.len(),
            Self::I8(x) => x.len(),
            Self::U16(x) => x.len(),
            Self::I16(x) => x.len(),
            Self::U32(x) => x.len(),
            Self::I32(x) => x.len(),
            Self::U64(x) => x.len(),
            Self::I64(x) => x.len(),
            Self::F32(x) => x.len(),
            Self::F64(x) => x.len(),
            Self::Bool(x) => x.len(),
            Self::String(x) => x.len(),
        }
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
