//! Floats from what somebody quantised them to (SPEC.md, "Adopt"): the difference to the quantised value
//! in ordered integers, or near zero the magnitude itself, in contexts of value against step.

use crate::decode::fields::Fields;
use crate::decode::patches::read_patches;
use crate::entropy::rans::Stream;
use crate::entropy::table::MAX_CTX;
use crate::format::blocks::Block;
use crate::format::flat::{scatter, Cursor, Prior};
#[cfg(feature = "encode")]
use crate::format::float::load;
use crate::format::float::{store, Format, GROUP};
use crate::format::header::{by_format, Dtype};
use crate::format::rows::{self, Segment, BLOCK};
use crate::format::wire::Reader;
use crate::kernels::scalar::adopt::CLASSES;
use crate::kernels::{Isa, Task};
use crate::Error;
use core::ops::Range;

/// First class that is not near zero.
pub const FAR: usize = 32;
/// Widest raw field: 255 symbols of it fit 32 bits.
pub const MAX_FIELD: u32 = 24;
/// Bits of a magnitude in binary32.
const MAGNITUDE: u32 = 0x7fff_ffff;

/// What holds for a whole chunk.
pub struct Head {
    pub block: Block,
    /// Low bits that are zero in every element.
    pub tz: u32,
    /// Classes far from zero from which on the side of a code is that of the prediction's rest.
    pub turn: u32,
    /// Raw bits below the symbol, by context.
    pub widths: [u8; MAX_CTX],
    /// Contexts of the classes.
    pub map: [u8; CLASSES],
}

impl Head {
    fn read(r: &mut Reader, dtype: Dtype) -> Result<Self, Error> {
        let block = Block::from_code(r.u8()?)?;
        let (tz, turn, used) = (u32::from(r.u8()?), u32::from(r.u8()?), r.u16()?);
        let mut widths = [0; MAX_CTX];
        for (c, w) in widths.iter_mut().enumerate() {
            if used >> c & 1 == 1 {
                *w = r.u8()?;
            }
        }
        let far = |&w: &u8| u32::from(w) > MAX_FIELD;
        if tz > dtype.mantissa() || turn > FAR as u32 || widths.iter().any(far) {
            return Err(Error::Malformed);
        }
        let mut map = [0; CLASSES];
        for (pair, b) in map.chunks_exact_mut(2).zip(r.bytes(CLASSES / 2)?) {
            pair.copy_from_slice(&[b & 15, b >> 4]);
        }
        Ok(Head {
            block,
            tz,
            turn,
            widths,
            map,
        })
    }

    #[cfg(feature = "encode")]
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.block as u8, self.tz as u8, self.turn as u8]);
        let used = |c: usize| u16::from(self.widths[c] > 0) << c;
        let used = (0..MAX_CTX).fold(0, |all, c| all | used(c));
        out.extend_from_slice(&used.to_le_bytes());
        out.extend(self.widths.iter().filter(|&&w| w > 0));
        out.extend(self.map.chunks_exact(2).map(|p| p[0] | p[1] << 4));
    }

    pub fn raw(&self) -> bool {
        self.widths.iter().any(|&w| w > 0)
    }

    fn scale(&self, dtype: Dtype) -> Scale {
        Scale::new(dtype.mantissa(), self.tz, self.turn)
    }
}

/// Checks that every segment has whole blocks for its elements.
pub fn check_blocks<M>(block: Block, segs: &[Segment<M>], sources: &[Prior]) -> Result<(), Error> {
    let (elems, bytes) = block.size();
    let fits = |(s, p): (&Segment<M>, &Prior)| match p {
        Some(mem) => s.elems % elems == 0 && mem.len() == s.elems / elems * bytes,
        None => false,
    };
    if segs.len() == sources.len() && segs.iter().zip(sources).all(fits) {
        Ok(())
    } else {
        Err(Error::Mismatch)
    }
}

/// Values of whole blocks, and the step at each of them.
pub struct Dequantise<'a> {
    pub block: Block,
    pub from: &'a [u8],
    pub values: &'a mut [f32],
    pub steps: &'a mut [f32],
}

impl Task for Dequantise<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, _isa: I) {
        self.block.dequantise(self.from, self.values, self.steps);
    }
}

/// Values of blocks, and the steps of what they are quantised in.
pub struct Predictions {
    values: [f32; BLOCK],
    steps: [f32; BLOCK],
}

impl Predictions {
    pub fn new() -> Self {
        Predictions {
            values: [0.0; BLOCK],
            steps: [0.0; BLOCK],
        }
    }

    /// Those of a run of elements, at most a [`BLOCK`] of them; runs come in order.
    #[inline(always)]
    pub fn take<I: Isa, M>(
        &mut self,
        isa: I,
        block: Block,
        segs: &[Segment<M>],
        sources: &[Prior],
        run: &Range<usize>,
        at: &mut Cursor,
    ) {
        let ((elems, bytes), mut done) = (block.size(), 0);
        while let Some(p) = at.part(segs, run, done) {
            let from = p.inner.start / elems * bytes..p.inner.end / elems * bytes;
            let from = &sources[p.seg].unwrap_or(&[])[from];
            done = p.outer.end;
            let steps = &mut self.steps[p.outer.clone()];
            isa.enter(Dequantise {
                block,
                from,
                values: &mut self.values[p.outer],
                steps,
            });
        }
    }

    /// Classes of the first elements.
    #[inline(always)]
    pub fn classes(&self, out: &mut [u8]) {
        for ((c, v), s) in out.iter_mut().zip(&self.values).zip(&self.steps) {
            let (a, d) = (v.to_bits() & MAGNITUDE, s.to_bits() & MAGNITUDE);
            let near = (d.wrapping_sub(a) >> 20).min(31);
            let far = far_class(a, d) + FAR as u32;
            *c = (if a < d { near } else { far }) as u8;
        }
    }

    /// Contexts of the first elements.
    #[inline(always)]
    pub fn contexts<I: Isa>(&self, isa: I, map: &[u8; CLASSES], out: &mut [u8]) {
        self.classes(out);
        isa.adopt_contexts(map, out);
    }

    /// The first elements from the codes of their differences.
    #[inline(always)]
    fn combine<F: Format>(&self, scale: Scale, z: &[u32], mem: &mut [u8]) {
        let mut bits = [0u32; GROUP];
        let groups = mem.chunks_mut(GROUP * F::BYTES).zip(z.chunks(GROUP));
        let groups = groups.zip(self.values.chunks(GROUP).zip(self.steps.chunks(GROUP)));
        for ((mem, z), (values, steps)) in groups {
            let items = bits.iter_mut().zip(z).zip(values).zip(steps);
            for (((b, &z), v), s) in items {
                let (far, near) = scale.both::<F>(v.to_bits(), s.to_bits());
                *b = if near.is_near {
                    near.element::<F>(&scale, z)
                } else {
                    far.element::<F>(&scale, z)
                };
            }
            store::<F>(&bits[..z.len()], mem);
        }
    }

    /// Codes of the differences to the first elements; all ones where there is none.
    #[cfg(feature = "encode")]
    #[inline(always)]
    pub fn codes<F: Format>(&self, scale: Scale, mem: &[u8], z: &mut [u32]) {
        let mut bits = [0u32; GROUP];
        let groups = mem.chunks(GROUP * F::BYTES).zip(z.chunks_mut(GROUP));
        let groups = groups.zip(self.values.chunks(GROUP).zip(self.steps.chunks(GROUP)));
        for ((mem, z), (values, steps)) in groups {
            load::<F>(mem, &mut bits);
            for (((z, &b), v), s) in z.iter_mut().zip(&bits).zip(values).zip(steps) {
                let (far, near) = scale.both::<F>(v.to_bits(), s.to_bits());
                *z = if near.is_near {
                    near.code::<F>(&scale, b)
                } else {
                    far.code::<F>(&scale, b)
                };
            }
        }
    }
}

/// Class of a prediction that is a step or more from zero.
#[inline(always)]
fn far_class(a: u32, d: u32) -> u32 {
    ((a >> 23 << 2) + 3).wrapping_sub(d >> 21).min(31)
}

/// How ordered integers of 32 bits, with 23 of mantissa, become those that are coded.
#[derive(Clone, Copy)]
pub struct Scale {
    cut: u32,
    half: u32,
    tz: u32,
    turn: u32,
}

impl Scale {
    pub fn new(mantissa: u32, tz: u32, turn: u32) -> Self {
        let cut = 23 - mantissa + tz;
        Scale {
            cut,
            half: (1 << cut) >> 1,
            tz,
            turn,
        }
    }

    /// What codes mean for a prediction and a step, given as bits of binary32.
    #[inline(always)]
    fn both<F: Format>(&self, value: u32, step: u32) -> (Far, Near) {
        let (a, d, sign) = (value & MAGNITUDE, step & MAGNITUDE, value >> 31);
        let m = magnitude::<F>(a);
        let far = Far {
            middle: ((m + self.half) >> self.cut) as i32 ^ -(sign as i32),
            // Toward zero there is more room, in floats; with few of them it counts on which side of
            // the nearest one the prediction is: below, if rounding made it larger.
            down: u32::from((far_class(a, d) < self.turn) | (m & self.half != 0)) ^ sign,
        };
        let twice = d.min(0x7f00_0000) + (1 << 23);
        let near = Near {
            is_near: a < d,
            last: (magnitude::<F>(twice) >> self.cut).wrapping_sub(1),
            sign,
        };
        (far, near)
    }
}

/// A magnitude of binary32 with the exponents of a format, and 23 bits of mantissa.
#[inline(always)]
fn magnitude<F: Format>(a: u32) -> u32 {
    if F::MANT != 10 {
        return a;
    }
    let e = a >> 23;
    let whole = a & 0x7f_ffff | u32::from(e > 0) << 23;
    let below = whole >> 113u32.wrapping_sub(e.max(1)).min(31);
    let normal = a.wrapping_sub(112 << 23).min(31 << 23);
    if a < 113 << 23 {
        below
    } else {
        normal
    }
}

/// Bits of a float, at the top of the word, as a signed integer in the order of the floats; its own
/// inverse but for what is below them.
#[inline(always)]
fn flip(x: u32) -> i32 {
    x as i32 ^ ((x as i32 >> 31) & 0x7fff_ffff)
}

/// A prediction that is a step or more from zero: codes are differences.
struct Far {
    /// The nearest ordered integer.
    middle: i32,
    down: u32,
}

impl Far {
    #[inline(always)]
    fn element<F: Format>(&self, scale: &Scale, z: u32) -> u32 {
        let up = 32 - 8 * F::BYTES as u32;
        let cut = up + scale.tz;
        let minus = (!z & 1) ^ self.down;
        let by = ((z >> 1) + (z & 1)) ^ minus.wrapping_neg();
        let v = (self.middle as u32).wrapping_add(by).wrapping_add(minus);
        let o = (v << cut) as i32;
        flip((o | ((o >> 31) & ((1i32 << cut) - 1))) as u32) as u32 >> up
    }

    #[cfg(feature = "encode")]
    #[inline(always)]
    fn code<F: Format>(&self, scale: &Scale, bits: u32) -> u32 {
        let up = 32 - 8 * F::BYTES as u32;
        let o = flip(bits << up) >> (up + scale.tz);
        let by = o.wrapping_sub(self.middle);
        let by = (by ^ -(self.down as i32)).wrapping_add(self.down as i32);
        // The code of the one difference that has no magnitude would be that of none.
        if by == i32::MIN {
            u32::MAX
        } else if by > 0 {
            2 * by as u32 - 1
        } else {
            2 * by.wrapping_neg() as u32
        }
    }
}

/// A prediction below a step: codes are distances from twice the step down, and signs.
struct Near {
    is_near: bool,
    last: u32,
    sign: u32,
}

impl Near {
    #[inline(always)]
    fn element<F: Format>(&self, scale: &Scale, z: u32) -> u32 {
        let w = z.wrapping_sub(1);
        let u = self.last.wrapping_sub(w >> 1) << scale.tz & F::MASK;
        let sign = (w & 1 ^ self.sign) * F::SIGN;
        if z == 0 {
            0
        } else {
            u | sign
        }
    }

    #[cfg(feature = "encode")]
    #[inline(always)]
    fn code<F: Format>(&self, scale: &Scale, bits: u32) -> u32 {
        let y = self.last.wrapping_sub((bits & F::MASK) >> scale.tz);
        let sign = u32::from(bits & F::SIGN != 0) ^ self.sign;
        if bits == 0 {
            0
        } else if y >> 31 == 1 {
            u32::MAX
        } else {
            (y << 1 | sign) + 1
        }
    }
}

/// Decodes a chunk after its numbers of rows and elements.
#[inline(always)]
pub fn decode<I: Isa>(
    isa: I,
    dtype: Dtype,
    r: &mut Reader,
    n: usize,
    segs: &mut [rows::Target],
    sources: &[Prior],
) -> Result<(), Error> {
    let (head, item) = (Head::read(r, dtype)?, dtype.bytes());
    check_blocks(head.block, segs, sources)?;
    let mut stream = Stream::open(r, MAX_CTX)?;
    let size = if head.raw() { r.varint()? } else { 0 };
    let mut fields = Fields::new(r.bytes(size as usize)?);
    let scale = head.scale(dtype);
    let mut predictions = Predictions::new();
    let (mut ctx, mut sym, mut z) = ([0u8; BLOCK], [0u8; BLOCK], [0u32; BLOCK]);
    let mut mem = [0u8; 4 * BLOCK];
    let (mut from, mut to) = (Cursor::default(), Cursor::default());
    for start in (0..n).step_by(BLOCK) {
        let run = start..n.min(start + BLOCK);
        let (ctx, sym) = (&mut ctx[..run.len()], &mut sym[..run.len()]);
        predictions.take(isa, head.block, segs, sources, &run, &mut from);
        predictions.contexts(isa, &head.map, ctx);
        isa.decode_symbols(&mut stream, ctx, sym)?;
        let (z, mem) = (&mut z[..run.len()], &mut mem[..run.len() * item]);
        if head.raw() {
            fields.take::<_, true>(isa, &head.widths, ctx, sym, z)?;
        } else {
            z.iter_mut()
                .zip(&*sym)
                .for_each(|(z, &s)| *z = u32::from(s));
        }
        by_format!(dtype, F => predictions.combine::<F>(scale, z, mem));
        scatter(segs, item, &run, &mut to, mem);
    }
    stream.finish()?;
    fields.finish()?;
    read_patches(r, item, n, segs)
}
