//! Every kernel compiles for every architecture that verve knows, and what it takes of a multiprocessor.

use verve_cuda::ElemKind;
use verve_cuda::compile::{Cache, Compiler, Origin, Target};
use verve_cuda::kernels::{PROGRAMS, Program};

use crate::nvrtc;

/// What the assembler says about one kernel.
#[derive(Debug, Default)]
struct Usage {
    kernel: String,
    registers: u32,
    spilled_bytes: u32,
}

/// Reads `ptxas -v`.
fn usages(log: &str) -> Vec<Usage> {
    let mut usages: Vec<Usage> = Vec::new();
    let number_before = |line: &str, word: &str| -> u32 {
        let before = line.split(word).next().unwrap_or_default();
        before.split_whitespace().last().and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let kernel = rest.split('\'').next().unwrap_or_default().to_owned();
            usages.push(Usage { kernel, ..Usage::default() });
        } else if let Some(usage) = usages.last_mut() {
            if line.contains("bytes spill stores") {
                usage.spilled_bytes = usage.spilled_bytes.max(number_before(line, "bytes spill stores"));
            }
            if line.contains(" registers") {
                usage.registers = number_before(line, "registers");
            }
        }
    }
    usages
}

fn compile(compiler: &Compiler, program: &Program, elem: ElemKind, arch: &'static str) -> Vec<Usage> {
    let (compiled, _) = compiler.compile(program, elem, Target::Cubin(arch)).unwrap_or_else(|error| panic!("{error}"));
    assert!(compiled.image.starts_with(b"\x7fELF"), "{} for {arch}: not a CUBIN", program.name);
    let kernels = program.source.matches("__global__").count();
    let usages = usages(&compiled.log);
    assert!(!usages.is_empty() || kernels == 0, "{} for {arch}: no kernels in {}", program.name, compiled.log);
    usages
}

fn all_for(arch: &'static str) {
    let Some(compiler) = nvrtc::compiler() else { return };
    println!("NVRTC {}, {arch}", compiler.version());
    for program in PROGRAMS {
        for elem in [ElemKind::Bf16, ElemKind::F32] {
            for usage in compile(&compiler, program, elem, arch) {
                let Usage { kernel, registers, spilled_bytes } = usage;
                println!(
                    "{:20} {elem:?} {kernel:40} {registers:3} registers, {spilled_bytes} bytes spilled",
                    program.name
                );
                assert!(registers > 0, "{kernel}: the log has no number of registers");
                assert!(
                    spilled_bytes <= MAY_SPILL,
                    "{kernel} of {} for {arch}: {spilled_bytes} bytes spilled",
                    program.name
                );
            }
        }
    }
}

/// Most bytes of a thread that a kernel may keep in local memory for want of registers.
const MAY_SPILL: u32 = 96;

#[test]
fn compile_for_ampere() {
    all_for("sm_80");
}

#[test]
fn compile_for_ada() {
    all_for("sm_89");
}

#[test]
fn compile_for_hopper() {
    all_for("sm_90a");
}

#[test]
fn compile_for_blackwell() {
    all_for("sm_100a");
}

#[test]
fn a_faulty_source_gives_the_compilers_words() {
    let Some(compiler) = nvrtc::open(None) else { return };
    let program = Program { name: "faulty", source: "extern \"C\" __global__ void f() { nonsense; }" };
    let error = compiler.compile(&program, ElemKind::F32, Target::Cubin("sm_80")).unwrap_err().to_string();
    assert!(error.contains("faulty") && error.contains("nonsense") && error.contains("sm_80"), "{error}");
}

#[test]
fn the_cache_is_used_and_a_damaged_file_compiled_again() {
    let folder = tempfile::tempdir().unwrap();
    let Some(compiler) = nvrtc::open(Some(Cache::at(folder.path().join("new")))) else { return };
    let program = Program { name: "small", source: "extern \"C\" __global__ void f(float *x) { x[0] = 1.0f; }" };
    let compile = || compiler.compile(&program, ElemKind::F32, Target::Cubin("sm_80")).unwrap();
    let (first, origin) = compile();
    assert_eq!(origin, Origin::Compiler);
    assert_eq!(compile(), (first.clone(), Origin::Cache));

    let files: Vec<_> =
        std::fs::read_dir(folder.path().join("new")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    let mut bytes = std::fs::read(&files[0]).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&files[0], &bytes).unwrap();
    let (repaired, origin) = compile();
    assert_eq!((repaired.image, origin), (first.image.clone(), Origin::Compiler), "a damaged file is compiled again");
    assert_eq!(compile().1, Origin::Cache);

    let other_source = Program { name: "small", source: "extern \"C\" __global__ void f(float *x) { x[0] = 2.0f; }" };
    let (other, _) = compiler.compile(&other_source, ElemKind::F32, Target::Cubin("sm_80")).unwrap();
    assert_ne!(other.image, first.image, "another source must not find this one's result");
    let (other, _) = compiler.compile(&program, ElemKind::F32, Target::Cubin("sm_90")).unwrap();
    assert_ne!(other.image, first.image, "another architecture must not find this one's result");
}

#[test]
fn usages_are_read_from_the_log() {
    let log = "ptxas info    : Compiling entry function 'a' for 'sm_90a'\n\
               ptxas         .     8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\n\
               ptxas info    : Used 40 registers, used 1 barriers, 1024 bytes smem\n";
    let usages = usages(log);
    assert_eq!((usages.len(), usages[0].registers, usages[0].spilled_bytes), (1, 40, 12), "{usages:?}");
}
