//! Each function, on each ISA, in each precision: largest error over dense samples (and, on request, over all
//! numbers), special values, odd symmetry.

use super::oracle::Wide;
use super::*;
use crate::simd::{Isa, Op, dispatch, zip_map};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Function {
    Exp,
    Ln,
    Tanh,
    Sigmoid,
    Erf,
    Gelu,
    GeluSlope,
    Softplus,
    SoftplusSlope,
    Silu,
    SiluSlope,
    Expm1,
    Sin,
    Cos,
}

use Function::*;

const ALL: [Function; 14] =
    [Exp, Ln, Tanh, Sigmoid, Erf, Gelu, GeluSlope, Softplus, SoftplusSlope, Silu, SiluSlope, Expm1, Sin, Cos];

/// `out ← function(x)`
struct Apply<'a, T>(Function, &'a [T], &'a mut [T]);

impl<T: Element> Op<T> for Apply<'_, T> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<T>>(self, s: S) {
        let (out, x) = ([self.2], [self.1]);
        macro_rules! map {
            ($x:ident => $y:expr) => {
                zip_map(
                    s,
                    out,
                    x,
                    #[inline(always)]
                    |_, [$x]| [$y],
                )
            };
        }
        match self.0 {
            Exp => map!(x => super::exp(s, x)),
            Ln => map!(x => super::ln(s, x)),
            Tanh => map!(x => T::tanh(s, x)),
            Sigmoid => map!(x => super::sigmoid(s, x)),
            Erf => map!(x => super::erf(s, x)),
            Gelu => map!(x => gelu::with_derivative(s, x).0),
            GeluSlope => map!(x => gelu::with_derivative(s, x).1),
            Softplus => map!(x => softplus::softplus(s, x)),
            // Computed from the value, as a layer does it.
            SoftplusSlope => map!(x => softplus::derivative(s, softplus::softplus(s, x))),
            Silu => map!(x => silu::with_derivative(s, x).0),
            SiluSlope => map!(x => silu::with_derivative(s, x).1),
            Expm1 => map!(x => expm1::not_above_zero(s, x).0),
            Sin => map!(x => sin::sin_cos(s, x).0),
            Cos => map!(x => sin::sin_cos(s, x).1),
        }
    }
}

fn apply<T: Element>(function: Function, isa: Isa, x: &[T]) -> Vec<T> {
    let mut out = vec![T::ZERO; x.len()];
    dispatch(isa, Apply(function, x, &mut out));
    out
}

/// The error in ulps that the function's file promises.
fn bound<T: Element>(function: Function, isa: Isa, x: f64) -> f64 {
    let (single, double) = match function {
        Exp => (exp::MAX_ULP_F32, exp::MAX_ULP_F64),
        Ln => (ln::MAX_ULP_F32, ln::MAX_ULP_F64),
        // With tables in registers, see tanh.rs.
        Tanh if isa == Isa::Avx512 => (1.1, tanh::MAX_ULP_F64),
        Tanh => (tanh::MAX_ULP_F32, tanh::MAX_ULP_F64),
        Sigmoid => (sigmoid::MAX_ULP_F32, sigmoid::MAX_ULP_F64),
        Erf => (erf::MAX_ULP_F32, erf::MAX_ULP_F64),
        Gelu | GeluSlope => (gelu::MAX_ULP_F32, gelu::MAX_ULP_F64),
        Softplus | SoftplusSlope => (softplus::MAX_ULP_F32, softplus::MAX_ULP_F64),
        Silu | SiluSlope => (silu::MAX_ULP_F32, silu::MAX_ULP_F64),
        Expm1 => (expm1::MAX_ULP_F32, expm1::MAX_ULP_F64),
        Sin | Cos => (sin::MAX_ULP_F32, sin::MAX_ULP_F64),
    };
    let ulps = match T::DTYPE {
        Dtype::F32 => single,
        Dtype::F64 => double,
    };
    // See gelu.rs: what remains of the error of x² in the left tail.
    let tail = matches!(function, Gelu | GeluSlope) && isa == Isa::Scalar && x < 0.0;
    if tail { ulps + x * x / 2.0 } else { ulps }
}

/// The exact value, and the number whose last place is the unit of error, in double precision; for the
/// functions in single precision.
fn exact(function: Function, x: f64) -> (f64, f64) {
    // Where Φ may be flushed to 0, see gelu.rs: 10 last places of this number are 40 times the smallest
    // normal number.
    let floor = if x < -12.9 { f64::exp2(-101.0) } else { 0.0 };
    let y = match function {
        Exp => libm::exp(x),
        Ln => libm::log(x),
        Tanh => libm::tanh(x),
        Sigmoid | SoftplusSlope => 1.0 / (1.0 + libm::exp(-x)),
        Erf => libm::erf(x),
        Gelu if x == f64::NEG_INFINITY => return (-0.0, floor),
        Gelu => {
            let y = x * (0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2));
            return (y, y.abs().max(floor));
        }
        GeluSlope if x.is_infinite() => f64::from(x > 0.0),
        GeluSlope => {
            let term = x * libm::exp(-0.5 * x * x) * 0.398_942_280_401_432_7;
            let y = 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2) + term;
            return (y, y.abs().max(term.abs()).max(floor));
        }
        Softplus => x.max(0.0) + libm::log1p(libm::exp(-x.abs())),
        Silu if x == f64::NEG_INFINITY => -0.0,
        Silu => x / (1.0 + libm::exp(-x)),
        SiluSlope if x.is_infinite() => f64::from(x > 0.0),
        SiluSlope => {
            let (sigma, rest) = (1.0 / (1.0 + libm::exp(-x)), 1.0 / (1.0 + libm::exp(x)));
            let term = x * sigma * rest;
            return (sigma + term, (sigma + term).abs().max(term.abs()));
        }
        Expm1 if x > 0.0 => 0.0,
        Expm1 => libm::expm1(x),
        Sin => libm::sin(x),
        Cos => libm::cos(x),
    };
    (y, y)
}

/// The same in double-double arithmetic.
fn exact_wide(function: Function, x: f64) -> (Wide, Wide) {
    let x = Wide::new(x);
    let y = match function {
        Exp => x.exp(),
        Ln => x.ln(),
        Tanh => x.tanh(),
        Sigmoid | SoftplusSlope => x.sigmoid(),
        Erf => x.erf(),
        Gelu => x.gelu().0,
        GeluSlope => {
            let (_, y, unit) = x.gelu();
            return (y, unit);
        }
        Softplus => x.softplus(),
        Silu => x.silu().0,
        SiluSlope => {
            let (_, y, unit) = x.silu();
            return (y, unit);
        }
        Expm1 if x.high > 0.0 => Wide::new(0.0),
        Expm1 => x.expm1(),
        Sin => x.sin_cos().0,
        Cos => x.sin_cos().1,
    };
    (y, y)
}

/// |got − want| in units in the last place that `unit` has in single precision. Zero is correct for a
/// denormal: the functions may flush it.
fn ulps_f32(got: f32, want: f64, unit: f64) -> f64 {
    if want.is_nan() || got.is_nan() {
        return if want.is_nan() && got.is_nan() { 0.0 } else { f64::INFINITY };
    }
    // Infinity takes the place of the next number, 2¹²⁸.
    const NEXT: f64 = 340_282_366_920_938_463_463_374_607_431_768_211_456.0;
    let (got, want, unit) =
        (f64::from(got).clamp(-NEXT, NEXT), want.clamp(-NEXT, NEXT), unit.abs().min(NEXT));
    if got == 0.0 && want.abs() < f32::MIN_POSITIVE.into() {
        return 0.0;
    }
    let exponent = ((unit.to_bits() >> 52) as i64 - 1023).clamp(-126, 127);
    let last_place = f64::from_bits(((exponent - 23 + 1023) as u64) << 52);
    (got - want).abs() / last_place
}

/// Largest error over the arguments with the given bits, for each ISA: (ulps, argument).
fn worst_f32(function: Function, bits: impl Iterator<Item = u32>) -> Vec<(Isa, f64, f32)> {
    let isas = Isa::available();
    let mut worst: Vec<_> = isas.iter().map(|&isa| (isa, 0.0, 0.0)).collect();
    let mut bits = bits.peekable();
    while bits.peek().is_some() {
        let x: Vec<f32> = bits.by_ref().take(1 << 14).map(f32::from_bits).collect();
        let want: Vec<_> = x.iter().map(|&x| exact(function, x.into())).collect();
        for worst in &mut worst {
            for ((&x, got), &(want, unit)) in x.iter().zip(apply(function, worst.0, &x)).zip(&want) {
                let error = ulps_f32(got, want, unit);
                if error > worst.1 {
                    (worst.1, worst.2) = (error, x);
                }
            }
        }
    }
    worst
}

fn hold<T: Element + std::fmt::LowerExp>(function: Function, worst: Vec<(Isa, f64, T)>) {
    for (isa, error, x) in worst {
        println!("{} {function:?} on {isa}: {error:.3} ulp at {x:e}", T::DTYPE.name());
        assert!(
            error <= bound::<T>(function, isa, x.to_f64()),
            "{function:?} on {isa}: {error:.3} ulp at {x:e}"
        );
    }
}

#[test]
fn single_precision_keeps_its_bounds_on_a_sample_of_every_exponent() {
    for function in ALL {
        // A prime stride hits every exponent with either sign some 5000 times.
        hold(function, worst_f32(function, (0..=u32::MAX).step_by(1597)));
    }
}

macro_rules! exhaustive {
    ($($name:ident $function:ident,)*) => {$(
        #[test]
        #[ignore = "exhaustive: 2^32 inputs; run with --ignored"]
        fn $name() {
            hold($function, worst_f32($function, 0..=u32::MAX));
        }
    )*};
}
exhaustive! {
    exhaustive_exp Exp,
    exhaustive_ln Ln,
    exhaustive_tanh Tanh,
    exhaustive_sigmoid Sigmoid,
    exhaustive_erf Erf,
    exhaustive_gelu Gelu,
    exhaustive_gelu_slope GeluSlope,
    exhaustive_softplus Softplus,
    exhaustive_softplus_slope SoftplusSlope,
    exhaustive_silu Silu,
    exhaustive_silu_slope SiluSlope,
    exhaustive_expm1 Expm1,
    exhaustive_sin Sin,
    exhaustive_cos Cos,
}

/// Equidistant arguments over the range where the function varies (down to results of 1e-287, below which the
/// oracle itself loses its low parts), and all magnitudes from there down to the smallest.
fn arguments(function: Function, count: usize) -> Vec<f64> {
    let (low, high) = match function {
        Exp => (-660.0, 709.78),
        Ln => (0.25, 4.0),
        Tanh => (-21.0, 21.0),
        Sigmoid | Softplus | SoftplusSlope | Silu | SiluSlope => (-660.0, 40.0),
        Erf => (-6.5, 6.5),
        Gelu | GeluSlope => (-36.0, 10.0),
        Expm1 => (-40.0, 2.0),
        // Where the reduction is our own, not `libm`'s.
        Sin | Cos => (-1.6e6, 1.6e6),
    };
    let line = (0..count).map(|i| low + (high - low) * (i as f64 + 0.5) / count as f64);
    let magnitudes = (0..count).flat_map(|i| {
        // 2⁻¹⁰²² … 2¹⁰²³, each with a different mantissa.
        let x = libm::ldexp(1.0 + (i as f64 * 0.618_033_988_749_894_9).fract(), (i * 7 % 2046) as i32 - 1022);
        if function == Ln { vec![x] } else { vec![x, -x] }
    });
    // Where a search through more arguments than a test should try found the largest error.
    let found: &[f64] = if function == GeluSlope { &[-0.35133400000000137] } else { &[] };
    line.chain(magnitudes.filter(|x| function == Ln || (low..=high).contains(x)))
        .chain(found.iter().copied())
        .collect()
}

#[test]
fn double_precision_keeps_its_bounds_against_double_double_arithmetic() {
    for function in ALL {
        let x = arguments(function, 50_000);
        let want: Vec<_> = x.iter().map(|&x| exact_wide(function, x)).collect();
        let mut worst = vec![];
        for isa in Isa::available() {
            let (mut most, mut at) = (0.0, 0.0);
            for ((&x, got), (want, unit)) in x.iter().zip(apply(function, isa, &x)).zip(&want) {
                let error = want.ulps(got, *unit);
                if error > most {
                    (most, at) = (error, x);
                }
            }
            worst.push((isa, most, at));
        }
        hold(function, worst);
    }
}

#[test]
fn the_oracle_agrees_with_values_of_mpmath() {
    // python -c "import mpmath as m; m.mp.dps = 45; v = m.erf(0.5); print(float(v), float(v - float(v)))" and so on
    let wide = |high, low| Wide { high, low };
    let at = Wide::new;
    for (got, want) in [
        (at(1.5).exp(), wide(4.4816890703380645, 3.0481759556536343e-16)),
        (at(3.75).ln(), wide(1.3217558399823195, -4.4293091716082275e-17)),
        (at(0.9375).ln(), wide(-0.06453852113757118, 6.470486661692933e-18)),
        (at(0.001953125).tanh(), wide(0.001953122516476924, -9.258741457360892e-20)),
        (at(3.25).tanh(), wide(0.996997635486526, 3.760085786946725e-17)),
        (at(-30.5).sigmoid(), wide(5.6756852326324e-14, 7.790731367469167e-31)),
        (at(0.5).erf(), wide(0.5204998778130465, 1.900077467916287e-17)),
        (at(2.75).erf(), wide(0.9998993780778803, 4.451378916214761e-17)),
        (at(2.5).erfc(), wide(0.0004069520174449589, 2.080297158010754e-20)),
        (at(20.0).erfc(), wide(5.395865611607901e-176, -2.4980975484348278e-192)),
        (at(-40.5).softplus(), wide(2.576757109154981e-18, -9.846373235573722e-35)),
        (at(0.25).softplus(), wide(0.8259394198788436, 7.234200179867041e-19)),
        (at(9.75).softplus(), wide(9.750058292964663, -3.192215861358588e-16)),
        (at(-30.5).silu().0, wide(-1.7310839959528822e-12, 5.196891623043618e-29)),
        (at(-30.5).silu().1, wide(-1.6743271436264599e-12, 5.247034347931935e-30)),
        (at(-1.28125).silu().0, wide(-0.2784636988415488, 2.312159598051516e-17)),
        (at(-1.28125).silu().1, wide(-0.0006055677866683446, 5.1866420808362453e-20)),
        (at(3.25).silu().0, wide(3.1286876161315793, -5.3319273268116315e-17)),
        (at(3.25).silu().1, wide(1.079457282838187, -2.600442357383451e-17)),
        (at(-0.125).expm1(), wide(-0.1175030974154046, 3.2658820639011965e-18)),
        (at(-3.5).expm1(), wide(-0.9698026165776815, 2.0689080689883753e-17)),
        (at(0.75).sin_cos().0, wide(0.6816387600233341, 4.410467313197903e-17)),
        (at(0.75).sin_cos().1, wide(0.7316888688738209, -1.0475824306512768e-17)),
        (at(22.0).sin_cos().0, wide(-0.008851309290403876, 2.8485303089220057e-19)),
        (at(22.0).sin_cos().1, wide(-0.9999608263946371, -8.51603380017413e-19)),
        (at(1000000.5).sin_cos().0, wide(0.141954699000744, -2.184367841909782e-18)),
        (at(1000000.5).sin_cos().1, wide(0.9898731552232378, -5.5249748385267264e-17)),
    ] {
        let difference = got - want;
        assert!(difference.high.abs() <= want.high.abs() * 1e-26, "{got:?} is not {want:?}");
    }
}

const INF: f64 = f64::INFINITY;
const NAN: f64 = f64::NAN;

/// (argument, value) pairs.
const SPECIAL: [(Function, [(f64, f64); 6]); 14] = [
    (Exp, [(0.0, 1.0), (-0.0, 1.0), (INF, INF), (-INF, 0.0), (1e30, INF), (-1e30, 0.0)]),
    (Ln, [(1.0, 0.0), (0.0, -INF), (-0.0, -INF), (INF, INF), (-1.0, NAN), (-INF, NAN)]),
    (Tanh, [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (25.0, 1.0), (-1e30, -1.0)]),
    (Sigmoid, [(0.0, 0.5), (-0.0, 0.5), (INF, 1.0), (-INF, 0.0), (1e30, 1.0), (-1e30, 0.0)]),
    (Erf, [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (7.0, 1.0), (-1e30, -1.0)]),
    (Gelu, [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -0.0), (-1e30, -0.0), (64.0, 64.0)]),
    (GeluSlope, [(0.0, 0.5), (-0.0, 0.5), (INF, 1.0), (-INF, 0.0), (1e30, 1.0), (-1e30, 0.0)]),
    (Softplus, [(64.0, 64.0), (90.0, 90.0), (INF, INF), (-INF, 0.0), (2e9, 2e9), (-1e30, 0.0)]),
    (SoftplusSlope, [(0.0, 0.5), (-0.0, 0.5), (INF, 1.0), (-INF, 0.0), (1e30, 1.0), (-1e30, 0.0)]),
    (Silu, [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -0.0), (-1e30, -0.0), (64.0, 64.0)]),
    (SiluSlope, [(0.0, 0.5), (-0.0, 0.5), (INF, 1.0), (-INF, -0.0), (1e30, 1.0), (-1e30, -0.0)]),
    (Expm1, [(0.0, 0.0), (1.0, 0.0), (INF, 0.0), (-INF, -1.0), (-50.0, -1.0), (-1e30, -1.0)]),
    (Sin, [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN), (NAN, NAN), (0.0, 0.0)]),
    (Cos, [(0.0, 1.0), (-0.0, 1.0), (INF, NAN), (-INF, NAN), (NAN, NAN), (0.0, 1.0)]),
];

fn special_values<T: Element>() {
    for isa in Isa::available() {
        for (function, cases) in SPECIAL {
            for (x, want) in cases {
                // Placed between NaNs: neither they nor the tail of the slice may leak into a lane.
                let x = [NAN, x, NAN].map(T::lit).repeat(7);
                for (x, y) in x.iter().zip(apply(function, isa, &x)) {
                    let want = if x.to_f64().is_nan() { NAN } else { want };
                    let same = y.to_f64() == want && y.to_f64().is_sign_negative() == want.is_sign_negative();
                    assert!(same || y.to_f64().is_nan() && want.is_nan(), "{function:?}({x}) = {y} on {isa}");
                }
            }
        }
        // At the borders of overflow and underflow.
        let (low, high) = match T::DTYPE {
            Dtype::F32 => (-87.336, 88.722),
            Dtype::F64 => (-708.396, 709.782),
        };
        let y = apply(Exp, isa, &[low, high, low - 0.001, high + 0.002].map(T::lit));
        assert!(
            y[0] > T::ZERO && y[1].is_finite() && y[2] == T::ZERO && y[3].to_f64() == INF,
            "{y:?} on {isa}"
        );
    }
}

#[test]
fn special_values_in_single_precision() {
    special_values::<f32>();
}

#[test]
fn special_values_in_double_precision() {
    special_values::<f64>();
}

fn odd_symmetry<T: Element>() {
    let x: Vec<T> = (1..4000).map(|i| T::lit(i as f64 * 0.0025)).collect();
    let mirrored: Vec<T> = x.iter().map(|&x| -x).collect();
    for isa in Isa::available() {
        for function in [Tanh, Erf, Sin] {
            let y = apply(function, isa, &x);
            let z: Vec<T> = apply(function, isa, &mirrored).into_iter().map(|z| -z).collect();
            assert_eq!(y, z, "{function:?} on {isa}");
            assert!(y.iter().all(|y| *y <= T::ONE), "{function:?} on {isa} exceeds 1");
        }
    }
}

#[test]
fn tanh_erf_and_sin_are_odd_and_within_one() {
    odd_symmetry::<f32>();
    odd_symmetry::<f64>();
}

#[test]
fn a_lane_does_not_depend_on_its_neighbours() {
    // A huge argument sends its vector along another path, which must leave the other lanes as they are.
    for isa in Isa::available() {
        let x: Vec<f32> = (0..64).map(|i| if i % 5 == 0 { 1e9 } else { i as f32 * 3.7 }).collect();
        let tame: Vec<f32> = x.iter().map(|x| if *x > 1e8 { 0.5 } else { *x }).collect();
        for function in [Sin, Cos] {
            let (y, z) = (apply(function, isa, &x), apply(function, isa, &tame));
            assert!((0..64).all(|i| i % 5 == 0 || y[i].to_bits() == z[i].to_bits()), "{function:?} on {isa}");
        }
    }
}

#[test]
fn the_fused_results_do_not_depend_on_the_width() {
    // AVX2 and AVX-512 do the same operations in the same order, so all bits agree; except for tanh, for
    // which only the latter has tables in registers.
    let x: Vec<f32> = (0..30_000).map(|i| (i as f32 - 15_000.0) * 0.005).collect();
    let fused: Vec<Isa> = Isa::available().into_iter().filter(|&isa| isa > Isa::Scalar).collect();
    for function in ALL.into_iter().filter(|&function| function != Tanh) {
        let bits = |isa| apply(function, isa, &x).into_iter().map(f32::to_bits).collect::<Vec<_>>();
        for pair in fused.windows(2) {
            // The sign of NaN, here the logarithm of a negative number, is unspecified.
            let x_positive = |i: &usize| function != Ln || x[*i] > 0.0;
            let (a, b) = (bits(pair[0]), bits(pair[1]));
            assert!((0..x.len()).filter(x_positive).all(|i| a[i] == b[i]), "{function:?}");
        }
    }
}

#[test]
#[ignore = "a measurement: prints ns per element"]
fn speed() {
    fn time<T: Element>(isa: Isa) {
        // Not a multiple of 4 KiB, so that loads and stores do not collide in the low bits of the address.
        let x: Vec<T> = (0..960).map(|i| T::lit((i % 97) as f64 * 0.1 - 4.8)).collect();
        let mut y = vec![T::ZERO; x.len()];
        for function in ALL {
            let mut best = f64::INFINITY;
            for _ in 0..40 {
                let start = std::time::Instant::now();
                for _ in 0..200 {
                    dispatch(isa, Apply(function, std::hint::black_box(&x), &mut y));
                }
                best = best.min(start.elapsed().as_secs_f64() / 200.0 / x.len() as f64);
            }
            println!("{} {isa} {function:?}: {:.3} ns", T::DTYPE.name(), best * 1e9);
        }
    }
    for isa in Isa::available() {
        time::<f32>(isa);
        time::<f64>(isa);
    }
}
