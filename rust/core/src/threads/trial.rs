//! Finds out, by trying now and then, whether a short job is done sooner by one thread or by several.
//!
//! That depends on what cannot be known in advance and changes while a program runs: how far apart the cores
//! are that the operating system gives it, whether other processes use them, and whether the caller comes
//! back so soon that workers are still awake or has to wake them each time. Who runs a job does not change
//! its result, so trials cost nothing but time.

use std::time::{Duration, Instant};

/// Runs of each kind (usual and other) in a trial.
const EACH: u32 = 5;
/// How many of these are ignored at the start: data are still in the caches of other cores.
const COLD: u32 = 2;
/// Runs from the start of one trial to that of the next: enough that the cost of the slower runs is
/// negligible.
const PERIOD: u32 = 1000;
/// The other kind becomes the usual one if it takes less than this fraction of the time.
const SOONER: f64 = 0.97;

/// Trials of a job that runs again and again. The first runs use all threads.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    /// Runs since the trial began.
    runs: u32,
    /// Whether one thread was found to be sooner.
    alone: bool,
    /// Shortest time of the usual kind, and of the other.
    least: [Duration; 2],
}

impl Trial {
    /// Whether the next run should be on one thread.
    pub fn alone(&self) -> bool {
        self.alone ^ (self.kind() == Some(1))
    }

    /// Which kind the next run times: 0 for the usual one, 1 for the other; `None` outside a trial.
    fn kind(&self) -> Option<usize> {
        (self.runs < 2 * EACH).then_some((self.runs / EACH) as usize)
    }

    /// Runs the job, which is to use as many threads as [`alone`](Self::alone) asked for.
    pub fn run(&mut self, job: impl FnOnce()) {
        if self.runs >= 2 * EACH || self.runs % EACH < COLD {
            job();
            self.count(None);
        } else {
            let begin = Instant::now();
            job();
            self.count(Some(begin.elapsed()));
        }
    }

    fn count(&mut self, took: Option<Duration>) {
        if let (Some(kind), Some(took)) = (self.kind(), took) {
            let first = self.runs % EACH == COLD;
            self.least[kind] = if first { took } else { self.least[kind].min(took) };
        }
        self.runs = (self.runs + 1) % PERIOD;
        if self.runs == 2 * EACH {
            let [usual, other] = self.least;
            self.alone ^= other < usual.mul_f64(SOONER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs jobs that take the given microseconds on one thread and on several. Returns how many ran on one.
    fn runs(trial: &mut Trial, count: u32, one: u64, several: u64) -> u32 {
        (0..count)
            .map(|_| {
                let alone = trial.alone();
                let timed = trial.kind().is_some() && trial.runs % EACH >= COLD;
                trial.count(timed.then(|| Duration::from_micros(if alone { one } else { several })));
                u32::from(alone)
            })
            .sum()
    }

    #[test]
    fn what_is_sooner_is_found_and_found_again_when_that_changes() {
        let mut trial = Trial::default();
        assert_eq!(runs(&mut trial, PERIOD, 12, 9), EACH, "several are sooner: one is tried only");
        assert_eq!(runs(&mut trial, PERIOD, 12, 21), PERIOD - EACH, "workers have to be woken from now on");
        assert_eq!(runs(&mut trial, PERIOD, 12, 21), PERIOD - EACH);
        assert_eq!(runs(&mut trial, PERIOD, 12, 9), 2 * EACH - EACH, "and are awake again");
    }

    #[test]
    fn nothing_changes_for_next_to_nothing() {
        let mut trial = Trial::default();
        assert_eq!(runs(&mut trial, PERIOD, 99, 100), EACH);
        assert_eq!(runs(&mut trial, PERIOD, 50, 100), PERIOD - EACH);
        assert_eq!(runs(&mut trial, PERIOD, 100, 99), PERIOD - EACH, "the other is tried, and left");
    }

    #[test]
    fn a_job_is_run_once_and_timed_in_trials() {
        let (mut trial, mut count) = (Trial::default(), 0);
        for _ in 0..PERIOD {
            let pause = Duration::from_micros(if trial.alone() { 300 } else { 3000 });
            trial.run(|| {
                count += 1;
                if count <= 2 * EACH {
                    std::thread::sleep(pause);
                }
            });
        }
        assert_eq!(count, PERIOD);
        assert!(trial.alone());
    }
}
