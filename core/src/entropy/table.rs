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
