//! The head of a refinement (SPEC.md, "Refinement").

use crate::format::wire::Reader;
use crate::Error;

/// Most halvings between the base step and any cells.
pub const TO_MAX: u32 = 15;
/// Most halvings of the base's bins that every element has a bit of: a position is a byte.
pub const MID_MAX: u32 = 8;
/// Most halvings beyond them: eight fields and what lies before them in a byte fit 64 bits.
pub const FINER_MAX: u32 = 7;

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
    /// Halvings up to which every element has a bit of each; `from` if that is not 0.
    pub mid: u32,
    /// Halvings that lead to the new cells. Beyond `mid` an element has a bit of each while its upper
    /// mantissa has any left.
    pub to: u32,
}

impl Head {
    /// # Errors
    /// `Truncated`, or `Malformed` where flags or halvings do not fit together.
    pub fn read(r: &mut Reader, full: bool) -> Result<Self, Error> {
        let flags = r.u8()?;
        let (from, mid, to) = (r.u8()?.into(), r.u8()?.into(), r.u8()?.into());
        let head = Head {
            exact: flags & EXACT != 0,
            shifted: flags & SHIFTED != 0,
            sparse: flags & SPARSE != 0,
            coarse: flags & COARSE != 0,
            from,
            mid,
            to,
        };
        let bins = from == 0;
        let good = flags < 16
            && (if bins {
                (1..=MID_MAX).contains(&mid)
            } else {
                mid == from
            })
            && (mid..=TO_MAX.min(mid + FINER_MAX)).contains(&to)
            && (to > from || head.exact)
            && (bins || !(head.shifted || head.coarse || full))
            && (!head.coarse || mid >= 2);
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
        out.extend_from_slice(&[flags, self.from as u8, self.mid as u8, self.to as u8]);
    }

    /// Width of the plain part of a position in a bin; 0 from cells.
    pub fn plain(&self) -> u32 {
        match (self.from, self.coarse) {
            (0, true) => self.mid - 2,
            (0, false) => self.mid,
            _ => 0,
        }
    }
}
