//! The base's bins: a weight of bin `q` lies within half a step `2^e` of `q * 2^e` (SPEC.md, "Base").

use crate::float::{pow2, Format};

/// Largest bin number; elements beyond it travel exactly in the base.
pub const Q_MAX: i32 = 127;
/// Base symbol of an element that is patched; a bin `q` is symbol `q + 128`.
pub const ESCAPE: u8 = 0;

/// Elements the portable loops hold at a time: loops over loads or stores of a generic width are not
/// vectorised together with what is done in between.
pub const GROUP: usize = 64;

/// Truncation for values that are known to fit an `i32`.
#[inline(always)]
fn trunc(v: f32) -> i32 {
    debug_assert!(v.abs() < 2_147_483_000.0);
    // SAFETY: every caller passes a finite value below 2^24 in magnitude.
    unsafe { v.to_int_unchecked() }
}

/// Bits of consecutive elements.
#[inline(always)]
pub fn load<F: Format>(mem: &[u8], out: &mut [u32]) {
    for (o, m) in out.iter_mut().zip(mem.chunks_exact(F::BYTES)) {
        *o = F::load(m, 0);
    }
}

/// The inverse of [`load`].
#[inline(always)]
pub fn store<F: Format>(bits: &[u32], mem: &mut [u8]) {
    for (&b, m) in bits.iter().zip(mem.chunks_exact_mut(F::BYTES)) {
        F::store(m, 0, b);
    }
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

/// Signed bin of an element, and whether it is inside the bins.
#[inline(always)]
pub fn signed_bin<F: Format>(bits: u32, scale: f32) -> (i32, bool) {
    let (q, fits) = own_bin::<F>(bits & F::MASK, scale);
    (if bits & F::SIGN != 0 { -q } else { q }, fits)
}

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

/// Leaves absent elements out of a block's contexts.
pub fn without(absent: &[u8], ctx: &mut [u8]) {
    for (c, &a) in ctx.iter_mut().zip(absent) {
        *c = if a == 0 { *c } else { NOWHERE };
    }
}

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
