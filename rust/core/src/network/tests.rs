use super::*;
use crate::layer::Linear;
use crate::simd::Isa;

fn linear(inputs: usize, outputs: usize) -> Layer {
    Layer::Linear(Linear { inputs, outputs, bias: true, init: Init::KaimingUniform })
}
fn act(a: Activation) -> Layer {
    Layer::Activation(a)
}

#[test]
fn an_activation_runs_with_the_dense_layer_before_it() {
    let layers = vec![
        act(Activation::Tanh),
        linear(3, 4),
        act(Activation::Identity),
        act(Activation::Relu),
        act(Activation::Gelu),
        linear(4, 2),
    ];
    let network = Network::new(layers).unwrap();
    let acts: Vec<_> = network.stages().iter().map(|s| (s.dense.is_some(), s.act)).collect();
    assert_eq!(
        acts,
        [
            (false, Activation::Tanh),
            (true, Activation::Relu),
            (false, Activation::Gelu),
            (true, Activation::Identity)
        ]
    );
    assert_eq!(
        (network.inputs(), network.outputs(), network.num_parameters()),
        (3, 2, 3 * 4 + 4 + 4 * 2 + 2)
    );
    let names: Vec<_> = network.blocks().iter().map(|b| b.name.as_str()).collect();
    assert_eq!(names, ["1.weight", "1.bias", "5.weight", "5.bias"]);
}

#[test]
fn layers_that_do_not_fit_are_named() {
    let error = Network::new(vec![linear(64, 32), act(Activation::Relu), linear(64, 10)]).unwrap_err();
    assert_eq!(error.to_string(), "layer 2 (Linear 64→10): its input has 32 features, expected 64");
    assert!(Network::new(vec![act(Activation::Relu)]).is_err());
    assert!(Network::new(vec![linear(3, 0)]).is_err());
    assert!(Network::new(vec![linear(1 << 32, 1 << 32)]).is_err());
    let error = Network::new(vec![linear(3, 1 << 60), linear(1 << 60, 1 << 60)]).unwrap_err();
    assert!(error.to_string().contains("1.weight"), "{error}");
    assert!(Network::new(vec![linear(3, 1), act(Activation::LeakyRelu(-0.1))]).is_err());
}

#[test]
fn import_undoes_export_and_weights_are_transposed() {
    let network = Network::new(vec![linear(3, 2)]).unwrap();
    let mut arena = Buffer::<f32>::zeroed("a test", network.arena_len()).unwrap();
    let flat: Vec<f32> = (1..=8).map(|i| i as f32).collect();
    network.import(Isa::Scalar, &flat, &mut arena);
    assert_eq!(arena[..6], [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    let mut back = vec![0.0; 8];
    network.export(Isa::Scalar, &arena, &mut back);
    assert_eq!(back, flat);
}

#[test]
fn vectors_carry_parameters_to_the_same_places() {
    for (inputs, outputs) in [(1, 1), (3, 2), (17, 33), (40, 70), (64, 32)] {
        let network = Network::new(vec![linear(inputs, outputs), linear(outputs, 3)]).unwrap();
        let flat: Vec<f64> = (0..network.num_parameters()).map(|i| i as f64).collect();
        let mut expected = vec![0.0; network.arena_len()];
        network.translate(|public, inner| expected[inner] = flat[public]);
        for isa in Isa::available() {
            let (mut arena, mut back) = (vec![0.0; expected.len()], vec![0.0; flat.len()]);
            network.import(isa, &flat, &mut arena);
            assert_eq!(arena, expected, "{isa} {inputs} {outputs}");
            network.export(isa, &arena, &mut back);
            assert_eq!(back, flat, "{isa} {inputs} {outputs}");
        }
    }
}

#[test]
fn initial_weights_follow_the_named_law() {
    for init in Init::ALL {
        let layer = Layer::Linear(Linear { inputs: 200, outputs: 100, bias: true, init });
        let network = Network::new(vec![layer]).unwrap();
        let mut arena = Buffer::<f64>::zeroed("a test", network.arena_len()).unwrap();
        let mut averages = Buffer::zeroed("a test", 0).unwrap();
        network.initialize(Isa::detect().unwrap(), 5, &mut arena, &mut averages);
        let w = &arena[..20_000];
        let variance = w.iter().map(|x| x * x).sum::<f64>() / 2e4;
        let (expected, bound) = match init {
            Init::KaimingUniform => (1.0 / 600.0, 1.0 / 200f64.sqrt()),
            Init::KaimingNormal => (0.01, f64::INFINITY),
            Init::XavierUniform => (2.0 / 300.0, (6.0 / 300f64).sqrt()),
            Init::XavierNormal => (2.0 / 300.0, f64::INFINITY),
            Init::LecunNormal => (1.0 / 200.0, f64::INFINITY),
            Init::SirenFirst => (1.0 / 120_000.0, 1.0 / 200.0),
            Init::Siren => (2.0 / 180_000.0, (6.0 / 200f64).sqrt() / 30.0),
            Init::Zeros => (0.0, 0.0),
        };
        // Five standard errors of a variance over 20 000 draws.
        assert!((variance - expected).abs() <= 0.05 * expected, "{}: {variance} {expected}", init.name());
        assert!(w.iter().all(|x| x.abs() <= bound));
        let bias = &arena[20_000..20_100];
        assert!(bias.iter().all(|x| x.abs() <= 1.0 / 200f64.sqrt()));
        assert_eq!(bias.iter().all(|x| *x == 0.0), init == Init::Zeros);
    }
}
