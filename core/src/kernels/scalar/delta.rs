//! Differences of ordered integers.

use crate::entropy::table::MAX_CTX;
use crate::format::float::{load, store, Format, GROUP};

/// Contexts of predictions: their exponents, from `low` on.
#[inline(never)]
pub fn contexts<F: Format>(pred: &[u8], low: u8, ctx: &mut [u8]) {
    let low = u32::from(low);
    let mut bits = [0u32; GROUP];
    for (ctx, pred) in ctx.chunks_mut(GROUP).zip(pred.chunks(GROUP * F::BYTES)) {
        load::<F>(pred, &mut bits);
        for (c, &b) in ctx.iter_mut().zip(&bits) {
            let e = (b & F::MASK) >> F::MANT;
            *c = e.max(low).min(low + MAX_CTX as u32 - 1).wrapping_sub(low) as u8;
        }
    }
}

/// Bits of a float, at the top of the word, as a signed integer in the order of the floats; its own
/// inverse but for what is below them.
#[inline(always)]
fn flip(x: u32) -> i32 {
    x as i32 ^ ((x as i32 >> 31) & 0x7fff_ffff)
}

/// Predictions plus differences: zigzag codes, which are the symbols if there are no others.
#[inline(never)]
pub fn combine<F: Format>(mem: &mut [u8], sym: &[u8], z: Option<&[u32]>, tz: u32) {
    let up = 32 - 8 * F::BYTES as u32;
    let below = (1i32 << (up + tz)) - 1;
    let (mut bits, mut codes) = ([0u32; GROUP], [0u32; GROUP]);
    for (g, mem) in mem.chunks_mut(GROUP * F::BYTES).enumerate() {
        let n = mem.len() / F::BYTES;
        let at = g * GROUP..g * GROUP + n;
        match z {
            Some(z) => codes[..n].copy_from_slice(&z[at]),
            None => {
                let pairs = codes.iter_mut().zip(&sym[at]);
                pairs.for_each(|(z, &s)| *z = u32::from(s));
            }
        }
        load::<F>(mem, &mut bits);
        for (b, &z) in bits.iter_mut().zip(&codes) {
            let d = (z >> 1) as i32 ^ -((z & 1) as i32);
            let o = (flip(*b << up) >> (up + tz)).wrapping_add(d) << (up + tz);
            *b = flip((o | ((o >> 31) & below)) as u32) as u32 >> up;
        }
        store::<F>(&bits[..n], mem);
    }
}

#[cfg(feature = "encode")]
/// Zigzag code of the difference of two elements' ordered integers.
#[inline(always)]
pub fn zigzag<F: Format>(new: u32, old: u32) -> u32 {
    let up = 32 - 8 * F::BYTES as u32;
    let d = (flip(new << up) >> up).wrapping_sub(flip(old << up) >> up) << up >> up;
    ((d << 1) ^ (d >> 31)) as u32
}

#[cfg(feature = "encode")]
/// Zigzag codes of the differences of ordered integers without their low `tz` bits.
#[inline(never)]
pub fn zigzags<F: Format>(new: &[u8], old: &[u8], tz: u32, z: &mut [u32]) {
    let up = 32 - 8 * F::BYTES as u32;
    let cut = up + tz;
    let (mut a, mut b) = ([0u32; GROUP], [0u32; GROUP]);
    let pairs = new
        .chunks(GROUP * F::BYTES)
        .zip(old.chunks(GROUP * F::BYTES));
    for ((new, old), z) in pairs.zip(z.chunks_mut(GROUP)) {
        load::<F>(new, &mut a);
        load::<F>(old, &mut b);
        for ((z, &a), &b) in z.iter_mut().zip(&a).zip(&b) {
            let d = (flip(a << up) >> cut).wrapping_sub(flip(b << up) >> cut) << cut >> cut;
            *z = ((d << 1) ^ (d >> 31)) as u32;
        }
    }
}
