//! Batch normalization (Ioffe and Szegedy, 2015, arXiv:1502.03167), PyTorch's conventions.
//!
//! ```text
//! training     μ = mean of z over the batch, σ² = mean of (z − μ)²         per column
//! evaluation   μ, σ² = running averages, r ← (1 − momentum)·r + momentum·batch, where the variance
//!              is the unbiased one, σ²·n/(n − 1)
//! forward      ẑ = (z − μ)/√(σ² + ε),  u = γ·ẑ + β
//! backward     dβ = Σ du,  dγ = Σ du·ẑ,  dz = γ/√(σ² + ε) · (du − dβ/n − ẑ·dγ/n)
//! ```
//!
//! Sums over a batch are combined from sums over groups of rows, in double precision and in the order of the
//! groups, whoever computed them. The variance within a group is computed in a second pass over the centred
//! column, so that nothing cancels.

use crate::element::Element;
use crate::error::Error;
use crate::simd::{Simd, zip_map};
use crate::view::MatRef;

use super::Power;

/// A batch normalization as the user wrote it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// Number of columns.
    pub features: usize,
    /// ε
    pub eps: f64,
    /// Weight of a batch in the running averages.
    pub momentum: f64,
    /// Whether there are γ and β.
    pub affine: bool,
}

impl BatchNorm {
    /// Checks its numbers as layer `place`.
    ///
    /// # Errors
    /// If one is out of range.
    pub fn check(&self, place: &str) -> Result<(), Error> {
        let bad = |name, value: f64, accepted: &str| {
            Err(Error::argument(name, format!("{value} in layer {place} (BatchNorm1d)"), accepted))
        };
        if !(self.eps > 0.0 && self.eps.is_finite()) {
            return bad("eps", self.eps, "a number > 0 is needed");
        }
        if !(0.0..=1.0).contains(&self.momentum) {
            return bad("momentum", self.momentum, "a number from 0 to 1 is needed");
        }
        Ok(())
    }
}

/// What a pass knows of a normalization: slices with an element per column, to read or to write.
pub struct Columns<S> {
    /// μ
    pub mean: S,
    /// 1/√(σ² + ε)
    pub inverse: S,
    /// γ/√(σ² + ε)
    pub scale: S,
    /// β
    pub shift: S,
    /// Σ du·ẑ
    pub scale_grad: S,
    /// Σ du
    pub shift_grad: S,
    /// σ²·n/(n − 1)
    pub unbiased: S,
}

/// Number of fields of [`Columns`].
pub const COLUMNS: usize = 7;

impl<S> Columns<S> {
    /// Made from seven values, by number.
    pub fn from_fn(mut f: impl FnMut(usize) -> S) -> Self {
        Columns {
            mean: f(0),
            inverse: f(1),
            scale: f(2),
            shift: f(3),
            scale_grad: f(4),
            shift_grad: f(5),
            unbiased: f(6),
        }
    }

    /// Made by mapping each value.
    pub fn map<R>(self, mut f: impl FnMut(S) -> R) -> Columns<R> {
        Columns {
            mean: f(self.mean),
            inverse: f(self.inverse),
            scale: f(self.scale),
            shift: f(self.shift),
            scale_grad: f(self.scale_grad),
            shift_grad: f(self.shift_grad),
            unbiased: f(self.unbiased),
        }
    }
}

/// Rows of a group: each group has sums of its own, computed while its rows are in the cache, and the sums of
/// all groups are combined in their order.
pub const GROUP: usize = 64;
/// Columns whose sums over groups are computed together.
const TOGETHER: usize = 64;

/// Sums, over the rows of a group, K vectors that `f(row, first column, columns)` returns.
#[inline(always)]
pub(crate) fn sums<T: Element, S: Simd<T>, const K: usize>(
    s: S,
    rows: usize,
    mut into: [&mut [T]; K],
    f: impl Fn(usize, usize, usize) -> [S::V; K],
) {
    let cols = into[0].len();
    // Two vectors side by side: a single chain of additions would wait for itself.
    for col in (0..cols).step_by(2 * S::N) {
        let n = [S::N.min(cols - col), S::N.min((cols - col).saturating_sub(S::N))];
        let mut sum = [[s.splat(T::ZERO); K]; 2];
        for r in 0..rows {
            for (half, sum) in sum.iter_mut().enumerate() {
                if n[half] > 0 {
                    for (sum, x) in sum.iter_mut().zip(f(r, col + half * S::N, n[half])) {
                        *sum = s.add(*sum, x);
                    }
                }
            }
        }
        for (half, sum) in sum.into_iter().enumerate().filter(|(half, _)| n[*half] > 0) {
            let from = col + half * S::N;
            for (into, sum) in into.iter_mut().zip(sum) {
                s.store_partial(&mut into[from..from + n[half]], sum);
            }
        }
    }
}

/// Sum of a group's rows, and sum of their squared distances from its mean.
#[inline(always)]
pub fn group_statistics<T: Element, S: Simd<T>>(s: S, z: MatRef<'_, T>, total: &mut [T], squares: &mut [T]) {
    let at = |r: usize, col: usize, n: usize| s.load_partial(&z.row(r)[col..col + n]);
    sums(
        s,
        z.rows(),
        [&mut *total],
        #[inline(always)]
        |r, col, n| [at(r, col, n)],
    );
    let (part, total) = (s.splat(T::lit(1.0 / z.rows() as f64)), &*total);
    sums(
        s,
        z.rows(),
        [squares],
        #[inline(always)]
        |r, col, n| {
            let mean = s.mul(s.load_partial(&total[col..col + n]), part);
            let d = s.sub(at(r, col, n), mean);
            [s.mul(d, d)]
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
    of: &Columns<&[T]>,
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
            let du = part(du.row(r));
            let z = s.mul(s.sub(part(z.row(r)), part(of.mean)), part(of.inverse));
            [du, s.mul(du, z)].map(
                #[inline(always)]
                |g| power.of(s, g),
            )
        },
    );
}

/// Computes everything that follows from the variance of column j: what the forward formula needs besides the
/// mean.
pub fn constants<T: Element>(
    norm: &BatchNorm,
    affine: Option<(&[T], &[T])>,
    to: &mut Columns<&mut [T]>,
    j: usize,
    variance: f64,
) {
    let inverse = 1.0 / (variance + norm.eps).sqrt();
    let (gamma, beta) = affine.map_or((T::ONE, T::ZERO), |(gamma, beta)| (gamma[j], beta[j]));
    to.inverse[j] = T::lit(inverse);
    to.scale[j] = T::lit(inverse * gamma.to_f64());
    to.shift[j] = beta;
}

/// Computes statistics of a batch of `rows` rows from those of its groups, and what follows from them.
/// `groups` returns the two sums of group g for all columns.
///
/// Squares of groups are combined by Chan, Golub and LeVeque's formula (1979): the part within the groups and
/// the part between their means.
pub fn statistics<'g, T: Element>(
    norm: &BatchNorm,
    rows: usize,
    groups: impl Fn(usize) -> (&'g [T], &'g [T]),
    affine: Option<(&[T], &[T])>,
    to: &mut Columns<&mut [T]>,
) {
    let count = rows.div_ceil(GROUP);
    for from in (0..to.mean.len()).step_by(TOGETHER) {
        let cols = from..to.mean.len().min(from + TOGETHER);
        let (mut means, mut squares) = ([0.0; TOGETHER], [0.0; TOGETHER]);
        for g in 0..count {
            let total = &groups(g).0[cols.clone()];
            means.iter_mut().zip(total).for_each(|(mean, total)| *mean += total.to_f64());
        }
        means.iter_mut().for_each(|mean| *mean /= rows as f64);
        for g in 0..count {
            let size = GROUP.min(rows - g * GROUP) as f64;
            let (total, within) = groups(g);
            let group = total[cols.clone()].iter().zip(&within[cols.clone()]);
            for ((sum, mean), (total, within)) in squares.iter_mut().zip(&means).zip(group) {
                let between = total.to_f64() / size - mean;
                *sum += within.to_f64() + size * between * between;
            }
        }
        for ((j, mean), squares) in cols.zip(means).zip(squares) {
            to.mean[j] = T::lit(mean);
            to.unbiased[j] = T::lit(squares / (rows as f64 - 1.0));
            constants(norm, affine, to, j, squares / rows as f64);
        }
    }
}

/// u = γ·ẑ + β from z, or in place, for one row.
#[inline(always)]
pub fn forward<T: Element, S: Simd<T>>(s: S, z: Option<&[T]>, u: &mut [T], of: &Columns<&[T]>) {
    match z {
        Some(z) => zip_map(
            s,
            [u],
            [z, of.mean, of.scale, of.shift],
            #[inline(always)]
            |_, [z, mean, scale, shift]| [s.fma(s.sub(z, mean), scale, shift)],
        ),
        None => zip_map(
            s,
            [u],
            [of.mean, of.scale, of.shift],
            #[inline(always)]
            |[z], [mean, scale, shift]| [s.fma(s.sub(z, mean), scale, shift)],
        ),
    }
}

/// dβ and dγ from the sums of `count` groups.
pub fn gradients<'g, T: Element>(
    count: usize,
    groups: impl Fn(usize) -> (&'g [T], &'g [T]),
    to: &mut Columns<&mut [T]>,
) {
    for from in (0..to.mean.len()).step_by(TOGETHER) {
        let cols = from..to.mean.len().min(from + TOGETHER);
        let mut sums = [[0.0; TOGETHER]; 2];
        for g in 0..count {
            let (shift, scale) = groups(g);
            for (sums, group) in sums.iter_mut().zip([shift, scale]) {
                sums.iter_mut().zip(&group[cols.clone()]).for_each(|(sum, x)| *sum += x.to_f64());
            }
        }
        let [shift, scale] = sums;
        to.shift_grad[cols.clone()].iter_mut().zip(shift).for_each(|(grad, sum)| *grad = T::lit(sum));
        to.scale_grad[cols].iter_mut().zip(scale).for_each(|(grad, sum)| *grad = T::lit(sum));
    }
}

/// dz from du, in place, for one row of a batch of n.
#[inline(always)]
pub fn backward<T: Element, S: Simd<T>>(s: S, du: &mut [T], z: &[T], of: &Columns<&[T]>, n: usize) {
    let part = s.splat(T::lit(-1.0 / n as f64));
    zip_map(
        s,
        [du],
        [z, of.mean, of.inverse, of.scale, of.scale_grad, of.shift_grad],
        #[inline(always)]
        |[du], [z, mean, inverse, scale, scale_grad, shift_grad]| {
            let z = s.mul(s.sub(z, mean), inverse);
            [s.mul(s.fma(part, s.fma(z, scale_grad, shift_grad), du), scale)]
        },
    );
}
