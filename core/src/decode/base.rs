//! Bases: a bin of each element (SPEC.md, "Base").

use super::ints::read_ints;
use super::patches::read_patches;
use crate::entropy::rans::Stream;
use crate::format::float::{pow2, Format};
use crate::format::header::{by_format, Dtype, CLASSES, COLUMN_CLASSES};
use crate::format::rows::{self, Rows, BLOCK};
use crate::format::wire::Reader;
use crate::kernels::Isa;
use crate::Error;

/// Decodes the base and returns the rows' step exponents.
#[inline(always)]
pub fn decode<I: Isa>(
    isa: I,
    dtype: Dtype,
    r: &mut Reader,
    rows: &Rows,
    segs: &mut [rows::Target],
) -> Result<Vec<i16>, Error> {
    let scales = read_ints(r, rows.count())?;
    let e: Vec<i16> = scales.iter().map(|v| v >> 2).collect();
    check_exponents(dtype, &e)?;
    let columns = read_columns(r, segs)?;
    let mut stream = Stream::open(r, CLASSES)?;
    let n = rows.elements();
    let (mut ctx, mut sym) = ([0u8; BLOCK], [0u8; BLOCK]);
    let (mut row, mut start, mut pieces) = (0, 0, Vec::new());
    while start < n {
        let len = BLOCK.min(n - start);
        rows.pieces(start, len, dtype.bytes(), &mut row, &mut pieces);
        for p in &pieces {
            let class = ((scales[p.row] & 3) << 2) as u8;
            let (seg, skip) = rows.place(p.row, start + p.from);
            for (c, col) in ctx[p.range()].iter_mut().zip(&columns[seg][skip..]) {
                *c = class | col;
            }
        }
        isa.decode_symbols(&mut stream, &ctx[..len], &mut sym[..len])?;
        for p in &pieces {
            let step = pow2(i32::from(e[p.row]));
            let (sym, mem) = (&sym[p.range()], p.bytes_mut(segs));
            by_format!(dtype, F => isa.bin_values::<F>(sym, step, mem));
        }
        start += len;
    }
    stream.finish()?;
    read_patches(r, dtype.bytes(), n, segs)?;
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

pub fn check_exponents(dtype: Dtype, e: &[i16]) -> Result<(), Error> {
    let (min, max) = by_format!(dtype, F => (F::E_MIN, F::E_MAX));
    let good = |&e: &i16| (min..=max).contains(&i32::from(e));
    if e.iter().all(good) {
        Ok(())
    } else {
        Err(Error::Malformed)
    }
}
