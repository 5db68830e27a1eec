//! Instruction sets: one [`Isa`] per twin of the kernels, chosen at run time.

use crate::adopt::{self, CLASSES};
use crate::adopt_encode::Adopt;
use crate::bins;
use crate::blocks::Block;
use crate::chunk::{apply_float, Dtype};
use crate::delta;
use crate::delta_encode::Delta;
use crate::encode::{encode_float, Encoded, Plan};
use crate::fields::{self, REACH};
use crate::flat::Prior;
use crate::float::Format;
use crate::quantise::{self, Sums};
use crate::rans::Stream;
use crate::rans_encode::{encode_scalar, Words};
use crate::refine::bits::{self, Room};
use crate::refine::cells::{self, Deep};
use crate::refine::{Fraction, Halving};
use crate::rows::{self, Rows, Segment};
use crate::scale;
use crate::table::{EncodeTables, MAX_CTX};
use crate::wire::Reader;
use crate::Error;

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx2_adopt;
#[cfg(target_arch = "x86_64")]
mod avx2_base;
#[cfg(target_arch = "x86_64")]
mod avx2_delta;
#[cfg(target_arch = "x86_64")]
mod avx2_encode;
#[cfg(target_arch = "x86_64")]
mod avx2_rans;
#[cfg(target_arch = "x86_64")]
mod avx2_refine;
#[cfg(target_arch = "x86_64")]
mod avx2_rows;
#[cfg(p2u_avx512)]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;
#[cfg(target_arch = "x86_64")]
pub mod sha;

/// Kernels compiled for one instruction set.
pub trait Isa {
    /// Decodes a block of symbols; the same bytes as [`Stream::decode_scalar`] for every input.
    fn decode(stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> Result<(), Error>;
    /// [`bins::bin_values`].
    #[inline(always)]
    fn bin_values<F: Format>(sym: &[u8], step: f32, mem: &mut [u8]) {
        bins::bin_values::<F>(sym, step, mem);
    }
    /// [`quantise::base_row`].
    #[inline(always)]
    fn base_row<F: Format>(
        mem: &[u8],
        e: i32,
        sym: &mut [u8],
        cur: &mut [u8],
        sums: &mut Sums,
    ) -> bool {
        quantise::base_row::<F>(mem, e, sym, cur, sums)
    }
    /// [`bits::unpack`].
    #[inline(always)]
    fn unpack(buf: &[u8], bit: usize, width: u32, out: &mut [u8]) {
        bits::unpack(buf, bit, width, out);
    }
    /// [`bits::unpack_low`].
    #[inline(always)]
    fn unpack_low(buf: &[u8], bit: usize, width: u32, out: &mut [u16]) {
        bits::unpack_low(buf, bit, width, out);
    }
    /// [`bits::pack_low`].
    #[inline(always)]
    fn pack_low(fields: &[u16], width: u32, room: &mut Room, bit: usize) -> usize {
        bits::pack_low(fields, width, room, bit)
    }
    /// [`bits::scatter`].
    #[inline(always)]
    fn scatter(buf: &[u8], bit: usize, masks: &[u8], out: &mut [u8]) -> usize {
        bits::scatter(buf, bit, masks, out)
    }
    /// [`bits::gather`].
    #[inline(always)]
    fn gather(fields: &[u8], masks: &[u8], room: &mut Room, bit: usize) -> usize {
        bits::gather(fields, masks, room, bit)
    }
    /// [`cells::halve`].
    #[inline(always)]
    fn halve<F: Format>(mem: &mut [u8], positions: &[u8], row: &Halving) {
        cells::halve::<F>(mem, positions, row);
    }
    /// [`cells::locate`].
    #[inline(always)]
    fn locate<F: Format>(mem: &[u8], cur: &mut [u8], positions: &mut [u8], row: &Halving) {
        cells::locate::<F>(mem, cur, positions, row);
    }
    /// [`cells::widths`].
    #[inline(always)]
    fn widths<F: Format>(
        mem: &[u8],
        row: &Fraction,
        masks: &mut [u8],
        deep: &mut Deep,
        start: usize,
    ) {
        cells::widths::<F>(mem, row, masks, deep, start);
    }
    /// [`cells::fill`].
    #[inline(always)]
    fn fill<F: Format>(mem: &mut [u8], masks: &[u8], fields: &[u8], low: &[u16], row: &Fraction) {
        cells::fill::<F>(mem, masks, fields, low, row);
    }
    /// [`cells::drain`].
    #[inline(always)]
    fn drain<F: Format>(mem: &[u8], fields: &mut [u8], low: &mut [u16], row: &Fraction) {
        cells::drain::<F>(mem, fields, low, row);
    }
    /// [`encode_scalar`].
    #[inline(always)]
    fn encode_words(
        words: &mut Words,
        states: &mut [u32],
        tables: &EncodeTables,
        syms: &[u8],
        ctx: &[u8],
    ) {
        encode_scalar(words, states, tables, syms, ctx);
    }
    /// [`delta::contexts`].
    #[inline(always)]
    fn delta_contexts<F: Format>(pred: &[u8], low: u8, ctx: &mut [u8]) {
        delta::contexts::<F>(pred, low, ctx);
    }
    /// [`delta::combine`].
    #[inline(always)]
    fn delta_combine<F: Format>(mem: &mut [u8], sym: &[u8], z: Option<&[u32]>, tz: u32) {
        delta::combine::<F>(mem, sym, z, tz);
    }
    /// [`delta::zigzags`].
    #[inline(always)]
    fn delta_zigzags<F: Format>(new: &[u8], old: &[u8], tz: u32, z: &mut [u32]) {
        delta::zigzags::<F>(new, old, tz, z);
    }
    /// [`adopt::contexts`].
    #[inline(always)]
    fn adopt_contexts(map: &[u8; CLASSES], ctx: &mut [u8]) {
        adopt::contexts(map, ctx);
    }
    /// Codes of 64 elements and bits of their fields, of these widths from a bit of some bytes on; `None`
    /// where the portable code has to do it.
    #[inline(always)]
    fn dense_fields<const SIDED: bool>(
        _widths: &[u8; 64],
        _sym: &[u8],
        _from: &[u8; REACH],
        _bit: usize,
        _z: &mut [u32],
    ) -> Option<usize> {
        None
    }
    /// [`fields::field_widths`].
    #[inline(always)]
    fn field_widths(widths: &[u8; MAX_CTX], ctx: &[u8], sym: &[u8], out: &mut [u8; 64]) -> u64 {
        fields::field_widths(widths, ctx, sym, out)
    }
    /// [`chunk::apply_float`] compiled for this instruction set: its plain loops use wide vectors.
    fn apply<F: Format>(
        kind: u8,
        r: &mut Reader,
        segs: &mut [rows::Target],
        sources: &[Prior],
    ) -> Result<(), Error>;
    /// [`Block::dequantise`], likewise.
    fn dequantise(block: Block, from: &[u8], values: &mut [f32], steps: &mut [f32]);
    /// [`Delta::encode`], likewise.
    fn encode_delta<F: Format>(delta: &Delta) -> Result<Vec<u8>, Error>;
    /// [`Adopt::encode`], likewise.
    fn encode_adopt<F: Format>(adopt: &Adopt) -> Result<Vec<u8>, Error>;
    /// [`scale::row_scales`], likewise.
    fn row_scales<F: Format>(segs: &[Segment<&[u8]>], rows: &Rows, offset: i32) -> Vec<i16>;
    /// [`encode::encode_float`], likewise.
    fn encode<F: Format>(
        dtype: Dtype,
        segs: &[Segment<&[u8]>],
        plan: &Plan,
    ) -> Result<Encoded, Error>;
}

/// [`Isa`] for a type: entry points that enable its features, its decoder of 64 lanes, and a macro
/// with the other kernels it has.
#[allow(unused_macros)]
macro_rules! isa {
    ($isa:ident, $features:literal, $decode64:path $(, $kernels:ident)?) => {
        impl $crate::simd::Isa for $isa {
            #[inline(always)]
            fn decode(stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> Result<(), Error> {
                let out = &mut out[..ctx.len()];
                let mut done = 0;
                if stream.lanes == MAX_LANES {
                    // SAFETY: only reached through `apply`, after `available` said so.
                    done = unsafe { $decode64(stream, ctx, out) };
                }
                stream.decode_scalar(&ctx[done..], &mut out[done..])
            }
            fn apply<F: Format>(
                kind: u8,
                r: &mut Reader,
                segs: &mut [rows::Target],
                sources: &[Prior],
            ) -> Result<(), Error> {
                // SAFETY: `abi` chooses this type only when it is available.
                unsafe { apply::<F>(kind, r, segs, sources) }
            }
            fn dequantise(block: Block, from: &[u8], values: &mut [f32], steps: &mut [f32]) {
                // SAFETY: `abi` chooses this type only when it is available.
                unsafe { dequantise(block, from, values, steps) }
            }
            fn encode_adopt<F: Format>(adopt: &Adopt) -> Result<Vec<u8>, Error> {
                // SAFETY: `abi` chooses this type only when it is available.
                unsafe { encode_adopt::<F>(adopt) }
            }
            fn encode_delta<F: Format>(delta: &Delta) -> Result<Vec<u8>, Error> {
                // SAFETY: `abi` chooses this type only when it is available.
                unsafe { encode_delta::<F>(delta) }
            }
            fn encode<F: Format>(
                dtype: Dtype,
                segs: &[Segment<&[u8]>],
                plan: &Plan,
            ) -> Result<Encoded, Error> {
                // SAFETY: `abi` chooses this type only when it is available.
                unsafe { encode::<F>(dtype, segs, plan) }
            }
            fn row_scales<F: Format>(
                segs: &[Segment<&[u8]>],
                rows: &Rows,
                offset: i32,
            ) -> Vec<i16> {
                // SAFETY: `abi` chooses this type only when it is available.
                unsafe { row_scales::<F>(segs, rows, offset) }
            }
            $($kernels!();)?
        }
        #[target_feature(enable = $features)]
        unsafe fn apply<F: Format>(
            kind: u8,
            r: &mut Reader,
            segs: &mut [rows::Target],
            sources: &[Prior],
        ) -> Result<(), Error> {
            apply_float::<F, $isa>(kind, r, segs, sources)
        }
        #[target_feature(enable = $features)]
        unsafe fn dequantise(block: Block, from: &[u8], values: &mut [f32], steps: &mut [f32]) {
            block.dequantise(from, values, steps);
        }
        #[target_feature(enable = $features)]
        unsafe fn encode_adopt<F: Format>(adopt: &Adopt) -> Result<Vec<u8>, Error> {
            adopt.encode::<F, $isa>()
        }
        #[target_feature(enable = $features)]
        unsafe fn encode_delta<F: Format>(delta: &Delta) -> Result<Vec<u8>, Error> {
            delta.encode::<F, $isa>()
        }
        #[target_feature(enable = $features)]
        unsafe fn encode<F: Format>(
            dtype: Dtype,
            segs: &[Segment<&[u8]>],
            plan: &Plan,
        ) -> Result<Encoded, Error> {
            encode_float::<F, $isa>(dtype, segs, plan)
        }
        #[target_feature(enable = $features)]
        unsafe fn row_scales<F: Format>(
            segs: &[Segment<&[u8]>],
            rows: &Rows,
            offset: i32,
        ) -> Vec<i16> {
            scale::row_scales::<F>(segs, rows, offset)
        }
    };
}
#[allow(unused_imports)]
pub(crate) use isa;

/// The portable reference.
pub struct Scalar;

impl Isa for Scalar {
    #[inline(always)]
    fn decode(stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> Result<(), Error> {
        stream.decode_scalar(ctx, out)
    }
    fn apply<F: Format>(
        kind: u8,
        r: &mut Reader,
        segs: &mut [rows::Target],
        sources: &[Prior],
    ) -> Result<(), Error> {
        apply_float::<F, Self>(kind, r, segs, sources)
    }
    #[inline(never)]
    fn dequantise(block: Block, from: &[u8], values: &mut [f32], steps: &mut [f32]) {
        block.dequantise(from, values, steps);
    }
    fn encode_adopt<F: Format>(adopt: &Adopt) -> Result<Vec<u8>, Error> {
        adopt.encode::<F, Self>()
    }
    fn encode_delta<F: Format>(delta: &Delta) -> Result<Vec<u8>, Error> {
        delta.encode::<F, Self>()
    }
    fn encode<F: Format>(
        dtype: Dtype,
        segs: &[Segment<&[u8]>],
        plan: &Plan,
    ) -> Result<Encoded, Error> {
        encode_float::<F, Self>(dtype, segs, plan)
    }
    fn row_scales<F: Format>(segs: &[Segment<&[u8]>], rows: &Rows, offset: i32) -> Vec<i16> {
        scale::row_scales::<F>(segs, rows, offset)
    }
}

/// The instruction sets of the ABI: 0 is the best one of this machine.
pub const SCALAR: u32 = 1;
pub const AVX2: u32 = 2;
pub const AVX512: u32 = 3;
pub const NEON: u32 = 4;

/// Whether this build on this machine can run `isa`.
pub fn available(isa: u32) -> bool {
    match isa {
        SCALAR => true,
        #[cfg(target_arch = "x86_64")]
        AVX2 => {
            is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("f16c")
        }
        #[cfg(p2u_avx512)]
        AVX512 => {
            available(AVX2)
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
        }
        #[cfg(target_arch = "aarch64")]
        NEON => true,
        _ => false,
    }
}

/// The instruction set to use for the caller's wish.
pub fn resolve(wish: u32) -> Result<u32, Error> {
    if wish == 0 {
        return Ok([AVX512, AVX2, NEON]
            .iter()
            .copied()
            .find(|&i| available(i))
            .unwrap_or(SCALAR));
    }
    if available(wish) {
        Ok(wish)
    } else {
        Err(Error::Argument)
    }
}
