//! Version updates of elements without levels (SPEC.md, "Opaque deltas"): planes of bytes, each in
//! the way that suits it best, with the parent's byte as the context.

use crate::decode::opaque::{self, CODED, CONSTANT, STORED};
use crate::entropy::rans::Stream;
use crate::entropy::table::MAX_CTX;
use crate::format::flat::{check_sources, Prior};
use crate::format::rows::{Target, BLOCK};
use crate::format::wire::Reader;
use crate::kernels::Isa;
use crate::Error;
use core::ops::Range;

/// Most planes.
pub const MAX_STRIDE: usize = 256;
pub const SAME: u8 = 3;
pub const SUM: u8 = 4;
pub const XOR: u8 = 5;
pub const NIBBLES: u8 = 6;

/// A difference from its zigzag code, modulo 256.
#[inline(always)]
fn unfold(z: u8) -> u8 {
    (z >> 1) ^ (z & 1).wrapping_neg()
}

/// The same of two differences modulo 16, one in each nibble.
#[inline(always)]
fn unfold_nibbles(z: u8) -> u8 {
    (z >> 1 & 0x77) ^ ((z & 0x11) * 15)
}

/// The byte that a symbol makes of the parent's.
#[inline(always)]
fn merge(mode: u8, old: u8, sym: u8) -> u8 {
    match mode {
        SUM => old.wrapping_add(unfold(sym)),
        XOR => old ^ sym,
        NIBBLES => {
            let d = unfold_nibbles(sym);
            (old & 0xf0).wrapping_add(d & 0xf0) | (old.wrapping_add(d) & 0x0f)
        }
        _ => sym,
    }
}

/// Where plane `p` of `total` bytes lies when planes lie one after the other.
pub fn plane(total: usize, stride: usize, p: usize) -> Range<usize> {
    let (full, rest) = (total / stride, total % stride);
    let start = p * full + p.min(rest);
    start..start + full + usize::from(p < rest)
}

/// Rows that are taken at a time, so that all that is touched stays in the cache.
const TILE: usize = 64;

/// Calls `f` with the place of each byte in order of planes, and in order.
#[inline(always)]
fn transpose(total: usize, stride: usize, mut f: impl FnMut(usize, usize)) {
    let rows = (total + stride - 1) / stride;
    for first in (0..rows).step_by(TILE) {
        for p in 0..stride {
            let places = plane(total, stride, p);
            for row in first..places.len().min(first + TILE) {
                f(places.start + row, row * stride + p);
            }
        }
    }
}

pub fn planes_of<'a>(
    parts: impl Iterator<Item = &'a [u8]>,
    total: usize,
    stride: usize,
) -> Vec<u8> {
    let mut flat = Vec::with_capacity(total);
    parts.for_each(|p| flat.extend_from_slice(p));
    if stride == 1 {
        return flat;
    }
    let mut out = vec![0; total];
    transpose(total, stride, |to, from| out[to] = flat[from]);
    out
}

pub fn decode<I: Isa>(
    isa: I,
    r: &mut Reader,
    item: usize,
    segs: &mut [Target],
    sources: &[Prior],
) -> Result<(), Error> {
    let n = opaque::elements(segs, item)?;
    if r.u8()? as usize != item || r.varint()? as usize != n {
        return Err(Error::Mismatch);
    }
    check_sources(segs, sources, item, true)?;
    let (total, stride) = (n * item, r.varint()? as usize);
    if !(1..=MAX_STRIDE.min(total)).contains(&stride) {
        return Err(Error::Malformed);
    }
    let parts = segs.iter().zip(sources).map(|(s, p)| p.unwrap_or(&*s.mem));
    let mut bytes = planes_of(parts, total, stride);
    for p in 0..stride {
        decode_plane(isa, r, &mut bytes[plane(total, stride, p)])?;
    }
    if stride > 1 {
        let mut flat = vec![0; total];
        transpose(total, stride, |from, to| flat[to] = bytes[from]);
        bytes = flat;
    }
    let mut at = 0;
    for s in segs {
        s.mem.copy_from_slice(&bytes[at..at + s.mem.len()]);
        at += s.mem.len();
    }
    Ok(())
}

/// The parent's bytes of a plane become the new ones.
fn decode_plane<I: Isa>(isa: I, r: &mut Reader, bytes: &mut [u8]) -> Result<(), Error> {
    let mode = r.u8()?;
    match mode {
        CONSTANT => bytes.fill(r.u8()?),
        STORED => bytes.copy_from_slice(r.bytes(bytes.len())?),
        SAME => {}
        CODED | SUM | XOR | NIBBLES => {
            let contexts = if mode == CODED { 1 } else { MAX_CTX };
            let mut stream = Stream::open(r, contexts)?;
            let (mut ctx, mut sym) = ([0u8; BLOCK], [0u8; BLOCK]);
            for block in bytes.chunks_mut(BLOCK) {
                let (ctx, sym) = (&mut ctx[..block.len()], &mut sym[..block.len()]);
                if mode != CODED {
                    ctx.iter_mut().zip(&*block).for_each(|(c, &b)| *c = b >> 4);
                }
                isa.decode_symbols(&mut stream, ctx, sym)?;
                let pairs = block.iter_mut().zip(&*sym);
                pairs.for_each(|(b, &s)| *b = merge(mode, *b, s));
            }
            stream.finish()?;
        }
        _ => return Err(Error::Malformed),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_hold_every_byte_once() {
        for (total, stride) in [(1, 1), (1000, 18), (1000, 1000), (4097, 256), (129, 2)] {
            let bytes: Vec<u8> = (0..total).map(|i| (i % 251) as u8).collect();
            let planes = planes_of([&bytes[..]].into_iter(), total, stride);
            for p in 0..stride {
                let expected: Vec<u8> = bytes.iter().copied().skip(p).step_by(stride).collect();
                assert!(
                    planes[plane(total, stride, p)] == expected,
                    "{total} {stride} {p}"
                );
            }
        }
    }

    #[test]
    fn merging_is_modular() {
        assert_eq!(merge(SUM, 250, 12), 0, "6 more");
        assert_eq!(merge(SUM, 0, 1), 255, "1 less");
        assert_eq!(merge(XOR, 0b1010, 0b0110), 0b1100);
        assert_eq!(
            merge(NIBBLES, 0xf0, 0x21),
            0x0f,
            "1 more above, 1 less below"
        );
        assert_eq!(merge(CODED, 9, 200), 200);
    }
}
