//! Normalizations of each row by itself, with PyTorch's conventions: LayerNorm (Ba, Kiros and Hinton, 2016,
//! arXiv:1607.06450), and RMSNorm (Zhang and Sennrich, 2019, arXiv:1910.07467), in which μ is 0.
//!
//! ```text
//! forward      μ = mean of z over the row's n columns, σ² = mean of (z − μ)²
//!              ẑ = (z − μ)/√(σ² + ε),  u = γ·ẑ + β
//! backward     dβ = Σ du,  dγ = Σ du·ẑ                        over the rows
//!              dẑ = γ·du,  dz = (dẑ − mean of dẑ − ẑ·mean of dẑ·ẑ)/√(σ² + ε)
//! ```
//!
//! For RMSNorm, the mean of dẑ is not subtracted either. The variance is computed in a second pass over the
//! centred row, so that nothing cancels. Gradients of γ and β are summed as for [batch
//! normalization](super::batch_norm): by groups of rows, and over the groups in their order.

use crate::element::Element;
use crate::error::Error;
use crate::simd::{Simd, zip_map};
use crate::view::MatRef;

use super::Power;
use super::batch_norm::sums;

/// A normalization over rows, as the user wrote it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowNorm {
    /// Number of columns.
    pub features: usize,
    /// ε; if `None`, that of the precision.
    pub eps: Option<f64>,
    /// Whether the mean is subtracted (LayerNorm) or not (RMSNorm).
    pub centred: bool,
    /// Whether there is a γ.
    pub scale: bool,
    /// Whether there is a β; only with a γ.
    pub shift: bool,
}

impl RowNorm {
    /// The layer's name, as users write it.
    pub fn name(&self) -> &'static str {
        if self.centred { "LayerNorm" } else { "RMSNorm" }
    }

    /// Checks its numbers as layer `place`.
    ///
    /// # Errors
    /// If one is out of range.
    pub fn check(&self, place: &str) -> Result<(), Error> {
        match self.eps {
            Some(eps) if !(eps > 0.0 && eps.is_finite()) => Err(Error::argument(
                "eps",
                format!("{eps} in layer {place} ({})", self.name()),
                "a number > 0 is needed",
            )),
            _ => Ok(()),
        }
    }

    /// ε
    fn eps<T: Element>(&self) -> f64 {
        self.eps.unwrap_or(T::EPSILON)
    }
}

/// The sum of f over the elements of slices of the same length: lane by lane, then over the lanes.
#[inline(always)]
pub(crate) fn total<T: Element, S: Simd<T>, const R: usize>(
    s: S,
    reads: [&[T]; R],
    f: impl Fn([S::V; R]) -> S::V,
) -> f64 {
    let n = reads[0].len();
    // Two sums side by side: a single chain of additions would wait for itself.
    let mut sum = [s.splat(T::ZERO); 2];
    let mut i = 0;
    while i + 2 * S::N <= n {
        for (half, sum) in sum.iter_mut().enumerate() {
            *sum = s.add(*sum, f(reads.map(|r| s.load(&r[i + half * S::N..]))));
        }
        i += 2 * S::N;
    }
    if i + S::N <= n {
        sum[0] = s.add(sum[0], f(reads.map(|r| s.load(&r[i..]))));
        i += S::N;
    }
    if i < n {
        // Lanes beyond the end do not count, whatever f returns for them.
        let rest = f(reads.map(|r| s.load_partial(&r[i..])));
        sum[0] = s.add(sum[0], s.first(rest, n - i));
    }
    s.reduce_add(s.add(sum[0], sum[1])).to_f64()
}

/// Returns μ and 1/√(σ² + ε) of a row.
///
/// The latter is NaN if the variance overflows: 0 would make the row equal to β, and hide the overflow from
/// the loss.
#[inline(always)]
pub fn moments<T: Element, S: Simd<T>>(s: S, norm: &RowNorm, row: &[T]) -> [T; 2] {
    let n = row.len() as f64;
    let mean = match norm.centred {
        true => T::lit(
            total(
                s,
                [row],
                #[inline(always)]
                |[z]| z,
            ) / n,
        ),
        false => T::ZERO,
    };
    let mean_v = s.splat(mean);
    let squares = total(
        s,
        [row],
        #[inline(always)]
        |[z]| {
            let d = s.sub(z, mean_v);
            s.mul(d, d)
        },
    );
    let inverse = match squares.is_finite() {
        true => T::lit(1.0 / (squares / n + norm.eps::<T>()).sqrt()),
        false => T::lit(f64::NAN),
    };
    [mean, inverse]
}

/// Computes u from z, or in place, for one row with these moments.
#[inline(always)]
pub fn forward<T: Element, S: Simd<T>>(
    s: S,
    moments: [T; 2],
    z: Option<&[T]>,
    row: &mut [T],
    scale: Option<&[T]>,
    shift: Option<&[T]>,
) {
    let [mean, inverse] = moments.map(|of| s.splat(of));
    macro_rules! each {
        ([$($from:expr),*], [$($name:ident),*], $hat:ident => $u:expr) => {
            match z {
                Some(z) => zip_map(
                    s,
                    [row],
                    [z, $($from),*],
                    #[inline(always)]
                    |_, [z, $($name),*]| {
                        let $hat = s.mul(s.sub(z, mean), inverse);
                        [$u]
                    },
                ),
                None => zip_map(
                    s,
                    [row],
                    [$($from),*],
                    #[inline(always)]
                    |[z], [$($name),*]| {
                        let $hat = s.mul(s.sub(z, mean), inverse);
                        [$u]
                    },
                ),
            }
        };
    }
    match (scale, shift) {
        (Some(scale), Some(shift)) => each!([scale, shift], [gamma, beta], z => s.fma(z, gamma, beta)),
        (Some(scale), None) => each!([scale], [gamma], z => s.mul(z, gamma)),
        _ => each!([], [], z => z),
    }
}

/// Computes γ·du from du, in place, for one row.
#[inline(always)]
pub fn weigh<T: Element, S: Simd<T>>(s: S, row: &mut [T], scale: &[T]) {
    zip_map(
        s,
        [row],
        [scale],
        #[inline(always)]
        |[du], [gamma]| [s.mul(du, gamma)],
    );
}

/// Returns the means of w and of w·ẑ, the latter negated, for a row w = γ·du.
#[inline(always)]
pub fn means<T: Element, S: Simd<T>>(s: S, norm: &RowNorm, row: &[T], z: &[T], moments: &[T]) -> [T; 2] {
    let n = row.len() as f64;
    let (mean, inverse) = (s.splat(moments[0]), s.splat(moments[1]));
    let part = match norm.centred {
        true => total(
            s,
            [row],
            #[inline(always)]
            |[d]| d,
        ),
        false => 0.0,
    };
    let slope = total(
        s,
        [row, z],
        #[inline(always)]
        |[d, z]| s.mul(d, s.mul(s.sub(z, mean), inverse)),
    );
    [T::lit(part / n), T::lit(-slope / n)]
}

/// Computes dz from γ·du, in place, for one row with these moments and means.
#[inline(always)]
pub fn backward<T: Element, S: Simd<T>>(s: S, row: &mut [T], z: &[T], moments: &[T], means: [T; 2]) {
    let (mean, inverse) = (s.splat(moments[0]), s.splat(moments[1]));
    let [part, slope] = means.map(|of| s.splat(of));
    zip_map(
        s,
        [row],
        [z],
        #[inline(always)]
        |[d], [z]| {
            let z = s.mul(s.sub(z, mean), inverse);
            [s.mul(s.fma(z, slope, s.sub(d, part)), inverse)]
        },
    );
}

/// Sums du and du·ẑ, or a power of them, over a group's rows.
#[inline(always)]
pub fn group_gradients<T: Element, S: Simd<T>>(
    s: S,
    power: Power,
    du: MatRef<'_, T>,
    z: MatRef<'_, T>,
    moments: MatRef<'_, T>,
    shift: &mut [T],
    scale: &mut [T],
) {
    sums(
        s,
        z.rows(),
        [shift, scale],
        #[inline(always)]
        |r, col, n| {
            let part = |x: &[T]| s.load_partial(&x[col..col + n]);
            let [mean, inverse] = [0, 1].map(|i| s.splat(moments.row(r)[i]));
            let du = part(du.row(r));
            let z = s.mul(s.sub(part(z.row(r)), mean), inverse);
            [du, s.mul(du, z)].map(
                #[inline(always)]
                |g| power.of(s, g),
            )
        },
    );
}
