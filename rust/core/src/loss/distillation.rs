//! Knowledge distillation (Hinton, Vinyals & Dean 2015, "Distilling the knowledge in a neural network"): with
//! p = softmax(o/τ) of the outputs and q = softmax(t/τ) of the teacher's logits, ℓ = τ²·Σ qⱼ·(ln qⱼ − ln pⱼ),
//! ∂ℓ/∂oⱼ = τ·(pⱼ − qⱼ). The factor τ² keeps gradients of similar size for every temperature τ.
//!
//! With d = ln p − ln q, the sum is also Σ (pⱼ − qⱼ − qⱼ·dⱼ), whose terms are all ≥ 0, so that nothing cancels
//! between them where the two distributions are close. pⱼ − qⱼ is qⱼ·(e^d − 1), or pⱼ·(1 − e^−d) if d > 0.

use super::classes::max_of;
use super::elements::elements;
use super::{Row, RowLoss};
use crate::element::Element;
use crate::math::{self, expm1};
use crate::simd::{Simd, zip_map};

#[inline(always)]
pub fn row<T: Element, S: Simd<T>>(s: S, row: Row<'_, T>, temperature: f64) -> RowLoss {
    let Row { output, target, grad, scale } = row;
    let tops = [output, target].map(|x| s.splat(max_of(s, x, &[])));
    let cold = s.splat(T::lit(1.0 / temperature));
    let [sum, teacher] = elements(
        s,
        [output, target],
        None::<[&mut [T]; 0]>,
        1.0,
        #[inline(always)]
        |both| {
            let [o, t] = cooled(s, both, tops, cold);
            ([math::exp(s, o), math::exp(s, t)], [])
        },
    );
    let shift = s.splat(T::lit(libm::log(sum) - libm::log(teacher)));
    let [ours, theirs] = [sum, teacher].map(|sum| s.splat(T::lit(1.0 / sum)));
    let [divergence] = elements(
        s,
        [output, target],
        None::<[&mut [T]; 0]>,
        1.0,
        #[inline(always)]
        |both| {
            let [o, t] = cooled(s, both, tops, cold);
            let (p, q) = (s.mul(math::exp(s, o), ours), s.mul(math::exp(s, t), theirs));
            let d = s.sub(s.sub(o, t), shift);
            let (less, _) = expm1::not_above_zero(s, s.neg(s.abs(d)));
            let apart = s.select(s.lt(s.splat(T::ZERO), d), s.neg(s.mul(p, less)), s.mul(q, less));
            ([s.max(s.splat(T::ZERO), s.sub(apart, s.mul(q, d)))], [])
        },
    );
    if let Some(grad) = grad {
        let part = |sum: f64| s.splat(T::lit(scale * temperature / sum));
        let (ours, theirs) = (part(sum), part(-teacher));
        zip_map(
            s,
            [grad],
            [output, target],
            #[inline(always)]
            |_, both| {
                let [o, t] = cooled(s, both, tops, cold);
                [s.fma(math::exp(s, o), ours, s.mul(math::exp(s, t), theirs))]
            },
        );
    }
    RowLoss { loss: temperature * temperature * divergence, right: 0.0 }
}

/// Logits minus their maximum, divided by the temperature.
#[inline(always)]
fn cooled<T: Element, S: Simd<T>>(s: S, both: [S::V; 2], tops: [S::V; 2], cold: S::V) -> [S::V; 2] {
    [s.mul(s.sub(both[0], tops[0]), cold), s.mul(s.sub(both[1], tops[1]), cold)]
}

#[cfg(test)]
mod tests {
    use super::super::{Loss, Objective, Rows, Targets};
    use super::*;
    use crate::data;
    use crate::simd::Isa;
    use crate::view::MatRef;

    #[test]
    fn the_loss_of_a_student_close_to_its_teacher_is_accurate() {
        const N: usize = 11;
        let of = |x: &[f64], t: f64| {
            let sum = x.iter().map(|x| (x / t).exp()).sum::<f64>();
            x.iter().map(|x| (x / t).exp() / sum).collect::<Vec<_>>()
        };
        for isa in Isa::available() {
            for distance in [1e-4f32, 1e-2, 1.0, 30.0] {
                for temperature in [1.0, 4.0] {
                    let teacher: Vec<f32> = (0..N).map(|i| 2.0 * (i as f32).sin()).collect();
                    let student: Vec<f32> = teacher
                        .iter()
                        .enumerate()
                        .map(|(i, t)| t + distance * (3.0 * i as f32).cos())
                        .collect();
                    let rows = Rows {
                        output: MatRef::new(&student, 1, N),
                        goals: Targets::Values(MatRef::new(&teacher, 1, N)).into(),
                        chosen: data::Rows::From(0),
                        scale: 1.0,
                    };
                    let mut losses = [RowLoss::default()];
                    let objective = Objective::<f32>::from(Loss::Distillation { temperature });
                    objective.rows(isa, &rows, None, &mut losses);
                    let [p, q] = [&student, &teacher]
                        .map(|x| of(&x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), temperature));
                    let exact = temperature.powi(2)
                        * p.iter().zip(&q).map(|(p, q)| p - q - q * (p / q).ln()).sum::<f64>();
                    let error = (losses[0].loss / exact - 1.0).abs();
                    // d itself is rounded by 1e-7 of the logits.
                    let most = if distance < 1e-3 { 1e-2 } else { 1e-4 };
                    assert!(error < most, "{isa} {distance} {temperature}: {} {exact}", losses[0].loss);
                }
            }
        }
    }
}
