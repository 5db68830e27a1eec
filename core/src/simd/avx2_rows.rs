//! AVX2 twin of the base's values, and conversions of floats that other twins need.

use crate::float::Format;
use core::arch::asm;
use core::arch::x86_64::*;

/// Elements of one step.
const STEP: usize = 32;

/// Which 16-bit format: told by the mantissa.
#[inline(always)]
pub fn half_float<F: Format>() -> bool {
    F::MANT == 10
}

#[inline(always)]
pub unsafe fn load(p: *const u8) -> __m256i {
    _mm256_loadu_si256(p as *const _)
}

// The two conversions are assembly because their intrinsics are younger than the oldest compiler
// that is supported. All are exact where the codec uses them, and take no notice of the modes that
// flush subnormal numbers to zero. Old compilers ask for `avx` by name where its registers are used.

/// Eight `f16`s as `f32`s.
#[inline]
#[target_feature(enable = "avx,avx2")]
pub unsafe fn widen(v: __m128i) -> __m256 {
    let out: __m256;
    asm!("vcvtph2ps {}, {}", out(ymm_reg) out, in(xmm_reg) v, options(pure, nomem, nostack, preserves_flags));
    out
}

/// Eight `f16`s, rounded towards zero, to the largest finite number at most.
#[inline]
#[target_feature(enable = "avx,avx2")]
pub unsafe fn narrow_down(v: __m256) -> __m128i {
    let out: __m128i;
    asm!("vcvtps2ph {}, {}, 3", out(xmm_reg) out, in(ymm_reg) v, options(pure, nomem, nostack, preserves_flags));
    out
}

/// Values of 32 base symbols.
#[inline(always)]
pub unsafe fn bin_values32<F: Format>(s: __m256i, step: __m256, mem: *mut u8) {
    let middle = _mm256_set1_epi8(-128);
    // Escape is 0 as a symbol, which has to become bin 0.
    let s = _mm256_blendv_epi8(s, middle, _mm256_cmpeq_epi8(s, _mm256_setzero_si256()));
    let q = _mm256_xor_si256(s, middle);
    let mut bytes = [0u8; STEP];
    _mm256_storeu_si256(bytes.as_mut_ptr() as *mut _, q);
    let value = |i: usize| {
        let q = _mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.as_ptr().add(i) as *const _));
        _mm256_mul_ps(_mm256_cvtepi32_ps(q), step)
    };
    for i in (0..STEP).step_by(16) {
        let (a, b) = (value(i), value(i + 8));
        let at = mem.add(i * F::BYTES);
        if F::BYTES == 4 {
            _mm256_storeu_ps(at as *mut f32, a);
            _mm256_storeu_ps(at.add(32) as *mut f32, b);
        } else if half_float::<F>() {
            _mm_storeu_si128(at as *mut _, narrow_down(a));
            _mm_storeu_si128(at.add(16) as *mut _, narrow_down(b));
        } else {
            let upper = |v| _mm256_srli_epi32::<16>(_mm256_castps_si256(v));
            let v = _mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi32(upper(a), upper(b)));
            _mm256_storeu_si256(at as *mut _, v);
        }
    }
}

/// Twin of [`bins::bin_values`](crate::bins::bin_values).
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn bin_values<F: Format>(sym: &[u8], step: f32, mem: &mut [u8]) {
    let n = sym.len();
    assert!(mem.len() == n * F::BYTES);
    let step = _mm256_set1_ps(step);
    let whole = n / STEP * STEP;
    for i in (0..whole).step_by(STEP) {
        let s = load(sym.as_ptr().add(i));
        bin_values32::<F>(s, step, mem.as_mut_ptr().add(i * F::BYTES));
    }
    if whole < n {
        let (mut m, mut s) = ([0u8; 4 * STEP], [0u8; STEP]);
        s[..n - whole].copy_from_slice(&sym[whole..]);
        bin_values32::<F>(load(s.as_ptr()), step, m.as_mut_ptr());
        mem[whole * F::BYTES..].copy_from_slice(&m[..(n - whole) * F::BYTES]);
    }
}
