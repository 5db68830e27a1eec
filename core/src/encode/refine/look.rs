//! Decisions of the encoder that cost bytes only: they look at a sample of the elements.

use crate::encode::Source;
use crate::entropy::encoder::log2_q8;
use crate::format::float::{pow2, Format};
use crate::kernels::scalar::base::own_bin;
use crate::kernels::scalar::bins::signed_bin;

/// Halvings before the floats themselves: the more, the fewer elements lie in the lowest cell, but
/// fields of large elements must not be longer than what is left of their mantissas.
pub fn positions_of<F: Format>(src: &Source, e: &[i16]) -> u32 {
    let (mut seen, mut waste) = (0u64, [0u64; 5]);
    each::<F>(src, |r, _, bits| {
        let u = bits & F::MASK;
        let (q, fits) = own_bin::<F>(u, pow2(-i32::from(e[r])));
        let left = 7 + i32::from(e[r]) + F::BIAS - (u >> F::MANT).max(1) as i32;
        seen += 1;
        for k in 1..=4 {
            let short = k as i32 - left.max(0);
            if fits && q > 0 && short > 0 {
                waste[k] += short as u64;
            }
        }
    });
    let good = |k: &u32| waste[*k as usize] * 512 <= seen;
    (1..=4).rev().find(good).unwrap_or(1)
}

/// Whether coding the first two halvings saves more than a thousandth of the original.
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
    let mut saved = 0i64;
    for counts in counts {
        let all: u32 = counts.iter().sum();
        for c in counts.iter().filter(|&&c| c > 0) {
            saved += i64::from(*c) * (512 - (i64::from(log2_q8(all)) - i64::from(log2_q8(*c))));
        }
    }
    saved * 1000 > (seen * 256 * 8 * F::BYTES as u64) as i64
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
