//! The encoder of tensors that have no levels; the twin of `decode/opaque.rs`.

use super::stream::encode;
use crate::decode::opaque::{elements, CODED, CONSTANT, STORED};
use crate::entropy::encoder::log2_q8;
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

/// Entropy of the bytes at each place of the elements in some runs, in 1/256 bit.
pub fn opaque_bits(item: usize, runs: &[&[u8]]) -> u64 {
    let mut counts = vec![[0u32; 256]; item];
    for element in runs.iter().flat_map(|run| run.chunks_exact(item)) {
        for (counts, &byte) in counts.iter_mut().zip(element) {
            counts[usize::from(byte)] += 1;
        }
    }
    let entropy = |counts: &[u32; 256]| -> u64 {
        let all = log2_q8(counts.iter().sum::<u32>().max(1));
        let bits = |&n: &u32| u64::from(n) * u64::from(all.saturating_sub(log2_q8(n.max(1))));
        counts.iter().map(bits).sum()
    };
    counts.iter().map(entropy).sum()
}
