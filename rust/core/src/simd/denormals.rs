//! Operations on denormal numbers take a hundred times as long as others on many CPUs, and optimizer states
//! decay into them. While a [`FlushDenormals`] exists, its thread treats them as zero.

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
        set_control(saved | FLUSH);
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

    /// MXCSR: flush-to-zero for results, denormals-are-zero for operands.
    pub const FLUSH: u64 = 1 << 15 | 1 << 6;

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
        // SAFETY: loads a value that was read from the register, with only the two flush bits changed. Rust
        // assumes the default mode, so the compiler may move arithmetic across this; it is then done in the
        // other mode, and only results or operands that are denormal can come out differently, as zero or not.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &mxcsr, options(nostack, preserves_flags)) };
    }
}

#[cfg(target_arch = "aarch64")]
mod register {
    use std::arch::asm;

    /// FPCR.FZ
    pub const FLUSH: u64 = 1 << 24;

    #[inline]
    pub fn control() -> u64 {
        let fpcr: u64;
        // SAFETY: reads a register that user code may read.
        unsafe { asm!("mrs {}, fpcr", out(reg) fpcr, options(nomem, nostack, preserves_flags)) };
        fpcr
    }

    #[inline]
    pub fn set_control(value: u64) {
        // SAFETY: writes back what was read, with only the flush bit changed; as on x86-64.
        unsafe { asm!("msr fpcr, {}", in(reg) value, options(nostack, preserves_flags)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod register {
    /// No such mode is known here; denormals are not flushed.
    pub const FLUSH: u64 = 0;
    pub fn control() -> u64 {
        0
    }
    pub fn set_control(_: u64) {}
}

use register::{FLUSH, control, set_control};
