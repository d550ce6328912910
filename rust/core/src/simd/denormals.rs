//! The mode in which a thread computes. Operations on denormal numbers take a hundred times as long as others
//! on many CPUs, and optimizer states decay into them. While a [`FlushDenormals`] exists, its thread treats them
//! as zero. It also rounds to nearest and does not trap, whatever the program around has set: others compute
//! parts of the same result.

use std::marker::PhantomData;

/// Sets the mode of this thread, and restores the previous one when dropped.
#[derive(Debug)]
pub struct FlushDenormals {
    saved: u64,
    /// The mode belongs to the thread, so the guard must not move to another.
    thread: PhantomData<*const ()>,
}

impl FlushDenormals {
    /// Starts to flush denormals.
    #[inline]
    #[allow(clippy::new_without_default)] // it acts
    pub fn new() -> Self {
        let saved = control();
        set_control(MODE);
        FlushDenormals { saved, thread: PhantomData }
    }
}

impl Drop for FlushDenormals {
    #[inline]
    fn drop(&mut self) {
        set_control(self.saved);
    }
}

#[cfg(target_arch = "x86_64")]
mod register {
    use std::arch::asm;

    /// MXCSR: flush-to-zero for results, denormals-are-zero for operands, and no exception traps.
    pub const MODE: u64 = 1 << 15 | 1 << 6 | 0b11_1111 << 7;

    #[inline]
    pub fn control() -> u64 {
        let mut mxcsr = 0u32;
        // SAFETY: stores the register into a local variable; SSE is in the baseline of x86-64.
        unsafe { asm!("stmxcsr [{}]", in(reg) &mut mxcsr, options(nostack, preserves_flags)) };
        u64::from(mxcsr)
    }

    #[inline]
    pub fn set_control(value: u64) {
        let mxcsr = value as u32;
        // SAFETY: loads `MODE`, whose bits all exist, or a value that was read from the register. Rust assumes
        // the default mode, from which `MODE` differs in denormals only. The compiler may move arithmetic across
        // this; it is then done in the other mode, in which it may round differently, as its program wished.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &mxcsr, options(nostack, preserves_flags)) };
    }
}

#[cfg(target_arch = "aarch64")]
mod register {
    use std::arch::asm;

    /// FPCR.FZ; everything else is off, so that it rounds to nearest and does not trap.
    pub const MODE: u64 = 1 << 24;

    #[inline]
    pub fn control() -> u64 {
        let fpcr: u64;
        // SAFETY: reads a register that user code may read.
        unsafe { asm!("mrs {}, fpcr", out(reg) fpcr, options(nomem, nostack, preserves_flags)) };
        fpcr
    }

    #[inline]
    pub fn set_control(value: u64) {
        // SAFETY: writes `MODE`, whose bit exists, or what was read; as on x86-64.
        unsafe { asm!("msr fpcr, {}", in(reg) value, options(nostack, preserves_flags)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod register {
    /// No such mode is known here; denormals are not flushed.
    pub const MODE: u64 = 0;
    pub fn control() -> u64 {
        0
    }
    pub fn set_control(_: u64) {}
}

use register::{MODE, control, set_control};

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use std::hint::black_box;

    use super::*;

    /// In other modes than the default one, as C programs may set them.
    #[test]
    fn the_mode_around_is_replaced_and_restored() {
        let before = control();
        let tiny = black_box(f32::MIN_POSITIVE);
        let compute = || (black_box(1.0f32) / black_box(3.0), black_box(tiny) / black_box(2.0));
        let nearest = compute();
        assert!(nearest.1 > 0.0, "denormals are not flushed outside");
        for other in [1 << 13, 2 << 13, 3 << 13] {
            set_control(before | other);
            let around = compute();
            let mode = FlushDenormals::new();
            let inside = compute();
            drop(mode);
            let again = (compute(), control() & !0b11_1111); // without the flags that say what has happened
            set_control(before);
            assert_eq!(inside, (nearest.0, 0.0), "mode {other:#x}");
            assert_eq!(again, (around, (before | other) & !0b11_1111));
            assert!(around.0 != nearest.0 || other != 1 << 13, "rounding downwards is seen");
        }
        // A division by zero traps outside, and gives infinity inside.
        set_control(before & !(1 << 9));
        let mode = FlushDenormals::new();
        let infinite = black_box(1.0f32) / black_box(0.0);
        drop(mode);
        set_control(before);
        assert_eq!(infinite, f32::INFINITY);
    }
}
