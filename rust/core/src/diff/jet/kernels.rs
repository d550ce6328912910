//! Element-wise operations on jets and slopes: Fourier features of the inputs, and activations, forward and
//! backward.

use super::Way;
use crate::element::Element;
use crate::simd::{Op, Simd, zip_map};

/// Second derivatives of Fourier features y of inputs that have none, from the first ones: with u̇ = 2πẋB, ẏ =
/// (c·u̇, −s·u̇) and ÿ = −y·u̇², where u̇² is the sum of the squares of both halves of ẏ.
pub fn bend<T: Element>(y: &[T], y_dot: &[T], n: usize, bends: &mut [T]) {
    let m = n / 2;
    for ((y, dot), bends) in y.chunks_exact(n).zip(y_dot.chunks_exact(n)).zip(bends.chunks_exact_mut(n)) {
        for (j, bend) in bends.iter_mut().enumerate() {
            let (a, b) = (dot[j % m], dot[m + j % m]);
            *bend = -y[j] * (a * a + b * b);
        }
    }
}

/// ẏ and ÿ of an activation.
pub struct Forth<'m, T> {
    pub ways: &'m [Way],
    pub z: &'m [T],
    pub slopes: &'m [Vec<T>; 3],
    pub y: &'m mut [T],
}

impl<T: Element> Op<T> for Forth<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Self { ways, z, slopes: [first, second, _], y } = self;
        let part = first.len();
        for way in ways {
            let one = way.first * part;
            let z_dot = &z[one..one + part];
            zip_map(
                s,
                [&mut y[one..one + part]],
                [first, z_dot],
                #[inline(always)]
                |_, [first, z_dot]| [s.mul(first, z_dot)],
            );
            let Some(two) = way.second.map(|second| second * part) else { continue };
            zip_map(
                s,
                [&mut y[two..two + part]],
                [first, second, z_dot, &z[two..two + part]],
                #[inline(always)]
                |_, [first, second, z_dot, z_dots]| {
                    [s.fma(s.mul(second, z_dot), z_dot, s.mul(first, z_dots))]
                },
            );
        }
    }
}

/// dz, dż and dz̈ of an activation.
pub struct Back<'m, T> {
    pub ways: &'m [Way],
    pub z: &'m [T],
    pub slopes: &'m [Vec<T>; 3],
    pub g: &'m [T],
    pub dz: &'m mut [T],
}

impl<T: Element> Op<T> for Back<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Self { ways, z, slopes: [first, second, third], g, dz } = self;
        let part = first.len();
        let (dz, dots) = dz.split_at_mut(part);
        zip_map(
            s,
            [&mut *dz],
            [first, &g[..part]],
            #[inline(always)]
            |_, [first, g]| [s.mul(first, g)],
        );
        for way in ways {
            let one = way.first * part;
            let (z_dot, g_dot) = (&z[one..one + part], &g[one..one + part]);
            let dz_dot = &mut dots[one - part..one];
            zip_map(
                s,
                [&mut *dz, &mut *dz_dot],
                [first, second, z_dot, g_dot],
                #[inline(always)]
                |[dz, _], [first, second, z_dot, g_dot]| {
                    [s.fma(s.mul(second, z_dot), g_dot, dz), s.mul(first, g_dot)]
                },
            );
            let Some(two) = way.second.map(|second| second * part) else { continue };
            let (z_dots, g_dots) = (&z[two..two + part], &g[two..two + part]);
            zip_map(
                s,
                [&mut *dz, dz_dot],
                [second, third, z_dot, z_dots, g_dots],
                #[inline(always)]
                |[dz, dz_dot], [second, third, z_dot, z_dots, g]| {
                    let bent = s.mul(second, g);
                    let turned = s.mul(s.mul(third, z_dot), s.mul(z_dot, g));
                    [s.add(dz, s.fma(bent, z_dots, turned)), s.fma(s.add(bent, bent), z_dot, dz_dot)]
                },
            );
            zip_map(
                s,
                [&mut dots[two - part..two]],
                [first, g_dots],
                #[inline(always)]
                |_, [first, g]| [s.mul(first, g)],
            );
        }
    }
}

/// p and φ″·g of an activation, for each output; φ″ is in the last part of `turn`, in its place.
pub struct Pull<'m, T> {
    pub slope: &'m [T],
    pub turn: &'m mut [T],
    pub g: &'m [T],
    pub p: &'m mut [T],
}

impl<T: Element> Op<T> for Pull<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Self { slope, turn, g, p } = self;
        let part = slope.len();
        let (turns, last) = turn.split_at_mut(turn.len() - part);
        let (all_p, last_p) = p.split_at_mut(turns.len());
        let (all_g, last_g) = g.split_at(turns.len());
        let pairs = turns.chunks_exact_mut(part).zip(all_p.chunks_exact_mut(part));
        for ((turn, p), g) in pairs.zip(all_g.chunks_exact(part)) {
            zip_map(
                s,
                [turn, p],
                [slope, last, g],
                #[inline(always)]
                |_, [slope, bend, g]| [s.mul(bend, g), s.mul(slope, g)],
            );
        }
        zip_map(
            s,
            [last, last_p],
            [slope, last_g],
            #[inline(always)]
            |[bend, _], [slope, g]| [s.mul(bend, g), s.mul(slope, g)],
        );
    }
}

/// ż becomes ẏ for each output, and bent ← Σ φ″·g·ż.
pub struct Along<'m, T> {
    pub slope: &'m [T],
    pub turn: &'m [T],
    pub dots: &'m mut [T],
    pub bent: &'m mut [T],
}

impl<T: Element> Op<T> for Along<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Self { slope, turn, dots, bent } = self;
        let part = slope.len();
        bent.fill(T::ZERO);
        for (dot, turn) in dots.chunks_exact_mut(part).zip(turn.chunks_exact(part)) {
            zip_map(
                s,
                [dot, &mut *bent],
                [slope, turn],
                #[inline(always)]
                |[dot, bent], [slope, turn]| [s.mul(slope, dot), s.fma(turn, dot, bent)],
            );
        }
    }
}

/// dz ← φ′·dy + dz
pub struct Bent<'m, T> {
    pub slope: &'m [T],
    pub dy: &'m [T],
    pub dz: &'m mut [T],
}

impl<T: Element> Op<T> for Bent<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let Self { slope, dy, dz } = self;
        zip_map(
            s,
            [dz],
            [slope, dy],
            #[inline(always)]
            |[dz], [slope, dy]| [s.fma(slope, dy, dz)],
        );
    }
}
