//! AVX2 twins of the encoder's row kernels to cells and from cells, eight elements at a time. What
//! is computed is what `quantise.rs` and `level.rs` say.

#![allow(clippy::missing_safety_doc)]
#![cfg_attr(not(feature = "encode"), allow(dead_code, unused_imports))]

use super::floats::{bits8, ceil8, floor8, values8, words8};
#[cfg(feature = "encode")]
use super::quantise::Pair;
use crate::format::float::{pow2, Format};
use crate::kernels::scalar::level::{zero_top, Row, NOWHERE};
#[cfg(feature = "encode")]
use crate::kernels::scalar::quantise::Cells;
#[cfg(feature = "encode")]
use crate::kernels::scalar::squares::Squares;
use core::arch::x86_64::*;

const STEP: usize = 8;
/// Values from here up are not in cells.
const CELLS_END: f32 = 8_388_608.0;

/// Writes symbols; returns what of them lies above eight bits.
#[inline(always)]
unsafe fn store_symbols(s: __m256i, sym: *mut u8) -> __m256i {
    let byte = _mm256_set1_epi32(255);
    let words = words8(_mm256_and_si256(s, byte));
    _mm_storel_epi64(sym as *mut _, _mm_packus_epi16(words, words));
    _mm256_andnot_si256(byte, s)
}

#[inline(always)]
unsafe fn not(v: __m256i) -> __m256i {
    _mm256_xor_si256(v, _mm256_set1_epi32(-1))
}

/// Memory of eight elements of one row, or of fewer and zeros.
#[cfg(feature = "encode")]
struct Part {
    mem: *const u8,
    pos: *const i16,
    ctx: *const u8,
    cur: *mut u8,
    sym: *mut u8,
    below: *mut u32,
}

/// One row's constants on the way from bins to cells.
#[cfg(feature = "encode")]
struct ToCells {
    scale: __m256,
    width: __m256,
    /// From twice a bin's lower edge to its first cell.
    finer: __m128i,
    raw: __m128i,
    mask: __m256i,
}

#[cfg(feature = "encode")]
impl ToCells {
    #[inline(always)]
    unsafe fn new(row: &Row, k: u32) -> Self {
        ToCells {
            scale: _mm256_set1_ps(pow2(k as i32 - row.e)),
            width: _mm256_set1_ps(pow2(row.e - k as i32 - 1)),
            finer: _mm_cvtsi32_si128(k as i32 - 1),
            raw: _mm_cvtsi32_si128(row.raw as i32),
            mask: _mm256_set1_epi32((1 << row.raw) - 1),
        }
    }
    /// Symbols, low bits and state of eight elements; returns what of the symbols is too much.
    #[inline(always)]
    unsafe fn step<F: Format>(&self, p: &Part, error: &mut Pair) -> __m256i {
        let (zeros, one) = (_mm256_setzero_si256(), _mm256_set1_epi32(1));
        let bits = bits8::<F>(p.mem);
        let u = _mm256_and_si256(bits, _mm256_set1_epi32(F::MASK as i32));
        let v = values8::<F>(u);
        let q = _mm256_cvtepi16_epi32(_mm_loadu_si128(p.pos as *const _));
        let known = _mm256_cmpgt_epi32(zeros, q);
        let a = _mm256_mul_ps(v, self.scale);
        let end = _mm256_set1_ps(CELLS_END);
        let fits = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_LT_OQ>(a, end));
        let c = _mm256_and_si256(_mm256_cvttps_epi32(a), fits);
        let sign = _mm256_srli_epi32::<31>(if F::BYTES == 2 {
            _mm256_slli_epi32::<16>(bits)
        } else {
            bits
        });
        let none = _mm256_cmpeq_epi32(u, zeros);
        let near = _mm256_add_epi32(_mm256_sra_epi32(c, self.raw), one);
        let near = _mm256_andnot_si256(none, _mm256_add_epi32(near, near));
        let near = _mm256_add_epi32(near, sign);
        let h = _mm256_sub_epi32(_mm256_add_epi32(q, q), one);
        let d = _mm256_sub_epi32(c, _mm256_sll_epi32(h, self.finer));
        let zero = _mm256_cmpeq_epi32(q, zeros);
        let s = _mm256_blendv_epi8(_mm256_sra_epi32(d, self.raw), near, zero);
        // An element outside of all cells has to be patched.
        let s = _mm256_andnot_si256(known, _mm256_or_si256(s, not(fits)));
        let b = _mm256_and_si256(_mm256_blendv_epi8(d, c, zero), self.mask);
        let b = _mm256_andnot_si256(known, b);
        _mm256_storeu_si256(p.below as *mut _, b);
        // The state: the middle of the cell, zeros and what is known as they are.
        let odd = _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_add_epi32(c, c), one));
        let state = floor8::<F>(_mm256_mul_ps(odd, self.width));
        let state = _mm256_blendv_epi8(state, u, _mm256_or_si256(known, none));
        error.add_difference(v, values8::<F>(state), known);
        let signs = _mm256_andnot_si256(_mm256_set1_epi32(F::MASK as i32), bits);
        let state = _mm256_or_si256(state, signs);
        if F::BYTES == 2 {
            _mm_storeu_si128(p.cur as *mut _, words8(state));
        } else {
            _mm256_storeu_si256(p.cur as *mut _, state);
        }
        store_symbols(s, p.sym)
    }
}

/// Twin of [`split_cells`](crate::kernels::scalar::quantise::split_cells).
#[cfg(feature = "encode")]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn split_cells<F: Format>(
    mem: &[u8],
    out: Cells,
    row: &Row,
    k: u32,
    sums: &mut Squares,
) -> bool {
    let n = out.sym.len();
    assert!(mem.len() == n * F::BYTES && out.cur.len() == n * F::BYTES);
    assert!(out.pos.len() == n && out.below.len() == n);
    let to = ToCells::new(row, k);
    let mut error = Pair::new(sums.begin());
    let mut far = _mm256_setzero_si256();
    let whole = n / STEP * STEP;
    for i in (0..whole).step_by(STEP) {
        let part = Part {
            mem: mem.as_ptr().add(i * F::BYTES),
            pos: out.pos.as_ptr().add(i),
            ctx: core::ptr::null(),
            cur: out.cur.as_mut_ptr().add(i * F::BYTES),
            sym: out.sym.as_mut_ptr().add(i),
            below: out.below.as_mut_ptr().add(i),
        };
        far = _mm256_or_si256(far, to.step::<F>(&part, &mut error));
    }
    if whole < n {
        let rest = (n - whole) * F::BYTES;
        let (mut m, mut c, mut p) = ([0u8; 32], [0u8; 32], [NOWHERE; STEP]);
        let (mut s, mut b) = ([0u8; STEP], [0u32; STEP]);
        m[..rest].copy_from_slice(&mem[whole * F::BYTES..]);
        p[..n - whole].copy_from_slice(&out.pos[whole..]);
        let part = Part {
            mem: m.as_ptr(),
            pos: p.as_ptr(),
            ctx: core::ptr::null(),
            cur: c.as_mut_ptr(),
            sym: s.as_mut_ptr(),
            below: b.as_mut_ptr(),
        };
        far = _mm256_or_si256(far, to.step::<F>(&part, &mut error));
        out.cur[whole * F::BYTES..].copy_from_slice(&c[..rest]);
        out.sym[whole..].copy_from_slice(&s[..n - whole]);
        out.below[whole..].copy_from_slice(&b[..n - whole]);
    }
    sums.end(error.lanes(), n);
    _mm256_testz_si256(far, far) == 0
}

/// Contexts of eight elements whose cells are known.
#[inline(always)]
unsafe fn contexts8<F: Format>(mem: *const u8, scale: __m256, ctx: *mut u8) {
    let zeros = _mm256_setzero_si256();
    let u = _mm256_and_si256(bits8::<F>(mem), _mm256_set1_epi32(F::MASK as i32));
    let a = _mm256_mul_ps(values8::<F>(u), scale);
    // An infinity or NaN is not below the end.
    let inside = _mm256_cmp_ps::<_CMP_LT_OQ>(a, _mm256_set1_ps(CELLS_END));
    let closed = _mm256_or_si256(
        not(_mm256_castps_si256(inside)),
        _mm256_cmpeq_epi32(u, zeros),
    );
    let exponent = _mm256_srli_epi32::<23>(_mm256_castps_si256(a));
    let octave = _mm256_sub_epi32(exponent, _mm256_set1_epi32(126));
    let octave = _mm256_max_epi32(octave, zeros);
    let octave = _mm256_min_epi32(octave, _mm256_set1_epi32(12));
    let octave = _mm256_blendv_epi8(octave, _mm256_set1_epi32(13), closed);
    store_symbols(octave, ctx);
}

/// Twin of [`level::classify`](crate::kernels::scalar::level::classify) from cells.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn classify<F: Format>(mem: &[u8], e: i32, ctx: &mut [u8]) {
    let n = ctx.len();
    assert!(mem.len() == n * F::BYTES);
    let scale = _mm256_set1_ps(pow2(-e));
    let whole = n / STEP * STEP;
    for i in (0..whole).step_by(STEP) {
        let (mem, ctx) = (mem.as_ptr().add(i * F::BYTES), ctx.as_mut_ptr().add(i));
        contexts8::<F>(mem, scale, ctx);
    }
    if whole < n {
        let (mut m, mut c) = ([0u8; 32], [0u8; STEP]);
        m[..(n - whole) * F::BYTES].copy_from_slice(&mem[whole * F::BYTES..]);
        contexts8::<F>(m.as_ptr(), scale, c.as_mut_ptr());
        ctx[whole..].copy_from_slice(&c[..n - whole]);
    }
}

/// One row's constants on the way from cells to exact.
#[cfg(feature = "encode")]
struct FromCells {
    scale: __m256,
    step: __m256,
    below: __m256i,
    top: __m256i,
    mask: __m256i,
    mask_zero: __m256i,
    tz: __m128i,
    raw: __m128i,
    raw_zero: __m128i,
}

#[cfg(feature = "encode")]
impl FromCells {
    #[inline(always)]
    unsafe fn new<F: Format>(row: &Row) -> Self {
        FromCells {
            scale: _mm256_set1_ps(pow2(-row.e)),
            step: _mm256_set1_ps(pow2(row.e)),
            below: _mm256_set1_epi32((1 << row.tz) - 1),
            top: _mm256_set1_epi32(zero_top::<F, true>(row) as i32),
            mask: _mm256_set1_epi32((1 << row.raw) - 1),
            mask_zero: _mm256_set1_epi32((1 << row.raw_zero) - 1),
            tz: _mm_cvtsi32_si128(row.tz as i32),
            raw: _mm_cvtsi32_si128(row.raw as i32),
            raw_zero: _mm_cvtsi32_si128(row.raw_zero as i32),
        }
    }
    /// Symbols and low bits of eight elements; returns what of the symbols is too much.
    #[inline(always)]
    unsafe fn step<F: Format>(&self, p: &Part) -> __m256i {
        let magnitude = _mm256_set1_epi32(F::MASK as i32);
        let ctx = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.ctx as *const _));
        let known = _mm256_cmpeq_epi32(ctx, _mm256_set1_epi32(13));
        let zero = _mm256_cmpeq_epi32(ctx, _mm256_setzero_si256());
        let u = _mm256_and_si256(bits8::<F>(p.mem), magnitude);
        let ut = _mm256_srl_epi32(u, self.tz);
        let cur = _mm256_and_si256(bits8::<F>(p.cur), magnitude);
        let c = _mm256_cvttps_epi32(_mm256_mul_ps(values8::<F>(cur), self.scale));
        let edge = ceil8::<F>(_mm256_mul_ps(_mm256_cvtepi32_ps(c), self.step));
        let lo = _mm256_srl_epi32(_mm256_add_epi32(edge, self.below), self.tz);
        let d = _mm256_sub_epi32(ut, lo);
        let near = _mm256_sub_epi32(self.top, _mm256_srl_epi32(ut, self.raw_zero));
        let s = _mm256_blendv_epi8(_mm256_sra_epi32(d, self.raw), near, zero);
        let (d, ut) = (
            _mm256_and_si256(d, self.mask),
            _mm256_and_si256(ut, self.mask_zero),
        );
        let b = _mm256_andnot_si256(known, _mm256_blendv_epi8(d, ut, zero));
        _mm256_storeu_si256(p.below as *mut _, b);
        store_symbols(_mm256_andnot_si256(known, s), p.sym)
    }
}

/// Twin of [`split_row`](crate::kernels::scalar::quantise::split_row) from cells to exact.
#[cfg(feature = "encode")]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn split_exact<F: Format>(mem: &[u8], ctx: &[u8], out: Cells, row: &Row) -> bool {
    let n = out.sym.len();
    assert!(mem.len() == n * F::BYTES && out.cur.len() == n * F::BYTES);
    assert!(ctx.len() == n && out.below.len() == n);
    let from = FromCells::new::<F>(row);
    let mut far = _mm256_setzero_si256();
    let whole = n / STEP * STEP;
    for i in (0..whole).step_by(STEP) {
        let part = Part {
            mem: mem.as_ptr().add(i * F::BYTES),
            pos: core::ptr::null(),
            ctx: ctx.as_ptr().add(i),
            cur: out.cur.as_mut_ptr().add(i * F::BYTES),
            sym: out.sym.as_mut_ptr().add(i),
            below: out.below.as_mut_ptr().add(i),
        };
        far = _mm256_or_si256(far, from.step::<F>(&part));
    }
    if whole < n {
        let rest = (n - whole) * F::BYTES;
        // Known elements have no symbol.
        let (mut m, mut r, mut c) = ([0u8; 32], [0u8; 32], [13u8; STEP]);
        let (mut s, mut b) = ([0u8; STEP], [0u32; STEP]);
        m[..rest].copy_from_slice(&mem[whole * F::BYTES..]);
        r[..rest].copy_from_slice(&out.cur[whole * F::BYTES..]);
        c[..n - whole].copy_from_slice(&ctx[whole..]);
        let part = Part {
            mem: m.as_ptr(),
            pos: core::ptr::null(),
            ctx: c.as_ptr(),
            cur: r.as_mut_ptr(),
            sym: s.as_mut_ptr(),
            below: b.as_mut_ptr(),
        };
        far = _mm256_or_si256(far, from.step::<F>(&part));
        out.sym[whole..].copy_from_slice(&s[..n - whole]);
        out.below[whole..].copy_from_slice(&b[..n - whole]);
    }
    _mm256_testz_si256(far, far) == 0
}
