//! The pool under stress.

use std::panic::catch_unwind;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::pool::{MAX_CLAIMS, Phase, Pool};
use super::{Job, MAX_THREADS, run};

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
    unsafe fn run(&self, phase: usize, item: usize, _: usize) {
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
fn a_caller_may_have_less_than_others() {
    let _turn = crate::tests::THREADS.lock().unwrap(); // nobody sets their number meanwhile
    let all = super::num_threads().0;
    let own = std::thread::spawn(|| {
        super::limit_own_threads(1);
        super::num_threads().0
    });
    assert_eq!(own.join().unwrap(), 1);
    assert_eq!(super::num_threads().0, all);
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
fn workers_that_never_come_are_not_waited_for() {
    let pool: &Pool = Box::leak(Box::new(Pool::new()));
    pool.pretend_workers(7); // as if the system ran none of them
    for items in [&[1][..], &[8, 64, 3], &[5000]] {
        let job = Counting::new(items, 0);
        pool.run(&job, 8);
        job.check();
    }
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
        unsafe fn run(&self, phase: usize, item: usize, _: usize) {
            self.0.fetch_or(phase > 0, Ordering::Relaxed);
            assert!(item != 2, "item two");
        }
    }
    /// Whether a thread other than the caller took part.
    struct Shared(AtomicBool);
    impl Job for Shared {
        fn phases(&self) -> usize {
            1
        }
        fn items(&self, _: usize) -> usize {
            2
        }
        unsafe fn run(&self, _: usize, _: usize, worker: usize) {
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
    // Regions of other tests may hold the pool now, but not forever.
    let begin = Instant::now();
    let job = Shared(AtomicBool::new(false));
    while !job.0.load(Ordering::Relaxed) {
        assert!(begin.elapsed() < Duration::from_secs(60), "the caller has been alone ever since");
        run(&job, 2);
    }
}

#[test]
fn denormals_are_flushed_inside_and_not_outside() {
    fn tiny() -> f32 {
        std::hint::black_box(f32::MIN_POSITIVE) * std::hint::black_box(0.5)
    }
    /// How many items flushed, and whether a worker other than the caller ran one.
    struct Denormal(AtomicU32, AtomicBool);
    impl Job for Denormal {
        fn phases(&self) -> usize {
            1
        }
        fn items(&self, _: usize) -> usize {
            4
        }
        unsafe fn run(&self, _: usize, _: usize, worker: usize) {
            self.0.fetch_add(u32::from(tiny() == 0.0), Ordering::Relaxed);
            self.1.fetch_or(worker > 0, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(1)); // so that a worker has time to come
        }
    }
    let begin = Instant::now();
    for threads in [1, 2] {
        let job = Denormal(AtomicU32::new(0), AtomicBool::new(false));
        let mut runs = 0;
        // Regions of other tests may hold the pool now, but not forever.
        while runs == 0 || (threads > 1 && !job.1.load(Ordering::Relaxed)) {
            assert!(begin.elapsed() < Duration::from_secs(60), "the caller has been alone ever since");
            run(&job, threads);
            runs += 1;
            assert!(tiny() > 0.0, "the caller's mode is restored");
        }
        assert_eq!(job.0.load(Ordering::Relaxed), 4 * runs);
    }
}

#[test]
fn a_phase_packs_into_a_word() {
    let phase = Phase { stamp: 123_456_789, width: MAX_THREADS, claims: MAX_CLAIMS };
    assert!(Phase::unpack(phase.pack()) == phase);
}
