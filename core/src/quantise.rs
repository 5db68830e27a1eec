//! Row kernels of the base's encoder: floats to symbols and to the state that they lead to.

use crate::bins::{bin_value, load, signed_bin, store, ESCAPE, GROUP};
use crate::float::{pow2, Format};
use crate::scale::Squares;

/// Sums of squares of the finite weights, and of the base's errors.
#[derive(Default)]
pub struct Sums {
    pub signal: Squares,
    pub error: Squares,
}

/// Nearest bins of one row as symbols, and the base's state; says whether some element is outside the
/// bins, which is patched: the state has its own bits.
#[inline(always)]
pub fn base_row<F: Format>(
    mem: &[u8],
    e: i32,
    sym: &mut [u8],
    cur: &mut [u8],
    sums: &mut Sums,
) -> bool {
    let (scale, step) = (pow2(-e), pow2(e));
    let mut escapes = 0;
    let mut bits = [0u32; GROUP];
    let groups = mem
        .chunks(GROUP * F::BYTES)
        .zip(cur.chunks_mut(GROUP * F::BYTES));
    for ((mem, cur), sym) in groups.zip(sym.chunks_mut(GROUP)) {
        let bits = &mut bits[..sym.len()];
        load::<F>(mem, bits);
        for (bits, sym) in bits.iter_mut().zip(sym) {
            let (q, fits) = signed_bin::<F>(*bits, scale);
            *sym = if fits { (q + 128) as u8 } else { ESCAPE };
            *bits = if fits { bin_value::<F>(q, step) } else { *bits };
            escapes |= u32::from(!fits);
        }
        store::<F>(bits, cur);
        sums.signal.add_own::<F>(mem);
        sums.error.add::<F>(mem, cur);
    }
    escapes != 0
}
