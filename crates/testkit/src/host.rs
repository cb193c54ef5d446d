//! Moving test data in and out of a backend's memory.

use verve_ops::{Backend, Element, Real};

/// Elements that a long buffer has beyond what its shape needs.
const SPARE: usize = 37;

/// What the spare elements of a long output hold before and after.
const SPARE_VALUE: f64 = 7.5;

/// Moves test data in and out of a backend, as `f64` on this side.
pub struct Host<'b, B>(pub &'b B);

// Not derived: a derive would ask that `B` itself can be copied.
impl<B> Clone for Host<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Host<'_, B> {}

impl<B: Backend> Host<'_, B> {
    /// A buffer with these elements.
    pub fn buffer<T: Element>(&self, elements: &[T]) -> B::Buf<T> {
        let mut buf = self.0.alloc(elements.len()).unwrap_or_else(|e| panic!("cannot allocate test data: {e}"));
        self.0.upload(elements, &mut buf);
        buf
    }

    fn reals<T: Real>(&self, values: &[f64]) -> B::Buf<T> {
        self.buffer(&values.iter().map(|&x| T::from_f64(x)).collect::<Vec<_>>())
    }

    /// A buffer of weights or activations, rounded.
    pub fn elems(&self, values: &[f64]) -> B::Buf<B::Elem> {
        self.reals(values)
    }

    /// A buffer of statistics or gradients, rounded.
    pub fn accs(&self, values: &[f64]) -> B::Buf<B::Acc> {
        self.reals(values)
    }

    /// An output that must be overwritten: NaN everywhere.
    pub fn unset<T: Real>(&self, len: usize) -> B::Buf<T> {
        self.reals(&vec![f64::NAN; len])
    }

    /// An input longer than its shape needs; the spare elements are NaN, which must not matter.
    pub fn long_elems(&self, values: &[f64]) -> B::Buf<B::Elem> {
        self.reals(&[values, &[f64::NAN; SPARE]].concat())
    }

    /// Ids longer than their shape needs; the spare ones are out of any range, which must not matter.
    pub fn long_ids(&self, ids: &[u32]) -> B::Buf<u32> {
        self.buffer(&[ids, &[u32::MAX; SPARE]].concat())
    }

    /// An output longer than its shape needs, NaN where it must be overwritten. Read it with [`Host::read_long`].
    pub fn unset_long<T: Real>(&self, len: usize) -> B::Buf<T> {
        self.reals(&[vec![f64::NAN; len], vec![SPARE_VALUE; SPARE]].concat())
    }

    /// A buffer that an operation changes in place, longer than its shape needs. Read it with [`Host::read_long`].
    pub fn long_in_place(&self, values: &[f64]) -> B::Buf<B::Elem> {
        self.reals(&[values, &[SPARE_VALUE; SPARE]].concat())
    }

    /// What a buffer holds.
    pub fn download<T: Element>(&self, buf: &B::Buf<T>) -> Vec<T> {
        let mut elements = vec![T::default(); verve_ops::Buffer::len(buf)];
        self.0.download(buf, &mut elements).unwrap_or_else(|e| panic!("cannot read results: {e}"));
        elements
    }

    /// What a buffer holds, as `f64`.
    pub fn read<T: Real>(&self, buf: &B::Buf<T>) -> Vec<f64> {
        self.download(buf).into_iter().map(T::to_f64).collect()
    }

    /// What a long output holds; panics if its spare elements were written.
    #[track_caller]
    pub fn read_long<T: Real>(&self, what: &str, buf: &B::Buf<T>) -> Vec<f64> {
        let mut values = self.read(buf);
        let spare = values.split_off(values.len() - SPARE);
        if let Some(index) = spare.iter().position(|&x| x != SPARE_VALUE) {
            panic!("{what}: wrote {} beyond the end of its output, by {index} elements", spare[index]);
        }
        values
    }
}
