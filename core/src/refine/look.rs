//! Decisions of the encoder that cost bytes only: they look at a sample of the elements.

use super::Head;
use crate::bins::{coarse_contexts, own_bin, COARSE_CONTEXTS};
use crate::encode::{Source, SAMPLE};
use crate::float::{pow2, Format};
use crate::table::log2_q8;

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
pub fn pays_to_code<F: Format>(src: &Source, e: &[i16], cur: &[u8], head: &Head) -> bool {
    let mut counts = [[0u32; 4]; COARSE_CONTEXTS];
    let mut seen = 0u64;
    each::<F>(src, |r, i, bits| {
        let mut ctx = [0u8];
        let state = &cur[i * F::BYTES..(i + 1) * F::BYTES];
        coarse_contexts::<F>(state, i32::from(e[r]), &mut ctx);
        // The quarter of the bin, by the halvings that the symbol has.
        let scale = pow2(2 - i32::from(e[r]));
        let a = F::value(bits & F::MASK) * scale;
        let b = F::value(F::load(state, 0) & F::MASK) * scale;
        let (own, base) = (a.min(1024.0) as i32, b.min(1024.0) as i32);
        seen += 1;
        if usize::from(ctx[0]) < COARSE_CONTEXTS - 1 {
            let f = (own - base + 2).clamp(0, 3);
            let f = if bits & F::SIGN != 0 { 3 - f } else { f };
            counts[usize::from(ctx[0])][f as usize] += 1;
        }
    });
    debug_assert!(head.k() >= 2);
    let mut saved = 0i64;
    for counts in counts {
        let all: u32 = counts.iter().sum();
        for c in counts.iter().filter(|&&c| c > 0) {
            saved += i64::from(*c) * (512 - (i64::from(log2_q8(all)) - i64::from(log2_q8(*c))));
        }
    }
    saved * 1000 > (seen * 256 * 8 * F::BYTES as u64) as i64
}

/// Calls with row, element and bits of one element in so many.
fn each<F: Format>(src: &Source, mut f: impl FnMut(usize, usize, u32)) {
    let mut i = 0;
    for r in 0..src.rows.count() {
        let (p, mem) = (src.rows.range(r), src.row::<F>(r));
        while i < p.end {
            f(r, i, F::load(mem, i - p.start));
            i += SAMPLE;
        }
    }
}
