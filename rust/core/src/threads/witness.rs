//! Records what the items of jobs touch, for tests of the promise on which passes and updates base their
//! unsafe code: within a phase, no item touches what another one writes.
//!
//! [`Shared`](crate::arena::Shared) reports every slice and matrix that it lends. The items run one after the
//! other on the watching thread, under the numbers of several workers. Each worker has its own scratch, so
//! two items of the same worker may touch the same memory.

use std::cell::RefCell;
use std::ops::Range;

use super::Job;

/// A slice of memory that an item was lent.
#[derive(Clone)]
struct Touch {
    bytes: Range<usize>,
    write: bool,
    item: usize,
    worker: usize,
}

#[derive(Default)]
struct Log {
    /// The item that is running, and its worker.
    now: Option<(usize, usize)>,
    touches: Vec<Touch>,
    seen: usize,
    conflict: Option<String>,
}

thread_local! {
    static LOG: RefCell<Option<Log>> = const { RefCell::new(None) };
}

/// What was found while `f` ran: how many slices were lent to items, and the first two that conflict.
pub fn watch(f: impl FnOnce()) -> (usize, Option<String>) {
    LOG.replace(Some(Log::default()));
    f();
    let log = LOG.take().expect("put there");
    (log.seen, log.conflict)
}

/// Records rows of memory that are lent.
pub fn touch<T>(start: *const T, (rows, len, stride): (usize, usize, usize), write: bool) {
    LOG.with_borrow_mut(|log| {
        let Some(Log { now: Some((item, worker)), touches, .. }) = log else { return };
        for row in 0..rows {
            let from = start.wrapping_add(row * stride) as usize;
            let bytes = from..from + len * size_of::<T>();
            touches.push(Touch { bytes, write, item: *item, worker: *worker });
        }
    });
}

/// Runs a job, if this thread is watching.
pub fn run(job: &dyn Job, threads: usize) -> bool {
    if LOG.with_borrow(Option::is_none) {
        return false;
    }
    // A job within an item of another job: the outer item goes on afterwards.
    let outer = LOG.with_borrow_mut(|log| {
        let Log { now, touches, .. } = log.as_mut().expect("watched");
        (now.take(), std::mem::take(touches))
    });
    for phase in 0..job.phases() {
        for item in 0..job.items(phase) {
            let worker = item % threads;
            LOG.with_borrow_mut(|log| log.as_mut().expect("watched").now = Some((item, worker)));
            // SAFETY: this thread runs all items, one after the other and phase by phase.
            unsafe { job.run(phase, item, worker) };
        }
        LOG.with_borrow_mut(|log| log.as_mut().expect("watched").end(phase));
    }
    LOG.with_borrow_mut(|log| {
        let Log { now, touches, .. } = log.as_mut().expect("watched");
        (*now, *touches) = outer;
    });
    true
}

impl Log {
    /// Looks for conflicts within a phase.
    fn end(&mut self, phase: usize) {
        self.now = None;
        let mut touches = std::mem::take(&mut self.touches);
        self.seen += touches.len();
        touches.retain(|touch| !touch.bytes.is_empty());
        touches.sort_by_key(|touch| touch.bytes.start);
        // Of the touches so far, those that reach furthest, by worker: of writes, and of all touches.
        let mut open: Vec<Touch> = Vec::new();
        for touch in touches {
            open.retain(|before| before.bytes.end > touch.bytes.start);
            let meets = |before: &&Touch| before.worker != touch.worker && (before.write || touch.write);
            if let Some(before) = open.iter().find(meets)
                && self.conflict.is_none()
            {
                let verb = |t: &Touch| if t.write { "writes" } else { "reads" };
                self.conflict = Some(format!(
                    "phase {phase}: item {} {} what item {} {}, {} bytes in",
                    touch.item,
                    verb(&touch),
                    before.item,
                    verb(before),
                    touch.bytes.start - before.bytes.start
                ));
            }
            // A touch of the same worker and kind that ends later also stands for this one.
            let covered = |t: &Touch| {
                t.worker == touch.worker && t.write == touch.write && t.bytes.end >= touch.bytes.end
            };
            if !open.iter().any(covered) {
                open.push(touch);
            }
        }
    }
}

mod tests {
    use super::*;
    use crate::arena::Shared;

    /// Items that each write some numbers starting at a multiple of 10, and read the one before these.
    struct Writes<'a>(Shared<'a, f32>, usize, bool);
    impl Job for Writes<'_> {
        fn phases(&self) -> usize {
            1
        }
        fn items(&self, _: usize) -> usize {
            5
        }
        unsafe fn run(&self, _: usize, item: usize, _: usize) {
            // SAFETY: the witness runs items one after the other, so no two slices are in use at the same
            // time.
            unsafe {
                self.0.slice_mut(10 * item..10 * item + self.1)[0] += 1.0;
                if self.2 && item > 0 {
                    let _ = self.0.slice(10 * item - 1..10 * item)[0];
                }
            }
        }
    }

    #[test]
    fn items_that_meet_are_found() {
        let mut room = vec![0.0; 60];
        let mut watch = |len, reads| {
            let job = Writes(Shared::new(&mut room), len, reads);
            watch(|| super::super::run(&job, 2))
        };
        assert_eq!(watch(10, false), (5, None));
        assert_eq!(watch(9, true), (9, None), "nobody writes what is read");
        let (_, found) = watch(11, false);
        assert!(found.unwrap().starts_with("phase 0: item 1 writes what item 0 writes, 40 bytes in"));
        let (_, found) = watch(10, true);
        assert!(found.unwrap().contains("reads what item"), "the last number of the one before");
    }
}
