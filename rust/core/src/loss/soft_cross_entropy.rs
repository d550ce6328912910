//! Cross-entropy of class shares tⱼ ≥ 0 under softmax, with class weights wⱼ and label smoothing ε (Szegedy
//! et al. 2016): with aⱼ = wⱼ·((1 − ε)·tⱼ + ε/n), A = Σ aⱼ, m = max oⱼ and Z = Σ e^(oⱼ−m), ℓ = A·ln Z + Σ
//! aⱼ·(m − oⱼ), ∂ℓ/∂oⱼ = A·e^(oⱼ−m)/Z − aⱼ, ∂²ℓ/∂oᵢ∂oⱼ = A·(pⱼ·[i = j] − pᵢ·pⱼ) with p = e^(o−m)/Z. No term
//! of the loss is negative.

use super::classes::{first_of, max_of};
use super::elements::elements;
use super::{Row, RowLoss};
use crate::element::Element;
use crate::math;
use crate::simd::{Simd, zip_map};

/// For shares, with a softmax of its own for each head that has some.
#[inline(always)]
pub fn shares<T: Element, S: Simd<T>>(
    s: S,
    row: Row<'_, T>,
    heads: &[usize],
    weights: &[T],
    smoothing: f64,
) -> RowLoss {
    if heads.is_empty() {
        return one_head(s, row, weights, smoothing);
    }
    let Row { output, target, mut grad, scale } = row;
    grad.iter_mut().for_each(|g| g.fill(T::ZERO));
    let (mut start, mut top, mut sum) = (0, T::ZERO, RowLoss::default());
    for &end in heads {
        let head = std::mem::replace(&mut start, end)..end;
        let (output, target) = (&output[head.clone()], &target[head.clone()]);
        if target.iter().all(|t| *t == T::ZERO) {
            continue;
        }
        let weights = weights.get(head.clone()).unwrap_or_default();
        let grad = grad.as_mut().map(|g| &mut g[head]);
        let RowLoss { loss, right } = one_head(s, Row { output, target, grad, scale }, weights, smoothing);
        sum.loss += loss;
        // The head with the largest share decides what is right or wrong.
        let share = max_of(s, target, weights);
        if share > top {
            (top, sum.right) = (share, right);
        }
    }
    sum
}

#[inline(always)]
fn one_head<T: Element, S: Simd<T>>(s: S, row: Row<'_, T>, weights: &[T], smoothing: f64) -> RowLoss {
    let Row { output, target, grad, scale } = row;
    let spread = spread(s, output, weights, smoothing);
    let kept = s.splat(T::lit(1.0 - smoothing));
    let max = max_of(s, output, weights);
    let largest = max_of(s, target, weights);
    let right = first_of(s, output, weights, max) == first_of(s, target, weights, largest);
    let loss = if weights.is_empty() {
        of_shares(
            s,
            [output, target],
            grad,
            scale,
            max,
            None,
            #[inline(always)]
            |[_, t], e| [e, smoothed(s, t, kept, spread)],
        )
    } else {
        of_shares(
            s,
            [output, target, weights],
            grad,
            scale,
            max,
            None,
            #[inline(always)]
            |[_, t, w], e| {
                let share = smoothed(s, t, kept, spread);
                // For a class that does not take part 0, or NaN if it has a share.
                let lost = s.lt(s.splat(T::ZERO), t);
                let none = s.select(lost, s.splat(T::lit(f64::NAN)), s.sub(share, share));
                let inactive = s.lt(w, s.splat(T::ZERO));
                [s.select(inactive, s.splat(T::ZERO), e), s.select(inactive, none, s.mul(w, share))]
            },
        )
    };
    RowLoss { loss, right: f64::from(right) }
}

/// ε/n, for the n classes that take part.
#[inline(always)]
fn spread<T: Element, S: Simd<T>>(s: S, output: &[T], weights: &[T], smoothing: f64) -> S::V {
    let classes = match weights {
        [] => output.len(),
        weights => weights.iter().filter(|w| **w >= T::ZERO).count(),
    };
    s.splat(T::lit(smoothing / classes as f64))
}

/// (1 − ε)·t + ε/n, or NaN for a negative share.
#[inline(always)]
fn smoothed<T: Element, S: Simd<T>>(s: S, t: S::V, kept: S::V, spread: S::V) -> S::V {
    s.select(s.lt(t, s.splat(T::ZERO)), s.splat(T::lit(f64::NAN)), s.fma(kept, t, spread))
}

/// For a label.
#[inline(always)]
pub fn label<T: Element, S: Simd<T>>(
    s: S,
    row: Row<'_, T>,
    label: usize,
    weights: &[T],
    smoothing: f64,
) -> RowLoss {
    let Row { output, grad, scale, .. } = row;
    let spread = spread(s, output, weights, smoothing);
    let weight = weights.get(label).map_or(1.0, |w| w.to_f64());
    let label_share = Some((label, weight * (1.0 - smoothing)));
    let max = max_of(s, output, weights);
    let right = first_of(s, output, weights, max) == T::lit(label as f64);
    let loss = if weights.is_empty() {
        of_shares(
            s,
            [output],
            grad,
            scale,
            max,
            label_share,
            #[inline(always)]
            |_, e| [e, spread],
        )
    } else {
        of_shares(
            s,
            [output, weights],
            grad,
            scale,
            max,
            label_share,
            #[inline(always)]
            |[_, w], e| {
                let zero = s.splat(T::ZERO);
                let inactive = s.lt(w, zero);
                [s.select(inactive, zero, e), s.select(inactive, zero, s.mul(w, spread))]
            },
        )
    };
    RowLoss { loss, right: f64::from(right) }
}

/// The loss of shares that `terms` computes, a vector at a time, from `reads`, of which the first is the
/// output; and of an additional share of one class. `terms` also receives the exponentials, and returns those
/// of the classes that take part.
#[inline(always)]
fn of_shares<T: Element, S: Simd<T>, const R: usize>(
    s: S,
    reads: [&[T]; R],
    mut grad: Option<&mut [T]>,
    scale: f64,
    max: T,
    label: Option<(usize, f64)>,
    terms: impl Fn([S::V; R], S::V) -> [S::V; 2],
) -> f64 {
    let top = s.splat(max);
    // The exponentials are stored in the gradient's place until their sum is known.
    let [sum, mut shares, mut loss] = elements(
        s,
        reads,
        grad.as_mut().map(|g| [&mut **g]),
        1.0,
        #[inline(always)]
        |reads| {
            let below = s.sub(top, reads[0]);
            let [e, a] = terms(reads, math::exp(s, s.neg(below)));
            ([e, a, s.mul(a, below)], [e])
        },
    );
    if let Some((label, share)) = label {
        shares += share;
        loss += share * (max.to_f64() - reads[0][label].to_f64());
    }
    if let Some(grad) = grad {
        let (part, factor) = (s.splat(T::lit(scale * shares / sum)), s.splat(T::lit(-scale)));
        zip_map(
            s,
            [&mut *grad],
            reads,
            #[inline(always)]
            |[e], reads| [s.fma(factor, terms(reads, e)[1], s.mul(e, part))],
        );
        if let Some((label, share)) = label {
            grad[label] = grad[label] - T::lit(scale * share);
        }
    }
    shares * libm::log(sum) + loss
}

/// A, the total weight of the shares.
pub fn mass<T: Element>(share: impl Fn(usize) -> f64, n: usize, weights: &[T], smoothing: f64) -> f64 {
    let weight = |j: usize| weights.get(j).map_or(1.0, |w| w.to_f64());
    let competing = || (0..n).filter(|j| weight(*j) >= 0.0);
    let spread = smoothing / competing().count() as f64;
    competing().map(|j| weight(j) * ((1.0 - smoothing) * share(j) + spread)).sum()
}

/// into ← factor·p with p = softmax(o) of the classes that take part, from which the second derivatives of
/// all softmax losses are made.
pub fn probabilities<T: Element>(output: &[T], weights: &[T], cold: f64, into: &mut [T], factor: f64) {
    let logit = |(j, o): (usize, &T)| match weights.get(j) {
        Some(weight) if *weight < T::ZERO => f64::NEG_INFINITY,
        _ => o.to_f64(),
    };
    let logits = || output.iter().enumerate().map(logit);
    let top = logits().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for (o, into) in logits().zip(&mut *into) {
        let e = libm::exp((o - top) * cold);
        sum += e;
        *into = T::lit(e);
    }
    let factor = factor / sum;
    into.iter_mut().for_each(|e| *e = T::lit(e.to_f64() * factor));
}

/// into ← a∘v − a·aᵀv/Σa: the second derivatives times v, from the [`probabilities`] a.
pub fn bend<T: Element>(a: &[T], v: &[T], into: &mut [T]) {
    let (mut sum, mut along) = (0.0, 0.0);
    for (a, v) in a.iter().zip(v) {
        sum += a.to_f64();
        along += a.to_f64() * v.to_f64();
    }
    let mean = if sum == 0.0 { 0.0 } else { along / sum };
    for ((a, v), into) in a.iter().zip(v).zip(into) {
        *into = T::lit(a.to_f64() * (v.to_f64() - mean));
    }
}
