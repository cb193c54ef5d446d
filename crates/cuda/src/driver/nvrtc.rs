//! NVRTC, the run-time compiler.

use std::ffi::{CString, c_char, c_int};

use super::sys::{self, Handle, NvrtcApi};
use crate::DeviceError;
use crate::compile::{Compiled, Target};
use crate::kernels::{HEADERS, Program};
use crate::libraries::{Library, Search};

/// An opened compiler.
pub struct Nvrtc {
    api: NvrtcApi,
    archs: Vec<(u32, u32)>,
}

/// A program of the compiler, given back at the end.
struct Unit<'a> {
    api: &'a NvrtcApi,
    handle: Handle,
}

impl Drop for Unit<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle came from `create` and is used no more.
        unsafe { (self.api.destroy)(&raw mut self.handle) };
    }
}

fn c_string(text: &str) -> Result<CString, DeviceError> {
    CString::new(text)
        .map_err(|_| DeviceError::Call { call: "nvrtcCreateProgram", detail: "a text holds a zero byte".to_owned() })
}

impl Nvrtc {
    /// Opens the library.
    pub fn open(search: &Search) -> Result<Self, DeviceError> {
        let (api, _) = sys::open::<NvrtcApi>(search, Library::Nvrtc)?;
        let mut count = 0;
        // SAFETY: writes one int.
        let status = unsafe { (api.arch_count)(&raw mut count) };
        let mut numbers = vec![0 as c_int; usize::try_from(count).unwrap_or(0)];
        if status == 0 && !numbers.is_empty() {
            // SAFETY: writes as many ints as it said.
            unsafe { (api.archs)(numbers.as_mut_ptr()) };
        }
        let archs = numbers.into_iter().map(|arch| (arch.unsigned_abs() / 10, arch.unsigned_abs() % 10)).collect();
        Ok(Nvrtc { api, archs })
    }

    /// For example `13.0`.
    pub fn version(&self) -> String {
        self.api.version()
    }

    /// Capabilities it can compile for.
    pub fn known_archs(&self) -> &[(u32, u32)] {
        &self.archs
    }

    fn check(&self, call: &'static str, status: c_int) -> Result<(), DeviceError> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: a constant string of the library.
        let detail = unsafe { sys::string((self.api.error_string)(status)) };
        Err(DeviceError::Call { call, detail })
    }

    /// Compiles a program with these options.
    pub fn compile(&self, program: &Program, options: &[String], target: Target) -> Result<Compiled, DeviceError> {
        let source = c_string(program.source)?;
        let name = c_string(&format!("{}.cu", program.name))?;
        let names = HEADERS.iter().map(|(name, _)| c_string(name)).collect::<Result<Vec<_>, _>>()?;
        let texts = HEADERS.iter().map(|(_, text)| c_string(text)).collect::<Result<Vec<_>, _>>()?;
        let options = options.iter().map(|option| c_string(option)).collect::<Result<Vec<_>, _>>()?;
        let pointers = |strings: &[CString]| strings.iter().map(|string| string.as_ptr()).collect::<Vec<_>>();
        let (names, texts, options) = (&pointers(&names), &pointers(&texts), &pointers(&options));

        let mut handle = std::ptr::null_mut();
        // SAFETY: strings that end with zero bytes, in arrays of the length given, all alive for the call.
        let status = unsafe {
            (self.api.create)(
                &raw mut handle,
                source.as_ptr(),
                name.as_ptr(),
                names.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        self.check("nvrtcCreateProgram", status)?;
        let unit = Unit { api: &self.api, handle };
        // SAFETY: as above; the handle is a program.
        let status = unsafe { (self.api.compile)(unit.handle, options.len() as c_int, options.as_ptr()) };
        let log = self.bytes(&unit, "nvrtcGetProgramLog", self.api.log_size, self.api.log)?;
        let log = String::from_utf8_lossy(&log).trim_end_matches('\0').trim().to_owned();
        if status != 0 {
            return Err(DeviceError::Compile { program: program.name, arch: target.arch(), log });
        }
        let image = match target {
            Target::Ptx(..) => self.bytes(&unit, "nvrtcGetPTX", self.api.ptx_size, self.api.ptx)?,
            Target::Cubin(_) | Target::Card(..) => {
                self.bytes(&unit, "nvrtcGetCUBIN", self.api.cubin_size, self.api.cubin)?
            }
        };
        Ok(Compiled { image, log })
    }

    /// Bytes of a program through a pair of functions.
    fn bytes(
        &self,
        unit: &Unit<'_>,
        call: &'static str,
        size: unsafe extern "C" fn(Handle, *mut usize) -> c_int,
        get: unsafe extern "C" fn(Handle, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>, DeviceError> {
        let mut len = 0;
        // SAFETY: writes one size; the handle is a program.
        self.check(call, unsafe { (size)(unit.handle, &raw mut len) })?;
        let mut bytes = vec![0u8; len];
        // SAFETY: writes as many bytes as it said.
        self.check(call, unsafe { (get)(unit.handle, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}
