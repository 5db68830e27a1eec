//! AVX2 twins of the kernels of bit fields, for processors on which PDEP and PEXT are microcode.
//!
//! Fields are halved or joined in three steps, sixteen elements at a time: eight fields of one word by
//! shifts of integers, four by shifts of lanes, two by multiplication.

use super::bits::word;
#[cfg(feature = "encode")]
use super::bits::Writer;
#[cfg(feature = "encode")]
use crate::format::runs::Room;
use crate::kernels::scalar::bits as scalar;
use core::arch::x86_64::*;

/// Elements of one step.
const STEP: usize = 16;

/// What sixteen masks say of their fields.
struct Widths {
    /// The masks.
    masks: __m128i,
    /// Two to the width of each field, or to seven less the width.
    bytes: __m128i,
    /// Bits in the first two fields of each four.
    pairs: __m128i,
    /// Bits in the first four fields, and in all, of each eight.
    halves: [u32; 2],
    wholes: [usize; 2],
}

impl Widths {
    /// Of masks `2^n - 1` with `n` below 8; `None` if one is another.
    ///
    /// # Safety
    /// The machine has AVX2 and POPCNT.
    #[inline(always)]
    unsafe fn new(masks: __m128i, powers: __m128i) -> Option<Self> {
        let above = _mm_add_epi8(masks, _mm_set1_epi8(1));
        // A mask of eight bits has none above.
        let odd = _mm_or_si128(
            _mm_and_si128(masks, above),
            _mm_cmpeq_epi8(above, _mm_setzero_si128()),
        );
        if _mm_testz_si128(odd, odd) == 0 {
            return None;
        }
        let nibble = _mm_set1_epi8(15);
        let count = _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
        let low = _mm_shuffle_epi8(count, _mm_and_si128(masks, nibble));
        let high = _mm_and_si128(_mm_srli_epi16::<4>(masks), nibble);
        let widths = _mm_add_epi8(low, _mm_shuffle_epi8(count, high));
        let pairs = _mm_maddubs_epi16(widths, _mm_set1_epi8(1));
        let (a, b) = (
            _mm_cvtsi128_si64(masks) as u64,
            _mm_extract_epi64::<1>(masks) as u64,
        );
        Some(Widths {
            masks,
            bytes: _mm_shuffle_epi8(powers, widths),
            pairs: _mm_and_si128(pairs, _mm_set1_epi32(0xffff)),
            halves: [(a as u32).count_ones(), (b as u32).count_ones()],
            wholes: [a.count_ones() as usize, b.count_ones() as usize],
        })
    }

    /// The fields that begin at bit `at` of some bytes, each in its byte.
    ///
    /// # Safety
    /// The machine has AVX2; 16 bytes can be read from that of the first bit on.
    #[inline(always)]
    unsafe fn split(&self, buf: *const u8, at: &mut usize) -> __m128i {
        let mut eight = |i: usize| {
            let v = word(buf.add(*at >> 3)) >> (*at & 7);
            *at += self.wholes[i];
            (v & 0xffff_ffff | v >> self.halves[i] << 32) as i64
        };
        let (a, b) = (eight(0), eight(1));
        let v = _mm_set_epi64x(b, a);
        let second = _mm_slli_epi32::<16>(_mm_srlv_epi32(v, self.pairs));
        let v = _mm_blend_epi16::<0xaa>(v, second);
        // Times two to eight less the width of the first: the second of each two is the upper byte.
        let first = _mm_and_si128(self.bytes, _mm_set1_epi16(255));
        let second = _mm_mullo_epi16(_mm_add_epi16(v, v), first);
        let v = _mm_blendv_epi8(v, second, _mm_set1_epi16(-256));
        _mm_and_si128(v, self.masks)
    }

    #[cfg(feature = "encode")]
    /// Appends the bits of sixteen fields.
    ///
    /// # Safety
    /// The machine has AVX2.
    #[inline(always)]
    unsafe fn join(&self, fields: __m128i, to: &mut Writer) {
        let fields = _mm_and_si128(fields, self.masks);
        let second = _mm_or_si128(_mm_slli_epi16::<8>(self.bytes), _mm_set1_epi16(1));
        let v = _mm_maddubs_epi16(second, fields);
        let (a, b) = (
            _mm_and_si128(self.bytes, _mm_set1_epi16(255)),
            _mm_srli_epi16::<8>(self.bytes),
        );
        let second = _mm_slli_epi32::<16>(_mm_mullo_epi16(a, b));
        let v = _mm_madd_epi16(v, _mm_or_si128(second, _mm_set1_epi32(1)));
        let words = [_mm_cvtsi128_si64(v), _mm_extract_epi64::<1>(v)];
        for (i, v) in words.iter().map(|&v| v as u64).enumerate() {
            let v = v & 0xffff_ffff | v >> 32 << self.halves[i];
            to.put(v, self.wholes[i]);
        }
    }
}

/// By width, two to seven less it.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn falling() -> __m128i {
    _mm_setr_epi8(-128, 64, 32, 16, 8, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0)
}

/// Twin of [`scalar::unpack`] for widths of 1 to 7.
///
/// # Safety
/// The machine has AVX2 and POPCNT.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn unpack(buf: &[u8], bit: usize, width: u32, out: &mut [u8]) {
    let (mut at, mut i) = (bit, 0);
    if let Some(w) = Widths::new(_mm_set1_epi8(((1 << width) - 1) as i8), falling()) {
        while i + STEP <= out.len() && (at >> 3) + STEP <= buf.len() {
            let fields = w.split(buf.as_ptr(), &mut at);
            _mm_storeu_si128(out.as_mut_ptr().add(i) as *mut _, fields);
            i += STEP;
        }
    }
    scalar::unpack(buf, at, width, &mut out[i..]);
}

/// Twin of [`scalar::unpack_low`] for widths of 1 to 7.
///
/// # Safety
/// The machine has AVX2 and POPCNT.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn unpack_low(buf: &[u8], bit: usize, width: u32, out: &mut [u16]) {
    let (mut at, mut i) = (bit, 0);
    if let Some(w) = Widths::new(_mm_set1_epi8(((1 << width) - 1) as i8), falling()) {
        while i + STEP <= out.len() && (at >> 3) + STEP <= buf.len() {
            let fields = _mm256_cvtepu8_epi16(w.split(buf.as_ptr(), &mut at));
            _mm256_storeu_si256(out.as_mut_ptr().add(i) as *mut _, fields);
            i += STEP;
        }
    }
    scalar::unpack_low(buf, at, width, &mut out[i..]);
}

/// Twin of [`scalar::scatter`]. No mask has more than seven bits.
///
/// # Safety
/// The machine has AVX2 and POPCNT.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn scatter(buf: &[u8], bit: usize, masks: &[u8], out: &mut [u8]) -> usize {
    let (n, mut at) = (masks.len(), bit);
    assert!(out.len() == n && buf.len() >= n / 8 * 7 + 16);
    let whole = n / STEP * STEP;
    for i in (0..whole).step_by(STEP) {
        let m = _mm_loadu_si128(masks.as_ptr().add(i) as *const _);
        // At most 112 bits a step: a load ends before `buf` does.
        if let Some(w) = Widths::new(m, falling()) {
            let fields = w.split(buf.as_ptr(), &mut at);
            _mm_storeu_si128(out.as_mut_ptr().add(i) as *mut _, fields);
        } else {
            at += scalar::scatter(buf, at, &masks[i..i + STEP], &mut out[i..i + STEP]);
        }
    }
    let rest = scalar::scatter(buf, at, &masks[whole..], &mut out[whole..]);
    at - bit + rest
}

#[cfg(feature = "encode")]
/// By width, two to it.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn rising() -> __m128i {
    _mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, -128, 0, 0, 0, 0, 0, 0, 0, 0)
}

#[cfg(feature = "encode")]
/// Twin of [`scalar::gather`].
///
/// # Safety
/// The machine has AVX2 and POPCNT.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn gather(fields: &[u8], masks: &[u8], room: &mut Room, bit: usize) -> usize {
    let n = fields.len();
    assert!(masks.len() == n);
    let (mut i, mut to) = (0, Writer::new(room, bit));
    while i + STEP <= n {
        let f = _mm_loadu_si128(fields.as_ptr().add(i) as *const _);
        let m = _mm_loadu_si128(masks.as_ptr().add(i) as *const _);
        match Widths::new(m, rising()) {
            Some(w) => w.join(f, &mut to),
            None => to.with(|room, bit| {
                scalar::gather(&fields[i..i + STEP], &masks[i..i + STEP], room, bit)
            }),
        }
        i += STEP;
    }
    to.with(|room, bit| scalar::gather(&fields[i..], &masks[i..], room, bit));
    to.bit()
}

#[cfg(feature = "encode")]
/// Twin of [`scalar::pack`] for widths of 1 to 7.
///
/// # Safety
/// The machine has AVX2 and POPCNT.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn pack(fields: &[u8], width: u32, room: &mut Room, bit: usize) -> usize {
    let mut to = Writer::new(room, bit);
    let mut steps = fields.chunks_exact(STEP);
    if let Some(w) = Widths::new(_mm_set1_epi8(((1 << width) - 1) as i8), rising()) {
        for f in &mut steps {
            w.join(_mm_loadu_si128(f.as_ptr() as *const _), &mut to);
        }
    }
    to.with(|room, bit| scalar::pack(steps.remainder(), width, room, bit));
    to.bit()
}

#[cfg(feature = "encode")]
/// Twin of [`scalar::pack_low`] for widths of 1 to 7.
///
/// # Safety
/// The machine has AVX2 and POPCNT.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn pack_low(fields: &[u16], width: u32, room: &mut Room, bit: usize) -> usize {
    let mut to = Writer::new(room, bit);
    let mut steps = fields.chunks_exact(STEP);
    if let Some(w) = Widths::new(_mm_set1_epi8(((1 << width) - 1) as i8), rising()) {
        for f in &mut steps {
            let load = |i: usize| _mm_loadu_si128(f.as_ptr().add(i) as *const _);
            w.join(_mm_packus_epi16(load(0), load(8)), &mut to);
        }
    }
    to.with(|room, bit| scalar::pack_low(steps.remainder(), width, room, bit));
    to.bit()
}

#[cfg(all(test, feature = "encode"))]
mod tests {
    use super::*;
    use crate::format::rows::BLOCK;
    use crate::kernels::avx2::{bits, Avx2};

    /// Masks of one width, of any widths, and with bits that are idle.
    fn all_masks() -> Vec<Vec<u8>> {
        let mut all: Vec<Vec<u8>> = (1..8).map(|w| vec![(1u8 << w) - 1; 333]).collect();
        all.push((0..333).map(|i| (1u8 << (i * i % 8)) - 1).collect());
        all.push(
            (0..333)
                .map(|i| [0, 127, 1, 0b111_0000, 6, 3][i * 7 % 6])
                .collect(),
        );
        all
    }

    /// Numbers without order.
    fn noise(n: usize) -> Vec<u8> {
        let number = |i: u32| i.wrapping_mul(2_654_435_761) >> 13;
        (0..n as u32).map(|i| number(i) as u8).collect()
    }

    type Gather = fn(&[u8], &[u8], &mut Room, usize) -> usize;
    type Scatter = fn(&[u8], usize, &[u8], &mut [u8]) -> usize;

    /// Either way of reading and writing fields does it like the portable one, whatever this machine prefers.
    #[test]
    fn both_ways_equal_the_portable_one() {
        if Avx2::new().is_none() {
            return;
        }
        // SAFETY (all): the machine has AVX2.
        #[allow(clippy::undocumented_unsafe_blocks)]
        let ways: [(Gather, Scatter); 2] = [
            (
                |f, m, room, bit| unsafe { gather(f, m, room, bit) },
                |buf, bit, m, out| unsafe { scatter(buf, bit, m, out) },
            ),
            (
                |f, m, room, bit| unsafe { bits::gather(f, m, room, bit) },
                |buf, bit, m, out| unsafe { bits::scatter(buf, bit, m, out) },
            ),
        ];
        let (fields, bytes) = (noise(333), noise(2 * BLOCK));
        let write = |gather: Gather, m: &[u8], bit: usize| {
            let mut room = [0xa5; 2 * BLOCK + 16];
            let end = gather(&fields[..m.len()], m, &mut room, bit);
            let last = room[end / 8] & ((1u16 << (end & 7)) - 1) as u8;
            (end, room[..end / 8].to_vec(), last)
        };
        let read = |scatter: Scatter, m: &[u8], bit: usize| {
            let mut out = vec![0; m.len()];
            (scatter(&bytes, bit, m, &mut out), out)
        };
        for masks in all_masks() {
            for (bit, n) in [(0, 333), (3, 333), (7, 320), (5, 9)] {
                let m = &masks[..n];
                for (gather, scatter) in ways {
                    assert_eq!(write(gather, m, bit), write(scalar::gather, m, bit));
                    assert_eq!(read(scatter, m, bit), read(scalar::scatter, m, bit));
                }
            }
        }
    }

    /// The same for fields of one width, also at the very end of the bytes.
    #[test]
    fn one_width_equals_the_portable_way() {
        if Avx2::new().is_none() {
            return;
        }
        for (width, n) in (1..8u32).flat_map(|w| [(w, 333), (w, 64), (w, 5)]) {
            let mask = (1 << width) - 1;
            let fields: Vec<u8> = noise(n).iter().map(|f| f & mask).collect();
            let wide: Vec<u16> = fields.iter().map(|&f| f.into()).collect();
            let (mut room, mut good) = ([0; 2 * BLOCK + 16], [0; 2 * BLOCK + 16]);
            let end = scalar::pack(&fields, width, &mut good, 3);
            let bytes = (end + 7) / 8;
            // SAFETY: the machine has AVX2.
            let found = unsafe { pack(&fields, width, &mut room, 3) };
            assert_eq!((found, &room[..bytes]), (end, &good[..bytes]));
            // SAFETY: as before.
            let found = unsafe { pack_low(&wide, width, &mut room, 3) };
            assert_eq!((found, &room[..bytes]), (end, &good[..bytes]));
            let (mut narrow, mut low) = (vec![0; n], vec![0; n]);
            // SAFETY: as before.
            unsafe {
                unpack(&good[..bytes], 3, width, &mut narrow);
                unpack_low(&good[..bytes], 3, width, &mut low);
            }
            assert!(narrow == fields && low == wide);
        }
    }
}
