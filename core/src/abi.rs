//! The C ABI: pointers become slices here, panics become status codes, and nowhere else.

use crate::decode::opaque;
use crate::decode::opaque_delta;
use crate::decode::{self, Dtype, KIND_OPAQUE};
use crate::encode::adopt::Adopt;
use crate::encode::delta::Delta;
use crate::encode::{Encoded, Plan};
use crate::format::blocks::Block;
use crate::format::flat::Prior;
use crate::format::float::Format;
use crate::format::rows::{self, Rows, Segment};
use crate::hash::Streams;
use crate::kernels::dispatch::{with_float, with_isa};
use crate::kernels::{self, Isa};
use crate::Error;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// Changes with every incompatible change of the functions below.
const ABI_VERSION: u32 = 4;

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
        Ok(Err(e)) => e as i32,
        Err(_) => Error::Internal as i32,
    }
}

unsafe fn slice<'a, T>(p: *const T, n: usize) -> &'a [T] {
    if n == 0 {
        &[]
    } else {
        from_raw_parts(p, n)
    }
}

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

unsafe fn targets<'a>(segs: *const RawSegment, n: usize) -> Vec<rows::Target<'a>> {
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

/// The instruction set used for `wish` (0: the best one), or 0 if this machine lacks it.
#[no_mangle]
pub extern "C" fn p2u_isa(wish: u32) -> u32 {
    kernels::resolve(wish).unwrap_or(0)
}

/// Source bytes of one segment, in the parent of a version update; null: the segment's own.
#[repr(C)]
pub struct RawSource {
    mem: *const u8,
    bytes: usize,
}

/// The sources of `count` segments; all their own if there are none.
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
        let item = item as usize;
        match kernels::resolve(isa)? {
            #[cfg(target_arch = "x86_64")]
            kernels::AVX2 => {
                decode::apply::<kernels::avx2::Avx2>(payload, dtype, item, &mut segs, &from)
            }
            #[cfg(p2u_avx512)]
            kernels::AVX512 => {
                decode::apply::<kernels::avx512::Avx512>(payload, dtype, item, &mut segs, &from)
            }
            #[cfg(target_arch = "aarch64")]
            kernels::NEON => {
                decode::apply::<kernels::neon::Neon>(payload, dtype, item, &mut segs, &from)
            }
            _ => decode::apply::<kernels::Scalar>(payload, dtype, item, &mut segs, &from),
        }
    })
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
        let (dtype, segs) = (Dtype::from_code(dtype)?, readable(segs, count));
        let scales = with_isa!(0, I => with_float!(dtype, F => {
            Ok(I::row_scales::<F>(&segs, &Rows::new(&segs, F::BYTES)?, offset))
        }))?;
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
        let done = with_isa!(isa, I => with_float!(dtype, F => {
            I::encode::<F>(dtype, &segs, &plan)
        }))?;
        *out = Box::into_raw(Box::new(done));
        Ok(())
    })
}

/// The sources of an encoder, none of which is left out.
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
        let payload = with_isa!(isa, I => with_float!(delta.dtype, F => {
            I::encode_delta::<F>(&delta)
        }))?;
        *out = one_payload(payload);
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
        let mut payload = vec![KIND_OPAQUE, Dtype::Opaque as u8];
        let (out, item, segs) = (&mut payload, item as usize, readable(segs, count));
        with_isa!(isa, I => opaque::encode_planes::<I>(out, item, &segs))?;
        *result = one_payload(payload);
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
        let payload = with_isa!(isa, I => with_float!(adopt.dtype, F => {
            I::encode_adopt::<F>(&adopt)
        }))?;
        *out = one_payload(payload);
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
        kernels::Scalar::dequantise(
            block,
            slice(from, len),
            from_raw_parts_mut(to, count),
            &mut steps,
        );
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
        let (segs, from) = (readable(segs, count), given(sources, count));
        let (item, stride) = (item as usize, stride as usize);
        let payload = with_isa!(isa, I => {
            opaque_delta::encode_planes::<I>(item, stride, &segs, &from)
        })?;
        *out = one_payload(payload);
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
