//! Eigenvalues and eigenvectors of a symmetric matrix, A = Σ λᵢ·zᵢ·zᵢᵀ, in place.
//!
//! The method of EISPACK's `tred2` and `tql2` (Martin, Reinsch & Wilkinson 1968; Bowdler et al. 1968):
//!
//! ```text
//! T = Qᵀ·A·Q, Q = H₀·H₁·…, H = I − v·vᵀ    reflections: tridiagonal
//! Q                                        from the last reflection back, in growing blocks
//! T = G·diag(λ)·Gᵀ                         QL with implicit shifts, one rotation after the other
//! ```
//!
//! Rows of Qᵀ become the eigenvectors, so that every inner loop runs along contiguous memory. The errors of
//! the eigenvalues are about ε·‖A‖. One thread does everything, in an order determined by the numbers alone.

use std::cmp::Ordering;

use crate::element::Element;
use crate::simd::{Op, Simd, stream_sum, zip_map};

/// Most rounds for an eigenvalue, which usually takes 1 or 2.
const ROUNDS: usize = 60;

/// Turns the rows of a matrix into eigenvectors of length 1, and `values` into their eigenvalues, in no
/// particular order.
pub(super) struct Eigen<'a, T> {
    /// The matrix, n × n.
    pub(super) a: &'a mut [T],
    /// n numbers.
    pub(super) values: &'a mut [T],
    /// 2·n numbers of scratch.
    pub(super) spare: &'a mut [T],
}

impl<T: Element> Op<T> for Eigen<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let (a, d) = (self.a, self.values);
        let (e, w) = self.spare.split_at_mut(d.len());
        // Scaled to at most 1, so that squares neither overflow nor vanish.
        let largest = a.iter().map(|x| x.to_f64().abs()).fold(0.0, f64::max);
        let size = if largest > 0.0 { largest } else { 1.0 };
        scale(s, 1.0 / size, a);
        tridiagonal(s, a, d, e, w);
        product_of_reflections(s, a, w);
        transpose(a, w.len());
        diagonal(s, a, d, e);
        scale(s, size, d);
    }
}

#[inline(always)]
fn scale<T: Element, S: Simd<T>>(s: S, by: f64, x: &mut [T]) {
    let by = s.splat(T::lit(by));
    zip_map(
        s,
        [x],
        [],
        #[inline(always)]
        |[x], []| [s.mul(by, x)],
    );
}

#[inline(always)]
fn dot<T: Element, S: Simd<T>>(s: S, x: &[T], y: &[T]) -> f64 {
    let [sum] = stream_sum(
        s,
        [],
        [x, y],
        #[inline(always)]
        |[], [x, y]| ([], [s.mul(x, y)]),
    );
    sum
}

/// y ← y + by·x
#[inline(always)]
fn add<T: Element, S: Simd<T>>(s: S, by: T, x: &[T], y: &mut [T]) {
    let by = s.splat(by);
    zip_map(
        s,
        [y],
        [x],
        #[inline(always)]
        |[y], [x]| [s.fma(by, x, y)],
    );
}

/// Turns x into the v of the reflection that maps x to a multiple of the first unit vector, and returns that
/// multiple.
#[inline(always)]
fn reflection<T: Element, S: Simd<T>>(s: S, x: &mut [T]) -> T {
    let (first, rest) = (x[0].to_f64(), dot(s, &x[1..], &x[1..]));
    if rest == 0.0 {
        x.fill(T::ZERO);
        return T::lit(first);
    }
    let left = -(first * first + rest).sqrt().copysign(first);
    x[0] = T::lit(first - left);
    scale(s, 1.0 / (left * (left - first)).sqrt(), x);
    T::lit(left)
}

/// Computes d and e, the diagonal and subdiagonal of T; in row k of A, right of the diagonal, remains the v
/// of Hₖ.
#[inline(always)]
fn tridiagonal<T: Element, S: Simd<T>>(s: S, a: &mut [T], d: &mut [T], e: &mut [T], w: &mut [T]) {
    let n = d.len();
    for k in 0..n {
        let (above, below) = a.split_at_mut((k + 1) * n);
        let (left, v) = above[k * n..].split_at_mut(k + 1);
        (d[k], e[k]) = (left[k], T::ZERO);
        if v.is_empty() {
            return;
        }
        e[k] = reflection(s, v);
        // H·B·H = B − v·wᵀ − w·vᵀ, w = B·v − ½(vᵀ·B·v)·v
        let w = &mut w[..v.len()];
        for (w, row) in w.iter_mut().zip(below.chunks_exact(n)) {
            *w = T::lit(dot(s, &row[k + 1..], v));
        }
        add(s, T::lit(-0.5 * dot(s, w, v)), v, w);
        for (i, row) in below.chunks_exact_mut(n).enumerate() {
            let [by_w, by_v] = [-v[i], -w[i]].map(|x| s.splat(x));
            zip_map(
                s,
                [&mut row[k + 1..]],
                [&*v, &*w],
                #[inline(always)]
                |[b], [v, w]| [s.fma(by_w, w, s.fma(by_v, v, b))],
            );
        }
    }
}

/// Computes Q in place of the v of its reflections.
#[inline(always)]
fn product_of_reflections<T: Element, S: Simd<T>>(s: S, a: &mut [T], u: &mut [T]) {
    let n = u.len();
    for k in (0..n).rev() {
        let (above, below) = a.split_at_mut((k + 1) * n);
        let (left, v) = above[k * n..].split_at_mut(k + 1);
        let u = &mut u[..v.len()];
        u.fill(T::ZERO);
        for (v, row) in v.iter().zip(below.chunks_exact(n)) {
            add(s, *v, &row[k + 1..], u);
        }
        for (v, row) in v.iter().zip(below.chunks_exact_mut(n)) {
            add(s, -*v, u, &mut row[k + 1..]);
            row[k] = T::ZERO;
        }
        v.fill(T::ZERO);
        left[k] = T::ONE;
    }
}

fn transpose<T: Element>(a: &mut [T], n: usize) {
    for i in 0..n {
        for j in 0..i {
            a.swap(i * n + j, j * n + i);
        }
    }
}

/// Makes T diagonal, and turns the rows of z accordingly.
#[inline(always)]
fn diagonal<T: Element, S: Simd<T>>(s: S, z: &mut [T], d: &mut [T], e: &mut [T]) {
    let n = d.len();
    for l in 0..n {
        for _ in 0..ROUNDS {
            let is_small = |i: &usize| {
                let [e, a, b] = [e[*i], d[*i], d[*i + 1]].map(|x| x.to_f64().abs());
                // Also true if one is NaN, which would never become small.
                e.partial_cmp(&(T::EPSILON * (a + b))) != Some(Ordering::Greater)
            };
            let m = (l..n - 1).find(is_small).unwrap_or(n - 1);
            if m == l {
                break;
            }
            round(s, (l, m), z, d, e);
        }
    }
}

/// One QL round on rows l to m of T, shifted by approximately an eigenvalue.
#[inline(always)]
fn round<T: Element, S: Simd<T>>(s: S, (l, m): (usize, usize), z: &mut [T], d: &mut [T], e: &mut [T]) {
    let n = d.len();
    let at = |x: &[T], i: usize| x[i].to_f64();
    let half = (at(d, l + 1) - at(d, l)) / (2.0 * at(e, l));
    let shift = at(e, l) / (half + (half * half + 1.0).sqrt().copysign(half));
    let (mut g, mut sine, mut cosine, mut p) = (at(d, m) - at(d, l) + shift, 1.0, 1.0, 0.0);
    for i in (l..m).rev() {
        let (f, b) = (sine * at(e, i), cosine * at(e, i));
        let r = (f * f + g * g).sqrt();
        e[i + 1] = T::lit(r);
        if r == 0.0 {
            // T splits here.
            d[i + 1] = T::lit(at(d, i + 1) - p);
            e[m] = T::ZERO;
            return;
        }
        (sine, cosine) = (f / r, g / r);
        g = at(d, i + 1) - p;
        let r = (at(d, i) - g) * sine + 2.0 * cosine * b;
        p = sine * r;
        d[i + 1] = T::lit(g + p);
        g = cosine * r - b;
        let (low, high) = z[i * n..(i + 2) * n].split_at_mut(n);
        let [c, plus, minus] = [cosine, sine, -sine].map(|x| s.splat(T::lit(x)));
        zip_map(
            s,
            [low, high],
            [],
            #[inline(always)]
            |[low, high], []| [s.fma(c, low, s.mul(minus, high)), s.fma(plus, low, s.mul(c, high))],
        );
    }
    d[l] = T::lit(at(d, l) - p);
    e[l] = T::lit(g);
    e[m] = T::ZERO;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};
    use crate::simd::{Isa, dispatch};

    /// λ and z of a matrix that is given row by row.
    fn eigen<T: Element>(isa: Isa, a: &[f64], n: usize) -> (Vec<f64>, Vec<f64>) {
        let mut a: Vec<T> = a.iter().map(|x| T::lit(*x)).collect();
        let (mut values, mut spare) = (vec![T::ZERO; n], vec![T::lit(f64::NAN); 2 * n]);
        dispatch(isa, Eigen { a: &mut a, values: &mut values, spare: &mut spare });
        let wide = |x: Vec<T>| x.into_iter().map(T::to_f64).collect();
        (wide(values), wide(a))
    }

    /// How far z is from orthonormal, and Σ λ·z·zᵀ from a, relative to ‖a‖.
    fn errors(a: &[f64], values: &[f64], z: &[f64], n: usize) -> [f64; 2] {
        let (mut orthonormal, mut sum, mut size) = (0.0, 0.0, 0.0);
        for i in 0..n {
            for j in 0..n {
                let inner: f64 = (0..n).map(|k| z[i * n + k] * z[j * n + k]).sum();
                let a_ij: f64 = (0..n).map(|k| values[k] * z[k * n + i] * z[k * n + j]).sum();
                orthonormal += (inner - f64::from(u8::from(i == j))).powi(2);
                sum += (a_ij - a[i * n + j]).powi(2);
                size += a[i * n + j].powi(2);
            }
        }
        [orthonormal, if size > 0.0 { sum / size } else { sum }].map(f64::sqrt)
    }

    /// B·Bᵀ for a B of n × k with elements between -1 and 1.
    fn gram(n: usize, k: usize) -> Vec<f64> {
        let mut stream = Stream::new(7, Purpose::Init, n as u64);
        let b: Vec<f64> = (0..n * k).map(|_| 2.0 * stream.unit() - 1.0).collect();
        let at = |i: usize, j: usize| (0..k).map(|l| b[i * k + l] * b[j * k + l]).sum();
        (0..n * n).map(|ij| at(ij / n, ij % n)).collect()
    }

    fn diagonal_of(n: usize, f: impl Fn(usize) -> f64) -> Vec<f64> {
        (0..n * n).map(|ij| if ij / n == ij % n { f(ij / n) } else { 0.0 }).collect()
    }

    fn check<T: Element>(a: &[f64], n: usize, what: &str) {
        for isa in Isa::available() {
            let (values, z) = eigen::<T>(isa, a, n);
            let [orthonormal, sum] = errors(a, &values, &z, n);
            let most = 8.0 * n as f64 * T::EPSILON;
            assert!(orthonormal <= most && sum <= most, "{isa} {n} {what}: {orthonormal:e} {sum:e}");
        }
    }

    #[test]
    fn vectors_are_orthonormal_and_make_up_the_matrix() {
        for n in [1, 2, 3, 4, 7, 16, 17, 33, 70] {
            let full = gram(n, n + 2);
            let shifted: Vec<_> = full.iter().zip(diagonal_of(n, |_| -1.5)).map(|(a, b)| a + b).collect();
            for (a, what) in [
                (&full, "definite"),
                (&shifted, "indefinite"),
                (&gram(n, 1.max(n / 3)), "of low rank"),
                (&vec![0.0; n * n], "zero"),
                (&diagonal_of(n, |_| 3.0), "one eigenvalue"),
                (&diagonal_of(n, |i| 0.1f64.powi(i as i32 % 30)), "graded"),
                (&full.iter().map(|a| a * 1e30).collect(), "huge"),
                (&full.iter().map(|a| a * 1e-30).collect(), "tiny"),
            ] {
                check::<f64>(a, n, what);
                check::<f32>(a, n, what);
            }
        }
    }

    /// 2 on the diagonal, -1 beside it: eigenvalues 2 - 2·cos(iπ/(n + 1)).
    #[test]
    fn eigenvalues_of_a_string_of_springs() {
        let n = 50;
        let entry = |i: usize, j: usize| [2.0, -1.0, 0.0][i.abs_diff(j).min(2)];
        let a: Vec<f64> = (0..n * n).map(|ij| entry(ij / n, ij % n)).collect();
        for isa in Isa::available() {
            let (mut values, _) = eigen::<f64>(isa, &a, n);
            values.sort_by(f64::total_cmp);
            for (i, value) in values.iter().enumerate() {
                let expected = 2.0 - 2.0 * ((i + 1) as f64 * std::f64::consts::PI / (n + 1) as f64).cos();
                assert!((value - expected).abs() < 1e-14, "{isa} {i}: {value} {expected}");
            }
        }
    }

    #[test]
    fn what_is_not_a_number_ends_and_stays_so() {
        for (i, x) in [(0, f64::NAN), (8, f64::NAN), (4, f64::INFINITY)] {
            let mut a = gram(3, 3);
            a[i] = x;
            let (values, z) = eigen::<f64>(Isa::detect().unwrap(), &a, 3);
            assert!(values.iter().chain(&z).any(|x| x.is_nan()));
        }
    }
}
