//! The promise on which the unsafe code of passes and updates rests: within a phase, no item touches what
//! another one writes. The [`witness`](crate::threads::witness) sees every slice and matrix that is lent to
//! items.

use super::THREADS;
use super::works::{ways, works};
use crate::along::{Path, Penalty};
use crate::arena::Buffer;
use crate::diff::likelihood::{Kind, Likelihood, Slopes};
use crate::diff::squares::{Squares, Sum};
use crate::gemm::Precision;
use crate::loss::{Loss, Targets};
use crate::optim::{Adam, Config, Optimizer};
use crate::sam::Sam;
use crate::threads::{num_threads, set_num_threads, witness};
use crate::train::StepOptions;
use crate::update::Clip;
use crate::view::MatRef;
use crate::{Model, Trainer};

/// Runs `f` with several numbers of threads, since two items of the same worker are not told apart. Returns
/// how many slices were lent to items.
fn check(what: &str, f: impl Fn()) -> usize {
    let (before, mut seen) = (num_threads().0, 0);
    for threads in [2, 3, 5] {
        set_num_threads(threads);
        let (touches, conflict) = witness::watch(&f);
        set_num_threads(before);
        assert_eq!(conflict, None, "{what}, {threads} threads");
        seen += touches;
    }
    seen
}

fn steps(trainer: &mut Trainer<f32>, model: &mut Model<f32>, config: Config, x: MatRef<'_, f32>) {
    let mut optimizer = Optimizer::new(config, model.network()).unwrap();
    let y = vec![0.5; x.rows() * model.network().outputs()];
    let y = MatRef::new(&y, x.rows(), model.network().outputs());
    for _ in 0..2 {
        trainer.step(model, &mut optimizer, x, Targets::Values(y)).unwrap();
    }
}

#[test]
fn items_of_steps_are_disjoint() {
    let _turn = THREADS.lock().unwrap();
    for (name, layers, x, rows) in works() {
        let x = MatRef::new(&x, rows, x.len() / rows);
        for (way, options, config) in &ways() {
            let seen = check(&format!("{name}, {way}"), || {
                let mut model = Model::new(layers.clone(), 3).unwrap();
                steps(&mut Trainer::with_options(Loss::Mse, *options).unwrap(), &mut model, *config, x);
            });
            assert!(seen > 100, "{name}, {way}: {seen}");
        }
    }
}

/// For every kind of plan and of update: nothing is read that an earlier step left in the memory.
#[test]
fn a_step_reads_what_it_has_written() {
    let _turn = THREADS.lock().unwrap();
    let before = num_threads().0;
    let plain = StepOptions::default();
    let ways = [
        plain,
        StepOptions { clip: Some(Clip::Norm(0.1)), ..plain },
        StepOptions { sam: Some(Sam { rho: 0.1, adaptive: true }), ..plain },
    ];
    for (name, layers, x, rows) in works() {
        let x = MatRef::new(&x, rows, x.len() / rows);
        for (options, threads) in ways.iter().zip([1, 2, 5]) {
            set_num_threads(threads);
            let run = |poison: bool| {
                let mut model = Model::<f32>::new(layers.clone(), 3).unwrap();
                let mut trainer = Trainer::with_options(Loss::Mse, *options).unwrap();
                let mut optimizer = Optimizer::new(Config::Adam(Adam::default()), model.network()).unwrap();
                let y = vec![0.5; rows * model.network().outputs()];
                let y = MatRef::new(&y, rows, model.network().outputs());
                let mut losses = Vec::new();
                for _ in 0..2 {
                    losses.push(trainer.step(&mut model, &mut optimizer, x, Targets::Values(y)).unwrap());
                    losses.push(trainer.evaluate(&mut model, x, Targets::Values(y)).unwrap().loss);
                    if poison {
                        trainer.poison();
                    }
                }
                let mut flat = vec![0.0; model.network().num_parameters()];
                model.parameters(&mut flat);
                (losses, flat.iter().map(|p| p.to_bits()).collect::<Vec<_>>())
            };
            assert_eq!(run(true), run(false), "{name}, {threads} threads");
        }
    }
    set_num_threads(before);
}

#[test]
fn items_of_products_in_parts_are_disjoint() {
    let _turn = THREADS.lock().unwrap();
    let (_, layers, x, rows) = works().swap_remove(0);
    for precision in Precision::SPLIT {
        let options = StepOptions { precision, ..StepOptions::default() };
        if Trainer::<f32>::with_options(Loss::Mse, options).is_err() {
            println!("not tested here: no {}", precision.name());
            continue;
        }
        check(precision.name(), || {
            let mut model = Model::new(layers.clone(), 3).unwrap();
            let mut trainer = Trainer::with_options(Loss::Mse, options).unwrap();
            steps(&mut trainer, &mut model, Config::Adam(Adam::default()), MatRef::new(&x, rows, 70));
        });
    }
}

/// Does the same with all networks and their rows.
fn check_works(f: impl Fn(&mut Model<f32>, MatRef<'_, f32>)) {
    let _turn = THREADS.lock().unwrap();
    for (name, layers, x, rows) in works() {
        let x = MatRef::new(&x, rows, x.len() / rows);
        let seen = check(name, || f(&mut Model::new(layers.clone(), 3).unwrap(), x));
        assert!(seen > 100, "{name}: {seen}");
    }
}

#[test]
fn items_of_passes_without_a_loss_are_disjoint() {
    check_works(|model, x| {
        let (rows, outputs) = (x.rows(), model.network().outputs());
        let mut y = vec![0.0; rows * outputs];
        model.predict(x, &mut y).unwrap();
        model.forward(x, &mut y, true).unwrap();
        let mut dx = vec![0.0; rows * x.cols()];
        model.backward(MatRef::new(&y, rows, outputs), Some(&mut dx), true).unwrap();
    });
}

#[test]
fn items_of_what_goes_along_with_updates_are_disjoint() {
    check_works(|model, x| {
        let room = |value| {
            let mut room = Buffer::zeroed("a test", model.network().arena_len()).unwrap();
            room.fill(value);
            room
        };
        let mut trainer = Trainer::new(Loss::Mse);
        trainer.along.penalty = Some(Penalty { importance: room(1.0), anchor: room(0.1), strength: 0.5 });
        trainer.along.path = Some(Path { values: room(0.0), with_penalty: true });
        trainer.along.mask = Some(room(1.0));
        steps(&mut trainer, model, Config::Adam(Adam::default()), x);
    });
}

#[test]
fn items_of_squared_gradients_are_disjoint() {
    check_works(|model, x| {
        let outputs = model.network().outputs();
        let slopes = Slopes::new(Likelihood::Categorical, Kind::Exact, None, outputs).unwrap();
        let mut squares = Squares::new(model, Sum::Squares, slopes).unwrap();
        squares.add(model, x, 0..x.rows().min(2000), None, None).unwrap();
    });
}
