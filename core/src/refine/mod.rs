//! Refinements: from the base's bins to finer cells, and to the floats themselves (SPEC.md, "Refinement").
//!
//! Inside a bin the density of weights is flat, so the position of the finer cell and the low bits of
//! the float are plain bit fields. Only rare or skewed facts are entropy coded: codes that are not the
//! nearest, exact zeros, octaves near zero, and the first two halvings of a coarse base.

pub mod bits;
mod block;
pub mod cells;
mod decode;
mod encode;
mod look;

pub use decode::{decode, read_steps};
pub use encode::{refine, Step};

use crate::float::{pow2, Format};
use crate::wire::Reader;
use crate::Error;

/// Most halvings between the base step and any cells.
pub const TO_MAX: u32 = 15;
/// Most halvings of one refinement: a position is a byte.
pub const K_MAX: u32 = 8;

const EXACT: u8 = 1;
const SHIFTED: u8 = 2;
const SPARSE: u8 = 4;
const COARSE: u8 = 8;

/// Parameters of a refinement that hold for the whole chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Ends with the floats themselves.
    pub exact: bool,
    /// Base codes that are not the nearest are moved first.
    pub shifted: bool,
    /// Exact zeros have no fields.
    pub sparse: bool,
    /// The first two halvings are entropy coded.
    pub coarse: bool,
    /// Halvings of the base step that lead to the cells at hand; 0: the base's bins.
    pub from: u32,
    /// Halvings that lead to the new cells.
    pub to: u32,
}

impl Head {
    /// # Errors
    /// `Truncated`, or `Malformed` where flags or halvings do not fit together.
    pub fn read(r: &mut Reader, full: bool) -> Result<Self, Error> {
        let (flags, from, to) = (r.u8()?, u32::from(r.u8()?), u32::from(r.u8()?));
        let head = Head {
            exact: flags & EXACT != 0,
            shifted: flags & SHIFTED != 0,
            sparse: flags & SPARSE != 0,
            coarse: flags & COARSE != 0,
            from,
            to,
        };
        let bins = from == 0;
        let good = flags < 16
            && from <= to
            && (1..=TO_MAX).contains(&to)
            && to - from <= K_MAX
            && (to > from || head.exact)
            && (bins || !(head.shifted || head.coarse || full))
            && (!head.coarse || to - from >= 2);
        if good {
            Ok(head)
        } else {
            Err(Error::Malformed)
        }
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let flags = flag(self.exact, EXACT)
            | flag(self.shifted, SHIFTED)
            | flag(self.sparse, SPARSE)
            | flag(self.coarse, COARSE);
        out.extend_from_slice(&[flags, self.from as u8, self.to as u8]);
    }

    /// Halvings of this refinement.
    pub fn k(&self) -> u32 {
        self.to - self.from
    }

    /// Width of the plain part of a position.
    pub fn plain(&self) -> u32 {
        self.k() - if self.coarse { 2 } else { 0 }
    }
}

/// One row's way from bins or cells to finer cells.
#[derive(Clone, Copy)]
pub struct Halving {
    /// Smallest ordered integer that the base has delivered exactly.
    pub known: u32,
    /// Zeros are exact zeros: the previous bytes are cells.
    pub cells: bool,
    /// Half the width of the new cells.
    pub half: f32,
    /// Halvings.
    pub k: u32,
}

impl Halving {
    /// `e` is the base's step exponent.
    #[inline(always)]
    pub fn new<F: Format>(head: &Head, e: i32) -> Self {
        Halving {
            known: known_from::<F>(e),
            cells: head.from > 0,
            half: pow2(e - head.to as i32 - 1),
            k: head.k(),
        }
    }
    /// What takes a value to the number of its new cell.
    #[inline(always)]
    pub fn scale(&self) -> f32 {
        // The reciprocal of a power of two.
        f32::from_bits((254 << 23) - (2.0 * self.half).to_bits())
    }
}

/// Smallest ordered integer that lies outside the bins: the base delivers it exactly.
#[inline(always)]
pub fn known_from<F: Format>(e: i32) -> u32 {
    F::ceil(127.5 * pow2(e))
}

/// One row's way from cells to floats.
#[derive(Clone, Copy)]
pub struct Fraction {
    /// Width of an upper field plus the exponent field of its element.
    pub reach: i32,
    /// Low bits that are zero in every float of the row.
    pub tz: u32,
}

impl Fraction {
    #[inline(always)]
    pub fn new<F: Format>(head: &Head, e: i32, tz: u32) -> Self {
        let reach = 7 + e - head.to as i32 + F::BIAS;
        Fraction {
            reach: if reach < 0 { 0 } else { reach },
            tz,
        }
    }
    /// Width of the low plane's fields.
    #[inline(always)]
    pub fn low<F: Format>(&self) -> u32 {
        F::LOW.saturating_sub(self.tz)
    }
    /// Bits of the upper part that are zero throughout the row, as a mask.
    #[inline(always)]
    pub fn idle<F: Format>(&self) -> u8 {
        (1 << self.tz.saturating_sub(F::LOW)) - 1
    }
}
