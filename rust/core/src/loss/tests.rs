//! Losses against their formulas in double precision, and their gradients against differences.

use super::*;
use crate::simd::Isa;

/// Cross-entropy of many rows at once, or one by one as with class weights, gives about the same.
#[test]
fn few_classes_are_taken_many_rows_at_once() {
    for isa in Isa::available() {
        for (n, classes) in [(1, 1), (1, 3), (16, 2), (17, 10), (40, 16), (33, 8), (5, 9)] {
            let output: Vec<f32> =
                (0..n * classes).map(|i| (6.0 * (0.7 * i as f32).sin()).round() / 2.0).collect(); // with ties
            let order: Vec<u32> = (0..n).map(|i| ((i * 7 + 3) % n) as u32).collect();
            let labels: Vec<i64> =
                (0..n).map(|i| if i % 5 == 3 { -100 } else { (i % classes) as i64 }).collect();
            let weights: Vec<f32> = (0..n).map(|i| 0.5 + (i % 3) as f32).collect();
            let plain = Objective::from(Loss::CROSS_ENTROPY);
            let weighted = Objective { constants: vec![1.0; classes], ..plain.clone() };
            let run = |objective: &Objective<f32>, weights: Option<&[f32]>, grad: bool| {
                let goals = Goals { targets: Targets::Labels(&labels), weights };
                let output = MatRef::new(&output, n, classes);
                let rows = Rows { output, goals, chosen: data::Rows::Listed(&order), scale: 0.25 };
                let mut slopes = vec![f32::NAN; n * classes];
                let mut losses = vec![RowLoss { loss: f64::NAN, right: f64::NAN }; n];
                let grad = grad.then(|| MatMut::new(&mut slopes, n, classes));
                objective.rows(isa, &rows, grad, &mut losses);
                (slopes, losses)
            };
            for weights in [None, Some(&weights[..])] {
                let (slopes, losses) = run(&plain, weights, true);
                let (one_by_one, apart) = run(&weighted, weights, true);
                for (a, b) in slopes.iter().zip(&one_by_one) {
                    assert!((a - b).abs() <= 4e-7, "{isa} {n} {classes}: {a} {b}");
                }
                for (a, b) in losses.iter().zip(&apart) {
                    assert!((a.loss - b.loss).abs() <= 1e-5 && a.right == b.right, "{isa} {n}: {a:?} {b:?}");
                }
                assert_eq!(losses, run(&plain, weights, false).1);
            }
        }
    }
}

/// The sum over the elements, as a function of the outputs.
type Formula = Box<dyn Fn(&[f64]) -> f64>;

/// A loss with targets, and its formula.
struct Case {
    objective: Objective<f64>,
    targets: Vec<f64>,
    label: Option<i64>,
    formula: Formula,
}

fn softmax(o: &[f64], temperature: f64) -> Vec<f64> {
    let max = o.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = o.iter().map(|x| ((x - max) / temperature).exp()).collect();
    e.iter().map(|x| x / e.iter().sum::<f64>()).collect()
}

/// Σ f(oⱼ, tⱼ)
fn sum(o: &[f64], t: &[f64], f: impl Fn(f64, f64) -> f64) -> f64 {
    o.iter().zip(t).map(|(o, t)| f(*o, *t)).sum()
}

/// Every loss for `n` outputs, if it supports that many.
fn cases(n: usize) -> Vec<Case> {
    let numbers: Vec<f64> = (0..n).map(|i| 2.0 * (i as f64).cos()).collect();
    let part: Vec<f64> = (0..n).map(|i| 0.5 + 0.5 * (2.3 * i as f64).cos()).collect();
    let counts: Vec<f64> = (0..n).map(|i| (i % 5) as f64).collect();
    let weights: Vec<f64> = (0..n).map(|i| 0.5 + (i % 3) as f64).collect();
    let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
    let mut cases = Vec::new();
    let mut add = |loss: Loss, constants: &[f64], targets: &[f64], formula: Formula| {
        let objective = Objective { constants: constants.to_vec(), ..loss.into() };
        cases.push(Case { objective, targets: targets.to_vec(), label: None, formula });
    };
    let t = numbers.clone();
    add(Loss::Mse, &[], &numbers, Box::new(move |o| sum(o, &t, |o, t| (o - t) * (o - t))));
    let t = numbers.clone();
    add(Loss::L1, &[], &numbers, Box::new(move |o| sum(o, &t, |o, t| (o - t).abs())));
    let t = numbers.clone();
    let huber = |d: f64| if d.abs() < 1.5 { d * d / 2.0 } else { 1.5 * (d.abs() - 0.75) };
    let formula = Box::new(move |o: &[f64]| sum(o, &t, |o, t| huber(o - t)));
    add(Loss::Huber { delta: 1.5 }, &[], &numbers, formula);
    for (weights, constants) in [(vec![1.0; n], vec![]), (weights.clone(), weights.clone())] {
        let (t, w) = (part.clone(), weights.clone());
        let formula = move |o: &[f64]| {
            let one = |j: usize| w[j] * t[j] * logistic(o[j]).ln() + (1.0 - t[j]) * logistic(-o[j]).ln();
            -(0..o.len()).map(one).sum::<f64>()
        };
        add(Loss::BceWithLogits, &constants, &part, Box::new(formula));
        for smoothing in [0.0, 0.2] {
            let (t, w) = (part.clone(), weights.clone());
            let share = move |t: f64| (1.0 - smoothing) * t + smoothing / n as f64;
            let formula = move |o: &[f64]| {
                let p = softmax(o, 1.0);
                -(0..o.len()).map(|j| w[j] * share(t[j]) * p[j].ln()).sum::<f64>()
            };
            add(Loss::CrossEntropy { smoothing, ignore: -100 }, &constants, &part, Box::new(formula));
        }
    }
    if n.is_multiple_of(2) {
        let t = numbers[..n / 2].to_vec();
        let formula = move |o: &[f64]| {
            let k = t.len();
            let one = |j: usize| {
                0.5 * (o[k + j] + (o[j] - t[j]).powi(2) / o[k + j].exp() + std::f64::consts::TAU.ln())
            };
            (0..k).map(one).sum()
        };
        add(Loss::GaussianNll { full: true, eps: 1e-6 }, &[], &numbers[..n / 2], Box::new(formula));
    }
    if n.is_multiple_of(3) {
        let (t, quantiles) = (numbers[..n / 3].to_vec(), [0.1, 0.5, 0.9]);
        let formula = move |o: &[f64]| {
            let pinball = |q: f64, u: f64| (q * u).max((q - 1.0) * u);
            let block = |(q, o): (&f64, &[f64])| sum(o, &t, |o, t| pinball(*q, t - o));
            quantiles.iter().zip(o.chunks(t.len())).map(block).sum()
        };
        add(Loss::Quantile, &quantiles, &numbers[..n / 3], Box::new(formula));
    }
    let stirling = |t: f64| {
        if t > 1.0 { t * t.ln() - t + 0.5 * (std::f64::consts::TAU * t).ln() } else { 0.0 }
    };
    let t = counts.clone();
    let formula = Box::new(move |o: &[f64]| sum(o, &t, |o, t| o.exp() - t * o + stirling(t)));
    add(Loss::PoissonNll { log_input: true, full: true, eps: 1e-8 }, &[], &counts, formula);
    let t = counts.clone();
    let formula = Box::new(move |o: &[f64]| sum(o, &t, |o, t| o - t * (o + 4.0).ln()));
    add(Loss::PoissonNll { log_input: false, full: false, eps: 4.0 }, &[], &counts, formula);
    let t = numbers.clone();
    let formula = Box::new(move |o: &[f64]| {
        let (p, q) = (softmax(o, 3.0), softmax(&t, 3.0));
        9.0 * sum(&p, &q, |p, q| q * (q.ln() - p.ln()))
    });
    add(Loss::Distillation { temperature: 3.0 }, &[], &numbers, formula);

    let label = n / 2;
    for (smoothing, constants) in [(0.0, vec![]), (0.3, vec![]), (0.3, weights.clone())] {
        let w = if constants.is_empty() { vec![1.0; n] } else { weights.clone() };
        let formula = move |o: &[f64]| {
            let p = softmax(o, 1.0);
            let share = |j: usize| f64::from(j == label) * (1.0 - smoothing) + smoothing / n as f64;
            -(0..n).map(|j| w[j] * share(j) * p[j].ln()).sum::<f64>()
        };
        cases.push(Case {
            objective: Objective { constants, ..Loss::CrossEntropy { smoothing, ignore: -100 }.into() },
            targets: Vec::new(),
            label: Some(label as i64),
            formula: Box::new(formula),
        });
    }
    // Two heads, and every third class inactive except for the label: with labels, and with shares in both
    // heads.
    let competes = move |j: usize| j == label || j == 0 || j % 3 != 2;
    for (smoothing, weighted) in [(0.0, false), (0.0, true), (0.3, false), (0.3, true)] {
        let w: Vec<f64> = (0..n).map(|j| if weighted { weights[j] } else { 1.0 }).collect();
        let constants = (0..n).map(|j| if competes(j) { w[j] } else { -1.0 }).collect::<Vec<_>>();
        let heads = if label == 0 { vec![n] } else { vec![label, n] };
        let objective = Objective {
            constants,
            heads: heads.clone(),
            ..Loss::CrossEntropy { smoothing, ignore: -100 }.into()
        };
        let formula = move |t: &[f64], o: &[f64]| {
            let mut sum = 0.0;
            for (h, &end) in heads.iter().enumerate() {
                let head: Vec<usize> =
                    (if h == 0 { 0 } else { label }..end).filter(|j| competes(*j)).collect();
                if head.iter().all(|j| t[*j] == 0.0) {
                    continue;
                }
                let p = softmax(&head.iter().map(|j| o[*j]).collect::<Vec<_>>(), 1.0);
                let share = |j: usize| (1.0 - smoothing) * t[j] + smoothing / head.len() as f64;
                sum -= head.iter().zip(&p).map(|(j, p)| w[*j] * share(*j) * p.ln()).sum::<f64>();
            }
            sum
        };
        let mut one = vec![0.0; n];
        one[label] = 1.0;
        let targets: Vec<f64> = (0..n).map(|j| if competes(j) { part[j] } else { 0.0 }).collect();
        let (t, of) = (targets.clone(), formula.clone());
        cases.push(Case {
            objective: objective.clone(),
            targets,
            label: None,
            formula: Box::new(move |o| of(&t, o)),
        });
        cases.push(Case {
            objective,
            targets: Vec::new(),
            label: Some(label as i64),
            formula: Box::new(move |o| formula(&one, o)),
        });
    }
    cases
}

/// Names every loss: a match on them does not compile while one is missing.
macro_rules! losses {
    ($($Name:ident),+) => {
        const NAMES: &[&str] = &[$(stringify!($Name)),+];

        fn name(loss: Loss) -> &'static str {
            match loss {
                $(Loss::$Name { .. } => stringify!($Name),)+
            }
        }
    };
}

losses!(Mse, L1, Huber, CrossEntropy, BceWithLogits, GaussianNll, PoissonNll, Quantile, Distillation);

#[test]
fn the_cases_have_every_loss() {
    let there: Vec<_> = cases(6).iter().map(|case| name(case.objective.loss)).collect();
    for name in NAMES {
        assert!(there.contains(name), "no case has Loss::{name}");
    }
}

/// Rows of few elements, several in each vector, or one by one as with weights, give the same.
#[test]
fn rows_of_few_elements_are_taken_together() {
    fn check<T: Element>(isa: Isa, loss: Loss, n: usize, cols: usize) {
        let number = |i: usize| T::lit(3.0 * (0.7 * i as f64).sin());
        let output: Vec<T> = (0..n * cols).map(number).collect();
        let targets: Vec<T> = (0..n * cols).map(|i| T::lit((0.3 * i as f64).cos().abs())).collect();
        let order: Vec<u32> = (0..n).map(|i| ((i * 7 + 3) % n) as u32).collect();
        let ones = vec![T::ONE; n];
        let run = |weights: Option<&[T]>, grad: bool| {
            let goals = Goals { targets: Targets::Values(MatRef::new(&targets, n, cols)), weights };
            let output = MatRef::new(&output, n, cols);
            let rows = Rows { output, goals, chosen: data::Rows::Listed(&order), scale: 0.25 };
            let mut slopes = vec![T::lit(f64::NAN); n * cols];
            let mut losses = vec![RowLoss { loss: f64::NAN, right: f64::NAN }; n];
            let grad = grad.then(|| MatMut::new(&mut slopes, n, cols));
            Objective::from(loss).rows(isa, &rows, grad, &mut losses);
            (slopes, losses)
        };
        let ((slopes, losses), (one_by_one, apart)) = (run(None, true), run(Some(&ones), true));
        assert_eq!(slopes, one_by_one, "{isa} {loss:?} {n} x {cols}");
        for (a, b) in losses.iter().zip(&apart) {
            let near = (a.loss - b.loss).abs() <= 8.0 * T::EPSILON * (1.0 + b.loss);
            assert!(near && a.right == b.right, "{isa} {loss:?} {n} x {cols}: {a:?} {b:?}");
        }
        assert_eq!(losses, run(None, false).1);
    }
    for isa in Isa::available() {
        for loss in [Loss::Mse, Loss::L1, Loss::Huber { delta: 0.5 }, Loss::BceWithLogits] {
            for (n, cols) in [(1, 1), (1, 3), (17, 1), (40, 2), (9, 3), (5, 4), (20, 8), (3, 9)] {
                check::<f32>(isa, loss, n, cols);
                check::<f64>(isa, loss, n, cols);
            }
        }
    }
}

fn run<T: Element>(
    isa: Isa,
    objective: &Objective<T>,
    output: &[T],
    goals: Goals<'_, T>,
    scale: f64,
) -> (RowLoss, RowLoss, Vec<T>) {
    let (n, mut grad) = (output.len(), vec![T::lit(f64::NAN); output.len()]);
    let rows = Rows { output: MatRef::new(output, 1, n), goals, chosen: data::Rows::From(0), scale };
    let mut losses = [RowLoss::default(); 2];
    objective.rows(isa, &rows, Some(MatMut::new(&mut grad, 1, n)), &mut losses[..1]);
    objective.rows(isa, &rows, None, &mut losses[1..]);
    (losses[0], losses[1], grad)
}

fn cross_entropy<T: Element>(isa: Isa, output: &[T], label: i64) -> (RowLoss, Vec<T>) {
    let (with, _, grad) =
        run(isa, &Loss::CROSS_ENTROPY.into(), output, Targets::Labels(&[label]).into(), 1.0);
    (with, grad)
}

/// Outputs of every width from one to beyond two vectors.
fn outputs() -> impl Iterator<Item = Vec<f64>> {
    (1..=35).map(|n| (0..n).map(|i| 3.0 * (1.7 * i as f64 + 0.3 * n as f64).sin()).collect())
}

#[test]
fn values_and_gradients_are_right_for_every_loss_and_width() {
    let (h, scale, weight) = (6e-6, 0.25, 3.0);
    for isa in Isa::available() {
        for o in outputs() {
            let n = o.len();
            for Case { objective, targets, label, formula } in cases(n) {
                let label = label.map(|l| [l]);
                let targets = match &label {
                    Some(label) => Targets::Labels(label),
                    None => Targets::Values(MatRef::new(&targets, 1, targets.len())),
                };
                objective.check(&targets.into(), 1, n).unwrap();
                let name = format!("{isa} {objective:?} {n}");
                let goals = Goals { targets, weights: Some(&[weight]) };
                let (with, without, grad) = run(isa, &objective, &o, goals, scale);
                assert_eq!(with, without, "the gradient does not change the loss: {name}");
                let exact = weight * formula(&o);
                assert!((with.loss - exact).abs() <= 1e-13 * (1.0 + exact.abs()), "{name}");
                for j in 0..n {
                    let moved = |by: f64| {
                        let mut o = o.clone();
                        o[j] += by;
                        formula(&o)
                    };
                    let numeric = scale * weight * (moved(h) - moved(-h)) / (2.0 * h);
                    assert!((grad[j] - numeric).abs() < 1e-8, "{name} {j}: {} {numeric}", grad[j]);
                }

                let single = Objective {
                    loss: objective.loss,
                    reduction: Reduction::Mean,
                    constants: objective.constants.iter().map(|c| *c as f32).collect(),
                    heads: objective.heads.clone(),
                };
                let narrow: Vec<f32> = o.iter().map(|x| *x as f32).collect();
                let narrow_targets: Vec<f32> = match targets {
                    Targets::Values(y) => y.row(0).iter().map(|t| *t as f32).collect(),
                    Targets::Labels(_) => Vec::new(),
                };
                let targets = match &label {
                    Some(label) => Targets::Labels(label),
                    None => Targets::Values(MatRef::new(&narrow_targets, 1, narrow_targets.len())),
                };
                let goals = Goals { targets, weights: Some(&[weight as f32]) };
                let (rough, _, rough_grad) = run(isa, &single, &narrow, goals, scale);
                let bound = 2e-6 * (1.0 + exact.abs());
                assert!((rough.loss - exact).abs() < bound, "{name}: {} {exact}", rough.loss);
                for (a, b) in rough_grad.iter().zip(&grad) {
                    assert!((f64::from(*a) - b).abs() < 1e-6 * (1.0 + b.abs()), "{name}: {a} {b}");
                }
            }
        }
    }
}

#[test]
fn huge_and_equal_logits_are_no_trouble() {
    for isa in Isa::available() {
        let huge = [1e4f32, -1e4, 0.0];
        let (row, grad) = cross_entropy(isa, &huge, 0);
        assert_eq!((row.loss, row.right), (0.0, 1.0));
        assert_eq!(grad, [0.0, 0.0, 0.0]);
        let (row, _) = cross_entropy(isa, &huge, 1);
        assert_eq!((row.loss, row.right), (2e4, 0.0));
        // Of several equal maxima, the first counts.
        assert_eq!(cross_entropy(isa, &[2.0, 2.0], 0).0.right, 1.0);
        assert_eq!(cross_entropy(isa, &[2.0, 2.0], 1).0.right, 0.0);
        for bad in [f64::NAN, f64::INFINITY] {
            assert!(!cross_entropy(isa, &[0.0, bad, 1.0], 0).0.loss.is_finite());
        }

        let y = [1.0f32, 0.0, 0.5];
        let goals = Targets::Values(MatRef::new(&y, 1, 3)).into();
        let (row, _, grad) = run(isa, &Loss::BceWithLogits.into(), &huge, goals, 1.0);
        assert!((row.loss - std::f64::consts::LN_2).abs() < 1e-7);
        assert_eq!((row.right, &grad[..]), (3.0, &[0.0, 0.0, 0.0][..]));
        let smooth = Loss::CrossEntropy { smoothing: 0.1, ignore: -100 };
        for loss in [smooth, Loss::Distillation { temperature: 1.0 }] {
            let (row, _, grad) = run(isa, &loss.into(), &huge, goals, 1.0);
            assert!(row.loss > 1e2 && row.loss < 1e5, "{isa} {}", row.loss);
            assert!(grad.iter().all(|g| g.abs() <= 2.0));
        }
        for log in [1e4, -1e4] {
            let goals = Targets::Values(MatRef::new(&y[..1], 1, 1)).into();
            let gaussian = Loss::GaussianNll { full: false, eps: 1e-6 };
            let (row, _, grad) = run(isa, &gaussian.into(), &[2.0, log], goals, 1.0);
            assert!(row.loss.is_finite() && grad.iter().all(|g: &f32| g.is_finite()), "{isa} {log}");
        }
    }
}

#[test]
fn targets_out_of_range_make_the_loss_nan_and_are_named() {
    let cases = [
        (Loss::BceWithLogits, 1.5),
        (Loss::BceWithLogits, -0.5),
        (Loss::PoissonNll { log_input: true, full: true, eps: 1e-8 }, -1.0),
        (Loss::PoissonNll { log_input: false, full: false, eps: 1e-8 }, -1.0),
        (Loss::CROSS_ENTROPY, -0.1),
    ];
    for isa in Isa::available() {
        for (loss, bad) in cases {
            for place in [0, 2, 18] {
                let mut y = [0.5; 19];
                y[place] = bad;
                let goals = Targets::Values(MatRef::new(&y, 1, 19)).into();
                let objective = Objective::from(loss);
                assert!(run(isa, &objective, &[1.0; 19], goals, 1.0).0.loss.is_nan(), "{loss:?} {place}");
                let error = objective.check_values(&goals, isa).unwrap_err().to_string();
                assert!(error.starts_with(&format!("y[0, {place}] is {bad}, but")), "{error}");
            }
        }
    }
}

#[test]
fn softmax_gradients_sum_to_zero() {
    for isa in Isa::available() {
        for o in outputs() {
            let (_, grad) = cross_entropy(isa, &o, 0);
            assert!(grad.iter().sum::<f64>().abs() < 1e-14);
        }
    }
}

#[test]
fn rows_that_do_not_count_have_no_loss_and_no_gradient() {
    for isa in Isa::available() {
        let zero = RowLoss::default();
        let (row, grad) = cross_entropy(isa, &[1.0, 2.0], -100);
        assert_eq!((row, grad), (zero, vec![0.0, 0.0]));
        let y = [5.0, 5.0];
        for loss in [Loss::Mse, Loss::CROSS_ENTROPY] {
            let targets = Targets::Values(MatRef::new(&y, 1, 2));
            let goals = Goals { targets, weights: Some(&[0.0]) };
            let (row, _, grad) = run(isa, &loss.into(), &[1.0, 2.0], goals, 1.0);
            assert_eq!((row, grad), (zero, vec![0.0, 0.0]));
        }
        // Whatever the network's output; few classes and many take different paths.
        for output in [&[f64::INFINITY, 2.0][..], &[f64::NAN; 20]] {
            let goals = Goals { targets: Targets::Labels(&[1]), weights: Some(&[0.0]) };
            let (row, _, grad) = run(isa, &Loss::CROSS_ENTROPY.into(), output, goals, 1.0);
            assert_eq!((row, grad), (zero, vec![0.0; output.len()]));
        }
    }
}

/// Labels are checked earlier; this tests one that was changed since.
#[test]
fn the_loss_of_a_label_out_of_range_is_nan() {
    let plain = Loss::CrossEntropy { smoothing: 0.0, ignore: -100 };
    let smooth = Loss::CrossEntropy { smoothing: 0.1, ignore: -100 };
    for isa in Isa::available() {
        for (loss, label) in [plain, smooth].into_iter().flat_map(|loss| [(loss, 3), (loss, -1)]) {
            for constants in [vec![], vec![1.0; 3]] {
                let objective = Objective { constants, ..loss.into() };
                let labels = [label];
                let goals = Targets::Labels(&labels).into();
                assert!(
                    run(isa, &objective, &[1.0, 2.0, 3.0], goals, 1.0).0.loss.is_nan(),
                    "{loss:?} {label}"
                );
            }
        }
    }
}

#[test]
fn a_softmax_of_some_classes_has_fisher_information_unless_they_have_weights() {
    let some = Objective::<f64> { constants: vec![1.0, -1.0, 1.0], ..Loss::CROSS_ENTROPY.into() };
    some.check_fisher().unwrap();
    let output = [0.3, 9.0, -0.4];
    let rows = Rows {
        output: MatRef::new(&output, 1, 3),
        goals: Targets::Labels(&[0]).into(),
        chosen: data::Rows::From(0),
        scale: 1.0,
    };
    let p = 1.0 / (1.0 + (-0.7f64).exp());
    let [bends, _] = some.bends(Second::Fisher, &rows);
    let wanted = [p, 0.0, 1.0 - p];
    assert!(bends.iter().zip(wanted).all(|(b, p)| (b - p).abs() < 1e-15), "{bends:?}");
    for constants in [vec![1.0, -1.0, 2.0], vec![1.0, 2.0, 3.0]] {
        assert!(Objective::<f64> { constants, ..Loss::CROSS_ENTROPY.into() }.check_fisher().is_err());
    }
}

#[test]
fn what_rows_count_is_known_from_targets_and_weights() {
    let labels = [2, 0, -100, 1];
    let weights = [1.0, 0.0, 4.0, 0.5];
    let weighted = Objective { constants: vec![1.0, 2.0, 3.0], ..Loss::CROSS_ENTROPY.into() };
    let targets = Targets::Labels(&labels);
    let both = Goals { targets, weights: Some(&weights) };
    assert!(weighted.check(&both, 4, 3).unwrap());
    let reversed = |r| 3 - r;
    assert_eq!(weighted.totals(&both, reversed, 4, 3, true), Totals { loss: 4.0, accuracy: 1.5 });
    assert_eq!(weighted.totals(&targets.into(), |r| r, 4, 3, true), Totals { loss: 6.0, accuracy: 3.0 });
    let plain = Objective::<f64>::from(Loss::CROSS_ENTROPY);
    assert!(plain.check(&targets.into(), 4, 3).unwrap(), "one is ignored");
    assert!(!plain.check(&Targets::Labels(&[0, 1]).into(), 2, 3).unwrap());
    let y = [0.0; 8];
    let values = Targets::Values(MatRef::new(&y, 4, 2));
    let mse = Objective::<f64>::from(Loss::Mse);
    assert!(!mse.check(&values.into(), 4, 2).unwrap());
    assert_eq!(mse.totals(&values.into(), |r| r, 4, 2, false), Totals { loss: 8.0, accuracy: 8.0 });
}

#[test]
fn targets_and_weights_that_do_not_fit_are_refused() {
    let y = [0.0f32; 6];
    let values = Targets::Values(MatRef::new(&y, 3, 2));
    let mse = Objective::<f32>::from(Loss::Mse);
    let check = |objective: &Objective<f32>, rows, outputs| objective.check(&values.into(), rows, outputs);
    let width = |loss, outputs, wanted, found| Err(Error::TargetWidth { loss, outputs, wanted, found });
    assert!(check(&mse, 3, 2).is_ok());
    assert_eq!(check(&mse, 4, 2), Err(Error::Lengths { x: 4, what: "y", found: 3 }));
    assert_eq!(check(&mse, 3, 1), width("MSELoss", 1, 1, 2));
    let classes = Objective::<f32>::from(Loss::CROSS_ENTROPY);
    assert!(check(&classes, 3, 2).is_ok());
    assert_eq!(check(&classes, 3, 3), width("CrossEntropyLoss", 3, 3, 2));
    let gaussian = Objective::from(Loss::GaussianNll { full: false, eps: 1e-6 });
    assert!(check(&gaussian, 3, 4).is_ok());
    assert_eq!(check(&gaussian, 3, 2), width("GaussianNLLLoss", 2, 1, 2));
    assert!(matches!(check(&gaussian, 3, 5), Err(Error::LossOutputs { outputs: 5, .. })));
    let quantile = Objective { constants: vec![0.1, 0.5, 0.9], ..Loss::Quantile.into() };
    assert!(check(&quantile, 3, 6).is_ok());
    assert!(matches!(check(&quantile, 3, 4), Err(Error::LossOutputs { outputs: 4, .. })));
    let weighted = Objective { constants: vec![1.0; 3], ..classes.clone() };
    assert!(matches!(check(&weighted, 3, 2), Err(Error::LossOutputs { outputs: 2, .. })));

    let labels = |l: &[i64]| classes.check(&Targets::Labels(l).into(), 2, 3);
    assert!(labels(&[0, 2]).is_ok());
    assert!(labels(&[0, -100]).is_ok());
    assert_eq!(labels(&[0, 3]), Err(Error::Label { row: 1, label: 3, classes: 3 }));
    assert_eq!(labels(&[-1, 0]), Err(Error::Label { row: 0, label: -1, classes: 3 }));
    assert_eq!(labels(&[0]), Err(Error::Lengths { x: 2, what: "y", found: 1 }));
    let error = mse.check(&Targets::Labels(&[0]).into(), 1, 1);
    assert_eq!(error, Err(Error::TargetKind { loss: "MSELoss" }));

    let weights = |w: &[f32]| mse.check(&Goals { targets: values, weights: Some(w) }, 3, 2);
    assert_eq!(weights(&[0.0, 1.0, 2.0]), Ok(true));
    assert_eq!(weights(&[1.0]), Err(Error::Lengths { x: 3, what: "sample_weight", found: 1 }));
    assert_eq!(weights(&[1.0, 1.0, -1.0]), Err(Error::Weight { row: 2, value: -1.0 }));
    assert!(matches!(weights(&[1.0, f32::NAN, 1.0]), Err(Error::Weight { row: 1, .. })));
    assert!(matches!(weights(&[f32::INFINITY, 1.0, 1.0]), Err(Error::Weight { row: 0, .. })));
}
