//! AVX2 twins of the kernels of bit fields, with PDEP and PEXT.

#[cfg(feature = "encode")]
use crate::format::runs::Room;
use crate::kernels::scalar::bits as scalar;
use core::arch::x86_64::*;

/// Eight bytes from a pointer.
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[inline(always)]
unsafe fn word(p: *const u8) -> u64 {
    (p as *const u64).read_unaligned()
}

/// Twin of [`scalar::unpack`].
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
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
    scalar::unpack(buf, bit + i * width as usize, width, &mut out[i..]);
}

/// Twin of [`scalar::unpack_low`].
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
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
    scalar::unpack_low(buf, bit + i * width as usize, width, &mut out[i..]);
}

#[cfg(feature = "encode")]
/// Twin of [`scalar::pack_low`].
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
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
        return scalar::pack_low(fields, width, room, bit);
    }
    let mask = 0x0101_0101_0101_0101 * ((1 << width) - 1);
    let (mut at, groups) = (bit, fields.len() / 8);
    for i in 0..groups {
        let f = _mm_loadu_si128(fields.as_ptr().add(8 * i) as *const _);
        let f = _mm_cvtsi128_si64(_mm_packus_epi16(f, f)) as u64;
        at = put(room, at, _pext_u64(f, mask), 8 * width as usize);
    }
    scalar::pack_low(&fields[8 * groups..], width, room, at)
}

#[cfg(feature = "encode")]
/// Appends `n <= 56` bits from a bit of the room on, whose last byte holds what came before.
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[inline(always)]
unsafe fn put(room: &mut Room, bit: usize, v: u64, n: usize) -> usize {
    let p = room.as_mut_ptr().add((bit >> 3).min(room.len() - 8));
    let held = u64::from(*p) & ((1 << (bit & 7)) - 1);
    (p as *mut u64).write_unaligned(held | v << (bit & 7));
    bit + n
}

#[cfg(feature = "encode")]
/// Twin of [`scalar::pack`].
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn pack(fields: &[u8], width: u32, room: &mut Room, bit: usize) -> usize {
    if width == 4 && bit & 7 == 0 {
        let (from, whole) = (bit >> 3, fields.len() / 32);
        let nibbles = _mm256_set1_epi16(0x1001);
        for (f, to) in fields
            .chunks_exact(32)
            .zip(room[from..].chunks_exact_mut(16))
        {
            // The second of each pair times 16, plus the first.
            let f = _mm256_loadu_si256(f.as_ptr() as *const _);
            let f = _mm256_and_si256(f, _mm256_set1_epi8(15));
            let pairs = _mm256_maddubs_epi16(f, nibbles);
            let (a, b) = (
                _mm256_castsi256_si128(pairs),
                _mm256_extracti128_si256::<1>(pairs),
            );
            _mm_storeu_si128(to.as_mut_ptr() as *mut _, _mm_packus_epi16(a, b));
        }
        return scalar::pack(&fields[32 * whole..], width, room, bit + 128 * whole);
    }
    let masks = [((1u16 << width) - 1) as u8; 64];
    let mut at = bit;
    for fields in fields.chunks(64) {
        at = gather(fields, &masks[..fields.len()], room, at);
    }
    at
}

#[cfg(feature = "encode")]
/// Twin of [`scalar::gather`].
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
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
            at = scalar::gather(&fields[8 * i..][..8], &masks[8 * i..][..8], room, at);
        } else {
            at = put(room, at, _pext_u64(f, m), n);
        }
    }
    scalar::gather(&fields[8 * groups..], &masks[8 * groups..], room, at)
}

/// Twin of [`scalar::scatter`]. No mask has more than seven bits.
///
/// # Safety
/// The machine has AVX2, BMI2 and F16C.
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
    let rest = scalar::scatter(buf, at, &masks[8 * groups..], &mut out[8 * groups..]);
    at - bit + rest
}
