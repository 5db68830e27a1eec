//! What an encoder of a symbol stream needs: frequencies chosen and written, their reciprocals, and
//! the words it makes.

use super::table::{expand, Freqs, COARSE, MAX_CTX, TOTAL};
use crate::format::wire::BitWriter;
use std::cell::Cell;

/// A frequency on the wire keeps its leading bit and three more.
fn round_wire(f: u32) -> u32 {
    let k = 32 - f.leading_zeros();
    if k <= 4 {
        f
    } else {
        f >> (k - 4) << (k - 4)
    }
}

/// Frequencies adding up to `total` for `counts`; the largest entry takes the rest.
fn normalise(counts: &[u64], total: u32) -> Option<(Vec<u32>, usize)> {
    let sum: u64 = counts.iter().sum();
    let top = (0..counts.len()).max_by_key(|&i| (counts[i], usize::MAX - i))?;
    let mut scale = u64::from(total);
    for _ in 0..64 {
        let mut out = vec![0u32; counts.len()];
        let mut rest = i64::from(total);
        for i in 0..counts.len() {
            if i == top || counts[i] == 0 {
                continue;
            }
            let f = ((counts[i] * scale + sum / 2) / sum).max(1) as u32;
            // Round to nearest on the wire's grid.
            let step = 1u32 << (32 - f.leading_zeros()).saturating_sub(4);
            out[i] = round_wire(f + step / 2);
            rest -= i64::from(out[i]);
        }
        if rest >= 1 {
            out[top] = rest as u32;
            return Some((out, top));
        }
        scale = scale * 15 / 16;
    }
    None
}

/// Estimated bits of coding `counts` with `freqs` (in 1/256 bit; integer, so every host agrees).
fn cost(counts: &[u64], freqs: &[u32], total: u32) -> u64 {
    let mut bits = 0;
    for (&c, &f) in counts.iter().zip(freqs) {
        if c > 0 {
            bits += c * u64::from(log2_q8(total) - log2_q8(f));
        }
    }
    bits
}

/// `256 * log2(v)`, rounded down to the grid of a piecewise-linear mantissa; `v >= 1`.
pub fn log2_q8(v: u32) -> u32 {
    let k = 31 - v.leading_zeros();
    let frac = ((u64::from(v) << 32 >> k) - (1 << 32)) as f64 / 4_294_967_296.0;
    // log2(1 + x) to three places; exact operations in a fixed order.
    let l = frac * (1.442_5 - frac * (0.718_0 - frac * (0.455_0 - frac * 0.180_0)));
    k * 256 + (l * 256.0) as u32
}

/// What a coarse table may cost more than a fine one, which costs misses of the cache.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Slack {
    /// 1/512 bit per symbol.
    PerSymbol,
    /// 1/128 of the bits: for symbols that hardly need any.
    Share,
}

/// Chooses the table of one context and writes it.
pub fn write_table(bits: &mut BitWriter, counts: &[u32; 256], slack: Slack) -> Freqs {
    let entries: Vec<u64> = counts.iter().map(|&c| u64::from(c)).collect();
    let lo = match entries.iter().position(|&c| c > 0) {
        None => {
            bits.put(0, 1);
            return Freqs::unused();
        }
        Some(lo) => lo,
    };
    let hi = entries.iter().rposition(|&c| c > 0).unwrap();
    let shown = &entries[lo..=hi];
    let fine = normalise(shown, TOTAL).expect("4096 slots hold 256 symbols");
    let coarse = normalise(shown, TOTAL >> COARSE);
    let least = cost(shown, &fine.0, TOTAL);
    let most = match slack {
        Slack::PerSymbol => least + shown.iter().sum::<u64>() / 2,
        Slack::Share => least + least / 128,
    };
    let chosen = coarse.filter(|c| cost(shown, &c.0, TOTAL >> COARSE) <= most);
    let coarse = chosen.is_some();
    let (freqs, top) = chosen.unwrap_or(fine);
    bits.put(1, 1);
    bits.put(u32::from(coarse), 1);
    bits.put(lo as u32, 8);
    bits.put((hi - lo) as u32, 8);
    if hi > lo {
        bits.put(top as u32, 8);
    }
    let mut prev = 6;
    for (i, &f) in freqs.iter().enumerate() {
        if i == top {
            continue;
        }
        let k = 32 - f.leading_zeros() as i32;
        let d = k - prev;
        bits.unary(if d < 0 {
            (-2 * d - 1) as u32
        } else {
            2 * d as u32
        });
        prev = k;
        let m = (k - 1).clamp(0, 3) as u32;
        if k > 1 {
            bits.put(f >> (k as u32 - 1 - m), m);
        }
    }
    expand(&freqs, lo, coarse).expect("normalised")
}

/// Per-symbol constants of the encoder in one word, see [`EncodeTables::new`].
pub struct EncodeTables(Box<[u64; ENCODE_STRIDE * MAX_CTX]>);

/// Entries from one context to the next. Not a power of two: contexts use much the same symbols, and
/// those of all of them should not meet in a few lines of the cache.
pub const ENCODE_STRIDE: usize = 280;

impl EncodeTables {
    /// An entry is `reciprocal | start << 32 | (freq - 1) << 44 | bias << 56 | shift << 60`, where
    /// `x / freq == ((x + bias) * reciprocal) >> (32 + shift)` for all `x < freq << 20`.
    pub fn new(freqs: &[Freqs]) -> Self {
        let mut out = Box::new([0; ENCODE_STRIDE * MAX_CTX]);
        for (t, f) in out.chunks_exact_mut(ENCODE_STRIDE).zip(freqs) {
            let mut start = 0u32;
            for (sym, &n) in f.freq.iter().enumerate().filter(|(_, &n)| n > 0) {
                let n = u32::from(n);
                let (reciprocal, bias, shift) = reciprocal(n);
                let info = start | (n - 1) << 12 | bias << 24 | shift << 28;
                t[sym] = u64::from(reciprocal) | u64::from(info) << 32;
                start += n;
            }
        }
        EncodeTables(out)
    }
    /// Entry of a symbol under a context, which is looked at modulo 16.
    #[inline(always)]
    pub fn entry(&self, ctx: u8, sym: u8) -> u64 {
        self.0[(usize::from(ctx) & (MAX_CTX - 1)) * ENCODE_STRIDE + usize::from(sym)]
    }
    /// All entries: that of `sym` under `ctx` is number `ENCODE_STRIDE * ctx + sym`.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub fn entries(&self) -> *const u64 {
        self.0.as_ptr()
    }
}

/// Reciprocal, bias and shift of a frequency (Granlund and Montgomery 1994; Robison 2005).
///
/// With `2^(32 + shift) = freq * reciprocal - r` the quotient is right while `x * r < 2^(32 +
/// shift)`, that is for `r * freq < 2^(12 + shift)`. The largest reciprocal of 32 bits gives that
/// for all frequencies below 2048, and for half of the others; for the rest the reciprocal rounded
/// down does, with `x + 1`.
fn reciprocal(freq: u32) -> (u32, u32, u32) {
    if freq == 1 {
        return (u32::MAX, 1, 0);
    }
    let shift = 31 - (freq - 1).leading_zeros();
    let one = 1u64 << (32 + shift);
    let up = (one + u64::from(freq) - 1) / u64::from(freq);
    let r = up * u64::from(freq) - one;
    let bias = r * u64::from(freq) >= 1 << (12 + shift);
    (up as u32 - u32::from(bias), u32::from(bias), shift)
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
    pub fn take(symbols: usize) -> Self {
        let mut buf = BUFFER.with(Cell::take);
        let size = MARGIN + 2 * symbols;
        if buf.len() < size {
            buf.resize(size, 0);
        }
        let at = buf.len();
        Words { buf, at }
    }
    pub fn keep(self) {
        if self.buf.len() <= KEEP {
            BUFFER.with(|b| b.set(self.buf));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::reciprocal;

    /// The quotient is wrong first just below or at a multiple of the divisor.
    #[test]
    fn reciprocals_divide() {
        for freq in 1..=4095u64 {
            let (reciprocal, bias, shift) = reciprocal(freq as u32);
            for q in (1..1 << 20).step_by(4093).chain(0xf_ff00..=1 << 20) {
                for x in [q * freq - 1, q * freq].iter().filter(|&&x| x < freq << 20) {
                    let found = ((x + u64::from(bias)) * u64::from(reciprocal)) >> (32 + shift);
                    assert_eq!(found, x / freq, "{} / {}", x, freq);
                }
            }
        }
    }
}
