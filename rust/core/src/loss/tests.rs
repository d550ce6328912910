//! Losses against their formulas in double precision, and their gradients against differences.

use super::*;
use crate::simd::{Isa, Op, dispatch};

fn run<T: Element>(
    isa: Isa,
    loss: Loss,
    output: &[T],
    targets: Targets<'_, T>,
    scale: f64,
) -> (RowLoss, RowLoss, Vec<T>) {
    struct Run<'a, T>(Loss, &'a [T], Targets<'a, T>, &'a mut [T], f64);
    impl<T: Element> Op<T> for Run<'_, T> {
        type Output = (RowLoss, RowLoss);
        #[inline(always)]
        fn eval<S: Simd<T>>(self, s: S) -> (RowLoss, RowLoss) {
            let Run(loss, output, targets, grad, scale) = self;
            let (output, n) = (MatRef::new(output, 1, output.len()), output.len());
            let rows = Rows { output, targets: &targets, at: &|r| r, scale };
            let mut losses = [RowLoss::default(); 2];
            loss.rows(s, &rows, Some(MatMut::new(grad, 1, n)), &mut losses[..1]);
            loss.rows(s, &rows, None, &mut losses[1..]);
            (losses[0], losses[1])
        }
    }
    let mut grad = vec![T::lit(f64::NAN); output.len()];
    let (with, without) = dispatch(isa, Run(loss, output, targets, &mut grad, scale));
    (with, without, grad)
}

fn cross_entropy(o: &[f64], label: usize) -> f64 {
    let max = o.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    o.iter().map(|x| (x - max).exp()).sum::<f64>().ln() + max - o[label]
}

fn mse(o: &[f64], t: &[f64]) -> f64 {
    o.iter().zip(t).map(|(o, t)| (o - t) * (o - t)).sum::<f64>() / o.len() as f64
}

/// Outputs of every width from one to beyond two vectors.
fn outputs() -> impl Iterator<Item = Vec<f64>> {
    (1..=35).map(|n| (0..n).map(|i| 3.0 * (1.7 * i as f64 + 0.3 * n as f64).sin()).collect())
}

#[test]
fn values_and_gradients_are_right_for_every_width() {
    let h = 6e-6;
    for isa in Isa::available() {
        for o in outputs() {
            let n = o.len();
            let target: Vec<f64> = (0..n).map(|i| (i as f64).cos()).collect();
            let labels = [(n / 2) as i64];
            type Case<'a> = (Loss, Targets<'a, f64>, &'a dyn Fn(&[f64]) -> f64);
            let cases: [Case<'_>; 2] = [
                (Loss::Mse, Targets::Values(MatRef::new(&target, 1, n)), &|o| mse(o, &target)),
                (Loss::CrossEntropy, Targets::Labels(&labels), &|o| cross_entropy(o, n / 2)),
            ];
            for (loss, targets, f) in cases {
                let (with, without, grad) = run(isa, loss, &o, targets, 0.25);
                assert_eq!(with, without, "the gradient does not change the loss");
                assert!(
                    (with.loss - f(&o)).abs() <= 1e-14 * (1.0 + f(&o).abs()),
                    "{isa} {} {n}",
                    loss.name()
                );
                for j in 0..n {
                    let moved = |by: f64| {
                        let mut o = o.clone();
                        o[j] += by;
                        f(&o)
                    };
                    let numeric = 0.25 * (moved(h) - moved(-h)) / (2.0 * h);
                    assert!((grad[j] - numeric).abs() < 1e-9, "{isa} {} {n} {j}", loss.name());
                }
            }
        }
    }
}

#[test]
fn huge_and_equal_logits_are_no_trouble() {
    for isa in Isa::available() {
        let (row, _, grad) =
            run::<f32>(isa, Loss::CrossEntropy, &[1e4, -1e4, 0.0], Targets::Labels(&[0]), 1.0);
        assert_eq!((row.loss, row.correct), (0.0, true));
        assert_eq!(grad, [0.0, 0.0, 0.0]);
        let (row, _, _) = run::<f32>(isa, Loss::CrossEntropy, &[1e4, -1e4, 0.0], Targets::Labels(&[1]), 1.0);
        assert_eq!((row.loss, row.correct), (2e4, false));
        // Of equal maxima the first counts.
        assert!(run::<f64>(isa, Loss::CrossEntropy, &[2.0, 2.0], Targets::Labels(&[0]), 1.0).0.correct);
        assert!(!run::<f64>(isa, Loss::CrossEntropy, &[2.0, 2.0], Targets::Labels(&[1]), 1.0).0.correct);
        for bad in [f64::NAN, f64::INFINITY] {
            assert!(
                !run::<f64>(isa, Loss::CrossEntropy, &[0.0, bad, 1.0], Targets::Labels(&[0]), 1.0)
                    .0
                    .loss
                    .is_finite()
            );
        }
    }
}

#[test]
fn softmax_gradients_sum_to_zero() {
    for isa in Isa::available() {
        for o in outputs() {
            let (_, _, grad) = run(isa, Loss::CrossEntropy, &o, Targets::Labels(&[0]), 1.0);
            assert!(grad.iter().sum::<f64>().abs() < 1e-14);
        }
    }
}

#[test]
fn targets_that_do_not_fit_are_refused() {
    let y = [0.0f32; 6];
    let values = Targets::Values(MatRef::new(&y, 3, 2));
    assert!(Loss::Mse.check(&values, 3, 2).is_ok());
    assert_eq!(Loss::Mse.check(&values, 4, 2), Err(Error::Lengths { x: 4, y: 3 }));
    assert_eq!(Loss::Mse.check(&values, 3, 1), Err(Error::TargetWidth { outputs: 1, found: 2 }));
    assert!(Loss::CrossEntropy.check(&values, 3, 2).is_err());
    let labels = |l| Loss::CrossEntropy.check(&Targets::<f32>::Labels(l), 2, 3);
    assert!(labels(&[0, 2]).is_ok());
    assert_eq!(labels(&[0, 3]), Err(Error::Label { row: 1, label: 3, classes: 3 }));
    assert_eq!(labels(&[-1, 0]), Err(Error::Label { row: 0, label: -1, classes: 3 }));
    assert_eq!(labels(&[0]), Err(Error::Lengths { x: 2, y: 1 }));
    assert!(Loss::Mse.check(&Targets::<f32>::Labels(&[0]), 1, 1).is_err());
}
