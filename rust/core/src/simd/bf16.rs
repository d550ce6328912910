//! Tokens of the units that multiply bfloat16 numbers: AVX-512 BF16, and Intel's tile unit (AMX).

use std::sync::OnceLock;

use super::Avx512;

/// Token of AVX-512 with conversions to bfloat16 and bfloat16 products.
#[derive(Clone, Copy, Debug)]
pub struct Bf16(());

impl Bf16 {
    /// The token, if this CPU has the instructions.
    pub fn new() -> Option<Self> {
        (Avx512::new().is_some() && is_x86_feature_detected!("avx512bf16")).then_some(Bf16(()))
    }

    /// The AVX-512 token, which this token implies.
    pub fn avx512(self) -> Avx512 {
        Avx512::new().expect("the token is made beside it")
    }
}

/// Token of the tile unit. It exists only if the CPU has AMX-BF16 besides AVX-512 BF16, and the operating
/// system lets this process use tiles.
#[derive(Clone, Copy, Debug)]
pub struct Amx(());

impl Amx {
    /// The token, if this machine has the unit. The process asks the operating system once.
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

/// Linux reserves space for tiles only for processes that ask.
fn may_use_tiles() -> bool {
    #[cfg(target_os = "linux")]
    {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: the call takes two numbers and no pointers; a kernel that does not know it returns an
        // error.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    false
}
