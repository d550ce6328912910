//! All kinds of plans and of updates, for tests that go through them.

use crate::layer::{
    Activation, BatchNorm, Category, Fourier, Frequencies, Init, Layer, Linear, RowNorm, Standardize,
    TabularInput,
};
use crate::optim::{Adafactor, Adam, Config, Lamb, Muon, Prodigy, Sgd, Shampoo};
use crate::rng::{Purpose, Stream};
use crate::sam::Sam;
use crate::train::StepOptions;
use crate::update::Clip;

/// A dense layer.
pub fn dense(inputs: usize, outputs: usize) -> Layer {
    Layer::Linear(Linear { inputs, outputs, bias: true, init: Init::KaimingUniform })
}

/// Networks with all kinds of stages, and rows of input: in tiles, in waves and in shards.
pub fn works() -> Vec<(&'static str, Vec<Layer>, Vec<f32>, usize)> {
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

/// Options of steps with the optimizers that take them.
pub fn ways() -> Vec<(&'static str, StepOptions, Config)> {
    let plain = StepOptions::default();
    vec![
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
    ]
}
