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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Set;

    /// A task for the conversion of one vector of elements.
    struct All<'a>(Conversion, &'a [u8], &'a mut [u8]);

    impl Task for All<'_> {
        type Out = ();
        fn run<I: Isa>(self, isa: I) {
            self.0.run(isa, self.1, self.2);
        }
    }

    fn convert(source: Dtype, dtype: Dtype, from: &[u8]) -> Vec<u8> {
        let make = |set: Set| {
            let mut to = vec![0; from.len() / source.bytes() * dtype.bytes()];
            set.run(All(Conversion { source, dtype }, from, &mut to));
            to
        };
        let first = make(Set::all()[0]);
        for set in Set::all() {
            assert!(make(set) == first, "set {}", set.code());
        }
        first
    }

    /// Wider and back again changes nothing but NaNs, which become quiet.
    #[test]
    fn narrow_floats_fit_wide_ones() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (dtype, inf, quiet) in [(Dtype::F16, 0x7c00, 0x200), (Dtype::BF16, 0x7f80, 0x40)] {
            let back = convert(Dtype::F32, dtype, &convert(dtype, Dtype::F32, &all));
            for (a, b) in all.chunks(2).zip(back.chunks(2)) {
                let (a, b) = (
                    u16::from_le_bytes([a[0], a[1]]),
                    u16::from_le_bytes([b[0], b[1]]),
                );
                let nan = a & 0x7fff > inf;
                assert_eq!(b, if nan { a | quiet } else { a });
            }
        }
    }

    #[test]
    fn ties_go_to_even() {
        let one = |dtype, bits: u32| {
            let to = convert(Dtype::F32, dtype, &bits.to_le_bytes());
            u16::from_le_bytes([to[0], to[1]])
        };
        assert_eq!(one(Dtype::BF16, 0x3f80_8000), 0x3f80);
        assert_eq!(one(Dtype::BF16, 0x3f81_8000), 0x3f82);
        assert_eq!(one(Dtype::BF16, 0x7f7f_8000), 0x7f80, "to infinity");
        assert_eq!(one(Dtype::F16, 0x3f80_1000), 0x3c00);
        assert_eq!(one(Dtype::F16, 0x3f80_3000), 0x3c02);
        assert_eq!(
            one(Dtype::F16, 0x3300_0000),
            0,
            "half of the least subnormal"
        );
        assert_eq!(one(Dtype::F16, 0x3300_0001), 1);
        assert_eq!(one(Dtype::F16, 0x477f_f000), 0x7c00);
        assert_eq!(
            one(Dtype::F16, 0x0000_0001),
            0,
            "the least subnormal of binary32"
        );
    }
}
