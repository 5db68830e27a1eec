//! One chunk: its header, and decoding in place (SPEC.md, "Chunk payloads").

use crate::format::flat::Prior;
use crate::format::float::{Format, BF16, F16, F32};
use crate::format::header::{
    Dtype, KIND_ADOPT, KIND_BASE, KIND_DELTA, KIND_FULL, KIND_OPAQUE, KIND_OPAQUE_DELTA,
    KIND_REFINE,
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
    let kind = r.u8()?;
    let code = r.u8()?;
    // Whatever the dtype: a float tensor that levels do not pay for travels like this, too.
    let opaque = code == Dtype::Opaque as u8 && [KIND_OPAQUE, KIND_OPAQUE_DELTA].contains(&kind);
    if code != dtype as u8 && !opaque {
        return Err(Error::Mismatch);
    }
    let dtype = if opaque { Dtype::Opaque } else { dtype };
    if dtype == Dtype::Opaque && !opaque {
        return Err(Error::Mismatch);
    }
    set.run(Chunk {
        kind,
        dtype,
        item,
        r: &mut r,
        segs,
        sources,
    })?;
    r.end()
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
        match (self.dtype, self.kind) {
            (Dtype::Opaque, KIND_OPAQUE) => opaque::decode(isa, self.r, self.item, self.segs),
            (Dtype::Opaque, _) => {
                opaque_delta::decode(isa, self.r, self.item, self.segs, self.sources)
            }
            (Dtype::F32, _) => isa.enter(Floats::<F32>(self, PhantomData)),
            (Dtype::F16, _) => isa.enter(Floats::<F16>(self, PhantomData)),
            (Dtype::BF16, _) => isa.enter(Floats::<BF16>(self, PhantomData)),
        }
    }
}

/// A chunk of floats of one format.
struct Floats<'a, 'p, 's, 'm, F>(Chunk<'a, 'p, 's, 'm>, PhantomData<F>);

impl<F: Format> Task for Floats<'_, '_, '_, '_, F> {
    type Out = Result<(), Error>;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Out {
        let (r, segs, sources) = (self.0.r, self.0.segs, self.0.sources);
        let rows = Rows::new(segs, F::BYTES)?;
        if r.u32()? as usize != rows.count() || r.u32()? as usize != rows.elements() {
            return Err(Error::Mismatch);
        }
        match self.0.kind {
            KIND_BASE => base::decode::<F, _>(isa, r, &rows, segs).map(|_| ()),
            KIND_REFINE => {
                let head = Head::read(r, false)?;
                let e = refine::read_steps::<F>(r, &head, &rows, segs)?;
                refine::decode::<F, _>(isa, r, head, &rows, e, segs)
            }
            KIND_FULL => {
                let e = base::decode::<F, _>(isa, r, &rows, segs)?;
                let head = Head::read(r, true)?;
                refine::decode::<F, _>(isa, r, head, &rows, e, segs)
            }
            KIND_DELTA => delta::decode::<F, _>(isa, r, &rows, segs, sources),
            KIND_ADOPT => adopt::decode::<F, _>(isa, r, rows.elements(), segs, sources),
            _ => Err(Error::Malformed),
        }
    }
}
