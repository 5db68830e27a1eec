//! Elements of the three formats in vectors.

use crate::format::float::Format;
use core::arch::asm;
use core::arch::x86_64::*;

/// Which 16-bit format: told by the mantissa.
#[inline(always)]
pub fn half_float<F: Format>() -> bool {
    F::MANT == 10
}

/// A vector of bytes.
///
/// # Safety
/// The machine has AVX2; 32 bytes can be read.
#[inline(always)]
pub unsafe fn load(p: *const u8) -> __m256i {
    _mm256_loadu_si256(p as *const _)
}

// The two conversions are assembly because their intrinsics are younger than the oldest compiler
// that is supported. All are exact where the codec uses them, and take no notice of the modes that
// flush subnormal numbers to zero. Old compilers ask for `avx` by name where its registers are used.

/// Eight `f16`s as `f32`s.
///
/// # Safety
/// The machine has AVX2 and F16C.
#[inline]
#[target_feature(enable = "avx,avx2")]
pub unsafe fn widen(v: __m128i) -> __m256 {
    let out: __m256;
    asm!("vcvtph2ps {}, {}", out(ymm_reg) out, in(xmm_reg) v, options(pure, nomem, nostack, preserves_flags));
    out
}

/// Eight `f16`s, rounded towards zero, to the largest finite number at most.
///
/// # Safety
/// The machine has AVX2 and F16C.
#[inline]
#[target_feature(enable = "avx,avx2")]
pub unsafe fn narrow_down(v: __m256) -> __m128i {
    let out: __m128i;
    asm!("vcvtps2ph {}, {}, 3", out(xmm_reg) out, in(ymm_reg) v, options(pure, nomem, nostack, preserves_flags));
    out
}
