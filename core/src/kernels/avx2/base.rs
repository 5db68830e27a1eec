//! AVX2 twins of the kernels of the base.

use super::cells::pack32;
use super::floats::{half_float, load, narrow_down};
use crate::format::float::Format;
use core::arch::x86_64::*;

/// Elements of one step.
const STEP: usize = 32;

/// Values of eight bins.
///
/// # Safety
/// The machine has AVX2; eight bytes can be read.
#[inline(always)]
unsafe fn value8(bins: *const u8, step: __m256) -> __m256 {
    let q = _mm256_cvtepi8_epi32(_mm_loadl_epi64(bins as *const _));
    _mm256_mul_ps(_mm256_cvtepi32_ps(q), step)
}

/// Values of 32 base symbols.
///
/// # Safety
/// The machine has AVX2 and F16C; 32 elements can be written.
#[inline(always)]
pub unsafe fn bin_values32<F: Format>(s: __m256i, step: __m256, mem: *mut u8) {
    let middle = _mm256_set1_epi8(-128);
    // Escape is 0 as a symbol, which has to become bin 0.
    let s = _mm256_blendv_epi8(s, middle, _mm256_cmpeq_epi8(s, _mm256_setzero_si256()));
    let q = _mm256_xor_si256(s, middle);
    let mut bytes = [0u8; STEP];
    _mm256_storeu_si256(bytes.as_mut_ptr() as *mut _, q);
    for i in (0..STEP).step_by(16) {
        let (a, b) = (
            value8(bytes.as_ptr().add(i), step),
            value8(bytes.as_ptr().add(i + 8), step),
        );
        let at = mem.add(i * F::BYTES);
        if F::BYTES == 4 {
            _mm256_storeu_ps(at as *mut f32, a);
            _mm256_storeu_ps(at.add(32) as *mut f32, b);
        } else if half_float::<F>() {
            _mm_storeu_si128(at as *mut _, narrow_down(a));
            _mm_storeu_si128(at.add(16) as *mut _, narrow_down(b));
        } else {
            let (a, b) = (_mm256_castps_si256(a), _mm256_castps_si256(b));
            let v = pack32(_mm256_srli_epi32::<16>(a), _mm256_srli_epi32::<16>(b));
            _mm256_storeu_si256(at as *mut _, v);
        }
    }
}

/// Twin of [`bin_values`](crate::kernels::scalar::base::bin_values).
///
/// # Safety
/// The machine has AVX2 and F16C.
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
