//! Floats of one format as floats of another, in integer arithmetic: to nearest, ties to even
//! (SPEC.md, "Predictions"). A host's rounding mode or flushing of denormals changes nothing.

use crate::format::float::{load, store, Format, BF16, F16, F32, GROUP};
use crate::format::header::Dtype;
use crate::kernels::{Isa, Task};

/// From which float dtype to which one.
#[derive(Clone, Copy)]
pub struct Conversion {
    pub source: Dtype,
    pub dtype: Dtype,
}

impl Conversion {
    /// Elements of the one dtype as elements of the other.
    pub fn run<I: Isa>(self, isa: I, from: &[u8], to: &mut [u8]) {
        if self.source == self.dtype {
            to.copy_from_slice(from);
        } else {
            isa.enter(Convert {
                way: self,
                from,
                to,
            });
        }
    }
}

/// [`Conversion::run`] between different dtypes, by way of binary32.
struct Convert<'a> {
    way: Conversion,
    from: &'a [u8],
    to: &'a mut [u8],
}

impl Task for Convert<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, _isa: I) {
        let mut bits = [0u32; GROUP];
        let from = self.from.chunks(GROUP * self.way.source.bytes());
        let to = self.to.chunks_mut(GROUP * self.way.dtype.bytes());
        for (from, to) in from.zip(to) {
            match self.way.source {
                Dtype::F16 => widen_all::<F16>(from, &mut bits),
                Dtype::BF16 => widen_all::<BF16>(from, &mut bits),
                _ => widen_all::<F32>(from, &mut bits),
            }
            match self.way.dtype {
                Dtype::F16 => narrow_all::<F16>(&mut bits, to),
                Dtype::BF16 => narrow_all::<BF16>(&mut bits, to),
                _ => narrow_all::<F32>(&mut bits, to),
            }
        }
    }
}

#[inline(always)]
fn widen_all<S: Format>(from: &[u8], bits: &mut [u32; GROUP]) {
    load::<S>(from, bits);
    bits.iter_mut().for_each(|b| *b = widen::<S>(*b));
}

#[inline(always)]
fn narrow_all<F: Format>(bits: &mut [u32; GROUP], to: &mut [u8]) {
    bits.iter_mut().for_each(|b| *b = narrow::<F>(*b));
    store::<F>(bits, to);
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
