//! Nearly uniform low bits, stored as fixed-width fields (SPEC.md, "Raw fields").
//!
//! Fields of one width follow each other without gaps, LSB first; where the width changes from one
//! row to the next the stream goes on at a byte border.

#![cfg_attr(not(feature = "encode"), allow(dead_code, unused_imports))]

use crate::format::wire::all_read;
use crate::Error;

/// Widest field: one unaligned 32-bit load must hold it with its bit offset.
pub const MAX_WIDTH: u32 = 25;

/// Position in a stream of fields.
pub struct RawReader<'a> {
    buf: &'a [u8],
    bit: usize,
    width: u32,
}

impl<'a> RawReader<'a> {
    pub fn new(buf: &'a [u8]) -> Self {
        RawReader {
            buf,
            bit: 0,
            width: 0,
        }
    }
    /// Announces the width of the next row's fields.
    #[inline(always)]
    pub fn row(&mut self, width: u32) {
        if width != self.width {
            self.bit = (self.bit + 7) & !7;
            self.width = width;
        }
    }
    #[inline(always)]
    fn one(&mut self) -> Result<u32, Error> {
        let at = self.bit >> 3;
        let mut word = [0u8; 8];
        let end = (self.bit + self.width as usize + 7) >> 3;
        let src = self.buf.get(at..end).ok_or(Error::Truncated)?;
        word[..src.len()].copy_from_slice(src);
        let v = (u64::from_le_bytes(word) >> (self.bit & 7)) as u32 & ((1 << self.width) - 1);
        self.bit += self.width as usize;
        Ok(v)
    }
    /// Fields of consecutive elements of one row.
    #[inline(always)]
    pub fn take(&mut self, out: &mut [u32]) -> Result<(), Error> {
        if self.width == 0 {
            out.fill(0);
            return Ok(());
        }
        let mut i = 0;
        while i < out.len() && self.bit & 7 != 0 {
            out[i] = self.one()?;
            i += 1;
        }
        let w = self.width as usize;
        let groups = (out.len() - i) / 8;
        let start = self.bit >> 3;
        let src = self.buf.get(start..).unwrap_or(&[]);
        // Eight fields fill `w` bytes; each is inside an 8-byte load at its first byte.
        let safe = src.len().saturating_sub(8) / w;
        let groups = groups.min(safe);
        unpack(src, w, &mut out[i..i + 8 * groups]);
        self.bit += 8 * groups * w;
        for o in &mut out[i + 8 * groups..] {
            *o = self.one()?;
        }
        Ok(())
    }
    /// Like [`RawReader::take`], for elements that have no field where `skip` says so.
    #[inline(always)]
    pub fn take_some(
        &mut self,
        out: &mut [u32],
        skip: impl Fn(usize) -> bool,
    ) -> Result<(), Error> {
        for (i, o) in out.iter_mut().enumerate() {
            *o = if self.width == 0 || skip(i) {
                0
            } else {
                self.one()?
            };
        }
        Ok(())
    }
    /// Announces fields of a width of their own, which go on without a byte border.
    pub fn upper(&mut self, width: u32) {
        self.width = width;
    }
    /// Puts the upper parts of context 0's low bits, from this stream, above the raw fields.
    #[inline(always)]
    pub fn add_upper(
        &mut self,
        out: &mut [u32],
        shift: u32,
        ctx: &[u8],
        open: impl Fn(usize) -> bool,
    ) -> Result<(), Error> {
        // Context 0 is rare: look for it eight elements at a time.
        for (g, ctx) in ctx.chunks(8).enumerate() {
            let mut zeros = ctx
                .iter()
                .rev()
                .fold(0u32, |m, &c| m << 1 | u32::from(c == 0));
            while zeros != 0 {
                let i = 8 * g + zeros.trailing_zeros() as usize;
                zeros &= zeros - 1;
                if open(i) {
                    out[i] |= self.one()? << shift;
                }
            }
        }
        Ok(())
    }
    /// For a vector kernel: the bytes from here on, the bit in the first one, and the width; `None`
    /// unless `n` fields and `slack` bytes more are there. Moves past the fields.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub fn span(&mut self, n: usize, slack: usize) -> Option<(&'a [u8], usize, usize)> {
        let w = self.width as usize;
        let (at, bit) = (self.bit >> 3, self.bit & 7);
        if at + ((bit + n * w) >> 3) + slack > self.buf.len() {
            return None;
        }
        self.bit += n * w;
        Some((&self.buf[at..], bit, w))
    }
    pub fn finish(&self) -> Result<(), Error> {
        all_read(self.bit, self.buf)
    }
}

/// Unpacks groups of eight `w`-bit fields; `src` has 8 readable bytes past the last group.
#[inline(always)]
fn unpack(src: &[u8], w: usize, out: &mut [u32]) {
    let mask = (1u64 << w) - 1;
    match w {
        4 => {
            for (o, b) in out.chunks_exact_mut(8).zip(src.chunks_exact(4)) {
                let v = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                for (j, o) in o.iter_mut().enumerate() {
                    *o = (v >> (4 * j)) & 15;
                }
            }
        }
        _ => {
            for (g, o) in out.chunks_exact_mut(8).enumerate() {
                let src = &src[g * w..g * w + w + 8];
                for (j, o) in o.iter_mut().enumerate() {
                    let bit = j * w;
                    let at = bit >> 3;
                    let b = &src[at..at + 8];
                    let v = u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
                    *o = ((v >> (bit & 7)) & mask) as u32;
                }
            }
        }
    }
}

/// Bytes that a store of fields may reach beyond the last one.
const SLACK: usize = 32;

/// Packs groups of eight fields, which fill `w` bytes each; returns where the last one ends.
fn pack(values: &[u32], w: u32, out: &mut [u8], at: usize) -> usize {
    // The usual widths of the three formats, and of `f32`s that were born as `f16`s: known to the
    // compiler, the shifts below cost half as much.
    match w {
        4 => pack_width(values, 4, out, at),
        7 => pack_width(values, 7, out, at),
        20 => pack_width(values, 20, out, at),
        _ => pack_width(values, w, out, at),
    }
}

#[inline(always)]
fn pack_width(values: &[u32], w: u32, out: &mut [u8], at: usize) -> usize {
    let mask = u64::from((1u32 << w) - 1);
    let groups = values.chunks_exact(8);
    let size = w as usize;
    let end = at + groups.len() * size;
    // A store may reach into the slack, never beyond it.
    let out = &mut out[at..end + SLACK];
    for (g, v) in groups.enumerate() {
        let to = &mut out[g * size..g * size + SLACK];
        let mut p = [0; 4];
        for (p, v) in p.iter_mut().zip(v.chunks_exact(2)) {
            *p = (u64::from(v[0]) & mask) | (u64::from(v[1]) & mask) << w;
        }
        if w <= 8 {
            let all = (p[0] | p[1] << (2 * w)) | (p[2] | p[3] << (2 * w)) << (4 * w);
            to[..8].copy_from_slice(&all.to_le_bytes());
        } else {
            let low = u128::from(p[0]) | u128::from(p[1]) << (2 * w);
            let high = u128::from(p[2]) | u128::from(p[3]) << (2 * w);
            to[..16].copy_from_slice(&low.to_le_bytes());
            // The upper half begins within a byte if the width is odd.
            let high = high << (4 * (w & 1)) | low >> (4 * (w & !1));
            to[size / 2..][..16].copy_from_slice(&high.to_le_bytes());
        }
    }
    end
}

/// Writer of both streams; the twin of [`RawReader`].
#[derive(Default)]
pub struct RawWriter {
    pub out: Vec<u8>,
    /// Bits not yet written; fewer than 8 between calls.
    acc: u64,
    fill: u32,
    width: u32,
}

impl RawWriter {
    pub fn row(&mut self, width: u32) {
        if width != self.width {
            self.flush();
            self.width = width;
        }
    }
    /// Appends the low bits of each value.
    #[inline(always)]
    pub fn put(&mut self, values: &[u32]) {
        let w = self.width;
        if w == 0 {
            return;
        }
        let at = self.out.len();
        self.out
            .resize(at + (values.len() * w as usize + 7) / 8 + SLACK, 0);
        let mut at = at;
        let mut values = values;
        if self.fill == 0 {
            let (groups, rest) = values.split_at(values.len() & !7);
            at = pack(groups, w, &mut self.out, at);
            values = rest;
        }
        let mask = (1u32 << w) - 1;
        for &v in values {
            self.acc |= u64::from(v & mask) << self.fill;
            self.fill += w;
            self.out[at..at + 8].copy_from_slice(&self.acc.to_le_bytes());
            at += (self.fill >> 3) as usize;
            self.acc >>= self.fill & !7;
            self.fill &= 7;
        }
        self.out.truncate(at);
    }
    /// Appends fields of a width of their own, without a byte border.
    #[inline(always)]
    pub fn put_width(&mut self, values: &[u32], width: u32) {
        self.width = width;
        self.put(values);
    }
    pub fn flush(&mut self) {
        if self.fill > 0 {
            self.out.push(self.acc as u8);
        }
        self.acc = 0;
        self.fill = 0;
    }
}
