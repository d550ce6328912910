//! What multiplies numbers of bfloat16: AVX-512 BF16, and Intel's tile unit (AMX) where there is one.

use std::sync::OnceLock;

use super::Avx512;

/// Token of AVX-512 with conversions to and products of bfloat16.
#[derive(Clone, Copy, Debug)]
pub struct Bf16(());

impl Bf16 {
    /// The token, if this CPU has the instructions.
    pub fn new() -> Option<Self> {
        (Avx512::new().is_some() && is_x86_feature_detected!("avx512bf16")).then_some(Bf16(()))
    }

    /// AVX-512, which is there beside it.
    pub fn avx512(self) -> Avx512 {
        Avx512::new().expect("the token is made beside it")
    }
}

/// Token of the tile unit. There is one only if the CPU has AMX-BF16 beside AVX-512 BF16, and the kernel
/// lets this process use tiles.
#[derive(Clone, Copy, Debug)]
pub struct Amx(());

impl Amx {
    /// The token, if this machine has the unit. The process asks the kernel once.
    pub fn new() -> Option<Self> {
        static FOUND: OnceLock<bool> = OnceLock::new();
        FOUND.get_or_init(|| has_unit() && may_use_tiles()).then_some(Amx(()))
    }
}

fn has_unit() -> bool {
    /// Bits of leaf 7's EDX.
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    let edx = std::arch::x86_64::__cpuid_count(7, 0).edx;
    Bf16::new().is_some() && edx & AMX_BF16 != 0 && edx & AMX_TILE != 0
}

/// Linux keeps room for tiles only for processes that ask.
fn may_use_tiles() -> bool {
    #[cfg(target_os = "linux")]
    {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: the call takes two numbers; where the kernel does not know it, it fails.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    false
}
