//! Every operation of every available ISA, lane by lane, against the same operation on single numbers.

use super::*;

struct Check;

impl Check {
    fn lanes<T: Element, S: Simd<T>>(s: S, v: S::V) -> Vec<T> {
        let mut out = vec![T::ZERO; S::N];
        // SAFETY: the vector holds N elements.
        unsafe { s.store_ptr(out.as_mut_ptr(), v) };
        out
    }
}

fn is_nan<T: Element>(x: T) -> bool {
    x.to_f64().is_nan()
}

fn same<T: Element>(a: T, b: T) -> bool {
    a == b || (is_nan(a) && is_nan(b))
}

impl<T: Element> Op<T> for Check {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let n = S::N;
        let nan = T::lit(f64::NAN);
        let special =
            [0.0, -0.0, 1.0, -1.5, 2.5, 3.5, 1e10, -1e-10, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
        type Binary<T, V> = (&'static str, V, fn(T, T) -> T);
        let values: Vec<T> = (0..n * 13).map(|i| T::lit(special[i * 7 % special.len()])).collect();
        for (i, x) in values.chunks_exact(n).enumerate() {
            let y: Vec<T> = (0..n).map(|j| values[(i * 5 + j * 3 + 1) % values.len()]).collect();
            let (vx, vy) = (s.load(x), s.load(&y));
            let binary: [Binary<T, S::V>; 6] = [
                ("add", s.add(vx, vy), |a, b| a + b),
                ("sub", s.sub(vx, vy), |a, b| a - b),
                ("mul", s.mul(vx, vy), |a, b| a * b),
                ("div", s.div(vx, vy), |a, b| a / b),
                ("max", s.max(vx, vy), |a, b| if a > b { a } else { b }),
                ("min", s.min(vx, vy), |a, b| if a < b { a } else { b }),
            ];
            for (name, got, want) in binary {
                for (j, g) in Self::lanes(s, got).into_iter().enumerate() {
                    assert!(same(g, want(x[j], y[j])), "{} {name}({}, {}) = {g}", S::ISA, x[j], y[j]);
                }
            }
            let chosen = Self::lanes(s, s.select(s.lt(vx, vy), vx, vy));
            let signed = Self::lanes(s, s.copysign(vx, vy));
            let absolute = Self::lanes(s, s.abs(vx));
            let negated = Self::lanes(s, s.neg(vx));
            let fused = Self::lanes(s, s.fma(vx, vy, vx));
            for j in 0..n {
                let (a, b) = (x[j].to_f64(), y[j].to_f64());
                assert!(same(chosen[j], if a < b { x[j] } else { y[j] }));
                assert!(same(signed[j], T::lit(a.copysign(b))) || b.is_nan());
                assert!(same(absolute[j], T::lit(a.abs())));
                assert!(same(negated[j], -x[j]));
                assert!(same(fused[j], x[j].mul_add(y[j], x[j], S::FUSED)));
            }
        }

        // Whole numbers, exponents and mantissas.
        for (x, rounded) in [(0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (-0.5, 0.0), (-1.5, -2.0), (1e5 + 0.4, 1e5)]
        {
            assert_eq!(
                Self::lanes(s, s.round(s.splat(T::lit(x))))[0].to_f64(),
                rounded,
                "{} round {x}",
                S::ISA
            );
        }
        for e in -100..100 {
            let two_e = T::lit(f64::exp2(e as f64));
            let scaled = s.scale(s.splat(T::lit(1.25)), s.splat(T::lit(e as f64)));
            assert_eq!(Self::lanes(s, scaled), vec![T::lit(1.25) * two_e; n]);
            let (m, k) = s.split_exponent(scaled);
            assert_eq!(Self::lanes(s, m), vec![T::lit(1.25); n]);
            assert_eq!(Self::lanes(s, k), vec![T::lit(e as f64); n]);
        }
        let root = Self::lanes(s, s.sqrt(s.splat(T::lit(2.0))));
        assert_eq!(root[0], T::lit(if T::EPSILON > 1e-10 { 2f32.sqrt() as f64 } else { 2f64.sqrt() }));

        // Masked edges neither read nor write beyond n; reductions include every lane.
        for k in 0..=n {
            let source: Vec<T> = (0..k).map(|i| T::lit(i as f64 + 1.0)).collect();
            let v = s.load_partial(&source);
            assert_eq!(s.reduce_add(v), T::lit((k * (k + 1) / 2) as f64));
            assert_eq!(s.reduce_max(v), T::lit(k as f64));
            let mut target = vec![nan; n];
            // SAFETY: the target holds n ≥ k elements.
            unsafe { s.store_first(target.as_mut_ptr(), k, v) };
            assert_eq!(&target[..k], &source[..]);
            assert!(target[k..].iter().all(|x| is_nan(*x)), "{} wrote behind {k}", S::ISA);
        }

        for (values, want) in [(&[-3.0, 2.0][..], 3.0), (&[], 0.0), (&[f64::NEG_INFINITY; 40], f64::INFINITY)]
        {
            let values: Vec<T> = values.iter().map(|x| T::lit(*x)).collect();
            let (size, finite) = (max_abs(S::ISA, &values), all_finite(S::ISA, &values));
            assert!(size.to_f64() == want || (want.is_infinite() && !size.is_finite()));
            assert_eq!(finite, want.is_finite());
        }
        for place in 0..5 * n {
            let mut values = vec![T::ONE; 5 * n];
            values[place] = nan;
            assert!(is_nan(max_abs(S::ISA, &values)) && !all_finite(S::ISA, &values));
        }

        // Transposes of every part of a square, which write nothing else.
        for (rows, cols) in (0..=n).flat_map(|r| (0..=n).map(move |c| (r, c))) {
            let from: Vec<T> = (0..rows * (cols + 2)).map(|i| T::lit(i as f64)).collect();
            let mut to = vec![nan; cols * (rows + 1)];
            // SAFETY: both hold that many rows of that many elements.
            unsafe { s.transpose(from.as_ptr(), cols + 2, to.as_mut_ptr(), rows + 1, rows, cols) };
            for (place, x) in to.iter().enumerate() {
                match (place / (rows + 1), place % (rows + 1)) {
                    (_, i) if i == rows => assert!(is_nan(*x)),
                    (j, i) => assert_eq!(*x, from[i * (cols + 2) + j], "{} {rows} × {cols}", S::ISA),
                }
            }
        }

        // zip_map with every length up to two vectors and a bit; stream_map also where it prefetches.
        for len in (0..=2 * n + 1).chain([100_003]) {
            let a: Vec<T> = (0..len).map(|i| T::lit((i % 1000) as f64)).collect();
            let (mut sum, mut streamed) = (vec![T::ONE; len], vec![T::ONE; len]);
            zip_map(
                s,
                [&mut sum],
                [&a],
                #[inline(always)]
                |[w], [r]| [s.add(w, r)],
            );
            stream_map(
                s,
                [&mut streamed],
                [&a],
                #[inline(always)]
                |[w], [r]| [s.add(w, r)],
            );
            assert!(sum.iter().enumerate().all(|(i, x)| *x == T::lit((i % 1000) as f64 + 1.0)));
            assert_eq!(sum, streamed);
        }
        assert_eq!(Self::lanes(s, s.polynomial(s.splat(T::lit(2.0)), [1.0, 2.0, 3.0]))[0], T::lit(17.0));
    }
}

#[test]
fn every_operation_of_every_isa_agrees_with_plain_arithmetic() {
    for isa in Isa::available() {
        dispatch::<f32, _>(isa, Check);
        dispatch::<f64, _>(isa, Check);
    }
}

#[test]
fn names_are_those_of_the_environment_variable() {
    assert_eq!(Isa::available().iter().map(|i| i.name()).collect::<Vec<_>>()[0], "scalar");
    assert!(Isa::Scalar < Isa::Neon && Isa::Neon < Isa::Avx2 && Isa::Avx2 < Isa::Avx512);
}
