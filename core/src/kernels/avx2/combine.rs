//! AVX2 twins of what a refinement does after its symbols, for any levels: eight elements at a
//! time. `avx2_rows.rs` has a faster one for the usual way from base to exact. What is computed is
//! what `level.rs` says.

#![allow(clippy::missing_safety_doc)]

use super::floats::{bits8, ceil8, floor8, values8, words8};
use super::rows::take;
use crate::format::float::{pow2, Format};
use crate::format::rows::BLOCK;
use crate::kernels::scalar::level::{zero_top, Elements, Row, Target, KNOWN};
use crate::kernels::scalar::raw::RawReader;
use core::arch::x86_64::*;

/// Elements of one step.
const STEP: usize = 8;

/// Memory of eight elements.
struct Part {
    mem: *mut u8,
    pos: *const i16,
    ctx: *const u8,
    sym: *const u8,
    raw: *const u32,
}

/// Eight bytes as integers.
#[inline(always)]
unsafe fn bytes(p: *const u8) -> __m256i {
    _mm256_cvtepu8_epi32(_mm_loadl_epi64(p as *const _))
}

/// One row's constants.
struct Constants {
    /// What values are multiplied with to get cells.
    scale: __m256,
    /// Half a step, or half a cell of the target.
    half: __m256,
    /// To cells: from twice a lower edge to the first cell inside.
    finer: __m128i,
    below: __m256i,
    top: __m256i,
    tz: __m128i,
    raw: __m128i,
    raw_zero: __m128i,
}

impl Constants {
    #[inline(always)]
    unsafe fn new<F: Format, const CELLS: bool>(row: &Row, target: Target) -> Self {
        let count = |n: u32| _mm_cvtsi32_si128(n as i32);
        let k = match target {
            Target::Cells { k } => k,
            Target::Exact => 0,
        };
        Constants {
            scale: _mm256_set1_ps(pow2(-row.e)),
            half: _mm256_set1_ps(pow2(row.e - k as i32 - 1)),
            finer: count(k.wrapping_sub(1)),
            below: _mm256_set1_epi32((1 << row.tz) - 1),
            top: _mm256_set1_epi32(zero_top::<F, CELLS>(row) as i32),
            tz: count(row.tz),
            raw: count(row.raw),
            raw_zero: count(row.raw_zero),
        }
    }

    /// Eight elements; all sums are modulo 2^32, as in `level.rs`.
    #[inline(always)]
    unsafe fn step<F: Format, const CELLS: bool, const EXACT: bool>(&self, p: &Part) {
        let mask = _mm256_set1_epi32(F::MASK as i32);
        let (one, two) = (_mm256_set1_epi32(1), _mm256_set1_epi32(2));
        let cur = bits8::<F>(p.mem);
        let (ctx, s) = (bytes(p.ctx), bytes(p.sym));
        let raw = _mm256_loadu_si256(p.raw as *const _);
        let known = _mm256_cmpeq_epi32(ctx, _mm256_set1_epi32(i32::from(KNOWN)));
        let zero = _mm256_cmpeq_epi32(ctx, _mm256_setzero_si256());
        // Twice the interval's lower edge, in steps.
        let h = if CELLS {
            let a = _mm256_mul_ps(values8::<F>(_mm256_and_si256(cur, mask)), self.scale);
            let a = _mm256_andnot_ps(_mm256_castsi256_ps(known), a);
            _mm256_slli_epi32::<1>(_mm256_cvttps_epi32(a))
        } else {
            let q = _mm256_cvtepi16_epi32(_mm_loadu_si128(p.pos as *const _));
            _mm256_sub_epi32(_mm256_add_epi32(q, q), one)
        };
        let inner = _mm256_or_si256(_mm256_sll_epi32(s, self.raw), raw);
        let pair = _mm256_srli_epi32::<1>(_mm256_sub_epi32(s, two));
        let u = if EXACT {
            let lo = ceil8::<F>(_mm256_mul_ps(_mm256_cvtepi32_ps(h), self.half));
            let lo = _mm256_srl_epi32(_mm256_add_epi32(lo, self.below), self.tz);
            let z = _mm256_sub_epi32(self.top, if CELLS { s } else { pair });
            let near = _mm256_or_si256(_mm256_sll_epi32(z, self.raw_zero), raw);
            let u = _mm256_blendv_epi8(_mm256_add_epi32(lo, inner), near, zero);
            _mm256_sll_epi32(u, self.tz)
        } else {
            let inside = _mm256_add_epi32(_mm256_sll_epi32(h, self.finer), inner);
            let near = _mm256_or_si256(_mm256_sll_epi32(pair, self.raw), raw);
            let c = if CELLS {
                inside
            } else {
                _mm256_blendv_epi8(inside, near, zero)
            };
            let c = _mm256_and_si256(c, _mm256_set1_epi32(0x7f_ffff));
            let odd = _mm256_or_si256(_mm256_add_epi32(c, c), one);
            floor8::<F>(_mm256_mul_ps(_mm256_cvtepi32_ps(odd), self.half))
        };
        let mut u = _mm256_and_si256(u, mask);
        let mut sign = cur;
        if !CELLS {
            let none = _mm256_and_si256(zero, _mm256_cmpgt_epi32(two, s));
            u = _mm256_andnot_si256(none, u);
            let shift = _mm_cvtsi32_si128(F::BYTES as i32 * 8 - 1);
            sign = _mm256_blendv_epi8(cur, _mm256_sll_epi32(s, shift), zero);
        }
        let sign = _mm256_and_si256(sign, _mm256_set1_epi32(F::SIGN as i32));
        let new = _mm256_blendv_epi8(_mm256_or_si256(u, sign), cur, known);
        if F::BYTES == 2 {
            _mm_storeu_si128(p.mem as *mut _, words8(new));
        } else {
            _mm256_storeu_si256(p.mem as *mut _, new);
        }
    }
}

/// Twin of [`level::combine`](crate::kernels::scalar::level::combine).
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn combine<F: Format, const CELLS: bool>(el: Elements, row: &Row, target: Target) {
    if target == Target::Exact {
        combine_to::<F, CELLS, true>(el, row, target)
    } else {
        combine_to::<F, CELLS, false>(el, row, target)
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
unsafe fn combine_to<F: Format, const CELLS: bool, const EXACT: bool>(
    el: Elements,
    row: &Row,
    target: Target,
) {
    let n = el.sym.len();
    assert!(el.mem.len() == n * F::BYTES && el.pos.len() == n);
    assert!(el.ctx.len() == n && el.raw.len() == n);
    let k = Constants::new::<F, CELLS>(row, target);
    let whole = n / STEP * STEP;
    for i in (0..whole).step_by(STEP) {
        k.step::<F, CELLS, EXACT>(&Part {
            mem: el.mem.as_mut_ptr().add(i * F::BYTES),
            pos: el.pos.as_ptr().add(i),
            ctx: el.ctx.as_ptr().add(i),
            sym: el.sym.as_ptr().add(i),
            raw: el.raw.as_ptr().add(i),
        });
    }
    if whole < n {
        let (mut mem, mut pos, mut raw) = ([0u8; 4 * STEP], [0i16; STEP], [0u32; STEP]);
        let (mut ctx, mut sym) = ([0u8; STEP], [0u8; STEP]);
        let (rest, bytes) = (n - whole, (n - whole) * F::BYTES);
        mem[..bytes].copy_from_slice(&el.mem[whole * F::BYTES..]);
        pos[..rest].copy_from_slice(&el.pos[whole..]);
        raw[..rest].copy_from_slice(&el.raw[whole..]);
        ctx[..rest].copy_from_slice(&el.ctx[whole..]);
        sym[..rest].copy_from_slice(&el.sym[whole..]);
        k.step::<F, CELLS, EXACT>(&Part {
            mem: mem.as_mut_ptr(),
            pos: pos.as_ptr(),
            ctx: ctx.as_ptr(),
            sym: sym.as_ptr(),
            raw: raw.as_ptr(),
        });
        el.mem[whole * F::BYTES..].copy_from_slice(&mem[..bytes]);
    }
}

/// For each choice of eight elements, which of the next fields each of them takes.
static EXPAND: [[u8; 8]; 256] = expand();

const fn expand() -> [[u8; 8]; 256] {
    let mut t = [[0; 8]; 256];
    let mut m = 0;
    while m < 256 {
        let (mut lane, mut field) = (0, 0);
        while lane < 8 {
            if m >> lane & 1 == 1 {
                t[m][lane] = field;
                field += 1;
            }
            lane += 1;
        }
        m += 1;
    }
    t
}

/// Which of eight elements have an upper field: those of context 0 but for listed zeros.
#[inline(always)]
unsafe fn chosen<const CELLS: bool>(ctx: *const u8, sym: *const u8) -> __m128i {
    let (c, s) = (
        _mm_loadl_epi64(ctx as *const _),
        _mm_loadl_epi64(sym as *const _),
    );
    let zero = _mm_cmpeq_epi8(c, _mm_setzero_si128());
    if CELLS {
        return zero;
    }
    let listed = _mm_cmpeq_epi8(s, _mm_min_epu8(s, _mm_set1_epi8(1)));
    _mm_andnot_si128(listed, zero)
}

/// Twin of [`RawReader::add_upper`] where enough bytes follow; else does nothing and says `false`.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn add_upper<const CELLS: bool>(
    fields: &mut RawReader,
    out: &mut [u32],
    shift: u32,
    ctx: &[u8],
    sym: &[u8],
) -> bool {
    let n = out.len();
    assert!(n <= BLOCK && ctx.len() == n && sym.len() == n);
    let whole = n / STEP * STEP;
    // The last elements, and some that have no field.
    let (mut c, mut s, mut o) = ([KNOWN; STEP], [0u8; STEP], [0u32; STEP]);
    c[..n - whole].copy_from_slice(&ctx[whole..]);
    s[..n - whole].copy_from_slice(&sym[whole..]);
    o[..n - whole].copy_from_slice(&out[whole..]);
    let mut masks = [0u8; BLOCK / STEP + 1];
    let mut count = 0;
    for (g, m) in masks[..whole / STEP + 1].iter_mut().enumerate() {
        let last = g * STEP == whole;
        let v = if last {
            chosen::<CELLS>(c.as_ptr(), s.as_ptr())
        } else {
            chosen::<CELLS>(ctx.as_ptr().add(g * STEP), sym.as_ptr().add(g * STEP))
        };
        *m = _mm_movemask_epi8(v) as u8;
        count += m.count_ones() as usize;
    }
    // A load of fields may look at seven past the last one.
    let mut upper = [0u32; BLOCK + STEP];
    if !take(fields, &mut upper[..count]) {
        return false;
    }
    let (shift, mut at) = (_mm_cvtsi32_si128(shift as i32), upper.as_ptr());
    for (g, &m) in masks[..whole / STEP + 1].iter().enumerate() {
        let last = g * STEP == whole;
        let (p, v) = if last {
            (o.as_mut_ptr(), chosen::<CELLS>(c.as_ptr(), s.as_ptr()))
        } else {
            let (ctx, sym) = (ctx.as_ptr().add(g * STEP), sym.as_ptr().add(g * STEP));
            (out.as_mut_ptr().add(g * STEP), chosen::<CELLS>(ctx, sym))
        };
        let order = bytes(EXPAND.get_unchecked(usize::from(m)).as_ptr());
        let v = _mm256_cvtepi8_epi32(v);
        let f = _mm256_permutevar8x32_epi32(_mm256_loadu_si256(at as *const _), order);
        let f = _mm256_and_si256(_mm256_sll_epi32(f, shift), v);
        let new = _mm256_or_si256(_mm256_loadu_si256(p as *const _), f);
        _mm256_storeu_si256(p as *mut _, new);
        at = at.add(m.count_ones() as usize);
    }
    out[whole..].copy_from_slice(&o[..n - whole]);
    true
}
