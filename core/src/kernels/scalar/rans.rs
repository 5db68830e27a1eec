//! Interleaved rANS, one lane after the other.

use crate::entropy::rans::{Stream, LOW, MAX_LANES};
use crate::entropy::table::{MAX_CTX, PROB_BITS, TOTAL};
use crate::Error;

/// As many words as a group of 64 symbols can take.
type Words = [u8; 2 * MAX_LANES];

/// Decodes a block of symbols. Contexts are taken modulo 16; the block starts at a multiple of the lane count.
#[inline(never)]
pub fn decode_symbols(stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> Result<(), Error> {
    decode(stream, ctx, out)
}

/// [`decode_symbols`], to be compiled for another set.
#[inline(always)]
pub fn decode(stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> Result<(), Error> {
    // With one table for all contexts none is looked up.
    if stream.tables.base == [0; MAX_CTX] {
        decode_with::<true>(stream, ctx, out)
    } else {
        decode_with::<false>(stream, ctx, out)
    }
}

#[inline(always)]
fn decode_with<const ONE: bool>(
    stream: &mut Stream,
    ctx: &[u8],
    out: &mut [u8],
) -> Result<(), Error> {
    let mask = stream.lanes - 1;
    let groups = ctx.chunks(MAX_LANES).zip(out.chunks_mut(MAX_LANES));
    for (ctx, out) in groups {
        // Where the words last for certain, nothing branches on which lanes take one.
        if let Some(Ok(words)) = stream.words.get(..2 * MAX_LANES).map(<&Words>::try_from) {
            let mut at = 0;
            for (i, (&c, o)) in ctx.iter().zip(out).enumerate() {
                let lane = i & mask & (MAX_LANES - 1);
                let (sym, x) = step::<ONE>(stream, c, lane);
                *o = sym;
                let low = u32::from(x < LOW);
                // At most one word per symbol: `at` is below 128.
                let w = u16::from_le_bytes([words[at & 126], words[at & 126 | 1]]);
                stream.states[lane] = x << (16 * low) | (u32::from(w) & low.wrapping_neg());
                at += 2 * low as usize;
            }
            stream.words = &stream.words[at..];
            continue;
        }
        for (i, (&c, o)) in ctx.iter().zip(out).enumerate() {
            let lane = i & mask & (MAX_LANES - 1);
            let (sym, mut x) = step::<ONE>(stream, c, lane);
            *o = sym;
            if x < LOW {
                if stream.words.len() < 2 {
                    return Err(Error::Truncated);
                }
                let w = u16::from_le_bytes([stream.words[0], stream.words[1]]);
                x = x << 16 | u32::from(w);
                stream.words = &stream.words[2..];
            }
            stream.states[lane] = x;
        }
    }
    Ok(())
}

/// The next symbol of a lane, and its state before it takes a word.
#[inline(always)]
fn step<const ONE: bool>(stream: &Stream, ctx: u8, lane: usize) -> (u8, u32) {
    let (c, x) = (usize::from(ctx) & (MAX_CTX - 1), stream.states[lane]);
    let c = if ONE { 0 } else { c };
    let slot = (x & (TOTAL - 1)) >> stream.tables.shift[c];
    let e = stream.tables.entries()[usize::from(stream.tables.base[c]) * 256 + slot as usize];
    // freq * (x >> 12) + slot - start
    let rest = (e >> 20).wrapping_mul(x >> PROB_BITS);
    let x = x.wrapping_sub((e >> 8) & 0xfff).wrapping_sub(rest);
    (e as u8, x)
}
