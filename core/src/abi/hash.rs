//! SHA-256 of several streams or messages.

use super::{guard, slice};
use crate::hash::Streams;
use std::slice::from_raw_parts_mut;

/// Hashes of `count` streams, freed with `p2u_sha256_free`; null if this machine has no
/// instructions for them.
#[no_mangle]
pub extern "C" fn p2u_sha256_new(count: usize) -> *mut Streams {
    match Streams::new(count) {
        Some(streams) => Box::into_raw(Box::new(streams)),
        None => std::ptr::null_mut(),
    }
}

/// Appends to each of the streams as many bytes as `sizes` says.
///
/// # Safety
/// `streams` comes from `p2u_sha256_new`; `parts` and `sizes` have a place for each stream.
#[no_mangle]
pub unsafe extern "C" fn p2u_sha256_update(
    streams: *mut Streams,
    parts: *const *const u8,
    sizes: *const usize,
) -> i32 {
    guard(|| {
        let streams = &mut *streams;
        let sizes = slice(sizes, streams.count());
        let parts: Vec<&[u8]> = slice(parts, streams.count())
            .iter()
            .zip(sizes)
            .map(|(&p, &size)| slice(p, size))
            .collect();
        streams.update(&parts);
        Ok(())
    })
}

/// Digest of stream `index` so far.
///
/// # Safety
/// `streams` comes from `p2u_sha256_new`; `out` has 32 places.
#[no_mangle]
pub unsafe extern "C" fn p2u_sha256_digest(
    streams: *const Streams,
    index: usize,
    out: *mut u8,
) -> i32 {
    guard(|| {
        let digest = (*streams).digest(index);
        from_raw_parts_mut(out, digest.len()).copy_from_slice(&digest);
        Ok(())
    })
}

/// Makes stream `index` an empty one.
///
/// # Safety
/// `streams` comes from `p2u_sha256_new`.
#[no_mangle]
pub unsafe extern "C" fn p2u_sha256_restart(streams: *mut Streams, index: usize) -> i32 {
    guard(|| {
        (*streams).restart(index);
        Ok(())
    })
}

/// Frees what `p2u_sha256_new` returned.
///
/// # Safety
/// `streams` comes from `p2u_sha256_new` and was not freed before.
#[no_mangle]
pub unsafe extern "C" fn p2u_sha256_free(streams: *mut Streams) {
    if !streams.is_null() {
        drop(Box::from_raw(streams));
    }
}
