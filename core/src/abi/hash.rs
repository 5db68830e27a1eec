//! SHA-256 of several streams.

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

/// Appends `len` bytes to each of the streams.
///
/// # Safety
/// `streams` comes from `p2u_sha256_new`; `parts` has a pointer to `len` bytes for each stream.
#[no_mangle]
pub unsafe extern "C" fn p2u_sha256_update(
    streams: *mut Streams,
    parts: *const *const u8,
    len: usize,
) -> i32 {
    guard(|| {
        let streams = &mut *streams;
        let parts: Vec<&[u8]> = slice(parts, streams.count())
            .iter()
            .map(|&p| slice(p, len))
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
