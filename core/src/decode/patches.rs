//! Elements that travel whole (SPEC.md, "Patches").

use crate::format::rows::Target;
use crate::format::wire::Reader;
use crate::Error;

/// Patches of `item` bytes in order: index gaps and bits. Each is read when its turn comes.
pub struct Patches<'a> {
    r: Reader<'a>,
    item: usize,
    /// Elements of the chunk.
    n: usize,
    /// Patches behind the next one.
    left: u32,
    /// Index and bits of the next one.
    next: Option<(usize, &'a [u8])>,
}

impl<'a> Patches<'a> {
    /// Those of a chunk of `n` elements, which are the rest of the reader's bytes.
    pub fn open(r: Reader<'a>, item: usize, n: usize) -> Result<Self, Error> {
        let mut r = r;
        let left = r.varint()?;
        let mut patches = Patches {
            r,
            item,
            n,
            left,
            next: None,
        };
        patches.advance(0)?;
        Ok(patches)
    }

    /// Reads the next one, of an element from `start` on.
    fn advance(&mut self, start: usize) -> Result<(), Error> {
        self.next = None;
        if self.left > 0 {
            self.left -= 1;
            let gap = self.r.varint()? as usize;
            let bits = self.r.bytes(self.item)?;
            if gap >= self.n - start {
                return Err(Error::Malformed);
            }
            self.next = Some((start + gap, bits));
        }
        Ok(())
    }

    /// The next one, if its element lies below `end`.
    #[inline(always)]
    pub fn below(&mut self, end: usize) -> Result<Option<(usize, &'a [u8])>, Error> {
        match self.next {
            Some((index, bits)) if index < end => {
                self.advance(index + 1)?;
                Ok(Some((index, bits)))
            }
            _ => Ok(None),
        }
    }

    /// The bytes behind the patches, all of which have been taken.
    pub fn rest(self) -> Reader<'a> {
        self.r
    }
}

/// Puts patches into a chunk's elements.
pub fn read_patches(
    r: &mut Reader,
    item: usize,
    n: usize,
    segs: &mut [Target],
) -> Result<(), Error> {
    let mut patches = Patches::open(r.rest(), item, n)?;
    // Patches come in order, so their segments are found by walking on.
    let (mut seg, mut before) = (0, 0);
    while let Some((index, bits)) = patches.below(n)? {
        while index - before >= segs[seg].elems {
            before += segs[seg].elems;
            seg += 1;
        }
        let at = (index - before) * item;
        segs[seg].mem[at..at + item].copy_from_slice(bits);
    }
    *r = patches.rest();
    Ok(())
}
