//! Elements that travel whole (SPEC.md, "Patches").

use crate::format::rows;
use crate::format::wire::Reader;
use crate::Error;

/// Elements of `item` bytes that travel whole: index gaps and bits.
pub fn read_patches(
    r: &mut Reader,
    item: usize,
    n: usize,
    segs: &mut [rows::Target],
) -> Result<(), Error> {
    let count = r.varint()?;
    // Patches come in order, so their segments are found by walking on.
    let (mut next, mut seg, mut before) = (0usize, 0, 0);
    for _ in 0..count {
        let gap = r.varint()? as usize;
        let bits = r.bytes(item)?;
        if gap >= n - next {
            return Err(Error::Malformed);
        }
        let index = next + gap;
        while index - before >= segs[seg].elems {
            before += segs[seg].elems;
            seg += 1;
        }
        let at = (index - before) * item;
        segs[seg].mem[at..at + item].copy_from_slice(bits);
        next = index + 1;
    }
    Ok(())
}
