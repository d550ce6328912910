//! Knowledge distillation (Hinton, Vinyals & Dean 2015, "Distilling the knowledge in a neural network"): with
//! p = softmax(o/τ) of the outputs and q = softmax(t/τ) of the teacher's logits, ℓ = τ²·Σ qⱼ·(ln qⱼ − ln pⱼ),
//! ∂ℓ/∂oⱼ = τ·(pⱼ − qⱼ). The factor τ² keeps gradients of similar size for every temperature τ.

use super::classes::max_of;
use super::elements::elements;
use super::{Row, RowLoss};
use crate::element::Element;
use crate::simd::{Simd, zip_map};

#[inline(always)]
pub fn row<T: Element, S: Simd<T>>(s: S, row: Row<'_, T>, temperature: f64) -> RowLoss {
    let Row { output, target, grad, scale } = row;
    let tops = [output, target].map(|x| s.splat(max_of(s, x, &[])));
    let cold = s.splat(T::lit(1.0 / temperature));
    let [sum, teacher, cross] = elements(
        s,
        [output, target],
        None::<[&mut [T]; 0]>,
        1.0,
        #[inline(always)]
        |both| {
            let [o, t] = cooled(s, both, tops, cold);
            let e = T::exp(s, t);
            ([T::exp(s, o), e, s.mul(e, s.sub(t, o))], [])
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
                [s.fma(T::exp(s, o), ours, s.mul(T::exp(s, t), theirs))]
            },
        );
    }
    let divergence = cross / teacher + libm::log(sum) - libm::log(teacher);
    RowLoss { loss: temperature * temperature * divergence, right: 0.0 }
}

/// Logits minus their maximum, divided by the temperature.
#[inline(always)]
fn cooled<T: Element, S: Simd<T>>(s: S, both: [S::V; 2], tops: [S::V; 2], cold: S::V) -> [S::V; 2] {
    [s.mul(s.sub(both[0], tops[0]), cold), s.mul(s.sub(both[1], tops[1]), cold)]
}
