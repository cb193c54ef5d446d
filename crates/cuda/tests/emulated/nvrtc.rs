//! The compiler for the tests, or a line that says that they are skipped.

use verve_cuda::compile::{Cache, Compiler};
use verve_cuda::libraries::{Library, Search};

/// With this variable a missing NVRTC is a failure.
const REQUIRE: &str = "VERVE_REQUIRE_NVRTC";

/// NVRTC with a cache in the build folder, or `None` after a line that says what is skipped.
pub fn compiler() -> Option<Compiler> {
    open(Some(Cache::at(concat!(env!("CARGO_TARGET_TMPDIR"), "/kernels"))))
}

/// NVRTC with this cache.
pub fn open(cache: Option<Cache>) -> Option<Compiler> {
    match Compiler::open(&Search::from_env(), cache) {
        Ok(compiler) => Some(compiler),
        Err(error) => {
            assert!(std::env::var_os(REQUIRE).is_none(), "{REQUIRE} is set: {error}");
            println!("skipped: no NVRTC ({error}); {}", Library::Nvrtc.fix());
            None
        }
    }
}
