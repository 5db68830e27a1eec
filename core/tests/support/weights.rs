//! Weights: what models have, and what they should not have.

use super::{size, Random};
use p2u_core::Dtype;

pub const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

/// Families of weights.
pub const FAMILIES: [&str; 9] = [
    "normal", "heavy", "special", "sparse", "binades", "dead", "half", "constant", "noise",
];

/// Bits of the dtype that are nearest to zero from a value.
fn bits_of(dtype: Dtype, v: f32) -> u32 {
    let bits = v.to_bits();
    match dtype {
        Dtype::F32 => bits,
        Dtype::BF16 => bits >> 16,
        _ => {
            let (sign, u) = (bits >> 16 & 0x8000, bits & 0x7fff_ffff);
            let normal = u.wrapping_sub(112 << 23) >> 13;
            let tiny = (f32::from_bits(u) * 16_777_216.0) as u32;
            sign | if u < 113 << 23 {
                tiny
            } else {
                normal.min(0x7bff)
            }
        }
    }
}

/// Bits of mantissa, and infinity.
fn format_of(dtype: Dtype) -> (u32, u32) {
    match dtype {
        Dtype::F32 => (23, 0x7f80_0000),
        Dtype::BF16 => (7, 0x7f80),
        _ => (10, 0x7c00),
    }
}

/// Infinities, NaNs with payloads, zeros of both signs, the ends of normal and subnormal numbers.
pub fn specials(dtype: Dtype) -> Vec<u32> {
    let (mant, inf) = format_of(dtype);
    let (sign, one) = (1u32 << (8 * size(dtype) - 1), 1u32 << mant);
    let magnitudes = [
        0,
        1,
        one - 1,
        one,
        one + 1,
        inf - 1,
        inf,
        inf + 1,
        inf | one >> 1,
        inf | ((one >> 1) + 5),
        sign - 1,
    ];
    let both = magnitudes.iter().flat_map(|&u| [u, u | sign]);
    both.collect()
}

/// `n` weights of a family in rows of `cols`, as little-endian bytes.
pub fn weights(family: &str, dtype: Dtype, n: usize, cols: usize, seed: u64) -> Vec<u8> {
    let mut r = Random(seed);
    let odd = specials(dtype);
    let mut out = Vec::with_capacity(n * size(dtype));
    for i in 0..n {
        let row = i / cols;
        let w = r.normal() * 0.05;
        let bits = match family {
            "normal" => bits_of(dtype, w),
            "heavy" => bits_of(dtype, w / (r.unit() + 0.001)),
            "special" if r.below(8) == 0 => odd[r.below(odd.len())],
            "special" => bits_of(dtype, w),
            "sparse" if r.below(2) == 0 => 0,
            "sparse" => bits_of(dtype, w),
            // Each row has an octave of its own, and each element some below.
            "binades" => {
                let octaves = (row % 20 + r.below(20)) as i32;
                bits_of(dtype, w * 2f32.powi(-octaves))
            }
            "dead" if row % 3 == 1 => bits_of(dtype, w * 1e-30),
            "dead" => bits_of(dtype, w),
            "half" if dtype == Dtype::F32 => w.to_bits() & !0x1fff,
            "half" => bits_of(dtype, w) & !7,
            "constant" => bits_of(dtype, 0.125),
            _ => r.next() as u32,
        };
        out.extend_from_slice(&bits.to_le_bytes()[..size(dtype)]);
    }
    out
}
