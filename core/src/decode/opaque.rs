//! Tensors that have no levels: bytes by significance, each plane coded on its own.

use crate::entropy::rans::Stream;
use crate::format::rows::{Segment, Target, BLOCK, MAX_ELEMENTS};
use crate::format::wire::Reader;
use crate::kernels::Isa;
use crate::Error;

pub const MAX_ITEM: usize = 16;
pub const CONSTANT: u8 = 0;
pub const STORED: u8 = 1;
pub const CODED: u8 = 2;

/// Number of elements.
pub fn elements<M: AsRef<[u8]>>(segs: &[Segment<M>], item: usize) -> Result<usize, Error> {
    if item == 0 || item > MAX_ITEM {
        return Err(Error::Argument);
    }
    let mut n = 0usize;
    for s in segs {
        if s.elems == 0 || s.elems > MAX_ELEMENTS || s.mem.as_ref().len() != s.elems * item {
            return Err(Error::Argument);
        }
        n += s.elems;
    }
    if n == 0 || n > MAX_ELEMENTS {
        return Err(Error::Argument);
    }
    Ok(n)
}

/// Calls `f` with every byte of plane `plane`, in order.
#[inline(always)]
fn plane_bytes(segs: &mut [Target], item: usize, plane: usize, mut f: impl FnMut(&mut u8)) {
    for s in segs {
        for b in s.mem[plane..].iter_mut().step_by(item) {
            f(b);
        }
    }
}

pub fn decode<I: Isa>(
    isa: I,
    r: &mut Reader,
    item: usize,
    segs: &mut [Target],
) -> Result<(), Error> {
    let n = elements(segs, item)?;
    if r.u8()? as usize != item || r.varint()? as usize != n {
        return Err(Error::Mismatch);
    }
    for plane in 0..item {
        match r.u8()? {
            CONSTANT => {
                let v = r.u8()?;
                plane_bytes(segs, item, plane, |b| *b = v);
            }
            STORED => {
                let mut src = r.bytes(n)?.iter();
                plane_bytes(segs, item, plane, |b| *b = *src.next().unwrap_or(&0));
            }
            CODED => {
                let mut stream = Stream::open(r, 1)?;
                let mut out = vec![0u8; n];
                let ctx = [0u8; BLOCK];
                for block in out.chunks_mut(BLOCK) {
                    isa.decode_symbols(&mut stream, &ctx[..block.len()], block)?;
                }
                stream.finish()?;
                let mut src = out.iter();
                plane_bytes(segs, item, plane, |b| *b = *src.next().unwrap_or(&0));
            }
            _ => return Err(Error::Malformed),
        }
    }
    Ok(())
}
