//! One chunk: its header, and decoding in place (SPEC.md, "Chunk payloads").

use self::refine::straight::Straight;
use crate::error::{Located, Place};
use crate::format::flat::Prior;
use crate::format::float::Format;
use crate::format::header::{
    by_format, Dtype, KIND_ADOPT, KIND_BASE, KIND_DELTA, KIND_FULL, KIND_GAPS, KIND_OPAQUE,
    KIND_OPAQUE_DELTA, KIND_REFINE,
};
use crate::format::refine::Head;
use crate::format::rows::{Rows, Target};
use crate::format::wire::Reader;
use crate::kernels::{Isa, Set, Task};
use crate::Error;
use core::marker::PhantomData;

pub mod adopt;
pub mod base;
pub mod delta;
pub mod fields;
pub mod gaps;
pub mod ints;
pub mod opaque;
pub mod opaque_delta;
pub mod patches;
pub mod refine;

/// Applies one chunk to the tensors' bytes: previous state in, next state out.
///
/// `item` is the element size in bytes of an opaque chunk; `sources` is where a version update begins,
/// one for each segment. On error the memory holds no state.
pub fn apply(
    set: Set,
    payload: &[u8],
    dtype: Dtype,
    item: usize,
    segs: &mut [Target],
    sources: &[Prior],
) -> Result<(), Error> {
    let mut r = Reader::new(payload);
    let kind = r.u8().at(Place::Header)?;
    let code = r.u8().at(Place::Header)?;
    // Whatever the dtype: a float tensor that levels do not pay for travels like this, too.
    let opaque = code == Dtype::Opaque as u8 && [KIND_OPAQUE, KIND_OPAQUE_DELTA].contains(&kind);
    if code != dtype as u8 && !opaque {
        return Err(Error::Mismatch).at(Place::Header);
    }
    let dtype = if opaque { Dtype::Opaque } else { dtype };
    if dtype == Dtype::Opaque && !opaque {
        return Err(Error::Mismatch).at(Place::Header);
    }
    set.run(Chunk {
        kind,
        dtype,
        item,
        r: &mut r,
        segs,
        sources,
    })?;
    r.end().at(Place::End)
}

/// Applies a base and refinements, all levels of a block at a time. Fails where [`apply`] fails for one
/// after the other, for chunks of other kinds, and for a refinement of another step than the base's.
pub fn straight(
    set: Set,
    payloads: &[&[u8]],
    dtype: Dtype,
    segs: &mut [Target],
) -> Result<(), Error> {
    if dtype == Dtype::Opaque {
        return Err(Error::Mismatch);
    }
    by_format!(dtype, F => set.run(Straight::<F>(payloads, segs, PhantomData)))
}

/// A chunk after its kind and dtype.
struct Chunk<'a, 'p, 's, 'm> {
    kind: u8,
    dtype: Dtype,
    item: usize,
    r: &'a mut Reader<'p>,
    segs: &'a mut [Target<'m>],
    sources: &'a [Prior<'s>],
}

impl Task for Chunk<'_, '_, '_, '_> {
    type Out = Result<(), Error>;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Out {
        let (r, segs, dtype) = (self.r, self.segs, self.dtype);
        if dtype == Dtype::Opaque {
            let done = match self.kind {
                KIND_OPAQUE => opaque::decode(isa, r, self.item, segs),
                _ => opaque_delta::decode(isa, r, self.item, segs, self.sources),
            };
            return done.at(Place::Planes);
        }
        let rows = Rows::new(segs, dtype.bytes())?;
        let n = rows.elements();
        let (count, elements) = (r.u32().at(Place::Header)?, r.u32().at(Place::Header)?);
        if count as usize != rows.count() || elements as usize != n {
            return Err(Error::Mismatch).at(Place::Header);
        }
        match self.kind {
            kind @ (KIND_BASE | KIND_REFINE | KIND_FULL) => {
                let e = match kind {
                    KIND_REFINE => None,
                    _ => Some(base::decode(isa, dtype, r, &rows, segs)?),
                };
                if kind == KIND_BASE {
                    return Ok(());
                }
                let rows = &rows;
                by_format!(dtype, F => refine::<F, _>(isa, r, rows, e, segs))
            }
            KIND_DELTA => delta::decode(isa, dtype, r, n, segs, self.sources),
            KIND_GAPS => gaps::decode(isa, dtype, r, n, segs, self.sources),
            KIND_ADOPT => adopt::decode(isa, dtype, r, n, segs, self.sources),
            _ => Err(Error::Malformed).at(Place::Header),
        }
    }
}

/// A refinement of one format: the base's exponents are those of a full chunk.
#[inline(always)]
fn refine<F: Format, I: Isa>(
    isa: I,
    r: &mut Reader,
    rows: &Rows,
    e: Option<Vec<i16>>,
    segs: &mut [Target],
) -> Result<(), Error> {
    let head = Head::read(r, e.is_some()).at(Place::Header)?;
    let e = match e {
        Some(e) => e,
        None => refine::read_steps::<F>(r, &head, rows, segs)?,
    };
    refine::straight::decode::<F, _>(isa, r, head, rows, e, segs)
}
