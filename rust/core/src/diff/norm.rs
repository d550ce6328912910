//! Normalizations of a block of rows: forward and backward, and the tangents of both.
//!
//! Batch normalization and normalizations over rows have the same formula, with means over the rows of the
//! batch or over the columns of a row. Dots are tangents, and s = 1/√(σ² + ε):
//!
//! ```text
//! forward      ẑ = s·(z − μ)                    u = γ·ẑ + β
//!              ẑ˙ = s·(ż − μ̇ − ẑ·q)             u̇ = γ̇·ẑ + γ·ẑ˙ + β̇        q = mean of ẑ·ż,  ṡ = −s²·q
//! backward     w = γ·du,                         dz = s·(w − mean w − ẑ·mean(w·ẑ))
//!              ẇ = γ̇·du + γ·du˙,                 dz˙ = −s·q·dz + s·(ẇ − mean ẇ − ẑ˙·mean(w·ẑ) − ẑ·mean(ẇ·ẑ + w·ẑ˙))
//! parameters   dβ˙ = Σ du˙                       dγ˙ = Σ du˙·ẑ + du·ẑ˙
//! ```
//!
//! RMSNorm omits μ and the mean of w. With running averages in place of statistics, in evaluation, q and all
//! means are 0. Sums over columns are taken by blocks of rows, and blocks are summed in their order and in
//! double precision. Without a gradient du, as for the Gauss-Newton matrix, its terms are omitted.

use crate::element::Element;
use crate::layer::RowNorm;
use crate::layer::batch_norm::sums;
use crate::layer::row_norm::total;
use crate::simd::{Op, Simd, zip_map};

/// Scale and shift, γ and β, or their tangents; if there are none, these are 1 and 0, and 0 for tangents.
pub type Affine<T> = [Vec<T>; 2];

/// What is known of the columns of a batch normalization: as numbers, or as tangents.
#[derive(Clone, Default)]
pub struct Columns<T> {
    /// μ, or μ̇
    pub mean: Vec<T>,
    /// s, or q
    pub factor: Vec<T>,
    /// The means over the batch of du and du·ẑ, or of their tangents.
    pub slope: [Vec<T>; 2],
}

impl<T: Element> Columns<T> {
    /// All zeros.
    pub fn zeros(n: usize) -> Self {
        let zeros = || vec![T::ZERO; n];
        Columns { mean: zeros(), factor: zeros(), slope: [zeros(), zeros()] }
    }
}

/// What is known of the rows of a block that are normalized one by one.
#[derive(Default)]
pub struct OfRows<T> {
    /// s
    pub inverse: Vec<T>,
    /// q
    pub along: Vec<T>,
    /// The mean of w·ẑ
    pub slope: Vec<T>,
}

impl<T: Element> OfRows<T> {
    /// s, q and the mean of w·ẑ of a row; 0 for those that were not computed.
    fn at(&self, r: usize) -> [T; 3] {
        [&self.inverse, &self.along, &self.slope].map(|of| of.get(r).copied().unwrap_or(T::ZERO))
    }
}

/// Numbers and their tangents.
pub type Pair<S> = [S; 2];

/// An operation on a block of rows with n columns.
pub enum Task<'m, T> {
    /// z becomes u; ẑ is kept in `hat`.
    Forward { z: &'m mut [T], hat: &'m mut [T], of: Of<'m, T>, affine: &'m Affine<T> },
    /// ż becomes u̇; ẑ˙ is kept in `hat`.
    Tangent { dot: &'m mut [T], hat: Pair<&'m mut [T]>, of: OfDots<'m, T>, affine: Pair<&'m Affine<T>> },
    /// du becomes dz, and is kept.
    Backward { dz: &'m mut [T], du: &'m mut [T], hat: &'m [T], of: Of<'m, T>, affine: &'m Affine<T> },
    /// du˙ becomes dz˙; with du, dz and ẑ˙ if there is a gradient.
    Curve {
        dz_dot: &'m mut [T],
        slope: Option<[&'m [T]; 3]>,
        hat: &'m [T],
        of: OfDots<'m, T>,
        affine: Pair<&'m Affine<T>>,
    },
    /// Σ z over the rows.
    Sums { z: &'m [T], into: &'m mut [T] },
    /// Σ (z − μ)²
    Squares { z: &'m [T], mean: &'m [T], into: &'m mut [T] },
    /// Σ a, and Σ a·ẑ, or Σ (a·ẑ + b·ẑ˙) if there is a pair `with`.
    Collect { a: &'m [T], hat: &'m [T], with: Option<[&'m [T]; 2]>, into: &'m mut [Vec<T>; 2] },
}

/// What numbers are normalized by.
pub enum Of<'m, T> {
    Batch(&'m Columns<T>),
    Rows(&'m RowNorm, &'m mut OfRows<T>),
}

/// The same for tangents.
pub enum OfDots<'m, T> {
    Batch(Pair<&'m Columns<T>>),
    Rows(&'m RowNorm, &'m mut OfRows<T>),
}

/// A [`Task`] on rows with this many columns.
pub struct Work<'m, T>(pub usize, pub Task<'m, T>);

impl<T: Element> Op<T> for Work<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let n = self.0;
        match self.1 {
            Task::Forward { z, hat, of, affine } => forward(s, n, z, hat, of, affine),
            Task::Tangent { dot, hat, of, affine } => tangent(s, n, dot, hat, of, affine),
            Task::Backward { dz, du, hat, of, affine } => backward(s, n, dz, du, hat, of, affine),
            Task::Curve { dz_dot, slope, hat, of, affine } => curve(s, n, dz_dot, slope, hat, of, affine),
            Task::Sums { z, into } => sums(
                s,
                z.len() / n,
                [into],
                #[inline(always)]
                |r, col, width| [s.load_partial(&z[r * n + col..][..width])],
            ),
            Task::Squares { z, mean, into } => sums(
                s,
                z.len() / n,
                [into],
                #[inline(always)]
                |r, col, width| {
                    let d = s.sub(
                        s.load_partial(&z[r * n + col..][..width]),
                        s.load_partial(&mean[col..][..width]),
                    );
                    [s.mul(d, d)]
                },
            ),
            Task::Collect { a, hat, with, into: [first, second] } => match with {
                None => sums(
                    s,
                    a.len() / n,
                    [first, second],
                    #[inline(always)]
                    |r, col, width| {
                        let [a, hat] = [a, hat].map(
                            #[inline(always)]
                            |x| s.load_partial(&x[r * n + col..][..width]),
                        );
                        [a, s.mul(a, hat)]
                    },
                ),
                Some([b, hat_dot]) => sums(
                    s,
                    a.len() / n,
                    [first, second],
                    #[inline(always)]
                    |r, col, width| {
                        let [a, hat, b, hat_dot] = [a, hat, b, hat_dot].map(
                            #[inline(always)]
                            |x| s.load_partial(&x[r * n + col..][..width]),
                        );
                        [a, s.fma(b, hat_dot, s.mul(a, hat))]
                    },
                ),
            },
        }
    }
}

/// Row r of n columns.
#[inline(always)]
fn row<T>(m: &[T], r: usize, n: usize) -> &[T] {
    &m[r * n..(r + 1) * n]
}

/// The same to write.
#[inline(always)]
fn row_mut<T>(m: &mut [T], r: usize, n: usize) -> &mut [T] {
    &mut m[r * n..(r + 1) * n]
}

#[inline(always)]
fn forward<T: Element, S: Simd<T>>(
    s: S,
    n: usize,
    z: &mut [T],
    hat: &mut [T],
    mut of: Of<'_, T>,
    [gamma, beta]: &Affine<T>,
) {
    for r in 0..z.len() / n {
        let (z, hat) = (row_mut(z, r, n), row_mut(hat, r, n));
        match &mut of {
            Of::Batch(at) => zip_map(
                s,
                [z, hat],
                [&at.mean, &at.factor, gamma, beta],
                #[inline(always)]
                |[z, _], [mean, inverse, gamma, beta]| {
                    let hat = s.mul(s.sub(z, mean), inverse);
                    [s.fma(gamma, hat, beta), hat]
                },
            ),
            Of::Rows(norm, of) => {
                let count = n as f64;
                let mean = mean_of(
                    s,
                    norm,
                    [&*z],
                    #[inline(always)]
                    |[z]| z,
                );
                let squares = total(
                    s,
                    [&*z],
                    #[inline(always)]
                    |[z]| {
                        let d = s.sub(z, mean);
                        s.mul(d, d)
                    },
                );
                of.inverse[r] = T::lit(inverse(squares / count, norm.eps.unwrap_or(T::EPSILON)));
                let inverse = s.splat(of.inverse[r]);
                zip_map(
                    s,
                    [z, hat],
                    [gamma, beta],
                    #[inline(always)]
                    |[z, _], [gamma, beta]| {
                        let hat = s.mul(s.sub(z, mean), inverse);
                        [s.fma(gamma, hat, beta), hat]
                    },
                );
            }
        }
    }
}

/// The mean of f over a row's columns; 0 for a normalization that subtracts no mean.
#[inline(always)]
fn mean_of<T: Element, S: Simd<T>, const R: usize>(
    s: S,
    norm: &RowNorm,
    reads: [&[T]; R],
    f: impl Fn([S::V; R]) -> S::V,
) -> S::V {
    let sum = if norm.centred { total(s, reads, f) } else { 0.0 };
    s.splat(T::lit(sum / norm.features as f64))
}

/// 1/√(σ² + ε), NaN if the variance overflows: 0 would hide that from the loss.
pub fn inverse(variance: f64, eps: f64) -> f64 {
    if variance.is_finite() { 1.0 / (variance + eps).sqrt() } else { f64::NAN }
}

#[inline(always)]
fn tangent<T: Element, S: Simd<T>>(
    s: S,
    n: usize,
    dot: &mut [T],
    [hat, hat_dot]: Pair<&mut [T]>,
    mut of: OfDots<'_, T>,
    [[gamma, _], [gamma_dot, beta_dot]]: Pair<&Affine<T>>,
) {
    for r in 0..dot.len() / n {
        let (dot, hat, hat_dot) = (row_mut(dot, r, n), row(hat, r, n), row_mut(hat_dot, r, n));
        match &mut of {
            OfDots::Batch([at, dots]) => zip_map(
                s,
                [dot, hat_dot],
                [hat, &dots.mean, &at.factor, &dots.factor, gamma, gamma_dot, beta_dot],
                #[inline(always)]
                |[dot, _], [hat, mean, inverse, along, gamma, gamma_dot, beta_dot]| {
                    let moved = s.mul(inverse, s.sub(s.sub(dot, mean), s.mul(hat, along)));
                    [s.fma(gamma, moved, s.fma(gamma_dot, hat, beta_dot)), moved]
                },
            ),
            OfDots::Rows(norm, of) => {
                let count = n as f64;
                let mean = mean_of(
                    s,
                    norm,
                    [&*dot],
                    #[inline(always)]
                    |[dot]| dot,
                );
                let along = total(
                    s,
                    [hat, &*dot],
                    #[inline(always)]
                    |[hat, dot]| s.mul(hat, s.sub(dot, mean)),
                );
                of.along[r] = T::lit(along / count);
                let (inverse, along) = (s.splat(of.inverse[r]), s.splat(of.along[r]));
                zip_map(
                    s,
                    [dot, hat_dot],
                    [hat, gamma, gamma_dot, beta_dot],
                    #[inline(always)]
                    |[dot, _], [hat, gamma, gamma_dot, beta_dot]| {
                        let moved = s.mul(inverse, s.sub(s.sub(dot, mean), s.mul(hat, along)));
                        [s.fma(gamma, moved, s.fma(gamma_dot, hat, beta_dot)), moved]
                    },
                );
            }
        }
    }
}

#[inline(always)]
fn backward<T: Element, S: Simd<T>>(
    s: S,
    n: usize,
    dz: &mut [T],
    du: &mut [T],
    hat: &[T],
    mut of: Of<'_, T>,
    [gamma, _]: &Affine<T>,
) {
    for r in 0..dz.len() / n {
        let (dz, du, hat) = (row_mut(dz, r, n), row_mut(du, r, n), row(hat, r, n));
        match &mut of {
            Of::Batch(at) => zip_map(
                s,
                [dz, du],
                [hat, gamma, &at.factor, &at.slope[0], &at.slope[1]],
                #[inline(always)]
                |[d, _], [hat, gamma, inverse, mean, along]| {
                    let moved = s.sub(s.sub(d, mean), s.mul(hat, along));
                    [s.mul(s.mul(gamma, inverse), moved), d]
                },
            ),
            Of::Rows(norm, of) => {
                let count = n as f64;
                let mean = mean_of(
                    s,
                    norm,
                    [&*dz, gamma],
                    #[inline(always)]
                    |[d, gamma]| s.mul(d, gamma),
                );
                let slope = total(
                    s,
                    [&*dz, gamma, hat],
                    #[inline(always)]
                    |[d, gamma, hat]| s.mul(s.mul(d, gamma), hat),
                );
                of.slope[r] = T::lit(slope / count);
                let (slope, inverse) = (s.splat(of.slope[r]), s.splat(of.inverse[r]));
                zip_map(
                    s,
                    [dz, du],
                    [hat, gamma],
                    #[inline(always)]
                    |[d, _], [hat, gamma]| {
                        let moved = s.sub(s.sub(s.mul(gamma, d), mean), s.mul(hat, slope));
                        [s.mul(inverse, moved), d]
                    },
                );
            }
        }
    }
}

#[inline(always)]
fn curve<T: Element, S: Simd<T>>(
    s: S,
    n: usize,
    dz_dot: &mut [T],
    slope: Option<[&[T]; 3]>,
    hat: &[T],
    mut of: OfDots<'_, T>,
    affine: Pair<&Affine<T>>,
) {
    for r in 0..dz_dot.len() / n {
        let (d, hat) = (row_mut(dz_dot, r, n), row(hat, r, n));
        let slope = slope.map(|parts| parts.map(|part| row(part, r, n)));
        match &mut of {
            OfDots::Batch(of) => curve_by_columns(s, d, slope, hat, *of, affine),
            OfDots::Rows(norm, of) => curve_by_row(s, d, slope, hat, norm, of.at(r), affine),
        }
    }
}

/// [`curve`] for a row of a batch normalization.
#[inline(always)]
fn curve_by_columns<T: Element, S: Simd<T>>(
    s: S,
    d: &mut [T],
    slope: Option<[&[T]; 3]>,
    hat: &[T],
    [at, dots]: Pair<&Columns<T>>,
    [[gamma, _], [gamma_dot, _]]: Pair<&Affine<T>>,
) {
    let [a, b] = &at.slope;
    let [a_dot, b_dot] = &dots.slope;
    match slope {
        None => zip_map(
            s,
            [d],
            [hat, gamma, &at.factor, a_dot, b_dot],
            #[inline(always)]
            |[d], [hat, gamma, inverse, a_dot, b_dot]| {
                [s.mul(s.mul(gamma, inverse), s.sub(s.sub(d, a_dot), s.mul(hat, b_dot)))]
            },
        ),
        Some([du, dz, hat_dot]) => zip_map(
            s,
            [d],
            [du, dz, hat, hat_dot, gamma, gamma_dot, &at.factor, &dots.factor, a, b, a_dot, b_dot],
            #[inline(always)]
            |[d], [du, dz, hat, hat_dot, gamma, gamma_dot, inverse, along, a, b, a_dot, b_dot]| {
                // γ·(du˙ − A˙ − ẑ·B˙ − ẑ˙·B) + γ̇·(du − A − ẑ·B), with means A of du and B of du·ẑ.
                let still = s.sub(s.sub(du, a), s.mul(hat, b));
                let moved = s.sub(s.sub(s.sub(d, a_dot), s.mul(hat, b_dot)), s.mul(hat_dot, b));
                let moved = s.fma(gamma, moved, s.mul(gamma_dot, still));
                [s.mul(inverse, s.sub(moved, s.mul(along, dz)))]
            },
        ),
    }
}

/// [`curve`] for a row that is normalized by itself, for which s, q and the mean of w·ẑ are known.
#[inline(always)]
fn curve_by_row<T: Element, S: Simd<T>>(
    s: S,
    d: &mut [T],
    slope: Option<[&[T]; 3]>,
    hat: &[T],
    norm: &RowNorm,
    [inverse, along, slope_mean]: [T; 3],
    [[gamma, _], [gamma_dot, _]]: Pair<&Affine<T>>,
) {
    let count = norm.features as f64;
    let [inverse, along, slope_mean] = [inverse, along, slope_mean].map(|x| s.splat(x));
    // ẇ, in place of du˙, and its part in the second mean.
    let moved = match slope {
        None => {
            zip_map(
                s,
                [&mut *d],
                [gamma],
                #[inline(always)]
                |[d], [gamma]| [s.mul(gamma, d)],
            );
            total(
                s,
                [&*d, hat],
                #[inline(always)]
                |[w, hat]| s.mul(w, hat),
            )
        }
        Some([du, _, hat_dot]) => {
            zip_map(
                s,
                [&mut *d],
                [du, gamma, gamma_dot],
                #[inline(always)]
                |[d], [du, gamma, gamma_dot]| [s.fma(gamma, d, s.mul(gamma_dot, du))],
            );
            total(
                s,
                [&*d, hat, du, gamma, hat_dot],
                #[inline(always)]
                |[w, hat, du, gamma, hat_dot]| s.fma(s.mul(gamma, du), hat_dot, s.mul(w, hat)),
            )
        }
    };
    let moved = s.splat(T::lit(moved / count));
    let mean = mean_of(
        s,
        norm,
        [&*d],
        #[inline(always)]
        |[w]| w,
    );
    match slope {
        None => zip_map(
            s,
            [d],
            [hat],
            #[inline(always)]
            |[w], [hat]| [s.mul(inverse, s.sub(s.sub(w, mean), s.mul(hat, moved)))],
        ),
        Some([_, dz, hat_dot]) => zip_map(
            s,
            [d],
            [dz, hat, hat_dot],
            #[inline(always)]
            |[w], [dz, hat, hat_dot]| {
                let rest = s.fma(hat_dot, slope_mean, s.mul(hat, moved));
                [s.mul(inverse, s.sub(s.sub(w, mean), s.fma(along, dz, rest)))]
            },
        ),
    }
}
