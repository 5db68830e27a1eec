//! The encoder of interleaved rANS, one lane after the other.

use crate::entropy::encoder::{EncodeTables, Words};

/// Encodes symbols from the last to the first into the states of their lanes, of
/// which there are a power of two. The slices start at a multiple of the lane count.
#[inline(never)]
pub fn encode_symbols(
    words: &mut Words,
    states: &mut [u32],
    tables: &EncodeTables,
    syms: &[u8],
    ctx: &[u8],
) {
    let mask = states.len() - 1;
    let mut lane = syms.len() & mask;
    for (&sym, &c) in syms.iter().zip(ctx).rev() {
        lane = lane.wrapping_sub(1) & mask;
        let entry = tables.entry(c, sym);
        let info = (entry >> 32) as u32;
        let less = (info >> 12) & 0xfff;
        let x = states[lane];
        let full = x >> 20 > less;
        words.buf[words.at - 2..words.at].copy_from_slice(&(x as u16).to_le_bytes());
        words.at -= 2 * usize::from(full);
        let x = if full { x >> 16 } else { x };
        let product = (u64::from(x) + u64::from((info >> 24) & 1)) * u64::from(entry as u32);
        let q = ((product >> 32) as u32) >> (info >> 28);
        // x / freq * 4096 + x % freq + start
        states[lane] = x + q * (0xfff - less) + (info & 0xfff);
    }
}
