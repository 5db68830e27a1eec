//! Encoding: what a writer of packages needs.

use super::{guard, slice, RawSegment, RawSource};
use crate::decode::adopt::Dequantise;
use crate::encode::adopt::Adopt;
use crate::encode::delta::Delta;
use crate::encode::opaque::{opaque_bits, Opaque};
use crate::encode::opaque_delta::OpaqueDelta;
use crate::encode::scale::RowScales;
use crate::encode::{Encoded, Floats, Plan};
use crate::format::blocks::Block;
use crate::format::flat::Prior;
use crate::format::header::Dtype;
use crate::format::rows::Segment;
use crate::kernels::{Set, AUTO, SCALAR};
use crate::Error;
use std::slice::from_raw_parts_mut;

/// Segments whose memory is only read.
///
/// # Safety
/// There are `n` segments, each of memory that can be read for `'a`.
unsafe fn readable<'a>(segs: *const RawSegment, n: usize) -> Vec<Segment<&'a [u8]>> {
    let segs = slice(segs, n);
    segs.iter()
        .map(|s| Segment {
            mem: slice(s.mem, s.bytes),
            elems: s.elems,
            cols: s.cols,
        })
        .collect()
}

/// Row scales by root mean square (`scale.rs`); `out` has one place per row.
///
/// # Safety
/// `segs` has `count` segments; `out` has `rows` places.
#[no_mangle]
pub unsafe extern "C" fn p2u_row_scales(
    dtype: u32,
    offset: i32,
    segs: *const RawSegment,
    count: usize,
    out: *mut i16,
    rows: usize,
) -> i32 {
    guard(|| {
        let scales = Set::new(AUTO)?.run(RowScales {
            dtype: Dtype::from_code(dtype)?,
            segs: &readable(segs, count),
            offset,
        })?;
        if scales.len() != rows {
            return Err(Error::Argument);
        }
        from_raw_parts_mut(out, rows).copy_from_slice(&scales);
        Ok(())
    })
}

/// What to encode; see `encode::Plan`.
#[repr(C)]
pub struct RawPlan {
    scales: *const i16,
    scale_count: usize,
    /// Null, or one code per element.
    codes: *const i16,
    code_count: usize,
    levels: *const u8,
    level_count: usize,
    full: u32,
}

/// Encodes a float chunk. The result is read with `p2u_encoded_*` and freed with `p2u_free`.
///
/// # Safety
/// `segs` has `count` segments, `plan` is valid, `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn p2u_encode(
    isa: u32,
    dtype: u32,
    segs: *const RawSegment,
    count: usize,
    plan: *const RawPlan,
    out: *mut *mut Encoded,
) -> i32 {
    guard(|| {
        let (segs, raw) = (readable(segs, count), &*plan);
        let plan = Plan {
            scales: slice(raw.scales, raw.scale_count),
            codes: if raw.codes.is_null() {
                None
            } else {
                Some(slice(raw.codes, raw.code_count))
            },
            levels: slice(raw.levels, raw.level_count),
            full: raw.full != 0,
        };
        let dtype = Dtype::from_code(dtype)?;
        let done = Set::new(isa)?.run(Floats {
            dtype,
            segs: &segs,
            plan: &plan,
        })?;
        *out = Box::into_raw(Box::new(done));
        Ok(())
    })
}

/// The sources of an encoder, none of which is left out.
///
/// # Safety
/// There are `count` sources, each of memory that can be read for `'a`.
unsafe fn given<'a>(sources: *const RawSource, count: usize) -> Vec<Prior<'a>> {
    let read = |s: &RawSource| Some(slice(s.mem, s.bytes));
    slice(sources, count).iter().map(read).collect()
}

/// What holds one exact payload for the caller.
fn one_payload(payload: Vec<u8>) -> *mut Encoded {
    Box::into_raw(Box::new(Encoded {
        payloads: vec![payload],
        squares: vec![0.0, 0.0],
    }))
}

/// Encodes the way from the sources, floats of `source`, to the segments, floats of `dtype`.
///
/// # Safety
/// `segs` and `sources` have `count` entries, `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn p2u_encode_delta(
    isa: u32,
    dtype: u32,
    source: u32,
    segs: *const RawSegment,
    count: usize,
    sources: *const RawSource,
    out: *mut *mut Encoded,
) -> i32 {
    guard(|| {
        let delta = Delta {
            dtype: Dtype::from_code(dtype)?,
            segs: &readable(segs, count),
            source: Dtype::from_code(source)?,
            priors: &given(sources, count),
        };
        *out = one_payload(Set::new(isa)?.run(delta)?);
        Ok(())
    })
}

/// Encodes an opaque chunk of elements of `item` bytes.
///
/// # Safety
/// As for `p2u_encode`.
#[no_mangle]
pub unsafe extern "C" fn p2u_encode_opaque(
    isa: u32,
    item: u32,
    segs: *const RawSegment,
    count: usize,
    result: *mut *mut Encoded,
) -> i32 {
    guard(|| {
        let opaque = Opaque {
            item: item as usize,
            segs: &readable(segs, count),
        };
        *result = one_payload(Set::new(isa)?.run(opaque)?);
        Ok(())
    })
}

/// Encodes the way from the sources, blocks of type `block`, to the segments, floats of `dtype`.
///
/// # Safety
/// As for `p2u_encode_delta`.
#[no_mangle]
pub unsafe extern "C" fn p2u_encode_adopt(
    isa: u32,
    dtype: u32,
    block: u8,
    segs: *const RawSegment,
    count: usize,
    sources: *const RawSource,
    out: *mut *mut Encoded,
) -> i32 {
    guard(|| {
        let adopt = Adopt {
            dtype: Dtype::from_code(dtype)?,
            block,
            segs: &readable(segs, count),
            priors: &given(sources, count),
        };
        *out = one_payload(Set::new(isa)?.run(adopt)?);
        Ok(())
    })
}

/// Values of whole blocks of type `block`, as binary32 in native order.
///
/// # Safety
/// `from` has `len` bytes, `to` has `count` places.
#[no_mangle]
pub unsafe extern "C" fn p2u_dequantise(
    block: u8,
    from: *const u8,
    len: usize,
    to: *mut f32,
    count: usize,
) -> i32 {
    guard(|| {
        let block = Block::from_code(block).map_err(|_| Error::Argument)?;
        let (elems, bytes) = block.size();
        if count == 0 || count % elems != 0 || Some(len) != (count / elems).checked_mul(bytes) {
            return Err(Error::Argument);
        }
        let mut steps = vec![0.0; count];
        Set::new(SCALAR)?.run(Dequantise {
            block,
            from: slice(from, len),
            values: from_raw_parts_mut(to, count),
            steps: &mut steps,
        });
        Ok(())
    })
}

/// Encodes the way from the sources to the segments, elements of `item` bytes; every `stride`-th byte
/// is coded with its like.
///
/// # Safety
/// As for `p2u_encode_delta`.
#[no_mangle]
pub unsafe extern "C" fn p2u_encode_opaque_delta(
    isa: u32,
    item: u32,
    stride: u32,
    segs: *const RawSegment,
    count: usize,
    sources: *const RawSource,
    out: *mut *mut Encoded,
) -> i32 {
    guard(|| {
        let delta = OpaqueDelta {
            item: item as usize,
            stride: stride as usize,
            segs: &readable(segs, count),
            priors: &given(sources, count),
        };
        *out = one_payload(Set::new(isa)?.run(delta)?);
        Ok(())
    })
}

/// Bits that the bytes of some runs of elements take without levels, in 1/256, tables aside.
///
/// # Safety
/// `runs` has `count` places, each of whole elements of `item` bytes; `out` is writable.
#[no_mangle]
pub unsafe extern "C" fn p2u_opaque_bits(
    item: usize,
    runs: *const RawSource,
    count: usize,
    out: *mut u64,
) -> i32 {
    guard(|| {
        let runs: Vec<&[u8]> = slice(runs, count)
            .iter()
            .map(|run| slice(run.mem, run.bytes))
            .collect();
        if item == 0 || runs.iter().any(|run| run.len() % item != 0) {
            return Err(Error::Argument);
        }
        *out = opaque_bits(item, &runs);
        Ok(())
    })
}

/// Payload `index` and its length, or null past the last one.
///
/// # Safety
/// `encoded` comes from an encode function and was not freed; `len` is writable.
#[no_mangle]
pub unsafe extern "C" fn p2u_encoded_payload(
    encoded: *const Encoded,
    index: usize,
    len: *mut usize,
) -> *const u8 {
    let encoded = &*encoded;
    match encoded.payloads.get(index) {
        Some(p) => {
            *len = p.len();
            p.as_ptr()
        }
        None => std::ptr::null(),
    }
}

/// Sum of squares of the weights (0) or of the errors after payload `index - 1`.
///
/// # Safety
/// As for `p2u_encoded_payload`.
#[no_mangle]
pub unsafe extern "C" fn p2u_encoded_squares(encoded: *const Encoded, index: usize) -> f64 {
    let encoded = &*encoded;
    encoded.squares.get(index).copied().unwrap_or(0.0)
}

/// Frees what an encode function returned.
///
/// # Safety
/// `encoded` comes from an encode function and was not freed before.
#[no_mangle]
pub unsafe extern "C" fn p2u_free(encoded: *mut Encoded) {
    if !encoded.is_null() {
        drop(Box::from_raw(encoded));
    }
}
