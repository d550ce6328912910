//! Counter-based random numbers: Philox 4×32-10 (Salmon et al., SC 2011).
//!
//! The n-th number of a stream is a function of (seed, stream, n) and nothing else, so any thread can draw
//! any of them, in any order, and a run can be resumed anywhere.

use crate::simd::{Isa, Op, Simd, dispatch};

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The Philox 4×32-10 function: four words from a counter and a key.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    philox_lanes::<1>(counter, key).map(|[word]| word)
}

/// [`philox`] of `N` counters with consecutive first words: word j of counter i is `[j][i]`. Plain loops over
/// lanes, which the compiler vectorizes for the ISA into which this is inlined.
#[inline(always)]
pub fn philox_lanes<const N: usize>(counter: [u32; 4], key: [u32; 2]) -> [[u32; N]; 4] {
    let mut c = counter.map(|word| [word; N]);
    for (i, word) in c[0].iter_mut().enumerate() {
        *word = word.wrapping_add(i as u32);
    }
    let mut k = key;
    for _ in 0..ROUNDS {
        let mut next = [[0; N]; 4];
        for i in 0..N {
            let p0 = u64::from(MULTIPLIERS[0]) * u64::from(c[0][i]);
            let p1 = u64::from(MULTIPLIERS[1]) * u64::from(c[2][i]);
            next[0][i] = (p1 >> 32) as u32 ^ c[1][i] ^ k[0];
            next[1][i] = p1 as u32;
            next[2][i] = (p0 >> 32) as u32 ^ c[3][i] ^ k[1];
            next[3][i] = p0 as u32;
        }
        c = next;
        k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
    }
    c
}

/// What numbers are drawn for. This is part of the key, so that uses never share a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Initial parameters; the index is the layer's.
    Init,
    /// The order of the rows; the index is the epoch's.
    Shuffle,
    /// Which elements a layer drops, see [`dropout`](crate::layer::dropout).
    Dropout,
    /// Labels drawn from the model's own distribution; the index is the row's.
    Label,
}

/// A sequence of numbers: one seed, one purpose, one index.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    head: [u32; 2],
    block: u64,
    words: [u32; 4],
    used: usize,
}

impl Stream {
    /// The stream of `(seed, purpose, index)`, from its start.
    pub fn new(seed: u64, purpose: Purpose, index: u64) -> Self {
        let key = [seed as u32, (seed >> 32) as u32];
        // 24 bits of the index's upper half suffice: 2⁵⁶ epochs.
        let head = [index as u32, (purpose as u32) << 24 | (index >> 32) as u32 & 0x00ff_ffff];
        Stream { key, head, block: 0, words: [0; 4], used: 4 }
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            let counter = [self.block as u32, (self.block >> 32) as u32, self.head[0], self.head[1]];
            self.words = philox(counter, self.key);
            self.block += 1;
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) | u64::from(self.next_u32()) << 32
    }

    /// Uniform in [0, 1), a multiple of 2⁻⁵³.
    pub fn unit(&mut self) -> f64 {
        unit(self.next_u64())
    }

    /// Fills a slice with [`unit`](Self::unit) numbers, many at a time.
    pub fn units(&mut self, isa: Isa, mut into: &mut [f64]) {
        while !into.is_empty() {
            let whole = into.len() / (2 * LANES);
            if self.used < 4 || whole == 0 || self.block as u32 > u32::MAX - LANES as u32 {
                into[0] = self.unit();
                into = &mut into[1..];
                continue;
            }
            // Lanes count in the first word only, which must not wrap around within them.
            let count = whole.min((u32::MAX - self.block as u32) as usize / LANES);
            let (now, rest) = into.split_at_mut(count * 2 * LANES);
            let counter = [self.block as u32, (self.block >> 32) as u32, self.head[0], self.head[1]];
            dispatch(isa, Units { counter, key: self.key, into: now });
            self.block += (count * LANES) as u64;
            into = rest;
        }
    }

    /// Standard normal (Box and Muller; one number per pair, so that each draw uses the same count).
    pub fn normal(&mut self) -> f64 {
        normal([self.unit(), self.unit()])
    }

    /// Uniform in 0..n, without bias (Lemire 2019).
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: u32) -> u32 {
        assert!(n > 0);
        loop {
            let product = u64::from(self.next_u32()) * u64::from(n);
            if product as u32 >= n.wrapping_neg() % n {
                return (product >> 32) as u32;
            }
        }
    }

    /// Puts a sequence into random order (Fisher and Yates).
    pub fn shuffle(&mut self, items: &mut [u32]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u32 + 1) as usize);
        }
    }
}

/// Counters that are processed at once.
const LANES: usize = 16;

/// The two numbers of each block from a counter on, for whole groups of blocks.
struct Units<'i> {
    counter: [u32; 4],
    key: [u32; 2],
    into: &'i mut [f64],
}

impl Op<f64> for Units<'_> {
    type Output = ();
    #[inline(always)]
    fn eval<S: Simd<f64>>(self, _: S) {
        let Units { mut counter, key, into } = self;
        for group in into.chunks_exact_mut(2 * LANES) {
            let [a, b, c, d] = philox_lanes::<LANES>(counter, key);
            for (i, pair) in group.chunks_exact_mut(2).enumerate() {
                pair[0] = unit(u64::from(a[i]) | u64::from(b[i]) << 32);
                pair[1] = unit(u64::from(c[i]) | u64::from(d[i]) << 32);
            }
            counter[0] += LANES as u32;
        }
    }
}

/// Uniform in [0, 1) from 64 random bits.
#[inline(always)]
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * f64::exp2(-53.0)
}

/// Standard normal, from two numbers uniform in [0, 1).
pub fn normal([first, second]: [f64; 2]) -> f64 {
    (-2.0 * libm::log(1.0 - first)).sqrt() * libm::cos(std::f64::consts::TAU * second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_at_once_are_those_one_by_one() {
        for isa in Isa::available() {
            // Starting within a block and within a number, across the wrap-around of the counter's first
            // word, and in parts.
            for (block, skipped) in
                [(0, 0), (0, 1), (7, 2), (u64::from(u32::MAX) - 40, 0), (u64::from(u32::MAX), 0)]
            {
                let mut one = Stream { block, ..Stream::new(5, Purpose::Init, 3) };
                (0..skipped).for_each(|_| _ = one.next_u32());
                let mut many = one.clone();
                for len in [0, 1, 31, 32, 33, 100, 200] {
                    let expected: Vec<f64> = (0..len).map(|_| one.unit()).collect();
                    let mut found = vec![0.0; len];
                    many.units(isa, &mut found);
                    assert_eq!(found, expected, "{isa} {block} {skipped} {len}");
                }
                assert_eq!(many.next_u32(), one.next_u32());
            }
        }
    }

    #[test]
    fn known_answers_of_the_authors() {
        // From the kat_vectors file of Random123.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox([!0; 4], [!0; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn lanes_are_counters_that_follow_one_another() {
        let (counter, key) = ([u32::MAX - 2, 7, 8, 9], [10, 11]);
        let lanes = philox_lanes::<5>(counter, key);
        for i in 0..5u32 {
            let one = philox([counter[0].wrapping_add(i), 7, 8, 9], key);
            assert_eq!(lanes.map(|words| words[i as usize]), one);
        }
    }

    #[test]
    fn streams_differ_by_seed_purpose_and_index() {
        let first = |seed, purpose, index| Stream::new(seed, purpose, index).next_u64();
        let base = first(1, Purpose::Init, 0);
        for other in [first(2, Purpose::Init, 0), first(1, Purpose::Shuffle, 0), first(1, Purpose::Init, 1)] {
            assert_ne!(base, other);
        }
        assert_eq!(base, first(1, Purpose::Init, 0));
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut rng = Stream::new(7, Purpose::Init, 0);
        let n = 100_000;
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        let u: Vec<f64> = (0..n).map(|_| 2.0 * rng.unit() - 1.0).collect();
        let z: Vec<f64> = (0..n).map(|_| rng.normal()).collect();
        // Five standard errors each.
        assert!(mean(&u).abs() < 5.0 * (1.0 / 3.0 / n as f64).sqrt());
        assert!((mean(&u.iter().map(|x| x * x).collect::<Vec<_>>()) - 1.0 / 3.0).abs() < 5e-3);
        assert!(mean(&z).abs() < 5.0 / (n as f64).sqrt());
        assert!(
            (mean(&z.iter().map(|x| x * x).collect::<Vec<_>>()) - 1.0).abs() < 5.0 * (2.0 / n as f64).sqrt()
        );
        assert!(
            (mean(&z.iter().map(|x| x.powi(4)).collect::<Vec<_>>()) - 3.0).abs()
                < 5.0 * (96.0 / n as f64).sqrt()
        );
    }

    #[test]
    fn every_order_of_four_is_equally_likely() {
        let mut rng = Stream::new(3, Purpose::Shuffle, 0);
        let mut counts = std::collections::BTreeMap::new();
        let n = 24_000;
        for _ in 0..n {
            let mut items = [0, 1, 2, 3];
            rng.shuffle(&mut items);
            *counts.entry(items).or_insert(0) += 1;
        }
        // χ² with 23 degrees of freedom: above 57 with probability 1e-4.
        let chi2: f64 = counts.values().map(|c| (*c as f64 - 1000.0).powi(2) / 1000.0).sum();
        assert_eq!(counts.len(), 24);
        assert!(chi2 < 57.0, "χ² = {chi2}");
    }
}
