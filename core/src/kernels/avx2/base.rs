//! AVX2 twins of the kernels of the base.

use super::cells::{floor16, pack32};
use super::floats::{half_float, load, narrow_down};
use crate::format::float::Format;
use crate::kernels::scalar::cells::{self as scalar, Halving};
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

/// Values of the cells of eight elements, whose middles are odd multiples of half a cell.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn middle8(odd: __m128i, half: __m256) -> __m256 {
    _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(odd)), half)
}

/// Twin of [`scalar::cells_of`].
///
/// # Safety
/// The machine has AVX2 and F16C.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn cells_of<F: Format>(
    sym: &[u8],
    e: i32,
    positions: &[u8],
    row: &Halving,
    mem: &mut [u8],
) {
    let n = sym.len();
    assert!(positions.len() == n && mem.len() == n * F::BYTES);
    // Twice the cells of all bins fit sixteen bits.
    let done = if row.k < 8 { n / 16 * 16 } else { 0 };
    let half = _mm256_set1_ps(row.half);
    let shift = _mm_cvtsi32_si128(row.k as i32 + 1);
    let cells = 1i32 << row.k;
    let first = _mm256_set1_epi16((1 - cells - 256 * cells) as i16);
    let (zero, middle) = (_mm_setzero_si128(), _mm_set1_epi8(-128));
    for i in (0..done).step_by(16) {
        let s = _mm_loadu_si128(sym.as_ptr().add(i) as *const _);
        // The escape is bin 0.
        let s = _mm_or_si128(s, _mm_and_si128(_mm_cmpeq_epi8(s, zero), middle));
        let f = _mm_loadu_si128(positions.as_ptr().add(i) as *const _);
        let (s, f) = (_mm256_cvtepu8_epi16(s), _mm256_cvtepu8_epi16(f));
        let bins = _mm256_add_epi16(_mm256_sll_epi16(s, shift), first);
        let odd = _mm256_add_epi16(bins, _mm256_add_epi16(f, f));
        let a = middle8(_mm256_castsi256_si128(odd), half);
        let b = middle8(_mm256_extracti128_si256::<1>(odd), half);
        let at = mem.as_mut_ptr().add(i * F::BYTES);
        if F::BYTES == 4 {
            _mm256_storeu_ps(at as *mut f32, a);
            _mm256_storeu_ps(at.add(32) as *mut f32, b);
        } else {
            _mm256_storeu_si256(at as *mut _, floor16::<F>(a, b));
        }
    }
    if done < n {
        let (sym, positions) = (&sym[done..], &positions[done..]);
        scalar::cells_of::<F>(sym, e, positions, row, &mut mem[done * F::BYTES..]);
    }
}
