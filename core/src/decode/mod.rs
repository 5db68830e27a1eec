//! One chunk: header, and decoding in place (SPEC.md, "Chunk payloads").

pub mod adopt;
pub mod delta;
pub mod fields;
pub mod opaque;
pub mod opaque_delta;

use crate::entropy::rans::{read_ints, Stream};
use crate::entropy::table::Layout;
use crate::format::flat::Prior;
use crate::format::float::{pow2, Format, BF16, F16, F32};
use crate::format::rows::{self, Rows, BLOCK};
use crate::format::wire::Reader;
use crate::kernels::scalar::level::{
    apply_shift, layouts, Elements, Row, Target, CONTEXTS, KNOWN, K_MAX,
};
use crate::kernels::scalar::raw::{RawReader, MAX_WIDTH};
use crate::kernels::Isa;
use crate::Error;

pub const KIND_OPAQUE: u8 = 0;
pub const KIND_BASE: u8 = 1;
pub const KIND_REFINE: u8 = 2;
/// Base and exact refinement in one: for tensors that have no lower precision.
pub const KIND_FULL: u8 = 3;
/// Differences to another version.
pub const KIND_DELTA: u8 = 4;
/// The same for elements without levels.
pub const KIND_OPAQUE_DELTA: u8 = 5;
/// Floats from what somebody quantised them to.
pub const KIND_ADOPT: u8 = 6;

pub const FROM_CELLS: u8 = 1;
pub const TO_CELLS: u8 = 2;
pub const SHIFTED: u8 = 4;
/// Elements that are exact zeros have no raw field.
pub const SPARSE: u8 = 8;

/// Contexts of a base stream: quarter octave of the row's scale, times four, plus column class.
pub const CLASSES: usize = 16;
/// Column classes: how a column's scale compares with the others of its tensor.
pub const COLUMN_CLASSES: i16 = 4;

/// Element types of the ABI and the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Dtype {
    Opaque = 0,
    F32 = 1,
    F16 = 2,
    BF16 = 3,
}

impl Dtype {
    pub fn from_code(code: u32) -> Result<Self, Error> {
        match code {
            0 => Ok(Dtype::Opaque),
            1 => Ok(Dtype::F32),
            2 => Ok(Dtype::F16),
            3 => Ok(Dtype::BF16),
            _ => Err(Error::Argument),
        }
    }
}

/// Applies one chunk to the tensors' bytes: previous state in, next state out.
///
/// `item` is the element size in bytes of an opaque chunk; `sources` is where a version update begins,
/// one for each segment. On error the memory holds no state.
pub fn apply<I: Isa>(
    payload: &[u8],
    dtype: Dtype,
    item: usize,
    segs: &mut [rows::Target],
    sources: &[Prior],
) -> Result<(), Error> {
    let mut r = Reader::new(payload);
    let kind = r.u8()?;
    let code = r.u8()?;
    // Whatever the dtype: a float tensor that levels do not pay for travels like this, too.
    if (kind, code) == (KIND_OPAQUE, Dtype::Opaque as u8) {
        opaque::decode::<I>(&mut r, item, segs)?;
        return r.end();
    }
    if (kind, code) == (KIND_OPAQUE_DELTA, Dtype::Opaque as u8) {
        opaque_delta::decode::<I>(&mut r, item, segs, sources)?;
        return r.end();
    }
    if code != dtype as u8 {
        return Err(Error::Mismatch);
    }
    match dtype {
        Dtype::Opaque => return Err(Error::Mismatch),
        Dtype::F32 => I::apply::<F32>(kind, &mut r, segs, sources)?,
        Dtype::F16 => I::apply::<F16>(kind, &mut r, segs, sources)?,
        Dtype::BF16 => I::apply::<BF16>(kind, &mut r, segs, sources)?,
    }
    r.end()
}

#[inline(always)]
pub fn apply_float<F: Format, I: Isa>(
    kind: u8,
    r: &mut Reader,
    segs: &mut [rows::Target],
    sources: &[Prior],
) -> Result<(), Error> {
    let rows = Rows::new(segs, F::BYTES)?;
    if r.u32()? as usize != rows.count() || r.u32()? as usize != rows.elements() {
        return Err(Error::Mismatch);
    }
    match kind {
        KIND_BASE => decode_base::<F, I>(r, &rows, segs).map(|_| ()),
        KIND_REFINE => {
            let head = RefineHead::read(r)?;
            let lowest = F::E_MIN - if head.from_cells { K_MAX as i32 } else { 0 };
            let e = read_ints(r, rows.count())?;
            check_exponents::<F>(&e, lowest)?;
            head.decode::<F, I>(r, &rows, &e, segs)
        }
        KIND_FULL => {
            let e = decode_base::<F, I>(r, &rows, segs)?;
            let head = RefineHead::read(r)?;
            if head.from_cells {
                return Err(Error::Malformed);
            }
            head.decode::<F, I>(r, &rows, &e, segs)
        }
        KIND_DELTA => delta::decode::<F, I>(r, &rows, segs, sources),
        KIND_ADOPT => adopt::decode::<F, I>(r, rows.elements(), segs, sources),
        _ => Err(Error::Malformed),
    }
}

fn check_exponents<F: Format>(e: &[i16], lowest: i32) -> Result<(), Error> {
    let ok = e
        .iter()
        .all(|&e| (lowest..=F::E_MAX).contains(&i32::from(e)));
    if ok {
        Ok(())
    } else {
        Err(Error::Malformed)
    }
}

/// Decodes the base and returns the rows' step exponents.
#[inline(always)]
fn decode_base<F: Format, I: Isa>(
    r: &mut Reader,
    rows: &Rows,
    segs: &mut [rows::Target],
) -> Result<Vec<i16>, Error> {
    let scales = read_ints(r, rows.count())?;
    let e: Vec<i16> = scales.iter().map(|v| v >> 2).collect();
    check_exponents::<F>(&e, F::E_MIN)?;
    let columns = read_columns(r, segs)?;
    let mut stream = Stream::open(r, &[Layout::Plain; CLASSES])?;
    let n = rows.elements();
    let (mut ctx, mut sym) = ([0u8; BLOCK], [0u8; BLOCK]);
    let (mut row, mut start) = (0, 0);
    while start < n {
        let len = BLOCK.min(n - start);
        let (mut at, first) = (0, row);
        while let Some(p) = rows.next_piece(start, len, at, &mut row) {
            let class = ((scales[p.row] & 3) << 2) as u8;
            let (seg, skip) = rows.place(p.row, start + p.from);
            for (c, col) in ctx[p.from..p.to].iter_mut().zip(&columns[seg][skip..]) {
                *c = class | col;
            }
            at = p.to;
        }
        I::decode(&mut stream, &ctx[..len], &mut sym[..len])?;
        row = first;
        at = 0;
        while let Some(p) = rows.next_piece(start, len, at, &mut row) {
            let step = pow2(i32::from(e[p.row]));
            let (seg, bytes) = rows.bytes(p.row, start + p.from..start + p.to, F::BYTES);
            I::bin_values::<F>(&sym[p.from..p.to], step, &mut segs[seg].mem[bytes]);
            at = p.to;
        }
        start += len;
    }
    stream.finish()?;
    read_patches::<F>(r, n, segs)?;
    Ok(e)
}

/// Column classes of every segment.
fn read_columns(r: &mut Reader, segs: &[rows::Target]) -> Result<Vec<Vec<u8>>, Error> {
    let mut out = Vec::with_capacity(segs.len());
    for s in segs {
        let v = read_ints(r, s.cols.min(s.elems))?;
        if v.iter().any(|c| !(0..COLUMN_CLASSES).contains(c)) {
            return Err(Error::Malformed);
        }
        out.push(v.iter().map(|&c| c as u8).collect());
    }
    Ok(out)
}

/// Elements that travel whole: index gaps and bits.
pub fn read_patches<F: Format>(
    r: &mut Reader,
    n: usize,
    segs: &mut [rows::Target],
) -> Result<(), Error> {
    let count = r.varint()?;
    // Patches come in order, so their segments are found by walking on.
    let (mut next, mut seg, mut before) = (0usize, 0, 0);
    for _ in 0..count {
        let gap = r.varint()? as usize;
        let bits = r.bytes(F::BYTES)?;
        if gap >= n - next {
            return Err(Error::Malformed);
        }
        let index = next + gap;
        while index - before >= segs[seg].elems {
            before += segs[seg].elems;
            seg += 1;
        }
        let at = (index - before) * F::BYTES;
        segs[seg].mem[at..at + F::BYTES].copy_from_slice(bits);
        next = index + 1;
    }
    Ok(())
}

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
    fn read(r: &mut Reader) -> Result<Self, Error> {
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
    fn decode<F: Format, I: Isa>(
        &self,
        r: &mut Reader,
        rows: &Rows,
        e: &[i16],
        segs: &mut [rows::Target],
    ) -> Result<(), Error> {
        if self.from_cells {
            self.decode_from::<F, I, true>(r, rows, e, segs)
        } else {
            self.decode_from::<F, I, false>(r, rows, e, segs)
        }
    }

    #[inline(always)]
    fn decode_from<F: Format, I: Isa, const CELLS: bool>(
        &self,
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
                    I::classify_cells::<F>(mem, e, &mut ctx[a..b]);
                } else {
                    I::classify::<F>(mem, e, &mut pos[a..b], &mut ctx[a..b]);
                }
                at = b;
            }
            if let Some(s) = &mut shift {
                I::decode(s, &ctx[..len], &mut sym[..len])?;
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
            I::decode(&mut stream, &ctx[..len], &mut sym[..len])?;
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
                if plain && I::combine_plain::<F>(mem, pos, sym, &mut fields, param) {
                    continue;
                }
                if self.sparse {
                    fields.take_some(raw, |i| is_zero(CELLS, ctx[i], sym[i]))?;
                } else {
                    I::take(&mut fields, raw)?;
                }
                if param.raw_zero > param.raw {
                    extra.upper(param.raw_zero - param.raw);
                    I::add_upper::<CELLS>(&mut extra, raw, param.raw, ctx, sym)?;
                }
                let elements = Elements {
                    mem,
                    pos,
                    ctx,
                    sym,
                    raw,
                };
                I::combine::<F, CELLS>(elements, param, self.target);
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

/// Whether a sparse chunk leaves out the element's raw field.
#[inline(always)]
pub fn is_zero(cells: bool, ctx: u8, sym: u8) -> bool {
    ctx == KNOWN || (!cells && ctx == 0 && sym < 2)
}
