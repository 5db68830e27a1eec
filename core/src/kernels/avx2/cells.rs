//! AVX2 twins of the kernels between a state and the next one.

use super::floats::{half_float, load, narrow_down, widen};
use crate::format::float::Format;
use crate::format::rows::BLOCK;
use crate::kernels::scalar::cells::{self as scalar, Deep, Fraction, Halving, Narrowing};
use core::arch::x86_64::*;

/// Elements of one step of the row kernels.
pub const STEP: usize = 32;

/// The elements that no whole step covers: the portable kernels do them.
#[inline(always)]
pub fn whole(n: usize) -> usize {
    n / STEP * STEP
}

/// Sixteen packed integers of two vectors, in order.
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[inline(always)]
pub unsafe fn pack32(a: __m256i, b: __m256i) -> __m256i {
    _mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi32(a, b))
}

/// 32 packed bytes of two vectors, in order.
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[inline(always)]
pub unsafe fn pack16(a: __m256i, b: __m256i) -> __m256i {
    _mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi16(a, b))
}

/// One row's constants on the way to finer cells.
pub struct Steps {
    step: __m256,
    first: __m256,
    known: i32,
}

impl Steps {
    /// Of a row.
    ///
    /// # Safety
    /// The machine has AVX2, BMI2 and F16C.
    #[inline(always)]
    pub unsafe fn new(row: &Halving) -> Self {
        Steps {
            step: _mm256_set1_ps(2.0 * row.half),
            first: _mm256_set1_ps((1 - (1 << row.k)) as f32 * row.half),
            known: row.known as i32,
        }
    }

    /// Values of eight elements after their positions.
    ///
    /// # Safety
    /// The machine has AVX2, BMI2 and F16C.
    #[inline(always)]
    unsafe fn moved(&self, v: __m256, f: __m256i) -> __m256 {
        let offset = _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(f), self.step), self.first);
        _mm256_add_ps(v, offset)
    }

    /// All ones for the sixteen-bit elements that are open.
    ///
    /// # Safety
    /// The machine has AVX2.
    #[inline(always)]
    pub unsafe fn open16<F: Format>(&self, v: __m256i) -> __m256i {
        let u = _mm256_and_si256(v, _mm256_set1_epi16(F::MASK as i16));
        _mm256_cmpgt_epi16(_mm256_set1_epi16(self.known as i16), u)
    }

    /// All ones for the 32-bit elements that are open.
    ///
    /// # Safety
    /// The machine has AVX2.
    #[inline(always)]
    pub unsafe fn open8<F: Format>(&self, v: __m256i) -> __m256i {
        let u = _mm256_and_si256(v, _mm256_set1_epi32(F::MASK as i32));
        _mm256_cmpgt_epi32(_mm256_set1_epi32(self.known), u)
    }

    /// Sixteen 16-bit elements by sixteen positions.
    ///
    /// # Safety
    /// The machine has AVX2, BMI2 and F16C.
    #[inline(always)]
    unsafe fn halve16<F: Format>(&self, mem: *mut u8, f: __m128i) {
        let v = load(mem);
        let (low, high) = (_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
        let a = self.moved(value16::<F>(low), _mm256_cvtepu8_epi32(f));
        let b = self.moved(
            value16::<F>(high),
            _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(f)),
        );
        let new = floor16::<F>(a, b);
        let open = self.open16::<F>(v);
        _mm256_storeu_si256(mem as *mut _, _mm256_blendv_epi8(v, new, open));
    }

    /// Eight `f32` by eight positions.
    ///
    /// # Safety
    /// The machine has AVX2, BMI2 and F16C.
    #[inline(always)]
    unsafe fn halve8<F: Format>(&self, mem: *mut u8, f: __m256i) {
        let v = load(mem);
        let new = _mm256_castps_si256(self.moved(_mm256_castsi256_ps(v), f));
        let open = self.open8::<F>(v);
        _mm256_storeu_si256(mem as *mut _, _mm256_blendv_epi8(v, new, open));
    }

    /// 32 elements.
    ///
    /// # Safety
    /// The machine has AVX2, BMI2 and F16C.
    #[inline(always)]
    pub unsafe fn halve32<F: Format>(&self, mem: *mut u8, positions: *const u8) {
        for i in (0..STEP).step_by(16) {
            let f = _mm_loadu_si128(positions.add(i) as *const _);
            let mem = mem.add(i * F::BYTES);
            if F::BYTES == 2 {
                self.halve16::<F>(mem, f);
            } else {
                self.halve8::<F>(mem, _mm256_cvtepu8_epi32(f));
                self.halve8::<F>(mem.add(32), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(f)));
            }
        }
    }
}

/// Sixteen 16-bit elements of these values, rounded toward zero.
///
/// # Safety
/// The machine has AVX2 and F16C.
#[inline(always)]
pub unsafe fn floor16<F: Format>(a: __m256, b: __m256) -> __m256i {
    if half_float::<F>() {
        let low = _mm256_castsi128_si256(narrow_down(a));
        _mm256_inserti128_si256::<1>(low, narrow_down(b))
    } else {
        let (a, b) = (_mm256_castps_si256(a), _mm256_castps_si256(b));
        pack32(_mm256_srli_epi32::<16>(a), _mm256_srli_epi32::<16>(b))
    }
}

/// Signed values of eight 16-bit elements.
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[inline(always)]
pub unsafe fn value16<F: Format>(v: __m128i) -> __m256 {
    if half_float::<F>() {
        widen(v)
    } else {
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(v)))
    }
}

/// Twin of [`scalar::halve`].
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn halve<F: Format>(mem: &mut [u8], positions: &[u8], row: &Halving) {
    let n = positions.len();
    assert!(mem.len() == n * F::BYTES);
    let (steps, done) = (Steps::new(row), whole(n));
    for i in (0..done).step_by(STEP) {
        steps.halve32::<F>(
            mem.as_mut_ptr().add(i * F::BYTES),
            positions.as_ptr().add(i),
        );
    }
    if done == n {
        return;
    }
    scalar::halve::<F>(&mut mem[done * F::BYTES..], &positions[done..], row);
}

/// Widths of the upper fields of sixteen elements, before they are limited.
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[inline(always)]
unsafe fn width16<F: Format>(mem: *const u8, reach: __m256i) -> __m256i {
    let zero = _mm256_setzero_si256();
    let (x, none) = if F::BYTES == 2 {
        let u = _mm256_and_si256(load(mem), _mm256_set1_epi16(F::MASK as i16));
        let shift = _mm_cvtsi32_si128(F::MANT as i32);
        (_mm256_srl_epi16(u, shift), _mm256_cmpeq_epi16(u, zero))
    } else {
        let mask = _mm256_set1_epi32(F::MASK as i32);
        let (a, b) = (
            _mm256_and_si256(load(mem), mask),
            _mm256_and_si256(load(mem.add(32)), mask),
        );
        let none = _mm256_packs_epi32(_mm256_cmpeq_epi32(a, zero), _mm256_cmpeq_epi32(b, zero));
        let x = pack32(_mm256_srli_epi32::<23>(a), _mm256_srli_epi32::<23>(b));
        (x, _mm256_permute4x64_epi64::<0xd8>(none))
    };
    let x = _mm256_max_epi16(x, _mm256_set1_epi16(1));
    _mm256_andnot_si256(none, _mm256_subs_epu16(reach, x))
}

/// Twin of [`scalar::finer_widths`].
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn finer_widths<F: Format>(mem: &[u8], row: &Narrowing, masks: &mut [u8]) {
    let n = masks.len();
    assert!(mem.len() == n * F::BYTES);
    let table = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 1, 3, 7, 15, 31, 63, 127, 0, 0, 0, 0, 0, 0, 0, 0,
    ));
    let (reach, most) = (
        _mm256_set1_epi16(row.reach as i16),
        _mm256_set1_epi8(row.k as i8),
    );
    let done = whole(n);
    for i in (0..done).step_by(STEP) {
        let at = mem.as_ptr().add(i * F::BYTES);
        let (next, known) = (at.add(16 * F::BYTES), row.known);
        let a = _mm256_andnot_si256(closed16::<F>(at, known), width16::<F>(at, reach));
        let b = _mm256_andnot_si256(closed16::<F>(next, known), width16::<F>(next, reach));
        let w = _mm256_min_epu8(pack16(a, b), most);
        let mask = _mm256_shuffle_epi8(table, w);
        _mm256_storeu_si256(masks.as_mut_ptr().add(i) as *mut _, mask);
    }
    if done == n {
        return;
    }
    scalar::finer_widths::<F>(&mem[done * F::BYTES..], row, &mut masks[done..]);
}

/// All ones for the elements of sixteen that are known.
///
/// # Safety
/// The machine has AVX2; sixteen elements can be read.
#[inline(always)]
unsafe fn closed16<F: Format>(mem: *const u8, known: u32) -> __m256i {
    if F::BYTES == 2 {
        let u = _mm256_and_si256(load(mem), _mm256_set1_epi16(F::MASK as i16));
        _mm256_cmpgt_epi16(u, _mm256_set1_epi16(known as i16 - 1))
    } else {
        let (mask, last) = (
            _mm256_set1_epi32(F::MASK as i32),
            _mm256_set1_epi32(known as i32 - 1),
        );
        let a = _mm256_cmpgt_epi32(_mm256_and_si256(load(mem), mask), last);
        let b = _mm256_cmpgt_epi32(_mm256_and_si256(load(mem.add(32)), mask), last);
        _mm256_permute4x64_epi64::<0xd8>(_mm256_packs_epi32(a, b))
    }
}

/// Eight values at the finer positions `f` of so many bits as their masks `m` have.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn narrowed(v: __m256, m: __m256i, f: __m256i, half: __m256) -> __m256 {
    let one = _mm256_set1_epi32(1);
    let cells = _mm256_castps_si256(_mm256_cvtepi32_ps(_mm256_add_epi32(m, one)));
    // The reciprocal of a power of two.
    let width = _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_set1_epi32(254 << 23), cells));
    let odd = _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_add_epi32(f, f), one));
    let offset = _mm256_sub_ps(_mm256_mul_ps(odd, width), _mm256_set1_ps(1.0));
    _mm256_add_ps(v, _mm256_mul_ps(offset, half))
}

/// Eight bytes as integers.
///
/// # Safety
/// The machine has AVX2; eight bytes can be read.
#[inline(always)]
pub unsafe fn bytes8(p: *const u8) -> __m256i {
    _mm256_cvtepu8_epi32(_mm_loadl_epi64(p as *const _))
}

/// Twin of [`scalar::narrow`].
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn narrow<F: Format>(mem: &mut [u8], masks: &[u8], positions: &[u8], row: &Narrowing) {
    let n = masks.len();
    assert!(mem.len() == n * F::BYTES && positions.len() == n);
    let (half, zero) = (_mm256_set1_ps(row.half), _mm256_setzero_si256());
    let done = n / 16 * 16;
    for i in (0..done).step_by(16) {
        let at = mem.as_mut_ptr().add(i * F::BYTES);
        let (m, f) = (masks.as_ptr().add(i), positions.as_ptr().add(i));
        let (m0, m1) = (bytes8(m), bytes8(m.add(8)));
        let (f0, f1) = (bytes8(f), bytes8(f.add(8)));
        if F::BYTES == 2 {
            let v = load(at);
            let (low, high) = (_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            let new = floor16::<F>(
                narrowed(value16::<F>(low), m0, f0, half),
                narrowed(value16::<F>(high), m1, f1, half),
            );
            let open = _mm256_cvtepu8_epi16(_mm_loadu_si128(m as *const _));
            let open = _mm256_cmpgt_epi16(open, zero);
            _mm256_storeu_si256(at as *mut _, _mm256_blendv_epi8(v, new, open));
        } else {
            let (v, w) = (load(at), load(at.add(32)));
            let a = narrowed(_mm256_castsi256_ps(v), m0, f0, half);
            let b = narrowed(_mm256_castsi256_ps(w), m1, f1, half);
            let (a, b) = (_mm256_castps_si256(a), _mm256_castps_si256(b));
            let a = _mm256_blendv_epi8(v, a, _mm256_cmpgt_epi32(m0, zero));
            let b = _mm256_blendv_epi8(w, b, _mm256_cmpgt_epi32(m1, zero));
            _mm256_storeu_si256(at as *mut _, a);
            _mm256_storeu_si256(at.add(32) as *mut _, b);
        }
    }
    if done == n {
        return;
    }
    let mem = &mut mem[done * F::BYTES..];
    scalar::narrow::<F>(mem, &masks[done..], &positions[done..], row);
}

/// Appends the numbers of the bits that are set. Whether there is one is a coin toss, so some are
/// written in any case; the list has room for them.
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[inline(always)]
unsafe fn push_all(deep: &mut Deep, first: u16, mut set: u32) {
    let mut at = deep.list.as_mut_ptr().add(deep.len);
    deep.len += set.count_ones() as usize;
    for i in 0..3 {
        *at.add(i) = first + set.trailing_zeros() as u16;
        set &= set.wrapping_sub(1);
    }
    at = at.add(3);
    while set != 0 {
        *at = first + set.trailing_zeros() as u16;
        at = at.add(1);
        set &= set - 1;
    }
}

/// Twin of [`scalar::widths`].
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn widths<F: Format>(
    mem: &[u8],
    row: &Fraction,
    masks: &mut [u8],
    deep: &mut Deep,
    start: usize,
) {
    let n = masks.len();
    assert!(mem.len() == n * F::BYTES && start + n <= BLOCK);
    assert!(deep.len + n <= BLOCK);
    let table = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 1, 3, 7, 15, 31, 63, 127, 127, 0, 0, 0, 0, 0, 0, 0,
    ));
    let reach = _mm256_set1_epi16(row.reach as i16);
    let idle = _mm256_set1_epi8(row.idle::<F>() as i8);
    let (fifteen, eight) = (_mm256_set1_epi8(15), _mm256_set1_epi8(8));
    let done = whole(n);
    for i in (0..done).step_by(STEP) {
        let at = mem.as_ptr().add(i * F::BYTES);
        let (a, b) = (
            width16::<F>(at, reach),
            width16::<F>(at.add(16 * F::BYTES), reach),
        );
        let w = _mm256_min_epu8(pack16(a, b), fifteen);
        let mask = _mm256_andnot_si256(idle, _mm256_shuffle_epi8(table, w));
        _mm256_storeu_si256(masks.as_mut_ptr().add(i) as *mut _, mask);
        let set = _mm256_movemask_epi8(_mm256_cmpeq_epi8(w, eight)) as u32;
        push_all(deep, (start + i) as u16, set);
    }
    if done == n {
        return;
    }
    let (mem, masks) = (&mem[done * F::BYTES..], &mut masks[done..]);
    scalar::widths::<F>(mem, row, masks, deep, start + done);
}

/// Sixteen integers as two times eight of 32 bits.
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[inline(always)]
unsafe fn halves(v: __m256i) -> (__m256i, __m256i) {
    let (a, b) = (_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    (_mm256_cvtepu16_epi32(a), _mm256_cvtepu16_epi32(b))
}

/// Eight `f32`: upper fields into the upper halves, the low plane below.
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[inline(always)]
unsafe fn fill8(at: *mut u8, clear: __m256i, f: __m256i, low: __m256i, tz: __m128i) {
    let upper = _mm256_srli_epi32::<16>(load(at));
    let upper = _mm256_or_si256(_mm256_andnot_si256(clear, upper), f);
    let v = _mm256_or_si256(_mm256_slli_epi32::<16>(upper), _mm256_sll_epi32(low, tz));
    _mm256_storeu_si256(at as *mut _, v);
}

/// Twin of [`scalar::fill`].
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn fill<F: Format>(
    mem: &mut [u8],
    masks: &[u8],
    fields: &[u8],
    low: &[u16],
    row: &Fraction,
) {
    let n = masks.len();
    assert!(mem.len() == n * F::BYTES && fields.len() == n && low.len() == n);
    let idle = _mm256_set1_epi16(i16::from(row.idle::<F>()));
    let tz = _mm_cvtsi32_si128(row.tz as i32);
    let done = n / 16 * 16;
    for i in (0..done).step_by(16) {
        let m = _mm256_cvtepu8_epi16(_mm_loadu_si128(masks.as_ptr().add(i) as *const _));
        let f = _mm256_cvtepu8_epi16(_mm_loadu_si128(fields.as_ptr().add(i) as *const _));
        let clear = _mm256_or_si256(m, idle);
        let at = mem.as_mut_ptr().add(i * F::BYTES);
        if F::BYTES == 2 && F::LOW == 0 {
            let v = _mm256_or_si256(_mm256_andnot_si256(clear, load(at)), f);
            _mm256_storeu_si256(at as *mut _, v);
            continue;
        }
        let l = load(low.as_ptr().add(i) as *const u8);
        if F::BYTES == 2 {
            let shift = _mm_cvtsi32_si128(F::LOW as i32);
            let upper = _mm256_andnot_si256(clear, _mm256_srl_epi16(load(at), shift));
            let upper = _mm256_sll_epi16(_mm256_or_si256(upper, f), shift);
            let v = _mm256_or_si256(upper, _mm256_sll_epi16(l, tz));
            _mm256_storeu_si256(at as *mut _, v);
            continue;
        }
        let (c, f, l) = (halves(clear), halves(f), halves(l));
        fill8(at, c.0, f.0, l.0, tz);
        fill8(at.add(32), c.1, f.1, l.1, tz);
    }
    if done == n {
        return;
    }
    let (mem, low) = (&mut mem[done * F::BYTES..], &low[done..]);
    scalar::fill::<F>(mem, &masks[done..], &fields[done..], low, row);
}
