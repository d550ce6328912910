//! The threads of the pool, and the protocol by which they pass from phase to phase.
//!
//! One word, `phase`, holds a stamp that grows with every phase, the number of threads that may take part,
//! and the number of items. Each thread's share has a word of its own, which holds the stamp of the phase it
//! was last used in and how many of its items have been claimed in that phase. An item is claimed by
//! exchanging that word for one with the current phase's stamp and one more item; an older stamp counts as
//! nothing claimed, so nobody has to reset the words. Once a phase has ended, the word of every share that
//! had items says that all are claimed, or has a later stamp, so a late thread that still has the old phase
//! gets nothing. Threads count the items they have completed; the thread that completes the last one
//! publishes the next phase. Only a thread that holds a claim not yet counted reads the job itself: such a
//! claim proves that the caller is still there.
//!
//! What limits a short phase is how often a cache line must pass from core to core. So the word of a share is
//! touched by its own thread only, unless somebody helps; a thread counts all its items at once; and that
//! count, the phase and the pointer to the job share one cache line.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::{Job, MAX_THREADS};
use crate::simd::FlushDenormals;

/// Most claims in a phase; phases with more items hand them out in runs.
pub(super) const MAX_CLAIMS: usize = 1024;
/// How often a thread looks at the phase, some nanoseconds each, before it pauses between looks: a pause
/// takes longer than a cache line needs to pass between cores.
const EAGER: u32 = 1000;
/// How often a thread looks at the phase before it helps others with their shares: a fraction of a
/// microsecond. An item worth helping with takes longer.
const PATIENCE: u32 = 300;
const ITEM_BITS: u32 = 11;
const WIDTH_BITS: u32 = 9;
/// Number of stamps after which a pool is replaced by a new one: long before they wrap around, which takes
/// some months of short steps.
const WORN: u64 = 1 << (63 - ITEM_BITS - WIDTH_BITS);
/// How long a worker looks for work before it parks.
const SPIN: Duration = Duration::from_micros(50);

/// A phase, as published.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Phase {
    pub stamp: u64,
    pub width: usize,
    pub claims: usize,
}

impl Phase {
    pub fn pack(self) -> u64 {
        self.stamp << (ITEM_BITS + WIDTH_BITS) | (self.width as u64) << ITEM_BITS | self.claims as u64
    }
    pub fn unpack(word: u64) -> Self {
        let field = |shift: u32, bits: u32| (word >> shift & ((1 << bits) - 1)) as usize;
        Phase {
            stamp: word >> (ITEM_BITS + WIDTH_BITS),
            width: field(ITEM_BITS, WIDTH_BITS),
            claims: field(0, ITEM_BITS),
        }
    }
}

/// The job of the current region.
#[derive(Clone, Copy)]
struct Current {
    job: *const (dyn Job + 'static),
    /// Stamp of the job's phase 0, whether or not that phase has items.
    first: u64,
}

#[repr(align(128))] // a cache line of its own, and the neighbour that the prefetcher fetches with it
struct Line<T>(T);

/// What the phases of a region pass through.
struct Board {
    phase: AtomicU64,
    /// Claims of the phase that have been completed and counted.
    done: AtomicU32,
    /// Whether an item of the region panicked: the remaining claims are counted, but not run.
    failed: AtomicBool,
    current: UnsafeCell<Option<Current>>,
}

pub(super) struct Pool {
    region: Mutex<()>,
    board: Line<Board>,
    /// For each thread, the stamp of the phase its share was last used in, and how many claims were made in
    /// that phase.
    shares: Box<[Line<AtomicU64>]>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    workers: AtomicUsize,
    parked: Box<[Line<Parked>]>,
}

/// Aborts the process if dropped by a panic. A thread that unwinds with uncounted claims would leave the
/// caller waiting forever or, if it is the caller, others working on a job that is gone.
struct Uncounted;

impl Drop for Uncounted {
    fn drop(&mut self) {
        std::process::abort();
    }
}

/// Where a worker sleeps.
struct Parked {
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
}

// SAFETY: the only field that is not `Sync` is `current`. The caller that holds the region lock writes it
// between regions, when no claim is open; threads read it only while they hold an uncounted claim of the
// region, which they can get only after an acquiring load of the phase that the caller published after
// writing. See the module's text.
unsafe impl Sync for Pool {}
// SAFETY: `current` points to a `Job`, which is `Sync`; nothing else is bound to a thread.
unsafe impl Send for Pool {}

static POOL: AtomicPtr<Pool> = AtomicPtr::new(std::ptr::null_mut());

impl Pool {
    /// Forgets the pool.
    pub fn forget() {
        // Leaked, not dropped: its locks may be held by threads that no longer exist.
        POOL.store(std::ptr::null_mut(), Ordering::Release);
    }

    /// Lock held by the caller whose region is running.
    pub fn region(&self) -> &Mutex<()> {
        &self.region
    }

    /// The pool, created if necessary.
    pub fn get() -> &'static Pool {
        let existing = POOL.load(Ordering::Acquire);
        let pool = if existing.is_null() {
            let fresh = Box::into_raw(Box::new(Pool::new()));
            match POOL.compare_exchange(std::ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => fresh,
                Err(other) => {
                    // SAFETY: `fresh` came from Box::into_raw, and the exchange failed, so nobody else has
                    // seen it.
                    drop(unsafe { Box::from_raw(fresh) });
                    other
                }
            }
        } else {
            existing
        };
        // SAFETY: the pointer came from Box::into_raw, and a published pool is never freed.
        unsafe { &*pool }
    }

    pub(super) fn new() -> Self {
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
            parked: (0..MAX_THREADS).map(|_| parked()).collect(),
        }
    }

    /// Makes workers 1 .. threads exist. Having fewer is not an error: the caller can finish alone. The
    /// caller must hold the region lock.
    fn grow(&'static self, threads: usize) {
        while self.workers.load(Ordering::Relaxed) + 1 < threads {
            let worker = self.workers.load(Ordering::Relaxed) + 1;
            let builder = std::thread::Builder::new().name(format!("thalweg-{worker}"));
            let Ok(handle) = builder.spawn(move || self.work(worker)) else { return };
            let _ = self.parked[worker].0.thread.set(handle.thread().clone());
            self.workers.store(worker, Ordering::Relaxed);
        }
    }

    /// Lets it believe that it has workers.
    #[cfg(test)]
    pub fn pretend_workers(&self, workers: usize) {
        self.workers.store(workers, Ordering::Relaxed);
    }

    /// The caller's part of a region. The caller must hold the region lock.
    pub fn run(&'static self, job: &dyn Job, threads: usize) {
        let phases = job.phases();
        let Some(start) = (0..phases).find(|&p| job.items(p) > 0) else { return };
        self.grow(threads);
        let before = Phase::unpack(self.board.0.phase.load(Ordering::Relaxed)).stamp;
        let first = before + 1;
        if first > WORN {
            Pool::forget();
        }
        // SAFETY: the job is dereferenced only by holders of uncounted claims of this region, and this
        // function returns only when all claims are counted, so the extended lifetime is never used. The
        // write does not race: this thread holds the region lock, and no claim is open, so nobody reads
        // `current` now.
        unsafe {
            let job: *const (dyn Job + '_) = job;
            let job = std::mem::transmute::<*const (dyn Job + '_), *const (dyn Job + 'static)>(job);
            *self.board.0.current.get() = Some(Current { job, first });
        }
        self.publish(Phase { stamp: first + start as u64, width: threads, claims: claims(job.items(start)) });

        // The stamp after that of the last phase says that the region has ended.
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

    /// Lets the caller wait for a phase after the one in which it can do nothing more.
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

    /// Does what it can in a phase: the thread's own share, then those of others.
    fn help(&self, phase: Phase, worker: usize) {
        self.share(phase, worker, worker);
        // Looking at a share takes its cache line away from its thread, which may be about to finish: wait a
        // little.
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
        let uncounted = Uncounted;
        // SAFETY: we hold a claim that is not counted, so the phase has not ended: the job is alive, and
        // nobody writes `current`.
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
                    // SAFETY: the claim is ours alone, a phase begins only when all claims of the previous
                    // one are counted, and each thread has its own number and runs one item at a time.
                    unsafe { job.run(index, item, worker) };
                }
            }));
            if let Err(payload) = result {
                self.panic.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(payload);
                self.board.0.failed.store(true, Ordering::Relaxed);
            }
            completed += 1;
            next = self.claim(phase, of);
        }
        // The job may be gone once the last claim is counted, so find the next phase first.
        let next = (index + 1..job.phases()).find(|&p| job.items(p) > 0);
        let next = match next {
            Some(p) => Phase { stamp: first + p as u64, claims: claims(job.items(p)), ..phase },
            None => Phase { stamp: first + job.phases() as u64, claims: 0, ..phase },
        };
        if self.board.0.done.fetch_add(completed, Ordering::AcqRel) + completed == phase.claims as u32 {
            self.publish(next);
        }
        std::mem::forget(uncounted);
    }

    /// Claims the next item, or run of items, of a thread's share of a phase.
    fn claim(&self, phase: Phase, of: usize) -> Option<usize> {
        // Few items go to the first threads: a single one goes to the caller.
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

    /// The loop of a worker.
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

    /// Waits until the phase is no longer `seen`: spins first, then sleeps.
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
            // Whoever published a phase since the last look may not have seen the flag: look again.
            while self.board.0.phase.load(Ordering::SeqCst) == seen && asleep.load(Ordering::SeqCst) {
                std::thread::park();
            }
            asleep.store(false, Ordering::SeqCst);
        }
    }
}

/// How many claims a number of items is handed out in.
fn claims(items: usize) -> usize {
    let run = items.div_ceil(MAX_CLAIMS).max(1);
    items.div_ceil(run)
}

/// Waits a moment: at first not at all, then spinning, then giving up the CPU to whoever holds the item.
fn relax(waited: &mut u32) {
    *waited = waited.saturating_add(1);
    match *waited {
        0..EAGER => {}
        EAGER..3000 => std::hint::spin_loop(),
        _ => std::thread::yield_now(),
    }
}
