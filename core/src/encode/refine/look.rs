//! Decisions of the encoder that cost bytes only: they look at a sample of the elements.

use crate::encode::Source;
use crate::entropy::encoder::log2_q8;
use crate::format::float::{pow2, Format};
use crate::kernels::scalar::bins::signed_bin;
use crate::kernels::scalar::cells::known_from;

/// Most halvings that every element gets a bit of each.
const MOST: usize = 4;

/// Halvings that every element gets: the more, the fewer elements lie in the lowest cell, but large
/// ones must have as many bits left in their mantissas, and tiny ones are better told by octaves alone.
///
/// `to`: the cells to reach, if not the floats themselves.
pub fn positions_of<F: Format>(src: &Source, e: &[i16], to: Option<u32>) -> u32 {
    let mut seen = 0;
    // Of each number of halvings: bits of positions and upper fields, and octaves of deep elements.
    let (mut bits, mut deep) = ([0u64; MOST + 1], [[0u32; 256]; MOST + 1]);
    each::<F>(src, |r, _, b| {
        let (u, e) = (b & F::MASK, i32::from(e[r]));
        let exponent = (u >> F::MANT).max(1) as i32;
        let open = u < known_from::<F>(e);
        seen += 1;
        for k in 1..=MOST {
            let left = 7 + e - k as i32 + F::BIAS - exponent;
            bits[k] += k as u64;
            if let Some(to) = to {
                bits[k] += (to as i32 - k as i32).min(left).max(0) as u64 * u64::from(open);
            } else if open && left > 7 {
                // A float below the cell's upper edge.
                deep[k][(left - 8).min(255) as usize] += 1;
            } else if open && left > 0 {
                bits[k] += left as u64;
            }
        }
    });
    let cost = |k: usize| bits[k] * 256 + coded(&deep[k]) + 7 * 256 * sum(&deep[k]);
    let least = (1..=MOST).map(cost).min().unwrap_or(0);
    let good = |k: &usize| cost(*k) <= least + seen / 2;
    (1..=MOST).rev().find(good).unwrap_or(1) as u32
}

fn sum(counts: &[u32]) -> u64 {
    counts.iter().map(|&c| u64::from(c)).sum()
}

/// Ideal size of entropy-coded symbols, in 1/256 bit.
fn coded(counts: &[u32]) -> u64 {
    let all = log2_q8(sum(counts).max(1) as u32);
    let cost = |&c: &u32| u64::from(c) * u64::from(all - log2_q8(c).min(all));
    counts.iter().filter(|&&c| c > 0).map(cost).sum()
}

/// Whether exact zeros are so many that they should have no fields.
pub fn is_sparse<F: Format>(src: &Source) -> bool {
    let (mut seen, mut zeros) = (0u64, 0u64);
    each::<F>(src, |_, _, bits| {
        seen += 1;
        zeros += u64::from(bits & F::MASK == 0);
    });
    zeros * 256 > seen
}

/// Whether coding the first two halvings saves more than a fiftieth of a bit per weight: decoding their
/// symbols takes about as long as all other parts of a refinement.
pub fn pays_to_code<F: Format>(src: &Source, e: &[i16], cur: &[u8]) -> bool {
    let mut counts = [[0u32; 4]; 15];
    let mut seen = 0u64;
    each::<F>(src, |r, i, bits| {
        let e = i32::from(e[r]);
        let state = F::load(&cur[i * F::BYTES..], 0);
        let (q, fits) = signed_bin::<F>(state, pow2(-e));
        seen += 1;
        if fits {
            // Quarters of bins, by the halvings that the symbol has.
            let quarter = |u: u32| (F::value(u & F::MASK) * pow2(2 - e)).min(1024.0) as i32;
            let f = (quarter(bits) - quarter(state) + 2).clamp(0, 3);
            let f = if bits & F::SIGN != 0 { 3 - f } else { f };
            counts[(q.clamp(-7, 7) + 7) as usize][f as usize] += 1;
        }
    });
    let plain: u64 = counts.iter().map(|c| sum(c) * 512).sum();
    let saved = plain - counts.iter().map(|c| coded(c)).sum::<u64>().min(plain);
    saved * 50 > seen * 256
}

/// About so many elements of a chunk are looked at.
const SAMPLE: usize = 8192;

/// Calls with row, element and bits of one element in so many.
#[inline(always)]
fn each<F: Format>(src: &Source, mut f: impl FnMut(usize, usize, u32)) {
    // A multiple of a prime, so that no usual row length hides a column.
    let stride = 13 * (src.rows.elements() / (13 * SAMPLE) + 1);
    let mut i = 0;
    for r in 0..src.rows.count() {
        let p = src.rows.range(r);
        if i >= p.end {
            continue;
        }
        let mem = src.row::<F>(r);
        while i < p.end {
            f(r, i, F::load(mem, i - p.start));
            i += stride;
        }
    }
}
