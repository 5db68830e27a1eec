//! Refinements (SPEC.md, "Levels").

use super::base::check_exponents;
use super::ints::read_ints;
use super::patches::read_patches;
use crate::entropy::rans::Stream;
use crate::entropy::table::Layout;
use crate::format::float::Format;
use crate::format::rows::{self, Rows, BLOCK};
use crate::format::wire::Reader;
use crate::kernels::scalar::level::{
    apply_shift, is_zero, layouts, Elements, Row, Target, CONTEXTS, K_MAX,
};
use crate::kernels::scalar::raw::{RawReader, MAX_WIDTH};
use crate::kernels::Isa;
use crate::Error;

pub const FROM_CELLS: u8 = 1;
pub const TO_CELLS: u8 = 2;
pub const SHIFTED: u8 = 4;
/// Elements that are exact zeros have no raw field.
pub const SPARSE: u8 = 8;

/// Parameters of a refinement that hold for the whole chunk.
pub struct RefineHead {
    pub from_cells: bool,
    pub target: Target,
    pub shifted: bool,
    pub sparse: bool,
    /// Width of the raw fields before a row's trailing zeros are taken off.
    pub raw: u32,
    /// The same in context 0, where the upper part lies in a stream of its own.
    pub raw_zero: u32,
}

impl RefineHead {
    pub fn read(r: &mut Reader) -> Result<Self, Error> {
        let (flags, raw) = (r.u8()?, u32::from(r.u8()?));
        let (raw_zero, k) = (u32::from(r.u8()?), u32::from(r.u8()?));
        let cells = flags & TO_CELLS != 0;
        let bad = flags > 15
            || raw > raw_zero
            || raw_zero > MAX_WIDTH
            || (cells && raw != raw_zero)
            || (cells && !(1..=K_MAX).contains(&k))
            || (!cells && k != 0)
            || (flags & FROM_CELLS != 0 && flags & SHIFTED != 0);
        if bad {
            return Err(Error::Malformed);
        }
        Ok(RefineHead {
            from_cells: flags & FROM_CELLS != 0,
            target: if cells {
                Target::Cells { k }
            } else {
                Target::Exact
            },
            shifted: flags & SHIFTED != 0,
            sparse: flags & SPARSE != 0,
            raw,
            raw_zero,
        })
    }

    #[cfg(feature = "encode")]
    pub fn write(&self, out: &mut Vec<u8>) {
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let k = match self.target {
            Target::Cells { k } => k,
            Target::Exact => 0,
        };
        out.push(
            flag(self.from_cells, FROM_CELLS)
                | flag(k > 0, TO_CELLS)
                | flag(self.shifted, SHIFTED)
                | flag(self.sparse, SPARSE),
        );
        out.extend_from_slice(&[self.raw as u8, self.raw_zero as u8, k as u8]);
    }

    #[inline(always)]
    pub fn decode<F: Format, I: Isa>(
        &self,
        isa: I,
        r: &mut Reader,
        rows: &Rows,
        e: &[i16],
        segs: &mut [rows::Target],
    ) -> Result<(), Error> {
        if self.from_cells {
            self.decode_from::<F, _, true>(isa, r, rows, e, segs)
        } else {
            self.decode_from::<F, _, false>(isa, r, rows, e, segs)
        }
    }

    #[inline(always)]
    fn decode_from<F: Format, I: Isa, const CELLS: bool>(
        &self,
        isa: I,
        r: &mut Reader,
        rows: &Rows,
        e: &[i16],
        segs: &mut [rows::Target],
    ) -> Result<(), Error> {
        let params = self.read_rows::<F>(r, e)?;
        let mut shift = if self.shifted {
            Some(Stream::open(r, &[Layout::Plain; CONTEXTS])?)
        } else {
            None
        };
        let mut stream = Stream::open(r, &layouts(CELLS))?;
        let raw_len = r.varint()? as usize;
        let mut fields = RawReader::new(r.bytes(raw_len)?);
        let extra_len = if self.raw_zero > self.raw {
            r.varint()? as usize
        } else {
            0
        };
        let mut extra = RawReader::new(r.bytes(extra_len)?);

        let n = rows.elements();
        let (mut pos, mut raw) = ([0i16; BLOCK], [0u32; BLOCK]);
        let (mut ctx, mut sym) = ([0u8; BLOCK], [0u8; BLOCK]);
        let (mut row, mut start) = (0, 0);
        while start < n {
            let len = BLOCK.min(n - start);
            let (mut at, first) = (0, row);
            while let Some(p) = rows.next_piece(start, len, at, &mut row) {
                let (a, b, e) = (p.from, p.to, params[p.row].e);
                let (seg, bytes) = rows.bytes(p.row, start + a..start + b, F::BYTES);
                let mem = &segs[seg].mem[bytes];
                if CELLS {
                    isa.classify_cells::<F>(mem, e, &mut ctx[a..b]);
                } else {
                    isa.classify::<F>(mem, e, &mut pos[a..b], &mut ctx[a..b]);
                }
                at = b;
            }
            if let Some(s) = &mut shift {
                isa.decode_symbols(s, &ctx[..len], &mut sym[..len])?;
                let (mut row, mut at) = (first, 0);
                while let Some(p) = rows.next_piece(start, len, at, &mut row) {
                    let (a, b) = (p.from, p.to);
                    let (seg, bytes) = rows.bytes(p.row, start + a..start + b, F::BYTES);
                    apply_shift::<F>(
                        &sym[a..b],
                        &mut segs[seg].mem[bytes],
                        &mut pos[a..b],
                        &mut ctx[a..b],
                    );
                    at = b;
                }
            }
            isa.decode_symbols(&mut stream, &ctx[..len], &mut sym[..len])?;
            row = first;
            at = 0;
            while let Some(p) = rows.next_piece(start, len, at, &mut row) {
                let (a, b, param) = (p.from, p.to, params[p.row]);
                let (seg, bytes) = rows.bytes(p.row, start + a..start + b, F::BYTES);
                let mem = &mut segs[seg].mem[bytes];
                let (pos, ctx, sym, raw) = (&pos[a..b], &ctx[a..b], &sym[a..b], &mut raw[a..b]);
                at = b;
                fields.row(param.raw);
                let plain = !CELLS
                    && !self.sparse
                    && param.raw == param.raw_zero
                    && self.target == Target::Exact;
                if plain && isa.combine_plain::<F>(mem, pos, sym, &mut fields, param) {
                    continue;
                }
                if self.sparse {
                    fields.take_some(raw, |i| is_zero(CELLS, ctx[i], sym[i]))?;
                } else {
                    isa.take(&mut fields, raw)?;
                }
                if param.raw_zero > param.raw {
                    extra.upper(param.raw_zero - param.raw);
                    isa.add_upper::<CELLS>(&mut extra, raw, param.raw, ctx, sym)?;
                }
                let elements = Elements {
                    mem,
                    pos,
                    ctx,
                    sym,
                    raw,
                };
                isa.combine::<F, CELLS>(elements, param, self.target);
            }
            start += len;
        }
        if let Some(s) = &shift {
            s.finish()?;
        }
        stream.finish()?;
        fields.finish()?;
        extra.finish()?;
        read_patches::<F>(r, n, segs)
    }

    /// Per-row parameters: trailing zeros are listed for an exact target only.
    fn read_rows<F: Format>(&self, r: &mut Reader, e: &[i16]) -> Result<Vec<Row>, Error> {
        let row = |e: i16, tz: u32| Row {
            e: i32::from(e),
            tz,
            raw: self.raw.saturating_sub(tz),
            raw_zero: self.raw_zero.saturating_sub(tz),
        };
        match self.target {
            Target::Cells { k } => {
                let lowest = F::E_MIN - K_MAX as i32 + k as i32;
                check_exponents::<F>(e, lowest)?;
                Ok(e.iter().map(|&e| row(e, 0)).collect())
            }
            Target::Exact => {
                let tz = read_ints(r, e.len())?;
                if tz.iter().any(|&t| !(0..=F::MANT as i16).contains(&t)) {
                    return Err(Error::Malformed);
                }
                Ok(e.iter().zip(tz).map(|(&e, t)| row(e, t as u32)).collect())
            }
        }
    }
}
