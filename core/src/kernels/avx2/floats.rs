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

// The three conversions are assembly because their intrinsics are younger than the oldest compiler
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

/// Eight `f16`s, each the smallest that is at least the number given.
///
/// # Safety
/// The machine has AVX2 and F16C.
#[inline]
#[target_feature(enable = "avx,avx2")]
pub unsafe fn narrow_up(v: __m256) -> __m128i {
    let out: __m128i;
    asm!("vcvtps2ph {}, {}, 2", out(xmm_reg) out, in(ymm_reg) v, options(pure, nomem, nostack, preserves_flags));
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

/// Bits of eight elements.
///
/// # Safety
/// The machine has AVX2; eight elements can be read.
#[inline(always)]
pub unsafe fn bits8<F: Format>(mem: *const u8) -> __m256i {
    if F::BYTES == 2 {
        _mm256_cvtepu16_epi32(_mm_loadu_si128(mem as *const _))
    } else {
        _mm256_loadu_si256(mem as *const _)
    }
}

/// The lower halves of eight lanes that are below 2^16.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
pub unsafe fn words8(v: __m256i) -> __m128i {
    _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v))
}

/// Values of eight ordered integers.
///
/// # Safety
/// The machine has AVX2 and F16C.
#[inline(always)]
pub unsafe fn values8<F: Format>(u: __m256i) -> __m256 {
    if F::BYTES == 4 {
        _mm256_castsi256_ps(u)
    } else if half_float::<F>() {
        widen(words8(u))
    } else {
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(u))
    }
}

/// The largest ordered integers whose values are at most these.
///
/// # Safety
/// The machine has AVX2 and F16C.
#[inline(always)]
pub unsafe fn floor8<F: Format>(v: __m256) -> __m256i {
    if F::BYTES == 4 {
        _mm256_castps_si256(v)
    } else if half_float::<F>() {
        _mm256_cvtepu16_epi32(narrow_down(v))
    } else {
        _mm256_srli_epi32::<16>(_mm256_castps_si256(v))
    }
}

/// The smallest ordered integers whose values are at least these.
///
/// # Safety
/// The machine has AVX2 and F16C.
#[inline(always)]
pub unsafe fn ceil8<F: Format>(v: __m256) -> __m256i {
    if F::BYTES == 4 {
        _mm256_castps_si256(v)
    } else if half_float::<F>() {
        _mm256_cvtepu16_epi32(narrow_up(v))
    } else {
        let v = _mm256_add_epi32(_mm256_castps_si256(v), _mm256_set1_epi32(0xffff));
        _mm256_srli_epi32::<16>(v)
    }
}
