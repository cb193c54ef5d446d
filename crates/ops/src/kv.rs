//! What a KV cache holds: keys and values as they are, or rounded to take less memory.

use half::f16;

use crate::{Backend, BackendError, Buffer, KV_BLOCK, KvShape};

/// How keys and values are kept in a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvFormat {
    /// As activations are: nothing is lost.
    #[default]
    Elem,
    /// Half precision, 11 bits of each number; beyond 65,504 the largest number there is.
    F16,
    /// 8-bit integers with a scale for each key and each value of a head, see [`quantize_head`].
    Int8,
}

impl KvFormat {
    /// Lower-case name; `as_is` for [`KvFormat::Elem`].
    pub fn name(self) -> &'static str {
        match self {
            Self::Elem => "as_is",
            Self::F16 => "f16",
            Self::Int8 => "int8",
        }
    }
}

/// One layer's keys and values. The layout inside a block is the backend's own.
pub enum KvLayer<B: Backend> {
    /// See [`KvFormat::Elem`].
    Elem {
        /// [`KvShape::len`] elements.
        keys: B::Buf<B::Elem>,
        /// As many.
        values: B::Buf<B::Elem>,
    },
    /// See [`KvFormat::F16`].
    F16 {
        /// [`KvShape::len`] elements.
        keys: B::Buf<f16>,
        /// As many.
        values: B::Buf<f16>,
    },
    /// See [`KvFormat::Int8`].
    Int8 {
        /// [`KvShape::len`] elements.
        keys: B::Buf<i8>,
        /// As many.
        values: B::Buf<i8>,
        /// [`KvShape::n_vectors`] scales of keys.
        key_scales: B::Buf<f32>,
        /// As many of values.
        value_scales: B::Buf<f32>,
    },
}

impl<B: Backend> KvLayer<B> {
    /// An empty cache of one layer.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(backend: &B, shape: &KvShape, format: KvFormat) -> Result<Self, BackendError> {
        let (len, n) = (shape.len(), shape.n_vectors());
        Ok(match format {
            KvFormat::Elem => Self::Elem { keys: backend.alloc(len)?, values: backend.alloc(len)? },
            KvFormat::F16 => Self::F16 { keys: backend.alloc(len)?, values: backend.alloc(len)? },
            KvFormat::Int8 => Self::Int8 {
                keys: backend.alloc(len)?,
                values: backend.alloc(len)?,
                key_scales: backend.alloc(n)?,
                value_scales: backend.alloc(n)?,
            },
        })
    }

    /// Bytes that [`KvLayer::new`] allocates.
    pub fn bytes(shape: &KvShape, format: KvFormat) -> usize {
        2 * match format {
            KvFormat::Elem => shape.len() * size_of::<B::Elem>(),
            KvFormat::F16 => shape.len() * size_of::<f16>(),
            KvFormat::Int8 => shape.len() + shape.n_vectors() * size_of::<f32>(),
        }
    }

    /// Panics unless all buffers have the sizes of `shape`.
    pub(crate) fn check(&self, op: &str, shape: &KvShape) {
        let (len, n) = (shape.len(), shape.n_vectors());
        let same = |field: &str, found: usize, expected: usize| crate::args::same(op, field, found, expected, shape);
        match self {
            Self::Elem { keys, values } => {
                same("keys", keys.len(), len);
                same("values", values.len(), len);
            }
            Self::F16 { keys, values } => {
                same("keys", keys.len(), len);
                same("values", values.len(), len);
            }
            Self::Int8 { keys, values, key_scales, value_scales } => {
                same("keys", keys.len(), len);
                same("values", values.len(), len);
                same("key_scales", key_scales.len(), n);
                same("value_scales", value_scales.len(), n);
            }
        }
    }
}

impl KvShape {
    /// Keys of all heads and places of the cache, and as many values: each has a scale in [`KvFormat::Int8`].
    pub fn n_vectors(&self) -> usize {
        self.n_blocks * KV_BLOCK * self.n_kv_heads
    }
}

/// A number of the cache in half precision: rounded to nearest, ties to even; never infinite where `x` is not.
#[inline(always)]
pub fn to_f16(x: f32) -> f16 {
    const LARGEST: f32 = 65_504.0;
    f16::from_f32(if x.is_finite() { x.clamp(-LARGEST, LARGEST) } else { x })
}

/// Rounds a key or value of one head to integers `q` and returns the scale `d` with `x ~ d q`:
///
/// ```text
/// largest = max |x|                 d = largest / 127            q = x * (127 / largest), to nearest, halves to even
/// ```
///
/// in `f32`. Values so small that `127 / largest` is not finite count as zeros; with a value that is not finite, `d` is NaN
/// and all `q` are 0.
///
/// # Panics
/// If there are not as many codes as values.
#[inline(always)]
pub fn quantize_head(values: &[f32], codes: &mut [i8]) -> f32 {
    assert!(values.len() == codes.len(), "quantize_head: {} values, {} codes", values.len(), codes.len());
    // As integers, magnitudes are in the same order, and what is not finite is above all that is.
    let largest = values.iter().fold(0, |most, x| (x.to_bits() & 0x7fff_ffff).max(most));
    let inverse = 127.0 / f32::from_bits(largest);
    if largest >= f32::INFINITY.to_bits() || !inverse.is_finite() {
        codes.fill(0);
        return if largest >= f32::INFINITY.to_bits() { f32::NAN } else { 0.0 };
    }
    // Added to a number below 2^22, it leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    for (code, x) in codes.iter_mut().zip(values) {
        *code = (x * inverse + ROUND).to_bits() as i8;
    }
    f32::from_bits(largest) / 127.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_rounded_as_defined() {
        let values: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 31.5) * 0.3).collect();
        let largest = values.iter().fold(0f32, |most, x| most.max(x.abs()));
        let mut codes = [9i8; 64];
        let scale = quantize_head(&values, &mut codes);
        assert_eq!(scale, largest / 127.0);
        for (code, x) in codes.iter().zip(&values) {
            assert_eq!(f32::from(*code), (x * (127.0 / largest)).round_ties_even());
            assert!((f32::from(*code) * scale - x).abs() <= 0.5001 * scale);
        }
        assert_eq!((quantize_head(&[0.0, -0.0], &mut codes[..2]), codes[0]), (0.0, 0));
        assert_eq!((quantize_head(&[1e-40, 0.0], &mut codes[..2]), codes[0]), (0.0, 0));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(quantize_head(&[1.0, bad], &mut codes[..2]).is_nan() && codes[..2] == [0, 0]);
        }
    }

    #[test]
    fn halves_stay_finite() {
        assert_eq!(to_f16(1e9), f16::MAX);
        assert_eq!(to_f16(-65_520.0), f16::MIN);
        assert!(to_f16(f32::NAN).is_nan() && to_f16(f32::INFINITY).is_infinite());
        assert_eq!(to_f16(1.0 + 1.0 / 2048.0), f16::ONE, "halves to even");
    }
}
