//! Optimizers against their formulas, written out on single numbers.

use super::*;
use crate::rng::{Purpose, Stream};
use crate::simd::Isa;

const STEPS: u64 = 60;

/// θ after each step, for a sequence of gradients.
fn formula(config: Config, theta: f64, grads: &[f64]) -> Vec<f64> {
    let (mut p, mut first, mut second) = (theta, 0.0, 0.0);
    let mut path = Vec::new();
    for (i, &g) in grads.iter().enumerate() {
        let t = i as i32 + 1;
        match config {
            Config::Sgd(c) => {
                let g = g + c.weight_decay * p;
                let mut direction = g;
                if c.momentum != 0.0 {
                    first = if t == 1 { g } else { c.momentum * first + (1.0 - c.dampening) * g };
                    direction = if c.nesterov { g + c.momentum * first } else { first };
                }
                p -= c.lr * direction;
            }
            Config::Adam(c) | Config::AdamW(AdamW(c)) => {
                let mut g = g;
                if matches!(config, Config::AdamW(_)) {
                    p -= c.lr * c.weight_decay * p;
                } else {
                    g += c.weight_decay * p;
                }
                first = c.beta1 * first + (1.0 - c.beta1) * g;
                second = c.beta2 * second + (1.0 - c.beta2) * g * g;
                let mean = first / (1.0 - c.beta1.powi(t));
                let square = second / (1.0 - c.beta2.powi(t));
                p -= c.lr * mean / (square.sqrt() + c.eps);
            }
        }
        path.push(p);
    }
    path
}

fn configs() -> Vec<Config> {
    let sgd = Sgd { lr: 0.1, momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 };
    let adam = Adam { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
    let decayed = Adam { beta1: 0.5, beta2: 0.9, eps: 1e-3, weight_decay: 0.1, ..adam };
    vec![
        Config::Sgd(sgd),
        Config::Sgd(Sgd { weight_decay: 0.01, ..sgd }),
        Config::Sgd(Sgd { momentum: 0.9, ..sgd }),
        Config::Sgd(Sgd { momentum: 0.9, dampening: 0.5, weight_decay: 0.01, ..sgd }),
        Config::Sgd(Sgd { momentum: 0.9, nesterov: true, weight_decay: 0.01, ..sgd }),
        Config::Adam(adam),
        Config::Adam(decayed),
        Config::AdamW(AdamW(adam)),
        Config::AdamW(AdamW(decayed)),
    ]
}

fn trajectory<T: Element>(isa: Isa, config: Config, theta: &[f64], grads: &[Vec<f64>]) -> Vec<Vec<T>> {
    let n = theta.len();
    let mut params: Vec<T> = theta.iter().map(|x| T::lit(*x)).collect();
    let mut optimizer = Optimizer::<T>::new(config, n).unwrap();
    grads
        .iter()
        .map(|g| {
            let g: Vec<T> = g.iter().map(|x| T::lit(*x)).collect();
            let step = optimizer.next_step();
            let mut state = optimizer.state.iter_mut();
            let state = std::array::from_fn(|_| state.next().map_or(&mut [][..], |s| &mut s[..]));
            step.update(isa, &mut params, &g, state);
            optimizer.steps += 1;
            params.clone()
        })
        .collect()
}

#[test]
fn every_optimizer_follows_its_formula() {
    let mut rng = Stream::new(5, Purpose::Init, 0);
    let n = 37; // vectors and a remainder on every ISA
    let theta: Vec<f64> = (0..n).map(|_| rng.normal()).collect();
    let grads: Vec<Vec<f64>> = (0..STEPS).map(|_| (0..n).map(|_| rng.normal()).collect()).collect();
    for isa in Isa::available() {
        for config in configs() {
            let double = trajectory::<f64>(isa, config, &theta, &grads);
            let single = trajectory::<f32>(isa, config, &theta, &grads);
            for j in 0..n {
                let sequence: Vec<f64> = grads.iter().map(|g| g[j]).collect();
                for (t, want) in formula(config, theta[j], &sequence).into_iter().enumerate() {
                    let error = (double[t][j] - want).abs();
                    assert!(error <= 1e-13 * (1.0 + want.abs()), "{isa} {config:?} step {t}: {error:e}");
                    let error = (f64::from(single[t][j]) - want).abs();
                    assert!(error <= 1e-5 * (1.0 + want.abs()), "{isa} {config:?} step {t}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn the_first_step_of_adam_is_the_sign_of_the_gradient() {
    let adam = Adam { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 0.0, weight_decay: 0.0 };
    let path = trajectory::<f64>(Isa::Scalar, Config::Adam(adam), &[0.0; 3], &[vec![1e-5, -3.0, 1e5]]);
    for (got, want) in path[0].iter().zip([-0.01, 0.01, -0.01]) {
        assert!((got - want).abs() < 1e-15);
    }
}

#[test]
fn hyper_parameters_out_of_range_are_named() {
    let sgd = Sgd { lr: 0.1, momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 };
    let adam = Adam { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
    let cases = [
        (Config::Sgd(Sgd { lr: -1.0, ..sgd }), "lr is -1"),
        (Config::Sgd(Sgd { lr: f64::NAN, ..sgd }), "lr is NaN"),
        (Config::Sgd(Sgd { momentum: 1.0, ..sgd }), "momentum is 1"),
        (Config::Sgd(Sgd { nesterov: true, ..sgd }), "nesterov is True"),
        (Config::Adam(Adam { beta1: 1.0, ..adam }), "betas[0] is 1"),
        (Config::Adam(Adam { beta2: -0.1, ..adam }), "betas[1] is -0.1"),
        (Config::AdamW(AdamW(Adam { eps: -1.0, ..adam })), "eps is -1"),
        (Config::AdamW(AdamW(Adam { weight_decay: f64::INFINITY, ..adam })), "weight_decay is inf"),
    ];
    for (config, text) in cases {
        let error = config.check().unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}");
    }
    let mut config = Config::Sgd(sgd);
    assert!(config.set_lr(-0.5).is_err());
    assert_eq!(config.lr(), 0.1);
    config.set_lr(0.0).unwrap();
    assert_eq!(config.lr(), 0.0);
}
