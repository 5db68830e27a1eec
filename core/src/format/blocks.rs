//! Quantised tensors of others as binary32 (SPEC.md, "Blocks"): for GGUF the operations of ggml, each
//! rounded to nearest even and none fused with another.

use crate::format::convert::widen;
use crate::format::float::{pow2, F16};
use crate::Error;

/// A type of blocks; the numbers are those on the wire, below 64 ggml's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Block {
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q2K = 10,
    Q3K = 11,
    Q4K = 12,
    Q5K = 13,
    Q6K = 14,
    E4M3 = 64,
    E5M2 = 65,
}

/// The only NaN that there is here.
fn nan() -> f32 {
    f32::from_bits(0x7fc0_0000)
}

impl Block {
    pub fn from_code(code: u8) -> Result<Self, Error> {
        use Block::*;
        let all = [
            Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K, E4M3, E5M2,
        ];
        let found = all.iter().copied().find(|&b| b as u8 == code);
        found.ok_or(Error::Malformed)
    }

    /// Elements, and bytes.
    pub fn size(self) -> (usize, usize) {
        match self {
            Block::Q4_0 => (32, 18),
            Block::Q4_1 => (32, 20),
            Block::Q5_0 => (32, 22),
            Block::Q5_1 => (32, 24),
            Block::Q8_0 => (32, 34),
            Block::Q2K => (256, 84),
            Block::Q3K => (256, 110),
            Block::Q4K => (256, 144),
            Block::Q5K => (256, 176),
            Block::Q6K => (256, 210),
            Block::E4M3 | Block::E5M2 => (1, 1),
        }
    }

    /// Values of whole blocks, and for each element the step between its value and the next one.
    #[inline(always)]
    pub fn dequantise(self, from: &[u8], values: &mut [f32], steps: &mut [f32]) {
        let (elems, bytes) = self.size();
        match self {
            Block::E4M3 => floats(from, values, steps, 4),
            Block::E5M2 => floats(from, values, steps, 5),
            _ => {
                let outs = values
                    .chunks_exact_mut(elems)
                    .zip(steps.chunks_exact_mut(elems));
                for (b, (y, d)) in from.chunks_exact(bytes).zip(outs) {
                    self.block(b, y, d);
                    if self.halves().iter().any(|at| b[at + 1] & 0x7c == 0x7c) {
                        clean(y);
                        clean(d);
                    }
                }
            }
        }
    }

    /// Places of the numbers of binary16.
    #[inline(always)]
    fn halves(self) -> &'static [usize] {
        match self {
            Block::Q4_0 | Block::Q5_0 | Block::Q8_0 => &[0],
            Block::Q4_1 | Block::Q5_1 | Block::Q4K | Block::Q5K => &[0, 2],
            Block::Q2K => &[80, 82],
            Block::Q3K => &[108],
            Block::Q6K => &[208],
            Block::E4M3 | Block::E5M2 => &[],
        }
    }

    #[inline(always)]
    fn block(self, b: &[u8], y: &mut [f32], d: &mut [f32]) {
        match self {
            Block::Q4_0 => nibbles(b, 2, 0, y, d, |d, _, q| d * (q - 8) as f32),
            Block::Q4_1 => nibbles(b, 4, 0, y, d, |d, m, q| d * q as f32 + m),
            Block::Q5_0 => nibbles(b, 6, word(b, 2), y, d, |d, _, q| d * (q - 16) as f32),
            Block::Q5_1 => nibbles(b, 8, word(b, 4), y, d, |d, m, q| d * q as f32 + m),
            Block::Q8_0 => {
                let scale = half(b, 0);
                d.fill(scale);
                let pairs = y.iter_mut().zip(&b[2..]);
                pairs.for_each(|(y, &q)| *y = f32::from(q as i8) * scale);
            }
            Block::Q2K => q2k(b, y, d),
            Block::Q3K => q3k(b, y, d),
            Block::Q4K => q45k(b, &[], &b[16..], y, d),
            Block::Q5K => q45k(b, &b[16..48], &b[48..], y, d),
            Block::Q6K => q6k(b, y, d),
            Block::E4M3 | Block::E5M2 => {}
        }
    }
}

/// One NaN for all: which of them comes out of an operation differs from machine to machine.
#[cold]
#[inline(never)]
fn clean(values: &mut [f32]) {
    for v in values {
        *v = if v.is_nan() { nan() } else { *v };
    }
}

/// The binary16 number at a place.
#[inline(always)]
fn half(b: &[u8], at: usize) -> f32 {
    f32::from_bits(widen::<F16>(u32::from(b[at]) | u32::from(b[at + 1]) << 8))
}

/// The bits above the nibbles of a block of 32.
#[inline(always)]
fn word(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Blocks of 32: sixteen bytes from `at` have the first half in their lower nibbles, the second in the
/// upper ones; `high` has a fifth bit of each.
#[inline(always)]
fn nibbles(
    b: &[u8],
    at: usize,
    high: u32,
    y: &mut [f32],
    steps: &mut [f32],
    value: impl Fn(f32, f32, i32) -> f32,
) {
    let (d, m) = (half(b, 0), half(b, 2));
    steps.fill(d);
    let (first, second) = y.split_at_mut(16);
    let items = first.iter_mut().zip(second).zip(&b[at..at + 16]);
    for (i, ((y, z), &q)) in items.enumerate() {
        let (low, up) = (i32::from(q & 15), i32::from(q >> 4));
        *y = value(d, m, low + (high >> i & 1) as i32 * 16);
        *z = value(d, m, up + (high >> (i + 16) & 1) as i32 * 16);
    }
}

#[inline(always)]
fn q2k(b: &[u8], y: &mut [f32], steps: &mut [f32]) {
    let (scales, qs) = (&b[..16], &b[16..80]);
    let (d, min) = (half(b, 80), half(b, 82));
    let groups = y.chunks_exact_mut(16).zip(steps.chunks_exact_mut(16));
    for (g, (y, steps)) in groups.enumerate() {
        let scale = scales[g];
        let (dl, ml) = (d * f32::from(scale & 15), min * f32::from(scale >> 4));
        steps.fill(dl);
        // Halves of 128 elements, in which each byte has one element of four runs of 32.
        let (half, run, part) = (g / 8, g / 2 % 4, g % 2);
        let qs = &qs[32 * half + 16 * part..][..16];
        for (y, q) in y.iter_mut().zip(qs) {
            *y = dl * (i32::from(*q) >> (2 * run) & 3) as f32 - ml;
        }
    }
}

#[inline(always)]
fn q3k(b: &[u8], y: &mut [f32], steps: &mut [f32]) {
    let (mask, qs, packed) = (&b[..32], &b[32..96], &b[96..108]);
    let d = half(b, 108);
    let groups = y.chunks_exact_mut(16).zip(steps.chunks_exact_mut(16));
    for (g, (y, steps)) in groups.enumerate() {
        let low = packed[g % 8] >> (g / 8 * 4) & 15;
        let high = packed[8 + g % 4] >> (g / 4 * 2) & 3;
        let dl = d * f32::from((low | high << 4) as i8 - 32);
        steps.fill(dl);
        let (half, run, part) = (g / 8, g / 2 % 4, g % 2);
        let (qs, mask) = (&qs[32 * half + 16 * part..][..16], &mask[16 * part..][..16]);
        for ((y, q), mask) in y.iter_mut().zip(qs).zip(mask) {
            let less = 4 - (i32::from(*mask) >> (4 * half + run) & 1) * 4;
            *y = dl * ((i32::from(*q) >> (2 * run) & 3) - less) as f32;
        }
    }
}

/// Q4_K, and with a fifth bit of each element Q5_K.
#[inline(always)]
fn q45k(b: &[u8], high: &[u8], qs: &[u8], y: &mut [f32], steps: &mut [f32]) {
    let (d, min, s) = (half(b, 0), half(b, 2), &b[4..16]);
    let groups = y.chunks_exact_mut(32).zip(steps.chunks_exact_mut(32));
    for (g, (y, steps)) in groups.enumerate() {
        let (scale, least) = if g < 4 {
            (s[g] & 63, s[g + 4] & 63)
        } else {
            let (a, b, both) = (s[g - 4], s[g], s[g + 4]);
            (both & 15 | a >> 6 << 4, both >> 4 | b >> 6 << 4)
        };
        let (dl, ml) = (d * f32::from(scale), min * f32::from(least));
        steps.fill(dl);
        let (qs, shift) = (&qs[g / 2 * 32..][..32], g % 2 * 4);
        if high.is_empty() {
            for (y, q) in y.iter_mut().zip(qs) {
                *y = dl * (i32::from(*q) >> shift & 15) as f32 - ml;
            }
        } else {
            for ((y, q), h) in y.iter_mut().zip(qs).zip(high) {
                let fifth = (i32::from(*h) >> g & 1) << 4;
                *y = dl * (i32::from(*q) >> shift & 15 | fifth) as f32 - ml;
            }
        }
    }
}

#[inline(always)]
fn q6k(b: &[u8], y: &mut [f32], steps: &mut [f32]) {
    let (low, high, scales) = (&b[..128], &b[128..192], &b[192..208]);
    let d = half(b, 208);
    let groups = y.chunks_exact_mut(16).zip(steps.chunks_exact_mut(16));
    for (g, (y, steps)) in groups.enumerate() {
        let dl = d * f32::from(scales[g] as i8);
        steps.fill(dl);
        // Halves of 128 elements: four runs of 32, two in the lower nibbles and two in the upper.
        let (half, run, part) = (g / 8, g / 2 % 4, g % 2 * 16);
        let low = &low[64 * half + run % 2 * 32 + part..][..16];
        let high = &high[32 * half + part..][..16];
        for ((y, l), h) in y.iter_mut().zip(low).zip(high) {
            let upper = (i32::from(*h) >> (2 * run) & 3) << 4;
            *y = dl * ((i32::from(*l) >> (run / 2 * 4) & 15 | upper) - 32) as f32;
        }
    }
}

/// Floats of 8 bits, and what the last bit of each is worth.
#[inline(always)]
fn floats(from: &[u8], values: &mut [f32], steps: &mut [f32], exponent: u32) {
    let mut table = [(0f32, 0f32); 256];
    for (code, entry) in table.iter_mut().enumerate() {
        *entry = float8(code as u32, exponent);
    }
    for ((v, s), &code) in values.iter_mut().zip(steps).zip(from) {
        (*v, *s) = table[usize::from(code)];
    }
}

/// Value and step of a float with so many bits of exponent. Five are as in binary16, with infinity; of
/// four only the largest number is a NaN.
fn float8(code: u32, exponent: u32) -> (f32, f32) {
    let (mant, bias) = (7 - exponent, (1 << (exponent - 1)) - 1);
    let (e, fraction) = (
        code >> mant & ((1 << exponent) - 1),
        code & ((1 << mant) - 1),
    );
    let unit = pow2(e.max(1) as i32 - bias - mant as i32);
    let whole = if e == 0 { 0 } else { 1 << mant };
    let value = (whole + fraction) as f32 * unit;
    let sign = if code >= 128 { -1.0 } else { 1.0 };
    match (exponent, code & 0x7f) {
        (5, 0x7c) => (sign * f32::INFINITY, 0.0),
        (5, 0x7d..=0x7f) | (4, 0x7f) => (nan(), 0.0),
        _ => (sign * value, unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(block: Block, bytes: &[u8]) -> (Vec<f32>, Vec<f32>) {
        let (elems, size) = block.size();
        let n = bytes.len() / size * elems;
        let (mut v, mut s) = (vec![0.0; n], vec![0.0; n]);
        block.dequantise(bytes, &mut v, &mut s);
        (v, s)
    }

    #[test]
    fn blocks_have_the_values_of_ggml() {
        // 1.5 in binary16, then the nibbles 0 and 15.
        let mut q4 = vec![0x00, 0x3e];
        q4.extend([0xf0; 16]);
        let (v, s) = values(Block::Q4_0, &q4);
        assert_eq!((v[0], v[16], s[5]), (-12.0, 10.5, 1.5));
        let mut q8 = vec![0x00, 0x38];
        q8.extend((0..32).map(|i| (i as i8 - 16) as u8));
        assert_eq!(values(Block::Q8_0, &q8).0[31], 7.5);
    }

    #[test]
    fn floats_of_8_bits() {
        let (v, s) = values(Block::E4M3, &[0x00, 0x01, 0x38, 0xb8, 0x7e, 0x7f]);
        assert_eq!(v[..5], [0.0, 1.0 / 512.0, 1.0, -1.0, 448.0]);
        assert!(v[5].is_nan() && s[5] == 0.0 && s[2] == 0.125);
        let (v, _) = values(Block::E5M2, &[0x3c, 0x7b, 0x7c, 0xfc, 0x7d]);
        assert_eq!(v[..4], [1.0, 57_344.0, f32::INFINITY, f32::NEG_INFINITY]);
        assert!(v[4].is_nan());
    }

    /// Of every type, blocks of any bytes have one NaN at most: its bits are always the same.
    #[test]
    fn there_is_one_nan() {
        for code in 0..=u8::MAX {
            let block = match Block::from_code(code) {
                Ok(block) => block,
                Err(_) => continue,
            };
            for fill in [0xff, 0x7c, 0x7e, 0xfc] {
                let (v, s) = values(block, &vec![fill; block.size().1]);
                let nans = v.iter().chain(&s).filter(|x| x.is_nan());
                assert!(
                    nans.into_iter().all(|x| x.to_bits() == 0x7fc0_0000),
                    "{code} {fill}"
                );
            }
        }
    }
}
