//! AVX2 twins of the encoder's kernels from floats to bins, positions and fields.

use super::base::bin_values32;
use super::cells::{bytes8, narrow, pack16, pack32, value16, whole, Steps, STEP};
use super::floats::load;
use crate::format::float::{pow2, Format, GROUP};
use crate::kernels::scalar::base::Sums;
use crate::kernels::scalar::cells::{self as scalar, Fraction, Halving, Narrowing};
use crate::kernels::scalar::squares::Squares;
use core::arch::x86_64::*;

/// One row's constants and sums on the way to bins.
struct Base {
    scale: __m256,
    step: __m256,
    /// Of the group at hand, by lanes.
    signal: __m256,
    error: __m256,
}

impl Base {
    /// Ends a group.
    ///
    /// # Safety
    /// The machine has AVX2.
    #[inline(always)]
    unsafe fn flush(&mut self, signal: &mut Squares, error: &mut Squares) {
        let mut lanes = [0f32; 8];
        _mm256_storeu_ps(lanes.as_mut_ptr(), self.signal);
        signal.flush(&lanes);
        _mm256_storeu_ps(lanes.as_mut_ptr(), self.error);
        error.flush(&lanes);
        self.signal = _mm256_setzero_ps();
        self.error = _mm256_setzero_ps();
    }
    /// Bin numbers of eight magnitudes; all ones outside the bins.
    ///
    /// # Safety
    /// The machine has AVX2.
    #[inline(always)]
    unsafe fn bins(&mut self, v: __m256) -> __m256i {
        let a = _mm256_mul_ps(v, self.scale);
        let out = _mm256_cmp_ps::<_CMP_NLT_UQ>(a, _mm256_set1_ps(127.5));
        let q = _mm256_cvttps_epi32(a);
        let rest = _mm256_sub_ps(a, _mm256_cvtepi32_ps(q));
        let up = _mm256_cmp_ps::<_CMP_GE_OQ>(rest, _mm256_set1_ps(0.5));
        let q = _mm256_sub_epi32(q, _mm256_castps_si256(up));
        let rest = _mm256_andnot_ps(out, _mm256_sub_ps(a, _mm256_cvtepi32_ps(q)));
        let a = _mm256_andnot_ps(out, a);
        self.signal = _mm256_add_ps(self.signal, _mm256_mul_ps(a, a));
        self.error = _mm256_add_ps(self.error, _mm256_mul_ps(rest, rest));
        _mm256_or_si256(q, _mm256_castps_si256(out))
    }
    /// Bin numbers of sixteen elements, and all ones for the negative ones.
    ///
    /// # Safety
    /// The machine has AVX2 and F16C; sixteen elements can be read.
    #[inline(always)]
    unsafe fn bins16<F: Format>(&mut self, mem: *const u8) -> (__m256i, __m256i) {
        let mask = F::MASK as i32;
        let (a, b, sign);
        if F::BYTES == 2 {
            let v = load(mem);
            sign = _mm256_srai_epi16::<15>(v);
            let u = _mm256_and_si256(v, _mm256_set1_epi16(mask as i16));
            let (low, high) = (_mm256_castsi256_si128(u), _mm256_extracti128_si256::<1>(u));
            a = self.bins(value16::<F>(low));
            b = self.bins(value16::<F>(high));
        } else {
            let (u, v) = (load(mem), load(mem.add(32)));
            let signs = _mm256_packs_epi32(_mm256_srai_epi32::<31>(u), _mm256_srai_epi32::<31>(v));
            sign = _mm256_permute4x64_epi64::<0xd8>(signs);
            let mask = _mm256_set1_epi32(mask);
            a = self.bins(_mm256_castsi256_ps(_mm256_and_si256(u, mask)));
            b = self.bins(_mm256_castsi256_ps(_mm256_and_si256(v, mask)));
        }
        let q = _mm256_permute4x64_epi64::<0xd8>(_mm256_packs_epi32(a, b));
        (q, sign)
    }
}

/// 32 elements: symbols and state; returns all ones where a symbol is the escape.
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[inline(always)]
unsafe fn base32<F: Format>(
    mem: *const u8,
    base: &mut Base,
    sym: *mut u8,
    cur: *mut u8,
) -> __m256i {
    let (a, sign_a) = base.bins16::<F>(mem);
    let (b, sign_b) = base.bins16::<F>(mem.add(16 * F::BYTES));
    let (out_a, out_b) = (_mm256_srai_epi16::<15>(a), _mm256_srai_epi16::<15>(b));
    let middle = _mm256_set1_epi16(128);
    let a = _mm256_add_epi16(
        _mm256_sub_epi16(_mm256_xor_si256(a, sign_a), sign_a),
        middle,
    );
    let b = _mm256_add_epi16(
        _mm256_sub_epi16(_mm256_xor_si256(b, sign_b), sign_b),
        middle,
    );
    let s = _mm256_packus_epi16(_mm256_andnot_si256(out_a, a), _mm256_andnot_si256(out_b, b));
    let s = _mm256_permute4x64_epi64::<0xd8>(s);
    _mm256_storeu_si256(sym as *mut _, s);
    bin_values32::<F>(s, base.step, cur);
    _mm256_or_si256(out_a, out_b)
}

/// Twin of [`base_row`](crate::kernels::scalar::base::base_row).
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn base_row<F: Format>(
    mem: &[u8],
    e: i32,
    sym: &mut [u8],
    cur: &mut [u8],
    sums: &mut Sums,
) -> bool {
    let n = sym.len();
    assert!(mem.len() == n * F::BYTES && cur.len() == mem.len());
    let mut base = Base {
        scale: _mm256_set1_ps(pow2(-e)),
        step: _mm256_set1_ps(pow2(e)),
        signal: _mm256_setzero_ps(),
        error: _mm256_setzero_ps(),
    };
    let (mut signal, mut error) = (Squares::default(), Squares::default());
    let mut escapes = _mm256_setzero_si256();
    let whole = n / STEP * STEP;
    for i in (0..whole).step_by(STEP) {
        let at = i * F::BYTES;
        let (mem, cur) = (mem.as_ptr().add(at), cur.as_mut_ptr().add(at));
        let out = base32::<F>(mem, &mut base, sym.as_mut_ptr().add(i), cur);
        escapes = _mm256_or_si256(escapes, out);
        if (i + STEP) % GROUP == 0 {
            base.flush(&mut signal, &mut error);
        }
    }
    if whole < n {
        // Zeros add nothing to the sums.
        let (mut m, mut s, mut c) = ([0u8; 4 * STEP], [0u8; STEP], [0u8; 4 * STEP]);
        let (at, bytes) = (whole * F::BYTES, (n - whole) * F::BYTES);
        m[..bytes].copy_from_slice(&mem[at..]);
        let out = base32::<F>(m.as_ptr(), &mut base, s.as_mut_ptr(), c.as_mut_ptr());
        escapes = _mm256_or_si256(escapes, out);
        sym[whole..].copy_from_slice(&s[..n - whole]);
        cur[at..].copy_from_slice(&c[..bytes]);
    }
    base.flush(&mut signal, &mut error);
    let escaped = _mm256_movemask_epi8(escapes) != 0;
    let there = if escaped { Some((&*sym, cur)) } else { None };
    sums.add_row::<F>((&signal, &error), pow2(e), mem, there);
    escaped
}

/// One row's constants on the way from weights to positions.
struct Locate {
    scale: __m256,
    /// Positions that a bin has, less 1, and half of their number.
    last: __m256i,
    middle: __m256i,
}

impl Locate {
    /// Numbers of the cells of eight magnitudes.
    ///
    /// # Safety
    /// The machine has AVX2, BMI2 and F16C.
    #[inline(always)]
    unsafe fn cell(&self, v: __m256) -> __m256i {
        let v = _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX)));
        // NaN gives the second operand.
        let most = _mm256_set1_ps(16_777_216.0);
        _mm256_cvttps_epi32(_mm256_min_ps(_mm256_mul_ps(v, self.scale), most))
    }

    /// Positions of eight weights, as integers, seen from the state.
    ///
    /// # Safety
    /// The machine has AVX2, BMI2 and F16C.
    #[inline(always)]
    unsafe fn positions(&self, v: __m256, state: __m256) -> __m256i {
        let at = _mm256_sub_epi32(self.cell(v), self.cell(state));
        let at = _mm256_add_epi32(at, self.middle);
        let at = _mm256_min_epi32(_mm256_max_epi32(at, _mm256_setzero_si256()), self.last);
        let negative = _mm256_srai_epi32::<31>(_mm256_castps_si256(v));
        // last - at is last ^ at, for all bits of `last` are ones.
        _mm256_xor_si256(at, _mm256_and_si256(negative, self.last))
    }

    /// Positions of the eight elements from `i` on.
    ///
    /// # Safety
    /// The machine has AVX2, BMI2 and F16C.
    #[inline(always)]
    unsafe fn eight<F: Format>(&self, mem: *const u8, cur: *const u8, i: usize) -> __m256i {
        let at = i * F::BYTES;
        self.positions(values::<F>(mem.add(at)), values::<F>(cur.add(at)))
    }
}

/// Eight values of either width.
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[inline(always)]
unsafe fn values<F: Format>(mem: *const u8) -> __m256 {
    if F::BYTES == 4 {
        _mm256_loadu_ps(mem as *const f32)
    } else {
        value16::<F>(_mm_loadu_si128(mem as *const _))
    }
}

/// All ones for each open element, 32 of them as bytes.
///
/// # Safety
/// The machine has AVX2; 32 elements can be read.
#[inline(always)]
unsafe fn open32<F: Format>(steps: &Steps, cur: *const u8) -> __m256i {
    if F::BYTES == 2 {
        let (a, b) = (load(cur), load(cur.add(32)));
        let (a, b) = (steps.open16::<F>(a), steps.open16::<F>(b));
        _mm256_permute4x64_epi64::<0xd8>(_mm256_packs_epi16(a, b))
    } else {
        let (a, b) = (load(cur), load(cur.add(32)));
        let (c, d) = (load(cur.add(64)), load(cur.add(96)));
        let a = _mm256_packs_epi32(steps.open8::<F>(a), steps.open8::<F>(b));
        let b = _mm256_packs_epi32(steps.open8::<F>(c), steps.open8::<F>(d));
        // Both steps of packing interleave the halves.
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order)
    }
}

/// Twin of [`scalar::locate`].
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn locate<F: Format>(mem: &[u8], cur: &mut [u8], positions: &mut [u8], row: &Halving) {
    let n = positions.len();
    assert!(mem.len() == n * F::BYTES && cur.len() == mem.len());
    let (steps, done) = (Steps::new(row), whole(n));
    let l = Locate {
        scale: _mm256_set1_ps(row.scale()),
        last: _mm256_set1_epi32((1 << row.k) - 1),
        middle: _mm256_set1_epi32(1 << (row.k - 1)),
    };
    for i in (0..done).step_by(STEP) {
        let at = i * F::BYTES;
        let (mem, cur) = (mem.as_ptr().add(at), cur.as_mut_ptr().add(at));
        let a = pack32(l.eight::<F>(mem, cur, 0), l.eight::<F>(mem, cur, 8));
        let b = pack32(l.eight::<F>(mem, cur, 16), l.eight::<F>(mem, cur, 24));
        let f = _mm256_and_si256(open32::<F>(&steps, cur), pack16(a, b));
        let to = positions.as_mut_ptr().add(i);
        _mm256_storeu_si256(to as *mut _, f);
        steps.halve32::<F>(cur, to);
    }
    if done == n {
        return;
    }
    let at = done * F::BYTES;
    scalar::locate::<F>(&mem[at..], &mut cur[at..], &mut positions[done..], row);
}

/// Finer positions of eight elements, of as many bits as their masks have.
///
/// # Safety
/// The machine has AVX2 and F16C; eight elements and masks can be read.
#[inline(always)]
unsafe fn finer8<F: Format>(
    mem: *const u8,
    cur: *const u8,
    masks: *const u8,
    scale: __m256,
) -> __m256i {
    let last = bytes8(masks);
    let cells = _mm256_add_epi32(last, _mm256_set1_epi32(1));
    let l = Locate {
        scale: _mm256_mul_ps(scale, _mm256_cvtepi32_ps(cells)),
        last,
        middle: _mm256_srli_epi32::<1>(cells),
    };
    l.positions(values::<F>(mem), values::<F>(cur))
}

/// Twin of [`scalar::locate_finer`].
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn locate_finer<F: Format>(
    mem: &[u8],
    cur: &mut [u8],
    masks: &[u8],
    positions: &mut [u8],
    row: &Narrowing,
) {
    let n = positions.len();
    assert!(mem.len() == n * F::BYTES && cur.len() == mem.len() && masks.len() == n);
    let (scale, done) = (_mm256_set1_ps(row.scale()), n / 16 * 16);
    for i in (0..done).step_by(16) {
        let (at, half) = (i * F::BYTES, 8 * F::BYTES);
        let (mem, cur) = (mem.as_ptr().add(at), cur.as_ptr().add(at));
        let m = masks.as_ptr().add(i);
        let a = finer8::<F>(mem, cur, m, scale);
        let b = finer8::<F>(mem.add(half), cur.add(half), m.add(8), scale);
        let f = pack32(a, b);
        let f = _mm_packus_epi16(_mm256_castsi256_si128(f), _mm256_extracti128_si256::<1>(f));
        _mm_storeu_si128(positions.as_mut_ptr().add(i) as *mut _, f);
    }
    let at = done * F::BYTES;
    narrow::<F>(&mut cur[..at], &masks[..done], &positions[..done], row);
    if done == n {
        return;
    }
    scalar::locate_finer::<F>(
        &mem[at..],
        &mut cur[at..],
        &masks[done..],
        &mut positions[done..],
        row,
    );
}

/// The lowest eight upper bits of sixteen elements; their low plane is stored.
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[inline(always)]
unsafe fn drain16<F: Format>(at: *const u8, low: *mut u16, tz: __m128i, mask: u32) -> __m256i {
    let (f, l);
    if F::BYTES == 2 {
        let v = load(at);
        f = _mm256_srl_epi16(v, _mm_cvtsi32_si128(F::LOW as i32));
        l = _mm256_and_si256(_mm256_srl_epi16(v, tz), _mm256_set1_epi16(mask as i16));
    } else {
        let (a, b) = (load(at), load(at.add(32)));
        f = pack32(_mm256_srli_epi32::<16>(a), _mm256_srli_epi32::<16>(b));
        let m = _mm256_set1_epi32(mask as i32);
        let (a, b) = (_mm256_srl_epi32(a, tz), _mm256_srl_epi32(b, tz));
        l = pack32(_mm256_and_si256(a, m), _mm256_and_si256(b, m));
    }
    if F::LOW > 0 {
        _mm256_storeu_si256(low as *mut _, l);
    }
    _mm256_and_si256(f, _mm256_set1_epi16(255))
}

/// Twin of [`scalar::drain`].
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn drain<F: Format>(mem: &[u8], fields: &mut [u8], low: &mut [u16], row: &Fraction) {
    let n = fields.len();
    assert!(mem.len() == n * F::BYTES && low.len() == n);
    let mask = (1u32 << row.low::<F>()) - 1;
    let tz = _mm_cvtsi32_si128(row.tz as i32);
    let done = whole(n);
    for i in (0..done).step_by(STEP) {
        let (at, to) = (mem.as_ptr().add(i * F::BYTES), low.as_mut_ptr().add(i));
        let a = drain16::<F>(at, to, tz, mask);
        let b = drain16::<F>(at.add(16 * F::BYTES), to.add(16), tz, mask);
        let f = pack16(a, b);
        _mm256_storeu_si256(fields.as_mut_ptr().add(i) as *mut _, f);
    }
    if done == n {
        return;
    }
    let (mem, fields) = (&mem[done * F::BYTES..], &mut fields[done..]);
    scalar::drain::<F>(mem, fields, &mut low[done..], row);
}
