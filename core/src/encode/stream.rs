//! The encoder of a symbol stream (SPEC.md, "Streams"): histogram, tables, and the states backwards.

use crate::entropy::encoder::Words;
use crate::entropy::encoder::{write_table, EncodeTables, Slack};
use crate::entropy::rans::{LOW, MAX_LANES};
use crate::entropy::table::{Freqs, MAX_CTX};
use crate::format::wire::{put_varint, BitWriter};
use crate::kernels::Isa;

/// Lanes for `n` symbols: a state costs 4 bytes, so short streams take few.
fn lanes_log2(n: usize) -> u32 {
    match n {
        0..=255 => 0,
        256..=2047 => 2,
        2048..=16383 => 4,
        _ => 6,
    }
}

/// Counts from one context to the next; see [`ENCODE_STRIDE`](crate::entropy::table::ENCODE_STRIDE).
const STRIDE: usize = 272;
/// One histogram per context.
type Counts = [u32; STRIDE * MAX_CTX];

/// Symbols of each context.
fn count(syms: &[u8], ctx: &[u8]) -> Vec<[u32; 256]> {
    // Four histograms take turns, so that runs of a symbol do not wait for one another.
    let mut counts = vec![[0u32; STRIDE * MAX_CTX]; 4];
    if let [a, b, c, d] = &mut counts[..] {
        let mut index = [0u16; 64];
        for (syms, ctx) in syms.chunks(64).zip(ctx.chunks(64)) {
            for ((i, &s), &c) in index.iter_mut().zip(syms).zip(ctx) {
                *i = u16::from(c & (MAX_CTX as u8 - 1)) * STRIDE as u16 + u16::from(s);
            }
            let index = &index[..syms.len()];
            for i in index.chunks_exact(4) {
                add(a, i[0]);
                add(b, i[1]);
                add(c, i[2]);
                add(d, i[3]);
            }
            for &i in index.chunks_exact(4).remainder() {
                add(a, i);
            }
        }
    }
    let mut sums = vec![[0; 256]; MAX_CTX];
    for counts in &counts {
        for (sums, counts) in sums.iter_mut().zip(counts.chunks_exact(STRIDE)) {
            for (sum, n) in sums.iter_mut().zip(counts) {
                *sum += n;
            }
        }
    }
    sums
}

#[inline(always)]
fn add(counts: &mut Counts, index: u16) {
    counts[usize::from(index)] += 1;
}

/// Encodes `syms` under `ctx` (same length, below `contexts`) and appends the stream.
pub fn encode<I: Isa>(isa: I, out: &mut Vec<u8>, syms: &[u8], ctx: &[u8], contexts: usize) {
    encode_with(isa, out, syms, ctx, contexts, Slack::PerSymbol);
}

/// [`encode`] with a choice of tables.
pub fn encode_with<I: Isa>(
    isa: I,
    out: &mut Vec<u8>,
    syms: &[u8],
    ctx: &[u8],
    contexts: usize,
    slack: Slack,
) {
    assert_eq!(syms.len(), ctx.len());
    let counts = count(syms, ctx);
    let log2 = lanes_log2(syms.len());
    out.push(log2 as u8);
    let mut bits = BitWriter::default();
    let freqs: Vec<Freqs> = counts[..contexts]
        .iter()
        .map(|c| write_table(&mut bits, c, slack))
        .collect();
    out.extend_from_slice(&bits.out);
    let tables = EncodeTables::new(&freqs);

    let mut states = [LOW; MAX_LANES];
    let states = &mut states[..1 << log2];
    let mut words = Words::take(syms.len());
    isa.encode_symbols(&mut words, states, &tables, syms, ctx);
    for s in states {
        out.extend_from_slice(&s.to_le_bytes());
    }
    let written = &words.buf[words.at..];
    put_varint(out, (written.len() / 2) as u32);
    out.extend_from_slice(written);
    words.keep();
}
