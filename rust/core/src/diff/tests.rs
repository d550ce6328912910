//! Exact derivatives on every instruction set: compared with the Jacobian, which
//! [`jacobian`](crate::jacobian) computes row by row with the usual backward pass, and with differences of
//! the gradient where rows depend on each other.

use super::likelihood::{Kind, Likelihood, Slopes};
use super::squares::{Squares, Sum};
use super::{Curvature, Matrix, Replay, jvp};
use crate::check::{Check, Source};
use crate::layer::{Activation, BatchNorm, Fourier, Frequencies, Init, Layer, Linear, RowNorm};
use crate::loss::{Goals, Loss, Objective, Targets};
use crate::rng::{Purpose, Stream};
use crate::simd::Isa;
use crate::view::MatRef;
use crate::{Element, Model};

/// More rows than a block has, and widths with remainders for every kernel.
pub(super) const ROWS: usize = 70;
pub(super) const WIDTHS: [usize; 4] = [5, 37, 18, 3];

/// What follows each hidden dense layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Behind {
    Nothing,
    RowNorm,
    BatchNorm,
    /// Blocks whose inputs go on beside their outputs.
    Blocks,
}

fn dense(inputs: usize, outputs: usize) -> Layer {
    Layer::Linear(Linear { inputs, outputs, bias: true, init: Init::KaimingUniform })
}

pub(super) fn network(behind: Behind, act: Activation) -> Vec<Layer> {
    let mut layers = Vec::new();
    for pair in WIDTHS.windows(2) {
        let (inputs, features) = (pair[0], pair[1]);
        layers.push(dense(inputs, features));
        let eps = 1e-5;
        match behind {
            _ if features == WIDTHS[3] => return layers,
            Behind::Nothing => {}
            Behind::RowNorm => layers.push(Layer::RowNorm(RowNorm {
                features,
                eps: Some(eps),
                centred: true,
                scale: true,
                shift: true,
            })),
            Behind::BatchNorm => {
                layers.push(Layer::BatchNorm(BatchNorm { features, eps, momentum: 0.1, affine: true }));
            }
            Behind::Blocks => {
                let inner = vec![dense(features, 6), Layer::Activation(act)];
                let block = vec![Layer::Concatenate(inner), dense(features + 6, 4)];
                layers.extend([Layer::Concatenate(block), dense(features + 4, features)]);
            }
        }
        layers.push(Layer::Activation(act));
    }
    layers
}

pub(super) fn draw<T: Element>(n: usize, seed: u64) -> Vec<T> {
    let mut rng = Stream::new(seed, Purpose::Init, 99);
    (0..n).map(|_| T::lit(rng.normal())).collect()
}

/// ‖a − b‖/‖b‖
pub(super) fn distance(a: &[f64], b: &[f64]) -> f64 {
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied())
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Outputs, and their derivatives with respect to the parameters, (rows · outputs) × parameters.
fn jacobian(model: &mut Model<f64>, x: MatRef<'_, f64>) -> (Vec<f64>, Vec<f64>) {
    let n = x.rows() * WIDTHS[3];
    let (mut output, mut found) = (vec![0.0; n], vec![0.0; n * model.network().num_parameters()]);
    model.jacobian(x, true, &mut output, &mut found).unwrap();
    (output, found)
}

#[test]
fn tangents_are_the_jacobian_times_the_direction() {
    for isa in Isa::available() {
        for behind in [Behind::Nothing, Behind::RowNorm, Behind::Blocks] {
            for act in [Activation::Tanh, Activation::Gelu, Activation::Relu] {
                let mut model = Model::<f64>::with_isa(network(behind, act), 3, isa).unwrap();
                let (x, size) = (draw(ROWS * WIDTHS[0], 1), model.network().num_parameters());
                let (x, v) = (MatRef::new(&x, ROWS, WIDTHS[0]), draw(size, 2));
                let (outputs, j) = jacobian(&mut model, x);
                let expected: Vec<f64> = j.chunks_exact(size).map(|row| dot(row, &v)).collect();
                let [mut output, mut tangent] = [vec![0.0; outputs.len()], vec![0.0; outputs.len()]];
                jvp(&mut model, x, None, false, &v, [&mut output, &mut tangent]).unwrap();
                assert!(distance(&output, &outputs) < 1e-14, "{isa} {behind:?} {}", act.name());
                let error = distance(&tangent, &expected);
                assert!(error < 1e-13, "{isa} {behind:?} {}: {error:e}", act.name());
            }
        }
    }
}

#[test]
fn for_squares_the_gauss_newton_matrix_is_that_of_the_jacobian() {
    for isa in Isa::available() {
        for behind in [Behind::Nothing, Behind::RowNorm, Behind::Blocks] {
            let mut model = Model::<f64>::with_isa(network(behind, Activation::Tanh), 3, isa).unwrap();
            let (x, size) = (draw(ROWS * WIDTHS[0], 1), model.network().num_parameters());
            let (x, y, v) = (MatRef::new(&x, ROWS, WIDTHS[0]), draw(ROWS * WIDTHS[3], 4), draw(size, 2));
            let (outputs, j) = jacobian(&mut model, x);
            let mut expected = vec![0.0; size];
            for row in j.chunks_exact(size) {
                let along = 2.0 / outputs.len() as f64 * dot(row, &v);
                expected.iter_mut().zip(row).for_each(|(e, d)| *e += along * d);
            }
            let mut found = vec![0.0; size];
            let y = Targets::Values(MatRef::new(&y, ROWS, WIDTHS[3]));
            let loss = Objective::from(Loss::Mse);
            Curvature::default()
                .product(&mut model, &loss, x, y, Matrix::GaussNewton, true, &v, &mut found)
                .unwrap();
            let error = distance(&found, &expected);
            assert!(error < 1e-13, "{isa} {behind:?}: {error:e}");
        }
    }
}

#[test]
fn the_hessian_is_the_derivative_of_the_gradient_and_symmetric() {
    let labels: Vec<i64> = (0..ROWS).map(|i| (i * 7 % WIDTHS[3]) as i64).collect();
    let y = Targets::Labels(&labels);
    for isa in Isa::available() {
        for behind in [Behind::Nothing, Behind::RowNorm, Behind::BatchNorm, Behind::Blocks] {
            let mut model = Model::<f64>::with_isa(network(behind, Activation::Tanh), 3, isa).unwrap();
            let (x, size) = (draw(ROWS * WIDTHS[0], 1), model.network().num_parameters());
            let x = MatRef::new(&x, ROWS, WIDTHS[0]);
            let mut point = vec![0.0; size];
            model.parameters(&mut point);
            let loss = Objective::from(Loss::CROSS_ENTROPY);
            let times = |model: &mut Model<f64>, v: &[f64]| {
                let mut found = vec![0.0; size];
                Curvature::default()
                    .product(model, &loss, x, y, Matrix::Hessian, true, v, &mut found)
                    .unwrap();
                found
            };
            let [u, v] = [5, 6].map(|seed| draw::<f64>(size, seed));
            let (hu, hv) = (times(&mut model, &u), times(&mut model, &v));
            let scale = dot(&hu, &hu).sqrt() * dot(&v, &v).sqrt();
            assert!((dot(&v, &hu) - dot(&u, &hv)).abs() < 1e-13 * scale, "{isa} {behind:?}");

            let h = 1e-6; // v has a length of about thirty
            let mut slope = |step: f64| {
                let moved: Vec<f64> = point.iter().zip(&v).map(|(p, v)| p + step * v).collect();
                model.set_parameters(&moved).unwrap();
                Check::new(&mut model, x, &mut Source::Goals(&loss, y.into())).unwrap().gradient()
            };
            let (up, down) = (slope(h), slope(-h));
            let numeric: Vec<f64> = up.iter().zip(&down).map(|(a, b)| (a - b) / (2.0 * h)).collect();
            let error = distance(&hv, &numeric);
            assert!(error < 1e-7, "{isa} {behind:?}: {error:e}");
        }
    }
}

#[test]
fn what_is_kept_of_a_point_changes_no_bit_and_is_forgotten_when_anything_changes() {
    let loss = Objective::from(Loss::CROSS_ENTROPY);
    for behind in [Behind::Nothing, Behind::RowNorm, Behind::BatchNorm, Behind::Blocks] {
        let mut model = Model::<f32>::new(network(behind, Activation::Gelu), 3).unwrap();
        let size = model.network().num_parameters();
        let mut x = draw::<f32>(ROWS * WIDTHS[0], 1);
        let mut labels: Vec<i64> = (0..ROWS).map(|i| (i * 7 % WIDTHS[3]) as i64).collect();
        let mut weights = vec![1.0; ROWS];
        let (mut matrix, mut training) = (Matrix::Hessian, true);
        let mut kept = Curvature::default();
        for change in 0..9 {
            match change {
                1 => x[17] += 1.0,
                2 => labels[ROWS - 1] = (labels[ROWS - 1] + 1) % WIDTHS[3] as i64,
                3 => weights[3] = 0.5,
                4 => {
                    let mut theta = vec![0.0; size];
                    model.parameters(&mut theta);
                    theta[size - 1] += 0.1;
                    model.set_parameters(&theta).unwrap();
                }
                5 => matrix = Matrix::GaussNewton,
                6 => training = false,
                7 => {
                    let averages = model.averages().iter().map(|a| a + 0.5).collect::<Vec<_>>();
                    model.set_averages(&averages).unwrap();
                }
                8 => matrix = Matrix::Fisher,
                _ => {}
            }
            let x = MatRef::new(&x, ROWS, WIDTHS[0]);
            let y = Goals { targets: Targets::Labels(&labels), weights: Some(&weights) };
            for seed in [5, 6, 7] {
                let v = draw::<f32>(size, seed);
                let mut found = [vec![0.0; size], vec![0.0; size]];
                kept.product(&mut model, &loss, x, y, matrix, training, &v, &mut found[0]).unwrap();
                Curvature::default()
                    .product(&mut model, &loss, x, y, matrix, training, &v, &mut found[1])
                    .unwrap();
                let [found, expected] = found.map(|v| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
                assert!(found == expected, "{behind:?} change {change}, vector {seed}");
            }
        }
    }
}

#[test]
fn in_the_memory_of_another_network_a_product_has_the_same_bits() {
    let loss = Objective::from(Loss::CROSS_ENTROPY);
    let mut networks: Vec<Vec<Layer>> = [Behind::Nothing, Behind::BatchNorm, Behind::RowNorm]
        .into_iter()
        .zip([Activation::Gelu, Activation::Relu, Activation::Tanh])
        .map(|(behind, act)| network(behind, act))
        .collect();
    let mut last = network(Behind::Nothing, Activation::Silu);
    let width = WIDTHS[2];
    let inner = Linear { inputs: width, outputs: width, bias: true, init: Init::KaimingUniform };
    let block = vec![Layer::Linear(inner), Layer::Activation(Activation::Dropout(0.3))];
    last.insert(4, Layer::Residual(block));
    networks.push(last);
    let mut encoded = network(Behind::Nothing, Activation::Tanh);
    let frequencies = Frequencies::Normal { count: 4, sigma: 1.0 };
    let first = Linear { inputs: 8, outputs: WIDTHS[1], bias: true, init: Init::KaimingUniform };
    encoded[0] = Layer::Linear(first);
    encoded.insert(0, Layer::Fourier(Fourier { inputs: WIDTHS[0], frequencies }));
    networks.push(encoded);
    let mut kept = Curvature::default();
    for round in 0..2 {
        for (number, layers) in networks.iter().enumerate() {
            for (rows, matrix) in [(ROWS, Matrix::Hessian), (5, Matrix::GaussNewton), (131, Matrix::Hessian)]
            {
                let mut model = Model::<f32>::new(layers.clone(), 3 + round).unwrap();
                let (x, size) = (draw::<f32>(rows * WIDTHS[0], 1 + round), model.network().num_parameters());
                let (x, v) = (MatRef::new(&x, rows, WIDTHS[0]), draw::<f32>(size, 2 + round));
                let labels: Vec<i64> = (0..rows).map(|i| (i * 7 % WIDTHS[3]) as i64).collect();
                let y = Targets::Labels(&labels);
                let mut found = [vec![0.0; size], vec![0.0; size]];
                kept.product(&mut model, &loss, x, y, matrix, true, &v, &mut found[0]).unwrap();
                Curvature::default()
                    .product(&mut model, &loss, x, y, matrix, true, &v, &mut found[1])
                    .unwrap();
                let [found, expected] = found.map(|v| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
                assert!(found == expected, "network {number}, {rows} rows, {matrix:?}");
            }
        }
    }
}

#[test]
fn batches_that_are_not_kept_are_the_mean_of_their_parts() {
    let (rows, loss) = (5000, Objective::from(Loss::CROSS_ENTROPY)); // three waves, some 20 MB
    let mut model = Model::<f64>::new(network(Behind::RowNorm, Activation::Tanh), 3).unwrap();
    let (x, size) = (draw::<f64>(rows * WIDTHS[0], 1), model.network().num_parameters());
    let labels: Vec<i64> = (0..rows).map(|i| (i * 7 % WIDTHS[3]) as i64).collect();
    let v = draw(size, 2);
    let mut kept = Curvature::default();
    let mut times = |kept: &mut Curvature<f64>, rows: std::ops::Range<usize>| {
        let mut found = vec![0.0; size];
        let part = &x[rows.start * WIDTHS[0]..rows.end * WIDTHS[0]];
        let (part, y) = (MatRef::new(part, rows.len(), WIDTHS[0]), Targets::Labels(&labels[rows]));
        kept.product(&mut model, &loss, part, y, Matrix::Hessian, true, &v, &mut found).unwrap();
        found
    };
    let whole = [(); 2].map(|()| times(&mut kept, 0..rows));
    let parts: Vec<_> =
        (0..rows).step_by(1000).map(|r| times(&mut Curvature::default(), r..r + 1000)).collect();
    let mean: Vec<f64> = (0..size).map(|i| parts.iter().map(|p| p[i]).sum::<f64>() / 5.0).collect();
    assert!(whole[0] == whole[1]);
    let error = distance(&whole[0], &mean);
    assert!(error < 1e-13, "{error:e}");
}

#[test]
fn a_product_that_is_interrupted_goes_on_to_the_same_bits() {
    // Three waves, whose blocks are kept for the small network and not for the other.
    let small = vec![Layer::Linear(Linear { inputs: 3, outputs: 3, bias: true, init: Init::KaimingUniform })];
    for layers in [small, network(Behind::RowNorm, Activation::Tanh)] {
        let mut model = Model::<f64>::new(layers, 3).unwrap();
        let (rows, inputs, outputs) = (5000, model.network().inputs(), model.network().outputs());
        let (x, size) = (draw::<f64>(rows * inputs, 1), model.network().num_parameters());
        let labels: Vec<i64> = (0..rows).map(|i| (i * 7 % outputs) as i64).collect();
        let (x, y) = (MatRef::new(&x, rows, inputs), Targets::Labels(&labels));
        let (v, loss) = (draw(size, 2), Objective::from(Loss::CROSS_ENTROPY));
        let mut whole = vec![0.0; size];
        Curvature::default().product(&mut model, &loss, x, y, Matrix::Hessian, true, &v, &mut whole).unwrap();
        let mut kept = Curvature::default();
        for _ in 0..2 {
            let (mut parts, mut found) = (1, vec![0.0; size]);
            kept.begin(&model, &loss, x, y, Matrix::Hessian, true, &v).unwrap();
            while !kept.go(&mut || true).unwrap() {
                parts += 1;
            }
            kept.end(&mut found);
            assert!(parts == 3 && found == whole);
        }
        // Another one may begin before that is done.
        let (other, mut found) = (draw(size, 4), vec![0.0; size]);
        kept.begin(&model, &loss, x, y, Matrix::Hessian, true, &other).unwrap();
        assert!(!kept.go(&mut || true).unwrap());
        kept.product(&mut model, &loss, x, y, Matrix::Hessian, true, &v, &mut found).unwrap();
        assert!(found == whole);
    }
}

#[test]
fn an_error_leaves_nothing_behind() {
    let mut model = Model::<f64>::new(network(Behind::BatchNorm, Activation::Tanh), 3).unwrap();
    let (x, size) = (draw(ROWS * WIDTHS[0], 1), model.network().num_parameters());
    let (x, labels, loss) =
        (MatRef::new(&x, ROWS, WIDTHS[0]), vec![1i64; ROWS], Objective::from(Loss::CROSS_ENTROPY));
    let mut kept = Curvature::default();
    let mut times = |model: &mut Model<f64>, v: &[f64]| {
        let mut found = vec![0.0; size];
        let y = Targets::Labels(&labels);
        kept.product(model, &loss, x, y, Matrix::Hessian, true, v, &mut found).map(|()| found)
    };
    let v = draw(size, 2);
    let before = times(&mut model, &v).unwrap();
    assert!(times(&mut model, &vec![1e308; size]).is_err());
    assert!(times(&mut model, &vec![f64::NAN; size]).is_err());
    assert!(times(&mut model, &v).unwrap() == before);
}

#[test]
fn a_replay_is_the_pass_with_that_parameter_in_any_order() {
    for isa in Isa::available() {
        for behind in [Behind::Nothing, Behind::RowNorm, Behind::BatchNorm, Behind::Blocks] {
            let mut layers = network(behind, Activation::Gelu);
            let inner = Layer::Linear(Linear {
                inputs: WIDTHS[2],
                outputs: WIDTHS[2],
                bias: true,
                init: Init::KaimingUniform,
            });
            let at = layers.len() - 1;
            layers.insert(at, Layer::Residual(vec![inner, Layer::Activation(Activation::Dropout(0.3))]));
            let mut model = Model::<f64>::with_isa(layers, 3, isa).unwrap();
            let x = draw(ROWS * WIDTHS[0], 1);
            let x = MatRef::new(&x, ROWS, WIDTHS[0]);
            let mut replay = Replay::new(&model, x).unwrap();
            let size = model.network().num_parameters();
            let mut places = vec![0; size];
            model.network().translate(|public, inner| places[public] = inner);
            // Parameters all over the network, and not in order.
            for public in (0..size).map(|i| i * 307 % size).step_by(23) {
                let place = places[public];
                let (was, value) = (model.params[place], model.params[place] + 0.25);
                let stages = replay.run(model.network(), place, value);
                model.params[place] = value;
                let expected = Replay::new(&model, x).unwrap();
                model.params[place] = was;
                for index in stages {
                    let all = |of: &Replay<f64>| {
                        of.outputs(index).flatten().map(|y| y.to_bits()).collect::<Vec<_>>()
                    };
                    assert!(
                        all(&replay) == all(&expected),
                        "{isa} {behind:?} parameter {public} stage {index}"
                    );
                }
            }
        }
    }
}

#[test]
fn squares_are_those_of_the_jacobian_s_rows() {
    for isa in Isa::available() {
        for behind in [Behind::Nothing, Behind::RowNorm, Behind::Blocks] {
            let mut model = Model::<f64>::with_isa(network(behind, Activation::Tanh), 3, isa).unwrap();
            let (x, size) = (draw(ROWS * WIDTHS[0], 1), model.network().num_parameters());
            let x = MatRef::new(&x, ROWS, WIDTHS[0]);
            let y = draw(ROWS * WIDTHS[3], 4);
            let (output, j) = jacobian(&mut model, x);
            let add = |into: &mut [f64], row: &[f64]| into.iter_mut().zip(row).for_each(|(e, d)| *e += d * d);
            let [mut exact, mut empirical] = [vec![0.0; size], vec![0.0; size]];
            for (n, rows) in j.chunks_exact(size * WIDTHS[3]).enumerate() {
                // For a normal distribution with variance 1 the slope with respect to a mean is y - f, and
                // its square is 1.
                let mut own = vec![0.0; size];
                for (k, row) in rows.chunks_exact(size).enumerate() {
                    add(&mut exact, row);
                    let slope = y[n * WIDTHS[3] + k] - output[n * WIDTHS[3] + k];
                    own.iter_mut().zip(row).for_each(|(e, d)| *e += slope * d);
                }
                add(&mut empirical, &own);
            }
            for (kind, mut expected) in [(Kind::Exact, exact), (Kind::Empirical, empirical)] {
                expected.iter_mut().for_each(|e| *e /= ROWS as f64);
                let slopes = Slopes::new(Likelihood::Gaussian, kind, None, WIDTHS[3]).unwrap();
                let mut sum = Squares::new(&model, Sum::Squares, slopes).unwrap();
                let targets = Targets::Values(MatRef::new(&y, ROWS, WIDTHS[3]));
                for rows in [0..33, 33..ROWS] {
                    sum.add(&mut model, x, rows, Some(&targets), None).unwrap();
                }
                let error = distance(&sum.mean(model.network()).unwrap(), &expected);
                assert!(error < 1e-13, "{isa} {behind:?} {kind:?}: {error:e}");
            }
        }
    }
}

#[test]
fn float32_has_its_digits_on_every_isa() {
    let labels: Vec<i64> = (0..ROWS).map(|i| (i * 7 % WIDTHS[3]) as i64).collect();
    for behind in [Behind::Nothing, Behind::RowNorm, Behind::BatchNorm, Behind::Blocks] {
        let mut reference = Vec::new();
        for isa in Isa::available() {
            let layers = network(behind, Activation::Tanh);
            let found = hessian_product::<f32>(Model::with_isa(layers.clone(), 3, isa).unwrap(), &labels);
            if reference.is_empty() {
                // The weights of both are drawn alike, but rounded here.
                reference = hessian_product::<f64>(Model::with_isa(layers, 3, isa).unwrap(), &labels);
            }
            let error = distance(&found, &reference);
            assert!(error < 2e-5, "{isa} {behind:?}: {error:e}");
        }
    }
}

fn hessian_product<T: Element>(mut model: Model<T>, labels: &[i64]) -> Vec<f64> {
    let (x, size) = (draw::<T>(ROWS * WIDTHS[0], 1), model.network().num_parameters());
    let (x, v) = (MatRef::new(&x, ROWS, WIDTHS[0]), draw::<T>(size, 2));
    let mut found = vec![T::ZERO; size];
    let loss = Objective::from(Loss::CROSS_ENTROPY);
    Curvature::default()
        .product(&mut model, &loss, x, Targets::Labels(labels), Matrix::Hessian, true, &v, &mut found)
        .unwrap();
    found.iter().map(|x| x.to_f64()).collect()
}
