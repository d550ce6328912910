//! Whole passes and whole training runs: correct gradients, the same bits for any number of threads, nothing
//! lost on errors.

use super::{ACTIVATIONS, THREADS};
use crate::arena::Buffer;
use crate::check::{Check, Source};
use crate::gemm::Precision;
use crate::layer::{Activation, BatchNorm, Init, Layer, Linear, RowNorm};
use crate::loss::{Loss, Objective, Targets};
use crate::optim::{Adam, Config, Lamb, Optimizer, Sgd};
use crate::rng::{Purpose, Stream};
use crate::sam::Sam;
use crate::simd::Isa;
use crate::threads::set_num_threads;
use crate::train::{DataSet, StepOptions};
use crate::update::Clip;
use crate::view::MatRef;
use crate::{Element, Error, Fit, FitOptions, Model, Trainer};

pub fn linear(inputs: usize, outputs: usize, bias: bool) -> Layer {
    Layer::Linear(Linear { inputs, outputs, bias, init: Init::KaimingUniform })
}

fn norm(features: usize, affine: bool) -> Layer {
    Layer::BatchNorm(BatchNorm { features, eps: 1e-5, momentum: 0.1, affine })
}

fn row_norm(features: usize, centred: bool, scale: bool) -> Layer {
    Layer::RowNorm(RowNorm { features, eps: Some(1e-5), centred, scale, shift: centred && scale })
}

/// What follows the first dense layer of a test.
type Extra = fn(usize) -> Vec<Layer>;
const NOTHING: Extra = |_| vec![];
const BATCH_NORM: Extra = |n| vec![norm(n, true)];
const ROW_NORMS: Extra = |n| vec![row_norm(n, true, true), row_norm(n, false, true)];
const DROPOUT: Extra = |_| vec![Layer::Activation(Activation::Dropout(0.3))];

/// Dense layers of the given widths with an activation between them.
pub fn layers(widths: &[usize], act: Activation) -> Vec<Layer> {
    let mut layers: Vec<Layer> =
        widths.windows(2).flat_map(|w| [linear(w[0], w[1], true), Layer::Activation(act)]).collect();
    layers.pop();
    layers
}

pub struct Data<T> {
    pub x: Vec<T>,
    pub y: Vec<T>,
    pub labels: Vec<i64>,
    rows: usize,
    inputs: usize,
    outputs: usize,
}

impl<T: Element> Data<T> {
    pub fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        let mut rng = Stream::new(9, Purpose::Init, 99);
        let mut draw = |n: usize| (0..n).map(|_| T::lit(rng.normal())).collect::<Vec<T>>();
        let (x, y) = (draw(rows * inputs), draw(rows * outputs));
        let labels = (0..rows).map(|i| (i * 7 % outputs) as i64).collect();
        Data { x, y, labels, rows, inputs, outputs }
    }
    pub fn x(&self) -> MatRef<'_, T> {
        MatRef::new(&self.x, self.rows, self.inputs)
    }
    pub fn y(&self, loss: Loss) -> Targets<'_, T> {
        match loss {
            Loss::CrossEntropy { .. } => Targets::Labels(&self.labels),
            _ => Targets::Values(MatRef::new(&self.y, self.rows, self.outputs)),
        }
    }
    pub fn set(&self, loss: Loss) -> DataSet<'_, T> {
        DataSet { x: self.x().into(), y: self.y(loss).into() }
    }
}

fn adamw() -> Config {
    Config::Adam(Adam { lr: 1e-2, weight_decay: 0.01, decoupled_weight_decay: true, ..Adam::default() })
}

pub fn momentum(lr: f64) -> Config {
    Config::Sgd(Sgd { lr, momentum: 0.9, ..Sgd::default() })
}

pub fn parameters<T: Element>(model: &Model<T>) -> Vec<T> {
    let mut flat = vec![T::ZERO; model.network().num_parameters()];
    model.parameters(&mut flat);
    flat
}

pub fn bits<T: Element>(values: &[T]) -> Vec<u64> {
    values.iter().map(|x| x.to_f64().to_bits()).collect()
}

/// ‖a − b‖/‖b‖
fn distance(a: &[f64], b: &[f64]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

#[test]
fn gradients_of_every_layer_and_loss_agree_with_differences_on_every_isa() {
    let h = f64::EPSILON.cbrt();
    for isa in Isa::available() {
        for loss in [Loss::Mse, Loss::CROSS_ENTROPY] {
            for act in ACTIVATIONS {
                let data = Data::<f64>::new(17, 5, 4);
                let mut model = Model::with_isa(layers(&[5, 11, 7, 4], act), 3, isa).unwrap();
                let before = parameters(&model);
                let objective = Objective::from(loss);
                let source = &mut Source::Goals(&objective, data.y(loss).into());
                let mut check = Check::new(&mut model, data.x(), source).unwrap();
                let n = check.len();
                let found = check.run(&mut model, data.x(), source, h, 0..n).unwrap();
                assert_eq!(bits(&before), bits(&parameters(&model)), "a check changes nothing");
                let smooth: Vec<_> = found.iter().filter(|d| !d.crossed).collect();
                assert!(smooth.len() > n * 9 / 10, "hardly any step of 6e-6 crosses a kink");
                let analytic: Vec<f64> = smooth.iter().map(|d| d.analytic).collect();
                let numeric: Vec<f64> = smooth.iter().map(|d| d.numeric).collect();
                let error = distance(&analytic, &numeric);
                assert!(error < 1e-8, "{isa} {} {}: {error:e}", loss.name(), act.name());
            }
        }
    }
}

#[test]
fn layers_in_unusual_orders_have_right_gradients() {
    let act = Layer::Activation;
    let data = Data::<f64>::new(6, 3, 2);
    let cases = [
        vec![act(Activation::Tanh), linear(3, 2, true)],
        vec![linear(3, 4, false), act(Activation::Tanh), act(Activation::Gelu), linear(4, 2, false)],
        vec![linear(3, 2, true), act(Activation::Sigmoid)],
        vec![linear(3, 5, true), linear(5, 2, true), act(Activation::Gelu), act(Activation::Tanh)],
        vec![act(Activation::Gelu), act(Activation::Sigmoid), linear(3, 2, true), act(Activation::Identity)],
        vec![linear(3, 4, true), norm(4, true), act(Activation::Gelu), linear(4, 2, true)],
        vec![norm(3, false), linear(3, 4, false), act(Activation::Tanh), norm(4, true), linear(4, 2, true)],
        vec![linear(3, 5, true), norm(5, true), norm(5, true), linear(5, 2, true), norm(2, true)],
        vec![linear(3, 4, true), row_norm(4, true, true), act(Activation::Gelu), linear(4, 2, true)],
        // Wide enough that no row is nearly constant, where differences would see curvature instead of
        // slopes.
        vec![row_norm(3, false, false), linear(3, 6, false), row_norm(6, true, false), linear(6, 2, true)],
        vec![linear(3, 5, true), row_norm(5, false, true), norm(5, true), linear(5, 2, true)],
        vec![linear(3, 5, true), act(Activation::Dropout(0.4)), norm(5, true), linear(5, 2, true)],
        vec![
            linear(3, 5, true),
            Layer::Residual(vec![act(Activation::Tanh), linear(5, 5, true), norm(5, true)]),
            norm(5, true),
            Layer::Residual(vec![
                Layer::Residual(vec![row_norm(5, true, true), linear(5, 5, true)]),
                act(Activation::Dropout(0.3)),
            ]),
            linear(5, 2, true),
        ],
        vec![
            Layer::Concatenate(vec![
                Layer::Concatenate(vec![linear(3, 4, true), act(Activation::Gelu)]),
                norm(7, true),
                act(Activation::Dropout(0.3)),
                linear(7, 2, false),
            ]),
            act(Activation::Tanh),
            Layer::Residual(vec![Layer::Concatenate(vec![row_norm(5, true, true)]), linear(10, 5, true)]),
            Layer::Concatenate(vec![act(Activation::Identity)]),
            linear(10, 2, true),
        ],
        vec![
            act(Activation::Dropout(0.2)),
            linear(3, 5, true),
            act(Activation::Tanh),
            act(Activation::Dropout(0.4)),
            act(Activation::Tanh),
            linear(5, 2, true),
        ],
        vec![
            act(Activation::Softplus(1.0)),
            act(Activation::Silu),
            linear(3, 2, true),
            act(Activation::Softplus(1.0)),
        ],
    ];
    for layers in cases {
        let mut model = Model::new(layers.clone(), 1).unwrap();
        let objective = Objective::from(Loss::Mse);
        let source = &mut Source::Goals(&objective, data.y(Loss::Mse).into());
        let mut check = Check::new(&mut model, data.x(), source).unwrap();
        let n = check.len();
        let found = check.run(&mut model, data.x(), source, f64::EPSILON.cbrt(), 0..n).unwrap();
        let (a, b): (Vec<f64>, Vec<f64>) = found.iter().map(|d| (d.analytic, d.numeric)).unzip();
        assert!(distance(&a, &b) < 1e-8, "{layers:?}");
    }
}

#[test]
fn forward_and_backward_by_hand_are_the_step_and_accumulate() {
    let data = Data::<f64>::new(9, 4, 3);
    for act in ACTIVATIONS {
        let mut model = Model::new(layers(&[4, 6, 3], act), 2).unwrap();
        let mut output = vec![0.0; 9 * 3];
        model.forward(data.x(), &mut output, true).unwrap();
        let mut predicted = vec![0.0; 9 * 3];
        model.predict(data.x(), &mut predicted).unwrap();
        assert_eq!(bits(&output), bits(&predicted), "both passes compute the same");

        // loss = Σ cᵢ·outputᵢ, so the gradient with respect to the output is c.
        let c: Vec<f64> = (0..27).map(|i| (i as f64).sin()).collect();
        let mut by_input = vec![0.0; 9 * 4];
        model.backward(MatRef::new(&c, 9, 3), Some(&mut by_input), true).unwrap();
        let mut once = vec![0.0; model.network().num_parameters()];
        model.gradients(&mut once);
        let h = 6e-6;
        for place in [0, 5, 17, 35] {
            let mut value = |by: f64| {
                let mut x = data.x.clone();
                x[place] += by;
                let mut output = vec![0.0; 27];
                model.predict(MatRef::new(&x, 9, 4), &mut output).unwrap();
                output.iter().zip(&c).map(|(o, c)| o * c).sum::<f64>()
            };
            let numeric = (value(h) - value(-h)) / (2.0 * h);
            assert!((by_input[place] - numeric).abs() < 1e-8, "{} {place}", act.name());
        }

        model.forward(data.x(), &mut output, true).unwrap();
        model.backward(MatRef::new(&c, 9, 3), Some(&mut by_input), true).unwrap();
        let mut twice = vec![0.0; once.len()];
        model.gradients(&mut twice);
        let doubled: Vec<f64> = once.iter().map(|g| 2.0 * g).collect();
        assert!(distance(&twice, &doubled) < 1e-14);
        model.zero_grad();
        model.gradients(&mut twice);
        assert!(twice.iter().all(|g| *g == 0.0));
    }
}

/// Weights larger than a second-level cache are transposed within the product, and with many rows only some
/// at a time pass by the panels of a tile: smaller networks never do either.
#[test]
fn gradients_of_wide_layers_over_many_rows_are_right() {
    let _turn = THREADS.lock().unwrap();
    let loss = Loss::Mse;
    let (parts, rows) = (11, 70);
    let data = Data::<f64>::new(parts * rows, 3, 2);
    let fresh = || Model::<f64>::new(layers(&[3, 560, 600, 2], Activation::Tanh), 6).unwrap();
    let mut trainer = Trainer::new(loss);
    let plan = trainer.plan(&fresh(), parts * rows);
    let wide = plan.stages[1].unwrap();
    assert!(wide.backward.unwrap().pack_b && !plan.in_waves() && wide.weight.kc < parts * rows);

    // Back through the wide layer, against differences.
    let part = |from: usize| data.x().block(from, rows, 0, 3);
    let goals = |from| Targets::Values(MatRef::new(&data.y, parts * rows, 2).block(from, rows, 0, 2));
    let mut model = fresh();
    let objective = Objective::from(loss);
    let source = &mut Source::Goals(&objective, goals(0).into());
    let mut check = Check::new(&mut model, part(0), source).unwrap();
    let found = check.run(&mut model, part(0), source, f64::EPSILON.cbrt(), 0..40).unwrap();
    let analytic: Vec<f64> = found.iter().map(|d| d.analytic).collect();
    let numeric: Vec<f64> = found.iter().map(|d| d.numeric).collect();
    // Gradients of single weights are some thousandths of the loss, and the differences consist of its last
    // bits.
    let error = distance(&analytic, &numeric);
    assert!(error < 1e-6, "{error:e}");

    // And over many rows, against sums over few.
    let gradients = |model: &Model<f64>| {
        let mut flat = vec![0.0; model.network().num_parameters()];
        model.gradients(&mut flat);
        flat
    };
    for threads in [1, 3] {
        set_num_threads(threads);
        let (mut whole, mut apart) = (fresh(), fresh());
        let still = Optimizer::new(momentum(0.1), whole.network()).unwrap();
        trainer.backward(&mut whole, &still, data.x(), data.y(loss)).unwrap();
        for from in (0..parts * rows).step_by(rows) {
            trainer.backward(&mut apart, &still, part(from), goals(from)).unwrap();
        }
        let mean: Vec<f64> = gradients(&apart).iter().map(|g| g / parts as f64).collect();
        assert!(distance(&gradients(&whole), &mean) < 1e-14, "on {threads}");
        // A step computes the same gradient panel by panel, each followed by its update.
        let once = gradients(&whole);
        let mut stepped = fresh();
        let mut optimizer = Optimizer::new(momentum(0.1), stepped.network()).unwrap();
        trainer.step(&mut stepped, &mut optimizer, data.x(), data.y(loss)).unwrap();
        let moved: Vec<f64> = parameters(&fresh()).iter().zip(&once).map(|(p, g)| p - 0.1 * g).collect();
        assert!(distance(&parameters(&stepped), &moved) < 1e-15, "on {threads}");
    }
}

/// A batch that is large enough for shards against parts of it that are not.
#[test]
fn shards_of_a_batch_add_up_to_its_gradient() {
    let _turn = THREADS.lock().unwrap();
    for parts in [4, 40] {
        shards_add_up(parts);
    }
}

fn shards_add_up(parts: usize) {
    let loss = Loss::Mse;
    let (widths, rows) = (&[24, 64, 64, 4][..], 80);
    let data = Data::<f64>::new(parts * rows, 24, 4);
    let optimizer = |model: &Model<f64>| Optimizer::new(momentum(0.1), model.network()).unwrap();
    let fresh = || Model::<f64>::new(layers(widths, Activation::Tanh), 5).unwrap();
    let mut trainer = Trainer::new(loss);
    assert!(trainer.plan(&fresh(), parts * rows).in_shards() && !trainer.plan(&fresh(), rows).in_shards());
    let gradients = |model: &Model<f64>| {
        let mut flat = vec![0.0; model.network().num_parameters()];
        model.gradients(&mut flat);
        flat
    };
    let values = |from| MatRef::new(&data.y, parts * rows, 4).block(from, rows, 0, 4);
    for threads in [1, 2] {
        set_num_threads(threads);
        let (mut whole, mut apart) = (fresh(), fresh());
        let still = optimizer(&whole);
        trainer.backward(&mut whole, &still, data.x(), data.y(loss)).unwrap();
        for from in (0..parts * rows).step_by(rows) {
            let x = data.x().block(from, rows, 0, 24);
            trainer.backward(&mut apart, &still, x, Targets::Values(values(from))).unwrap();
        }
        let mean: Vec<f64> = gradients(&apart).iter().map(|g| g / parts as f64).collect();
        assert!(distance(&gradients(&whole), &mean) < 1e-14, "on {threads}");

        // They are added to what is there, and a step uses the same.
        let once = gradients(&whole);
        let mut stepped = fresh();
        trainer.step(&mut stepped, &mut optimizer(&fresh()), data.x(), data.y(loss)).unwrap();
        let moved: Vec<f64> = parameters(&fresh()).iter().zip(&once).map(|(p, g)| p - 0.1 * g).collect();
        assert!(distance(&parameters(&stepped), &moved) < 1e-15, "on {threads}");
        trainer.backward(&mut whole, &still, data.x(), data.y(loss)).unwrap();
        let doubled: Vec<f64> = once.iter().map(|g| 2.0 * g).collect();
        assert!(distance(&gradients(&whole), &doubled) < 1e-15, "on {threads}");
    }
}

/// Bits of a model after some training with a number of threads.
fn trained<T: Element>(
    threads: usize,
    widths: &[usize],
    rows: usize,
    batch: usize,
    act: Activation,
    extra: Extra,
) -> Vec<u64> {
    set_num_threads(threads);
    let loss = Loss::CROSS_ENTROPY;
    let data = Data::<T>::new(rows, widths[0], widths[widths.len() - 1]);
    let mut layers = layers(widths, act);
    layers.splice(1..1, extra(widths[1]));
    let mut model = Model::<T>::new(layers, 4).unwrap();
    let mut trainer = Trainer::new(loss);
    let mut optimizer = Optimizer::new(adamw(), model.network()).unwrap();
    let options = FitOptions { epochs: 2, batch_size: batch, shuffle: true, seed: 8 };
    let mut fit = Fit::new(options, &trainer, &model, data.set(loss), Some(data.set(loss))).unwrap();
    let records = fit
        .run(&mut trainer, &mut model, &mut optimizer, data.set(loss), Some(data.set(loss)), |_| false)
        .unwrap();
    let mut result = bits(&parameters(&model));
    result.extend(bits(&model.averages()));
    for record in records {
        result.push(record.training.loss.to_bits());
        result.push(record.validation.unwrap().loss.to_bits());
    }
    let mut output = vec![T::ZERO; rows * widths[widths.len() - 1]];
    model.predict(data.x(), &mut output).unwrap();
    result.extend(bits(&output));
    result
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let _turn = THREADS.lock().unwrap();
    // Small, wide and deep enough for all kinds of plans to occur; the last batch is short and odd. The
    // fourth runs in waves on few threads, and in a single one on many; the last four in shards, of these the
    // last two in several blocks and with copies in panels.
    let cases: [(&[usize], usize, usize, Activation, Extra); 15] = [
        (&[5, 7, 3], 40, 13, Activation::Tanh, NOTHING),
        (&[64, 300, 300, 10], 500, 201, Activation::Gelu, NOTHING),
        (&[300, 1100, 5], 300, 128, Activation::Relu, NOTHING),
        (&[3, 128, 128, 128, 2], 3000, 1500, Activation::Sigmoid, NOTHING),
        (&[2100, 40, 3], 129, 64, Activation::LeakyRelu(0.1), NOTHING),
        (&[30, 900, 700, 5], 900, 800, Activation::Relu, NOTHING),
        (&[40, 300, 200, 5], 500, 401, Activation::Relu, BATCH_NORM),
        (&[7, 33, 3], 90, 70, Activation::Gelu, BATCH_NORM),
        (&[40, 300, 200, 5], 500, 401, Activation::Relu, ROW_NORMS),
        (&[3, 128, 128, 128, 2], 3000, 1500, Activation::Sigmoid, ROW_NORMS),
        (&[3, 128, 128, 128, 2], 3000, 1500, Activation::Relu, DROPOUT),
        (&[24, 64, 64, 4], 700, 257, Activation::Tanh, NOTHING),
        (&[24, 64, 64, 4], 700, 257, Activation::Gelu, DROPOUT),
        (&[3, 40, 40, 2], 3000, 2111, Activation::Tanh, NOTHING),
        (&[300, 80, 3], 700, 457, Activation::Relu, NOTHING),
    ];
    for (widths, rows, batch, act, extra) in cases {
        let run = |threads| trained::<f32>(threads, widths, rows, batch, act, extra);
        let run_double = |threads| trained::<f64>(threads, widths, rows, batch, act, extra);
        let (single, double) = (run(1), run_double(1));
        for threads in [2, 3, 8, 64] {
            assert_eq!(single, run(threads), "{widths:?} on {threads}");
        }
        assert_eq!(double, run_double(3), "{widths:?} on 3");
    }
}

/// In the first ten steps of a shape, all threads and one alone take turns, in memory that the other left
/// behind.
#[test]
fn the_same_bits_by_turns() {
    let _turn = THREADS.lock().unwrap();
    let small = &[5, 64, 64, 3][..];
    let clipped = StepOptions { clip: Some(Clip::Norm(0.1)), accumulate: 2, ..StepOptions::default() };
    let sharp = StepOptions { sam: Some(Sam { rho: 0.1, adaptive: false }), ..StepOptions::default() };
    let in_parts = StepOptions { precision: Precision::Bf16, ..StepOptions::default() };
    for (widths, rows, extra, options) in [
        (small, 64, NOTHING, StepOptions::default()),
        (small, 200, NOTHING, StepOptions::default()), // in shards
        (&[300, 130, 3], 9, NOTHING, StepOptions::default()),
        (small, 130, BATCH_NORM, StepOptions::default()),
        (small, 130, ROW_NORMS, StepOptions::default()),
        (small, 130, DROPOUT, StepOptions::default()),
        (small, 64, NOTHING, clipped),
        (small, 64, BATCH_NORM, sharp),
        (&[40, 64, 64, 40], 70, NOTHING, in_parts),
    ] {
        let run = |threads, poison: bool| {
            set_num_threads(threads);
            let loss = Loss::Mse;
            let data = Data::<f32>::new(rows, widths[0], widths[widths.len() - 1]);
            let mut net = layers(widths, Activation::Tanh);
            net.splice(1..1, extra(widths[1]));
            let mut model = Model::new(net, 0).unwrap();
            let mut trainer = Trainer::with_options(loss, options).ok()?;
            assert_eq!(trainer.plan(&model, rows).is_short(), threads > 1);
            let mut optimizer = Optimizer::new(momentum(0.05), model.network()).unwrap();
            let losses: Vec<_> = (0..12)
                .map(|_| {
                    if poison {
                        trainer.poison();
                    }
                    trainer.step(&mut model, &mut optimizer, data.x(), data.set(loss).y).unwrap().to_bits()
                })
                .collect();
            Some((bits(&parameters(&model)), bits(&model.averages()), losses))
        };
        let alone = run(1, false);
        for threads in [2, 3, 64] {
            assert_eq!(alone, run(threads, false), "{widths:?} on {threads}");
            assert_eq!(alone, run(threads, true), "{widths:?} on {threads}, poisoned");
        }
    }
}

#[test]
fn bad_data_are_named_and_change_nothing() {
    let _turn = THREADS.lock().unwrap();
    for loss in [Loss::Mse, Loss::CROSS_ENTROPY] {
        for (row, column, value) in [(0, 0, f32::NAN), (31, 3, f32::INFINITY), (7, 1, f32::NEG_INFINITY)] {
            let mut data = Data::<f32>::new(32, 4, 2);
            data.x[row * 4 + column] = value;
            let mut model = Model::new(layers(&[4, 8, 2], Activation::Relu), 0).unwrap();
            let mut trainer = Trainer::new(loss);
            let mut optimizer = Optimizer::new(adamw(), model.network()).unwrap();
            let before = bits(&parameters(&model));
            let expected = format!("x[{row}, {column}] is {value}");
            let fails = |result: Result<(), Error>| {
                let text = result.unwrap_err().to_string();
                assert!(text.starts_with(&expected), "{text}");
            };
            fails(trainer.step(&mut model, &mut optimizer, data.x(), data.y(loss)).map(|_| ()));
            fails(trainer.evaluate(&mut model, data.x(), data.y(loss)).map(|_| ()));
            let options = FitOptions { epochs: 1, batch_size: 4, shuffle: false, seed: 0 };
            fails(Fit::new(options, &trainer, &model, data.set(loss), None).map(|_| ()));
            let mut output = vec![0.0; 64];
            fails(model.predict(data.x(), &mut output));
            fails(model.forward(data.x(), &mut output, true));
            assert_eq!(before, bits(&parameters(&model)));
            assert_eq!(optimizer.steps, 0);
        }
    }
    let mut data = Data::<f32>::new(4, 2, 2);
    data.y[5] = f32::NAN;
    let mut model = Model::new(layers(&[2, 2], Activation::Relu), 0).unwrap();
    let mut optimizer = Optimizer::new(adamw(), model.network()).unwrap();
    let error =
        Trainer::new(Loss::Mse).step(&mut model, &mut optimizer, data.x(), data.y(Loss::Mse)).unwrap_err();
    assert!(error.to_string().starts_with("y[2, 1] is NaN"), "{error}");
}

#[test]
fn optimizers_of_whole_layers_refuse_what_accompanies_parameters() {
    let _turn = THREADS.lock().unwrap();
    let data = Data::<f32>::new(8, 4, 2);
    let mut model = Model::new(layers(&[4, 8, 2], Activation::Relu), 0).unwrap();
    let mut trainer = Trainer::new(Loss::Mse);
    let mut optimizer = Optimizer::new(Config::Lamb(Lamb::default()), model.network()).unwrap();
    let before = bits(&parameters(&model));
    trainer.along.mask = Some(Buffer::zeroed("a mask", model.network().arena_len()).unwrap());
    let stepped = trainer.step(&mut model, &mut optimizer, data.x(), data.y(Loss::Mse)).map(|_| ());
    let taken = trainer.take(&mut model, &mut optimizer);
    for refused in [stepped, taken] {
        assert!(refused.unwrap_err().to_string().contains("element by element"));
    }
    assert_eq!((before, optimizer.steps), (bits(&parameters(&model)), 0));
    // Neither do gradients that were gathered before there was a mask make an update.
    let several = StepOptions { accumulate: 2, ..StepOptions::default() };
    let mut trainer = Trainer::with_options(Loss::Mse, several).unwrap();
    trainer.take(&mut model, &mut optimizer).unwrap();
    trainer.along.mask = Some(Buffer::zeroed("a mask", model.network().arena_len()).unwrap());
    trainer.flush(&mut model, &mut optimizer).unwrap_err();
    trainer.along.mask = None;
    trainer.flush(&mut model, &mut optimizer).unwrap();
    assert_eq!(optimizer.steps, 1);
}

#[test]
fn backward_goes_through_the_running_averages_of_its_forward_pass() {
    let _turn = THREADS.lock().unwrap();
    let data = Data::<f64>::new(9, 4, 3);
    let widths = [linear(4, 6, true), norm(6, true), Layer::Activation(Activation::Tanh), linear(6, 3, true)];
    let gradients = |between: &dyn Fn(&mut Model<f64>)| {
        let mut model = Model::new(widths.to_vec(), 2).unwrap();
        let mut output = vec![0.0; 9 * 3];
        model.forward(data.x(), &mut output, false).unwrap();
        between(&mut model);
        let (mut dx, mut flat) = (vec![0.0; 9 * 4], vec![0.0; model.network().num_parameters()]);
        model.backward(MatRef::new(&data.y, 9, 3), Some(&mut dx), true).unwrap();
        model.gradients(&mut flat);
        (bits(&dx), bits(&flat))
    };
    let before = Model::<f64>::new(widths.to_vec(), 2).unwrap().averages();
    let moved = |model: &mut Model<f64>| {
        model.recalibrate(data.x(), 9).unwrap();
        assert_ne!(model.averages(), before);
    };
    assert_eq!(gradients(&moved), gradients(&|_| ()));
}

#[test]
fn the_plan_of_a_step_says_whether_it_is_in_waves() {
    let _turn = THREADS.lock().unwrap();
    set_num_threads(2);
    let model = Model::<f32>::new(layers(&[2, 256, 256, 256, 3], Activation::Tanh), 0).unwrap();
    let plan = |accumulate| {
        let options = StepOptions { accumulate, ..StepOptions::default() };
        let trainer = Trainer::with_options(Loss::Mse, options).unwrap();
        let optimizer = Optimizer::new(Config::Adam(Adam::default()), model.network()).unwrap();
        (trainer.plan(&model, 4096).in_waves(), trainer.explain(&model, &optimizer, 4096))
    };
    // Where gradients wait for an update, all rows are in the workspace at once.
    let (at_once, waiting) = (plan(1), plan(2));
    assert!(at_once.0 && !waiting.0 && waiting.1.1 > at_once.1.1, "{at_once:?} {waiting:?}");
    assert!(at_once.1.0.contains("waves of") && !waiting.1.0.contains("waves of"));
}

#[test]
fn single_precision_follows_double_precision() {
    let _turn = THREADS.lock().unwrap();
    // Float32 kernels are compared with float64 ones, with an error of 2e-6·√depth of the gradient.
    for isa in Isa::available() {
        for act in ACTIVATIONS {
            let data = Data::<f64>::new(33, 20, 5);
            let single = Data::<f32> {
                x: data.x.iter().map(|v| *v as f32).collect(),
                y: data.y.iter().map(|v| *v as f32).collect(),
                labels: data.labels.clone(),
                ..Data::new(33, 20, 5)
            };
            let wide: Vec<f64> = single.x.iter().map(|v| f64::from(*v)).collect();
            let mut a = Model::<f64>::with_isa(layers(&[20, 64, 48, 5], act), 6, isa).unwrap();
            let mut b = Model::<f32>::with_isa(layers(&[20, 64, 48, 5], act), 6, isa).unwrap();
            let rounded: Vec<f64> = parameters(&b).iter().map(|v| f64::from(*v)).collect();
            a.set_parameters(&rounded).unwrap();
            let (mut oa, mut ob) = (vec![0.0; 165], vec![0.0; 165]);
            a.forward(MatRef::new(&wide, 33, 20), &mut oa, true).unwrap();
            b.forward(single.x(), &mut ob, true).unwrap();
            let (mut ia, mut ib) = (vec![0.0; 660], vec![0.0; 660]);
            let c: Vec<f32> = (0..165).map(|i| (i as f32).sin()).collect();
            let cw: Vec<f64> = c.iter().map(|v| f64::from(*v)).collect();
            a.backward(MatRef::new(&cw, 33, 5), Some(&mut ia), true).unwrap();
            b.backward(MatRef::new(&c, 33, 5), Some(&mut ib), true).unwrap();
            let (mut ga, mut gb) = (vec![0.0; rounded.len()], vec![0.0f32; rounded.len()]);
            a.gradients(&mut ga);
            b.gradients(&mut gb);
            let wide = |v: &[f32]| v.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
            let bound = 2e-6 * 3f64.sqrt();
            for (what, x, y) in [("output", &ob, &oa), ("dx", &ib, &ia), ("gradient", &gb, &ga)] {
                let error = distance(&wide(x), y);
                assert!(error < bound, "{isa} {} {what}: {error:e}", act.name());
            }
        }
    }
}

/// A trainer in another precision, if this machine supports it.
fn in_precision(precision: Precision, loss: Loss) -> Option<Trainer<f32>> {
    let options = StepOptions { precision, ..StepOptions::default() };
    match Trainer::with_options(loss, options) {
        Ok(trainer) => Some(trainer),
        Err(Error::Unsupported(why)) => {
            println!("not tested here: {why}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn gradients_in_parts_are_as_exact_as_their_precision() {
    let _turn = THREADS.lock().unwrap();
    let (loss, widths, rows) = (Loss::Mse, &[40, 150, 97, 33, 3][..], 301);
    let (single, double) = (Data::<f32>::new(rows, 40, 3), Data::<f64>::new(rows, 40, 3));
    let flat = |n: usize| vec![0.0f32; n];
    for (extra, norms) in [(NOTHING, false), (BATCH_NORM, true), (DROPOUT, false)] {
        let net = || {
            let mut layers = layers(widths, Activation::Gelu);
            layers.splice(1..1, extra(150));
            layers
        };
        let mut exact = Model::<f64>::new(net(), 5).unwrap();
        let plain = Model::<f32>::new(net(), 5).unwrap();
        let n = plain.network().num_parameters();
        let mut start = flat(n);
        plain.parameters(&mut start);
        exact.set_parameters(&start.iter().map(|p| f64::from(*p)).collect::<Vec<_>>()).unwrap();
        let still = Optimizer::new(momentum(0.1), exact.network()).unwrap();
        let mut trainer = Trainer::new(loss);
        let x: Vec<f64> = single.x.iter().map(|x| f64::from(*x)).collect();
        let y: Vec<f64> = single.y.iter().map(|y| f64::from(*y)).collect();
        assert_eq!(double.rows, rows);
        let y = Targets::Values(MatRef::new(&y, rows, 3));
        trainer.backward(&mut exact, &still, MatRef::new(&x, rows, 40), y).unwrap();
        let mut want = vec![0.0; n];
        exact.gradients(&mut want);
        let still = Optimizer::new(momentum(0.1), plain.network()).unwrap();
        let error_of = |trainer: &mut Trainer<f32>| {
            let mut model = Model::<f32>::new(net(), 5).unwrap();
            trainer.backward(&mut model, &still, single.x(), single.y(loss)).unwrap();
            let mut found = flat(n);
            model.gradients(&mut found);
            let square = |f: &dyn Fn(usize) -> f64| (0..n).map(|i| f(i).powi(2)).sum::<f64>().sqrt();
            square(&|i| f64::from(found[i]) - want[i]) / square(&|i| want[i])
        };
        let float32 = error_of(&mut Trainer::new(loss));
        // In sums as short as these, what three parts omit of a product is more than float32 rounds away.
        for (precision, bound) in
            [(Precision::Bf16x6, 8.0 * float32), (Precision::Bf16x3, 3e-5), (Precision::Bf16, 3e-2)]
        {
            let Some(mut trainer) = in_precision(precision, loss) else { continue };
            let error = error_of(&mut trainer);
            assert!(error < bound, "{precision:?}, norms {norms}: {error:e}, float32 {float32:e}");
            assert!(precision == Precision::Bf16x6 || error > bound / 100.0, "{precision:?}: {error:e}");
        }
    }
}

#[test]
fn the_same_bits_for_any_number_of_threads_in_parts() {
    let _turn = THREADS.lock().unwrap();
    let cases: [(&[usize], usize, usize, Extra); 4] = [
        (&[64, 300, 300, 10], 500, 201, NOTHING),
        (&[3, 128, 128, 128, 2], 3000, 1500, NOTHING), // in waves
        (&[40, 300, 200, 5], 500, 401, BATCH_NORM),
        (&[33, 64, 64, 40], 333, 111, DROPOUT),
    ];
    for precision in Precision::SPLIT {
        for (widths, rows, batch, extra) in cases {
            let run = |threads| {
                set_num_threads(threads);
                let loss = Loss::Mse;
                let data = Data::<f32>::new(rows, widths[0], widths[widths.len() - 1]);
                let mut net = layers(widths, Activation::Relu);
                net.splice(1..1, extra(widths[1]));
                let mut model = Model::new(net, 3).unwrap();
                let mut trainer = in_precision(precision, loss)?;
                let mut optimizer = Optimizer::new(adamw(), model.network()).unwrap();
                let options = FitOptions { epochs: 2, batch_size: batch, shuffle: true, seed: 1 };
                let mut fit = Fit::new(options, &trainer, &model, data.set(loss), None).unwrap();
                fit.run(&mut trainer, &mut model, &mut optimizer, data.set(loss), None, |_| false).unwrap();
                Some(bits(&parameters(&model)))
            };
            let Some(one) = run(1) else { continue };
            for threads in [2, 3, 8, 64] {
                assert!(Some(&one) == run(threads).as_ref(), "{precision:?} {widths:?} on {threads}");
            }
        }
    }
}

#[test]
fn a_trainer_of_two_networks_steps_each_as_one_of_its_own_would() {
    // Equally many rows, and equally much arithmetic: only the network distinguishes their plans.
    let widths: [&[usize]; 2] = [&[7, 64, 32, 3], &[7, 32, 64, 3]];
    let data = Data::<f32>::new(40, 7, 3);
    let loss = Loss::CROSS_ENTROPY;
    let make = |widths: &[usize]| {
        let model = Model::<f32>::new(layers(widths, Activation::Tanh), 3).unwrap();
        let optimizer = Optimizer::new(adamw(), model.network()).unwrap();
        (model, optimizer)
    };
    let alone = widths.map(|widths| {
        let ((mut model, mut optimizer), mut trainer) = (make(widths), Trainer::new(loss));
        (0..3).for_each(|_| {
            trainer.step(&mut model, &mut optimizer, data.x(), data.y(loss)).unwrap();
        });
        bits(&parameters(&model))
    });
    let (mut both, mut trainer) = (widths.map(make), Trainer::new(loss));
    for _ in 0..3 {
        for (model, optimizer) in &mut both {
            trainer.step(model, optimizer, data.x(), data.y(loss)).unwrap();
        }
    }
    assert_eq!(both.map(|(model, _)| bits(&parameters(&model))), alone);
}
