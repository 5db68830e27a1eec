//! Kernels: what is worth an instruction set's own code. Each set is a folder, and equals [`scalar`]
//! byte for byte.
//!
//! A kernel knows elements, tables and fields; it knows nothing of chunks. Code that knows chunks is a
//! [`Task`], which is compiled once for each set and entered through [`Isa::enter`].

use crate::entropy::rans::Stream;
use crate::entropy::table::MAX_CTX;
use crate::format::float::Format;
use crate::Error;
use scalar::adopt::CLASSES;
use scalar::cells::{self, Deep, Fraction, Halving, Narrowing};
use scalar::fields::REACH;
use scalar::gaps::{GROUP, GROUPS, SPAN};
use scalar::{adopt, base, bits, delta, fields, gaps, rans, Scalar};
#[cfg(feature = "encode")]
use {
    crate::entropy::encoder::{EncodeTables, Words},
    crate::format::runs::Room,
    scalar::base::Sums,
    scalar::words,
};

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(p2u_avx512)]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;
pub mod scalar;

/// Work that is compiled once for each instruction set.
pub trait Task {
    type Out;
    /// Does it. Has to be `#[inline(always)]`: only what is inlined into [`Isa::enter`] is compiled
    /// for the set.
    fn run<I: Isa>(self, isa: I) -> Self::Out;
}

/// Kernels compiled for one instruction set. A value is a proof that this machine has it.
///
/// Every kernel but [`Isa::enter`] has the portable one as its default.
pub trait Isa: Copy {
    /// Runs a task that is compiled for this set.
    fn enter<T: Task>(self, task: T) -> T::Out;

    /// [`rans::decode_symbols`].
    #[inline(always)]
    fn decode_symbols(self, stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> Result<(), Error> {
        rans::decode_symbols(stream, ctx, out)
    }
    /// [`base::bin_values`].
    #[inline(always)]
    fn bin_values<F: Format>(self, sym: &[u8], step: f32, mem: &mut [u8]) {
        base::bin_values::<F>(sym, step, mem);
    }
    /// [`bits::unpack`].
    #[inline(always)]
    fn unpack(self, buf: &[u8], bit: usize, width: u32, out: &mut [u8]) {
        bits::unpack(buf, bit, width, out);
    }
    /// [`bits::unpack_low`].
    #[inline(always)]
    fn unpack_low(self, buf: &[u8], bit: usize, width: u32, out: &mut [u16]) {
        bits::unpack_low(buf, bit, width, out);
    }
    /// [`bits::scatter`].
    #[inline(always)]
    fn scatter(self, buf: &[u8], bit: usize, masks: &[u8], out: &mut [u8]) -> usize {
        bits::scatter(buf, bit, masks, out)
    }
    /// [`cells::halve`].
    #[inline(always)]
    fn halve<F: Format>(self, mem: &mut [u8], positions: &[u8], row: &Halving) {
        cells::halve::<F>(mem, positions, row);
    }
    /// [`cells::cells_of`].
    #[inline(always)]
    fn cells_of<F: Format>(
        self,
        sym: &[u8],
        e: i32,
        positions: &[u8],
        row: &Halving,
        mem: &mut [u8],
    ) {
        cells::cells_of::<F>(sym, e, positions, row, mem);
    }
    /// [`cells::finer_widths`].
    #[inline(always)]
    fn finer_widths<F: Format>(self, mem: &[u8], row: &Narrowing, masks: &mut [u8]) {
        cells::finer_widths::<F>(mem, row, masks);
    }
    /// [`cells::narrow`].
    #[inline(always)]
    fn narrow<F: Format>(self, mem: &mut [u8], masks: &[u8], positions: &[u8], row: &Narrowing) {
        cells::narrow::<F>(mem, masks, positions, row);
    }
    /// [`cells::widths`].
    #[inline(always)]
    fn widths<F: Format>(
        self,
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
    fn fill<F: Format>(
        self,
        mem: &mut [u8],
        masks: &[u8],
        fields: &[u8],
        low: &[u16],
        row: &Fraction,
    ) {
        cells::fill::<F>(mem, masks, fields, low, row);
    }
    /// [`delta::contexts`].
    #[inline(always)]
    fn delta_contexts<F: Format>(self, pred: &[u8], low: u8, ctx: &mut [u8]) {
        delta::contexts::<F>(pred, low, ctx);
    }
    /// [`delta::combine`].
    #[inline(always)]
    fn delta_combine<F: Format>(self, mem: &mut [u8], sym: &[u8], z: Option<&[u32]>, tz: u32) {
        delta::combine::<F>(mem, sym, z, tz);
    }
    /// [`gaps::class_mask`].
    #[inline(always)]
    fn class_mask(self, ctx: &[u8; GROUP], class: u8) -> u64 {
        gaps::class_mask(ctx, class)
    }
    /// [`gaps::class_count`].
    #[inline(always)]
    fn class_count(self, ctx: &[u8; SPAN], class: u8) -> u32 {
        gaps::class_count(ctx, class)
    }
    /// [`gaps::map_contexts`].
    #[inline(always)]
    fn map_contexts(self, map: &[u8; MAX_CTX], ctx: &mut [u8]) {
        gaps::map_contexts(map, ctx);
    }
    /// [`gaps::ended`].
    #[inline(always)]
    fn ended(self, ends: &[i16; GROUPS], element: i16) -> usize {
        gaps::ended(ends, element)
    }
    /// [`gaps::differing`].
    #[cfg(feature = "encode")]
    #[inline(always)]
    fn differing<F: Format>(self, new: &[u8], old: &[u8], out: &mut [u64]) {
        if F::BYTES == 4 {
            gaps::differing::<4>(new, old, out);
        } else {
            gaps::differing::<2>(new, old, out);
        }
    }
    /// [`adopt::contexts`].
    #[inline(always)]
    fn adopt_contexts(self, map: &[u8; CLASSES], ctx: &mut [u8]) {
        adopt::contexts(map, ctx);
    }
    /// Codes of 64 elements and bits of their fields, of these widths from a bit of some bytes on;
    /// `None` where the portable code has to do it.
    #[inline(always)]
    fn dense_fields<const SIDED: bool>(
        self,
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
    fn field_widths(
        self,
        widths: &[u8; MAX_CTX],
        ctx: &[u8],
        sym: &[u8],
        out: &mut [u8; 64],
    ) -> u64 {
        fields::field_widths(widths, ctx, sym, out)
    }

    #[cfg(feature = "encode")]
    /// [`base::base_row`].
    #[inline(always)]
    fn base_row<F: Format>(
        self,
        mem: &[u8],
        e: i32,
        sym: &mut [u8],
        cur: &mut [u8],
        sums: &mut Sums,
    ) -> bool {
        base::base_row::<F>(mem, e, sym, cur, sums)
    }
    #[cfg(feature = "encode")]
    /// [`bits::pack`].
    #[inline(always)]
    fn pack(self, fields: &[u8], width: u32, room: &mut Room, bit: usize) -> usize {
        bits::pack(fields, width, room, bit)
    }
    #[cfg(feature = "encode")]
    /// [`bits::gather`].
    #[inline(always)]
    fn gather(self, fields: &[u8], masks: &[u8], room: &mut Room, bit: usize) -> usize {
        bits::gather(fields, masks, room, bit)
    }
    #[cfg(feature = "encode")]
    /// [`bits::pack_low`].
    #[inline(always)]
    fn pack_low(self, fields: &[u16], width: u32, room: &mut Room, bit: usize) -> usize {
        bits::pack_low(fields, width, room, bit)
    }
    #[cfg(feature = "encode")]
    /// [`cells::locate`].
    #[inline(always)]
    fn locate<F: Format>(self, mem: &[u8], cur: &mut [u8], positions: &mut [u8], row: &Halving) {
        cells::locate::<F>(mem, cur, positions, row);
    }
    #[cfg(feature = "encode")]
    /// [`cells::locate_finer`].
    #[inline(always)]
    fn locate_finer<F: Format>(
        self,
        mem: &[u8],
        cur: &mut [u8],
        masks: &[u8],
        positions: &mut [u8],
        row: &Narrowing,
    ) {
        cells::locate_finer::<F>(mem, cur, masks, positions, row);
    }
    #[cfg(feature = "encode")]
    /// [`cells::drain`].
    #[inline(always)]
    fn drain<F: Format>(self, mem: &[u8], fields: &mut [u8], low: &mut [u16], row: &Fraction) {
        cells::drain::<F>(mem, fields, low, row);
    }
    /// [`words::encode_symbols`].
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
        words::encode_symbols(words, states, tables, syms, ctx);
    }
    /// [`delta::zigzags`].
    #[cfg(feature = "encode")]
    #[inline(always)]
    fn delta_zigzags<F: Format>(self, new: &[u8], old: &[u8], tz: u32, z: &mut [u32]) {
        delta::zigzags::<F>(new, old, tz, z);
    }
}

/// The instruction sets of the ABI.
pub const AUTO: u32 = 0;
pub const SCALAR: u32 = 1;
pub const AVX2: u32 = 2;
#[cfg(p2u_avx512)]
pub const AVX512: u32 = 3;
pub const NEON: u32 = 4;

/// A set that this machine has.
#[derive(Clone, Copy)]
pub enum Set {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
}

impl Set {
    /// The set for the caller's wish. [`AUTO`] is the fastest one, which need not be the widest:
    /// no AVX-512 kernel is known to be faster than its AVX2 twin, so it takes that.
    pub fn new(wish: u32) -> Result<Self, Error> {
        let found = match wish {
            AUTO => [AVX2, NEON]
                .iter()
                .find_map(|&code| Set::new(code).ok())
                .or(Some(Set::Scalar(Scalar))),
            SCALAR => Some(Set::Scalar(Scalar)),
            #[cfg(target_arch = "x86_64")]
            AVX2 => avx2::Avx2::new().map(Set::Avx2),
            #[cfg(p2u_avx512)]
            AVX512 => avx2::Avx2::with_avx512().map(Set::Avx2),
            #[cfg(target_arch = "aarch64")]
            NEON => neon::Neon::new().map(Set::Neon),
            _ => None,
        };
        found.ok_or(Error::Argument)
    }

    /// All sets that this machine has, the portable one first.
    pub fn all() -> Vec<Self> {
        (SCALAR..=NEON)
            .filter_map(|wish| Set::new(wish).ok())
            .collect()
    }

    /// Its number in the ABI.
    pub fn code(self) -> u32 {
        match self {
            Set::Scalar(_) => SCALAR,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(isa) => isa.code(),
            #[cfg(target_arch = "aarch64")]
            Set::Neon(_) => NEON,
        }
    }

    /// Runs a task.
    pub fn run<T: Task>(self, task: T) -> T::Out {
        match self {
            Set::Scalar(isa) => isa.enter(task),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(isa) => isa.enter(task),
            #[cfg(target_arch = "aarch64")]
            Set::Neon(isa) => isa.enter(task),
        }
    }
}
