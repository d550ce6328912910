//! The pool: runs the phases of a job on several threads, with as little waiting as can be.
//!
//! A [`Job`] is a sequence of phases; a phase is a number of items that may run in any order, on any
//! thread. A phase begins when all items of the one before are done.
//!
//! * **Nobody waits for a thread, only for work that a thread has begun.** Items are claimed one by
//!   one; a worker that the system has put aside holds no item, and the caller finishes alone.
//! * Each thread has a share of the items, the same in every phase of so many, so that the same rows tend
//!   to meet the same cache; when it is done, and the others are not soon after, it helps them.
//! * Workers spin for some tens of microseconds after their last item, then park.
//! * If the pool is busy with another caller's job, the job runs on the caller alone.
//!
//! Results cannot depend on who runs an item: items are independent, and each has its order fixed.
//!
//! The protocol. One word, `phase`, holds a stamp that grows with every phase, the number of threads
//! that may take part, and the number of items. Each thread's share has a word of its own, with the stamp
//! of the phase that it was last used in and how many of its items have been claimed then. An item is
//! claimed by exchanging that word for the phase's stamp and one item more; an older stamp counts as none
//! claimed, so that nobody has to set the words back. Once a phase has ended, every share that has items
//! says that all are claimed, or has a later stamp: a late thread with an old phase gets nothing. Threads
//! count what they have completed; who completes the last item publishes the next phase. The job itself
//! is read only by a thread that holds a claim which is not counted yet, which proves that the caller is
//! still there.
//!
//! What limits a short phase is how often a cache line must pass from core to core. So a share's word is
//! touched by its own thread only, unless somebody helps; a thread counts its items in one go; and that
//! count, the phase and where the job is share a line.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, TryLockError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::simd::FlushDenormals;

/// Work in phases of independent items.
pub trait Job: Sync {
    /// Number of phases.
    fn phases(&self) -> usize;
    /// Number of items in a phase.
    fn items(&self, phase: usize) -> usize;
    /// Runs an item, on thread `worker` (the caller is 0).
    fn run(&self, phase: usize, item: usize, worker: usize);
}

/// Claims that a phase has room for; phases with more items hand them out in runs.
const MAX_CLAIMS: usize = 1024;
/// Looks at the phase, some nanoseconds each, before a thread pauses between them: a pause takes longer than
/// a line needs to pass between cores.
const EAGER: u32 = 1000;
/// Looks at the phase before a thread helps others with their shares: a fraction of a microsecond, which an item that
/// is worth it outlasts.
const PATIENCE: u32 = 300;
/// Most threads of a region.
pub const MAX_THREADS: usize = 256;
const ITEM_BITS: u32 = 11;
const WIDTH_BITS: u32 = 9;
/// How long a worker looks for work before it parks.
const SPIN: Duration = Duration::from_micros(50);

/// A phase as it is published.
#[derive(Clone, Copy, PartialEq)]
struct Phase {
    stamp: u64,
    width: usize,
    claims: usize,
}

impl Phase {
    fn pack(self) -> u64 {
        self.stamp << (ITEM_BITS + WIDTH_BITS) | (self.width as u64) << ITEM_BITS | self.claims as u64
    }
    fn unpack(word: u64) -> Self {
        let field = |shift: u32, bits: u32| (word >> shift & ((1 << bits) - 1)) as usize;
        Phase {
            stamp: word >> (ITEM_BITS + WIDTH_BITS),
            width: field(ITEM_BITS, WIDTH_BITS),
            claims: field(0, ITEM_BITS),
        }
    }
}

/// The job of the region that is under way.
#[derive(Clone, Copy)]
struct Current {
    job: *const (dyn Job + 'static),
    /// Stamp of the job's first phase.
    first: u64,
}

#[repr(align(128))] // a line of its own, and the neighbour that the prefetcher brings along
struct Line<T>(T);

/// What the phases of a region pass through.
struct Board {
    phase: AtomicU64,
    /// Claims of the phase that are completed and counted.
    done: AtomicU32,
    /// Whether an item of the region panicked: what is left is counted, and not run.
    failed: AtomicBool,
    current: UnsafeCell<Option<Current>>,
}

struct Pool {
    /// Held by the caller whose region runs.
    region: Mutex<()>,
    board: Line<Board>,
    /// By thread: stamp of the phase that its share was last used in, and the claims made of it then.
    shares: Box<[Line<AtomicU64>]>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    workers: AtomicUsize,
    growing: Mutex<()>,
    parked: Box<[Line<Parked>]>,
}

/// A worker's bed.
struct Parked {
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
}

// SAFETY: `current` is written by the caller between regions, when no claim is open, and read only by
// threads that hold a claim of the region; see the module's text.
unsafe impl Sync for Pool {}
// SAFETY: as above; nothing in it is bound to a thread.
unsafe impl Send for Pool {}

static POOL: AtomicPtr<Pool> = AtomicPtr::new(std::ptr::null_mut());
static REQUESTED: AtomicUsize = AtomicUsize::new(0);

/// Where the number of threads came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThreadsFrom {
    /// [`set_num_threads`].
    Call,
    /// An environment variable.
    Environment(&'static str),
    /// The CPUs that this process may use: affinity and control-group quota.
    Cpus,
}

/// How many threads a region may use, and why.
pub fn num_threads() -> (usize, ThreadsFrom) {
    static DEFAULT: OnceLock<(usize, ThreadsFrom)> = OnceLock::new();
    match REQUESTED.load(Ordering::Relaxed) {
        0 => DEFAULT
            .get_or_init(|| {
                for name in ["THALWEG_NUM_THREADS", "OMP_NUM_THREADS"] {
                    // OpenMP allows a list, one number a nesting level; the first is ours.
                    let value = std::env::var(name).ok();
                    let first = value.as_deref().and_then(|v| v.split(',').next());
                    if let Some(n) = first.and_then(|v| v.trim().parse::<usize>().ok()).filter(|&n| n > 0) {
                        return (n.min(MAX_THREADS), ThreadsFrom::Environment(name));
                    }
                }
                (available_cpus().min(MAX_THREADS), ThreadsFrom::Cpus)
            })
            .clone(),
        n => (n, ThreadsFrom::Call),
    }
}

/// CPUs that this process may use.
pub fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Sets how many threads regions may use, from 1 to [`MAX_THREADS`].
///
/// # Panics
/// If `n` is outside of that.
pub fn set_num_threads(n: usize) {
    assert!((1..=MAX_THREADS).contains(&n));
    REQUESTED.store(n, Ordering::Relaxed);
}

/// Forgets the pool, whose threads did not survive a fork. To be called in the child.
pub fn after_fork() {
    // Leaked: its locks may be held by threads that no longer exist.
    POOL.store(std::ptr::null_mut(), Ordering::Release);
}

/// Runs all phases of `job` on at most `threads` threads, the caller among them.
///
/// Denormal numbers are flushed to zero meanwhile; the caller's mode is restored.
///
/// # Panics
/// With the first panic of an item, after all threads have left the job; later phases are not begun.
pub fn run(job: &dyn Job, threads: usize) {
    let _mode = FlushDenormals::new();
    if threads > 1 {
        let pool = Pool::get();
        let region = match pool.region.try_lock() {
            // A panic came out there, after all threads had left the job.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            other => other.ok(),
        };
        if let Some(_region) = region {
            return pool.run(job, threads.min(MAX_THREADS));
        }
    }
    for phase in 0..job.phases() {
        for item in 0..job.items(phase) {
            job.run(phase, item, 0);
        }
    }
}

impl Pool {
    fn get() -> &'static Pool {
        let existing = POOL.load(Ordering::Acquire);
        let pool = if existing.is_null() {
            let fresh = Box::into_raw(Box::new(Pool::new()));
            match POOL.compare_exchange(std::ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => fresh,
                Err(other) => {
                    // SAFETY: `fresh` came from Box::into_raw and was seen by nobody else.
                    drop(unsafe { Box::from_raw(fresh) });
                    other
                }
            }
        } else {
            existing
        };
        // SAFETY: a published pool is never freed.
        unsafe { &*pool }
    }

    fn new() -> Self {
        let parked = || Line(Parked { asleep: AtomicBool::new(false), thread: OnceLock::new() });
        Pool {
            region: Mutex::new(()),
            board: Line(Board {
                phase: AtomicU64::new(0),
                done: AtomicU32::new(0),
                failed: AtomicBool::new(false),
                current: UnsafeCell::new(None),
            }),
            shares: (0..MAX_THREADS).map(|_| Line(AtomicU64::new(0))).collect(),
            panic: Mutex::new(None),
            workers: AtomicUsize::new(0),
            growing: Mutex::new(()),
            parked: (0..MAX_THREADS).map(|_| parked()).collect(),
        }
    }

    /// Sees to it that workers 1 .. threads exist. Fewer are no error: the caller can finish alone.
    fn grow(&'static self, threads: usize) {
        if self.workers.load(Ordering::Relaxed) + 1 >= threads {
            return;
        }
        let _growing = self.growing.lock().unwrap_or_else(|e| e.into_inner());
        while self.workers.load(Ordering::Relaxed) + 1 < threads {
            let worker = self.workers.load(Ordering::Relaxed) + 1;
            let builder = std::thread::Builder::new().name(format!("thalweg-{worker}"));
            let Ok(handle) = builder.spawn(move || self.work(worker)) else { return };
            let _ = self.parked[worker].0.thread.set(handle.thread().clone());
            self.workers.store(worker, Ordering::Relaxed);
        }
    }

    /// The caller's part of a region. The region lock is held.
    fn run(&'static self, job: &dyn Job, threads: usize) {
        let phases = job.phases();
        let Some(start) = (0..phases).find(|&p| job.items(p) > 0) else { return };
        self.grow(threads);
        let before = Phase::unpack(self.board.0.phase.load(Ordering::Relaxed)).stamp;
        let first = before + 1;
        // SAFETY: the lifetime is extended for as long as claims of this region can be held, and this
        // function returns only when all are done. Nobody reads `current` now: no claim is open.
        unsafe {
            let job: *const (dyn Job + '_) = job;
            let job = std::mem::transmute::<*const (dyn Job + '_), *const (dyn Job + 'static)>(job);
            *self.board.0.current.get() = Some(Current { job, first });
        }
        self.publish(Phase { stamp: first + start as u64, width: threads, claims: claims(job.items(start)) });

        // The stamp behind the last phase says that the region has ended.
        let end = first + phases as u64;
        let mut helped = 0;
        loop {
            let phase = self.next_stamp(helped);
            if phase.stamp >= end {
                break;
            }
            self.help(phase, 0);
            helped = phase.stamp;
        }
        if self.board.0.failed.swap(false, Ordering::Relaxed)
            && let Some(payload) = self.panic.lock().unwrap_or_else(|e| e.into_inner()).take()
        {
            resume_unwind(payload);
        }
    }

    /// The caller's wait for a phase behind one that it can do nothing for any more.
    fn next_stamp(&self, helped: u64) -> Phase {
        let mut waited = 0;
        loop {
            let phase = Phase::unpack(self.board.0.phase.load(Ordering::Acquire));
            if phase.stamp > helped {
                return phase;
            }
            relax(&mut waited);
        }
    }

    /// Runs what it can of a phase: its own share, then that of others.
    fn help(&self, phase: Phase, worker: usize) {
        self.share(phase, worker, worker);
        // Whoever is about to finish should not lose the line of their share to a look at it.
        for _ in 0..PATIENCE {
            if Phase::unpack(self.board.0.phase.load(Ordering::Acquire)).stamp != phase.stamp {
                return;
            }
        }
        for other in (worker + 1..phase.width).chain(0..worker) {
            self.share(phase, other, worker);
        }
    }

    /// Runs what is left of a share.
    fn share(&self, phase: Phase, of: usize, worker: usize) {
        let Some(claim) = self.claim(phase, of) else { return };
        // SAFETY: the claim is ours and not counted, so the phase has not ended and the job is alive.
        let Current { job, first } = unsafe { (*self.board.0.current.get()).expect("a region is under way") };
        // SAFETY: as above.
        let job = unsafe { &*job };
        let index = (phase.stamp - first) as usize;
        let items = job.items(index);
        let run = items.div_ceil(phase.claims);
        let mut next = Some(claim);
        let mut completed = 0;
        while let Some(claim) = next {
            let result = catch_unwind(AssertUnwindSafe(|| {
                for item in claim * run..((claim + 1) * run).min(items) {
                    if self.board.0.failed.load(Ordering::Relaxed) {
                        return;
                    }
                    job.run(index, item, worker);
                }
            }));
            if let Err(payload) = result {
                self.panic.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(payload);
                self.board.0.failed.store(true, Ordering::Relaxed);
            }
            completed += 1;
            next = self.claim(phase, of);
        }
        // The job may be gone once the last claim is counted: look ahead before.
        let next = (index + 1..job.phases()).find(|&p| job.items(p) > 0);
        let next = match next {
            Some(p) => Phase { stamp: first + p as u64, claims: claims(job.items(p)), ..phase },
            None => Phase { stamp: first + job.phases() as u64, claims: 0, ..phase },
        };
        if self.board.0.done.fetch_add(completed, Ordering::AcqRel) + completed == phase.claims as u32 {
            self.publish(next);
        }
    }

    /// Claims the next item, or run of items, of a thread's share of a phase.
    fn claim(&self, phase: Phase, of: usize) -> Option<usize> {
        // Where there are few, they are the first threads': a single one is the caller's.
        let begin = |thread: usize| (phase.claims * thread).div_ceil(phase.width);
        let (from, to) = (begin(of), begin(of + 1));
        let word = &self.shares[of].0;
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            let (stamp, claimed) = (seen >> ITEM_BITS, (seen & ((1 << ITEM_BITS) - 1)) as usize);
            let claimed = if stamp < phase.stamp { 0 } else { claimed };
            if stamp > phase.stamp || from + claimed >= to {
                return None;
            }
            let more = phase.stamp << ITEM_BITS | (claimed + 1) as u64;
            match word.compare_exchange_weak(seen, more, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Some(from + claimed),
                Err(now) => seen = now,
            }
        }
    }

    fn publish(&self, phase: Phase) {
        self.board.0.done.store(0, Ordering::Relaxed);
        self.board.0.phase.store(phase.pack(), Ordering::SeqCst);
        if phase.claims > 1 {
            for worker in 1..phase.width {
                let Parked { asleep, thread } = &self.parked[worker].0;
                if asleep.load(Ordering::SeqCst)
                    && asleep.swap(false, Ordering::SeqCst)
                    && let Some(thread) = thread.get()
                {
                    thread.unpark();
                }
            }
        }
    }

    /// A worker's life.
    fn work(&self, worker: usize) {
        let _mode = FlushDenormals::new();
        let mut seen = 0;
        loop {
            let word = self.next_phase(seen, worker);
            seen = word;
            let phase = Phase::unpack(word);
            if worker < phase.width {
                self.help(phase, worker);
            }
        }
    }

    /// Waits until the phase is another than `seen`: spinning first, then asleep.
    fn next_phase(&self, seen: u64, worker: usize) -> u64 {
        let Parked { asleep, .. } = &self.parked[worker].0;
        loop {
            let begin = Instant::now();
            let mut spins = 0u32;
            while spins < EAGER || !spins.is_multiple_of(64) || begin.elapsed() < SPIN {
                let word = self.board.0.phase.load(Ordering::Acquire);
                if word != seen {
                    return word;
                }
                spins += 1;
                if spins >= EAGER {
                    std::hint::spin_loop();
                }
            }
            asleep.store(true, Ordering::SeqCst);
            // A phase published since the last look might have missed the flag.
            while self.board.0.phase.load(Ordering::SeqCst) == seen && asleep.load(Ordering::SeqCst) {
                std::thread::park();
            }
            asleep.store(false, Ordering::SeqCst);
        }
    }
}

/// Claims that a number of items is handed out in.
fn claims(items: usize) -> usize {
    let run = items.div_ceil(MAX_CLAIMS).max(1);
    items.div_ceil(run)
}

/// Waits a moment: not at all first, then busily, then giving the CPU to whoever holds the item.
fn relax(waited: &mut u32) {
    *waited = waited.saturating_add(1);
    match *waited {
        0..EAGER => {}
        EAGER..3000 => std::hint::spin_loop(),
        _ => std::thread::yield_now(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Phases of counters; each phase checks that all before it were complete.
    struct Counting {
        items: Vec<usize>,
        counts: Vec<Vec<AtomicU32>>,
        busy: u32,
    }

    impl Counting {
        fn new(items: &[usize], busy: u32) -> Self {
            let counts = items.iter().map(|&n| (0..n).map(|_| AtomicU32::new(0)).collect()).collect();
            Counting { items: items.to_vec(), counts, busy }
        }
        fn check(&self) {
            for count in self.counts.iter().flatten() {
                assert_eq!(count.load(Ordering::Relaxed), 1, "every item runs exactly once");
            }
        }
    }

    impl Job for Counting {
        fn phases(&self) -> usize {
            self.items.len()
        }
        fn items(&self, phase: usize) -> usize {
            self.items[phase]
        }
        fn run(&self, phase: usize, item: usize, _: usize) {
            for earlier in &self.counts[..phase] {
                assert!(earlier.iter().all(|c| c.load(Ordering::Relaxed) == 1), "a phase began too early");
            }
            for _ in 0..self.busy {
                std::hint::spin_loop();
            }
            self.counts[phase][item].fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn every_item_runs_once_and_phases_follow_each_other() {
        for threads in [1, 2, 3, 8, 64] {
            for items in [&[1][..], &[0, 3, 0], &[7, 1, 5], &[64, 2, 64], &[5000, 3], &[]] {
                for busy in [0, 50] {
                    let job = Counting::new(items, busy);
                    run(&job, threads);
                    job.check();
                }
            }
        }
    }

    #[test]
    fn a_stress_of_short_regions() {
        for i in 0..20_000 {
            let job = Counting::new(&[2, 1 + i % 3, 2], 0);
            run(&job, 2 + i % 3);
            job.check();
        }
    }

    #[test]
    fn callers_at_the_same_time_all_finish() {
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..500 {
                        let job = Counting::new(&[3, 3], 10);
                        run(&job, 2);
                        job.check();
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_comes_out_at_the_caller_and_the_pool_survives() {
        struct Panics(AtomicBool);
        impl Job for Panics {
            fn phases(&self) -> usize {
                2
            }
            fn items(&self, _: usize) -> usize {
                4
            }
            fn run(&self, phase: usize, item: usize, _: usize) {
                self.0.fetch_or(phase > 0, Ordering::Relaxed);
                assert!(item != 2, "item two");
            }
        }
        /// Whether another thread than the caller took part.
        struct Shared(AtomicBool);
        impl Job for Shared {
            fn phases(&self) -> usize {
                1
            }
            fn items(&self, _: usize) -> usize {
                2
            }
            fn run(&self, _: usize, _: usize, worker: usize) {
                self.0.fetch_or(worker > 0, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        for threads in [1, 2] {
            let job = Panics(AtomicBool::new(false));
            assert!(catch_unwind(|| run(&job, threads)).is_err());
            assert!(!job.0.load(Ordering::Relaxed), "a phase was begun after a panic");
        }
        let job = Counting::new(&[4, 4], 0);
        run(&job, 2);
        job.check();
        // Regions of other tests may have the pool now, but not for ever.
        let begin = Instant::now();
        let job = Shared(AtomicBool::new(false));
        while !job.0.load(Ordering::Relaxed) {
            assert!(begin.elapsed() < Duration::from_secs(60), "the caller has been alone ever since");
            run(&job, 2);
        }
    }

    #[test]
    fn denormals_are_flushed_inside_and_not_outside() {
        struct Denormal(AtomicU32);
        impl Job for Denormal {
            fn phases(&self) -> usize {
                1
            }
            fn items(&self, _: usize) -> usize {
                8
            }
            fn run(&self, _: usize, _: usize, _: usize) {
                let tiny = std::hint::black_box(f32::MIN_POSITIVE) * std::hint::black_box(0.5);
                if tiny == 0.0 {
                    self.0.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        for threads in [1, 2] {
            let job = Denormal(AtomicU32::new(0));
            run(&job, threads);
            assert_eq!(job.0.load(Ordering::Relaxed), 8);
            let tiny = std::hint::black_box(f32::MIN_POSITIVE) * std::hint::black_box(0.5);
            assert!(tiny > 0.0, "the caller's mode is restored");
        }
    }

    #[test]
    fn a_phase_packs_into_a_word() {
        let phase = Phase { stamp: 123_456_789, width: MAX_THREADS, claims: MAX_CLAIMS };
        assert!(Phase::unpack(phase.pack()) == phase);
    }
}
