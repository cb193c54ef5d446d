//! What a kernel must not do ends the launch, with what, where and who.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Device, around};
use verve_ptx::{Checks, Fault, FaultKind, Machine, PtxError, Space};

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// A kernel with one pointer, `%x1`, and shared memory `s` of 256 bytes; `%t` is the thread.
fn kernel(body: &str) -> String {
    format!(
        "{HEAD}.visible .entry k(.param .u64 a) {{
.shared .align 16 .b8 s[256];
.reg .pred %p<10>; .reg .b32 %r<30>; .reg .b32 %t; .reg .b64 %d<9>; .reg .b64 %x<9>;
ld.param.u64 %x1, [a]; mov.u32 %t, %tid.x; mul.wide.u32 %x2, %t, 4; add.u64 %x3, %x1, %x2;
mov.u32 %r20, s; mad.lo.u32 %r21, %t, 4, %r20;
{body}
ret;
}}\n"
    )
}

fn launch(body: &str, blocks: u32, threads: u32) -> Result<Device, PtxError> {
    let mut device = Device::new(&kernel(body));
    let memory = device.put(&[0u32; 64]);
    device.launch("k", [blocks, 1, 1], [threads, 1, 1], 0, &[memory], &[8])?;
    Ok(device)
}

#[track_caller]
fn fault(body: &str, blocks: u32, threads: u32) -> Fault {
    match launch(body, blocks, threads) {
        Err(PtxError::Fault(fault)) => *fault,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("nothing wrong with {body}"),
    }
}

#[track_caller]
fn fine(body: &str, blocks: u32, threads: u32) {
    if let Err(error) = launch(body, blocks, threads) {
        panic!("{error}");
    }
}

#[test]
fn bounds_and_alignment() {
    fine("st.global.u32 [%x3], %t;", 1, 64);
    let found = fault("st.global.u32 [%x3], %t;", 1, 96);
    assert!(matches!(found.kind, FaultKind::OutOfBounds { space: Space::Global, bytes: 4, .. }), "{found}");
    assert_eq!((found.thread, found.block, found.kernel.as_str()), ([64, 0, 0], [0, 0, 0], "k"));
    assert!(found.to_string().contains("st.global.u32 [%x3], %t;"), "{found}");
    let found = fault("ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%x1+244];", 1, 32);
    assert!(matches!(found.kind, FaultKind::Misaligned { bytes: 16, .. }), "{found}");
    let found = fault("ld.global.u16 %r1, [%x1+-2];", 1, 32);
    assert!(matches!(found.kind, FaultKind::OutOfBounds { bytes: 2, .. }), "{found}");
    let found = fault("ld.global.u32 %r1, [0];", 1, 1);
    assert!(matches!(found.kind, FaultKind::OutOfBounds { address: 0, .. }), "{found}");
    let found = fault("st.shared.u32 [%r21+4], %t;", 1, 64);
    assert!(matches!(found.kind, FaultKind::OutOfBounds { space: Space::Shared, address: 256, .. }), "{found}");
    assert_eq!(found.thread, [63, 0, 0]);
    let found = fault("mov.u64 %d1, s; cvta.shared.u64 %d2, %d1; st.u32 [%d2+2], %t;", 1, 1);
    assert!(matches!(found.kind, FaultKind::Misaligned { space: Space::Shared, .. }), "{found}");
    let found = fault("mov.u32 %r1, 5; cp.async.ca.shared.global [%r20], [%x1+252], 8;", 1, 1);
    assert!(matches!(found.kind, FaultKind::Misaligned { space: Space::Global, .. }), "{found}");
}

#[test]
fn freed_memory_is_gone() {
    let mut device = Device::new(&kernel("ld.global.u32 %r1, [%x1];"));
    let memory = device.put(&[0u32; 64]);
    device.launch("k", [1, 1, 1], [32, 1, 1], 0, &[memory], &[8]).unwrap();
    device.machine.free(memory).unwrap();
    assert!(device.launch("k", [1, 1, 1], [32, 1, 1], 0, &[memory], &[8]).is_err());
    assert!(device.machine.free(memory).is_err());
    assert!(device.machine.read(memory, &mut [0]).is_err());
}

#[test]
fn what_was_never_written() {
    let found = fault("add.u32 %r1, %r2, 1;", 1, 32);
    assert_eq!(found.kind, FaultKind::UninitialisedRegister("%r2".to_owned()));
    // In some lanes only.
    let found = fault("setp.lt.u32 %p1, %t, 3; @%p1 mov.u32 %r2, 1; add.u32 %r1, %r2, 1;", 1, 32);
    assert_eq!((found.thread, &found.kind), ([3, 0, 0], &FaultKind::UninitialisedRegister("%r2".to_owned())));
    let found = fault("@%p4 mov.u32 %r2, 1;", 1, 32);
    assert_eq!(found.kind, FaultKind::UninitialisedRegister("%p4".to_owned()));
    fine("st.shared.u32 [%r21], 1; ld.shared.u32 %r1, [%r21];", 1, 32);
    let found = fault("st.shared.u16 [%r21], 1; ld.shared.u32 %r1, [%r21];", 1, 32);
    assert!(
        matches!(found.kind, FaultKind::UninitialisedMemory { space: Space::Shared, address: 0, bytes: 4 }),
        "{found}"
    );
    let mut device = Device::new(&kernel("ld.global.u32 %r1, [%x1];"));
    let fresh = device.machine.alloc(4).unwrap();
    let params: &[u64] = &[fresh];
    let error = device.launch("k", [1, 1, 1], [1, 1, 1], 0, params, &[8]).unwrap_err();
    assert!(error.to_string().contains("never written"), "{error}");
    device.machine.fill(fresh, 0, 4).unwrap();
    device.launch("k", [1, 1, 1], [1, 1, 1], 0, params, &[8]).unwrap();
}

#[test]
fn a_copy_is_there_when_it_is_waited_for() {
    let copy = "cp.async.ca.shared.global [%r21], [%x3], 4; cp.async.commit_group;";
    let found = fault(&format!("{copy} ld.shared.u32 %r1, [%r21];"), 1, 32);
    assert!(matches!(found.kind, FaultKind::UninitialisedMemory { space: Space::Shared, .. }), "{found}");
    fine(&format!("{copy} cp.async.wait_group 0; ld.shared.u32 %r1, [%r21];"), 1, 32);
    // The older of two groups.
    let two =
        format!("{copy} cp.async.ca.shared.global [%r21+128], [%x3], 4; cp.async.commit_group; cp.async.wait_group 1;");
    fine(&format!("{two} ld.shared.u32 %r1, [%r21];"), 1, 32);
    let found = fault(&format!("{two} ld.shared.u32 %r1, [%r21+128];"), 1, 32);
    assert!(matches!(found.kind, FaultKind::UninitialisedMemory { .. }), "{found}");
    // Those of others need a barrier besides.
    let other = "xor.b32 %r3, %r21, 4; ld.shared.u32 %r1, [%r3];";
    let found = fault(&format!("{copy} cp.async.wait_all; {other}"), 1, 32);
    assert!(matches!(found.kind, FaultKind::Race { .. }), "{found}");
    fine(&format!("{copy} cp.async.wait_all; bar.sync 0; {other}"), 1, 64);
    // Without checks the old content is read.
    let body = format!(
        "st.shared.u32 [%r21], 7; {copy} ld.shared.u32 %r1, [%r21]; cp.async.wait_all; ld.shared.u32 %r2, [%r21]; mad.lo.u32 %r1, %r2, 256, %r1; st.global.u32 [%x3], %r1;"
    );
    let mut device = Device::unchecked(&kernel(&body));
    let memory = device.put(&(0..32).collect::<Vec<u32>>());
    device.launch("k", [1, 1, 1], [32, 1, 1], 0, &[memory], &[8]).unwrap();
    assert_eq!(device.get::<u32>(memory, 32), (0..32).map(|i| i * 256 + 7).collect::<Vec<_>>());
}

#[test]
fn copies_may_read_less_than_they_write() {
    let body = "mul.lo.u32 %r22, %t, 16; add.u32 %r22, %r22, %r20; mul.wide.u32 %d1, %t, 16; add.u64 %d1, %d1, %x1; mul.lo.u32 %r2, %t, 4;
        cp.async.cg.shared.global [%r22], [%d1], 16, %r2; cp.async.wait_all; ld.shared.v4.u32 {%r3, %r4, %r5, %r6}, [%r22]; st.global.v4.u32 [%d1], {%r3, %r4, %r5, %r6};";
    let mut device = Device::new(&kernel(body));
    let memory = device.put(&[9u32; 16]);
    device.launch("k", [1, 1, 1], [4, 1, 1], 0, &[memory], &[8]).unwrap();
    assert_eq!(device.get::<u32>(memory, 16), [0, 0, 0, 0, 9, 0, 0, 0, 9, 9, 0, 0, 9, 9, 9, 0]);
}

#[test]
fn races_in_shared_memory() {
    let write = "st.shared.u32 [%r21], %t;";
    let read = "xor.b32 %r3, %r21, 128; ld.shared.u32 %r1, [%r3];";
    let found = fault(&format!("{write} {read}"), 1, 64);
    let FaultKind::Race { space: Space::Shared, access, other_access, .. } = &found.kind else {
        // The first warp runs first and finds nothing that was written.
        assert!(matches!(found.kind, FaultKind::UninitialisedMemory { .. }), "{found}");
        return;
    };
    assert_eq!((*access, *other_access), ("read", "write"));
}

#[test]
fn every_order_of_two_accesses_is_a_race_without_a_barrier() {
    let zero = "st.shared.u32 [%r21], %t; bar.sync 0;";
    let other = "xor.b32 %r3, %r21, 128;";
    for (first, second) in [
        ("st.shared.u32 [%r21], %t;", "ld.shared.u32 %r1, [%r3];"),
        ("ld.shared.u32 %r1, [%r21];", "st.shared.u32 [%r3], %t;"),
        ("st.shared.u32 [%r21], %t;", "st.shared.u32 [%r3], %t;"),
        ("atom.shared.add.u32 %r1, [%r21], 1;", "ld.shared.u32 %r1, [%r3];"),
        ("ld.shared.u32 %r1, [%r21];", "red.shared.add.u32 [%r3], 1;"),
    ] {
        let found = fault(&format!("{zero} {first} {other} {second}"), 1, 64);
        assert!(matches!(found.kind, FaultKind::Race { space: Space::Shared, .. }), "{first} {second}: {found}");
        fine(&format!("{zero} {first} bar.sync 0; {other} {second}"), 1, 64);
        // Lanes of a warp are ordered by a barrier of the warp.
        let lanes = "xor.b32 %r3, %r21, 4;";
        let found = fault(&format!("{zero} {first} {lanes} {second}"), 1, 32);
        assert!(matches!(found.kind, FaultKind::Race { .. }), "{first} {second}: {found}");
        fine(&format!("{zero} {first} bar.warp.sync 0xffffffff; {lanes} {second}"), 1, 32);
        // That orders nothing between warps.
        let found = fault(&format!("{zero} {first} bar.warp.sync 0xffffffff; {other} {second}"), 1, 64);
        assert!(matches!(found.kind, FaultKind::Race { .. }), "{first} {second}: {found}");
    }
    fine(&format!("{zero} red.shared.add.u32 [%r20], 1; red.shared.add.u32 [%r20], 1;"), 1, 64);
    fine(&format!("{zero} ld.shared.u32 %r1, [%r21]; {other} ld.shared.u32 %r1, [%r3];"), 1, 64);
    let found = fault("st.shared.u32 [%r20], %t;", 1, 2);
    assert!(matches!(found.kind, FaultKind::Race { access: "write", other_access: "write", .. }), "{found}");
}

#[test]
fn races_between_blocks() {
    let own = "mov.u32 %r5, %ctaid.x; mul.wide.u32 %d5, %r5, 4; add.u64 %d5, %d5, %x1;";
    fine(&format!("{own} st.global.u32 [%d5], 1; ld.global.u32 %r1, [%d5]; ld.global.u32 %r1, [%x1+128];"), 4, 1);
    fine("red.global.add.u32 [%x1], 1;", 4, 32);
    for body in [
        "st.global.u32 [%x1], 1;",
        "ld.global.u32 %r1, [%x1]; st.global.u32 [%d5], 1;",
        "st.global.u32 [%d5], 1; ld.global.u32 %r1, [%x1];",
        "red.global.add.u32 [%x1], 1; ld.global.u32 %r1, [%x1];",
    ] {
        let found = fault(&format!("{own} {body}"), 3, 1);
        assert!(matches!(found.kind, FaultKind::Race { space: Space::Global, .. }), "{body}: {found}");
    }
    // Neighbouring halves of a word are two things.
    fine("mov.u32 %r5, %ctaid.x; mul.wide.u32 %d5, %r5, 2; add.u64 %d5, %d5, %x1; st.global.u16 [%d5], %r5;", 8, 1);
    let mut device = Device::new(&kernel("st.global.u32 [%x1], 1;"));
    device.machine.set_checks(Checks { global_races: false, ..Checks::ALL });
    let memory = device.put(&[0u32]);
    device.launch("k", [3, 1, 1], [1, 1, 1], 0, &[memory], &[8]).unwrap();
}

#[test]
fn barriers() {
    let found = fault("setp.lt.u32 %p1, %t, 16; @%p1 bar.sync 0;", 1, 32);
    assert_eq!(found.kind, FaultKind::DivergentBarrier { active: 0xFFFF, all: u32::MAX });
    let found = fault("setp.lt.u32 %p1, %t, 16; @%p1 ret; bar.sync 0;", 1, 32);
    assert!(matches!(found.kind, FaultKind::DivergentBarrier { active: 0xFFFF_0000, .. }), "{found}");
    let found = fault("setp.lt.u32 %p1, %t, 32; @%p1 bra END; bar.sync 0; END:", 1, 64);
    assert_eq!(found.kind, FaultKind::BarrierStuck { barrier: 0, expected: 64, arrived: 32 });
    assert_eq!(found.thread, [32, 0, 0]);
    fine("setp.lt.u32 %p1, %t, 32; @%p1 bra END; bar.sync 3, 64; END:", 1, 96);
    let found = fault("bar.sync 1, 40;", 1, 64);
    assert!(matches!(found.kind, FaultKind::Barrier { barrier: 1, count: 40, .. }), "{found}");
    // Writers go on, readers wait.
    let split = "setp.lt.u32 %p1, %t, 32; @!%p1 bra READ; st.shared.u32 [%r21], %t; bar.arrive 1, 64; bra END; READ: bar.sync 1, 64; add.u32 %r3, %r21, -128; ld.shared.u32 %r1, [%r3]; END:";
    fine(split, 1, 64);
    let found = fault(&split.replace("bar.arrive 1, 64;", "").replace("bar.sync 1, 64;", ""), 1, 64);
    assert!(matches!(found.kind, FaultKind::Race { .. }), "{found}");
}

#[test]
fn barriers_that_count() {
    let body = "setp.lt.u32 %p1, %t, 40; bar.red.popc.u32 %r1, 0, %p1; bar.red.and.pred %p2, 0, %p1; bar.red.or.pred %p3, 0, %p1; selp.u32 %r2, 1, 0, %p2; selp.u32 %r3, 2, 0, %p3; add.u32 %r2, %r2, %r3; mad.lo.u32 %r1, %r2, 1000, %r1; st.global.u32 [%x3], %r1;";
    let mut device = Device::new(&kernel(body));
    let memory = device.put(&[0u32; 64]);
    device.launch("k", [1, 1, 1], [64, 1, 1], 0, &[memory], &[8]).unwrap();
    assert_eq!(device.get::<u32>(memory, 64), [2040; 64]);
}

#[test]
fn warps_stay_together_where_they_must() {
    let shuffle = "shfl.sync.idx.b32 %r1, %t, 0, 31, 0xffffffff;";
    fine(shuffle, 1, 32);
    let found = fault(&format!("setp.lt.u32 %p1, %t, 8; @%p1 bra A; {shuffle} A:"), 1, 32);
    assert_eq!(found.kind, FaultKind::DivergentWarp { active: 0xFFFF_FF00, named: u32::MAX });
    let found = fault("setp.lt.u32 %p1, %t, 8; @%p1 bra A; shfl.sync.idx.b32 %r1, %t, 0, 31, 0xffffff00; A:", 1, 32);
    assert_eq!(found.kind, FaultKind::ShuffleSource { source_lane: 0 });
    let found = fault("setp.lt.u32 %p1, %t, 8; @%p1 bar.warp.sync 0xffffffff;", 1, 32);
    assert!(matches!(found.kind, FaultKind::DivergentWarp { .. }), "{found}");
    // Lanes meet again behind a branch, a loop of different lengths and a switch.
    fine(
        &format!(
            "mov.u32 %r2, %t; LOOP: setp.eq.u32 %p1, %r2, 0; @%p1 bra OUT; add.u32 %r2, %r2, -1; and.b32 %r3, %r2, 3; setp.eq.u32 %p2, %r3, 1; @%p2 bra LOOP; bra.uni LOOP; OUT: {shuffle}"
        ),
        1,
        32,
    );
    fine(
        &format!(
            "and.b32 %r2, %t, 3; L: .branchtargets A, B, C, B; brx.idx %r2, L; A: mov.u32 %r3, 1; bra E; B: mov.u32 %r3, 2; bra E; C: mov.u32 %r3, 3; E: {shuffle} add.u32 %r3, %r3, 1;"
        ),
        1,
        32,
    );
}

#[test]
fn endless_loops_and_traps_end() {
    let mut device = Device::new(&kernel("L: bra L;"));
    device.machine.set_budget(10_000);
    let memory = device.put(&[0u32]);
    let error = device.launch("k", [1, 1, 1], [32, 1, 1], 0, &[memory], &[8]).unwrap_err();
    assert!(matches!(&error, PtxError::Fault(f) if f.kind == FaultKind::Budget(10_000)), "{error}");
    assert_eq!(fault("setp.eq.u32 %p1, %t, 5; @%p1 trap;", 1, 32).thread, [5, 0, 0]);
}

#[test]
fn launches_that_a_device_refuses() {
    let mut device = Device::new(&format!(
        "{HEAD}.visible .entry k(.param .u64 a, .param .u32 b) .maxntid 128, 1, 1 {{ ret; }} .visible .entry j() .reqntid 32 {{ ret; }}"
    ));
    let mut launch = |kernel: &str, grid: [u32; 3], block: [u32; 3], shared: u32, bytes: usize| {
        device.machine.launch(&device.module, kernel, grid, block, shared, &vec![0; bytes]).map_err(|e| e.to_string())
    };
    launch("k", [1, 1, 1], [128, 1, 1], 163 << 10, 12).unwrap();
    for (result, part) in [
        (launch("k", [1, 1, 1], [32, 1, 1], 0, 16), "16 bytes of parameters; the kernel takes 12"),
        (launch("k", [1, 1, 1], [129, 1, 1], 0, 12), "at most 128"),
        (launch("k", [1, 0, 1], [1, 1, 1], 0, 12), "empty"),
        (launch("k", [1, 65_536, 1], [1, 1, 1], 0, 12), "larger"),
        (launch("k", [1, 1, 1], [1, 1, 1], (163 << 10) + 1, 12), "shared memory"),
        (launch("j", [1, 1, 1], [16, 2, 1], 0, 0), "compiled for"),
        (launch("i", [1, 1, 1], [1, 1, 1], 0, 0), "it has j, k"),
    ] {
        let error = result.unwrap_err();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn memory_is_bounded_and_comes_back() {
    let mut machine = Machine::new(1 << 16);
    let all: Vec<u64> = (0..32).map(|_| machine.alloc(1000).unwrap()).collect();
    assert!(all.iter().all(|a| a.is_multiple_of(256)));
    let error = machine.alloc(60_000).unwrap_err();
    assert!(matches!(error, PtxError::OutOfMemory { requested: 60_000, .. }), "{error}");
    assert!(machine.alloc(u64::MAX).is_err());
    for address in all {
        machine.free(address).unwrap();
    }
    let whole = machine.alloc(65_000).unwrap();
    machine.write(whole, &[7; 65_000]).unwrap();
    machine.copy(whole + 1, whole, 64_999).unwrap();
    assert!(machine.copy(whole + 2, whole, 64_999).is_err());
    assert!(machine.write(whole - 1, &[1]).is_err());
}

#[test]
fn what_is_not_known_is_refused_when_it_is_read() {
    for (body, part) in [
        ("wgmma.fence.sync.aligned;", "unknown instruction"),
        ("atom.global.add.f32 %f9, [%x1], %f1;", "no fixed order"),
        ("add.s32 %r9, %r1, %d1;", "register %d1 is of another size"),
        ("add.s32 %r9, %r1, %q1;", "%q1"),
        ("bra NOWHERE;", "no label NOWHERE"),
        ("ld.global.u32.x7 %r1, [%x1];", ".x7"),
        (
            "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%r1,%r2}, {%r1,%r2,%r3,%r4}, {%r1,%r2}, {%r1,%r2};",
            "mma of f16",
        ),
    ] {
        let error = Machine::new(1 << 20).load(&around(body)).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("function k") && error.contains("PTX line"), "{error}");
    }
}
