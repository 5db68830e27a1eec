//! AVX2 twin: eight lanes a vector.

pub mod adopt;
pub mod cells;
pub mod combine;
pub mod delta;
mod rans;
pub mod rows;
pub mod split;
pub mod words;

use super::isa;
use crate::decode::{apply_float, Dtype};
use crate::encode::adopt::Adopt;
use crate::encode::delta::Delta;
use crate::encode::scale;
use crate::encode::{encode_float, Encoded, Plan};
use crate::entropy::rans::{Stream, MAX_LANES};
use crate::format::blocks::Block;
use crate::format::flat::Prior;
use crate::format::float::Format;
use crate::format::rows::{Rows, Segment};
use crate::format::wire::Reader;
use crate::Error;
use rans::decode64;

pub struct Avx2;

/// The kernels of [`Isa`](super::Isa) that every instruction set with AVX2 has.
macro_rules! kernels {
    () => {
        #[inline(always)]
        fn classify<F: $crate::format::float::Format>(
            mem: &[u8],
            e: i32,
            pos: &mut [i16],
            ctx: &mut [u8],
        ) {
            // SAFETY: only reached through `apply` and `encode`, after `available` said so.
            unsafe { $crate::kernels::avx2::rows::classify::<F>(mem, e, pos, ctx) }
        }
        #[inline(always)]
        fn bin_values<F: $crate::format::float::Format>(sym: &[u8], step: f32, mem: &mut [u8]) {
            // SAFETY: as above.
            unsafe { $crate::kernels::avx2::rows::bin_values::<F>(sym, step, mem) }
        }
        #[inline(always)]
        fn take(
            fields: &mut $crate::kernels::scalar::raw::RawReader,
            out: &mut [u32],
        ) -> Result<(), $crate::Error> {
            // SAFETY: as above.
            if unsafe { $crate::kernels::avx2::rows::take(fields, out) } {
                Ok(())
            } else {
                fields.take(out)
            }
        }
        #[inline(always)]
        fn add_upper<const CELLS: bool>(
            fields: &mut $crate::kernels::scalar::raw::RawReader,
            out: &mut [u32],
            shift: u32,
            ctx: &[u8],
            sym: &[u8],
        ) -> Result<(), $crate::Error> {
            // SAFETY: as above.
            if unsafe {
                $crate::kernels::avx2::combine::add_upper::<CELLS>(fields, out, shift, ctx, sym)
            } {
                Ok(())
            } else {
                let open = |i: usize| !$crate::decode::is_zero(CELLS, 0, sym[i]);
                fields.add_upper(out, shift, ctx, open)
            }
        }
        #[inline(always)]
        fn combine<F: $crate::format::float::Format, const CELLS: bool>(
            el: $crate::kernels::scalar::level::Elements,
            row: $crate::kernels::scalar::level::Row,
            target: $crate::kernels::scalar::level::Target,
        ) {
            // SAFETY: as above.
            unsafe { $crate::kernels::avx2::combine::combine::<F, CELLS>(el, &row, target) }
        }
        #[inline(always)]
        fn combine_plain<F: $crate::format::float::Format>(
            mem: &mut [u8],
            pos: &[i16],
            sym: &[u8],
            fields: &mut $crate::kernels::scalar::raw::RawReader,
            row: $crate::kernels::scalar::level::Row,
        ) -> bool {
            // SAFETY: as above.
            unsafe { $crate::kernels::avx2::rows::combine_plain::<F>(mem, pos, sym, fields, row) }
        }
        #[inline(always)]
        fn base_row<F: $crate::format::float::Format>(
            mem: &[u8],
            e: i32,
            sym: &mut [u8],
            known: $crate::kernels::scalar::quantise::Known,
            sums: &mut $crate::kernels::scalar::quantise::Sums,
        ) -> bool {
            // SAFETY: only reached through `encode`, after `available` said so.
            unsafe { $crate::kernels::avx2::split::base_row::<F>(mem, e, sym, known, sums) }
        }
        #[inline(always)]
        fn split_exact<F: $crate::format::float::Format>(
            mem: &[u8],
            pos: &[i16],
            _ctx: &[u8],
            sym: &mut [u8],
            below: &mut [u32],
            row: &$crate::kernels::scalar::level::Row,
        ) -> bool {
            // SAFETY: as above.
            unsafe { $crate::kernels::avx2::split::split_exact::<F>(mem, pos, sym, below, row) }
        }
        #[inline(always)]
        fn split_cells<F: $crate::format::float::Format>(
            mem: &[u8],
            _ctx: &[u8],
            out: $crate::kernels::scalar::quantise::Cells,
            row: &$crate::kernels::scalar::level::Row,
            k: u32,
            error: &mut $crate::encode::scale::Squares,
        ) -> bool {
            // SAFETY: as above.
            unsafe { $crate::kernels::avx2::cells::split_cells::<F>(mem, out, row, k, error) }
        }
        #[inline(always)]
        fn classify_cells<F: $crate::format::float::Format>(mem: &[u8], e: i32, ctx: &mut [u8]) {
            // SAFETY: as above.
            unsafe { $crate::kernels::avx2::cells::classify::<F>(mem, e, ctx) }
        }
        #[inline(always)]
        fn split_from_cells<F: $crate::format::float::Format>(
            mem: &[u8],
            ctx: &[u8],
            out: $crate::kernels::scalar::quantise::Cells,
            row: &$crate::kernels::scalar::level::Row,
        ) -> bool {
            // SAFETY: as above.
            unsafe { $crate::kernels::avx2::cells::split_exact::<F>(mem, ctx, out, row) }
        }
        #[inline(always)]
        fn delta_contexts<F: $crate::format::float::Format>(pred: &[u8], low: u8, ctx: &mut [u8]) {
            // SAFETY: as above.
            unsafe { $crate::kernels::avx2::delta::contexts::<F>(pred, low, ctx) }
        }
        #[inline(always)]
        fn delta_combine<F: $crate::format::float::Format>(
            mem: &mut [u8],
            sym: &[u8],
            z: Option<&[u32]>,
            tz: u32,
        ) {
            // SAFETY: as above.
            unsafe { $crate::kernels::avx2::delta::combine::<F>(mem, sym, z, tz) }
        }
        #[inline(always)]
        fn delta_zigzags<F: $crate::format::float::Format>(
            new: &[u8],
            old: &[u8],
            tz: u32,
            z: &mut [u32],
        ) {
            // SAFETY: as above.
            unsafe { $crate::kernels::avx2::delta::zigzags::<F>(new, old, tz, z) }
        }
        #[inline(always)]
        fn adopt_contexts(map: &[u8; $crate::decode::adopt::CLASSES], ctx: &mut [u8]) {
            // SAFETY: as above.
            unsafe { $crate::kernels::avx2::adopt::contexts(map, ctx) }
        }
        #[inline(always)]
        fn dense_fields<const SIDED: bool>(
            widths: &[u8; 64],
            sym: &[u8],
            from: &[u8; $crate::decode::fields::REACH],
            bit: usize,
            z: &mut [u32],
        ) -> Option<usize> {
            if sym.len() < 64 || z.len() < 64 {
                return None;
            }
            // SAFETY: as above, and there are 64 elements.
            Some(unsafe {
                $crate::kernels::avx2::adopt::fields::<SIDED>(widths, sym, from, bit, z)
            })
        }
        #[inline(always)]
        fn field_widths(
            widths: &[u8; $crate::entropy::table::MAX_CTX],
            ctx: &[u8],
            sym: &[u8],
            out: &mut [u8; 64],
        ) -> u64 {
            if ctx.len() < 64 || sym.len() < 64 {
                return $crate::decode::fields::field_widths(widths, ctx, sym, out);
            }
            // SAFETY: as above, and there are 64 elements.
            unsafe { $crate::kernels::avx2::delta::field_widths(widths, ctx, sym, out) }
        }
        #[inline(always)]
        fn encode_words(
            words: &mut $crate::encode::stream::Words,
            states: &mut [u32],
            tables: &$crate::entropy::table::EncodeTables,
            syms: &[u8],
            ctx: &[u8],
        ) {
            if states.len() == $crate::entropy::rans::MAX_LANES {
                // SAFETY: only reached through `encode`, after `available` said so.
                unsafe {
                    $crate::kernels::avx2::words::encode_words(words, states, tables, syms, ctx)
                }
            } else {
                $crate::encode::stream::encode_scalar(words, states, tables, syms, ctx);
            }
        }
    };
}
#[allow(unused_imports)]
pub(crate) use kernels as avx2_kernels;

isa!(Avx2, "avx2,bmi1,bmi2,popcnt,lzcnt", decode64, kernels);
