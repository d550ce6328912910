//! SiLU, x·σ(x) with the logistic function σ, and its derivative σ(x)·(1 + x·(1 − σ(x)))
//! (Elfwing, Uchibe and Doya, "Sigmoid-weighted linear units for neural network function
//! approximation in reinforcement learning", Neural Networks 107, 2018, arXiv:1702.03118).
//!
//! With u = |x|, e = e⁻ᵘ and d = 1 + e, σ(x) is 1/d for x ≥ 0 and e/d for x < 0, neither of which overflows,
//! and 1 − σ(x) is the other of the two, without cancellation. One quotient, 1/d, serves both.
//!
//! In the left tail x·eˣ is still a normal number where eˣ no longer is. So e is kept scaled by 2ᵏ there
//! until the end, and the result is as accurate as elsewhere down to the smallest normal number.
//!
//! Error: SiLU has a small relative error on both sides: σ(x) has the error of [`exp`](mod@super::exp) and up to
//! an ulp each from d, 1/d and their product with e, and the product with x rounds once more. The derivative
//! has a zero near −1.278; its error is small relative to the larger of |silu'(x)| and |x|·σ(x)·(1 − σ(x)),
//! its second term.
//!
//! In the limits: silu(−∞) = −0, not the NaN of −∞·0; silu(∞) = ∞; the derivative is −0 and 1.

use crate::element::Element;
use crate::simd::Simd;

use super::exp::{decay, decayed};

/// Largest error of [`with_derivative`] in `f32`, in ulps as defined above.
pub const MAX_ULP_F32: f64 = 5.1;
/// Largest error of [`with_derivative`] in `f64`, in ulps as defined above.
pub const MAX_ULP_F64: f64 = 5.0;

/// `(silu(x), silu'(x))`; a result that is not used costs nothing.
#[inline(always)]
pub fn with_derivative<T: Element, S: Simd<T>>(s: S, x: S::V) -> (S::V, S::V) {
    let one = s.splat(T::ONE);
    let u = s.min(decayed(s), s.abs(x));
    let (lifted, lower) = decay(s, u);
    let e = s.mul(lifted, lower);
    let d = s.add(one, e);
    let r = s.quotient(one, d);
    let negative = s.lt(x, s.splat(T::ZERO));
    // σ(x), which for x < 0 must still be multiplied by `scale`; and 1 − σ(x).
    let sigma = s.select(negative, s.mul(lifted, r), r);
    let scale = s.select(negative, lower, one);
    let rest = s.select(negative, r, s.mul(e, r));
    // Avoids −∞·0: where u is cut off the result is 0 whatever x is.
    let silu = s.mul(s.mul(s.max(s.neg(decayed(s)), x), sigma), scale);
    let factor = s.fma(s.copysign(u, x), rest, one);
    (silu, s.mul(s.mul(factor, sigma), scale))
}
