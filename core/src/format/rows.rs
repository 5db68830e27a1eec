//! Segments of tensors and the rows in them: how a chunk's elements lie in the caller's memory.

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
    /// First element of every segment.
    starts: Vec<u32>,
}

/// Part of one row within a block: positions `from..to` of the block.
#[derive(Clone, Copy)]
pub struct Piece {
    pub row: usize,
    pub from: usize,
    pub to: usize,
    /// Segment, and the range of its bytes.
    pub seg: usize,
    start: usize,
    end: usize,
}

impl Piece {
    /// Its bytes.
    #[inline(always)]
    pub fn bytes<'a, M: AsRef<[u8]>>(&self, segs: &'a [Segment<M>]) -> &'a [u8] {
        &segs[self.seg].mem.as_ref()[self.start..self.end]
    }
    /// Its bytes, to be written.
    #[inline(always)]
    pub fn bytes_mut<'a>(&self, segs: &'a mut [Target]) -> &'a mut [u8] {
        &mut segs[self.seg].mem[self.start..self.end]
    }
    /// Its positions in the block.
    #[inline(always)]
    pub fn range(&self) -> core::ops::Range<usize> {
        self.from..self.to
    }
}

impl Rows {
    pub fn new<M: AsRef<[u8]>>(segments: &[Segment<M>], item: usize) -> Result<Self, Error> {
        let (mut ends, mut of, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        let mut at = 0usize;
        for (i, s) in segments.iter().enumerate() {
            // Before the product, which would overflow.
            let counted = s.cols > 0 && s.elems > 0 && s.elems <= MAX_ELEMENTS;
            if !counted || s.mem.as_ref().len() != s.elems * item {
                return Err(Error::Argument);
            }
            starts.push(at as u32);
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
        Ok(Rows {
            ends,
            segs: of,
            starts,
        })
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
    /// Segment and bytes of elements `range`, all in row `r`, of `item` bytes each.
    #[inline(always)]
    pub fn bytes(
        &self,
        r: usize,
        range: core::ops::Range<usize>,
        item: usize,
    ) -> (usize, core::ops::Range<usize>) {
        let seg = self.segs[r] as usize;
        let start = self.starts[seg] as usize;
        (
            seg,
            (range.start - start) * item..(range.end - start) * item,
        )
    }
    /// The pieces of the block that starts at `start`; `row` is where the last block stopped.
    #[inline(always)]
    pub fn pieces(
        &self,
        start: usize,
        len: usize,
        item: usize,
        row: &mut usize,
        out: &mut Vec<Piece>,
    ) {
        out.clear();
        let mut from = 0;
        while from < len {
            let r = *row;
            let end = self.ends[r] as usize;
            let to = len.min(end - start);
            let (seg, bytes) = self.bytes(r, start + from..start + to, item);
            out.push(Piece {
                row: r,
                from,
                to,
                seg,
                start: bytes.start,
                end: bytes.end,
            });
            *row += usize::from(start + to == end);
            from = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_all_elements_once() {
        let mem = vec![0u8; 2 * 10_000];
        let seg = |elems: usize, cols: usize| Segment {
            mem: &mem[..2 * elems],
            elems,
            cols,
        };
        let segs = [seg(7000, 300), seg(1, 9), seg(5, 1)];
        let rows = Rows::new(&segs, 2).expect("rows");
        assert_eq!((rows.count(), rows.elements()), (24 + 1 + 5, 7006));
        let (mut start, mut row, mut pieces, mut last) = (0, 0, Vec::new(), None);
        while start < rows.elements() {
            let len = BLOCK.min(rows.elements() - start);
            rows.pieces(start, len, 2, &mut row, &mut pieces);
            let mut from = 0;
            for p in &pieces {
                assert_eq!(p.from, from);
                assert_eq!(p.bytes(&segs).len(), 2 * (p.to - p.from));
                assert!(last.map_or(p.row == 0, |r| p.row == r || p.row == r + 1));
                (from, last) = (p.to, Some(p.row));
            }
            assert_eq!(from, len);
            start += len;
        }
        assert_eq!(last, Some(29));
    }

    #[test]
    fn segments_that_do_not_fit_are_refused() {
        let refused = |bytes: usize, elems: usize, cols: usize| {
            let mem = vec![0u8; bytes];
            Rows::new(
                &[Segment {
                    mem: &mem[..],
                    elems,
                    cols,
                }],
                4,
            )
            .err()
                == Some(Error::Argument)
        };
        assert!(!refused(8, 2, 1));
        assert!(refused(8, 2, 0) && refused(8, 0, 1) && refused(7, 2, 1));
        assert!(refused(8, usize::MAX / 2 + 3, 1), "no overflow");
        assert!(Rows::new::<&[u8]>(&[], 4).is_err());
    }
}
