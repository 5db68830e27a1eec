//! AVX2: eight lanes a vector.

use super::scalar::adopt::CLASSES;
use super::scalar::fields::{self, REACH};
use super::scalar::level::{self, Elements, Row, Target};
use super::scalar::rans::decode_symbols;
use super::scalar::raw::RawReader;
use super::{Isa, Task};
use crate::entropy::rans::{Stream, MAX_LANES};
use crate::entropy::table::MAX_CTX;
use crate::format::float::Format;
use crate::Error;
#[cfg(feature = "encode")]
use {
    super::scalar::base::{Known, Sums},
    super::scalar::quantise::Cells,
    super::scalar::squares::Squares,
    crate::entropy::encoder::{EncodeTables, Words},
};

#[cfg(p2u_avx512)]
use super::avx512::Avx512;

mod adopt;
mod base;
mod cells;
mod combine;
mod delta;
mod floats;
mod pdep;
#[cfg(feature = "encode")]
mod quantise;
mod rans;
mod rows;
#[cfg(feature = "encode")]
mod split;
#[cfg(feature = "encode")]
mod words;

/// Proof that this machine has AVX2, BMI1, BMI2, POPCNT, LZCNT and F16C.
#[derive(Clone, Copy)]
pub struct Avx2 {
    /// Kernels of AVX-512 in place of those that have a twin there. A field and not a set of its
    /// own: all code around the kernels stays as it is, and need not be compiled again.
    #[cfg(p2u_avx512)]
    wide: Option<Avx512>,
    _proof: (),
}

impl Avx2 {
    /// The proof, if the machine has the instructions.
    pub fn new() -> Option<Self> {
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("f16c");
        if !found {
            return None;
        }
        Some(Avx2 {
            #[cfg(p2u_avx512)]
            wide: None,
            _proof: (),
        })
    }
    /// The same with all kernels of AVX-512.
    #[cfg(p2u_avx512)]
    pub fn with_avx512() -> Option<Self> {
        let wide = Some(Avx512::new()?);
        Some(Avx2 {
            wide,
            ..Avx2::new()?
        })
    }
    /// Its number in the ABI.
    pub fn code(self) -> u32 {
        #[cfg(p2u_avx512)]
        if self.wide.is_some() {
            return super::AVX512;
        }
        super::AVX2
    }
    /// Whether `pdep` and `pext` take a few cycles and not hundreds.
    #[allow(dead_code)]
    pub fn fast_pdep(self) -> bool {
        pdep::is_fast()
    }
}

/// Runs a task compiled for this set.
///
/// # Safety
/// The machine has the instructions.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline(never)]
unsafe fn enter<T: Task>(isa: Avx2, task: T) -> T::Out {
    task.run(isa)
}

impl Isa for Avx2 {
    #[inline(always)]
    fn enter<T: Task>(self, task: T) -> T::Out {
        // SAFETY: `self` is the proof.
        unsafe { enter(self, task) }
    }
    #[inline(always)]
    fn decode_symbols(self, stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let out = &mut out[..ctx.len()];
        #[cfg(p2u_avx512)]
        if let Some(wide) = self.wide {
            let done = wide.decode_symbols(stream, ctx, out);
            return decode_symbols(stream, &ctx[done..], &mut out[done..]);
        }
        let mut done = 0;
        if stream.lanes == MAX_LANES {
            // SAFETY: `self` is the proof.
            done = unsafe { rans::decode64(stream, ctx, out) };
        }
        decode_symbols(stream, &ctx[done..], &mut out[done..])
    }
    #[inline(always)]
    fn classify<F: Format>(self, mem: &[u8], e: i32, pos: &mut [i16], ctx: &mut [u8]) {
        // SAFETY: `self` is the proof.
        unsafe { rows::classify::<F>(mem, e, pos, ctx) }
    }
    #[inline(always)]
    fn bin_values<F: Format>(self, sym: &[u8], step: f32, mem: &mut [u8]) {
        // SAFETY: `self` is the proof.
        unsafe { base::bin_values::<F>(sym, step, mem) }
    }
    #[inline(always)]
    fn take(self, fields: &mut RawReader, out: &mut [u32]) -> Result<(), Error> {
        // SAFETY: `self` is the proof.
        if unsafe { rows::take(fields, out) } {
            Ok(())
        } else {
            fields.take(out)
        }
    }
    #[inline(always)]
    fn add_upper<const CELLS: bool>(
        self,
        fields: &mut RawReader,
        out: &mut [u32],
        shift: u32,
        ctx: &[u8],
        sym: &[u8],
    ) -> Result<(), Error> {
        // SAFETY: `self` is the proof.
        if unsafe { combine::add_upper::<CELLS>(fields, out, shift, ctx, sym) } {
            Ok(())
        } else {
            fields.add_upper(out, shift, ctx, |i| !level::is_zero(CELLS, 0, sym[i]))
        }
    }
    #[inline(always)]
    fn combine<F: Format, const CELLS: bool>(self, el: Elements, row: Row, target: Target) {
        // SAFETY: `self` is the proof.
        unsafe { combine::combine::<F, CELLS>(el, &row, target) }
    }
    #[inline(always)]
    fn combine_plain<F: Format>(
        self,
        mem: &mut [u8],
        pos: &[i16],
        sym: &[u8],
        fields: &mut RawReader,
        row: Row,
    ) -> bool {
        // SAFETY: `self` is the proof.
        unsafe { rows::combine_plain::<F>(mem, pos, sym, fields, row) }
    }
    #[inline(always)]
    fn classify_cells<F: Format>(self, mem: &[u8], e: i32, ctx: &mut [u8]) {
        // SAFETY: `self` is the proof.
        unsafe { cells::classify::<F>(mem, e, ctx) }
    }
    #[inline(always)]
    fn delta_contexts<F: Format>(self, pred: &[u8], low: u8, ctx: &mut [u8]) {
        // SAFETY: `self` is the proof.
        unsafe { delta::contexts::<F>(pred, low, ctx) }
    }
    #[inline(always)]
    fn delta_combine<F: Format>(self, mem: &mut [u8], sym: &[u8], z: Option<&[u32]>, tz: u32) {
        // SAFETY: `self` is the proof.
        unsafe { delta::combine::<F>(mem, sym, z, tz) }
    }
    #[inline(always)]
    fn adopt_contexts(self, map: &[u8; CLASSES], ctx: &mut [u8]) {
        // SAFETY: `self` is the proof.
        unsafe { adopt::contexts(map, ctx) }
    }
    #[inline(always)]
    fn dense_fields<const SIDED: bool>(
        self,
        widths: &[u8; 64],
        sym: &[u8],
        from: &[u8; REACH],
        bit: usize,
        z: &mut [u32],
    ) -> Option<usize> {
        if sym.len() < 64 || z.len() < 64 {
            return None;
        }
        // SAFETY: `self` is the proof, and there are 64 elements.
        Some(unsafe { adopt::fields::<SIDED>(widths, sym, from, bit, z) })
    }
    #[inline(always)]
    fn field_widths(
        self,
        widths: &[u8; MAX_CTX],
        ctx: &[u8],
        sym: &[u8],
        out: &mut [u8; 64],
    ) -> u64 {
        if ctx.len() < 64 || sym.len() < 64 {
            return fields::field_widths(widths, ctx, sym, out);
        }
        // SAFETY: `self` is the proof, and there are 64 elements.
        unsafe { delta::field_widths(widths, ctx, sym, out) }
    }
    #[cfg(feature = "encode")]
    #[inline(always)]
    fn base_row<F: Format>(
        self,
        mem: &[u8],
        e: i32,
        sym: &mut [u8],
        known: Known,
        sums: &mut Sums,
    ) -> bool {
        // SAFETY: `self` is the proof.
        unsafe { quantise::base_row::<F>(mem, e, sym, known, sums) }
    }
    #[cfg(feature = "encode")]
    #[inline(always)]
    fn split_exact<F: Format>(
        self,
        mem: &[u8],
        pos: &[i16],
        _ctx: &[u8],
        sym: &mut [u8],
        below: &mut [u32],
        row: &Row,
    ) -> bool {
        // SAFETY: `self` is the proof.
        unsafe { split::split_exact::<F>(mem, pos, sym, below, row) }
    }
    #[cfg(feature = "encode")]
    #[inline(always)]
    fn split_cells<F: Format>(
        self,
        mem: &[u8],
        _ctx: &[u8],
        out: Cells,
        row: &Row,
        k: u32,
        error: &mut Squares,
    ) -> bool {
        // SAFETY: `self` is the proof.
        unsafe { cells::split_cells::<F>(mem, out, row, k, error) }
    }
    #[cfg(feature = "encode")]
    #[inline(always)]
    fn split_from_cells<F: Format>(self, mem: &[u8], ctx: &[u8], out: Cells, row: &Row) -> bool {
        // SAFETY: `self` is the proof.
        unsafe { cells::split_exact::<F>(mem, ctx, out, row) }
    }
    #[cfg(feature = "encode")]
    #[inline(always)]
    fn encode_symbols(
        self,
        words: &mut Words,
        states: &mut [u32],
        tables: &EncodeTables,
        syms: &[u8],
        ctx: &[u8],
    ) {
        if states.len() == MAX_LANES {
            // SAFETY: `self` is the proof.
            unsafe { words::encode_symbols(words, states, tables, syms, ctx) }
        } else {
            super::scalar::words::encode_symbols(words, states, tables, syms, ctx);
        }
    }
    #[cfg(feature = "encode")]
    #[inline(always)]
    fn delta_zigzags<F: Format>(self, new: &[u8], old: &[u8], tz: u32, z: &mut [u32]) {
        // SAFETY: `self` is the proof.
        unsafe { delta::zigzags::<F>(new, old, tz, z) }
    }
}
