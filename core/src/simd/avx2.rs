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
        fn bin_values<F: $crate::float::Format>(sym: &[u8], step: f32, mem: &mut [u8]) {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_rows::bin_values::<F>(sym, step, mem) }
        }
        #[inline(always)]
        fn base_row<F: $crate::float::Format>(
            mem: &[u8],
            e: i32,
            sym: &mut [u8],
            cur: &mut [u8],
            sums: &mut $crate::quantise::Sums,
        ) -> bool {
            // SAFETY: only reached through `encode`, after `available` said so.
            unsafe { $crate::simd::avx2_base::base_row::<F>(mem, e, sym, cur, sums) }
        }
        #[inline(always)]
        fn unpack(buf: &[u8], bit: usize, width: u32, out: &mut [u8]) {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_refine::unpack(buf, bit, width, out) }
        }
        #[inline(always)]
        fn unpack_low(buf: &[u8], bit: usize, width: u32, out: &mut [u16]) {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_refine::unpack_low(buf, bit, width, out) }
        }
        #[inline(always)]
        fn pack_low(
            fields: &[u16],
            width: u32,
            room: &mut $crate::refine::bits::Room,
            bit: usize,
        ) -> usize {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_refine::pack_low(fields, width, room, bit) }
        }
        #[inline(always)]
        fn scatter(buf: &[u8], bit: usize, masks: &[u8], out: &mut [u8]) -> usize {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_refine::scatter(buf, bit, masks, out) }
        }
        #[inline(always)]
        fn gather(
            fields: &[u8],
            masks: &[u8],
            room: &mut $crate::refine::bits::Room,
            bit: usize,
        ) -> usize {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_refine::gather(fields, masks, room, bit) }
        }
        #[inline(always)]
        fn halve<F: $crate::float::Format>(
            mem: &mut [u8],
            positions: &[u8],
            row: &$crate::refine::Halving,
        ) {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_refine::halve::<F>(mem, positions, row) }
        }
        #[inline(always)]
        fn locate<F: $crate::float::Format>(
            mem: &[u8],
            cur: &mut [u8],
            positions: &mut [u8],
            row: &$crate::refine::Halving,
        ) {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_refine::locate::<F>(mem, cur, positions, row) }
        }
        #[inline(always)]
        fn widths<F: $crate::float::Format>(
            mem: &[u8],
            row: &$crate::refine::Fraction,
            masks: &mut [u8],
            deep: &mut $crate::refine::cells::Deep,
            start: usize,
        ) {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_refine::widths::<F>(mem, row, masks, deep, start) }
        }
        #[inline(always)]
        fn fill<F: $crate::float::Format>(
            mem: &mut [u8],
            masks: &[u8],
            fields: &[u8],
            low: &[u16],
            row: &$crate::refine::Fraction,
        ) {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_refine::fill::<F>(mem, masks, fields, low, row) }
        }
        #[inline(always)]
        fn drain<F: $crate::float::Format>(
            mem: &[u8],
            fields: &mut [u8],
            low: &mut [u16],
            row: &$crate::refine::Fraction,
        ) {
            // SAFETY: as above.
            unsafe { $crate::simd::avx2_refine::drain::<F>(mem, fields, low, row) }
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
