//! Memory of the CUDA backend.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use verve_ops::{Buffer, Element};

use crate::DeviceError;
use crate::device::{Device, DevicePtr};

/// A linear array in a card's memory, zeroed at birth.
pub struct CudaBuf<T: Element> {
    device: Arc<dyn Device>,
    address: DevicePtr,
    len: usize,
    element: PhantomData<fn(T) -> T>,
}

impl<T: Element> CudaBuf<T> {
    /// `len` zeros.
    pub(crate) fn zeroed(device: &Arc<dyn Device>, len: usize) -> Result<Self, DeviceError> {
        let bytes = len.checked_mul(size_of::<T>()).ok_or(DeviceError::OutOfMemory { bytes: usize::MAX })?;
        let address = if bytes == 0 { 0 } else { device.alloc(bytes)? };
        // From here on the drop gives the memory back.
        let buf = CudaBuf { device: device.clone(), address, len, element: PhantomData };
        if bytes > 0 {
            device.fill_zero(address, bytes)?;
        }
        Ok(buf)
    }

    /// Where it lies; 0 if it is empty.
    pub fn address(&self) -> DevicePtr {
        self.address
    }

    /// Its size.
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }
}

impl<T: Element> Drop for CudaBuf<T> {
    fn drop(&mut self) {
        if self.address != 0 {
            self.device.free(self.address);
        }
    }
}

impl<T: Element> Buffer<T> for CudaBuf<T> {
    fn len(&self) -> usize {
        self.len
    }
}

impl<T: Element> fmt::Debug for CudaBuf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CudaBuf<{}>[{}]", T::NAME, self.len)
    }
}
