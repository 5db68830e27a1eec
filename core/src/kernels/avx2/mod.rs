//! AVX2: eight lanes a vector.

use super::scalar::adopt::CLASSES;
use super::scalar::cells::{Deep, Fraction, Halving, Narrowing};
use super::scalar::fields::{self, REACH};
use super::scalar::gaps::{GROUP, GROUPS, SPAN};
use super::{Isa, Task};
use crate::entropy::rans::Stream;
use crate::entropy::table::MAX_CTX;
use crate::format::float::Format;
use crate::Error;
#[cfg(feature = "encode")]
use {
    super::scalar::base::Sums,
    crate::entropy::encoder::{EncodeTables, Words},
    crate::entropy::rans::MAX_LANES,
    crate::format::runs::Room,
};

#[cfg(p2u_avx512)]
use super::avx512::Avx512;

mod adopt;
mod base;
mod bits;
mod cells;
mod delta;
mod floats;
mod gaps;
mod pdep;
#[cfg(feature = "encode")]
mod quantise;
mod rans;
mod shifts;
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
    fn fast_pdep(self) -> bool {
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
        // SAFETY: `self` is the proof.
        unsafe { rans::decode_symbols(self, stream, ctx, out) }
    }
    #[inline(always)]
    fn bin_values<F: Format>(self, sym: &[u8], step: f32, mem: &mut [u8]) {
        // SAFETY: `self` is the proof.
        unsafe { base::bin_values::<F>(sym, step, mem) }
    }
    #[inline(always)]
    fn unpack(self, buf: &[u8], bit: usize, width: u32, out: &mut [u8]) {
        // Aligned nibbles take neither of them.
        let nibbles = width == 4 && bit & 7 == 0;
        // SAFETY: `self` is the proof.
        unsafe {
            if (1..8).contains(&width) && !nibbles && !self.fast_pdep() {
                shifts::unpack(buf, bit, width, out);
            } else {
                bits::unpack(buf, bit, width, out);
            }
        }
    }
    #[inline(always)]
    fn unpack_low(self, buf: &[u8], bit: usize, width: u32, out: &mut [u16]) {
        // SAFETY: `self` is the proof.
        unsafe {
            if (1..8).contains(&width) && !self.fast_pdep() {
                shifts::unpack_low(buf, bit, width, out);
            } else {
                bits::unpack_low(buf, bit, width, out);
            }
        }
    }
    #[inline(always)]
    fn scatter(self, buf: &[u8], bit: usize, masks: &[u8], out: &mut [u8]) -> usize {
        // SAFETY: `self` is the proof.
        unsafe {
            if self.fast_pdep() {
                bits::scatter(buf, bit, masks, out)
            } else {
                shifts::scatter(buf, bit, masks, out)
            }
        }
    }
    #[inline(always)]
    fn halve<F: Format>(self, mem: &mut [u8], positions: &[u8], row: &Halving) {
        // SAFETY: `self` is the proof.
        unsafe { cells::halve::<F>(mem, positions, row) }
    }
    #[inline(always)]
    fn cells_of<F: Format>(
        self,
        sym: &[u8],
        e: i32,
        positions: &[u8],
        row: &Halving,
        mem: &mut [u8],
    ) {
        // SAFETY: `self` is the proof.
        unsafe { base::cells_of::<F>(sym, e, positions, row, mem) }
    }
    #[inline(always)]
    fn widths<F: Format>(
        self,
        mem: &[u8],
        row: &Fraction,
        masks: &mut [u8],
        deep: &mut Deep,
        start: usize,
    ) {
        // SAFETY: `self` is the proof.
        unsafe { cells::widths::<F>(mem, row, masks, deep, start) }
    }
    #[inline(always)]
    fn fill<F: Format>(
        self,
        mem: &mut [u8],
        masks: &[u8],
        fields: &[u8],
        low: &[u16],
        row: &Fraction,
    ) {
        // SAFETY: `self` is the proof.
        unsafe { cells::fill::<F>(mem, masks, fields, low, row) }
    }
    #[cfg(feature = "encode")]
    #[inline(always)]
    fn base_row<F: Format>(
        self,
        mem: &[u8],
        e: i32,
        sym: &mut [u8],
        cur: &mut [u8],
        sums: &mut Sums,
    ) -> bool {
        // SAFETY: `self` is the proof.
        unsafe { quantise::base_row::<F>(mem, e, sym, cur, sums) }
    }
    #[cfg(feature = "encode")]
    #[inline(always)]
    fn pack(self, fields: &[u8], width: u32, room: &mut Room, bit: usize) -> usize {
        let nibbles = width == 4 && bit & 7 == 0;
        // SAFETY: `self` is the proof.
        unsafe {
            if (1..8).contains(&width) && !nibbles && !self.fast_pdep() {
                shifts::pack(fields, width, room, bit)
            } else {
                bits::pack(fields, width, room, bit)
            }
        }
    }
    #[cfg(feature = "encode")]
    #[inline(always)]
    fn gather(self, fields: &[u8], masks: &[u8], room: &mut Room, bit: usize) -> usize {
        // SAFETY: `self` is the proof.
        unsafe {
            if self.fast_pdep() {
                bits::gather(fields, masks, room, bit)
            } else {
                shifts::gather(fields, masks, room, bit)
            }
        }
    }
    #[cfg(feature = "encode")]
    #[inline(always)]
    fn pack_low(self, fields: &[u16], width: u32, room: &mut Room, bit: usize) -> usize {
        // SAFETY: `self` is the proof.
        unsafe {
            if (1..8).contains(&width) && !self.fast_pdep() {
                shifts::pack_low(fields, width, room, bit)
            } else {
                bits::pack_low(fields, width, room, bit)
            }
        }
    }
    #[cfg(feature = "encode")]
    #[inline(always)]
    fn locate<F: Format>(self, mem: &[u8], cur: &mut [u8], positions: &mut [u8], row: &Halving) {
        // SAFETY: `self` is the proof.
        unsafe { quantise::locate::<F>(mem, cur, positions, row) }
    }
    #[cfg(feature = "encode")]
    #[inline(always)]
    fn drain<F: Format>(self, mem: &[u8], fields: &mut [u8], low: &mut [u16], row: &Fraction) {
        // SAFETY: `self` is the proof.
        unsafe { quantise::drain::<F>(mem, fields, low, row) }
    }
    #[inline(always)]
    fn finer_widths<F: Format>(self, mem: &[u8], row: &Narrowing, masks: &mut [u8]) {
        // SAFETY: `self` is the proof.
        unsafe { cells::finer_widths::<F>(mem, row, masks) }
    }
    #[inline(always)]
    fn narrow<F: Format>(self, mem: &mut [u8], masks: &[u8], positions: &[u8], row: &Narrowing) {
        // SAFETY: `self` is the proof.
        unsafe { cells::narrow::<F>(mem, masks, positions, row) }
    }
    #[cfg(feature = "encode")]
    #[inline(always)]
    fn locate_finer<F: Format>(
        self,
        mem: &[u8],
        cur: &mut [u8],
        masks: &[u8],
        positions: &mut [u8],
        row: &Narrowing,
    ) {
        // SAFETY: `self` is the proof.
        unsafe { quantise::locate_finer::<F>(mem, cur, masks, positions, row) }
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
    fn class_mask(self, ctx: &[u8; GROUP], class: u8) -> u64 {
        // SAFETY: `self` is the proof.
        unsafe { gaps::class_mask(ctx, class) }
    }
    #[inline(always)]
    fn class_count(self, ctx: &[u8; SPAN], class: u8) -> u32 {
        // SAFETY: `self` is the proof.
        unsafe { gaps::class_count(ctx, class) }
    }
    #[inline(always)]
    fn map_contexts(self, map: &[u8; MAX_CTX], ctx: &mut [u8]) {
        // SAFETY: `self` is the proof.
        unsafe { gaps::map_contexts(map, ctx) }
    }
    #[inline(always)]
    fn ended(self, ends: &[i16; GROUPS], element: i16) -> usize {
        // SAFETY: `self` is the proof.
        unsafe { gaps::ended(ends, element) }
    }
    #[cfg(feature = "encode")]
    #[inline(always)]
    fn differing<F: Format>(self, new: &[u8], old: &[u8], out: &mut [u64]) {
        if F::BYTES == 4 {
            return super::scalar::gaps::differing::<4>(new, old, out);
        }
        // SAFETY: `self` is the proof.
        unsafe { gaps::differing16(new, old, out) }
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
