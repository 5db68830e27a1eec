//! Interleaved rANS: up to 64 lanes share one stream of 16-bit words.
//!
//! 32-bit states in `[2^16, 2^32)`, 12-bit probabilities (Duda 2013; the shared word stream is
//! Giesen's, arXiv 1402.3392). Symbol `i` belongs to lane `i % lanes`; a state that falls below
//! 2^16 takes the next word. A decoder that ends with every state at 2^16 and no word left has
//! read what the encoder wrote.

use crate::entropy::table::{read_table, DecodeTables};
use crate::format::wire::Reader;
use crate::Error;

pub const MAX_LANES: usize = 64;
pub const LOW: u32 = 1 << 16;

/// Decoder of one symbol stream: states and words, advanced block by block.
pub struct Stream<'a> {
    pub tables: DecodeTables,
    pub states: [u32; MAX_LANES],
    pub lanes: usize,
    /// Unread words, two bytes each.
    pub words: &'a [u8],
}

impl<'a> Stream<'a> {
    /// Reads tables, states and words of a stream with so many contexts.
    pub fn open(r: &mut Reader<'a>, contexts: usize) -> Result<Self, Error> {
        let log2 = r.u8()?;
        if log2 > 6 {
            return Err(Error::Malformed);
        }
        let lanes = 1usize << log2;
        let mut bits = r.bits();
        let mut freqs = Vec::with_capacity(contexts);
        for _ in 0..contexts {
            freqs.push(read_table(&mut bits)?);
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

    /// Checks that the stream is used up.
    pub fn finish(&self) -> Result<(), Error> {
        if self.words.is_empty() && self.states[..self.lanes].iter().all(|&x| x == LOW) {
            Ok(())
        } else {
            Err(Error::Malformed)
        }
    }
}
