//! Floats of one format as floats of another, in integer arithmetic: to nearest, ties to even
//! (SPEC.md, "Predictions"). A host's rounding mode or flushing of denormals changes nothing.

use crate::format::float::{Format, GROUP};

/// Elements of format `S` as elements of format `F`.
#[inline(always)]
pub fn convert<F: Format, S: Format>(from: &[u8], to: &mut [u8]) {
    if (F::BYTES, F::MANT) == (S::BYTES, S::MANT) {
        to.copy_from_slice(from);
        return;
    }
    let mut bits = [0u32; GROUP];
    for (from, to) in from
        .chunks(GROUP * S::BYTES)
        .zip(to.chunks_mut(GROUP * F::BYTES))
    {
        for (b, m) in bits.iter_mut().zip(from.chunks_exact(S::BYTES)) {
            *b = narrow::<F>(widen::<S>(S::load(m, 0)));
        }
        for (&b, m) in bits.iter().zip(to.chunks_exact_mut(F::BYTES)) {
            F::store(m, 0, b);
        }
    }
}

/// Bits of the same value in binary32; of a NaN the same fraction, filled with zeros.
#[inline(always)]
pub fn widen<S: Format>(bits: u32) -> u32 {
    if S::BYTES == 4 {
        return bits;
    }
    let sign = (bits & S::SIGN) << 16;
    let u = bits & S::MASK;
    if S::MANT == 7 {
        return sign | u << 16;
    }
    let magnitude = if u >= S::INF {
        u << 13 | 0x7f80_0000
    } else if u >= 0x400 {
        (u << 13) + (112 << 23)
    } else if u > 0 {
        // A subnormal: its leading bit becomes the hidden one.
        let up = u.leading_zeros() - 21;
        ((u << (13 + up)) & 0x7f_ffff) | (113 - up) << 23
    } else {
        0
    };
    sign | magnitude
}

/// The nearest float of a format narrower than binary32; NaNs become quiet.
#[inline(always)]
fn narrow<F: Format>(bits: u32) -> u32 {
    if F::BYTES == 4 {
        return bits;
    }
    let sign = bits >> 16 & F::SIGN;
    let u = bits & 0x7fff_ffff;
    let cut = 23 - F::MANT;
    if u > 0x7f80_0000 {
        let fraction = (u & 0x7f_ffff) >> cut;
        return sign | F::INF | fraction | 1 << (F::MANT - 1);
    }
    let magnitude = if F::MANT == 7 {
        nearest(u, cut)
    } else if u >= 0x7f80_0000 {
        F::INF
    } else if u >= 113 << 23 {
        nearest(u - (112 << 23), cut).min(F::INF)
    } else {
        // Below the smallest normal half: a multiple of 2^-24.
        let shift = 126 - (u >> 23).max(1);
        let units = (u & 0x7f_ffff) | if u >> 23 > 0 { 1 << 23 } else { 0 };
        if shift > 25 {
            0
        } else {
            nearest(units, shift)
        }
    };
    sign | magnitude
}

/// `v / 2^cut`, to nearest, ties to even; `1 <= cut <= 25`.
#[inline(always)]
fn nearest(v: u32, cut: u32) -> u32 {
    let half = (1 << (cut - 1)) - 1 + (v >> cut & 1);
    (v + half) >> cut
}
