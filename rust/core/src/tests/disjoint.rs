//! The promise on which the unsafe code of passes and updates rests: within a phase, no item touches what
//! another one writes. The [`witness`](crate::threads::witness) sees every slice and matrix that is lent to
//! items.

use super::THREADS;
use crate::along::{Path, Penalty};
use crate::arena::Buffer;
use crate::diff::likelihood::{Kind, Likelihood, Slopes};
use crate::diff::squares::{Squares, Sum};
use crate::gemm::Precision;
use crate::layer::{
    Activation, BatchNorm, Category, Fourier, Frequencies, Init, Layer, Linear, RowNorm, Standardize,
    TabularInput,
};
use crate::loss::{Loss, Targets};
use crate::optim::{Adafactor, Adam, Config, Lamb, Muon, Optimizer, Prodigy, Sgd, Shampoo};
use crate::rng::{Purpose, Stream};
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

fn dense(inputs: usize, outputs: usize) -> Layer {
    Layer::Linear(Linear { inputs, outputs, bias: true, init: Init::KaimingUniform })
}

/// Networks with all kinds of stages, and rows of input: in tiles, in waves and in shards.
fn works() -> Vec<(&'static str, Vec<Layer>, Vec<f32>, usize)> {
    let relu = || Layer::Activation(Activation::Relu);
    let norm = |features| Layer::BatchNorm(BatchNorm { features, eps: 1e-5, momentum: 0.1, affine: true });
    let row = |features| {
        Layer::RowNorm(RowNorm { features, eps: Some(1e-5), centred: true, scale: true, shift: true })
    };
    let category = Category { column: 1, codes: 5, dim: 4 };
    let table = TabularInput { inputs: 3, categories: vec![category], pieces: vec![] };
    let features = Fourier { inputs: 3, frequencies: Frequencies::Normal { count: 60, sigma: 1.0 } };
    let draw = |n: usize| {
        let mut rng = Stream::new(1, Purpose::Init, 1);
        (0..n).map(|_| rng.normal() as f32).collect::<Vec<_>>()
    };
    let plain = vec![dense(70, 260), relu(), dense(260, 300), relu(), dense(300, 10)];
    let narrow = vec![dense(3, 190), relu(), dense(190, 190), relu(), dense(190, 1)];
    let few = vec![dense(3, 90), relu(), dense(90, 90), relu(), dense(90, 1)];
    let small = vec![dense(40, 60), relu(), dense(60, 10)];
    let inner = vec![dense(120, 200), norm(200), relu(), dense(200, 120)];
    let mixed = vec![
        Layer::Fourier(features),
        Layer::Residual(inner),
        row(120),
        Layer::Activation(Activation::Gelu),
        Layer::Activation(Activation::Dropout(0.2)),
        Layer::Concatenate(vec![dense(120, 130), relu()]),
        dense(250, 300),
        relu(),
        Layer::Standardize(Standardize { mean: vec![0.5; 300], std: vec![0.3; 300], inverse: false }),
        dense(300, 6),
    ];
    let tabular =
        vec![Layer::Tabular(table), dense(6, 300), norm(300), relu(), dense(300, 300), dense(300, 4)];
    let codes = |n: usize| (0..n).flat_map(|i| [0.3, (i % 5) as f32, -0.2]).collect::<Vec<_>>();
    vec![
        ("tiles", plain, draw(150 * 70), 150),
        ("waves", narrow, draw(9000 * 3), 9000),
        ("shards", small, draw(200 * 40), 200),
        ("shards of several blocks", few, draw(2000 * 3), 2000),
        ("norms, a block, dropout", mixed, draw(150 * 3), 150),
        ("tables", tabular, codes(150), 150),
    ]
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
    let plain = StepOptions::default();
    let ways = [
        ("fused", plain, Config::Adam(Adam { amsgrad: true, ..Adam::default() })),
        ("clipped", StepOptions { clip: Some(Clip::Norm(0.1)), ..plain }, Config::Sgd(Sgd::default())),
        ("gathered", StepOptions { accumulate: 2, ..plain }, Config::Adam(Adam::default())),
        (
            "SAM",
            StepOptions { sam: Some(Sam { rho: 0.1, adaptive: true }), ..plain },
            Config::Sgd(Sgd::default()),
        ),
        ("Lamb", plain, Config::Lamb(Lamb::default())),
        ("Adafactor", plain, Config::Adafactor(Adafactor::default())),
        ("Muon", plain, Config::Muon(Muon::default())),
        ("Prodigy", plain, Config::Prodigy(Prodigy::default())),
        ("Shampoo", plain, Config::Shampoo(Shampoo::default())),
    ];
    for (name, layers, x, rows) in works() {
        let x = MatRef::new(&x, rows, x.len() / rows);
        for (way, options, config) in &ways {
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
