//! Double-double arithmetic (some 31 digits) and, based on it, the functions of this directory, against which
//! the double-precision ones are measured. Plain series; none of the tricks of the code under test.

use std::ops::{Add, Div, Mul, Sub};

/// The number `high + low`, |low| ≤ ulp(high)/2.
#[derive(Clone, Copy, Debug)]
pub struct Wide {
    pub high: f64,
    pub low: f64,
}

/// ln 2
const LN_2: Wide = Wide { high: std::f64::consts::LN_2, low: 2.3190468138462996e-17 };
/// √π
const SQRT_PI: Wide = Wide { high: 1.772453850905516, low: -7.666586499825799e-17 };
/// √½
const SQRT_HALF: Wide = Wide { high: std::f64::consts::FRAC_1_SQRT_2, low: -4.833646656726457e-17 };

/// π/2
const HALF_PI: [f64; 3] = [std::f64::consts::FRAC_PI_2, 6.123233995736766e-17, -1.4973849048591698e-33];

impl Wide {
    pub const fn new(x: f64) -> Self {
        Wide { high: x, low: 0.0 }
    }

    /// a + b exactly, for |a| ≥ |b|.
    fn fast(a: f64, b: f64) -> Self {
        let high = a + b;
        Wide { high, low: b - (high - a) }
    }

    fn abs(self) -> Self {
        if self.high < 0.0 { Wide::new(0.0) - self } else { self }
    }

    /// self·2ⁿ
    fn scale(self, n: i32) -> Self {
        Wide { high: libm::ldexp(self.high, n), low: libm::ldexp(self.low, n) }
    }

    /// |got − self| in units in the last place of `unit`; for denormals, in units of the smallest denormal.
    pub fn ulps(self, got: f64, unit: Self) -> f64 {
        let exponent = libm::ilogb(unit.high).max(-1022);
        // The spacing 2^(exponent − 52) may be denormal, so both sides are scaled up instead.
        let in_units = |x: f64| libm::ldexp(libm::ldexp(x, -exponent / 2), 52 - exponent + exponent / 2);
        ((in_units(got) - in_units(self.high)) - in_units(self.low)).abs()
    }

    pub fn exp(self) -> Self {
        let n = (self.high / LN_2.high).round();
        let r = self - LN_2 * Wide::new(n);
        let (mut term, mut sum) = (Wide::new(1.0), Wide::new(1.0));
        for k in 1..28 {
            term = term * r / Wide::new(k as f64);
            sum = sum + term;
        }
        sum.scale(n as i32)
    }

    pub fn ln(self) -> Self {
        let k = libm::ilogb(self.high);
        let m = self.scale(-k);
        // Newton's step doubles the number of correct digits of the platform's logarithm: y + m·e⁻ʸ − 1.
        let mut y = Wide::new(m.high.ln());
        for _ in 0..2 {
            y = y + (m * (Wide::new(0.0) - y).exp() - Wide::new(1.0));
        }
        y + LN_2 * Wide::new(k as f64)
    }

    pub fn expm1(self) -> Self {
        if self.high < -0.5 {
            return self.exp() - Wide::new(1.0);
        }
        let (mut term, mut sum) = (self, self);
        for k in 2..28 {
            term = term * self / Wide::new(k as f64);
            sum = sum + term;
        }
        sum
    }

    /// From their series, after a reduction by π/2 in three doubles.
    pub fn sin_cos(self) -> (Self, Self) {
        let n = (self.high / HALF_PI[0]).round();
        let r = HALF_PI.into_iter().fold(self, |r, part| r - Wide::new(part) * Wide::new(n));
        let square = r * r;
        let (mut sin, mut cos, mut term) = (r, Wide::new(1.0), Wide::new(1.0));
        for k in 1..20 {
            term = term * square / Wide::new(-(((2 * k - 1) * 2 * k) as f64));
            cos = cos + term;
            sin = sin + term * r / Wide::new((2 * k + 1) as f64);
        }
        let minus = |x: Self| Wide::new(0.0) - x;
        match n.rem_euclid(4.0) as i32 {
            0 => (sin, cos),
            1 => (cos, minus(sin)),
            2 => (minus(sin), minus(cos)),
            _ => (minus(cos), sin),
        }
    }

    /// For small arguments from the series of sinh and cosh, which have no cancellation.
    pub fn tanh(self) -> Self {
        let x = self.abs();
        let y = if x.high < 1.0 {
            let square = x * x;
            let (mut sinh, mut cosh, mut term) = (x, Wide::new(1.0), x);
            for k in 1..20 {
                cosh = cosh + term * x / Wide::new(2.0 * k as f64);
                term = term * square / Wide::new((2 * k * (2 * k + 1)) as f64);
                sinh = sinh + term;
            }
            sinh / cosh
        } else {
            let e = (Wide::new(-2.0) * x).exp();
            (Wide::new(1.0) - e) / (Wide::new(1.0) + e)
        };
        if self.high < 0.0 { Wide::new(0.0) - y } else { y }
    }

    pub fn sigmoid(self) -> Self {
        if self.high < 0.0 {
            let e = self.exp();
            e / (Wide::new(1.0) + e)
        } else {
            Wide::new(1.0) / (Wide::new(1.0) + (Wide::new(0.0) - self).exp())
        }
    }

    /// From 2·atanh(e/(2 + e)), whose series has positive terms only, e = e^(−|x|).
    pub fn softplus(self) -> Self {
        let e = (Wide::new(0.0) - self.abs()).exp();
        let s = e / (Wide::new(2.0) + e);
        let (mut power, mut sum) = (s, s);
        for k in 1..36 {
            power = power * s * s;
            sum = sum + power / Wide::new(2.0 * k as f64 + 1.0);
        }
        let y = sum.scale(1);
        if self.high > 0.0 { self + y } else { y }
    }

    /// 2/√π·exp(−x²)·Σ 2ᵏ·x^(2k+1)/(1·3·…·(2k+1)): all terms are positive.
    pub fn erf(self) -> Self {
        let x = self.abs();
        if x.high > 7.0 {
            return Wide::new(1f64.copysign(self.high));
        }
        let square = x * x;
        let (mut term, mut sum) = (x, x);
        let mut k = 1.0;
        while term.high > sum.high * 1e-33 {
            term = term * square * Wide::new(2.0) / Wide::new(2.0 * k + 1.0);
            sum = sum + term;
            k += 1.0;
        }
        let y = sum * Wide::new(2.0) / SQRT_PI * (Wide::new(0.0) - square).exp();
        if self.high < 0.0 { Wide::new(0.0) - y } else { y }
    }

    /// erfc x for x ≥ 0; far out from the continued fraction exp(−x²)/√π·1/(x + ½/(x + 1/(x + 3⁄2/(x + …)))).
    pub fn erfc(self) -> Self {
        if self.high < 3.0 {
            return Wide::new(1.0) - self.erf();
        }
        let mut y = self;
        for k in (1..200).rev() {
            y = self + Wide::new(k as f64 / 2.0) / y;
        }
        (Wide::new(0.0) - self * self).exp() / SQRT_PI / y
    }

    /// GELU, its derivative, and the larger term of the derivative.
    pub fn gelu(self) -> (Self, Self, Self) {
        let tail = (self.abs() * SQRT_HALF).erfc().scale(-1);
        let cdf = if self.high < 0.0 { tail } else { Wide::new(1.0) - tail };
        let density = (Wide::new(-0.5) * self * self).exp() / SQRT_PI * SQRT_HALF;
        let slope = cdf + self * density;
        let term = (self * density).abs();
        (self * cdf, slope, if slope.abs().high < term.high { term } else { slope.abs() })
    }

    /// SiLU, its derivative, and the larger of the derivative and its second term.
    pub fn silu(self) -> (Self, Self, Self) {
        let sigma = self.sigmoid();
        let term = self * sigma * (Wide::new(0.0) - self).sigmoid();
        let slope = sigma + term;
        (self * sigma, slope, if slope.abs().high < term.abs().high { term.abs() } else { slope.abs() })
    }
}

impl Add for Wide {
    type Output = Self;
    fn add(self, b: Self) -> Self {
        let high = self.high + b.high;
        let v = high - self.high;
        let error = (self.high - (high - v)) + (b.high - v);
        let (low, rest) = (self.low + b.low, error);
        Wide::fast(high, low + rest)
    }
}

impl Sub for Wide {
    type Output = Self;
    fn sub(self, b: Self) -> Self {
        self + Wide { high: -b.high, low: -b.low }
    }
}

impl Mul for Wide {
    type Output = Self;
    fn mul(self, b: Self) -> Self {
        let high = self.high * b.high;
        let error = self.high.mul_add(b.high, -high);
        Wide::fast(high, error + (self.high * b.low + self.low * b.high))
    }
}

impl Div for Wide {
    type Output = Self;
    fn div(self, b: Self) -> Self {
        let first = self.high / b.high;
        let rest = self - b * Wide::new(first);
        let second = rest.high / b.high;
        let rest = rest - b * Wide::new(second);
        Wide::fast(first, second) + Wide::new(rest.high / b.high)
    }
}
