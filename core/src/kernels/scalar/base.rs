//! Bins of the base: their numbers and values.

#[cfg(feature = "encode")]
use super::level::{bin_context, KNOWN, NOWHERE};
#[cfg(feature = "encode")]
use super::squares::Squares;
use crate::format::float::Format;
#[cfg(feature = "encode")]
use crate::format::float::{load, pow2, store, trunc, GROUP};

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

#[cfg(feature = "encode")]
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
/// What a decoder will know of a row's elements after the base: bins and contexts.
pub struct Known<'a> {
    pub pos: &'a mut [i16],
    pub ctx: &'a mut [u8],
}

#[cfg(feature = "encode")]
/// Sums of squares of the finite weights, and of the base's errors.
#[derive(Default)]
pub struct Sums {
    pub signal: Squares,
    pub error: Squares,
}

#[cfg(feature = "encode")]
/// Nearest bins of one row as symbols, and what they tell; says whether some element is outside the
/// bins, which is patched.
#[inline(always)]
pub fn base_row<F: Format>(
    mem: &[u8],
    e: i32,
    sym: &mut [u8],
    known: Known,
    sums: &mut Sums,
) -> bool {
    let (scale, step) = (pow2(-e), pow2(e));
    let mut escapes = 0;
    let (mut bits, mut state) = ([0u32; GROUP], [0u8; 4 * GROUP]);
    for (g, mem) in mem.chunks(GROUP * F::BYTES).enumerate() {
        let at = g * GROUP..g * GROUP + mem.len() / F::BYTES;
        let bits = &mut bits[..at.len()];
        load::<F>(mem, bits);
        let (pos, ctx) = (&mut known.pos[at.clone()], &mut known.ctx[at.clone()]);
        let items = bits.iter_mut().zip(&mut sym[at]).zip(pos).zip(ctx);
        for (((bits, sym), pos), ctx) in items {
            let (q, fits) = own_bin::<F>(*bits & F::MASK, scale);
            let signed = if *bits & F::SIGN != 0 { -q } else { q };
            *sym = if fits { (signed + 128) as u8 } else { ESCAPE };
            *pos = if fits { q as i16 } else { NOWHERE };
            *ctx = if fits { bin_context(q) } else { KNOWN };
            let value = bin_value::<F>(signed, step);
            *bits = if fits { value } else { *bits };
            escapes |= u32::from(!fits);
        }
        let state = &mut state[..mem.len()];
        store::<F>(bits, state);
        sums.signal.add_own::<F>(mem);
        sums.error.add::<F>(mem, state);
    }
    escapes != 0
}
