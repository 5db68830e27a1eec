//! AVX2 twin: eight lanes a vector.

use super::avx2_rans::decode64;
use super::isa;
use crate::adopt_encode::Adopt;
use crate::blocks::Block;
use crate::chunk::{apply_float, Dtype};
use crate::delta_encode::Delta;
use crate::encode::{encode_float, Encoded, Plan};
use crate::flat::Prior;
use crate::float::Format;
use crate::rans::{Stream, MAX_LANES};
use crate::rows::{self, Rows, Segment};
use crate::scale;
use crate::wire::Reader;
use crate::Error;

pub struct Avx2;

/// The kernels of [`Isa`](super::Isa) that every instruction set with AVX2 has.
macro_rules! kernels {
    () => {
        #[inline(always)]
        fn classify<F: $crate::float::Format>(mem: &[u8], e: i32, pos: &mut [i16], ctx: &mut [u8]) {
            // SAFETY: only reached through `apply` and `encode`, after `available` said so.
            unsafe { $crate::simd::avx2_rows::classify::<F>(mem, e, pos, ctx) }
        }
        #[inline(always)]
        fn bin_values<F: $crate::float::Format>(sym: &[u8], step: f32, mem: &mut [u8]) {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_rows::bin_values::<F>(sym, step, mem) }
        }
        #[inline(always)]
        fn take(fields: &mut $crate::raw::RawReader, out: &mut [u32]) -> Result<(), $crate::Error> {
            // SAFETY: as above.
            if unsafe { $crate::simd::avx2_rows::take(fields, out) } {
                Ok(())
            } else {
                fields.take(out)
            }
        }
        #[inline(always)]
        fn add_upper<const CELLS: bool>(
            fields: &mut $crate::raw::RawReader,
            out: &mut [u32],
            shift: u32,
            ctx: &[u8],
            sym: &[u8],
        ) -> Result<(), $crate::Error> {
            // SAFETY: as above.
            if unsafe {
                $crate::simd::avx2_combine::add_upper::<CELLS>(fields, out, shift, ctx, sym)
            } {
                Ok(())
            } else {
                let open = |i: usize| !$crate::chunk::is_zero(CELLS, 0, sym[i]);
                fields.add_upper(out, shift, ctx, open)
            }
        }
        #[inline(always)]
        fn combine<F: $crate::float::Format, const CELLS: bool>(
            el: $crate::level::Elements,
            row: $crate::level::Row,
            target: $crate::level::Target,
        ) {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_combine::combine::<F, CELLS>(el, &row, target) }
        }
        #[inline(always)]
        fn combine_plain<F: $crate::float::Format>(
            mem: &mut [u8],
            pos: &[i16],
            sym: &[u8],
            fields: &mut $crate::raw::RawReader,
            row: $crate::level::Row,
        ) -> bool {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_rows::combine_plain::<F>(mem, pos, sym, fields, row) }
        }
        #[inline(always)]
        fn base_row<F: $crate::float::Format>(
            mem: &[u8],
            e: i32,
            sym: &mut [u8],
            known: $crate::quantise::Known,
            sums: &mut $crate::quantise::Sums,
        ) -> bool {
            // SAFETY: only reached through `encode`, after `available` said so.
            unsafe { $crate::simd::avx2_split::base_row::<F>(mem, e, sym, known, sums) }
        }
        #[inline(always)]
        fn split_exact<F: $crate::float::Format>(
            mem: &[u8],
            pos: &[i16],
            _ctx: &[u8],
            sym: &mut [u8],
            below: &mut [u32],
            row: &$crate::level::Row,
        ) -> bool {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_split::split_exact::<F>(mem, pos, sym, below, row) }
        }
        #[inline(always)]
        fn split_cells<F: $crate::float::Format>(
            mem: &[u8],
            _ctx: &[u8],
            out: $crate::quantise::Cells,
            row: &$crate::level::Row,
            k: u32,
            error: &mut $crate::scale::Squares,
        ) -> bool {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_cells::split_cells::<F>(mem, out, row, k, error) }
        }
        #[inline(always)]
        fn classify_cells<F: $crate::float::Format>(mem: &[u8], e: i32, ctx: &mut [u8]) {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_cells::classify::<F>(mem, e, ctx) }
        }
        #[inline(always)]
        fn split_from_cells<F: $crate::float::Format>(
            mem: &[u8],
            ctx: &[u8],
            out: $crate::quantise::Cells,
            row: &$crate::level::Row,
        ) -> bool {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_cells::split_exact::<F>(mem, ctx, out, row) }
        }
        #[inline(always)]
        fn delta_contexts<F: $crate::float::Format>(pred: &[u8], low: u8, ctx: &mut [u8]) {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_delta::contexts::<F>(pred, low, ctx) }
        }
        #[inline(always)]
        fn delta_combine<F: $crate::float::Format>(
            mem: &mut [u8],
            sym: &[u8],
            z: Option<&[u32]>,
            tz: u32,
        ) {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_delta::combine::<F>(mem, sym, z, tz) }
        }
        #[inline(always)]
        fn delta_zigzags<F: $crate::float::Format>(new: &[u8], old: &[u8], tz: u32, z: &mut [u32]) {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_delta::zigzags::<F>(new, old, tz, z) }
        }
        #[inline(always)]
        fn adopt_contexts(map: &[u8; $crate::adopt::CLASSES], ctx: &mut [u8]) {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_adopt::contexts(map, ctx) }
        }
        #[inline(always)]
        fn dense_fields<const SIDED: bool>(
            widths: &[u8; 64],
            sym: &[u8],
            from: &[u8; $crate::fields::REACH],
            bit: usize,
            z: &mut [u32],
        ) -> Option<usize> {
            if sym.len() < 64 || z.len() < 64 {
                return None;
            }
            // SAFETY: as above, and there are 64 elements.
            Some(unsafe { $crate::simd::avx2_adopt::fields::<SIDED>(widths, sym, from, bit, z) })
        }
        #[inline(always)]
        fn field_widths(
            widths: &[u8; $crate::table::MAX_CTX],
            ctx: &[u8],
            sym: &[u8],
            out: &mut [u8; 64],
        ) -> u64 {
            if ctx.len() < 64 || sym.len() < 64 {
                return $crate::fields::field_widths(widths, ctx, sym, out);
            }
            // SAFETY: as above, and there are 64 elements.
            unsafe { $crate::simd::avx2_delta::field_widths(widths, ctx, sym, out) }
        }
        #[inline(always)]
        fn encode_words(
            words: &mut $crate::rans_encode::Words,
            states: &mut [u32],
            tables: &$crate::table::EncodeTables,
            syms: &[u8],
            ctx: &[u8],
        ) {
            if states.len() == $crate::rans::MAX_LANES {
                // SAFETY: only reached through `encode`, after `available` said so.
                unsafe { $crate::simd::avx2_encode::encode_words(words, states, tables, syms, ctx) }
            } else {
                $crate::rans_encode::encode_scalar(words, states, tables, syms, ctx);
            }
        }
    };
}
#[allow(unused_imports)]
pub(crate) use kernels as avx2_kernels;

isa!(Avx2, "avx2,bmi1,bmi2,popcnt,lzcnt", decode64, kernels);
