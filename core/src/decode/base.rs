//! Bases: a bin of each element (SPEC.md, "Base").

use super::ints::read_ints;
use super::patches::read_patches;
use crate::entropy::rans::Stream;
use crate::error::{Located, Place};
use crate::format::float::{pow2, Format};
use crate::format::header::{by_format, Dtype, CLASSES, COLUMN_CLASSES};
use crate::format::rows::{Piece, Rows, Target, BLOCK};
use crate::format::wire::Reader;
use crate::kernels::Isa;
use crate::Error;

/// A base as far as it is read.
pub struct Base<'a> {
    /// Step exponents of the rows.
    pub e: Vec<i16>,
    scales: Vec<i16>,
    columns: Vec<Vec<u8>>,
    stream: Stream<'a>,
}

impl<'a> Base<'a> {
    /// Reads all but the patches.
    pub fn read(
        dtype: Dtype,
        r: &mut Reader<'a>,
        rows: &Rows,
        segs: &[Target],
    ) -> Result<Self, Error> {
        let scales = read_ints(r, rows.count()).at(Place::Scales)?;
        let e: Vec<i16> = scales.iter().map(|v| v >> 2).collect();
        check_exponents(dtype, &e).at(Place::Scales)?;
        Ok(Base {
            e,
            scales,
            columns: read_columns(r, segs).at(Place::Columns)?,
            stream: Stream::open(r, CLASSES).at(Place::Symbols)?,
        })
    }

    /// Symbols of the block that begins at `start`; `ctx` gets their contexts.
    #[inline(always)]
    pub fn symbols<I: Isa>(
        &mut self,
        isa: I,
        rows: &Rows,
        pieces: &[Piece],
        start: usize,
        (ctx, sym): (&mut [u8], &mut [u8]),
    ) -> Result<(), Error> {
        for p in pieces {
            let class = ((self.scales[p.row] & 3) << 2) as u8;
            let (seg, skip) = rows.place(p.row, start + p.from);
            for (c, col) in ctx[p.range()].iter_mut().zip(&self.columns[seg][skip..]) {
                *c = class | col;
            }
        }
        isa.decode_symbols(&mut self.stream, ctx, sym)
            .at(Place::Symbols)
    }

    /// Checks that no symbols are left.
    pub fn finish(&self) -> Result<(), Error> {
        self.stream.finish().at(Place::Symbols)
    }
}

/// Decodes the base and returns the rows' step exponents.
#[inline(always)]
pub fn decode<I: Isa>(
    isa: I,
    dtype: Dtype,
    r: &mut Reader,
    rows: &Rows,
    segs: &mut [Target],
) -> Result<Vec<i16>, Error> {
    let mut base = Base::read(dtype, r, rows, segs)?;
    let n = rows.elements();
    let (mut ctx, mut sym) = ([0u8; BLOCK], [0u8; BLOCK]);
    let (mut row, mut start, mut pieces) = (0, 0, Vec::new());
    while start < n {
        let len = BLOCK.min(n - start);
        rows.pieces(start, len, dtype.bytes(), &mut row, &mut pieces);
        let block = (&mut ctx[..len], &mut sym[..len]);
        base.symbols(isa, rows, &pieces, start, block)?;
        for p in &pieces {
            let step = pow2(i32::from(base.e[p.row]));
            let (sym, mem) = (&sym[p.range()], p.bytes_mut(segs));
            by_format!(dtype, F => isa.bin_values::<F>(sym, step, mem));
        }
        start += len;
    }
    base.finish()?;
    read_patches(r, dtype.bytes(), n, segs).at(Place::Patches)?;
    Ok(base.e)
}

/// Column classes of every segment.
fn read_columns(r: &mut Reader, segs: &[Target]) -> Result<Vec<Vec<u8>>, Error> {
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

pub fn check_exponents(dtype: Dtype, e: &[i16]) -> Result<(), Error> {
    let (min, max) = by_format!(dtype, F => (F::E_MIN, F::E_MAX));
    let good = |&e: &i16| (min..=max).contains(&i32::from(e));
    if e.iter().all(good) {
        Ok(())
    } else {
        Err(Error::Malformed)
    }
}
