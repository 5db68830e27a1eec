//! Widths of raw fields.

use crate::entropy::table::MAX_CTX;

/// Most bytes that the fields of 64 elements touch, and a load of eight at the last one.
pub const REACH: usize = 64 * 24 / 8 + 16;

/// Widths of the fields of up to 64 elements: none for symbol 0. Returns a bit for each element that
/// has one.
#[inline(never)]
pub fn field_widths(widths: &[u8; MAX_CTX], ctx: &[u8], sym: &[u8], out: &mut [u8; 64]) -> u64 {
    let mut some = 0;
    for (i, ((o, &c), &s)) in out.iter_mut().zip(ctx).zip(sym).enumerate() {
        let w = widths[usize::from(c) & (MAX_CTX - 1)];
        *o = if s == 0 { 0 } else { w };
        some |= u64::from(*o != 0) << i;
    }
    some
}
