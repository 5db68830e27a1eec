//! AVX2 twins of the row kernels between base and exact: sixteen 16-bit floats or eight `f32`s at
//! a time. What is computed is what `level.rs` says; only the order of the work differs.

#![allow(clippy::missing_safety_doc)]

use super::floats::{half_float, load, narrow_up, widen};
use crate::format::float::{pow2, Format};
use crate::kernels::scalar::level::{zero_top, Row};
use crate::kernels::scalar::raw::RawReader;
use core::arch::x86_64::*;

/// Widest fields whose sixteen bits with bit offset a 16-bit lane holds.
const WIDEST16: usize = 9;
/// Bytes a load of fields may look at past the last one.
const SLACK: usize = 40;
/// Elements of one step.
const STEP: usize = 32;

/// The `f32` values of sixteen ordered integers: elements 0-3, 8-11 and 4-7, 12-15.
#[inline(always)]
unsafe fn values16<F: Format>(u: __m256i) -> (__m256, __m256) {
    if half_float::<F>() {
        let u = _mm256_permute4x64_epi64::<0xd8>(u);
        let lo = widen(_mm256_castsi256_si128(u));
        (lo, widen(_mm256_extracti128_si256::<1>(u)))
    } else {
        let zero = _mm256_setzero_si256();
        let lo = _mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, u));
        (lo, _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, u)))
    }
}

/// Bin numbers of values, or all ones outside the bins.
#[inline(always)]
unsafe fn bins(v: __m256, scale: __m256) -> __m256i {
    let a = _mm256_mul_ps(v, scale);
    let out = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_NLT_UQ>(a, _mm256_set1_ps(127.5)));
    let q = _mm256_cvttps_epi32(_mm256_add_ps(a, _mm256_set1_ps(0.5)));
    _mm256_or_si256(q, out)
}

/// Sixteen elements' bin numbers; -1 outside the bins.
#[inline(always)]
unsafe fn bins16<F: Format>(mem: *const u8, scale: __m256) -> __m256i {
    let mask = F::MASK as i32;
    if F::BYTES == 2 {
        let u = _mm256_and_si256(load(mem), _mm256_set1_epi16(mask as i16));
        let (lo, hi) = values16::<F>(u);
        _mm256_packs_epi32(bins(lo, scale), bins(hi, scale))
    } else {
        let abs = |p| _mm256_castsi256_ps(_mm256_and_si256(load(p), _mm256_set1_epi32(mask)));
        let q = _mm256_packs_epi32(bins(abs(mem), scale), bins(abs(mem.add(32)), scale));
        _mm256_permute4x64_epi64::<0xd8>(q)
    }
}

/// 32 elements: bin numbers and contexts.
#[inline(always)]
unsafe fn classify32<F: Format>(mem: *const u8, scale: __m256, pos: *mut i16, ctx: *mut u8) {
    let a = bins16::<F>(mem, scale);
    let b = bins16::<F>(mem.add(16 * F::BYTES), scale);
    _mm256_storeu_si256(pos as *mut _, a);
    _mm256_storeu_si256(pos.add(16) as *mut _, b);
    _mm256_storeu_si256(ctx as *mut _, contexts(a, b));
}

/// `level::bin_context` of 32 elements' bin numbers, by their low and high nibbles.
#[inline(always)]
pub unsafe fn contexts(a: __m256i, b: __m256i) -> __m256i {
    let low = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9, 9, 9, 9);
    let high = _mm_setr_epi8(
        0, 10, 11, 11, 12, 12, 12, 12, 13, 13, 13, 13, 13, 13, 13, 13,
    );
    let q = _mm256_permute4x64_epi64::<0xd8>(_mm256_packs_epi16(a, b));
    let fifteen = _mm256_set1_epi8(15);
    let nibble = _mm256_and_si256(_mm256_srli_epi16::<4>(q), fifteen);
    let fine = _mm256_shuffle_epi8(
        _mm256_broadcastsi128_si256(low),
        _mm256_min_epu8(q, fifteen),
    );
    let rough = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(high), nibble);
    _mm256_max_epu8(fine, rough)
}

/// Twin of [`level::classify`](crate::kernels::scalar::level::classify) from the base.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn classify<F: Format>(mem: &[u8], e: i32, pos: &mut [i16], ctx: &mut [u8]) {
    let n = ctx.len();
    assert!(mem.len() == n * F::BYTES && pos.len() == n);
    let scale = _mm256_set1_ps(pow2(-e));
    let whole = n / STEP * STEP;
    for i in (0..whole).step_by(STEP) {
        let (mem, pos) = (mem.as_ptr().add(i * F::BYTES), pos.as_mut_ptr().add(i));
        classify32::<F>(mem, scale, pos, ctx.as_mut_ptr().add(i));
    }
    if whole < n {
        let (mut m, mut p, mut c) = ([0u8; 4 * STEP], [0i16; STEP], [0u8; STEP]);
        m[..(n - whole) * F::BYTES].copy_from_slice(&mem[whole * F::BYTES..]);
        classify32::<F>(m.as_ptr(), scale, p.as_mut_ptr(), c.as_mut_ptr());
        pos[whole..].copy_from_slice(&p[..n - whole]);
        ctx[whole..].copy_from_slice(&c[..n - whole]);
    }
}

/// What unpacks the fields of one vector: each lane's bytes, and its bit offset in them.
struct Fields {
    src: *const u8,
    /// Bytes from the fields of the lower 128 bits to those of the upper, and to the next vector.
    upper: usize,
    next: usize,
    bytes: __m256i,
    /// 16-bit lanes: power of two that shifts the field to the top. 32-bit lanes: bit offset.
    place: __m256i,
    width: usize,
}

impl Fields {
    #[inline(always)]
    unsafe fn new<const LANE: usize>(src: *const u8, bit: usize, width: usize) -> Self {
        let lanes = 32 / LANE;
        let (mut bytes, mut place) = ([0u8; 32], [0u8; 32]);
        // The upper half's fields start in the byte that holds bit `half`.
        let half = bit + lanes / 2 * width;
        for l in 0..lanes {
            let upper = l >= lanes / 2;
            let at = bit + l * width - if upper { half & !7 } else { 0 };
            for b in 0..LANE {
                bytes[l * LANE + b] = (at / 8 + b).min(15) as u8;
            }
            let off = at as u32 & 7;
            let v = if LANE == 2 {
                1u32 << (16 - width as u32 - off)
            } else {
                off
            };
            place[l * LANE..][..LANE].copy_from_slice(&v.to_le_bytes()[..LANE]);
        }
        let (bytes, place) = (load(bytes.as_ptr()), load(place.as_ptr()));
        Fields {
            src,
            upper: half >> 3,
            next: lanes * width / 8,
            bytes,
            place,
            width,
        }
    }
    /// Fields of the next vector.
    #[inline(always)]
    unsafe fn take<const LANE: usize>(&mut self) -> __m256i {
        let lo = _mm_loadu_si128(self.src as *const _);
        let hi = _mm_loadu_si128(self.src.add(self.upper) as *const _);
        let v = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(lo), hi);
        let v = _mm256_shuffle_epi8(v, self.bytes);
        self.src = self.src.add(self.next);
        if LANE == 2 {
            let count = _mm_cvtsi32_si128(16 - self.width as i32);
            _mm256_srl_epi16(_mm256_mullo_epi16(v, self.place), count)
        } else {
            let mask = _mm256_set1_epi32((1 << self.width) - 1);
            _mm256_and_si256(_mm256_srlv_epi32(v, self.place), mask)
        }
    }
}

/// One row's constants.
struct Constants {
    step: __m256,
    half: __m256,
    below: i32,
    top: i32,
    tz: __m128i,
    raw: __m128i,
}

impl Constants {
    #[inline(always)]
    unsafe fn new<F: Format>(row: &Row) -> Self {
        Constants {
            step: _mm256_set1_ps(pow2(row.e)),
            half: _mm256_set1_ps(pow2(row.e - 1)),
            below: (1 << row.tz) - 1,
            // Of symbol `s` the magnitude counts from `(s >> 1) - 1`.
            top: zero_top::<F, false>(row).wrapping_add(1) as i32,
            tz: _mm_cvtsi32_si128(row.tz as i32),
            raw: _mm_cvtsi32_si128(row.raw as i32),
        }
    }
}

/// Sixteen 16-bit floats. All sums are those of `level::combine_exact` modulo 2^16, of which the
/// result keeps fifteen bits.
#[inline(always)]
unsafe fn combine16<F: Format>(
    mem: *mut u8,
    pos: *const i16,
    sym: *const u8,
    raw: __m256i,
    k: &Constants,
) {
    let zeros = _mm256_setzero_si256();
    let q = load(pos as *const u8);
    // 0x4b00 above an integer makes it the float 2^23 + q.
    let magic = _mm256_set1_epi16(0x4b00);
    let edge = |v: __m256i| {
        let q = _mm256_sub_ps(_mm256_castsi256_ps(v), _mm256_set1_ps(8_388_608.0));
        _mm256_sub_ps(_mm256_mul_ps(q, k.step), k.half)
    };
    let (a, b) = (
        edge(_mm256_unpacklo_epi16(q, magic)),
        edge(_mm256_unpackhi_epi16(q, magic)),
    );
    let lo = if half_float::<F>() {
        let (a, b) = (narrow_up(a), narrow_up(b));
        let v = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b);
        _mm256_permute4x64_epi64::<0xd8>(v)
    } else {
        let up = |v| {
            let v = _mm256_add_epi32(_mm256_castps_si256(v), _mm256_set1_epi32(0xffff));
            _mm256_srli_epi32::<16>(v)
        };
        _mm256_packus_epi32(up(a), up(b))
    };
    let lo = _mm256_srl_epi16(
        _mm256_add_epi16(lo, _mm256_set1_epi16(k.below as i16)),
        k.tz,
    );
    let s = _mm256_cvtepu8_epi16(_mm_loadu_si128(sym as *const _));
    let inside = _mm256_add_epi16(lo, _mm256_or_si256(_mm256_sll_epi16(s, k.raw), raw));
    let z = _mm256_sub_epi16(_mm256_set1_epi16(k.top as i16), _mm256_srli_epi16::<1>(s));
    let near = _mm256_or_si256(_mm256_sll_epi16(z, k.raw), raw);
    let zero = _mm256_cmpeq_epi16(q, zeros);
    let u = _mm256_sll_epi16(_mm256_blendv_epi8(inside, near, zero), k.tz);
    let u = _mm256_and_si256(u, _mm256_set1_epi16(0x7fff));
    let none = _mm256_and_si256(zero, _mm256_cmpgt_epi16(_mm256_set1_epi16(2), s));
    let u = _mm256_andnot_si256(none, u);
    let cur = load(mem);
    let sign = _mm256_blendv_epi8(cur, _mm256_slli_epi16::<15>(s), zero);
    let new = _mm256_or_si256(u, _mm256_and_si256(sign, _mm256_set1_epi16(-0x8000)));
    let known = _mm256_cmpgt_epi16(zeros, q);
    _mm256_storeu_si256(mem as *mut _, _mm256_blendv_epi8(new, cur, known));
}

/// Eight `f32`s.
#[inline(always)]
unsafe fn combine8(mem: *mut u8, pos: *const i16, sym: *const u8, raw: __m256i, k: &Constants) {
    let zeros = _mm256_setzero_si256();
    let q = _mm256_cvtepi16_epi32(_mm_loadu_si128(pos as *const _));
    let edge = _mm256_sub_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(q), k.step), k.half);
    let lo = _mm256_add_epi32(_mm256_castps_si256(edge), _mm256_set1_epi32(k.below));
    let lo = _mm256_srl_epi32(lo, k.tz);
    let s = _mm256_cvtepu8_epi32(_mm_loadl_epi64(sym as *const _));
    let inside = _mm256_add_epi32(lo, _mm256_or_si256(_mm256_sll_epi32(s, k.raw), raw));
    let z = _mm256_sub_epi32(_mm256_set1_epi32(k.top), _mm256_srli_epi32::<1>(s));
    let near = _mm256_or_si256(_mm256_sll_epi32(z, k.raw), raw);
    let zero = _mm256_cmpeq_epi32(q, zeros);
    let u = _mm256_sll_epi32(_mm256_blendv_epi8(inside, near, zero), k.tz);
    let u = _mm256_and_si256(u, _mm256_set1_epi32(0x7fff_ffff));
    let none = _mm256_and_si256(zero, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), s));
    let u = _mm256_andnot_si256(none, u);
    let cur = load(mem);
    let sign = _mm256_blendv_epi8(cur, _mm256_slli_epi32::<31>(s), zero);
    let new = _mm256_or_si256(u, _mm256_and_si256(sign, _mm256_set1_epi32(i32::MIN)));
    let known = _mm256_cmpgt_epi32(zeros, q);
    _mm256_storeu_si256(mem as *mut _, _mm256_blendv_epi8(new, cur, known));
}

/// A vector's worth of elements.
#[inline(always)]
unsafe fn combine_vector<F: Format>(
    mem: *mut u8,
    pos: *const i16,
    sym: *const u8,
    fields: &mut Fields,
    k: &Constants,
) {
    if F::BYTES == 2 {
        combine16::<F>(mem, pos, sym, fields.take::<2>(), k);
    } else {
        combine8(mem, pos, sym, fields.take::<4>(), k);
    }
}

/// Twin of [`level::combine`](crate::kernels::scalar::level::combine) from the base to exact, with a raw field for
/// every element; `false` if that is not for it.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn combine_plain<F: Format>(
    mem: &mut [u8],
    pos: &[i16],
    sym: &[u8],
    fields: &mut RawReader,
    row: Row,
) -> bool {
    let n = sym.len();
    assert!(mem.len() == n * F::BYTES && pos.len() == n && row.raw == row.raw_zero);
    if F::BYTES == 2 && row.raw as usize > WIDEST16 {
        return false;
    }
    let (src, bit, width) = match fields.span(n, SLACK) {
        Some(span) => span,
        None => return false,
    };
    let k = Constants::new::<F>(&row);
    let mut fields = if F::BYTES == 2 {
        Fields::new::<2>(src.as_ptr(), bit, width)
    } else {
        Fields::new::<4>(src.as_ptr(), bit, width)
    };
    let step = 32 / F::BYTES;
    let whole = n / step * step;
    for i in (0..whole).step_by(step) {
        let at = mem.as_mut_ptr().add(i * F::BYTES);
        combine_vector::<F>(
            at,
            pos.as_ptr().add(i),
            sym.as_ptr().add(i),
            &mut fields,
            &k,
        );
    }
    if whole < n {
        let (mut m, mut p, mut s) = ([0u8; 32], [0i16; 16], [0u8; 16]);
        let bytes = (n - whole) * F::BYTES;
        m[..bytes].copy_from_slice(&mem[whole * F::BYTES..]);
        p[..n - whole].copy_from_slice(&pos[whole..]);
        s[..n - whole].copy_from_slice(&sym[whole..]);
        combine_vector::<F>(m.as_mut_ptr(), p.as_ptr(), s.as_ptr(), &mut fields, &k);
        mem[whole * F::BYTES..].copy_from_slice(&m[..bytes]);
    }
    true
}

/// Twin of [`RawReader::take`] where enough bytes follow; else does nothing and says `false`.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn take(fields: &mut RawReader, out: &mut [u32]) -> bool {
    let (src, bit, width) = match fields.span(out.len(), SLACK) {
        Some(span) => span,
        None => return false,
    };
    let mut fields = Fields::new::<4>(src.as_ptr(), bit, width);
    let mut whole = out.chunks_exact_mut(8);
    for o in &mut whole {
        _mm256_storeu_si256(o.as_mut_ptr() as *mut _, fields.take::<4>());
    }
    let rest = whole.into_remainder();
    if !rest.is_empty() {
        let mut last = [0u32; 8];
        _mm256_storeu_si256(last.as_mut_ptr() as *mut _, fields.take::<4>());
        rest.copy_from_slice(&last[..rest.len()]);
    }
    true
}
