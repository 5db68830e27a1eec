//! Segments of tensors and the rows in them: how a chunk's elements lie in the caller's memory.

use crate::float::Format;
use crate::Error;

/// Elements a block holds; a multiple of the lane count, small enough for the first-level cache.
pub const BLOCK: usize = 2048;
/// Most elements a chunk may have.
pub const MAX_ELEMENTS: usize = 1 << 24;

/// The caller's memory, written in place.
pub type Target<'a> = Segment<&'a mut [u8]>;

/// Whole rows of one tensor: `elems` elements in rows of `cols`, the last one possibly shorter.
pub struct Segment<M> {
    pub mem: M,
    pub elems: usize,
    pub cols: usize,
}

/// End of every row in the chunk's linear order.
pub struct Rows {
    ends: Vec<u32>,
    /// Segment of every row.
    segs: Vec<u32>,
}

/// Part of one row within a block: positions `from..to` of the block.
pub struct Piece {
    pub row: usize,
    pub from: usize,
    pub to: usize,
}

impl Rows {
    pub fn new<M: AsRef<[u8]>>(segments: &[Segment<M>], item: usize) -> Result<Self, Error> {
        let (mut ends, mut of) = (Vec::new(), Vec::new());
        let mut at = 0usize;
        for (i, s) in segments.iter().enumerate() {
            // Before the product, which would overflow.
            let counted = s.cols > 0 && s.elems > 0 && s.elems <= MAX_ELEMENTS;
            if !counted || s.mem.as_ref().len() != s.elems * item {
                return Err(Error::Argument);
            }
            let stop = at + s.elems;
            if stop > MAX_ELEMENTS {
                return Err(Error::Argument);
            }
            while at < stop {
                at = stop.min(at + s.cols);
                ends.push(at as u32);
                of.push(i as u32);
            }
        }
        if ends.is_empty() {
            return Err(Error::Argument);
        }
        Ok(Rows { ends, segs: of })
    }
    pub fn count(&self) -> usize {
        self.ends.len()
    }
    pub fn elements(&self) -> usize {
        self.ends.last().map_or(0, |&e| e as usize)
    }
    /// Length of row `r`.
    pub fn range(&self, r: usize) -> core::ops::Range<usize> {
        let from = if r == 0 { 0 } else { self.ends[r - 1] as usize };
        from..self.ends[r] as usize
    }
    /// Segment and column of element `at`, which is in row `r`.
    #[inline(always)]
    pub fn place(&self, r: usize, at: usize) -> (usize, usize) {
        (self.segs[r] as usize, at - self.range(r).start)
    }
    /// The pieces of the block that starts at `start`; `row` is where the last block stopped.
    #[inline(always)]
    pub fn next_piece(&self, start: usize, len: usize, from: usize, row: &mut usize) -> Option<Piece> {
        if from >= len {
            return None;
        }
        let r = *row;
        let end = self.ends[r] as usize;
        let to = len.min(end - start);
        if start + to == end {
            *row += 1;
        }
        Some(Piece { row: r, from, to })
    }
}

/// Moves elements between segments and blocks, in order.
#[derive(Default)]
pub struct Cursor {
    seg: usize,
    at: usize,
}

impl Cursor {
    /// The next at most `len` elements that lie in one segment: its number, first and count.
    #[inline(always)]
    fn step<M>(&mut self, segs: &[Segment<M>], len: usize) -> (usize, usize, usize) {
        let s = &segs[self.seg];
        let (seg, at) = (self.seg, self.at);
        let n = (s.elems - at).min(len);
        self.at += n;
        if self.at == s.elems {
            self.seg += 1;
            self.at = 0;
        }
        (seg, at, n)
    }
    #[inline(always)]
    pub fn load<F: Format, M: AsRef<[u8]>>(&mut self, segs: &[Segment<M>], out: &mut [u32]) {
        let mut done = 0;
        while done < out.len() {
            let (seg, at, n) = self.step(segs, out.len() - done);
            let mem = &segs[seg].mem.as_ref()[at * F::BYTES..(at + n) * F::BYTES];
            for (o, m) in out[done..done + n].iter_mut().zip(mem.chunks_exact(F::BYTES)) {
                *o = F::load(m, 0);
            }
            done += n;
        }
    }
    #[inline(always)]
    pub fn store<F: Format>(&mut self, segs: &mut [Target], bits: &[u32]) {
        let mut done = 0;
        while done < bits.len() {
            let (seg, at, n) = self.step(segs, bits.len() - done);
            let mem = &mut segs[seg].mem[at * F::BYTES..(at + n) * F::BYTES];
            for (b, m) in bits[done..done + n].iter().zip(mem.chunks_exact_mut(F::BYTES)) {
                F::store(m, 0, *b);
            }
            done += n;
        }
    }
}
