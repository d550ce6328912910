//! Measures the time of a region of empty phases, in nanoseconds: `cargo run --release --example pool
//! [threads]`.

use std::time::{Duration, Instant};

use thalweg_core::threads::{self, Job};

struct Empty {
    phases: usize,
    items: usize,
}

impl Job for Empty {
    fn phases(&self) -> usize {
        self.phases
    }
    fn items(&self, _: usize) -> usize {
        self.items
    }
    unsafe fn run(&self, _: usize, item: usize, _: usize) {
        std::hint::black_box(item);
    }
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(2);
    for phases in [1, 2, 4, 8] {
        for items in [threads, 4 * threads, 64 * threads] {
            let mut times = Vec::new();
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(200) {
                let start = Instant::now();
                for _ in 0..10 {
                    threads::run(&Empty { phases, items }, threads);
                }
                times.push(start.elapsed().as_secs_f64() * 1e8);
            }
            times.sort_by(f64::total_cmp);
            let at = |q: usize| times[(times.len() - 1) * q / 100];
            println!(
                "{phases} phases of {items:4} items: {:7.0} best {:7.0} median {:7.0} p90",
                at(0),
                at(50),
                at(90)
            );
        }
    }
}
