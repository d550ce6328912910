//! Random Fourier features (Tancik et al. 2020, "Fourier features let networks learn high frequency functions
//! in low dimensional domains"): y = (sin 2πxB, cos 2πxB) with untrained frequencies B (inputs × m). With s
//! and c the two halves of y, and dy = (ds, dc): dx = 2π·(ds·c − dc·s)·Bᵀ, so backward needs only the layer's
//! own output. In a direction ẋ, ẏ = (c·u̇, −s·u̇) with u̇ = 2πẋB.

use crate::element::Element;
use crate::math::sin;
use crate::rng::Stream;
use crate::simd::{Isa, Op, Simd, dispatch, zip_map};
use crate::view::{MatMut, MatRef};

/// The layer as the user wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Fourier {
    /// Width of the input.
    pub inputs: usize,
    /// Where the frequencies come from.
    pub frequencies: Frequencies,
}

/// Where frequencies come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Frequencies {
    /// `count` vectors of normal random numbers with this standard deviation.
    Normal {
        /// How many vectors.
        count: usize,
        /// σ
        sigma: f64,
    },
    /// These frequencies along each axis.
    Axes(Vec<f64>),
}

impl Fourier {
    /// Number of frequencies, m.
    pub fn count(&self) -> usize {
        match &self.frequencies {
            Frequencies::Normal { count, .. } => *count,
            Frequencies::Axes(bands) => self.inputs * bands.len(),
        }
    }

    /// Fills B, inputs × m.
    pub fn draw<T: Element>(&self, rng: &mut Stream, into: &mut [T]) {
        let m = self.count();
        match &self.frequencies {
            Frequencies::Normal { sigma, .. } => into.fill_with(|| T::lit(sigma * rng.normal())),
            Frequencies::Axes(bands) => {
                into.fill(T::ZERO);
                for (axis, row) in into.chunks_exact_mut(m).enumerate() {
                    let own = &mut row[axis * bands.len()..][..bands.len()];
                    own.iter_mut().zip(bands).for_each(|(b, band)| *b = T::lit(*band));
                }
            }
        }
    }
}

/// y for rows x.
pub fn forward<T: Element>(isa: Isa, x: MatRef<'_, T>, frequencies: &[T], y: MatMut<'_, T>) {
    struct Forward<'r, T>(MatRef<'r, T>, &'r [T], MatMut<'r, T>);
    impl<T: Element> Op<T> for Forward<'_, T> {
        type Output = ();
        #[inline(always)]
        fn eval<S: Simd<T>>(self, s: S) {
            let Self(x, frequencies, mut y) = self;
            for r in 0..x.rows() {
                row_forward(s, x.row(r), frequencies, y.row_mut(r));
            }
        }
    }
    dispatch(isa, Forward(x, frequencies, y));
}

/// dx ← dx + its gradient, for rows.
pub fn backward<T: Element>(
    isa: Isa,
    y: MatRef<'_, T>,
    dy: MatRef<'_, T>,
    frequencies: &[T],
    dx: MatMut<'_, T>,
) {
    struct Backward<'r, T>([MatRef<'r, T>; 2], &'r [T], MatMut<'r, T>);
    impl<T: Element> Op<T> for Backward<'_, T> {
        type Output = ();
        #[inline(always)]
        fn eval<S: Simd<T>>(self, s: S) {
            let Self([y, dy], frequencies, mut dx) = self;
            for r in 0..y.rows() {
                row_backward(s, y.row(r), dy.row(r), frequencies, dx.row_mut(r));
            }
        }
    }
    dispatch(isa, Backward([y, dy], frequencies, dx));
}

#[inline(always)]
fn row_forward<T: Element, S: Simd<T>>(s: S, x: &[T], frequencies: &[T], y: &mut [T]) {
    let m = y.len() / 2;
    let (sines, cosines) = y.split_at_mut(m);
    sines.fill(T::ZERO);
    for (x, b) in x.iter().zip(frequencies.chunks_exact(m)) {
        let x = s.splat(*x);
        zip_map(
            s,
            [&mut *sines],
            [b],
            #[inline(always)]
            |[z], [b]| [s.fma(x, b, z)],
        );
    }
    let tau = s.splat(T::lit(std::f64::consts::TAU));
    zip_map(
        s,
        [sines, cosines],
        [],
        #[inline(always)]
        |[z, _], []| {
            // Whole turns are subtracted first, exactly: for an angle of many turns, multiplying by 2π would
            // leave little accuracy.
            let (sin, cos) = sin::sin_cos(s, s.mul(tau, s.sub(z, s.round(z))));
            [sin, cos]
        },
    );
}

#[inline(always)]
fn row_backward<T: Element, S: Simd<T>>(s: S, y: &[T], dy: &[T], frequencies: &[T], dx: &mut [T]) {
    let m = y.len() / 2;
    let ((sin, cos), (dsin, dcos)) = (y.split_at(m), dy.split_at(m));
    let full = m - m % S::N;
    for (dx, b) in dx.iter_mut().zip(frequencies.chunks_exact(m)) {
        let mut sum = s.splat(T::ZERO);
        for j in (0..full).step_by(S::N) {
            let slope = s.sub(
                s.mul(s.load(&dsin[j..]), s.load(&cos[j..])),
                s.mul(s.load(&dcos[j..]), s.load(&sin[j..])),
            );
            sum = s.fma(slope, s.load(&b[j..]), sum);
        }
        if full < m {
            // Elements beyond the end are loaded as 0.
            let [ds, dc, y, x, b] = [dsin, dcos, sin, cos, b].map(
                #[inline(always)]
                |part| s.load_partial(&part[full..]),
            );
            sum = s.fma(s.sub(s.mul(ds, x), s.mul(dc, y)), b, sum);
        }
        *dx += T::lit(std::f64::consts::TAU) * s.reduce_add(sum);
    }
}

/// ẏ for one row, from ẋ.
pub fn tangent<T: Element>(y: &[T], x_dot: &[T], frequencies: &[T], y_dot: &mut [T]) {
    let m = y.len() / 2;
    let ((sin, cos), (sin_dot, cos_dot)) = (y.split_at(m), y_dot.split_at_mut(m));
    sin_dot.fill(T::ZERO);
    for (x, b) in x_dot.iter().zip(frequencies.chunks_exact(m)) {
        sin_dot.iter_mut().zip(b).for_each(|(u, b)| *u += *x * *b);
    }
    for (j, (ds, dc)) in sin_dot.iter_mut().zip(cos_dot).enumerate() {
        let u = T::lit(std::f64::consts::TAU) * *ds;
        (*ds, *dc) = (cos[j] * u, -(sin[j] * u));
    }
}

/// dx ← dx + its gradient and dx˙ ← dx˙ + its tangent, for one row, from y and ẏ, dy and dy˙.
pub fn curve<T: Element>(
    [y, y_dot]: [&[T]; 2],
    [dy, dy_dot]: [&[T]; 2],
    frequencies: &[T],
    [dx, dx_dot]: [&mut [T]; 2],
) {
    let (m, tau) = (y.len() / 2, T::lit(std::f64::consts::TAU));
    let of = |d: &[T], y: &[T], j: usize| d[j] * y[m + j] - d[m + j] * y[j];
    for ((dx, dx_dot), b) in dx.iter_mut().zip(dx_dot).zip(frequencies.chunks_exact(m)) {
        for (j, b) in b.iter().enumerate() {
            *dx += tau * *b * of(dy, y, j);
            *dx_dot += tau * *b * (of(dy_dot, y, j) + of(dy, y_dot, j));
        }
    }
}
