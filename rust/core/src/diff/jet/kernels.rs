//! Element-wise operations on jets: Fourier features of the inputs, and activations, forward and backward.

use super::Way;
use crate::element::Element;
use crate::layer::fourier;
use crate::simd::{Isa, Op, Simd, zip_map};
use crate::view::{MatMut, MatRef};

/// Fourier features of the inputs, whose second derivatives are 0. With u̇ = 2πẋB, ẏ = (c·u̇, −s·u̇) and ÿ =
/// −y·u̇², where u̇² is the sum of the squares of both halves of ẏ.
pub fn encode<T: Element>(
    isa: Isa,
    ways: &[Way],
    inputs: usize,
    frequencies: &[T],
    x: &[T],
    y: &mut [T],
    part: usize,
) {
    let n = 2 * frequencies.len() / inputs;
    let (rows, m) = (part / n, n / 2);
    let (x, x_dots) = x.split_at(rows * inputs);
    let (y, dots) = y.split_at_mut(part);
    fourier::forward(isa, MatRef::new(x, rows, inputs), frequencies, MatMut::new(&mut *y, rows, n));
    let (firsts, seconds) = dots.split_at_mut(ways.len() * part);
    for (way, x_dots) in ways.iter().zip(x_dots.chunks_exact(rows * inputs)) {
        for (r, x_dot) in x_dots.chunks_exact(inputs).enumerate() {
            let (y, dot) = (&y[r * n..][..n], &mut firsts[(way.first - 1) * part + r * n..][..n]);
            fourier::tangent(y, x_dot, frequencies, dot);
            let Some(second) = way.second else { continue };
            let bend = &mut seconds[(second - 1 - ways.len()) * part + r * n..][..n];
            for (j, bend) in bend.iter_mut().enumerate() {
                let (a, b) = (dot[j % m], dot[m + j % m]);
                *bend = -y[j] * (a * a + b * b);
            }
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
