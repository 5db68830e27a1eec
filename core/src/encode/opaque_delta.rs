//! The encoder of version updates of elements without levels; the twin of `decode/opaque_delta.rs`.

use super::stream::{encode, encode_with};
use super::SAMPLE;
use crate::decode::opaque::{self, CODED, CONSTANT, STORED};
use crate::decode::opaque_delta::{plane, planes_of, MAX_STRIDE, NIBBLES, SAME, SUM, XOR};
use crate::entropy::encoder::{log2_q8, Slack};
use crate::entropy::table::MAX_CTX;
use crate::format::flat::{check_sources, Prior};
use crate::format::header::{Dtype, KIND_OPAQUE_DELTA};
use crate::format::rows::Segment;
use crate::format::wire::put_varint;
use crate::kernels::{Isa, Task};
use crate::Error;

/// Differences as zigzag codes, modulo 256.
#[inline(always)]
fn fold(d: u8) -> u8 {
    (d << 1) ^ (d as i8 >> 7) as u8
}

/// The same of two differences modulo 16, one in each nibble.
#[inline(always)]
fn fold_nibbles(d: u8) -> u8 {
    let negative = d >> 3 & 0x11;
    (d << 1 & 0xee) ^ (negative * 15)
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

/// Elements of `item` bytes of the new version and of the one before; every `stride`-th byte is of one
/// plane.
pub struct OpaqueDelta<'a> {
    pub item: usize,
    pub stride: usize,
    pub segs: &'a [Segment<&'a [u8]>],
    pub priors: &'a [Prior<'a>],
}

impl Task for OpaqueDelta<'_> {
    type Out = Result<Vec<u8>, Error>;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Out {
        encode_planes(isa, self.item, self.stride, self.segs, self.priors)
    }
}

/// The payload; every `stride`-th byte is of one plane.
fn encode_planes<I: Isa>(
    isa: I,
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
        encode_plane(isa, &mut out, &new[places.clone()], &old[places]);
    }
    Ok(out)
}

fn encode_plane<I: Isa>(isa: I, out: &mut Vec<u8>, new: &[u8], old: &[u8]) {
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
        encode(isa, out, new, &vec![0; new.len()], 1);
    } else {
        let pairs = new.iter().zip(old);
        let sym: Vec<u8> = pairs.map(|(&n, &o)| split(mode, o, n)).collect();
        let ctx: Vec<u8> = old.iter().map(|&b| b >> 4).collect();
        encode_with(isa, out, &sym, &ctx, MAX_CTX, Slack::Share);
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
