//! Whatever the text, reading and running it ends, with a result or an error.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;
use verve_ptx::{Machine, PtxError};

const GOLDEN: [&str; 6] = [
    include_str!("golden/vector_add.ptx"),
    include_str!("golden/reduce.ptx"),
    include_str!("golden/transpose.ptx"),
    include_str!("golden/divergent.ptx"),
    include_str!("golden/local_array.ptx"),
    include_str!("golden/matmul.ptx"),
];

/// Loads the text and launches all its kernels with whatever parameters.
fn run(text: &str) -> Result<(), PtxError> {
    let mut machine = Machine::new(1 << 20);
    machine.set_budget(20_000);
    let module = machine.load(text)?;
    let memory = machine.alloc(1 << 12)?;
    machine.fill(memory, 1, 1 << 12)?;
    for kernel in module.kernels() {
        for bytes in [20, 28, 36, 40] {
            let params: Vec<u8> = memory.to_le_bytes().into_iter().cycle().take(bytes).collect();
            let _ = machine.launch(&module, kernel, [2, 1, 1], [40, 1, 1], 1 << 14, &params);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn cut_text(which in 0..GOLDEN.len(), at in any::<prop::sample::Index>()) {
        let text = GOLDEN[which];
        let _ = run(&text[..at.index(text.len())]);
    }

    #[test]
    fn words_exchanged(which in 0..GOLDEN.len(), places in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4)) {
        let mut words: Vec<&str> = GOLDEN[which].split_inclusive(|c: char| !c.is_alphanumeric()).collect();
        for (a, b) in places {
            let (a, b) = (a.index(words.len()), b.index(words.len()));
            words[a] = words[b];
        }
        let _ = run(&words.concat());
    }

    #[test]
    fn bytes_exchanged(which in 0..GOLDEN.len(), places in proptest::collection::vec((any::<prop::sample::Index>(), 32u8..127), 1..6)) {
        let mut bytes = GOLDEN[which].as_bytes().to_vec();
        for (at, byte) in places {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = run(&String::from_utf8(bytes).unwrap());
    }

    #[test]
    fn garbage(text in "\\PC{0,200}") {
        let _ = run(&text);
        let _ = run(&format!(".version 8.0\n.target sm_80\n.visible .entry k() {{ {text} }}"));
    }
}

#[test]
fn sizes_without_bounds() {
    for text in [
        ".global .b8 x[9999999999999];",
        ".global .b64 x[18446744073709551615][18446744073709551615];",
        ".visible .entry k() { .reg .b32 %r<99999999999>; ret; }",
        ".visible .entry k() { .reg .b32 %r<1000000>; .reg .b32 %q<1000000>; ret; }",
        ".visible .entry k(.param .align 8 .b8 a[99999999999]) { ret; }",
        ".visible .entry k() { .local .align 8 .b8 a[99999999999]; ret; }",
        ".visible .entry k() { .local .align 8 .b8 a[99999999]; ret; }",
        ".global .align 999999999999 .b8 x[4];",
        ".visible .entry k() { mov.u32 %r1, 99999999999999999999999; }",
        "/* no end",
        "\"no end",
    ] {
        assert!(run(text).is_err(), "{text}");
    }
    let deep = format!(".visible .entry k() {{ {} }}", "{".repeat(100_000));
    assert!(run(&deep).is_err());
    let operands = format!(".visible .entry k() {{ mov.u32 %r1, {} }}", "{".repeat(100_000));
    assert!(run(&operands).is_err());
}
