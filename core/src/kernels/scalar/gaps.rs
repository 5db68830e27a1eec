//! Which elements are of a class, and which differ.

use crate::format::rows::BLOCK;

/// Elements whose classes are counted at once.
pub const GROUP: usize = 64;
/// Groups of a block.
pub const GROUPS: usize = BLOCK / GROUP;
/// Elements whose classes may be counted without a mask.
pub const SPAN: usize = 512;

/// A bit for each context that is of a class.
#[inline(always)]
pub fn class_mask(ctx: &[u8; GROUP], class: u8) -> u64 {
    let bits = ctx.iter().enumerate();
    bits.fold(0, |all, (i, &c)| all | u64::from(c == class) << i)
}

/// The number of contexts that are of a class.
#[inline(always)]
pub fn class_count(ctx: &[u8; SPAN], class: u8) -> u32 {
    ctx.iter().map(|&c| u32::from(c == class)).sum()
}

/// Classes of contexts below 16, in their place.
#[inline(always)]
pub fn map_contexts(map: &[u8; 16], ctx: &mut [u8]) {
    ctx.iter_mut().for_each(|c| *c = map[usize::from(*c & 15)]);
}

/// How many groups end at an element or before: `ends` is ascending.
#[inline(always)]
pub fn ended(ends: &[i16; GROUPS], element: i16) -> usize {
    ends.iter().map(|&end| usize::from(end <= element)).sum()
}

#[cfg(feature = "encode")]
/// For each 64 elements of so many bytes, a mask of those that differ.
#[inline(never)]
pub fn differing<const BYTES: usize>(new: &[u8], old: &[u8], out: &mut [u64]) {
    let groups = new.chunks(GROUP * BYTES).zip(old.chunks(GROUP * BYTES));
    for ((new, old), out) in groups.zip(out) {
        let pairs = new.chunks_exact(BYTES).zip(old.chunks_exact(BYTES));
        *out = 0;
        for (i, (new, old)) in pairs.enumerate() {
            *out |= u64::from(new != old) << i;
        }
    }
}
