//! What a step leaves for the next one: transposed weights, which it need not make again if they are still those
//! of the parameters. The oracle is a trainer that is new in each step, and so has nothing left.

use super::THREADS;
use crate::layer::{Activation, Init, Layer, Linear};
use crate::loss::{Loss, Targets};
use crate::optim::{Adam, Config, Group, Optimizer, Sgd};
use crate::sam::Sam;
use crate::simd::Isa;
use crate::threads::{num_threads, set_num_threads};
use crate::train::StepOptions;
use crate::update::Clip;
use crate::view::MatRef;
use crate::{Model, Trainer};

const WIDTHS: [usize; 5] = [3, 45, 70, 33, 2];

fn model(seed: u64, isa: Isa) -> Model<f32> {
    let dense = |w: &[usize]| {
        Layer::Linear(Linear { inputs: w[0], outputs: w[1], bias: true, init: Init::KaimingUniform })
    };
    let layers = WIDTHS.windows(2).flat_map(|w| [dense(w), Layer::Activation(Activation::Tanh)]);
    Model::with_isa(layers.collect(), seed, isa).unwrap()
}

/// A model in training, by a trainer that stays or by new ones.
struct Training {
    model: Model<f32>,
    optimizer: Optimizer<f32>,
    options: StepOptions,
    trainer: Option<Trainer<f32>>,
}

impl Training {
    fn new(isa: Isa, config: Config, options: StepOptions, stays: bool) -> Self {
        let model = model(1, isa);
        let optimizer = Optimizer::new(config, model.network()).unwrap();
        let trainer = stays.then(|| Trainer::with_options(Loss::Mse, options).unwrap());
        Training { model, optimizer, options, trainer }
    }

    fn step(&mut self, rows: usize) {
        let x: Vec<f32> = (0..rows * 3).map(|i| (i as f32).sin()).collect();
        let y: Vec<f32> = (0..rows * 2).map(|i| (i as f32).cos()).collect();
        let (x, y) = (MatRef::new(&x, rows, 3), Targets::Values(MatRef::new(&y, rows, 2)));
        let mut new = Trainer::with_options(Loss::Mse, self.options).unwrap();
        let trainer = self.trainer.as_mut().unwrap_or(&mut new);
        trainer.step(&mut self.model, &mut self.optimizer, x, y).unwrap();
    }

    fn parameters(&self) -> Vec<f32> {
        let mut flat = vec![0.0; self.model.network().num_parameters()];
        self.model.parameters(&mut flat);
        flat
    }
}

/// Whatever happens between two steps.
fn between(training: &mut Training, what: usize) {
    let Training { model, optimizer, .. } = training;
    let flat = |model: &Model<f32>| {
        let mut flat = vec![0.0; model.network().num_parameters()];
        model.parameters(&mut flat);
        flat
    };
    let group =
        |pattern: &str, frozen| Group { pattern: pattern.into(), frozen: Some(frozen), ..Group::default() };
    match what {
        0 | 1 => {}
        2 => {
            let halved: Vec<_> = flat(model).iter().map(|p| 0.5 * p).collect();
            model.set_parameters(&halved).unwrap();
        }
        3 => model.predict(MatRef::new(&[0.1; 9], 3, 3), &mut [0.0; 6]).unwrap(),
        4 => model.follow(&self::model(2, model.isa()), 0.25).unwrap(),
        5 => training.step(7),
        6 => {
            model.forward(MatRef::new(&[0.1; 9], 3, 3), &mut [0.0; 6], true).unwrap();
            model.backward(MatRef::new(&[0.3; 6], 3, 2), None, true).unwrap();
            model.apply(optimizer).unwrap();
            model.zero_grad();
        }
        // What is behind the frozen layers is not transposed while they are.
        7 => optimizer.set_groups(&[group("0.*", true), group("2.*", true)], model.network()).unwrap(),
        8 => optimizer.set_groups(&[], model.network()).unwrap(),
        9 => optimizer.set_groups(&[group("4.weight", true)], model.network()).unwrap(),
        _ => optimizer.set_groups(&[], model.network()).unwrap(),
    }
}

/// Otherwise the other test would show nothing.
#[test]
fn a_step_keeps_the_weights_that_it_transposed() {
    let _turn = THREADS.lock().unwrap();
    let before = num_threads().0;
    set_num_threads(1);
    let sgd = Config::Sgd(Sgd { lr: 0.1, ..Sgd::default() });
    let mut training = Training::new(Isa::detect().unwrap(), sgd, StepOptions::default(), true);
    let kept = |training: &mut Training| {
        training.step(40);
        let of = training.trainer.as_ref().unwrap().transposed();
        of.map(|stamp| stamp == training.model.params.stamp())
    };
    assert_eq!(kept(&mut training), Some(true));
    between(&mut training, 7);
    assert_eq!(kept(&mut training), None, "nothing goes back to the frozen layers");
    between(&mut training, 8);
    assert_eq!(kept(&mut training), Some(true));
    set_num_threads(before);
}

#[test]
fn weights_that_are_transposed_already_are_those_of_the_parameters() {
    let _turn = THREADS.lock().unwrap();
    let before = num_threads().0;
    let plain = StepOptions::default();
    let sam = StepOptions { sam: Some(Sam { rho: 0.05, adaptive: false }), ..plain };
    let gathered = StepOptions { accumulate: 2, ..plain };
    let clipped = StepOptions { clip: Some(Clip::Norm(0.1)), ..plain };
    let adam = Config::Adam(Adam { lr: 0.01, ..Adam::default() });
    let sgd = Config::Sgd(Sgd { lr: 0.1, ..Sgd::default() });
    for (threads, isa) in
        [1, 2, 3].into_iter().flat_map(|n| Isa::available().into_iter().map(move |i| (n, i)))
    {
        set_num_threads(threads);
        for (config, options) in [(adam, plain), (sgd, plain), (sgd, sam), (sgd, clipped)] {
            let [mut stays, mut new] = [true, false].map(|stays| Training::new(isa, config, options, stays));
            for what in 0..11 {
                for training in [&mut stays, &mut new] {
                    between(training, what);
                    training.step(40);
                    training.step(40);
                }
                assert!(stays.parameters() == new.parameters(), "{isa}, {threads} threads, after {what}");
            }
        }
        // Gathered gradients are the trainer's, so this one cannot be new: it is compared with a trainer that takes
        // each batch once, as the mean of two equal gradients is one of them.
        let mut pairs = Training::new(isa, sgd, gathered, true);
        let mut whole = Training::new(isa, sgd, plain, true);
        for _ in 0..3 {
            pairs.step(40);
            pairs.step(40);
            whole.step(40);
        }
        let error = |(a, b): (&f32, &f32)| (a - b).abs();
        let worst = pairs.parameters().iter().zip(&whole.parameters()).map(error).fold(0.0, f32::max);
        assert!(worst < 1e-6, "{isa}, {threads} threads: {worst}");
    }
    set_num_threads(before);
}
