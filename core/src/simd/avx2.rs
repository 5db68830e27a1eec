//! AVX2 twin: eight lanes a vector.

use super::avx2_rans::decode64;
use super::{avx2_cells, avx2_encode, avx2_rows, avx2_split, entry_points, Isa};
use crate::chunk::{apply_float, Dtype};
use crate::encode::{encode_float, Encoded, Plan};
use crate::float::Format;
use crate::level::Row;
use crate::quantise::{Cells, Known, Sums};
use crate::rans::{Stream, MAX_LANES};
use crate::rans_encode::{encode_scalar, Words};
use crate::raw::RawReader;
use crate::rows::{self, Segment};
use crate::scale::Squares;
use crate::table::EncodeTables;
use crate::wire::Reader;
use crate::Error;

pub struct Avx2;

impl Isa for Avx2 {
    #[inline(always)]
    fn decode(stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let out = &mut out[..ctx.len()];
        let mut done = 0;
        if stream.lanes == MAX_LANES {
            // SAFETY: only reached through `apply`, after `available(AVX2)`.
            done = unsafe { decode64(stream, ctx, out) };
        }
        stream.decode_scalar(&ctx[done..], &mut out[done..])
    }
    #[inline(always)]
    fn classify<F: Format>(mem: &[u8], e: i32, pos: &mut [i16], ctx: &mut [u8]) {
        // SAFETY: only reached through `apply` and `encode`, after `available(AVX2)`.
        unsafe { avx2_rows::classify::<F>(mem, e, pos, ctx) }
    }
    #[inline(always)]
    fn bin_values<F: Format>(sym: &[u8], step: f32, mem: &mut [u8]) {
        // SAFETY: as above.
        unsafe { avx2_rows::bin_values::<F>(sym, step, mem) }
    }
    #[inline(always)]
    fn combine<F: Format>(
        mem: &mut [u8],
        pos: &[i16],
        sym: &[u8],
        fields: &mut RawReader,
        row: Row,
    ) -> bool {
        // SAFETY: as above.
        unsafe { avx2_rows::combine::<F>(mem, pos, sym, fields, row) }
    }
    #[inline(always)]
    fn base_row<F: Format>(
        mem: &[u8],
        e: i32,
        sym: &mut [u8],
        known: Known,
        sums: &mut Sums,
    ) -> bool {
        // SAFETY: only reached through `encode`, after `available` said so.
        unsafe { avx2_split::base_row::<F>(mem, e, sym, known, sums) }
    }
    #[inline(always)]
    fn split_exact<F: Format>(
        mem: &[u8],
        pos: &[i16],
        _ctx: &[u8],
        sym: &mut [u8],
        below: &mut [u32],
        row: &Row,
    ) -> bool {
        // SAFETY: as above.
        unsafe { avx2_split::split_exact::<F>(mem, pos, sym, below, row) }
    }
    #[inline(always)]
    fn split_cells<F: Format>(
        mem: &[u8],
        _ctx: &[u8],
        out: Cells,
        row: &Row,
        k: u32,
        error: &mut Squares,
    ) -> bool {
        // SAFETY: as above.
        unsafe { avx2_cells::split_cells::<F>(mem, out, row, k, error) }
    }
    #[inline(always)]
    fn classify_cells<F: Format>(mem: &[u8], e: i32, ctx: &mut [u8]) {
        // SAFETY: as above.
        unsafe { avx2_cells::classify::<F>(mem, e, ctx) }
    }
    #[inline(always)]
    fn split_from_cells<F: Format>(mem: &[u8], ctx: &[u8], out: Cells, row: &Row) -> bool {
        // SAFETY: as above.
        unsafe { avx2_cells::split_exact::<F>(mem, ctx, out, row) }
    }
    #[inline(always)]
    fn encode_words(
        words: &mut Words,
        states: &mut [u32],
        tables: &EncodeTables,
        syms: &[u8],
        ctx: &[u8],
    ) {
        if states.len() == MAX_LANES {
            // SAFETY: only reached through `encode`, after `available` said so.
            unsafe { avx2_encode::encode_words(words, states, tables, syms, ctx) }
        } else {
            encode_scalar(words, states, tables, syms, ctx);
        }
    }
    fn apply<F: Format>(kind: u8, r: &mut Reader, segs: &mut [rows::Target]) -> Result<(), Error> {
        // SAFETY: `abi` chooses this type only when it is available.
        unsafe { apply::<F>(kind, r, segs) }
    }
    fn encode<F: Format>(
        dtype: Dtype,
        segs: &[Segment<&[u8]>],
        plan: &Plan,
    ) -> Result<Encoded, Error> {
        // SAFETY: `abi` chooses this type only when it is available.
        unsafe { encode::<F>(dtype, segs, plan) }
    }
}

entry_points!(Avx2, "avx2,bmi1,bmi2,popcnt,lzcnt");
