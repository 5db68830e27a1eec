//! The head of a refinement (SPEC.md, "Refinement").

use crate::format::wire::Reader;
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

    #[cfg(feature = "encode")]
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
