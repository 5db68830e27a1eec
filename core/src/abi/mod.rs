//! The C ABI: pointers become slices here, panics become status codes, and nowhere else.

mod decode;
#[cfg(feature = "encode")]
mod encode;
#[cfg(not(target_arch = "wasm32"))]
mod hash;

use crate::format::rows::{Segment, Target};
use crate::Error;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// Changes with every incompatible change of the functions below.
const ABI_VERSION: u32 = 8;

/// Whole rows of one tensor in the caller's memory.
#[repr(C)]
pub struct RawSegment {
    mem: *mut u8,
    bytes: usize,
    elems: usize,
    cols: usize,
}

fn guard(f: impl FnOnce() -> Result<(), Error>) -> i32 {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(Ok(())) => 0,
        Ok(Err(e)) => e.status(),
        Err(_) => Error::Internal.status(),
    }
}

/// The caller's memory.
///
/// # Safety
/// `p` has `n` places that can be read for `'a`, or `n` is 0.
unsafe fn slice<'a, T>(p: *const T, n: usize) -> &'a [T] {
    if n == 0 {
        &[]
    } else {
        from_raw_parts(p, n)
    }
}

/// Segments whose memory is written.
///
/// # Safety
/// There are `n` segments of distinct memory that nobody else uses for `'a`.
unsafe fn targets<'a>(segs: *const RawSegment, n: usize) -> Vec<Target<'a>> {
    let segs = slice(segs, n);
    let mem = |s: &RawSegment| {
        if s.bytes == 0 {
            &mut [][..]
        } else {
            from_raw_parts_mut(s.mem, s.bytes)
        }
    };
    segs.iter()
        .map(|s| Segment {
            mem: mem(s),
            elems: s.elems,
            cols: s.cols,
        })
        .collect()
}

#[no_mangle]
pub extern "C" fn p2u_abi_version() -> u32 {
    ABI_VERSION
}

/// Whether two buffers of `len` bytes are equal: 1 or 0.
///
/// # Safety
/// `a` and `b` have `len` bytes.
#[no_mangle]
pub unsafe extern "C" fn p2u_equal(a: *const u8, b: *const u8, len: usize) -> u32 {
    u32::from(slice(a, len) == slice(b, len))
}

/// Source bytes of one segment, in the parent of a version update, where null is the segment's own; or a
/// payload.
#[repr(C)]
pub struct RawSource {
    mem: *const u8,
    bytes: usize,
}
