//! Guard elements around the memory a kernel writes.

use verve_ops::Element;

/// Guard elements on each side.
const GUARD: usize = 67;

/// A slice with guard elements before and after it. A kernel's test gives [`Guarded::slice`] to the kernel and then calls
/// [`Guarded::check`].
#[derive(Debug, Clone)]
pub struct Guarded<T> {
    all: Vec<T>,
    guard: T,
}

impl<T: Element> Guarded<T> {
    /// Copies the contents and sets all guard elements to `guard`, which should be a value the kernel would not write.
    pub fn new(contents: &[T], guard: T) -> Self {
        let mut all = vec![guard; GUARD];
        all.extend_from_slice(contents);
        all.extend(std::iter::repeat_n(guard, GUARD));
        Self { all, guard }
    }

    /// The contents, to be written. Starts at an odd distance from the allocation, so it is not aligned for vectors.
    pub fn slice(&mut self) -> &mut [T] {
        let end = self.all.len() - GUARD;
        &mut self.all[GUARD..end]
    }

    /// Panics if a guard element changed; returns the contents.
    #[track_caller]
    pub fn check(&self, what: &str) -> &[T] {
        let end = self.all.len() - GUARD;
        for (index, element) in self.all.iter().enumerate() {
            let inside = (GUARD..end).contains(&index);
            assert!(
                inside || bytemuck::bytes_of(element) == bytemuck::bytes_of(&self.guard),
                "{what}: wrote {element:?} outside its memory, at [{}] of {} elements",
                index as isize - GUARD as isize,
                end - GUARD
            );
        }
        &self.all[GUARD..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_may_change() {
        let mut guarded = Guarded::new(&[1.0f32, 2.0], f32::NAN);
        guarded.slice()[1] = 5.0;
        assert_eq!(guarded.check("kernel"), [1.0, 5.0]);
    }

    #[test]
    #[should_panic(expected = "kernel: wrote 9.0 outside its memory, at [2] of 2 elements")]
    fn guards_may_not() {
        let mut guarded = Guarded::new(&[1.0f32, 2.0], f32::NAN);
        guarded.all[GUARD + 2] = 9.0;
        guarded.check("kernel");
    }
}
