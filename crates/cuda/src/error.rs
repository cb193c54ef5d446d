//! What a CUDA device can fail with.

use verve_ops::BackendError;

/// Errors of this crate. Wrong shapes are not here: they are bugs and panic.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The card has not enough memory for one buffer.
    #[error("out of memory: could not get {bytes} bytes on the GPU")]
    OutOfMemory {
        /// Size of the buffer asked for, bytes.
        bytes: usize,
    },
    /// A library that is needed is not there, or not usable.
    #[error("{library} cannot be used: {detail}; {fix}")]
    Library {
        /// Which library, for example `NVRTC`.
        library: &'static str,
        /// What was found, or where was looked.
        detail: String,
        /// What would fix it.
        fix: String,
    },
    /// No card by this number.
    #[error("there is no GPU number {wanted}: the driver reports {found}")]
    NoSuchCard {
        /// The number asked for, from 0.
        wanted: usize,
        /// How many there are.
        found: usize,
    },
    /// A card older than the kernels need.
    #[error("{name} has compute capability {major}.{minor}; verve needs 8.0 (Ampere) or newer")]
    TooOld {
        /// The card.
        name: String,
        /// Its capability before the point.
        major: u32,
        /// Its capability behind the point.
        minor: u32,
    },
    /// A call of the driver or a library failed.
    #[error("{call} failed: {detail}")]
    Call {
        /// Name of the function.
        call: &'static str,
        /// What it said.
        detail: String,
    },
    /// A kernel source that the compiler refuses.
    #[error("the kernels of {program} cannot be compiled for {arch}: {log}")]
    Compile {
        /// Which source file.
        program: &'static str,
        /// For which architecture.
        arch: String,
        /// What the compiler said.
        log: String,
    },
    /// A format of the KV cache that the kernels do not know.
    #[error("a KV cache of {format} is not supported on GPUs: keep it as activations are (--kv-cache as-is)")]
    KvFormat {
        /// Its name.
        format: &'static str,
    },
    /// A kernel that its program does not hold.
    #[error("{program} has no kernel {kernel}")]
    NoSuchKernel {
        /// Which source file.
        program: &'static str,
        /// Which function.
        kernel: String,
    },
}

impl DeviceError {
    /// The same failure as the contract of the operations has it.
    pub fn on(self, device: &str) -> BackendError {
        match self {
            DeviceError::OutOfMemory { bytes } => BackendError::OutOfMemory { bytes, device: device.to_owned() },
            other => BackendError::Device { device: device.to_owned(), detail: other.to_string() },
        }
    }
}
