//! Which instructions the kernels may use: detected once, forceable downwards.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::CpuError;

/// Name of the environment variable that forces an instruction set, see [`Isa::from_env`].
pub const SIMD_VARIABLE: &str = "VERVE_SIMD";

/// A family of vector instructions. Every kernel exists at every level. Results are bit-equal at one level and agree
/// within tolerances across levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SimdLevel {
    /// Plain Rust that the compiler vectorises for whatever the build targets (SSE2 on x86-64, NEON on aarch64).
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL and DQ.
    Avx512,
}

impl SimdLevel {
    /// All levels of this host, lowest first.
    pub fn available() -> Vec<SimdLevel> {
        let highest = Isa::detect().level;
        [SimdLevel::Portable, SimdLevel::Avx2, SimdLevel::Avx512].into_iter().filter(|l| *l <= highest).collect()
    }

    /// Lower-case name, as in [`SIMD_VARIABLE`].
    pub fn name(self) -> &'static str {
        match self {
            SimdLevel::Portable => "portable",
            SimdLevel::Avx2 => "avx2",
            SimdLevel::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for SimdLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Instructions beyond the level's own. All false below [`SimdLevel::Avx512`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Features {
    /// AVX512-VNNI: dot products of 8-bit integers.
    pub vnni: bool,
    /// AVX512-BF16: dot products of bf16 pairs. They round and flush differently from f32 FMA, so that turning them
    /// off changes low bits.
    pub bf16_dot: bool,
}

/// The instruction set that a backend uses. A value exists only for instructions that this host has, which is what
/// makes calling the vector kernels sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Isa {
    level: SimdLevel,
    features: Features,
}

impl Isa {
    /// The best of this host.
    pub fn detect() -> Isa {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(detect)
    }

    /// A level with all the features that this host has for it.
    ///
    /// # Errors
    /// [`CpuError::LevelMissing`] if the host lacks the level.
    pub fn new(level: SimdLevel) -> Result<Isa, CpuError> {
        let host = Isa::detect();
        if level > host.level {
            return Err(CpuError::LevelMissing { wanted: level, found: host });
        }
        let features = if level == host.level { host.features } else { Features::default() };
        Ok(Isa { level, features })
    }

    /// What `VERVE_SIMD` asks for (`portable`, `avx2`, `avx512`, `avx512-nobf16`), or the best of this host if it is not
    /// set or empty.
    ///
    /// # Errors
    /// [`CpuError::UnknownLevel`] and [`CpuError::LevelMissing`].
    pub fn from_env() -> Result<Isa, CpuError> {
        match std::env::var(SIMD_VARIABLE) {
            Ok(name) if !name.trim().is_empty() => name.parse(),
            _ => Ok(Isa::detect()),
        }
    }

    /// Every distinct choice of this host, lowest first: what the tests run over.
    pub fn available() -> Vec<Isa> {
        let mut all = Vec::new();
        for level in SimdLevel::available() {
            if let Ok(isa) = Isa::new(level) {
                if isa.features.bf16_dot {
                    all.push(isa.without_bf16_dot());
                }
                all.push(isa);
            }
        }
        all
    }

    /// The same without the AVX512-BF16 instructions: bf16 is widened to f32 everywhere.
    #[must_use]
    pub fn without_bf16_dot(self) -> Isa {
        Isa { features: Features { bf16_dot: false, ..self.features }, ..self }
    }

    /// The same without the AVX512-VNNI instructions. Results do not change.
    #[must_use]
    pub fn without_vnni(self) -> Isa {
        Isa { features: Features { vnni: false, ..self.features }, ..self }
    }

    /// The level.
    pub fn level(self) -> SimdLevel {
        self.level
    }

    /// The features beyond the level.
    pub fn features(self) -> Features {
        self.features
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.level.name())?;
        if self.features.vnni {
            f.write_str("+vnni")?;
        }
        if self.features.bf16_dot {
            f.write_str("+bf16")?;
        }
        Ok(())
    }
}

impl FromStr for Isa {
    type Err = CpuError;

    fn from_str(name: &str) -> Result<Isa, CpuError> {
        match name.trim().to_ascii_lowercase().as_str() {
            "portable" => Isa::new(SimdLevel::Portable),
            "avx2" => Isa::new(SimdLevel::Avx2),
            "avx512" => Isa::new(SimdLevel::Avx512),
            "avx512-nobf16" => Isa::new(SimdLevel::Avx512).map(Isa::without_bf16_dot),
            _ => Err(CpuError::UnknownLevel { found: name.to_string() }),
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Isa {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq");
    if avx512 {
        let features =
            Features { vnni: is_x86_feature_detected!("avx512vnni"), bf16_dot: is_x86_feature_detected!("avx512bf16") };
        Isa { level: SimdLevel::Avx512, features }
    } else if avx2 {
        Isa { level: SimdLevel::Avx2, features: Features::default() }
    } else {
        Isa { level: SimdLevel::Portable, features: Features::default() }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Isa {
    Isa { level: SimdLevel::Portable, features: Features::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_and_unknown_names_are_errors() {
        assert_eq!("portable".parse::<Isa>().unwrap().level(), SimdLevel::Portable);
        assert_eq!(" Portable ".parse::<Isa>().unwrap().level(), SimdLevel::Portable);
        let error = "sse9".parse::<Isa>().unwrap_err().to_string();
        assert!(error.contains("sse9") && error.contains("avx512-nobf16"), "{error}");
    }

    #[test]
    fn a_level_the_host_lacks_is_an_error_that_names_what_was_found() {
        for level in [SimdLevel::Portable, SimdLevel::Avx2, SimdLevel::Avx512] {
            match Isa::new(level) {
                Ok(isa) => assert!(SimdLevel::available().contains(&isa.level())),
                Err(error) => {
                    assert!(!SimdLevel::available().contains(&level));
                    assert!(error.to_string().contains(Isa::detect().level().name()), "{error}");
                }
            }
        }
    }

    #[test]
    fn the_bf16_switch_removes_only_that_feature() {
        for isa in Isa::available() {
            let off = isa.without_bf16_dot();
            assert!(!off.features().bf16_dot);
            assert_eq!(off.features().vnni, isa.features().vnni);
            assert_eq!(off.level(), isa.level());
        }
    }
}
