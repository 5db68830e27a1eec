//! What a refinement takes from the base's bins: contexts, and codes that are not the nearest.

use super::base::{bin_value, own_bin, ESCAPE};
use crate::format::float::{load, pow2, Format, GROUP};

/// Signed bin of an element, and whether it is inside the bins.
#[inline(always)]
pub fn signed_bin<F: Format>(bits: u32, scale: f32) -> (i32, bool) {
    let (q, fits) = own_bin::<F>(bits & F::MASK, scale);
    (if bits & F::SIGN != 0 { -q } else { q }, fits)
}

/// Contexts of a stream of shifts.
pub const SHIFT_CONTEXTS: usize = 14;
/// Context of an element that is known exactly already: one symbol, no bits.
const KNOWN: u8 = 13;

/// Contexts of the shifts of one row piece: 0..=8 for these bins, 9-15, 16-31, 32-63, 64 and more.
#[inline(always)]
pub fn shift_contexts<F: Format>(mem: &[u8], e: i32, ctx: &mut [u8]) {
    let scale = pow2(-e);
    let mut bits = [0u32; GROUP];
    for (mem, ctx) in mem.chunks(GROUP * F::BYTES).zip(ctx.chunks_mut(GROUP)) {
        let bits = &mut bits[..ctx.len()];
        load::<F>(mem, bits);
        for (&b, ctx) in bits.iter().zip(ctx) {
            let (q, fits) = own_bin::<F>(b & F::MASK, scale);
            let fine = if q < 8 { q } else { 8 };
            let octaves = i32::from(q > 8) + i32::from(q > 15);
            let octaves = octaves + i32::from(q > 31) + i32::from(q > 63);
            *ctx = if fits { (fine + octaves) as u8 } else { KNOWN };
        }
    }
}

/// Moves elements by so many bins, zigzag coded.
pub fn shift<F: Format>(mem: &mut [u8], e: i32, shifts: &[u8]) {
    let (scale, step) = (pow2(-e), pow2(e));
    for (i, &s) in shifts.iter().enumerate().filter(|(_, &s)| s != 0) {
        let (q, fits) = signed_bin::<F>(F::load(mem, i), scale);
        if fits {
            F::store(mem, i, bin_value::<F>(q + unzigzag(s), step));
        }
    }
}

/// Contexts of the symbols of a coarse base: one for each signed bin, the outer ones together.
pub const COARSE_CONTEXTS: usize = 16;
/// Context of elements that have no position.
const NOWHERE: u8 = 15;

/// Contexts of the first two halvings of one row piece.
#[inline(always)]
pub fn coarse_contexts<F: Format>(mem: &[u8], e: i32, ctx: &mut [u8]) {
    let scale = pow2(-e);
    let mut bits = [0u32; GROUP];
    for (mem, ctx) in mem.chunks(GROUP * F::BYTES).zip(ctx.chunks_mut(GROUP)) {
        let bits = &mut bits[..ctx.len()];
        load::<F>(mem, bits);
        for (&b, ctx) in bits.iter().zip(ctx) {
            let (q, fits) = signed_bin::<F>(b, scale);
            let q = if q < -7 { -7 } else { q };
            let q = if q > 7 { 7 } else { q };
            *ctx = if fits { (q + 7) as u8 } else { NOWHERE };
        }
    }
}

/// The same contexts, from the base's symbols; not those of patched elements.
#[inline(always)]
pub fn coarse_contexts_of(sym: &[u8], ctx: &mut [u8]) {
    for (ctx, &s) in ctx.iter_mut().zip(sym) {
        let s = if s == ESCAPE { 128 } else { s };
        let s = if s < 121 { 121 } else { s };
        let s = if s > 135 { 135 } else { s };
        *ctx = s - 121;
    }
}

/// Leaves absent elements out of a block's contexts.
pub fn without(absent: &[u8], ctx: &mut [u8]) {
    for (c, &a) in ctx.iter_mut().zip(absent) {
        *c = if a == 0 { *c } else { NOWHERE };
    }
}

#[cfg(feature = "encode")]
pub fn zigzag(d: i32) -> Option<u8> {
    u8::try_from(if d < 0 { -2 * d - 1 } else { 2 * d }).ok()
}

fn unzigzag(s: u8) -> i32 {
    let s = i32::from(s);
    if s % 2 == 0 {
        s / 2
    } else {
        -(s + 1) / 2
    }
}
