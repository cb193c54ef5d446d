//! Memory that was freed and that the C library still keeps.

/// Gives freed memory back to the system where the C library would keep it for later (glibc), so that what is in use can
/// be told from what was. Costs milliseconds; for moments between phases of a program, not for loops.
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            safe fn malloc_trim(pad: usize) -> core::ffi::c_int;
        }
        // What it returns is whether there was anything to give back.
        malloc_trim(0);
    }
}
