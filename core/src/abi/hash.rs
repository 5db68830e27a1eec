//! SHA-256 of several streams or messages.

use super::{guard, slice};
use crate::hash::{digests, Streams};
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

/// Digests of `count` whole messages, 32 bytes each; -1 if this machine has no instructions for them.
///
/// # Safety
/// `parts` has `count` pointers to as many bytes as `sizes` says; `out` has `32 * count` places.
#[no_mangle]
pub unsafe extern "C" fn p2u_sha256_each(
    parts: *const *const u8,
    sizes: *const usize,
    count: usize,
    out: *mut u8,
) -> i32 {
    let mut missing = false;
    let status = guard(|| {
        let messages: Vec<&[u8]> = slice(parts, count)
            .iter()
            .zip(slice(sizes, count))
            .map(|(&p, &size)| slice(p, size))
            .collect();
        match digests(&messages) {
            Some(found) => from_raw_parts_mut(out, 32 * count).copy_from_slice(&found.concat()),
            None => missing = true,
        }
        Ok(())
    });
    if missing {
        -1
    } else {
        status
    }
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
