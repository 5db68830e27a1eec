//! The encoder of tensors that have no levels; the twin of `decode/opaque.rs`.

use super::stream::encode;
use crate::decode::opaque::{elements, CODED, CONSTANT, STORED};
use crate::format::header::{Dtype, KIND_OPAQUE};
use crate::format::rows::Segment;
use crate::format::wire::put_varint;
use crate::kernels::{Isa, Task};
use crate::Error;

/// Elements of `item` bytes.
pub struct Opaque<'a> {
    pub item: usize,
    pub segs: &'a [Segment<&'a [u8]>],
}

impl Task for Opaque<'_> {
    type Out = Result<Vec<u8>, Error>;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Out {
        let mut out = vec![KIND_OPAQUE, Dtype::Opaque as u8];
        encode_planes(isa, &mut out, self.item, self.segs)?;
        Ok(out)
    }
}

/// Encodes the segments' bytes after the chunk's kind and dtype.
fn encode_planes<I: Isa>(
    isa: I,
    out: &mut Vec<u8>,
    item: usize,
    segs: &[Segment<&[u8]>],
) -> Result<(), Error> {
    let n = elements(segs, item)?;
    out.push(item as u8);
    put_varint(out, n as u32);
    let mut bytes = Vec::with_capacity(n);
    for plane in 0..item {
        bytes.clear();
        for s in segs {
            bytes.extend(s.mem[plane..].iter().step_by(item));
        }
        if bytes.iter().all(|&b| b == bytes[0]) {
            out.extend_from_slice(&[CONSTANT, bytes[0]]);
            continue;
        }
        let at = out.len();
        out.push(CODED);
        encode(isa, out, &bytes, &vec![0; n], 1);
        // Decoding costs time; it must save something.
        if out.len() - at > n - n / 128 {
            out.truncate(at);
            out.push(STORED);
            out.extend_from_slice(&bytes);
        }
    }
    Ok(())
}

/// Adds to `counts`, 256 for each place of an element, how often each byte occurs there.
pub fn count_bytes(mem: &[u8], item: usize, counts: &mut [u32]) {
    for element in mem.chunks_exact(item) {
        for (counts, &byte) in counts.chunks_exact_mut(256).zip(element) {
            counts[usize::from(byte)] += 1;
        }
    }
}
