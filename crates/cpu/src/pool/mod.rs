//! A pool of persistent workers for short kernels: spin a moment, then park.
//!
//! A decode step is hundreds of operations of some microseconds each, so handing out work must cost far less than waking
//! a thread. Workers that have just finished spin for [`SPIN`] before they go to sleep; the caller takes part as worker
//! 0. Nothing is allocated per run.
//!
//! Which worker does which task is not fixed; results must not depend on it. Tasks therefore write disjoint outputs (see
//! [`Parts`]) and each output element is computed in one fixed order by one task.

mod freed;
mod parts;
mod scratch;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use freed::return_freed_memory;
pub use parts::{ChunksMut, GridMut, Parts, SharedMut, Tile};
pub use scratch::Scratch;

use crate::CpuError;

/// How long an idle worker (or a caller whose workers are not done) spins before it parks. Long enough to bridge the gap
/// between two operations of one step, short enough not to take a core from other processes.
pub const SPIN: Duration = Duration::from_micros(30);

/// The most workers of one pool.
pub const MAX_THREADS: usize = 4096;

const ACTIVE_BITS: u32 = 16;
const ACTIVE_MASK: u64 = (1 << ACTIVE_BITS) - 1;

type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Keeps an atomic on a cache line (pair) of its own.
#[derive(Default)]
#[repr(align(128))]
struct Padded<T>(T);

#[derive(Clone, Copy)]
struct Job {
    task: *const Task<'static>,
    n_tasks: usize,
    /// Workers that take part.
    active: usize,
}

struct Shared {
    /// Generation of the current job and, in the low bits, how many workers take part in it.
    signal: Padded<AtomicU64>,
    /// Next task to hand out, of each range of tasks.
    next: [Padded<AtomicUsize>; RANGES],
    /// Workers (without the caller) that are still in the job.
    pending: Padded<AtomicUsize>,
    /// The current job. Written by the caller while no worker is in a job, read by workers that take part.
    job: UnsafeCell<Option<Job>>,
    /// One flag a worker: parked or about to park.
    sleeping: Box<[Padded<AtomicBool>]>,
    caller_waits: AtomicBool,
    done_lock: Mutex<()>,
    done: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    stop: AtomicBool,
}

// SAFETY: the raw pointer in `job` is to a `Sync` closure that outlives the job (see `Pool::run`), and access to the
// cell is ordered by `signal` and `pending`.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

thread_local! {
    /// The pool whose task this thread is running, and as which worker.
    static CURRENT: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Persistent worker threads. See the module's documentation.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held for the length of a run: one job at a time, whoever calls.
    running: Mutex<()>,
}

impl Pool {
    /// A pool of `n_threads` workers, the caller of [`Pool::run`] being one of them.
    ///
    /// # Errors
    /// [`CpuError::ThreadCount`] for 0 or more than [`MAX_THREADS`]; [`CpuError::Spawn`] if the system refuses a thread.
    pub fn new(n_threads: usize) -> Result<Pool, CpuError> {
        if n_threads == 0 || n_threads > MAX_THREADS {
            return Err(CpuError::ThreadCount { found: n_threads, max: MAX_THREADS });
        }
        let shared = Arc::new(Shared {
            signal: Padded::default(),
            next: Default::default(),
            pending: Padded::default(),
            job: UnsafeCell::new(None),
            sleeping: (0..n_threads).map(|_| Padded::default()).collect(),
            caller_waits: AtomicBool::new(false),
            done_lock: Mutex::new(()),
            done: Condvar::new(),
            panic: Mutex::new(None),
            stop: AtomicBool::new(false),
        });
        let mut pool = Pool { shared, workers: Vec::new(), running: Mutex::new(()) };
        for index in 1..n_threads {
            let shared = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new()
                .name(format!("verve-{index}"))
                .spawn(move || worker_loop(&shared, index))
                .map_err(|source| CpuError::Spawn { index, n_threads, source })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Number of workers, the caller included.
    pub fn n_threads(&self) -> usize {
        self.shared.sleeping.len()
    }

    /// Calls `task(index, worker)` once for every `index < n_tasks`, on any workers (`worker < n_threads`), and returns
    /// when all are done. Tasks are handed out in increasing order. A call from inside a task of the same pool runs
    /// inline, as the worker it is on.
    ///
    /// # Panics
    /// With the panic of a task, after all workers have left the job. Tasks not yet begun are then skipped.
    pub fn run(&self, n_tasks: usize, task: &(dyn Fn(usize, usize) + Sync + '_)) {
        if n_tasks == 0 {
            return;
        }
        let id = Arc::as_ptr(&self.shared) as usize;
        let (pool, worker) = CURRENT.get();
        if pool == id {
            (0..n_tasks).for_each(|index| task(index, worker));
            return;
        }
        let _running = lock(&self.running);
        let _current = CurrentGuard::enter(id, 0);
        let active = self.n_threads().min(n_tasks);
        if active == 1 {
            (0..n_tasks).for_each(|index| task(index, 0));
            return;
        }
        self.publish(task, n_tasks, active);
        let own = catch_unwind(AssertUnwindSafe(|| self.shared.work(task, n_tasks, active, 0)));
        if own.is_err() {
            self.shared.skip_tasks(n_tasks);
        }
        self.wait_for_workers();
        let other = lock(&self.shared.panic).take();
        if let Some(payload) = own.err().or(other) {
            resume_unwind(payload);
        }
    }

    /// [`Pool::run`] over the parts of some outputs: `task(index, worker, part)` owns part `index`.
    pub fn for_each<P: Parts>(&self, parts: P, task: impl Fn(usize, usize, P::Part) + Sync) {
        self.run(parts.count(), &|index, worker| {
            // SAFETY: `run` hands out every index exactly once, and `parts` is borrowed until it returns.
            let part = unsafe { parts.part(index) };
            task(index, worker, part);
        });
    }

    /// Hands the job to workers `1..active` and wakes those that sleep.
    fn publish(&self, task: &Task<'_>, n_tasks: usize, active: usize) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime is erased. `run` does not return before `pending` is 0, that is, before the last
        // worker has made its last use of the pointer.
        let task = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        // SAFETY: `running` is held and `pending` is 0, so no worker reads the cell now: workers read it only between
        // seeing a new signal and decrementing `pending`.
        unsafe { *shared.job.get() = Some(Job { task, n_tasks, active }) };
        for (range, next) in shared.next.iter().enumerate().take(active) {
            next.0.store(range_of(range, n_tasks, active).start, Ordering::Relaxed);
        }
        shared.pending.0.store(active - 1, Ordering::Relaxed);
        let generation = (shared.signal.0.load(Ordering::Relaxed) >> ACTIVE_BITS).wrapping_add(1);
        shared.signal.0.store(generation << ACTIVE_BITS | active as u64, Ordering::SeqCst);
        for (worker, sleeping) in self.workers.iter().zip(&shared.sleeping[1..]).take(active - 1) {
            if sleeping.0.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
    }

    fn wait_for_workers(&self) {
        let shared = &*self.shared;
        if spin_until(|| shared.pending.0.load(Ordering::Acquire) == 0) {
            return;
        }
        let mut guard = lock(&shared.done_lock);
        shared.caller_waits.store(true, Ordering::SeqCst);
        while shared.pending.0.load(Ordering::SeqCst) != 0 {
            guard = shared.done.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        shared.caller_waits.store(false, Ordering::SeqCst);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // A new generation in which nobody takes part: workers wake, see `stop`, and leave.
        let generation = (self.shared.signal.0.load(Ordering::Relaxed) >> ACTIVE_BITS).wrapping_add(1);
        self.shared.signal.0.store(generation << ACTIVE_BITS, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of tasks, so that it cannot end with one.
            let _ = worker.join();
        }
    }
}

/// Tasks are handed out from so many ranges, at most. A worker begins with its own, so that tasks side by side, which often
/// read memory side by side, are mostly its own too; then it helps with the others. More ranges would have to be looked
/// through by every worker at the end.
const RANGES: usize = 4;

/// The tasks of a range.
fn range_of(range: usize, n_tasks: usize, active: usize) -> Range<usize> {
    let n = active.min(RANGES);
    n_tasks * range / n..n_tasks * (range + 1) / n
}

impl Shared {
    fn work(&self, task: &Task<'_>, n_tasks: usize, active: usize, worker: usize) {
        let n_ranges = active.min(RANGES);
        for turn in 0..n_ranges {
            let range = (worker + turn) % n_ranges;
            let end = range_of(range, n_tasks, active).end;
            loop {
                let index = self.next[range].0.fetch_add(1, Ordering::Relaxed);
                if index >= end {
                    break;
                }
                task(index, worker);
            }
        }
    }

    /// Hands out no more tasks.
    fn skip_tasks(&self, n_tasks: usize) {
        self.next.iter().for_each(|next| next.0.store(n_tasks, Ordering::Relaxed));
    }

    /// Waits for a signal other than `seen`.
    fn next_signal(&self, seen: u64, worker: usize) -> u64 {
        let changed = || self.signal.0.load(Ordering::SeqCst) != seen;
        if !spin_until(changed) {
            let sleeping = &self.sleeping[worker].0;
            loop {
                // In this order: a caller that misses the flag has stored its signal before, so that it is seen here.
                sleeping.store(true, Ordering::SeqCst);
                if changed() {
                    break;
                }
                std::thread::park();
            }
            sleeping.store(false, Ordering::SeqCst);
        }
        self.signal.0.load(Ordering::SeqCst)
    }
}

fn worker_loop(shared: &Shared, worker: usize) {
    let _current = CurrentGuard::enter(shared as *const Shared as usize, worker);
    let mut seen = 0;
    loop {
        seen = shared.next_signal(seen, worker);
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // One word holds generation and size of the job: a worker that takes no part may come late, when the cell
        // already belongs to another job, and must not look at it.
        if worker as u64 >= seen & ACTIVE_MASK {
            continue;
        }
        // SAFETY: this worker takes part in the current job, so that the caller does not touch the cell until this
        // worker has decremented `pending`; the store was made before the signal seen above.
        let job = unsafe { *shared.job.get() };
        if let Some(Job { task, n_tasks, active }) = job {
            // SAFETY: the closure outlives the job: `run` waits for `pending` before it returns or unwinds.
            let task = unsafe { &*task };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| shared.work(task, n_tasks, active, worker))) {
                shared.skip_tasks(n_tasks);
                lock(&shared.panic).get_or_insert(payload);
            }
        }
        if shared.pending.0.fetch_sub(1, Ordering::SeqCst) == 1 && shared.caller_waits.load(Ordering::SeqCst) {
            let _guard = lock(&shared.done_lock);
            shared.done.notify_one();
        }
    }
}

/// Spins for at most [`SPIN`]; true if the condition came true.
fn spin_until(condition: impl Fn() -> bool) -> bool {
    let mut start: Option<Instant> = None;
    loop {
        for _ in 0..32 {
            if condition() {
                return true;
            }
            std::hint::spin_loop();
        }
        match start {
            None => start = Some(Instant::now()),
            Some(start) if start.elapsed() >= SPIN => return false,
            Some(_) => {}
        }
    }
}

/// Locks, also after a panic elsewhere: the guarded data is never left half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets [`CURRENT`] and restores it, also on unwinding.
struct CurrentGuard {
    previous: (usize, usize),
}

impl CurrentGuard {
    fn enter(pool: usize, worker: usize) -> CurrentGuard {
        CurrentGuard { previous: CURRENT.replace((pool, worker)) }
    }
}

impl Drop for CurrentGuard {
    fn drop(&mut self) {
        CURRENT.set(self.previous);
    }
}
