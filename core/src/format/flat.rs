//! A chunk's elements as one run, wherever the segments lie: copies in and out, with the bytes that a
//! version update begins at.

use crate::format::convert::Conversion;
use crate::format::rows::{self, Segment};
use crate::kernels::Isa;
use crate::Error;
use core::ops::Range;

/// Where an update begins: bytes of the parent, one buffer per segment; `None`: the segment itself.
pub type Prior<'a> = Option<&'a [u8]>;

/// Finds the segment of ascending elements.
#[derive(Clone, Copy, Default)]
pub struct Cursor {
    seg: usize,
    /// First element of the segment.
    start: usize,
}

/// Part of a run of elements, all in one segment.
pub struct Part {
    pub seg: usize,
    /// Elements of the segment.
    pub inner: Range<usize>,
    /// Elements of the run.
    pub outer: Range<usize>,
}

impl Cursor {
    /// The part of `run` that begins `done` elements into it, if any is left. Runs come in order.
    #[inline(always)]
    pub fn part<M>(
        &mut self,
        segs: &[Segment<M>],
        run: &Range<usize>,
        done: usize,
    ) -> Option<Part> {
        let at = run.start + done;
        if at >= run.end {
            return None;
        }
        while at - self.start >= segs[self.seg].elems {
            self.start += segs[self.seg].elems;
            self.seg += 1;
        }
        let from = at - self.start;
        let len = (segs[self.seg].elems - from).min(run.end - at);
        Some(Part {
            seg: self.seg,
            inner: from..from + len,
            outer: done..done + len,
        })
    }
}

impl Cursor {
    /// The part of `run` if all of it is in one segment; the cursor stays if not. Runs come in order.
    #[inline(always)]
    pub fn whole<M>(&mut self, segs: &[Segment<M>], run: &Range<usize>) -> Option<Part> {
        let mut at = *self;
        let part = at.part(segs, run, 0)?;
        if part.outer.len() < run.len() {
            return None;
        }
        *self = at;
        Some(part)
    }
}

/// Bytes of elements.
#[inline(always)]
pub fn bytes(elems: &Range<usize>, item: usize) -> Range<usize> {
    elems.start * item..elems.end * item
}

/// Checks that every segment has a source of as many elements of `item` bytes; none is needed if
/// `own` says that the segment itself will do.
pub fn check_sources<M>(
    segs: &[Segment<M>],
    sources: &[Prior],
    item: usize,
    own: bool,
) -> Result<(), Error> {
    let fits = |(seg, source): (&Segment<M>, &Prior)| match source {
        Some(mem) => mem.len() == seg.elems * item,
        None => own,
    };
    if segs.len() == sources.len() && segs.iter().zip(sources).all(fits) {
        Ok(())
    } else {
        Err(Error::Mismatch)
    }
}

/// Predictions of a run of elements: the source's, converted. `mem` gives the bytes of a segment's
/// source.
pub fn gather<'a, I: Isa, M>(
    isa: I,
    way: Conversion,
    segs: &[Segment<M>],
    mem: impl Fn(usize) -> &'a [u8],
    run: &Range<usize>,
    at: &mut Cursor,
    out: &mut [u8],
) {
    let mut done = 0;
    while let Some(p) = at.part(segs, run, done) {
        let from = &mem(p.seg)[bytes(&p.inner, way.source.bytes())];
        way.run(isa, from, &mut out[bytes(&p.outer, way.dtype.bytes())]);
        done = p.outer.end;
    }
}

/// Writes a run of elements.
pub fn scatter(
    segs: &mut [rows::Target],
    item: usize,
    run: &Range<usize>,
    at: &mut Cursor,
    from: &[u8],
) {
    let mut done = 0;
    while let Some(p) = at.part(segs, run, done) {
        segs[p.seg].mem[bytes(&p.inner, item)].copy_from_slice(&from[bytes(&p.outer, item)]);
        done = p.outer.end;
    }
}

/// Takes a run of elements over from the sources, where these are not the segments themselves.
pub fn copy<I: Isa>(
    isa: I,
    way: Conversion,
    segs: &mut [rows::Target],
    sources: &[Prior],
    run: &Range<usize>,
    at: &mut Cursor,
) {
    let mut done = 0;
    while let Some(p) = at.part(segs, run, done) {
        if let Some(mem) = sources[p.seg] {
            let to = &mut segs[p.seg].mem[bytes(&p.inner, way.dtype.bytes())];
            way.run(isa, &mem[bytes(&p.inner, way.source.bytes())], to);
        }
        done = p.outer.end;
    }
}
