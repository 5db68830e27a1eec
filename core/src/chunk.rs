//! One chunk: header, and decoding in place (SPEC.md, "Chunk payloads").

use crate::adopt;
use crate::delta;
use crate::flat::Prior;
use crate::float::{pow2, Format, BF16, F16, F32};
use crate::opaque;
use crate::opaque_delta;
use crate::rans::{read_ints, Stream};
use crate::refine::{self, Head};
use crate::rows::{self, Rows, BLOCK};
use crate::simd::Isa;
use crate::wire::Reader;
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
            let head = Head::read(r, false)?;
            let e = refine::read_steps::<F>(r, &head, &rows, segs)?;
            check_exponents::<F>(&e)?;
            refine::decode::<F, I>(r, head, &rows, e, segs)
        }
        KIND_FULL => {
            let e = decode_base::<F, I>(r, &rows, segs)?;
            let head = Head::read(r, true)?;
            refine::decode::<F, I>(r, head, &rows, e, segs)
        }
        KIND_DELTA => delta::decode::<F, I>(r, &rows, segs, sources),
        KIND_ADOPT => adopt::decode::<F, I>(r, rows.elements(), segs, sources),
        _ => Err(Error::Malformed),
    }
}

fn check_exponents<F: Format>(e: &[i16]) -> Result<(), Error> {
    let good = |&e: &i16| (F::E_MIN..=F::E_MAX).contains(&i32::from(e));
    if e.iter().all(good) {
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
    check_exponents::<F>(&e)?;
    let columns = read_columns(r, segs)?;
    let mut stream = Stream::open(r, CLASSES)?;
    let n = rows.elements();
    let (mut ctx, mut sym) = ([0u8; BLOCK], [0u8; BLOCK]);
    let (mut row, mut start, mut pieces) = (0, 0, Vec::new());
    while start < n {
        let len = BLOCK.min(n - start);
        rows.pieces(start, len, F::BYTES, &mut row, &mut pieces);
        for p in &pieces {
            let class = ((scales[p.row] & 3) << 2) as u8;
            let (seg, skip) = rows.place(p.row, start + p.from);
            for (c, col) in ctx[p.range()].iter_mut().zip(&columns[seg][skip..]) {
                *c = class | col;
            }
        }
        I::decode(&mut stream, &ctx[..len], &mut sym[..len])?;
        for p in &pieces {
            let step = pow2(i32::from(e[p.row]));
            I::bin_values::<F>(&sym[p.range()], step, p.bytes_mut(segs));
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
