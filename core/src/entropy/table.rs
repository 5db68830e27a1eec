//! Static frequency tables of one symbol stream: normalisation, wire form, decode tables.
//!
//! A stream has up to 16 contexts, each with a table of 8-bit symbols whose frequencies add up to
//! 4096. A *coarse* table has frequencies that are multiples of 16, so its decode table has 256
//! entries instead of 4096 and stays in the first-level cache.

use crate::format::wire::BitReader;
use crate::Error;

pub const PROB_BITS: u32 = 12;
pub const TOTAL: u32 = 1 << PROB_BITS;
pub const MAX_CTX: usize = 16;
pub(super) const COARSE: u32 = 4;

/// Frequencies of one context. `freq` has 256 places and adds up to `TOTAL`.
#[derive(Clone)]
pub struct Freqs {
    pub freq: [u16; 256],
    pub coarse: bool,
}

impl Freqs {
    pub(super) fn unused() -> Self {
        let mut freq = [0; 256];
        freq[0] = TOTAL as u16;
        Freqs { freq, coarse: true }
    }
}

/// Per-symbol 12-bit frequencies from listed entries; fails unless they fill the range exactly.
pub(super) fn expand(entries: &[u32], lo: usize, coarse: bool) -> Result<Freqs, Error> {
    let mut freq = [0u16; 256];
    let unit = if coarse { 1 << COARSE } else { 1 };
    let mut sum = 0u32;
    for (i, &f) in entries.iter().enumerate() {
        let slot = freq.get_mut(lo + i).ok_or(Error::Malformed)?;
        *slot = (f * unit) as u16;
        sum += f * unit;
    }
    if sum != TOTAL {
        return Err(Error::Malformed);
    }
    Ok(Freqs { freq, coarse })
}

pub fn read_table(bits: &mut BitReader) -> Result<Freqs, Error> {
    if bits.bit()? == 0 {
        return Ok(Freqs::unused());
    }
    let coarse = bits.bit()? == 1;
    let lo = bits.take(8)? as usize;
    let count = bits.take(8)? as usize + 1;
    let top = if count > 1 { bits.take(8)? as usize } else { 0 };
    if lo + count > 256 || top >= count {
        return Err(Error::Malformed);
    }
    let total = if coarse { TOTAL >> COARSE } else { TOTAL };
    let mut entries = vec![0u32; count];
    let mut rest = total;
    let mut prev = 6i32;
    for i in (0..count).filter(|&i| i != top) {
        let z = bits.unary(26)? as i32;
        let k = prev + if z % 2 == 0 { z / 2 } else { -(z + 1) / 2 };
        if !(0..=PROB_BITS as i32).contains(&k) {
            return Err(Error::Malformed);
        }
        prev = k;
        if k > 0 {
            let m = (k - 1).clamp(0, 3) as u32;
            entries[i] = ((1 << m) | bits.take(m)?) << (k as u32 - 1 - m);
            rest = rest.checked_sub(entries[i]).ok_or(Error::Malformed)?;
        }
    }
    if rest == 0 {
        return Err(Error::Malformed);
    }
    entries[top] = rest;
    expand(&entries, lo, coarse)
}

/// Entries without meaning before and after the tables, for loads that are wider than an entry.
const MARGIN: usize = 4;

/// Decode tables of all contexts of a stream, laid out for vector gathers.
///
/// An entry is `symbol | start << 8 | (4096 - freq) << 20`. Context `c` has its entries from
/// `256 * base[c]`, one per `1 << shift[c]` slots.
pub struct DecodeTables {
    entries: Vec<u32>,
    pub base: [u8; MAX_CTX],
    pub shift: [u8; MAX_CTX],
}

impl DecodeTables {
    pub fn new(freqs: &[Freqs]) -> Self {
        assert!(!freqs.is_empty() && freqs.len() <= MAX_CTX);
        let mut t = DecodeTables {
            entries: vec![0; MARGIN],
            base: [0; MAX_CTX],
            shift: [0; MAX_CTX],
        };
        for (c, f) in freqs.iter().enumerate() {
            let shift = if f.coarse { COARSE } else { 0 };
            t.base[c] = ((t.entries.len() - MARGIN) / 256) as u8;
            t.shift[c] = shift as u8;
            let mut start = 0u32;
            for (sym, &n) in f.freq.iter().enumerate().filter(|(_, &n)| n > 0) {
                let n = u32::from(n);
                let entry = sym as u32 | start << 8 | (TOTAL - n) << 20;
                let fill = t.entries.len() + (n >> shift) as usize;
                t.entries.resize(fill, entry);
                start += n;
            }
        }
        // A context the caller never uses still decodes to something in bounds.
        for c in freqs.len()..MAX_CTX {
            t.base[c] = t.base[0];
            t.shift[c] = t.shift[0];
        }
        t.entries.resize(t.entries.len() + MARGIN, 0);
        t
    }
    #[inline(always)]
    pub fn entries(&self) -> &[u32] {
        &self.entries[MARGIN..]
    }
}

#[cfg(all(test, feature = "encode"))]
mod tests {
    use super::*;
    use crate::entropy::encoder::{write_table, Slack};
    use crate::format::wire::{BitWriter, Reader};

    /// Tables come back, and give every symbol that occurs a slot.
    #[test]
    fn tables_come_back() {
        let counts: [fn(usize) -> u32; 6] = [
            |i| u32::from(i == 77) * 9,
            |i| i as u32,
            |i| 1 << (i % 20),
            |_| 1,
            |i| u32::from(i < 2) * (1 + 100_000 * i as u32),
            |_| 0,
        ];
        for count in counts {
            let mut all = [0; 256];
            all.iter_mut().enumerate().for_each(|(i, c)| *c = count(i));
            let mut bits = BitWriter::default();
            let written = write_table(&mut bits, &all, Slack::PerSymbol);
            let mut r = Reader::new(&bits.out);
            let mut bits = r.bits();
            let read = read_table(&mut bits).expect("a table");
            assert_eq!((r.resume(bits), r.end()), (Ok(()), Ok(())));
            assert!(read.freq == written.freq && read.coarse == written.coarse);
            assert!(all.iter().zip(&read.freq).all(|(&c, &f)| c == 0 || f > 0));
            assert_eq!(read.freq.iter().map(|&f| u32::from(f)).sum::<u32>(), TOTAL);
        }
    }

    /// Of random bits nothing is a table that is not one.
    #[test]
    fn any_bits_are_a_table_or_refused() {
        let (mut x, mut good) = (1u32, 0);
        for _ in 0..20_000 {
            let mut bytes = [0u8; 40];
            for b in &mut bytes {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *b = (x >> 24) as u8;
            }
            bytes[0] |= 1;
            if let Ok(f) = read_table(&mut Reader::new(&bytes).bits()) {
                assert_eq!(f.freq.iter().map(|&f| u32::from(f)).sum::<u32>(), TOTAL);
                let t = DecodeTables::new(&[f]);
                assert!(t.entries().len() >= 256);
                good += 1;
            }
        }
        assert!(good > 10, "{good}");
    }
}
