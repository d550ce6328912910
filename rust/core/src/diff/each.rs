//! A function on each of some pieces of work that share nothing.

use std::sync::Mutex;

use crate::threads::{self, Job};

/// Runs `f` on all pieces, on at most `threads` threads. What comes out cannot depend on their number: a piece
/// is worked on by one thread, and knows of no other piece.
pub fn each<W: Send>(pieces: &mut [W], threads: usize, f: impl Fn(&mut W) + Sync) {
    struct Each<'w, W, F>(Vec<Mutex<&'w mut W>>, F);
    impl<W: Send, F: Fn(&mut W) + Sync> Job for Each<'_, W, F> {
        fn phases(&self) -> usize {
            1
        }
        fn items(&self, _: usize) -> usize {
            self.0.len()
        }
        fn run(&self, _: usize, item: usize, _: usize) {
            // Nobody else asks for it: an item runs once.
            let mut piece = self.0[item].lock().expect("an item runs once");
            self.1(&mut piece);
        }
    }
    threads::run(&Each(pieces.iter_mut().map(Mutex::new).collect(), f), threads);
}
