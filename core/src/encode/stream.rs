//! The encoder of a symbol stream (SPEC.md, "Streams"): histogram, tables, and the states backwards.

use crate::entropy::rans::{LOW, MAX_LANES};
use crate::entropy::table::{write_table, EncodeTables, Freqs, Layout, Slack, MAX_CTX};
use crate::format::wire::{put_varint, BitWriter};
use crate::kernels::Isa;
use std::cell::Cell;

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

/// The words of a stream, two bytes each, made last first: what is written grows downwards.
pub struct Words {
    pub buf: Vec<u8>,
    /// First byte that is written.
    pub at: usize,
}

/// Room below the words for a store that is wider than what it has to write.
pub const MARGIN: usize = 32;
/// Most bytes that are kept from stream to stream: fresh memory costs more than what is done with it.
const KEEP: usize = 1 << 23;

thread_local! {
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Words {
    /// Room for at most one word per symbol.
    fn take(symbols: usize) -> Self {
        let mut buf = BUFFER.with(Cell::take);
        let size = MARGIN + 2 * symbols;
        if buf.len() < size {
            buf.resize(size, 0);
        }
        let at = buf.len();
        Words { buf, at }
    }
    fn keep(self) {
        if self.buf.len() <= KEEP {
            BUFFER.with(|b| b.set(self.buf));
        }
    }
}

/// The reference encoder: symbols from the last to the first into the states of their lanes, of
/// which there are a power of two. The slices start at a multiple of the lane count.
#[inline(always)]
pub fn encode_scalar(
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

/// Encodes `syms` under `ctx` (same length, below the number of layouts) and appends the stream.
#[inline(always)]
pub fn encode<I: Isa>(out: &mut Vec<u8>, syms: &[u8], ctx: &[u8], layouts: &[Layout]) {
    encode_with::<I>(out, syms, ctx, layouts, Slack::PerSymbol);
}

/// [`encode`] with a choice of tables.
#[inline(always)]
pub fn encode_with<I: Isa>(
    out: &mut Vec<u8>,
    syms: &[u8],
    ctx: &[u8],
    layouts: &[Layout],
    slack: Slack,
) {
    assert_eq!(syms.len(), ctx.len());
    let counts = count(syms, ctx);
    let log2 = lanes_log2(syms.len());
    out.push(log2 as u8);
    let mut bits = BitWriter::default();
    let freqs: Vec<Freqs> = layouts
        .iter()
        .zip(&counts)
        .map(|(&l, c)| write_table(&mut bits, c, l, slack))
        .collect();
    out.extend_from_slice(&bits.out);
    let tables = EncodeTables::new(&freqs);

    let mut states = [LOW; MAX_LANES];
    let states = &mut states[..1 << log2];
    let mut words = Words::take(syms.len());
    I::encode_words(&mut words, states, &tables, syms, ctx);
    for s in states {
        out.extend_from_slice(&s.to_le_bytes());
    }
    let written = &words.buf[words.at..];
    put_varint(out, (written.len() / 2) as u32);
    out.extend_from_slice(written);
    words.keep();
}
