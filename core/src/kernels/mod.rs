//! Instruction sets: one [`Isa`] per twin of the kernels, chosen at run time.

use crate::decode::adopt::{self, CLASSES};
use crate::decode::delta;
use crate::decode::fields::{self, REACH};
use crate::decode::{apply_float, is_zero, Dtype};
use crate::encode::adopt::Adopt;
use crate::encode::delta::Delta;
use crate::encode::scale::{self, Squares};
use crate::encode::stream::{encode_scalar, Words};
use crate::encode::{encode_float, Encoded, Plan};
use crate::entropy::rans::Stream;
use crate::entropy::table::{EncodeTables, MAX_CTX};
use crate::format::blocks::Block;
use crate::format::flat::Prior;
use crate::format::float::Format;
use crate::format::rows::{self, Rows, Segment};
use crate::format::wire::Reader;
use crate::kernels::scalar::level::{self, Elements, Row, Target};
use crate::kernels::scalar::quantise::{self, Cells, Known, Sums};
use crate::kernels::scalar::raw::RawReader;
use crate::Error;

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(p2u_avx512)]
pub mod avx512;
pub mod dispatch;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod scalar;

/// Kernels compiled for one instruction set.
pub trait Isa {
    /// Decodes a block of symbols; the same bytes as [`Stream::decode_scalar`] for every input.
    fn decode(stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> Result<(), Error>;
    /// [`level::classify`] from the base.
    #[inline(always)]
    fn classify<F: Format>(mem: &[u8], e: i32, pos: &mut [i16], ctx: &mut [u8]) {
        level::classify::<F, false>(mem, e, pos, ctx);
    }
    /// [`level::bin_values`].
    #[inline(always)]
    fn bin_values<F: Format>(sym: &[u8], step: f32, mem: &mut [u8]) {
        level::bin_values::<F>(sym, step, mem);
    }
    /// [`RawReader::take`].
    #[inline(always)]
    fn take(fields: &mut RawReader, out: &mut [u32]) -> Result<(), Error> {
        fields.take(out)
    }
    /// [`RawReader::add_upper`] for elements that are no listed zeros.
    #[inline(always)]
    fn add_upper<const CELLS: bool>(
        fields: &mut RawReader,
        out: &mut [u32],
        shift: u32,
        ctx: &[u8],
        sym: &[u8],
    ) -> Result<(), Error> {
        fields.add_upper(out, shift, ctx, |i| !is_zero(CELLS, 0, sym[i]))
    }
    /// [`level::combine`].
    #[inline(always)]
    fn combine<F: Format, const CELLS: bool>(el: Elements, row: Row, target: Target) {
        level::combine::<F, CELLS>(el, row, target);
    }
    /// [`level::combine`] from the base to exact with one field for every element, which is still
    /// to be taken. Says `false`, and does nothing, where the portable code has to do it.
    #[inline(always)]
    fn combine_plain<F: Format>(
        _mem: &mut [u8],
        _pos: &[i16],
        _sym: &[u8],
        _fields: &mut RawReader,
        _row: Row,
    ) -> bool {
        false
    }
    /// [`quantise::base_row`].
    #[inline(always)]
    fn base_row<F: Format>(
        mem: &[u8],
        e: i32,
        sym: &mut [u8],
        known: Known,
        sums: &mut Sums,
    ) -> bool {
        quantise::base_row::<F>(mem, e, sym, known, sums)
    }
    /// [`quantise::split_row`] from the base to exact.
    #[inline(always)]
    fn split_exact<F: Format>(
        mem: &[u8],
        pos: &[i16],
        ctx: &[u8],
        sym: &mut [u8],
        below: &mut [u32],
        row: &Row,
    ) -> bool {
        quantise::split_row::<F, false>(mem, &[], pos, ctx, sym, below, row, Target::Exact)
    }
    /// [`quantise::split_cells`].
    #[inline(always)]
    fn split_cells<F: Format>(
        mem: &[u8],
        ctx: &[u8],
        out: Cells,
        row: &Row,
        k: u32,
        error: &mut Squares,
    ) -> bool {
        quantise::split_cells::<F>(mem, ctx, out, row, k, error)
    }
    /// [`level::classify`] from cells.
    #[inline(always)]
    fn classify_cells<F: Format>(mem: &[u8], e: i32, ctx: &mut [u8]) {
        level::classify::<F, true>(mem, e, &mut [], ctx);
    }
    /// [`quantise::split_row`] from cells to exact.
    #[inline(always)]
    fn split_from_cells<F: Format>(mem: &[u8], ctx: &[u8], out: Cells, row: &Row) -> bool {
        let (pos, cur) = (out.pos, out.cur);
        let target = Target::Exact;
        quantise::split_row::<F, true>(mem, cur, pos, ctx, out.sym, out.below, row, target)
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
        impl $crate::kernels::Isa for $isa {
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
                segs: &mut [$crate::format::rows::Target],
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
            segs: &mut [$crate::format::rows::Target],
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
