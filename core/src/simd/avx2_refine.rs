//! AVX2 twins of a refinement's kernels. They compute what `refine/cells.rs` and `refine/bits.rs` say.

use super::avx2_rows::{half_float, load, narrow_down, widen};
use crate::float::Format;
use crate::refine::bits::{self, Room};
use crate::refine::cells::{self, Deep};
use crate::refine::{Fraction, Halving};
use core::arch::x86_64::*;

/// Elements of one step of the row kernels.
const STEP: usize = 32;

/// The elements that no whole step covers: the portable kernels do them.
#[inline(always)]
fn whole(n: usize) -> usize {
    n / STEP * STEP
}

/// Eight bytes from a pointer.
#[inline(always)]
unsafe fn word(p: *const u8) -> u64 {
    (p as *const u64).read_unaligned()
}

/// Sixteen packed integers of two vectors, in order.
#[inline(always)]
unsafe fn pack32(a: __m256i, b: __m256i) -> __m256i {
    _mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi32(a, b))
}

/// 32 packed bytes of two vectors, in order.
#[inline(always)]
unsafe fn pack16(a: __m256i, b: __m256i) -> __m256i {
    _mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi16(a, b))
}

/// Twin of [`bits::unpack`].
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn unpack(buf: &[u8], bit: usize, width: u32, out: &mut [u8]) {
    let n = out.len();
    // Whole groups of eight, or of 32, whose loads end within the buffer.
    let mut i = 0;
    if width == 4 && bit & 7 == 0 {
        let (from, nibble) = (bit >> 3, _mm_set1_epi8(15));
        while i + 32 <= n && from + i / 2 + 16 <= buf.len() {
            let v = _mm_loadu_si128(buf.as_ptr().add(from + i / 2) as *const _);
            let (low, high) = (
                _mm_and_si128(v, nibble),
                _mm_and_si128(_mm_srli_epi16::<4>(v), nibble),
            );
            let to = out.as_mut_ptr().add(i) as *mut __m128i;
            _mm_storeu_si128(to, _mm_unpacklo_epi8(low, high));
            _mm_storeu_si128(to.add(1), _mm_unpackhi_epi8(low, high));
            i += 32;
        }
    } else if width == 8 && bit & 7 == 0 {
        let from = bit >> 3;
        i = n.min(buf.len() - from);
        out[..i].copy_from_slice(&buf[from..from + i]);
    } else if (1..8).contains(&width) {
        let mask = 0x0101_0101_0101_0101 * ((1 << width) - 1);
        let mut at = bit;
        while i + 8 <= n && (at >> 3) + 8 <= buf.len() {
            // Seven bits to skip and 56 of fields fit.
            let fields = _pdep_u64(word(buf.as_ptr().add(at >> 3)) >> (at & 7), mask);
            (out.as_mut_ptr().add(i) as *mut u64).write_unaligned(fields);
            at += 8 * width as usize;
            i += 8;
        }
    }
    bits::unpack(buf, bit + i * width as usize, width, &mut out[i..]);
}

/// Twin of [`bits::unpack_low`].
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn unpack_low(buf: &[u8], bit: usize, width: u32, out: &mut [u16]) {
    let n = out.len();
    let mut i = 0;
    if width == 16 && bit & 7 == 0 {
        let from = bit >> 3;
        i = n.min((buf.len() - from) / 2);
        let fields = &buf[from..from + 2 * i];
        for (o, f) in out.iter_mut().zip(fields.chunks_exact(2)) {
            *o = u16::from_le_bytes([f[0], f[1]]);
        }
    } else if (1..8).contains(&width) {
        let mask = 0x0101_0101_0101_0101 * ((1 << width) - 1);
        let mut at = bit;
        while i + 8 <= n && (at >> 3) + 8 <= buf.len() {
            let fields = _pdep_u64(word(buf.as_ptr().add(at >> 3)) >> (at & 7), mask);
            let fields = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(fields as i64));
            _mm_storeu_si128(out.as_mut_ptr().add(i) as *mut _, fields);
            at += 8 * width as usize;
            i += 8;
        }
    }
    bits::unpack_low(buf, bit + i * width as usize, width, &mut out[i..]);
}

/// Twin of [`bits::pack_low`].
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn pack_low(fields: &[u16], width: u32, room: &mut Room, bit: usize) -> usize {
    if width == 16 && bit & 7 == 0 {
        let at = bit >> 3;
        for (o, f) in room[at..].chunks_exact_mut(2).zip(fields) {
            o.copy_from_slice(&f.to_le_bytes());
        }
        return bit + 16 * fields.len();
    }
    if !(1..8).contains(&width) {
        return bits::pack_low(fields, width, room, bit);
    }
    let mask = 0x0101_0101_0101_0101 * ((1 << width) - 1);
    let (mut at, groups) = (bit, fields.len() / 8);
    for i in 0..groups {
        let f = _mm_loadu_si128(fields.as_ptr().add(8 * i) as *const _);
        let f = _mm_cvtsi128_si64(_mm_packus_epi16(f, f)) as u64;
        at = put(room, at, _pext_u64(f, mask), 8 * width as usize);
    }
    bits::pack_low(&fields[8 * groups..], width, room, at)
}

/// Appends `n <= 56` bits from a bit of the room on, whose last byte holds what came before.
#[inline(always)]
unsafe fn put(room: &mut Room, bit: usize, v: u64, n: usize) -> usize {
    let p = room.as_mut_ptr().add((bit >> 3).min(room.len() - 8));
    let held = u64::from(*p) & ((1 << (bit & 7)) - 1);
    (p as *mut u64).write_unaligned(held | v << (bit & 7));
    bit + n
}

/// Twin of [`bits::gather`].
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn gather(fields: &[u8], masks: &[u8], room: &mut Room, bit: usize) -> usize {
    assert!(fields.len() == masks.len());
    let (mut at, groups) = (bit, fields.len() / 8);
    for i in 0..groups {
        let f = word(fields.as_ptr().add(8 * i));
        let m = word(masks.as_ptr().add(8 * i));
        let n = m.count_ones() as usize;
        if n > 56 {
            // Eight whole bytes, behind some bits: the only width that does not fit in one go.
            at = bits::gather(&fields[8 * i..][..8], &masks[8 * i..][..8], room, at);
        } else {
            at = put(room, at, _pext_u64(f, m), n);
        }
    }
    bits::gather(&fields[8 * groups..], &masks[8 * groups..], room, at)
}

/// Twin of [`bits::scatter`]. No mask has more than seven bits.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn scatter(buf: &[u8], bit: usize, masks: &[u8], out: &mut [u8]) -> usize {
    let (n, mut at) = (masks.len(), bit);
    assert!(out.len() == n && buf.len() >= n / 8 * 7 + 16);
    let groups = n / 8;
    for i in 0..groups {
        let m = word(masks.as_ptr().add(8 * i)) & 0x7f7f_7f7f_7f7f_7f7f;
        // At most 56 bits a group: the load ends before `buf` does.
        let fields = _pdep_u64(word(buf.as_ptr().add(at >> 3)) >> (at & 7), m);
        (out.as_mut_ptr().add(8 * i) as *mut u64).write_unaligned(fields);
        at += m.count_ones() as usize;
    }
    let rest = bits::scatter(buf, at, &masks[8 * groups..], &mut out[8 * groups..]);
    at - bit + rest
}

/// One row's constants on the way to finer cells.
struct Steps {
    step: __m256,
    first: __m256,
    known: i32,
    /// All ones where zeros are exact zeros.
    cells: __m256i,
}

impl Steps {
    #[inline(always)]
    unsafe fn new(row: &Halving) -> Self {
        Steps {
            step: _mm256_set1_ps(2.0 * row.half),
            first: _mm256_set1_ps((1 - (1 << row.k)) as f32 * row.half),
            known: row.known as i32,
            cells: _mm256_set1_epi32(-i32::from(row.cells)),
        }
    }

    /// Values of eight elements after their positions.
    #[inline(always)]
    unsafe fn moved(&self, v: __m256, f: __m256i) -> __m256 {
        let offset = _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(f), self.step), self.first);
        _mm256_add_ps(v, offset)
    }

    /// All ones for the sixteen-bit elements that are known.
    #[inline(always)]
    unsafe fn known16<F: Format>(&self, v: __m256i) -> __m256i {
        let u = _mm256_and_si256(v, _mm256_set1_epi16(F::MASK as i16));
        let open = _mm256_cmpgt_epi16(_mm256_set1_epi16(self.known as i16), u);
        let zero = _mm256_cmpeq_epi16(u, _mm256_setzero_si256());
        let zero = _mm256_and_si256(zero, self.cells);
        _mm256_or_si256(_mm256_xor_si256(open, _mm256_set1_epi32(-1)), zero)
    }

    /// All ones for the 32-bit elements that are known.
    #[inline(always)]
    unsafe fn known8<F: Format>(&self, v: __m256i) -> __m256i {
        let u = _mm256_and_si256(v, _mm256_set1_epi32(F::MASK as i32));
        let open = _mm256_cmpgt_epi32(_mm256_set1_epi32(self.known), u);
        let zero = _mm256_and_si256(_mm256_cmpeq_epi32(u, _mm256_setzero_si256()), self.cells);
        _mm256_or_si256(_mm256_xor_si256(open, _mm256_set1_epi32(-1)), zero)
    }

    /// Sixteen 16-bit elements by sixteen positions.
    #[inline(always)]
    unsafe fn halve16<F: Format>(&self, mem: *mut u8, f: __m128i) {
        let v = load(mem);
        let (low, high) = (_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
        let a = self.moved(value16::<F>(low), _mm256_cvtepu8_epi32(f));
        let b = self.moved(
            value16::<F>(high),
            _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(f)),
        );
        let new = if half_float::<F>() {
            let low = _mm256_castsi128_si256(narrow_down(a));
            _mm256_inserti128_si256::<1>(low, narrow_down(b))
        } else {
            let (a, b) = (_mm256_castps_si256(a), _mm256_castps_si256(b));
            pack32(_mm256_srli_epi32::<16>(a), _mm256_srli_epi32::<16>(b))
        };
        let known = self.known16::<F>(v);
        _mm256_storeu_si256(mem as *mut _, _mm256_blendv_epi8(new, v, known));
    }

    /// Eight `f32` by eight positions.
    #[inline(always)]
    unsafe fn halve8<F: Format>(&self, mem: *mut u8, f: __m256i) {
        let v = load(mem);
        let new = _mm256_castps_si256(self.moved(_mm256_castsi256_ps(v), f));
        let known = self.known8::<F>(v);
        _mm256_storeu_si256(mem as *mut _, _mm256_blendv_epi8(new, v, known));
    }

    /// 32 elements.
    #[inline(always)]
    unsafe fn halve32<F: Format>(&self, mem: *mut u8, positions: *const u8) {
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

/// Signed values of eight 16-bit elements.
#[inline(always)]
unsafe fn value16<F: Format>(v: __m128i) -> __m256 {
    if half_float::<F>() {
        widen(v)
    } else {
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(v)))
    }
}

/// Twin of [`cells::halve`].
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
    cells::halve::<F>(&mut mem[done * F::BYTES..], &positions[done..], row);
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
    #[inline(always)]
    unsafe fn cell(&self, v: __m256) -> __m256i {
        let v = _mm256_and_ps(v, _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX)));
        // NaN gives the second operand.
        let most = _mm256_set1_ps(16_777_216.0);
        _mm256_cvttps_epi32(_mm256_min_ps(_mm256_mul_ps(v, self.scale), most))
    }

    /// Positions of eight weights, as integers, seen from the state.
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
    #[inline(always)]
    unsafe fn eight<F: Format>(&self, mem: *const u8, cur: *const u8, i: usize) -> __m256i {
        let at = i * F::BYTES;
        self.positions(values::<F>(mem.add(at)), values::<F>(cur.add(at)))
    }
}

/// Eight values of either width.
#[inline(always)]
unsafe fn values<F: Format>(mem: *const u8) -> __m256 {
    if F::BYTES == 4 {
        _mm256_loadu_ps(mem as *const f32)
    } else {
        value16::<F>(_mm_loadu_si128(mem as *const _))
    }
}

/// All ones for each known element, 32 of them as bytes.
#[inline(always)]
unsafe fn known32<F: Format>(steps: &Steps, cur: *const u8) -> __m256i {
    if F::BYTES == 2 {
        let (a, b) = (load(cur), load(cur.add(32)));
        let (a, b) = (steps.known16::<F>(a), steps.known16::<F>(b));
        _mm256_permute4x64_epi64::<0xd8>(_mm256_packs_epi16(a, b))
    } else {
        let a = _mm256_packs_epi32(
            steps.known8::<F>(load(cur)),
            steps.known8::<F>(load(cur.add(32))),
        );
        let b = _mm256_packs_epi32(
            steps.known8::<F>(load(cur.add(64))),
            steps.known8::<F>(load(cur.add(96))),
        );
        // Both steps of packing interleave the halves.
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order)
    }
}

/// Twin of [`cells::locate`].
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
        let f = _mm256_andnot_si256(known32::<F>(&steps, cur), pack16(a, b));
        let to = positions.as_mut_ptr().add(i);
        _mm256_storeu_si256(to as *mut _, f);
        steps.halve32::<F>(cur, to);
    }
    let at = done * F::BYTES;
    cells::locate::<F>(&mem[at..], &mut cur[at..], &mut positions[done..], row);
}

/// Widths of the upper fields of sixteen elements, before they are limited.
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

/// Appends the numbers of the bits that are set. Whether there is one is a coin toss, so some are
/// written in any case; the list has room for them.
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

/// Twin of [`cells::widths`].
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn widths<F: Format>(
    mem: &[u8],
    row: &Fraction,
    masks: &mut [u8],
    deep: &mut Deep,
    start: usize,
) {
    let n = masks.len();
    assert!(mem.len() == n * F::BYTES && start + n <= crate::rows::BLOCK);
    assert!(deep.len + n <= crate::rows::BLOCK);
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
    let (mem, masks) = (&mem[done * F::BYTES..], &mut masks[done..]);
    cells::widths::<F>(mem, row, masks, deep, start + done);
}

/// Sixteen integers as two times eight of 32 bits.
#[inline(always)]
unsafe fn halves(v: __m256i) -> (__m256i, __m256i) {
    let (a, b) = (_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    (_mm256_cvtepu16_epi32(a), _mm256_cvtepu16_epi32(b))
}

/// Eight `f32`: upper fields into the upper halves, the low plane below.
#[inline(always)]
unsafe fn fill8(at: *mut u8, clear: __m256i, f: __m256i, low: __m256i, tz: __m128i) {
    let upper = _mm256_srli_epi32::<16>(load(at));
    let upper = _mm256_or_si256(_mm256_andnot_si256(clear, upper), f);
    let v = _mm256_or_si256(_mm256_slli_epi32::<16>(upper), _mm256_sll_epi32(low, tz));
    _mm256_storeu_si256(at as *mut _, v);
}

/// Twin of [`cells::fill`].
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
    let (mem, low) = (&mut mem[done * F::BYTES..], &low[done..]);
    cells::fill::<F>(mem, &masks[done..], &fields[done..], low, row);
}

/// The lowest eight upper bits of sixteen elements; their low plane is stored.
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

/// Twin of [`cells::drain`].
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
    let (mem, fields) = (&mem[done * F::BYTES..], &mut fields[done..]);
    cells::drain::<F>(mem, fields, &mut low[done..], row);
}
