//! Decoding.

use super::{guard, slice, targets, RawSegment, RawSource};
use crate::decode;
use crate::format::flat::Prior;
use crate::format::header::Dtype;
use crate::kernels::Set;
use crate::Error;

/// The instruction set used for `wish` (0: the best one), or 0 if this machine lacks it.
#[no_mangle]
pub extern "C" fn p2u_isa(wish: u32) -> u32 {
    Set::new(wish).map_or(0, Set::code)
}

/// The sources of `count` segments; all their own if there are none.
///
/// # Safety
/// As for [`p2u_apply`].
unsafe fn priors<'a>(
    sources: *const RawSource,
    segs: *const RawSegment,
    count: usize,
) -> Result<Vec<Prior<'a>>, Error> {
    if sources.is_null() {
        return Ok(vec![None; count]);
    }
    let one = |(s, seg): (&RawSource, &RawSegment)| {
        let (from, own) = (s.mem as usize, seg.mem as usize);
        if s.mem.is_null() || (from, s.bytes) == (own, seg.bytes) {
            return Ok(None);
        }
        // Read here and written there, so they must not share a byte.
        if from < own.saturating_add(seg.bytes) && own < from.saturating_add(s.bytes) {
            return Err(Error::Argument);
        }
        Ok(Some(slice(s.mem, s.bytes)))
    };
    let pairs = slice(sources, count).iter().zip(slice(segs, count));
    pairs.map(one).collect()
}

/// Applies a chunk: previous bytes of the segments, or of the sources, in, next bytes out.
///
/// # Safety
/// `payload` has `len` bytes; `segs` has `count` segments of distinct, writable memory; `sources` is
/// null or has `count` sources, each of them null, the segment's memory, or apart from all segments.
#[no_mangle]
pub unsafe extern "C" fn p2u_apply(
    isa: u32,
    dtype: u32,
    item: u32,
    payload: *const u8,
    len: usize,
    segs: *const RawSegment,
    count: usize,
    sources: *const RawSource,
) -> i32 {
    guard(|| {
        let dtype = Dtype::from_code(dtype)?;
        let from = priors(sources, segs, count)?;
        let (payload, mut segs) = (slice(payload, len), targets(segs, count));
        decode::apply(
            Set::new(isa)?,
            payload,
            dtype,
            item as usize,
            &mut segs,
            &from,
        )
    })
}

/// Applies a base and refinements of the same rows, all levels of a block at a time.
///
/// If it fails, the chunks have to be applied one after the other: that may do what this refuses.
///
/// # Safety
/// Each of `levels` payloads has its bytes; `segs` is as for [`p2u_apply`].
#[no_mangle]
pub unsafe extern "C" fn p2u_straight(
    isa: u32,
    dtype: u32,
    payloads: *const RawSource,
    levels: usize,
    segs: *const RawSegment,
    count: usize,
) -> i32 {
    guard(|| {
        let dtype = Dtype::from_code(dtype)?;
        let bytes = slice(payloads, levels)
            .iter()
            .map(|p| slice(p.mem, p.bytes));
        let payloads: Vec<&[u8]> = bytes.collect();
        decode::straight(Set::new(isa)?, &payloads, dtype, &mut targets(segs, count))
    })
}
