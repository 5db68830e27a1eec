//! Version updates of elements without levels (SPEC.md, "Opaque deltas"): planes of bytes, each in
//! the way that suits it best, with the parent's byte as the context.

use crate::decode::opaque::{self, CODED, CONSTANT, STORED};
use crate::decode::{Dtype, KIND_OPAQUE_DELTA};
use crate::encode::stream::{encode, encode_with};
use crate::encode::SAMPLE;
use crate::entropy::rans::Stream;
use crate::entropy::table::{log2_q8, Layout, Slack, MAX_CTX};
use crate::format::flat::{check_sources, Prior};
use crate::format::rows::{Segment, Target, BLOCK};
use crate::format::wire::{put_varint, Reader};
use crate::kernels::Isa;
use crate::Error;
use core::ops::Range;

/// Most planes.
pub const MAX_STRIDE: usize = 256;
const SAME: u8 = 3;
const SUM: u8 = 4;
const XOR: u8 = 5;
const NIBBLES: u8 = 6;

/// Differences as zigzag codes, modulo 256.
#[inline(always)]
fn fold(d: u8) -> u8 {
    (d << 1) ^ (d as i8 >> 7) as u8
}

/// The inverse of [`fold`].
#[inline(always)]
fn unfold(z: u8) -> u8 {
    (z >> 1) ^ (z & 1).wrapping_neg()
}

/// The same of two differences modulo 16, one in each nibble.
#[inline(always)]
fn fold_nibbles(d: u8) -> u8 {
    let negative = d >> 3 & 0x11;
    (d << 1 & 0xee) ^ (negative * 15)
}

/// The inverse of [`fold_nibbles`].
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

/// The inverse of [`merge`].
#[inline(always)]
fn split(mode: u8, old: u8, new: u8) -> u8 {
    match mode {
        SUM => fold(new.wrapping_sub(old)),
        XOR => new ^ old,
        NIBBLES => {
            let high = (new & 0xf0).wrapping_sub(old & 0xf0);
            fold_nibbles(high | (new.wrapping_sub(old) & 0x0f))
        }
        _ => new,
    }
}

/// Where plane `p` of `total` bytes lies when planes lie one after the other.
fn plane(total: usize, stride: usize, p: usize) -> Range<usize> {
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

fn planes_of<'a>(parts: impl Iterator<Item = &'a [u8]>, total: usize, stride: usize) -> Vec<u8> {
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
        decode_plane::<I>(r, &mut bytes[plane(total, stride, p)])?;
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
fn decode_plane<I: Isa>(r: &mut Reader, bytes: &mut [u8]) -> Result<(), Error> {
    let mode = r.u8()?;
    match mode {
        CONSTANT => bytes.fill(r.u8()?),
        STORED => bytes.copy_from_slice(r.bytes(bytes.len())?),
        SAME => {}
        CODED | SUM | XOR | NIBBLES => {
            let contexts = if mode == CODED { 1 } else { MAX_CTX };
            let mut stream = Stream::open(r, &[Layout::Plain; MAX_CTX][..contexts])?;
            let (mut ctx, mut sym) = ([0u8; BLOCK], [0u8; BLOCK]);
            for block in bytes.chunks_mut(BLOCK) {
                let (ctx, sym) = (&mut ctx[..block.len()], &mut sym[..block.len()]);
                if mode != CODED {
                    ctx.iter_mut().zip(&*block).for_each(|(c, &b)| *c = b >> 4);
                }
                I::decode(&mut stream, ctx, sym)?;
                let pairs = block.iter_mut().zip(&*sym);
                pairs.for_each(|(b, &s)| *b = merge(mode, *b, s));
            }
            stream.finish()?;
        }
        _ => return Err(Error::Malformed),
    }
    Ok(())
}

/// The payload; every `stride`-th byte is of one plane.
pub fn encode_planes<I: Isa>(
    item: usize,
    stride: usize,
    segs: &[Segment<&[u8]>],
    sources: &[Prior],
) -> Result<Vec<u8>, Error> {
    let n = opaque::elements(segs, item)?;
    let total = n * item;
    check_sources(segs, sources, item, false).map_err(|_| Error::Argument)?;
    if stride == 0 || stride > MAX_STRIDE {
        return Err(Error::Argument);
    }
    let stride = stride.min(total);
    let mut out = vec![KIND_OPAQUE_DELTA, Dtype::Opaque as u8, item as u8];
    put_varint(&mut out, n as u32);
    put_varint(&mut out, stride as u32);
    let new = planes_of(segs.iter().map(|s| s.mem), total, stride);
    let old = planes_of(sources.iter().map(|s| s.unwrap_or(&[])), total, stride);
    for p in 0..stride {
        let places = plane(total, stride, p);
        encode_plane::<I>(&mut out, &new[places.clone()], &old[places]);
    }
    Ok(out)
}

fn encode_plane<I: Isa>(out: &mut Vec<u8>, new: &[u8], old: &[u8]) {
    if new == old {
        out.push(SAME);
        return;
    }
    if new.iter().all(|&b| b == new[0]) {
        out.extend_from_slice(&[CONSTANT, new[0]]);
        return;
    }
    let at = out.len();
    let mode = choose(new, old);
    out.push(mode);
    if mode == CODED {
        encode::<I>(out, new, &vec![0; new.len()], &[Layout::Plain]);
    } else {
        let pairs = new.iter().zip(old);
        let sym: Vec<u8> = pairs.map(|(&n, &o)| split(mode, o, n)).collect();
        let ctx: Vec<u8> = old.iter().map(|&b| b >> 4).collect();
        encode_with::<I>(out, &sym, &ctx, &[Layout::Plain; MAX_CTX], Slack::Share);
    }
    // Decoding costs time; it must save something.
    if out.len() - at > new.len() - new.len() / 128 {
        out.truncate(at);
        out.push(STORED);
        out.extend_from_slice(new);
    }
}

/// The mode of a coded plane that costs least, tables included, by a sample of its bytes.
fn choose(new: &[u8], old: &[u8]) -> u8 {
    let step = if new.len() > 1 << 16 { SAMPLE } else { 1 };
    let cost = |mode: u8| {
        let mut counts = vec![[0u32; 256]; MAX_CTX];
        for (&n, &o) in new.iter().zip(old).step_by(step) {
            let c = if mode == CODED { 0 } else { o >> 4 };
            counts[usize::from(c)][usize::from(split(mode, o, n))] += 1;
        }
        counts.iter().map(|c| bits(c, step as u64)).sum::<u64>()
    };
    let modes = [SUM, XOR, NIBBLES, CODED];
    modes
        .iter()
        .copied()
        .min_by_key(|&m| cost(m))
        .unwrap_or(CODED)
}

/// Estimated cost of one context, in 1/256 bit: of its symbols in the sample, and its table's share.
fn bits(counts: &[u32; 256], step: u64) -> u64 {
    let sum: u32 = counts.iter().sum();
    let cost = |&c: &u32| match c {
        0 => 0,
        _ => u64::from(c) * u64::from(log2_q8(sum) - log2_q8(c)) + 256 * 5 / step,
    };
    counts.iter().map(cost).sum()
}
