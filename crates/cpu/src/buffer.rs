//! Memory of the CPU backend: aligned, zeroed, huge pages where the system gives them.

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::{Pod, Zeroable};
use memmap2::MmapMut;
use verve_ops::{BackendError, Buffer, Element};

/// Alignment of every buffer: one cache line, one AVX-512 vector.
pub const ALIGN: usize = 64;

/// From this size on a buffer is its own anonymous mapping, for which huge pages are asked.
const MAP_BYTES: usize = 1 << 20;

/// One cache line; a box of them is an aligned buffer without any unsafe code.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; ALIGN]);

enum Memory {
    Lines(Box<[Line]>),
    Map(MmapMut),
}

/// A linear array in main memory, aligned to [`ALIGN`] bytes, zeroed at birth.
pub struct CpuBuf<T: Element> {
    memory: Memory,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> CpuBuf<T> {
    /// `len` zeros.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`] if the system refuses.
    pub fn zeroed(len: usize) -> Result<Self, BackendError> {
        let refused = |bytes| BackendError::OutOfMemory { bytes, device: "cpu".to_string() };
        let bytes = len.checked_mul(size_of::<T>()).ok_or_else(|| refused(usize::MAX))?;
        let memory = if bytes >= MAP_BYTES {
            let map = MmapMut::map_anon(bytes).map_err(|_| refused(bytes))?;
            // Only a hint: a kernel without transparent huge pages says no and everything still works.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            Memory::Map(map)
        } else {
            let lines =
                bytemuck::allocation::try_zeroed_slice_box(bytes.div_ceil(ALIGN)).map_err(|()| refused(bytes))?;
            Memory::Lines(lines)
        };
        Ok(CpuBuf { memory, len, element: PhantomData })
    }
}

impl<T: Element> Default for CpuBuf<T> {
    fn default() -> Self {
        CpuBuf { memory: Memory::Lines(Box::default()), len: 0, element: PhantomData }
    }
}

impl<T: Element> Deref for CpuBuf<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let bytes: &[u8] = match &self.memory {
            Memory::Lines(lines) => bytemuck::cast_slice(lines),
            Memory::Map(map) => map,
        };
        bytemuck::cast_slice(&bytes[..self.len * size_of::<T>()])
    }
}

impl<T: Element> DerefMut for CpuBuf<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let bytes: &mut [u8] = match &mut self.memory {
            Memory::Lines(lines) => bytemuck::cast_slice_mut(lines),
            Memory::Map(map) => map,
        };
        bytemuck::cast_slice_mut(&mut bytes[..self.len * size_of::<T>()])
    }
}

impl<T: Element> Buffer<T> for CpuBuf<T> {
    fn len(&self) -> usize {
        self.len
    }
}

impl<T: Element> fmt::Debug for CpuBuf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuBuf<{}>[{}]", T::NAME, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn buffers_are_zeroed_aligned_and_writable_at_every_size() {
        for len in [0, 1, 15, 16, 17, 1000, (1 << 18) - 1, 1 << 18, (1 << 18) + 1] {
            let mut buf = CpuBuf::<f32>::zeroed(len).unwrap();
            assert_eq!(buf.len(), len);
            assert_eq!(buf.as_ptr() as usize % ALIGN, 0);
            assert!(buf.iter().all(|x| *x == 0.0));
            buf.fill(2.5);
            assert!(buf.iter().all(|x| *x == 2.5));
        }
        let odd = CpuBuf::<bf16>::zeroed(3).unwrap();
        assert_eq!(odd.len(), 3);
        assert_eq!(CpuBuf::<u8>::zeroed(7).unwrap().len(), 7);
    }

    #[test]
    fn absurd_sizes_are_out_of_memory() {
        for len in [usize::MAX, usize::MAX / 8, 1 << 50] {
            assert!(matches!(CpuBuf::<f64>::zeroed(len), Err(BackendError::OutOfMemory { .. })));
        }
    }
}
