//! The threads of the pool, and the protocol by which phases pass among them.
//!
//! One word, `phase`, holds a stamp that grows with every phase, the number of threads
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
use std::sync::{Mutex, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::{Job, MAX_THREADS};
use crate::simd::FlushDenormals;

/// Claims that a phase has room for; phases with more items hand them out in runs.
pub(super) const MAX_CLAIMS: usize = 1024;
/// Looks at the phase, some nanoseconds each, before a thread pauses between them: a pause takes longer than
/// a line needs to pass between cores.
const EAGER: u32 = 1000;
/// Looks at the phase before a thread helps others with their shares: a fraction of a microsecond, which an item that
/// is worth it outlasts.
const PATIENCE: u32 = 300;
const ITEM_BITS: u32 = 11;
const WIDTH_BITS: u32 = 9;
/// How long a worker looks for work before it parks.
const SPIN: Duration = Duration::from_micros(50);

/// A phase as it is published.
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

pub(super) struct Pool {
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

impl Pool {
    /// Forgets the pool.
    pub fn forget() {
        // Leaked: its locks may be held by threads that no longer exist.
        POOL.store(std::ptr::null_mut(), Ordering::Release);
    }

    /// Held by the caller whose region runs.
    pub fn region(&self) -> &Mutex<()> {
        &self.region
    }

    /// The pool, made if need be.
    pub fn get() -> &'static Pool {
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
    pub fn run(&'static self, job: &dyn Job, threads: usize) {
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
