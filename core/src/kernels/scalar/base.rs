//! Bins of the base: their numbers and values.

#[cfg(feature = "encode")]
use super::bins::signed_bin;
#[cfg(feature = "encode")]
use super::squares::Squares;
#[cfg(feature = "encode")]
use crate::format::float::{load, pow2, store, GROUP};
use crate::format::float::{trunc, Format};

/// Largest bin number; what lies outside travels exactly in the base.
#[cfg(feature = "encode")]
pub const Q_MAX: i32 = 127;

/// Base symbol of an element that is patched; a bin `q` is symbol `q + 128`.
pub const ESCAPE: u8 = 0;

/// Values of base symbols.
#[inline(always)]
pub fn bin_values<F: Format>(sym: &[u8], step: f32, mem: &mut [u8]) {
    for (m, &s) in mem.chunks_exact_mut(F::BYTES).zip(sym) {
        let q = if s == ESCAPE { 0 } else { i32::from(s) - 128 };
        F::store(m, 0, bin_value::<F>(q, step));
    }
}

/// Base value of signed bin `q`.
#[inline(always)]
pub fn bin_value<F: Format>(q: i32, step: f32) -> u32 {
    let sign = if q < 0 { F::SIGN } else { 0 };
    F::floor(q.abs() as f32 * step) | sign
}

/// Number of the bin a magnitude belongs to, and whether it is inside the bins at all (NaN and
/// infinity are not).
#[inline(always)]
pub fn own_bin<F: Format>(u: u32, scale: f32) -> (i32, bool) {
    let a = F::value(u) * scale;
    let fits = a < 127.5;
    let a = if fits { a } else { 0.0 };
    let q = trunc(a);
    (q + i32::from(a - q as f32 >= 0.5), fits)
}

#[cfg(feature = "encode")]
/// Sums of squares of the finite weights, and of the base's errors.
#[derive(Default)]
pub struct Sums {
    pub signal: Squares,
    pub error: Squares,
}

#[cfg(feature = "encode")]
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
