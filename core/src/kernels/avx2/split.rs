//! AVX2 twins of the encoder's row kernels from floats to symbols, and on to what is below them:
//! sixteen 16-bit floats or eight `f32`s at a time. What is computed is what `quantise.rs` says.

#![allow(clippy::missing_safety_doc)]

use super::floats::{half_float, load, narrow_up};
use crate::format::float::{pow2, Format};
use crate::kernels::scalar::level::{zero_top, Row, NOWHERE};
use core::arch::x86_64::*;

/// One row's constants on the way from bins to what is below.
struct Split {
    step: __m256,
    half: __m256,
    below: i32,
    /// Symbol of the largest magnitude in bin 0, if positive.
    top: i32,
    mask: i32,
    mask_zero: i32,
    tz: __m128i,
    raw: __m128i,
    raw_zero: __m128i,
}

impl Split {
    #[inline(always)]
    unsafe fn new<F: Format>(row: &Row) -> Self {
        Split {
            step: _mm256_set1_ps(pow2(row.e)),
            half: _mm256_set1_ps(pow2(row.e - 1)),
            below: (1 << row.tz) - 1,
            top: zero_top::<F, false>(row).wrapping_add(1) as i32,
            mask: (1 << row.raw) - 1,
            mask_zero: (1 << row.raw_zero) - 1,
            tz: _mm_cvtsi32_si128(row.tz as i32),
            raw: _mm_cvtsi32_si128(row.raw as i32),
            raw_zero: _mm_cvtsi32_si128(row.raw_zero as i32),
        }
    }
    /// Lower edges `(q - 1/2) * step` of eight bins.
    #[inline(always)]
    unsafe fn edges(&self, q: __m256i) -> __m256 {
        _mm256_sub_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(q), self.step), self.half)
    }
    /// Ordered integers of sixteen edges.
    #[inline(always)]
    unsafe fn ceil16<F: Format>(&self, q: __m256i) -> __m256i {
        let a = self.edges(_mm256_cvtepi16_epi32(_mm256_castsi256_si128(q)));
        let b = self.edges(_mm256_cvtepi16_epi32(_mm256_extracti128_si256::<1>(q)));
        if half_float::<F>() {
            let (a, b) = (narrow_up(a), narrow_up(b));
            _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b)
        } else {
            let up = _mm256_set1_epi32(0xffff);
            let a = _mm256_srli_epi32::<16>(_mm256_add_epi32(_mm256_castps_si256(a), up));
            let b = _mm256_srli_epi32::<16>(_mm256_add_epi32(_mm256_castps_si256(b), up));
            _mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi32(a, b))
        }
    }
    /// Sixteen 16-bit floats; returns their symbols. Those of `quantise::split_row` modulo 2^16,
    /// which says as well whether one is outside of 0 to 255.
    #[inline(always)]
    unsafe fn split16<F: Format>(
        &self,
        mem: *const u8,
        pos: *const i16,
        sym: *mut u8,
        below: *mut u32,
    ) -> __m256i {
        let zeros = _mm256_setzero_si256();
        let (v, q) = (load(mem), load(pos as *const u8));
        let u = _mm256_and_si256(v, _mm256_set1_epi16(0x7fff));
        let ut = _mm256_srl_epi16(u, self.tz);
        let lo = _mm256_add_epi16(self.ceil16::<F>(q), _mm256_set1_epi16(self.below as i16));
        let d = _mm256_sub_epi16(ut, _mm256_srl_epi16(lo, self.tz));
        let inside = _mm256_sra_epi16(d, self.raw);
        let sign = _mm256_srli_epi16::<15>(v);
        let z = _mm256_sub_epi16(
            _mm256_set1_epi16(self.top as i16),
            _mm256_srl_epi16(ut, self.raw_zero),
        );
        let near = _mm256_andnot_si256(_mm256_cmpeq_epi16(u, zeros), _mm256_add_epi16(z, z));
        let near = _mm256_add_epi16(near, sign);
        let zero = _mm256_cmpeq_epi16(q, zeros);
        let known = _mm256_cmpgt_epi16(zeros, q);
        let s = _mm256_andnot_si256(known, _mm256_blendv_epi8(inside, near, zero));
        let b = _mm256_blendv_epi8(
            _mm256_and_si256(d, _mm256_set1_epi16(self.mask as i16)),
            _mm256_and_si256(ut, _mm256_set1_epi16(self.mask_zero as i16)),
            zero,
        );
        let b = _mm256_andnot_si256(known, b);
        let (b0, b1) = (_mm256_castsi256_si128(b), _mm256_extracti128_si256::<1>(b));
        _mm256_storeu_si256(below as *mut _, _mm256_cvtepu16_epi32(b0));
        _mm256_storeu_si256(below.add(8) as *mut _, _mm256_cvtepu16_epi32(b1));
        let bytes = _mm256_and_si256(s, _mm256_set1_epi16(255));
        let bytes = _mm256_permute4x64_epi64::<8>(_mm256_packus_epi16(bytes, bytes));
        _mm_storeu_si128(sym as *mut _, _mm256_castsi256_si128(bytes));
        _mm256_andnot_si256(_mm256_set1_epi16(255), s)
    }
    /// Eight `f32`s, likewise.
    #[inline(always)]
    unsafe fn split8(
        &self,
        mem: *const u8,
        pos: *const i16,
        sym: *mut u8,
        below: *mut u32,
    ) -> __m256i {
        let zeros = _mm256_setzero_si256();
        let v = load(mem);
        let q = _mm256_cvtepi16_epi32(_mm_loadu_si128(pos as *const _));
        let u = _mm256_and_si256(v, _mm256_set1_epi32(0x7fff_ffff));
        let ut = _mm256_srl_epi32(u, self.tz);
        let edge = _mm256_castps_si256(self.edges(q));
        let lo = _mm256_add_epi32(edge, _mm256_set1_epi32(self.below));
        let d = _mm256_sub_epi32(ut, _mm256_srl_epi32(lo, self.tz));
        let inside = _mm256_sra_epi32(d, self.raw);
        let sign = _mm256_srli_epi32::<31>(v);
        let z = _mm256_sub_epi32(
            _mm256_set1_epi32(self.top),
            _mm256_srl_epi32(ut, self.raw_zero),
        );
        let near = _mm256_andnot_si256(_mm256_cmpeq_epi32(u, zeros), _mm256_add_epi32(z, z));
        let near = _mm256_add_epi32(near, sign);
        let zero = _mm256_cmpeq_epi32(q, zeros);
        let known = _mm256_cmpgt_epi32(zeros, q);
        let s = _mm256_andnot_si256(known, _mm256_blendv_epi8(inside, near, zero));
        let b = _mm256_blendv_epi8(
            _mm256_and_si256(d, _mm256_set1_epi32(self.mask)),
            _mm256_and_si256(ut, _mm256_set1_epi32(self.mask_zero)),
            zero,
        );
        _mm256_storeu_si256(below as *mut _, _mm256_andnot_si256(known, b));
        let bytes = _mm256_and_si256(s, _mm256_set1_epi32(255));
        let (low, high) = (
            _mm256_castsi256_si128(bytes),
            _mm256_extracti128_si256::<1>(bytes),
        );
        let words = _mm_packus_epi32(low, high);
        _mm_storel_epi64(sym as *mut _, _mm_packus_epi16(words, words));
        _mm256_andnot_si256(_mm256_set1_epi32(255), s)
    }
    #[inline(always)]
    unsafe fn vector<F: Format>(
        &self,
        mem: *const u8,
        pos: *const i16,
        sym: *mut u8,
        below: *mut u32,
    ) -> __m256i {
        if F::BYTES == 2 {
            self.split16::<F>(mem, pos, sym, below)
        } else {
            self.split8(mem, pos, sym, below)
        }
    }
}

/// Twin of [`split_row`](crate::kernels::scalar::quantise::split_row) from bins to exact.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn split_exact<F: Format>(
    mem: &[u8],
    pos: &[i16],
    sym: &mut [u8],
    below: &mut [u32],
    row: &Row,
) -> bool {
    let n = sym.len();
    assert!(mem.len() == n * F::BYTES && pos.len() == n && below.len() == n);
    let k = Split::new::<F>(row);
    let mut far = _mm256_setzero_si256();
    let step = 32 / F::BYTES;
    let whole = n / step * step;
    for i in (0..whole).step_by(step) {
        let (mem, pos) = (mem.as_ptr().add(i * F::BYTES), pos.as_ptr().add(i));
        let (sym, below) = (sym.as_mut_ptr().add(i), below.as_mut_ptr().add(i));
        far = _mm256_or_si256(far, k.vector::<F>(mem, pos, sym, below));
    }
    if whole < n {
        let (mut m, mut p) = ([0u8; 32], [NOWHERE; 16]);
        let (mut s, mut b) = ([0u8; 16], [0u32; 16]);
        m[..(n - whole) * F::BYTES].copy_from_slice(&mem[whole * F::BYTES..]);
        p[..n - whole].copy_from_slice(&pos[whole..]);
        let (s_at, b_at) = (s.as_mut_ptr(), b.as_mut_ptr());
        far = _mm256_or_si256(far, k.vector::<F>(m.as_ptr(), p.as_ptr(), s_at, b_at));
        sym[whole..].copy_from_slice(&s[..n - whole]);
        below[whole..].copy_from_slice(&b[..n - whole]);
    }
    _mm256_testz_si256(far, far) == 0
}
