//! Elements that travel whole (SPEC.md, "Patches").

use crate::format::float::Format;
use crate::format::rows;
use crate::format::wire::Reader;
use crate::Error;

/// Elements that travel whole: index gaps and bits.
pub fn read_patches<F: Format>(
    r: &mut Reader,
    n: usize,
    segs: &mut [rows::Target],
) -> Result<(), Error> {
    let count = r.varint()?;
    // Patches come in order, so their segments are found by walking on.
    let (mut next, mut seg, mut before) = (0usize, 0, 0);
    for _ in 0..count {
        let gap = r.varint()? as usize;
        let bits = r.bytes(F::BYTES)?;
        if gap >= n - next {
            return Err(Error::Malformed);
        }
        let index = next + gap;
        while index - before >= segs[seg].elems {
            before += segs[seg].elems;
            seg += 1;
        }
        let at = (index - before) * F::BYTES;
        segs[seg].mem[at..at + F::BYTES].copy_from_slice(bits);
        next = index + 1;
    }
    Ok(())
}
