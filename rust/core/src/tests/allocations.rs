//! After its first step, training allocates nothing: neither from the allocator, nor from the system.

#![allow(unsafe_code)] // an allocator that counts

use std::alloc::{GlobalAlloc, Layout, System};
use std::env;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use half::f16;

use super::training::{Data, layers, momentum};
use super::works::{ways, works};
use crate::along::{Path, Penalty};
use crate::arena::Buffer;
use crate::data::Samples;
use crate::gemm::Precision;
use crate::layer::{Activation, BatchNorm, Init, Layer, Linear, RowNorm};
use crate::loss::{Goals, Loss, Objective, Targets};
use crate::optim::{Adafactor, Adam, Config, Muon, Optimizer, Shampoo};
use crate::pages;
use crate::simd::Isa;
use crate::threads::set_num_threads;
use crate::train::StepOptions;
use crate::update::{Average, Averaging};
use crate::view::MatRef;
use crate::{Fit, FitOptions, Model, Trainer};

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

/// How much was allocated and mapped so far.
fn allocated() -> usize {
    ALLOCATIONS.load(Ordering::Relaxed) + pages::MAPPED.load(Ordering::Relaxed)
}

/// How much is allocated when something is done. If it allocates, that shows in every window; a thread of the
/// pool or of the test harness that is just starting shows in only one.
fn count(mut f: impl FnMut()) -> usize {
    let windows = [(); 3].map(|()| {
        let before = allocated();
        f();
        allocated() - before
    });
    windows.into_iter().min().expect("there are three")
}

/// Counts are of the whole process, in which other tests run at the same time: so these run in a process of
/// their own.
fn alone(name: &str, test: impl FnOnce()) {
    const ALONE: &str = "THALWEG_TEST_ALONE";
    if env::var_os(ALONE).is_some() {
        return test();
    }
    let this = env::current_exe().expect("a test binary has a path");
    let name = format!("tests::allocations::{name}");
    let run =
        Command::new(this).args(["--exact", &name]).env(ALONE, "1").output().expect("it runs as this does");
    let [out, err] = [run.stdout, run.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(run.status.success() && out.contains("1 passed"), "{out}{err}");
}

#[test]
fn steps_and_predictions_allocate_nothing_once_their_shape_was_seen() {
    alone("steps_and_predictions_allocate_nothing_once_their_shape_was_seen", all_kinds_of_layers);
}

#[test]
fn no_kind_of_plan_or_update_allocates() {
    alone("no_kind_of_plan_or_update_allocates", all_kinds_of_plans);
}

#[test]
fn a_fit_allocates_as_often_for_many_steps_as_for_few() {
    alone("a_fit_allocates_as_often_for_many_steps_as_for_few", || {
        for (threads, validated) in [(1, false), (2, false), (2, true)] {
            set_num_threads(threads);
            let allocations = |rows| {
                let loss = Loss::CROSS_ENTROPY;
                let (data, held_out) = (Data::<f32>::new(rows, 20, 5), Data::<f32>::new(70, 20, 5));
                let validation = || validated.then(|| held_out.set(loss));
                let mut model = Model::new(layers(&[20, 64, 5], Activation::Tanh), 0).unwrap();
                let mut trainer = Trainer::new(loss);
                let mut optimizer = Optimizer::new(momentum(0.01), model.network()).unwrap();
                let options = FitOptions { epochs: 2, batch_size: 32, shuffle: true, seed: 1 };
                let mut fit = || {
                    let mut fit = Fit::new(options, &trainer, &model, data.set(loss), validation()).unwrap();
                    let (set, to_the_end) = (data.set(loss), |_| false);
                    fit.run(&mut trainer, &mut model, &mut optimizer, set, validation(), to_the_end).unwrap();
                };
                fit();
                count(fit)
            };
            // 4 and 200 steps per epoch, each with a shorter one at the end.
            let (few, many) = (allocations(3 * 32 + 5), allocations(199 * 32 + 5));
            assert_eq!(few, many, "{threads} threads, {validated}");
        }
    });
}

fn all_kinds_of_plans() {
    for (threads, (name, layers, x, rows)) in
        [1, 2].into_iter().flat_map(|t| works().into_iter().map(move |w| (t, w)))
    {
        set_num_threads(threads);
        // Shampoo's roots take long; the layers of the other test show it.
        for (way, options, config) in ways().into_iter().filter(|(way, ..)| *way != "Shampoo") {
            let mut model = Model::<f32>::new(layers.clone(), 3).unwrap();
            let (inputs, outputs) = (x.len() / rows, model.network().outputs());
            let room = |value| {
                let mut room = Buffer::zeroed("a test", model.network().arena_len()).unwrap();
                room.fill(value);
                room
            };
            let mut optimizer = Optimizer::new(config, model.network()).unwrap();
            let mut trainer = Trainer::with_options(Loss::Mse, options).unwrap();
            let averaging = Averaging::Exponential(0.9);
            trainer.average = Some(Average { averaging, start: 0, every: 1, values: room(0.0), count: 0 });
            if optimizer.is_elementwise() {
                let (importance, anchor) = (room(1.0), room(0.1));
                trainer.along.penalty = Some(Penalty { importance, anchor, strength: 0.5 });
                trainer.along.path = Some(Path { values: room(0.0), with_penalty: true });
                trainer.along.mask = Some(room(1.0));
            }
            let bytes: Vec<u8> = x.iter().map(|x| (*x * 9.0).clamp(0.0, 4.0) as u8).collect();
            let halves: Vec<f16> = x.iter().map(|x| f16::from_f32(*x)).collect();
            let y = vec![0.5; rows * outputs];
            let weights: Vec<f32> = (0..rows).map(|i| (i % 3) as f32).collect();
            let x = MatRef::new(&x, rows, inputs);
            let mut output = vec![0.0; rows * outputs];
            let mut round = || {
                for rows in [rows, 5] {
                    let targets = Targets::Values(MatRef::new(&y[..rows * outputs], rows, outputs));
                    let goals = Goals { targets, weights: Some(&weights[..rows]) };
                    let of = x.block(0, rows, 0, inputs);
                    trainer.step(&mut model, &mut optimizer, of, goals).unwrap();
                    let bytes = Samples::Bytes(MatRef::new(&bytes[..rows * inputs], rows, inputs));
                    let halves = Samples::Half(MatRef::new(&halves[..rows * inputs], rows, inputs));
                    for converted in [bytes, halves] {
                        trainer.step(&mut model, &mut optimizer, converted, targets).unwrap();
                    }
                    trainer.evaluate(&mut model, of, targets).unwrap();
                    trainer.backward(&mut model, &optimizer, of, targets).unwrap();
                    model.predict(of, &mut output[..rows * outputs]).unwrap();
                }
            };
            round();
            round();
            assert_eq!(count(round), 0, "{name}, {way}, {threads} threads");
        }
    }
}

fn all_kinds_of_layers() {
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
        let all = count(|| (0..times).for_each(|_| round()));
        assert_eq!(all, 0, "{config:?} on {threads} threads");
    }
}
