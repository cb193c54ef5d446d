//! The driver and the vendor's libraries, opened at run time. The only `unsafe` code of this crate is in this folder: calls
//! of functions whose signatures stand in [`sys`], next to the name of the header that declares them.

mod blas;
mod card;
mod nvrtc;
mod sys;

pub use card::{DriverDevice, card_count, card_names};
pub use nvrtc::Nvrtc;

use crate::DeviceError;
use crate::libraries::{Found, Library, Search};

/// Opens a library and asks it for its version.
pub fn inspect(search: &Search, library: Library) -> Result<Found, DeviceError> {
    let (version, path) = match library {
        Library::Driver => sys::open::<sys::Driver>(search, library).map(|(api, path)| (api.version(), path))?,
        Library::Nvrtc => sys::open::<sys::NvrtcApi>(search, library).map(|(api, path)| (api.version(), path))?,
        Library::CublasLt => sys::open::<sys::CublasLt>(search, library).map(|(api, path)| (api.version(), path))?,
        Library::Nccl => sys::open::<sys::Nccl>(search, library).map(|(api, path)| (api.version(), path))?,
    };
    Ok(Found { path, version })
}
