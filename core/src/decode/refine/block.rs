//! A block of consecutive elements, small enough that all passes over it find it in cache.

use crate::format::rows::{Piece, Rows, BLOCK};
use crate::kernels::scalar::cells::Deep;
use core::ops::Range;

/// The elements of a block, the parts of rows in it, and what its passes tell one another.
pub struct Block {
    /// First element, and how many there are.
    pub start: usize,
    pub len: usize,
    pub pieces: Vec<Piece>,
    /// Row at which the next block begins.
    row: usize,
    /// 1 and 2 for exact zeros, by their signs, which have no fields; 0 for all others.
    pub absent: [u8; BLOCK],
    pub ctx: [u8; BLOCK],
    pub sym: [u8; BLOCK],
    pub positions: [u8; BLOCK],
    pub masks: [u8; BLOCK],
    pub fields: [u8; BLOCK],
    pub low: [u16; BLOCK],
    pub deep: Deep,
}

impl Block {
    /// The block before the first one.
    pub fn new() -> Box<Self> {
        Box::new(Block {
            start: 0,
            len: 0,
            pieces: Vec::new(),
            row: 0,
            absent: [0; BLOCK],
            ctx: [0; BLOCK],
            sym: [0; BLOCK],
            positions: [0; BLOCK],
            masks: [0; BLOCK],
            fields: [0; BLOCK],
            low: [0; BLOCK],
            deep: Deep::new(),
        })
    }

    /// Moves on to the next block; says whether there is one.
    #[inline(always)]
    pub fn next(&mut self, rows: &Rows, item: usize) -> bool {
        self.start += self.len;
        self.len = BLOCK.min(rows.elements() - self.start);
        rows.pieces(self.start, self.len, item, &mut self.row, &mut self.pieces);
        self.len > 0
    }

    /// How many elements of a range have fields.
    #[inline(always)]
    pub fn present(&self, sparse: bool, at: Range<usize>) -> usize {
        if sparse {
            self.absent[at].iter().filter(|&&a| a == 0).count()
        } else {
            at.len()
        }
    }
}

/// Moves the first `present` values to the elements that are there, in place; absent ones get 0.
pub fn spread<T: Copy + Default>(values: &mut [T], present: usize, absent: &[u8]) {
    let mut from = present;
    for (i, &a) in absent.iter().enumerate().rev() {
        if a == 0 {
            from -= 1;
            values[i] = values[from];
        } else {
            values[i] = T::default();
        }
    }
}

#[cfg(feature = "encode")]
/// The inverse of [`spread`]: closes the gaps; returns how many values are left.
pub fn close<T: Copy>(values: &mut [T], absent: &[u8]) -> usize {
    let mut to = 0;
    for (i, &a) in absent.iter().enumerate() {
        values[to] = values[i];
        to += usize::from(a == 0);
    }
    to
}
