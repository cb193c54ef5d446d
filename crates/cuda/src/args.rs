//! The arguments of a kernel as the driver takes them: one buffer, every value at its own alignment.

use crate::CudaBuf;
use crate::device::DevicePtr;
use verve_ops::Element;

/// Most bytes of arguments that a kernel here takes.
const CAPACITY: usize = 512;

/// Builds the argument buffer of a launch, in the order of the kernel's parameters. The types must be those that the kernel
/// declares: pointers, `unsigned int`, `unsigned long long`, `float`, or structs of them passed as their fields (only where
/// the struct's alignment is that of its first field).
///
/// ```
/// let args = verve_cuda::Args::new().u32(7).u64(9).f32(0.5);
/// assert_eq!(args.bytes().len(), 20); // the u64 lies at byte 8
/// ```
#[derive(Clone)]
pub struct Args {
    bytes: [u8; CAPACITY],
    len: usize,
}

impl Default for Args {
    fn default() -> Self {
        Self::new()
    }
}

impl Args {
    /// No arguments yet.
    pub fn new() -> Self {
        Args { bytes: [0; CAPACITY], len: 0 }
    }

    fn put(mut self, value: &[u8]) -> Self {
        let at = self.len.next_multiple_of(value.len());
        assert!(at + value.len() <= CAPACITY, "kernel arguments beyond {CAPACITY} bytes");
        self.bytes[at..][..value.len()].copy_from_slice(value);
        self.len = at + value.len();
        self
    }

    /// `unsigned int`.
    ///
    /// # Panics
    /// If the number does not fit: sizes of one operation are below 2^32.
    pub fn u32(self, value: usize) -> Self {
        let value = u32::try_from(value).unwrap_or_else(|_| panic!("a size of {value} does not fit a kernel's u32"));
        self.put(&value.to_le_bytes())
    }

    /// `unsigned long long`.
    pub fn u64(self, value: usize) -> Self {
        self.put(&(value as u64).to_le_bytes())
    }

    /// `float`.
    pub fn f32(self, value: f32) -> Self {
        self.put(&value.to_le_bytes())
    }

    /// A pointer that is already an address on the device.
    pub fn address(self, address: DevicePtr) -> Self {
        self.put(&address.to_le_bytes())
    }

    /// A pointer to a buffer's first element.
    pub fn buf<T: Element>(self, buf: &CudaBuf<T>) -> Self {
        self.address(buf.address())
    }

    /// A pointer to a buffer's first element, null if there is none.
    pub fn optional<T: Element>(self, buf: Option<&CudaBuf<T>>) -> Self {
        self.address(buf.map_or(0, CudaBuf::address))
    }

    /// The buffer, as long as the arguments need.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
