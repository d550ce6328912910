//! Vectors of the machine behind one trait, and the instruction sets (ISAs) that provide them.
//!
//! An algorithm is written once, generic over a token `S: Simd<T>`, as safe code over slices ([`zip_map`],
//! [`Simd::load`]). A token can be constructed only if the CPU has its instructions, so code that holds one
//! is safe to run. [`Simd::run`] is the only entry: it enters a function that is compiled with the ISA's
//! target features, and everything called from there that is `#[inline(always)]` is compiled with them too.
//!
//! ```text
//! dispatch(isa, op)  ─►  token.run(op)  ─►  #[target_feature] fn  ─►  op.eval(token)   (inlined)
//! ```
//!
//! This module has the trait, the loops and the list of ISAs; each ISA has a module of its own, and `vectors`
//! has common operations on arrays.

#![allow(unsafe_code)] // instructions of the token's instruction set, and loads without checks of bounds

/// Functions of a token from expressions of intrinsics that touch no memory.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! lanewise {
    ($(fn $name:ident($($a:ident: $A:ty),+) -> $R:ty = $value:expr;)+) => {$(
        #[inline(always)]
        fn $name(self, $($a: $A),+) -> $R {
            // SAFETY: the token proves that the CPU has the instructions, and none of them touches memory.
            unsafe { $value }
        }
    )+};
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod bf16;
mod denormals;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
mod vectors;

use std::fmt;
use std::sync::OnceLock;

use crate::element::Element;
use crate::gemm::Kernels;

#[cfg(target_arch = "x86_64")]
pub use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub use avx512::Avx512;
pub use bf16::{Amx, Bf16};
pub use denormals::FlushDenormals;
#[cfg(target_arch = "aarch64")]
pub use neon::Neon;
pub use portable::Portable;
pub use vectors::{add, add_scaled, all_finite, lerp, max_abs};

/// Tokens that cannot exist on this platform.
#[cfg(not(target_arch = "x86_64"))]
mod bf16 {
    /// Token of bfloat16 products.
    #[derive(Clone, Copy, Debug)]
    pub struct Bf16(());
    /// Token of Intel's tile unit.
    #[derive(Clone, Copy, Debug)]
    pub struct Amx(());

    impl Bf16 {
        /// None.
        pub fn new() -> Option<Self> {
            None
        }
    }

    impl Amx {
        /// None.
        pub fn new() -> Option<Self> {
            None
        }
    }
}

/// Largest number of lanes of any vector.
pub const MAX_LANES: usize = 16;

/// An operation that can run with any token: the body of a `#[target_feature]` function.
///
/// `eval` must be `#[inline(always)]`, and so must all that it calls per vector, down to the trait
/// methods: a function boundary in between would be compiled for the baseline and be slow.
pub trait Op<T: Element> {
    /// What the operation returns.
    type Output;
    /// Runs the operation.
    fn eval<S: Simd<T>>(self, s: S) -> Self::Output;
}

/// Vectors of `T` on one instruction set. The token itself is a zero-sized proof that the CPU has it.
///
/// All arithmetic is IEEE 754 per lane. [`fma`](Simd::fma) is fused if the ISA can fuse, as
/// [`FUSED`](Simd::FUSED) says.
pub trait Simd<T: Element>: Kernels<T> + Copy + Send + Sync + 'static {
    /// A vector of `N` lanes.
    type V: Copy;
    /// One boolean per lane.
    type M: Copy;
    /// Lanes in a vector.
    const N: usize;
    /// Whether [`fma`](Simd::fma) rounds once.
    const FUSED: bool;
    /// Whether masked loads and stores cost no more than plain ones.
    const FREE_MASKS: bool = false;
    /// Which ISA this is.
    const ISA: Isa;

    /// Enters a function compiled for this ISA and evaluates `op` there.
    fn run<O: Op<T>>(self, op: O) -> O::Output;

    /// All lanes `x`.
    fn splat(self, x: T) -> Self::V;
    /// Reads `N` elements.
    ///
    /// # Safety
    /// `p` must be valid for reading `N` elements; no alignment is needed.
    unsafe fn load_ptr(self, p: *const T) -> Self::V;
    /// Writes `N` elements.
    ///
    /// # Safety
    /// `p` must be valid for writing `N` elements; no alignment is needed.
    unsafe fn store_ptr(self, p: *mut T, v: Self::V);
    /// Reads the first `n ≤ N` elements, zero in the other lanes.
    ///
    /// # Safety
    /// `p` must be valid for reading `n` elements.
    unsafe fn load_first(self, p: *const T, n: usize) -> Self::V;
    /// Writes the first `n ≤ N` lanes.
    ///
    /// # Safety
    /// `p` must be valid for writing `n` elements.
    unsafe fn store_first(self, p: *mut T, n: usize, v: Self::V);

    /// `to[j, i] = from[i, j]` for the `rows` × `cols` elements of `from`, at most N of each. Both matrices
    /// have contiguous rows, `from_row` and `to_row` elements apart.
    ///
    /// # Safety
    /// The elements of both must be valid, those of `to` for writing.
    #[inline(always)]
    unsafe fn transpose(
        self,
        from: *const T,
        from_row: usize,
        to: *mut T,
        to_row: usize,
        rows: usize,
        cols: usize,
    ) {
        for i in 0..rows {
            for j in 0..cols {
                // SAFETY: i < rows and j < cols, and the caller promises that those elements are valid.
                unsafe { *to.add(j * to_row + i) = *from.add(i * from_row + j) };
            }
        }
    }

    /// `a + b`
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a − b`
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b`
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b` where b and the quotient are normal numbers of moderate size; rounded as by division, except
    /// in rare cases, where it may be the neighbouring number.
    #[inline(always)]
    fn quotient(self, a: Self::V, b: Self::V) -> Self::V {
        self.div(a, b)
    }
    /// `√a`
    fn sqrt(self, a: Self::V) -> Self::V;
    /// `a · b + c`
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a > b ? a : b`; so `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`; so `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `|a|`
    fn abs(self, a: Self::V) -> Self::V;
    /// `|a|` with the sign bit of `sign`.
    fn copysign(self, a: Self::V, sign: Self::V) -> Self::V;
    /// The nearest whole number, ties to even. Defined for `|a| < 2^(mantissa bits)`.
    fn round(self, a: Self::V) -> Self::V;
    /// `a · 2^n` for whole `n` such that `2^n` is a normal number.
    fn scale(self, a: Self::V, n: Self::V) -> Self::V;
    /// `(m, e)` with `a = m · 2^e`, `m ∈ [1, 2)`, for normal positive `a`.
    fn split_exponent(self, a: Self::V) -> (Self::V, Self::V);
    /// For each lane, a column of `table`: that of the quarter octave, counted from ⅛, in which `a` ≥ 0 lies,
    /// or the first column below ⅛. `a` must be below the end of the table; NaN gives any column. `None` if
    /// there are no instructions for tables in registers.
    #[inline(always)]
    fn pieces<const K: usize>(self, a: Self::V, table: &[[T; 32]; K]) -> Option<[Self::V; K]> {
        let _ = (a, table);
        None
    }
    /// Per lane `a < b`; false with a NaN.
    fn lt(self, a: Self::V, b: Self::V) -> Self::M;
    /// Per lane `yes` where `m` is set, else `no`.
    fn select(self, m: Self::M, yes: Self::V, no: Self::V) -> Self::V;
    /// The sum of the lanes, added pairwise in a tree fixed by the lane count.
    fn reduce_add(self, v: Self::V) -> T;
    /// The largest lane (unspecified with a NaN).
    fn reduce_max(self, v: Self::V) -> T;

    /// Reads the first `N` elements of a slice.
    #[inline(always)]
    fn load(self, from: &[T]) -> Self::V {
        assert!(from.len() >= Self::N);
        // SAFETY: the slice holds at least N elements, as just checked.
        unsafe { self.load_ptr(from.as_ptr()) }
    }

    /// Reads a slice of at most `N` elements; the other lanes are zero.
    #[inline(always)]
    fn load_partial(self, from: &[T]) -> Self::V {
        assert!(from.len() <= Self::N);
        // SAFETY: exactly the slice's elements are read, at most N as just checked.
        unsafe { self.load_first(from.as_ptr(), from.len()) }
    }

    /// Writes to the first `N` elements of a slice.
    #[inline(always)]
    fn store(self, into: &mut [T], v: Self::V) {
        assert!(into.len() >= Self::N);
        // SAFETY: the slice holds at least N elements, as just checked.
        unsafe { self.store_ptr(into.as_mut_ptr(), v) }
    }

    /// Writes to a slice of at most `N` elements.
    #[inline(always)]
    fn store_partial(self, into: &mut [T], v: Self::V) {
        assert!(into.len() <= Self::N);
        // SAFETY: exactly the slice's elements are written, at most N as just checked.
        unsafe { self.store_first(into.as_mut_ptr(), into.len(), v) }
    }

    /// 0, 1, 2, …
    #[inline(always)]
    fn lanes(self) -> Self::V {
        self.load(&T::LANES)
    }

    /// The first `n` lanes of `a`; the others are zero, whatever they are in `a`.
    #[inline(always)]
    fn first(self, a: Self::V, n: usize) -> Self::V {
        let inside = self.lt(self.lanes(), self.splat(T::lit(n as f64)));
        self.select(inside, a, self.splat(T::ZERO))
    }

    /// `−a`
    #[inline(always)]
    fn neg(self, a: Self::V) -> Self::V {
        self.sub(self.splat(T::lit(-0.0)), a)
    }

    /// `c₀ + x·(c₁ + x·(…))`, from the highest coefficient down (Horner).
    #[inline(always)]
    fn polynomial<const K: usize>(self, x: Self::V, c: [f64; K]) -> Self::V {
        let mut y = self.splat(T::lit(c[K - 1]));
        for i in (0..K - 1).rev() {
            y = self.fma(y, x, self.splat(T::lit(c[i])));
        }
        y
    }
}

/// `writes ← f(writes, reads)` over slices of the same length, a vector at a time, with the rest masked.
///
/// Lanes beyond the end hold zero while `f` runs and are not stored. `f` should be `#[inline(always)]`, see
/// [`Op`].
///
/// # Panics
/// If the slices differ in length.
#[inline(always)]
pub fn zip_map<T: Element, S: Simd<T>, const W: usize, const R: usize>(
    s: S,
    writes: [&mut [T]; W],
    reads: [&[T]; R],
    f: impl Fn([S::V; W], [S::V; R]) -> [S::V; W],
) {
    zip::<T, S, W, R, 0, false>(
        s,
        writes,
        reads,
        #[inline(always)]
        |w, r| (f(w, r), []),
    );
}

/// [`zip_map`] for slices that may be too long for the caches: for those it prefetches 2 KB ahead, because
/// several parallel streams are too much for the hardware prefetcher.
///
/// # Panics
/// If the slices differ in length.
#[inline(always)]
pub fn stream_map<T: Element, S: Simd<T>, const W: usize, const R: usize>(
    s: S,
    writes: [&mut [T]; W],
    reads: [&[T]; R],
    f: impl Fn([S::V; W], [S::V; R]) -> [S::V; W],
) {
    stream_sum(
        s,
        writes,
        reads,
        #[inline(always)]
        |w, r| (f(w, r), []),
    );
}

/// [`stream_map`], which also sums over all elements what `f` returns besides: over short runs in `T`, over
/// the runs in double precision. Lanes beyond the end count too, so `f` must return 0 for zeros.
///
/// # Panics
/// If the slices differ in length, or there are no slices.
#[inline(always)]
pub fn stream_sum<T: Element, S: Simd<T>, const W: usize, const R: usize, const K: usize>(
    s: S,
    writes: [&mut [T]; W],
    reads: [&[T]; R],
    f: impl Fn([S::V; W], [S::V; R]) -> ([S::V; W], [S::V; K]),
) -> [f64; K] {
    let bytes = writes.first().map_or_else(|| size_of_val(reads[0]), |w| size_of_val(*w));
    if bytes < LONG {
        zip::<T, S, W, R, K, false>(s, writes, reads, f)
    } else {
        zip::<T, S, W, R, K, true>(s, writes, reads, f)
    }
}

/// Sums f over the elements of slices of the same length: within blocks in `T`, in four chains side by side,
/// and over the blocks in double precision. Lanes beyond the end count too, so `f(x, sum)` must return `sum`
/// unchanged for zeros.
///
/// # Panics
/// If the slices differ in length.
#[inline(always)]
pub fn sum_of<T: Element, S: Simd<T>, const R: usize>(
    s: S,
    reads: [&[T]; R],
    f: impl Fn([S::V; R], S::V) -> S::V,
) -> f64 {
    let len = reads[0].len();
    assert!(reads.iter().all(|r| r.len() == len));
    let mut total = 0.0;
    for from in (0..len).step_by(SUMMED * S::N) {
        let mut sums = [s.splat(T::ZERO); 4];
        for (k, i) in (from..len.min(from + SUMMED * S::N)).step_by(S::N).enumerate() {
            let x = match i + S::N <= len {
                true => reads.map(|r| s.load(&r[i..])),
                false => reads.map(|r| s.load_partial(&r[i..])),
            };
            sums[k % 4] = f(x, sums[k % 4]);
        }
        total += s.reduce_add(s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]))).to_f64();
    }
    total
}

/// How far ahead [`stream_map`] prefetches, in bytes.
const AHEAD: usize = 2048;
/// Bytes of a slice from which [`stream_map`] prefetches: below, the streams fit the second-level cache.
const LONG: usize = 128 * 1024;

/// Vectors that are summed before their sum is added to the others in double precision.
const SUMMED: usize = 64;

#[inline(always)]
fn zip<T: Element, S: Simd<T>, const W: usize, const R: usize, const K: usize, const LOOK_AHEAD: bool>(
    s: S,
    writes: [&mut [T]; W],
    reads: [&[T]; R],
    f: impl Fn([S::V; W], [S::V; R]) -> ([S::V; W], [S::V; K]),
) -> [f64; K] {
    let len = writes.first().map_or_else(|| reads[0].len(), |w| w.len());
    assert!(writes.iter().all(|w| w.len() == len) && reads.iter().all(|r| r.len() == len));
    let w = writes.map(|w| w.as_mut_ptr());
    let r = reads.map(|r| r.as_ptr());
    let full = len - len % S::N;
    let mut totals = [0.0; K];
    let mut sums = [s.splat(T::ZERO); K];
    // SAFETY: all slices have `len` elements; [i, i + N) lies below `full`, the tail in [full, len). The
    // mutable slices are disjoint from all others, since they came in as references.
    unsafe {
        let mut i = 0;
        while i < full {
            if LOOK_AHEAD {
                w.iter().for_each(|p| prefetch(p.wrapping_add(i).wrapping_byte_add(AHEAD)));
                r.iter().for_each(|p| prefetch(p.wrapping_add(i).wrapping_byte_add(AHEAD)));
            }
            let (out, terms) = f(w.map(|p| s.load_ptr(p.add(i))), r.map(|p| s.load_ptr(p.add(i))));
            for (p, v) in w.iter().zip(out) {
                s.store_ptr(p.add(i), v);
            }
            for (sum, term) in sums.iter_mut().zip(terms) {
                *sum = s.add(*sum, term);
            }
            i += S::N;
            if K > 0 && i.is_multiple_of(SUMMED * S::N) {
                take(s, &mut sums, &mut totals);
            }
        }
        if i < len {
            let n = len - i;
            let (out, terms) = f(w.map(|p| s.load_first(p.add(i), n)), r.map(|p| s.load_first(p.add(i), n)));
            for (p, v) in w.iter().zip(out) {
                s.store_first(p.add(i), n, v);
            }
            for (sum, term) in sums.iter_mut().zip(terms) {
                *sum = s.add(*sum, term);
            }
        }
    }
    take(s, &mut sums, &mut totals);
    totals
}

/// Adds sums to totals, and resets the sums to zero.
#[inline(always)]
fn take<T: Element, S: Simd<T>, const K: usize>(s: S, sums: &mut [S::V; K], totals: &mut [f64; K]) {
    for (sum, total) in sums.iter_mut().zip(totals) {
        *total += s.reduce_add(*sum).to_f64();
        *sum = s.splat(T::ZERO);
    }
}

/// Prefetches the cache line of an address, which need not be valid.
#[inline(always)]
pub(crate) fn prefetch<T>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint, which is allowed for any address; SSE is in the baseline of x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast())
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p; // no stable intrinsic; such CPUs prefetch several streams themselves
}

/// The same for what is needed only thousands of cycles later. `WRITE`: it will be written, so no other core
/// should keep it.
#[inline(always)]
pub(crate) fn prefetch_later<T, const WRITE: bool>(p: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: hints, which are allowed for any address; CPUs without `prefetchw` treat it as a no-operation.
    unsafe {
        if WRITE {
            std::arch::asm!("prefetchw [{}]", in(reg) p, options(nostack, preserves_flags, readonly));
        } else {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(p.cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

/// An instruction set for which there are kernels, from the plainest to the widest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Plain Rust that the compiler vectorizes for the platform's baseline.
    Scalar,
    /// 128-bit vectors of aarch64.
    Neon,
    /// 256-bit vectors with fused multiply-add (x86-64 since 2013).
    Avx2,
    /// 512-bit vectors with masks (AVX-512 F, BW, DQ, VL).
    Avx512,
}

impl Isa {
    /// The lower-case name, as in `THALWEG_ISA`.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Those of this kind of CPU.
    const KNOWN: &[Isa] = if cfg!(target_arch = "x86_64") {
        &[Isa::Scalar, Isa::Avx2, Isa::Avx512]
    } else if cfg!(target_arch = "aarch64") {
        &[Isa::Scalar, Isa::Neon]
    } else {
        &[Isa::Scalar]
    };

    /// The ISAs that this CPU can run, from the plainest to the widest.
    pub fn available() -> Vec<Isa> {
        Isa::KNOWN.iter().copied().filter(|isa| isa.is_available()).collect()
    }

    /// Whether this CPU can run it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Neon::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Avx2::new().is_some(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Avx512::new().is_some(),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// The cap that `THALWEG_ISA` sets, as written, if it is set.
    pub fn cap() -> Option<String> {
        let name = std::env::var_os("THALWEG_ISA").filter(|name| !name.is_empty())?;
        Some(name.to_string_lossy().into_owned())
    }

    /// The ISA that kernels use: the widest available one, capped by `THALWEG_ISA`; read once.
    ///
    /// # Errors
    /// If `THALWEG_ISA` is not the name of an ISA; the text lists the names.
    pub fn detect() -> Result<Isa, String> {
        static DETECTED: OnceLock<Result<Isa, String>> = OnceLock::new();
        DETECTED
            .get_or_init(|| {
                let available = Isa::available();
                let cap = match Isa::cap() {
                    None => Isa::Avx512,
                    // One that this CPU lacks is no limit; one of another kind of CPU is a mistake.
                    Some(name) => *Isa::KNOWN.iter().find(|isa| isa.name() == name).ok_or_else(|| {
                        let names: Vec<_> = available.iter().map(|isa| isa.name()).collect();
                        format!(
                            "THALWEG_ISA is {name:?}; on this machine, one of {} is needed",
                            names.join(", ")
                        )
                    })?,
                };
                Ok(available.into_iter().rfind(|isa| *isa <= cap).unwrap_or(Isa::Scalar))
            })
            .clone()
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Runs `op` with the token of `isa`, or of the portable code if the CPU lacks that ISA.
#[inline]
pub fn dispatch<T: Element, O: Op<T>>(isa: Isa, op: O) -> O::Output {
    T::dispatch(isa, op)
}

/// The body of [`Element::dispatch`], where both the type and the token are known.
macro_rules! dispatch_body {
    ($isa:ident, $op:ident) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            $crate::simd::Isa::Avx512 => match $crate::simd::Avx512::new() {
                Some(s) => s.run($op),
                None => $crate::simd::Portable.run($op),
            },
            #[cfg(target_arch = "x86_64")]
            $crate::simd::Isa::Avx2 => match $crate::simd::Avx2::new() {
                Some(s) => s.run($op),
                None => $crate::simd::Portable.run($op),
            },
            #[cfg(target_arch = "aarch64")]
            $crate::simd::Isa::Neon => match $crate::simd::Neon::new() {
                Some(s) => s.run($op),
                None => $crate::simd::Portable.run($op),
            },
            _ => $crate::simd::Portable.run($op),
        }
    };
}
pub(crate) use dispatch_body;

#[cfg(test)]
mod tests;
