//! Batch normalization (Ioffe and Szegedy, 2015, arXiv:1502.03167), PyTorch's conventions.
//!
//! ```text
//! training     μ = mean of z over the batch, σ² = mean of (z − μ)²         per column
//! evaluation   μ, σ² = running averages, r ← (1 − momentum)·r + momentum·batch, of which the variance
//!              takes the unbiased one, σ²·n/(n − 1)
//! forward      ẑ = (z − μ)/√(σ² + ε),  u = γ·ẑ + β
//! backward     dβ = Σ du,  dγ = Σ du·ẑ,  dz = γ/√(σ² + ε) · (du − dβ/n − ẑ·dγ/n)
//! ```
//!
//! The variance is taken in a second pass over the centred column, so that nothing cancels; sums go over
//! some rows in the element's precision, and over those partial sums in double precision.

use crate::element::Element;
use crate::error::Error;
use crate::gemm::pack::PANEL;
use crate::simd::{MAX_LANES, Simd, zip_map};
use crate::view::MatRef;

/// A batch normalization as the user wrote it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNorm {
    /// Number of columns.
    pub features: usize,
    /// ε
    pub eps: f64,
    /// Part of a batch in the running averages.
    pub momentum: f64,
    /// Whether there are γ and β.
    pub affine: bool,
}

impl BatchNorm {
    /// Checks itself as layer `index` behind `width` columns.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, index: usize, width: usize, name: &str) -> Result<(), Error> {
        if self.features != width {
            let name = name.into();
            return Err(Error::LayerWidth { layer: index, name, expected: self.features, found: width });
        }
        let bad = |name, value: f64, accepted: &str| {
            let value = format!("{value} in layer {index} (BatchNorm1d)");
            Err(Error::Argument { name, value, accepted: accepted.into() })
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

/// What a pass knows of a normalization: slices of so many columns, to read or to write.
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

/// Number of columns of [`Columns`].
pub const COLUMNS: usize = 7;

impl<S> Columns<S> {
    /// Of seven, by number.
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

    /// Of others, one by one.
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

/// Rows whose partial sums stay in the element's precision.
const RUN: usize = 64;

/// Sums over rows of K vectors that `f(row, first column, columns)` gives, for up to [`PANEL`] columns.
#[inline(always)]
fn sums<T: Element, S: Simd<T>, const K: usize>(
    s: S,
    rows: usize,
    cols: usize,
    f: impl Fn(usize, usize, usize) -> [S::V; K],
) -> [[f64; PANEL]; K] {
    let mut total = [[0.0; PANEL]; K];
    // Two vectors side by side: one chain of additions would wait for itself.
    for col in (0..cols).step_by(2 * S::N) {
        let n = [S::N.min(cols - col), S::N.min((cols - col).saturating_sub(S::N))];
        for from in (0..rows).step_by(RUN) {
            let mut sum = [[s.splat(T::ZERO); K]; 2];
            for r in from..rows.min(from + RUN) {
                for (half, sum) in sum.iter_mut().enumerate() {
                    if n[half] > 0 {
                        for (sum, x) in sum.iter_mut().zip(f(r, col + half * S::N, n[half])) {
                            *sum = s.add(*sum, x);
                        }
                    }
                }
            }
            for (half, sum) in sum.into_iter().enumerate() {
                for (total, sum) in total.iter_mut().zip(sum) {
                    let mut lanes = [T::ZERO; MAX_LANES];
                    s.store(&mut lanes, sum);
                    let total = &mut total[(col + half * S::N).min(PANEL)..];
                    for (total, x) in total.iter_mut().zip(&lanes[..n[half]]) {
                        *total += x.to_f64();
                    }
                }
            }
        }
    }
    total
}

/// What comes from a mean and a variance: everything that the forward formula needs.
#[inline(always)]
pub fn constants<T: Element>(
    norm: &BatchNorm,
    affine: Option<(&[T], &[T])>,
    to: &mut Columns<&mut [T]>,
    variance: impl Fn(usize) -> f64,
) {
    for j in 0..to.mean.len() {
        let inverse = 1.0 / (variance(j) + norm.eps).sqrt();
        let (gamma, beta) = affine.map_or((T::ONE, T::ZERO), |(gamma, beta)| (gamma[j], beta[j]));
        to.inverse[j] = T::lit(inverse);
        to.scale[j] = T::lit(inverse * gamma.to_f64());
        to.shift[j] = beta;
    }
}

/// Statistics of some columns of `z` over the batch, and what comes from them.
#[inline(always)]
pub fn statistics<T: Element, S: Simd<T>>(
    s: S,
    norm: &BatchNorm,
    z: MatRef<'_, T>,
    affine: Option<(&[T], &[T])>,
    to: &mut Columns<&mut [T]>,
) {
    let (rows, cols) = (z.rows(), z.cols());
    let at = |r: usize, col: usize, n: usize| s.load_partial(&z.row(r)[col..col + n]);
    let [mean] = sums(
        s,
        rows,
        cols,
        #[inline(always)]
        |r, col, n| [at(r, col, n)],
    );
    for (to, sum) in to.mean.iter_mut().zip(mean) {
        *to = T::lit(sum / rows as f64);
    }
    let mean = &*to.mean;
    let [squares] = sums(
        s,
        rows,
        cols,
        #[inline(always)]
        |r, col, n| {
            let d = s.sub(at(r, col, n), s.load_partial(&mean[col..col + n]));
            [s.mul(d, d)]
        },
    );
    for (to, sum) in to.unbiased.iter_mut().zip(squares) {
        *to = T::lit(sum / (rows as f64 - 1.0));
    }
    constants(norm, affine, to, |j| squares[j] / rows as f64);
}

/// u = γ·ẑ + β from z in its place, a row.
#[inline(always)]
pub fn forward<T: Element, S: Simd<T>>(s: S, u: &mut [T], of: &Columns<&[T]>) {
    zip_map(
        s,
        [u],
        [of.mean, of.scale, of.shift],
        #[inline(always)]
        |[z], [mean, scale, shift]| [s.fma(s.sub(z, mean), scale, shift)],
    );
}

/// dβ and dγ of some columns.
#[inline(always)]
pub fn gradients<T: Element, S: Simd<T>>(
    s: S,
    du: MatRef<'_, T>,
    z: MatRef<'_, T>,
    to: &mut Columns<&mut [T]>,
) {
    let (mean, inverse) = (&*to.mean, &*to.inverse);
    let [shift, scale] = sums(
        s,
        z.rows(),
        z.cols(),
        #[inline(always)]
        |r, col, n| {
            let part = |x: &[T]| s.load_partial(&x[col..col + n]);
            let du = part(du.row(r));
            let z = s.mul(s.sub(part(z.row(r)), part(mean)), part(inverse));
            [du, s.mul(du, z)]
        },
    );
    for j in 0..z.cols() {
        to.shift_grad[j] = T::lit(shift[j]);
        to.scale_grad[j] = T::lit(scale[j]);
    }
}

/// dz from du in its place, a row of a batch of n.
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
