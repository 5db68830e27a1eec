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
pub unsafe fn word(p: *const u8) -> u64 {
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
    let (mut to, groups) = (Writer::new(room, bit), fields.len() / 8);
    for i in 0..groups {
        let f = _mm_loadu_si128(fields.as_ptr().add(8 * i) as *const _);
        let f = _mm_cvtsi128_si64(_mm_packus_epi16(f, f)) as u64;
        to.put(_pext_u64(f, mask), 8 * width as usize);
    }
    to.with(|room, bit| scalar::pack_low(&fields[8 * groups..], width, room, bit));
    to.bit()
}

#[cfg(feature = "encode")]
/// Appends bits to a room. Those that do not fill a byte wait in a register, and in the room as well.
pub struct Writer<'a> {
    room: &'a mut Room,
    at: usize,
    held: u64,
    count: usize,
}

#[cfg(feature = "encode")]
impl<'a> Writer<'a> {
    /// From a bit on, in whose byte the bits before stay.
    #[inline(always)]
    pub fn new(room: &'a mut Room, bit: usize) -> Self {
        let mut to = Writer {
            room,
            at: 0,
            held: 0,
            count: 0,
        };
        to.seek(bit);
        to
    }
    #[inline(always)]
    fn seek(&mut self, bit: usize) {
        (self.at, self.count) = (bit >> 3, bit & 7);
        self.held = u64::from(self.room[self.at]) & ((1 << self.count) - 1);
    }
    /// The bit behind all bits so far.
    #[inline(always)]
    pub fn bit(&self) -> usize {
        8 * self.at + self.count
    }
    /// Appends `n <= 56` bits.
    #[inline(always)]
    pub fn put(&mut self, v: u64, n: usize) {
        self.held |= v << self.count;
        let at = self.at.min(self.room.len() - 8);
        self.room[at..at + 8].copy_from_slice(&self.held.to_le_bytes());
        self.count += n;
        self.at += self.count >> 3;
        self.held >>= self.count & 56;
        self.count &= 7;
    }
    /// Appends by a kernel that takes the room and a bit and returns the bit behind its own.
    #[inline(always)]
    pub fn with(&mut self, kernel: impl FnOnce(&mut Room, usize) -> usize) {
        let bit = kernel(self.room, self.bit());
        self.seek(bit);
    }
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
    let (mut to, groups) = (Writer::new(room, bit), fields.len() / 8);
    for i in 0..groups {
        let f = word(fields.as_ptr().add(8 * i));
        let m = word(masks.as_ptr().add(8 * i));
        let n = m.count_ones() as usize;
        if n > 56 {
            // Eight whole bytes, behind some bits: the only width that does not fit in one go.
            let (f, m) = (&fields[8 * i..][..8], &masks[8 * i..][..8]);
            to.with(|room, bit| scalar::gather(f, m, room, bit));
        } else {
            to.put(_pext_u64(f, m), n);
        }
    }
    let (f, m) = (&fields[8 * groups..], &masks[8 * groups..]);
    to.with(|room, bit| scalar::gather(f, m, room, bit));
    to.bit()
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
