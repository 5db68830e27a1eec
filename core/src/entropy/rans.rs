//! Interleaved rANS: up to 64 lanes share one stream of 16-bit words.
//!
//! 32-bit states in `[2^16, 2^32)`, 12-bit probabilities (Duda 2013; the shared word stream is
//! Giesen's, arXiv 1402.3392). Symbol `i` belongs to lane `i % lanes`; a state that falls below
//! 2^16 takes the next word. A decoder that ends with every state at 2^16 and no word left has
//! read what the encoder wrote.

use crate::encode::stream::encode;
use crate::entropy::table::{read_table, DecodeTables, Layout, MAX_CTX, PROB_BITS, TOTAL};
use crate::format::wire::Reader;
use crate::kernels::Scalar;
use crate::Error;

pub const MAX_LANES: usize = 64;
pub const LOW: u32 = 1 << 16;
/// As many words as a group of 64 symbols can take.
type Words = [u8; 2 * MAX_LANES];

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
        let groups = ctx.chunks(MAX_LANES).zip(out.chunks_mut(MAX_LANES));
        for (ctx, out) in groups {
            // Where the words last for certain, nothing branches on which lanes take one.
            if let Some(Ok(words)) = self.words.get(..2 * MAX_LANES).map(<&Words>::try_from) {
                let mut at = 0;
                for (i, (&c, o)) in ctx.iter().zip(out).enumerate() {
                    let lane = i & mask & (MAX_LANES - 1);
                    let (sym, x) = self.step(c, lane);
                    *o = sym;
                    let low = u32::from(x < LOW);
                    // At most one word per symbol: `at` is below 128.
                    let w = u16::from_le_bytes([words[at & 126], words[at & 126 | 1]]);
                    self.states[lane] = x << (16 * low) | (u32::from(w) & low.wrapping_neg());
                    at += 2 * low as usize;
                }
                self.words = &self.words[at..];
                continue;
            }
            for (i, (&c, o)) in ctx.iter().zip(out).enumerate() {
                let lane = i & mask & (MAX_LANES - 1);
                let (sym, mut x) = self.step(c, lane);
                *o = sym;
                if x < LOW {
                    if self.words.len() < 2 {
                        return Err(Error::Truncated);
                    }
                    let w = u16::from_le_bytes([self.words[0], self.words[1]]);
                    x = x << 16 | u32::from(w);
                    self.words = &self.words[2..];
                }
                self.states[lane] = x;
            }
        }
        Ok(())
    }

    /// The next symbol of a lane, and its state before it takes a word.
    #[inline(always)]
    fn step(&self, ctx: u8, lane: usize) -> (u8, u32) {
        let (c, x) = (usize::from(ctx) & (MAX_CTX - 1), self.states[lane]);
        let slot = (x & (TOTAL - 1)) >> self.tables.shift[c];
        let e = self.tables.entries()[usize::from(self.tables.base[c]) * 256 + slot as usize];
        // freq * (x >> 12) + slot - start
        let rest = (e >> 20).wrapping_mul(x >> PROB_BITS);
        let x = x.wrapping_sub((e >> 8) & 0xfff).wrapping_sub(rest);
        (e as u8, x)
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
