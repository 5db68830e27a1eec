//! Interleaved rANS: up to 64 lanes share one stream of 16-bit words.
//!
//! 32-bit states in `[2^16, 2^32)`, 12-bit probabilities (Duda 2013; the shared word stream is
//! Giesen's, arXiv 1402.3392). Symbol `i` belongs to lane `i % lanes`; a state that falls below
//! 2^16 takes the next word. A decoder that ends with every state at 2^16 and no word left has
//! read what the encoder wrote.

use crate::simd::{Isa, Scalar};
use crate::table::{
    encode_tables, read_table, write_table, DecodeTables, Freqs, Layout, MAX_CTX, PROB_BITS, TOTAL,
};
use crate::wire::{put_varint, BitWriter, Reader};
use crate::Error;

pub const MAX_LANES: usize = 64;
const LOW: u32 = 1 << 16;

/// Lanes for `n` symbols: a state costs 4 bytes, so short streams take few.
fn lanes_log2(n: usize) -> u32 {
    match n {
        0..=255 => 0,
        256..=2047 => 2,
        2048..=16383 => 4,
        _ => 6,
    }
}

/// Decoder of one symbol stream: states and words, advanced block by block.
pub struct Stream<'a> {
    pub tables: DecodeTables,
    pub states: [u32; MAX_LANES],
    pub lanes: usize,
    /// Unread words, two bytes each.
    pub words: &'a [u8],
}

impl<'a> Stream<'a> {
    /// Reads tables, states and words of a stream with the contexts' table layouts given.
    pub fn open(r: &mut Reader<'a>, layouts: &[Layout]) -> Result<Self, Error> {
        let log2 = r.u8()?;
        if log2 > 6 {
            return Err(Error::Malformed);
        }
        let lanes = 1usize << log2;
        let mut bits = r.bits();
        let mut freqs = Vec::with_capacity(layouts.len());
        for &layout in layouts {
            freqs.push(read_table(&mut bits, layout)?);
        }
        r.resume(bits)?;
        let mut states = [LOW; MAX_LANES];
        for s in &mut states[..lanes] {
            *s = r.u32()?;
            if *s < LOW {
                return Err(Error::Malformed);
            }
        }
        let count = r.varint()? as usize;
        let words = r.bytes(count.checked_mul(2).ok_or(Error::Truncated)?)?;
        Ok(Stream {
            tables: DecodeTables::new(&freqs),
            states,
            lanes,
            words,
        })
    }

    /// The reference decoder. `ctx[i] < 16`; the block starts at a multiple of the lane count.
    #[inline(always)]
    pub fn decode_scalar(&mut self, ctx: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let mask = self.lanes - 1;
        for (i, (&c, o)) in ctx.iter().zip(out).enumerate() {
            let c = usize::from(c) & (MAX_CTX - 1);
            let x = &mut self.states[i & mask];
            let slot = *x & (TOTAL - 1);
            let at =
                usize::from(self.tables.base[c]) * 256 + (slot >> self.tables.shift[c]) as usize;
            let e = self.tables.entries()[at];
            *o = e as u8;
            // freq * (x >> 12) + slot - start
            let rest = (e >> 20).wrapping_mul(*x >> PROB_BITS);
            *x = x.wrapping_sub((e >> 8) & 0xfff).wrapping_sub(rest);
            if *x < LOW {
                if self.words.len() < 2 {
                    return Err(Error::Truncated);
                }
                let w = u16::from_le_bytes([self.words[0], self.words[1]]);
                *x = *x << 16 | u32::from(w);
                self.words = &self.words[2..];
            }
        }
        Ok(())
    }

    /// Checks that the stream is used up.
    pub fn finish(&self) -> Result<(), Error> {
        if self.words.is_empty() && self.states[..self.lanes].iter().all(|&x| x == LOW) {
            Ok(())
        } else {
            Err(Error::Malformed)
        }
    }
}

/// Symbols of each context. Two histograms take turns, so that runs of a symbol do not stall.
fn count(syms: &[u8], ctx: &[u8]) -> Vec<[u32; 256]> {
    let mut counts = vec![[0u32; 256]; 2 * MAX_CTX];
    let (even, odd) = counts.split_at_mut(MAX_CTX);
    for (s, c) in syms.chunks(2).zip(ctx.chunks(2)) {
        even[usize::from(c[0]) & (MAX_CTX - 1)][usize::from(s[0])] += 1;
        if let ([_, s], [_, c]) = (s, c) {
            odd[usize::from(*c) & (MAX_CTX - 1)][usize::from(*s)] += 1;
        }
    }
    for (e, o) in even.iter_mut().flatten().zip(odd.iter().flatten()) {
        *e += o;
    }
    counts.truncate(MAX_CTX);
    counts
}

/// Encodes `syms` under `ctx` (same length, below the number of layouts) and appends the stream.
#[inline(always)]
pub fn encode<I: Isa>(out: &mut Vec<u8>, syms: &[u8], ctx: &[u8], layouts: &[Layout]) {
    assert_eq!(syms.len(), ctx.len());
    let counts = count(syms, ctx);
    let log2 = lanes_log2(syms.len());
    out.push(log2 as u8);
    let mut bits = BitWriter::default();
    let freqs: Vec<Freqs> = layouts
        .iter()
        .zip(&counts)
        .map(|(&l, c)| write_table(&mut bits, c, l))
        .collect();
    out.extend_from_slice(&bits.out);
    let tables = encode_tables(&freqs);

    let lanes = 1usize << log2;
    let mut states = [LOW; MAX_LANES];
    // Words are made last first; at most one per symbol.
    let mut words = vec![0u16; syms.len() + 1];
    let mut at = syms.len();
    let mut lane = (syms.len() + lanes - 1) & (lanes - 1);
    for (&sym, &c) in syms.iter().zip(ctx).rev() {
        let s = &tables[usize::from(c) & (MAX_CTX - 1)][usize::from(sym)];
        let x = states[lane];
        // SAFETY: `at` starts at the last place and falls by at most one per symbol.
        unsafe { *words.get_unchecked_mut(at) = x as u16 };
        let full = x > s.max;
        at -= usize::from(full);
        let x = if full { x >> 16 } else { x };
        // x < freq << 20 keeps the product below 2^64.
        let q = ((u64::from(x) * s.rcp) >> 44) as u32;
        states[lane] = x + q * u32::from(s.cmpl) + u32::from(s.start);
        lane = lane.wrapping_sub(1) & (lanes - 1);
    }
    let words = &words[at + 1..];
    for s in &states[..lanes] {
        out.extend_from_slice(&s.to_le_bytes());
    }
    put_varint(out, words.len() as u32);
    out.reserve(words.len() * 2);
    for w in words {
        out.extend_from_slice(&w.to_le_bytes());
    }
}

/// Small integers (step exponents, trailing-zero counts): constant, entropy coded or plain.
pub fn write_ints(out: &mut Vec<u8>, v: &[i16]) {
    let lo = v.iter().copied().min().unwrap_or(0);
    let hi = v.iter().copied().max().unwrap_or(0);
    let range = i32::from(hi) - i32::from(lo);
    let mode = if range == 0 {
        0u8
    } else {
        1 + u8::from(range > 255)
    };
    out.push(mode);
    out.extend_from_slice(&lo.to_le_bytes());
    match mode {
        0 => {}
        1 => {
            let syms: Vec<u8> = v
                .iter()
                .map(|&x| (i32::from(x) - i32::from(lo)) as u8)
                .collect();
            encode::<Scalar>(out, &syms, &vec![0; syms.len()], &[Layout::Plain]);
        }
        _ => v
            .iter()
            .for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
    }
}

pub fn read_ints(r: &mut Reader, n: usize) -> Result<Vec<i16>, Error> {
    let mode = r.u8()?;
    let lo = r.u16()? as i16;
    match mode {
        0 => Ok(vec![lo; n]),
        1 => {
            let mut stream = Stream::open(r, &[Layout::Plain])?;
            let mut syms = vec![0; n];
            stream.decode_scalar(&vec![0; n], &mut syms)?;
            stream.finish()?;
            Ok(syms
                .iter()
                .map(|&s| lo.wrapping_add(i16::from(s)))
                .collect())
        }
        2 => {
            let raw = r.bytes(n.checked_mul(2).ok_or(Error::Truncated)?)?;
            Ok(raw
                .chunks_exact(2)
                .map(|b| i16::from_le_bytes([b[0], b[1]]))
                .collect())
        }
        _ => Err(Error::Malformed),
    }
}
