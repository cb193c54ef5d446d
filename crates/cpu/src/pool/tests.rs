use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const THREADS: [usize; 4] = [1, 2, 3, 8];

/// Calls of each index, and workers out of range.
fn calls(pool: &Pool, n_tasks: usize) -> (Vec<usize>, usize) {
    let counts: Vec<AtomicUsize> = (0..n_tasks).map(|_| AtomicUsize::new(0)).collect();
    let strangers = AtomicUsize::new(0);
    pool.run(n_tasks, &|index, worker| {
        counts[index].fetch_add(1, Ordering::Relaxed);
        strangers.fetch_add(usize::from(worker >= pool.n_threads()), Ordering::Relaxed);
    });
    (counts.into_iter().map(AtomicUsize::into_inner).collect(), strangers.into_inner())
}

#[test]
fn every_task_runs_exactly_once() {
    for n_threads in THREADS {
        let pool = Pool::new(n_threads).unwrap();
        assert_eq!(pool.n_threads(), n_threads);
        // Many runs on one pool, so that workers meet the next job awake, about to sleep and asleep.
        for round in 0..200 {
            for n_tasks in [0, 1, 2, 3, 7, 8, 9, 100] {
                let (counts, strangers) = calls(&pool, n_tasks);
                assert!(counts.iter().all(|&count| count == 1), "{n_threads} threads, round {round}: {counts:?}");
                assert_eq!(strangers, 0);
            }
            if round % 50 == 0 {
                std::thread::sleep(2 * SPIN);
            }
        }
    }
}

#[test]
fn no_two_tasks_at_a_time_are_the_same_worker() {
    let pool = Pool::new(8).unwrap();
    let busy: Vec<AtomicUsize> = (0..8).map(|_| AtomicUsize::new(0)).collect();
    pool.run(400, &|_, worker| {
        assert_eq!(busy[worker].fetch_add(1, Ordering::SeqCst), 0, "worker {worker} is busy");
        std::thread::yield_now();
        busy[worker].fetch_sub(1, Ordering::SeqCst);
    });
}

#[test]
fn results_are_visible_to_the_caller_and_to_the_next_run() {
    for n_threads in THREADS {
        let pool = Pool::new(n_threads).unwrap();
        let mut sums = vec![0u64; 999];
        for _ in 0..50 {
            pool.for_each(ChunksMut::new(&mut sums, 10), |task, _, chunk| {
                chunk.iter_mut().enumerate().for_each(|(i, sum)| *sum += (10 * task + i) as u64);
            });
        }
        assert!(sums.iter().enumerate().all(|(i, sum)| *sum == 50 * i as u64));
    }
}

#[test]
fn panics_reach_the_caller_and_the_pool_works_on() {
    for n_threads in THREADS {
        let pool = Pool::new(n_threads).unwrap();
        for bad in [0, 1, 57, 99] {
            let payload = catch_unwind(AssertUnwindSafe(|| {
                pool.run(100, &|index, _| assert!(index != bad, "task {bad} is bad"));
            }))
            .unwrap_err();
            assert_eq!(payload.downcast_ref::<String>().unwrap(), &format!("task {bad} is bad"));
            let (counts, _) = calls(&pool, 20);
            assert!(counts.iter().all(|&count| count == 1), "after a panic on {n_threads} threads: {counts:?}");
        }
        // All workers at once.
        assert!(catch_unwind(AssertUnwindSafe(|| pool.run(64, &|_, _| panic!("all bad")))).is_err());
        assert_eq!(calls(&pool, 5).0, [1; 5]);
    }
}

#[test]
fn a_run_inside_a_task_is_inline_and_as_the_same_worker() {
    for n_threads in THREADS {
        let pool = Pool::new(n_threads).unwrap();
        let count = AtomicUsize::new(0);
        pool.run(12, &|_, outer| {
            let thread = std::thread::current().id();
            let mut order = Vec::new();
            let seen = Mutex::new(&mut order);
            pool.run(5, &|index, inner| {
                assert_eq!(inner, outer);
                assert_eq!(std::thread::current().id(), thread);
                lock(&seen).push(index);
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(order, [0, 1, 2, 3, 4]);
        });
        assert_eq!(count.into_inner(), 60);
    }
}

#[test]
fn pools_inside_each_other_and_callers_on_several_threads() {
    let (outer, inner) = (Pool::new(3).unwrap(), Pool::new(2).unwrap());
    let count = AtomicUsize::new(0);
    outer.run(6, &|_, outer_worker| {
        inner.run(7, &|_, worker| {
            assert!(worker < 2);
            // Back in the outer pool, from whichever thread: on one of its own, inline; on the inner pool's, it would
            // wait for the run it is part of, so that only threads of the outer pool may.
            count.fetch_add(1, Ordering::Relaxed);
        });
        outer.run(1, &|_, worker| assert_eq!(worker, outer_worker));
    });
    assert_eq!(count.into_inner(), 42);

    let count = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    outer.run(9, &|_, _| {
                        count.fetch_add(1, Ordering::Relaxed);
                    });
                }
            });
        }
    });
    assert_eq!(count.into_inner(), 4 * 50 * 9);
}

#[test]
fn thread_counts_out_of_range_are_errors() {
    for found in [0, MAX_THREADS + 1, usize::MAX] {
        assert!(matches!(Pool::new(found), Err(CpuError::ThreadCount { .. })), "{found}");
    }
}

#[test]
fn grids_cover_their_columns_once() {
    let (groups, group_rows, width) = (3, 7, 13);
    for (tile_rows, tile_cols) in [(1, 1), (2, 4), (3, 2), (7, 8), (100, 4)] {
        let pool = Pool::new(3).unwrap();
        let mut matrix = vec![0u32; groups * group_rows * width];
        let (left, rest) = GridMut::new(&mut matrix, width).split_columns(1);
        let (mid, right) = rest.split_columns(8);
        assert_eq!((left.rows(), right.rows()), (groups * group_rows, groups * group_rows));
        let tiles = mid.tiles(group_rows, tile_rows, tile_cols);
        assert_eq!(tiles.count(), groups * group_rows.div_ceil(tile_rows) * 8 / tile_cols);
        pool.for_each(tiles, |_, _, mut tile| {
            // No tile reaches into the next group.
            assert_eq!(tile.first_row() / group_rows, (tile.first_row() + tile.rows() - 1) / group_rows);
            assert_eq!(tile.cols(), tile_cols);
            for r in 0..tile.rows() {
                let row = (tile.first_row() + r) as u32;
                tile.row(r).iter_mut().for_each(|x| *x += 1 + row);
            }
        });
        for (i, x) in matrix.iter().enumerate() {
            let (row, column) = (i / width, i % width);
            assert_eq!(*x, if (1..9).contains(&column) { 1 + row as u32 } else { 0 }, "row {row}, column {column}");
        }
    }
}

#[test]
#[should_panic(expected = "outputs with different numbers of parts")]
fn outputs_of_a_run_must_have_as_many_parts() {
    let (mut a, mut b) = ([0; 10], [0; 10]);
    Pool::new(2).unwrap().for_each((ChunksMut::new(&mut a, 3), ChunksMut::new(&mut b, 5)), |_, _, _| {});
}

#[test]
fn scratch_grows_once_and_is_aligned() {
    let scratch = Scratch::new(2);
    assert_eq!(scratch.bytes(), 0);
    scratch.with(1, 1000, |memory: &mut [f32]| {
        assert_eq!(memory.len(), 1000);
        assert_eq!(memory.as_ptr() as usize % crate::ALIGN, 0);
        memory.fill(1.0);
        // Other workers' memory and the caller's are their own.
        scratch.with(0, 10, |other: &mut [f64]| assert_eq!(other.len(), 10));
        scratch.shared(10, |shared: &mut [u32]| assert_eq!(shared.len(), 10));
    });
    let held = scratch.bytes();
    for len in [1, 500, 1000] {
        scratch.with(1, len, |memory: &mut [f32]| assert_eq!(memory.len(), len));
    }
    assert_eq!(scratch.bytes(), held);
    let again = catch_unwind(AssertUnwindSafe(|| {
        scratch.with(0, 1, |_: &mut [u8]| scratch.with(0, 1, |_: &mut [u8]| ()));
    }));
    assert!(again.is_err(), "the memory of a worker was given out twice");
    scratch.with(0, 1, |_: &mut [u8]| ());
}
