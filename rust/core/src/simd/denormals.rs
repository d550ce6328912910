//! Denormal numbers cost a hundred times an ordinary operation on many CPUs, and optimizer states
//! decay into them. While a [`FlushDenormals`] lives, its thread treats them as zero.

use std::marker::PhantomData;

/// Sets the mode of this thread; restores what it was when dropped.
#[derive(Debug)]
pub struct FlushDenormals {
    saved: u64,
    /// The mode is a thread's: the guard must not move to another.
    thread: PhantomData<*const ()>,
}

impl FlushDenormals {
    /// Flushes from now on.
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
        // SAFETY: stores the register into a local; SSE is in the baseline of x86-64.
        unsafe { asm!("stmxcsr [{}]", in(reg) &mut mxcsr, options(nostack, preserves_flags)) };
        u64::from(mxcsr)
    }

    #[inline]
    pub fn set_control(value: u64) {
        let mxcsr = value as u32;
        // SAFETY: loads a value that was read from the register, but for the two flush bits. Rust assumes the default
        // mode, so that arithmetic which it moved across this could come out either way, within its error. What a
        // region computes is behind calls through pointers, which it cannot look into: there, nothing moves.
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
        // SAFETY: writes what was read, but for the flush bit.
        unsafe { asm!("msr fpcr, {}", in(reg) value, options(nostack, preserves_flags)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod register {
    /// No such mode is known here; denormals are computed with.
    pub const FLUSH: u64 = 0;
    pub fn control() -> u64 {
        0
    }
    pub fn set_control(_: u64) {}
}

use register::{FLUSH, control, set_control};
