//! Bases: a bin of each element (SPEC.md, "Base").

use super::ints::read_ints;
use super::patches::read_patches;
use crate::entropy::rans::Stream;
use crate::entropy::table::Layout;
use crate::format::float::{pow2, Format};
use crate::format::header::{CLASSES, COLUMN_CLASSES};
use crate::format::rows::{self, Rows, BLOCK};
use crate::format::wire::Reader;
use crate::kernels::Isa;
use crate::Error;

/// Decodes the base and returns the rows' step exponents.
#[inline(always)]
pub fn decode<F: Format, I: Isa>(
    isa: I,
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
        isa.decode_symbols(&mut stream, &ctx[..len], &mut sym[..len])?;
        row = first;
        at = 0;
        while let Some(p) = rows.next_piece(start, len, at, &mut row) {
            let step = pow2(i32::from(e[p.row]));
            let (seg, bytes) = rows.bytes(p.row, start + p.from..start + p.to, F::BYTES);
            isa.bin_values::<F>(&sym[p.from..p.to], step, &mut segs[seg].mem[bytes]);
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

pub fn check_exponents<F: Format>(e: &[i16], lowest: i32) -> Result<(), Error> {
    let ok = e
        .iter()
        .all(|&e| (lowest..=F::E_MAX).contains(&i32::from(e)));
    if ok {
        Ok(())
    } else {
        Err(Error::Malformed)
    }
}
