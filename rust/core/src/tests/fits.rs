//! Fits: several epochs, left and resumed, and undone.

use super::THREADS;
use super::training::{Data, bits, layers, linear, momentum, parameters};
use crate::layer::Activation;
use crate::loss::{Goals, Loss, Targets};
use crate::optim::{Config, Optimizer, Sgd};
use crate::train::DataSet;
use crate::view::MatRef;
use crate::{Error, Fit, FitOptions, Model, Trainer};

#[test]
fn a_fit_that_is_left_and_resumed_gives_the_same_bits() {
    let _turn = THREADS.lock().unwrap();
    let run = |every: usize| {
        let loss = Loss::Mse;
        let data = Data::<f32>::new(50, 6, 2);
        let mut model = Model::new(layers(&[6, 20, 2], Activation::Tanh), 0).unwrap();
        let mut trainer = Trainer::new(loss);
        let mut optimizer = Optimizer::new(momentum(0.05), model.network()).unwrap();
        let options = FitOptions { epochs: 5, batch_size: 8, shuffle: true, seed: 1 };
        let mut fit = Fit::new(options, &trainer, &model, data.set(loss), None).unwrap();
        let mut records = Vec::new();
        while !fit.done() {
            let mut steps = 0;
            let leave = |_| {
                steps += 1;
                steps >= every
            };
            let ended =
                fit.run(&mut trainer, &mut model, &mut optimizer, data.set(loss), None, leave).unwrap();
            records.extend(ended.iter().map(|r| (r.epoch, r.training.loss.to_bits())));
        }
        (bits(&parameters(&model)), records)
    };
    let whole = run(usize::MAX);
    assert_eq!(whole.1.len(), 5);
    for every in [1, 3, 7] {
        assert_eq!(whole, run(every), "left every {every} steps");
    }
}

#[test]
fn a_fit_that_is_left_in_a_validation_and_resumed_gives_the_same_bits() {
    let _turn = THREADS.lock().unwrap();
    let run = |leave: bool| {
        let loss = Loss::CROSS_ENTROPY;
        let (data, held_out) = (Data::<f32>::new(40, 3, 2), Data::<f32>::new(40_000, 3, 2));
        let mut model = Model::new(layers(&[3, 2], Activation::Tanh), 0).unwrap();
        let mut trainer = Trainer::new(loss);
        let mut optimizer = Optimizer::new(momentum(0.05), model.network()).unwrap();
        let options = FitOptions { epochs: 2, batch_size: 16, shuffle: true, seed: 1 };
        let (set, validation) = (data.set(loss), Some(held_out.set(loss)));
        let mut fit = Fit::new(options, &trainer, &model, set, validation).unwrap();
        let (mut records, mut parts) = (Vec::new(), 0);
        while !fit.done() {
            let until = |ended: Option<usize>| {
                parts += usize::from(ended.is_none());
                leave && ended.is_none()
            };
            records
                .extend(fit.run(&mut trainer, &mut model, &mut optimizer, set, validation, until).unwrap());
            assert!(fit.done() || fit.is_validating() && optimizer.steps == 3 * (records.len() as u64 + 1));
        }
        assert_eq!((records.len(), parts), (2, 4)); // three parts each
        let last = trainer.evaluate(&mut model, held_out.x(), held_out.y(loss)).unwrap();
        assert_eq!(records[1].validation, Some(last));
        (
            bits(&parameters(&model)),
            records.into_iter().map(|r| (r.training, r.validation)).collect::<Vec<_>>(),
        )
    };
    assert_eq!(run(true), run(false));
}

#[test]
fn a_fit_whose_data_change_their_shape_is_undone() {
    let _turn = THREADS.lock().unwrap();
    let loss = Loss::Mse;
    let data = Data::<f32>::new(32, 4, 2);
    let weights: &'static [f32] = &[1.0; 32];
    let set = |x: (usize, usize), y: (usize, usize), weights: &'static [f32]| DataSet {
        x: MatRef::new(&data.x[..x.0 * x.1], x.0, x.1).into(),
        y: Goals {
            targets: Targets::Values(MatRef::new(&data.y[..y.0 * y.1], y.0, y.1)),
            weights: Some(weights),
        },
    };
    let whole = set((32, 4), (32, 2), weights);
    let labels = DataSet { y: Targets::Labels(&data.labels).into(), ..whole };
    let expected = "when the fit began: do not change its shape or dtype meanwhile";
    for (training, validation, message) in [
        (set((10, 4), (32, 2), weights), whole, "x has shape (10, 4), but had (32, 4)"),
        (set((32, 2), (32, 2), weights), whole, "x has shape (32, 2), but had (32, 4)"),
        (set((32, 4), (10, 2), weights), whole, "y has shape (10, 2), but had (32, 2)"),
        (set((32, 4), (32, 1), weights), whole, "y has shape (32, 1), but had (32, 2)"),
        (set((32, 4), (32, 2), &weights[..9]), whole, "sample_weight has shape (9,), but had (32,)"),
        (labels, whole, "y has shape (32,), but had (32, 2)"),
        (whole, set((32, 4), (10, 2), weights), "validation_data: y has shape (10, 2), but had (32, 2)"),
    ] {
        let mut model = Model::new(layers(&[4, 8, 2], Activation::Relu), 0).unwrap();
        let mut trainer = Trainer::new(loss);
        let mut optimizer = Optimizer::new(momentum(0.01), model.network()).unwrap();
        let before = bits(&parameters(&model));
        let options = FitOptions { epochs: 3, batch_size: 8, shuffle: true, seed: 0 };
        let mut fit = Fit::new(options, &trainer, &model, whole, Some(whole)).unwrap();
        let leave = |ended| ended == Some(1);
        fit.run(&mut trainer, &mut model, &mut optimizer, whole, Some(whole), leave).unwrap();
        assert_eq!(optimizer.steps, 4);
        let error = fit
            .run(&mut trainer, &mut model, &mut optimizer, training, Some(validation), |_| false)
            .unwrap_err();
        assert_eq!(error.to_string(), format!("{message} {expected}"));
        assert!(fit.done());
        assert_eq!((bits(&parameters(&model)), optimizer.steps), (before, 0));
    }
}

#[test]
fn an_epoch_sees_every_row_once_in_an_order_of_its_own() {
    let _turn = THREADS.lock().unwrap();
    // One linear unit on one-hot rows with learning rate 1 and zero targets: each row's SGD step sets its own
    // weight to w·(1 − 2) = −w, so after an epoch every weight has changed its sign once.
    let n = 12;
    let mut x = vec![0.0f64; n * n];
    (0..n).for_each(|i| x[i * n + i] = 1.0);
    let y = vec![0.0; n];
    let set = DataSet { x: MatRef::new(&x, n, n).into(), y: Targets::Values(MatRef::new(&y, n, 1)).into() };
    for shuffle in [false, true] {
        let mut model = Model::new(vec![linear(n, 1, false)], 0).unwrap();
        let before = parameters(&model);
        let mut trainer = Trainer::new(Loss::Mse);
        let config = Config::Sgd(Sgd { lr: 1.0, ..Sgd::default() });
        let mut optimizer = Optimizer::new(config, model.network()).unwrap();
        let options = FitOptions { epochs: 1, batch_size: 1, shuffle, seed: 5 };
        let mut fit = Fit::new(options, &trainer, &model, set, None).unwrap();
        fit.run(&mut trainer, &mut model, &mut optimizer, set, None, |_| false).unwrap();
        for (a, b) in before.iter().zip(parameters(&model)) {
            assert!((a + b).abs() < 1e-15);
        }
    }
}

#[test]
fn the_loss_of_an_epoch_weighs_a_short_last_batch_by_its_rows() {
    let _turn = THREADS.lock().unwrap();
    let loss = Loss::Mse;
    let data = Data::<f64>::new(10, 3, 2);
    let mut model = Model::new(layers(&[3, 4, 2], Activation::Tanh), 0).unwrap();
    let mut trainer = Trainer::new(loss);
    let mut optimizer = Optimizer::new(momentum(0.0), model.network()).unwrap(); // nothing moves
    let whole = trainer.evaluate(&mut model, data.x(), data.y(loss)).unwrap().value();
    let options = FitOptions { epochs: 1, batch_size: 4, shuffle: true, seed: 0 };
    let mut fit = Fit::new(options, &trainer, &model, data.set(loss), None).unwrap();
    let records = fit.run(&mut trainer, &mut model, &mut optimizer, data.set(loss), None, |_| false).unwrap();
    assert!((records[0].training.value() - whole).abs() < 1e-14);
}

#[test]
fn divergence_is_told_and_undone() {
    let _turn = THREADS.lock().unwrap();
    let loss = Loss::Mse;
    let data = Data::<f32>::new(32, 4, 2);
    let mut model = Model::new(layers(&[4, 8, 2], Activation::Relu), 0).unwrap();
    let mut trainer = Trainer::new(loss);
    let mut optimizer = Optimizer::new(momentum(0.01), model.network()).unwrap();
    trainer.step(&mut model, &mut optimizer, data.x(), data.y(loss)).unwrap();
    let (before, state) = (bits(&parameters(&model)), bits(&optimizer.state[0]));
    optimizer.config.set_lr(1e6).unwrap();
    let options = FitOptions { epochs: 100, batch_size: 8, shuffle: true, seed: 0 };
    let mut fit = Fit::new(options, &trainer, &model, data.set(loss), None).unwrap();
    let error =
        fit.run(&mut trainer, &mut model, &mut optimizer, data.set(loss), None, |_| false).unwrap_err();
    assert!(matches!(error, Error::Diverged { lr: 1e6, .. }), "{error}");
    assert!(fit.done());
    assert_eq!(bits(&parameters(&model)), before);
    assert_eq!((bits(&optimizer.state[0]), optimizer.steps), (state, 1));
}
