//! Element types of buffers.

use half::bf16;

/// Anything a buffer can hold: plain data, safe to copy to a device and to a file.
pub trait Element: bytemuck::Pod + Default + Send + Sync + std::fmt::Debug + PartialEq + 'static {
    /// Name in files and messages, for example `bf16`.
    const NAME: &'static str;
}

/// An element that is a real number: what weights, activations, statistics and gradients are made of.
pub trait Real: Element + PartialOrd {
    /// Rounds to nearest, ties to even.
    fn from_f64(value: f64) -> Self;
    /// Exact: every element type here fits in an `f64`.
    fn to_f64(self) -> f64;
    /// Rounds to nearest, ties to even.
    fn from_f32(value: f32) -> Self;
    /// Exact for `f32` and `bf16`, rounded for `f64`.
    fn to_f32(self) -> f32;
}

impl Element for u8 {
    const NAME: &'static str = "u8";
}

impl Element for u32 {
    const NAME: &'static str = "u32";
}

impl Element for f32 {
    const NAME: &'static str = "f32";
}

impl Element for f64 {
    const NAME: &'static str = "f64";
}

impl Element for bf16 {
    const NAME: &'static str = "bf16";
}

impl Real for f32 {
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn from_f32(value: f32) -> Self {
        value
    }
    fn to_f32(self) -> f32 {
        self
    }
}

impl Real for f64 {
    fn from_f64(value: f64) -> Self {
        value
    }
    fn to_f64(self) -> f64 {
        self
    }
    fn from_f32(value: f32) -> Self {
        f64::from(value)
    }
    fn to_f32(self) -> f32 {
        self as f32
    }
}

impl Real for bf16 {
    fn from_f64(value: f64) -> Self {
        bf16::from_f64(value)
    }
    fn to_f64(self) -> f64 {
        bf16::to_f64(self)
    }
    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
    fn to_f32(self) -> f32 {
        bf16::to_f32(self)
    }
}
