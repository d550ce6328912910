//! After its first step, training allocates nothing.

#![allow(unsafe_code)] // an allocator that counts

use std::alloc::{GlobalAlloc, Layout, System};
use std::env;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::gemm::Precision;
use crate::layer::{Activation, BatchNorm, Init, Layer, Linear, RowNorm};
use crate::loss::{Goals, Loss, Objective, Targets};
use crate::optim::{Adafactor, Adam, Config, Muon, Optimizer, Shampoo};
use crate::simd::Isa;
use crate::threads::set_num_threads;
use crate::train::StepOptions;
use crate::view::MatRef;
use crate::{Model, Trainer};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on unchanged to the system's allocator, which fulfils the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller makes the promises that `System.alloc` needs.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller makes the promises that `System.dealloc` needs; the memory came from it.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts are of the whole process, in which other tests run at the same time: so this one runs in a process
/// of its own.
#[test]
fn steps_and_predictions_allocate_nothing_once_their_shape_was_seen() {
    const ALONE: &str = "THALWEG_TEST_ALONE";
    if env::var_os(ALONE).is_some() {
        return count();
    }
    let this = env::current_exe().expect("a test binary has a path");
    let name = "tests::allocations::steps_and_predictions_allocate_nothing_once_their_shape_was_seen";
    let run =
        Command::new(this).args(["--exact", name]).env(ALONE, "1").output().expect("it runs as this does");
    let [out, err] = [run.stdout, run.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(run.status.success() && out.contains("1 passed"), "{out}{err}");
}

fn count() {
    let linear =
        |inputs, outputs| Layer::Linear(Linear { inputs, outputs, bias: true, init: Init::KaimingUniform });
    let (small, large) = ([4, 64, 2], [300, 300, 10]);
    let (adam, muon) = (Config::Adam(Adam::default()), Config::Muon(Muon::default()));
    let adafactor = Config::Adafactor(Adafactor::default());
    let shampoo = Config::Shampoo(Shampoo::default());
    let has_parts = Precision::Bf16x3.check::<f32>(Isa::detect().unwrap()).is_ok();
    let parts = if has_parts { Precision::Bf16x3 } else { Precision::Full };
    let full = Precision::Full;
    for (threads, widths, rows, config, precision, times) in [
        (1, small, 64, adam, full, 100),
        (2, large, 200, adam, full, 100),
        (2, large, 200, adam, parts, 100),
        (1, small, 64, muon, full, 10),
        (1, small, 64, adafactor, full, 10),
        (1, small, 64, shampoo, full, 3),
        (2, small, 64, shampoo, full, 3),
    ] {
        set_num_threads(threads);
        let layers = vec![
            linear(widths[0], widths[1]),
            Layer::BatchNorm(BatchNorm { features: widths[1], eps: 1e-5, momentum: 0.1, affine: true }),
            Layer::Activation(Activation::Gelu),
            Layer::RowNorm(RowNorm {
                features: widths[1],
                eps: None,
                centred: true,
                scale: true,
                shift: true,
            }),
            Layer::Residual(vec![
                Layer::Residual(vec![linear(widths[1], widths[1])]),
                Layer::Activation(Activation::Dropout(0.5)),
            ]),
            Layer::Concatenate(vec![linear(widths[1], widths[1])]),
            linear(2 * widths[1], widths[2]),
        ];
        let mut model = Model::<f32>::new(layers, 0).unwrap();
        let constants = vec![1.5; widths[2]];
        let objective = Objective { constants, ..Loss::CROSS_ENTROPY.into() };
        let options = StepOptions { precision, ..StepOptions::default() };
        let mut trainer = Trainer::with_options(objective, options).unwrap();
        let mut optimizer = Optimizer::new(config, model.network()).unwrap();
        let x: Vec<f32> = (0..rows * widths[0]).map(|i| (i as f32).sin()).collect();
        let y: Vec<i64> = (0..rows).map(|i| (i % widths[2]) as i64).collect();
        let weights: Vec<f32> = (0..rows).map(|i| (i % 3) as f32).collect();
        let x = MatRef::new(&x, rows, widths[0]);
        let mut output = vec![0.0; rows * widths[2]];
        let mut round = || {
            let weighted = Goals { targets: Targets::Labels(&y), weights: Some(&weights) };
            trainer.step(&mut model, &mut optimizer, x, weighted).unwrap();
            trainer
                .step(
                    &mut model,
                    &mut optimizer,
                    x.block(0, rows / 2, 0, widths[0]),
                    Targets::Labels(&y[..rows / 2]),
                )
                .unwrap();
            model.predict(x, &mut output).unwrap();
            trainer.evaluate(&mut model, x, Targets::Labels(&y)).unwrap();
        };
        round();
        round();
        // If steps allocated, that would show in every window; a thread of the pool or of the test harness
        // that is just starting shows in only one.
        let windows = [(); 3].map(|()| {
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            (0..times).for_each(|_| round());
            ALLOCATIONS.load(Ordering::Relaxed) - before
        });
        assert_eq!(windows.into_iter().min(), Some(0), "{config:?} on {threads} threads");
    }
}
