//! Measures training steps, in microseconds: `cargo run --release --example steps [threads] [filter]
//! [precision]`.
//!
//! The networks are those of the benchmarks, without Python and other libraries, and as there, batches take
//! turns, so that none is in the nearest cache. The rate counts the multiply-adds of all products, so that it can
//! be compared with what `rates` shows for one product.

use std::time::{Duration, Instant};

use thalweg_core::gemm::Precision;
use thalweg_core::layer::{Activation, BatchNorm, Init, Layer, Linear};
use thalweg_core::loss::{Loss, Targets};
use thalweg_core::optim::{Adam, Config, Optimizer, Sgd};
use thalweg_core::threads;
use thalweg_core::train::StepOptions;
use thalweg_core::view::MatRef;
use thalweg_core::{Model, Trainer};

/// Most batches that take turns, and most numbers in all of them, if more than two are too many.
const MOST_BATCHES: usize = 16;
const MOST_DATA: usize = 16 << 20;

struct Net {
    widths: &'static [usize],
    act: Activation,
    rows: usize,
    labels: bool,
    adam: bool,
    norm: bool,
}

const fn net(widths: &'static [usize], act: Activation, rows: usize, labels: bool, adam: bool) -> Net {
    Net { widths, act, rows, labels, adam, norm: false }
}

const NETS: [Net; 13] = [
    Net { norm: true, ..net(&[54, 256, 256, 7], Activation::Relu, 256, true, true) },
    net(&[4, 64, 64, 2], Activation::Tanh, 64, false, true),
    net(&[64, 100, 10], Activation::Relu, 200, true, true),
    net(&[10, 45, 45, 10], Activation::Relu, 128, true, true),
    net(&[23, 256, 256, 1], Activation::Relu, 256, false, true),
    net(&[784, 128, 10], Activation::Relu, 128, true, false),
    net(&[784, 400, 400, 10], Activation::Relu, 128, true, false),
    net(&[3, 20, 20, 20, 20, 20, 20, 20, 20, 2], Activation::Tanh, 5000, false, true),
    net(&[2, 256, 256, 256, 256, 3], Activation::Relu, 4096, false, true),
    net(&[640, 640, 640, 640, 640], Activation::Relu, 512, false, true),
    net(&[784, 2000, 2000, 10], Activation::Relu, 256, true, true),
    net(&[479, 1024, 1024, 512, 256, 1], Activation::Relu, 2048, false, true),
    net(&[1024, 4096, 4096, 1024], Activation::Relu, 512, false, true),
];

fn main() {
    let mut args = std::env::args().skip(1);
    if let Some(n) = args.next().and_then(|n| n.parse().ok()) {
        threads::set_num_threads(n);
    }
    let filter = args.next().unwrap_or_default();
    let name = args.next().unwrap_or_default();
    let precision = Precision::SPLIT.into_iter().find(|p| p.name() == name).unwrap_or_default();
    for Net { widths, act, rows, labels, adam, norm } in NETS {
        let name = format!("{} B{rows}", widths.iter().map(|w| w.to_string()).collect::<Vec<_>>().join("-"));
        if !name.starts_with(&filter) {
            continue;
        }
        let mut layers = Vec::new();
        for w in widths.windows(2) {
            let linear = Linear { inputs: w[0], outputs: w[1], bias: true, init: Init::KaimingUniform };
            layers.push(Layer::Linear(linear));
            if w[1] != widths[widths.len() - 1] {
                if norm {
                    let (eps, momentum) = (1e-5, 0.1);
                    layers.push(Layer::BatchNorm(BatchNorm { features: w[1], eps, momentum, affine: true }));
                }
                layers.push(Layer::Activation(act));
            }
        }
        let mut model = Model::<f32>::new(layers, 0).unwrap();
        let (loss, outputs) =
            (if labels { Loss::CROSS_ENTROPY } else { Loss::Mse }, widths[widths.len() - 1]);
        let options = StepOptions { precision, ..StepOptions::default() };
        let mut trainer = Trainer::with_options(loss, options).unwrap();
        let config = if adam {
            Config::Adam(Adam { lr: 1e-4, ..Adam::default() })
        } else {
            Config::Sgd(Sgd { lr: 1e-3, momentum: 0.9, ..Sgd::default() })
        };
        let mut optimizer = Optimizer::new(config, model.network()).unwrap();
        let batches = (MOST_DATA / (rows * widths[0])).clamp(2, MOST_BATCHES);
        let all = batches * rows;
        let x: Vec<f32> = (0..all * widths[0]).map(|i| (i as f32).sin()).collect();
        let y: Vec<f32> = (0..all * outputs).map(|i| (i as f32).cos()).collect();
        let classes: Vec<i64> = (0..all).map(|i| (i * 7 % outputs) as i64).collect();
        let (x, y) = (MatRef::new(&x, all, widths[0]), MatRef::new(&y, all, outputs));
        let mut times = Vec::new();
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_millis(600) || times.len() < 8 {
            let from = times.len() % batches * rows;
            let x = x.block(from, rows, 0, widths[0]);
            let y = match labels {
                true => Targets::Labels(&classes[from..from + rows]),
                false => Targets::Values(y.block(from, rows, 0, outputs)),
            };
            let start = Instant::now();
            trainer.step(&mut model, &mut optimizer, x, y).unwrap();
            times.push(start.elapsed());
        }
        times.sort();
        let products: usize = widths.windows(2).map(|w| w[0] * w[1]).sum();
        let work = rows * (3 * products - widths[0] * widths[1]);
        let time = |q: usize| times[(times.len() - 1) * q / 4].as_secs_f64() * 1e6;
        let (best, median) = (time(0), time(2));
        let rate = 2.0 * work as f64 / median / 1e3;
        println!("{name:44} {best:9.1} best {median:9.1} median {rate:6.0} GFLOP/s");
    }
}
