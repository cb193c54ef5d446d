//! What a backend can fail with. Wrong shapes are not here: they are bugs and panic.

/// A failure of the machine, not of the caller.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The machine has not enough memory for one buffer.
    #[error(
        "out of memory: could not get {bytes} bytes on {device}; use a smaller model, a shorter context or a smaller micro-batch"
    )]
    OutOfMemory {
        /// Size of the buffer asked for, bytes.
        bytes: usize,
        /// Where it was asked for.
        device: String,
    },
    /// The device stopped working.
    #[error("device {device} failed: {detail}")]
    Device {
        /// Which device.
        device: String,
        /// What it said.
        detail: String,
    },
}
