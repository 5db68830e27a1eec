//! Chunks of every kind, and what they are made from; for the tests and the fuzz driver.

#![allow(dead_code)]

pub mod chunks;
pub mod weights;

use p2u_core::{apply, Dtype, Error, Prior, Segment, Set, Target};

/// Deterministic random numbers (SplitMix64, Steele et al. 2014).
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    /// In [0, 1).
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / 16_777_216.0
    }
    /// About normal, mean 0 and variance 1.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.unit()).sum::<f32>() - 6.0
    }
}

/// Elements and columns of each segment.
pub type Shapes = Vec<(usize, usize)>;

/// A chunk, the bytes that it is applied to, and those that it leads to.
#[derive(Clone)]
pub struct Case {
    pub name: String,
    pub dtype: Dtype,
    /// Bytes per element.
    pub item: usize,
    pub shapes: Shapes,
    /// Previous bytes of all segments.
    pub before: Vec<u8>,
    /// Source bytes of each segment, if there are any apart from these.
    pub sources: Option<Vec<Vec<u8>>>,
    pub payload: Vec<u8>,
    pub after: Vec<u8>,
}

impl Case {
    /// Applies a payload like the case's; returns the status and the bytes.
    pub fn apply(&self, set: Set, payload: &[u8]) -> (Result<(), Error>, Vec<u8>) {
        let mut mem = self.before.clone();
        let mut segs = targets(&mut mem, &self.shapes, self.item);
        let sources: Vec<Prior> = match &self.sources {
            Some(sources) => sources.iter().map(|s| Some(&s[..])).collect(),
            None => vec![None; segs.len()],
        };
        let status = apply(set, payload, self.dtype, self.item, &mut segs, &sources);
        (status, mem)
    }

    /// Checks that every set does the same with a payload, and returns the status.
    pub fn apply_everywhere(&self, payload: &[u8]) -> Result<(), Error> {
        let sets = Set::all();
        let (status, bytes) = self.apply(sets[0], payload);
        for &set in &sets[1..] {
            let (found, mem) = self.apply(set, payload);
            assert_eq!(status, found, "{}: status of set {}", self.name, set.code());
            // After an error the memory holds nothing.
            let same = status.is_err() || bytes == mem;
            assert!(same, "{}: bytes of set {}", self.name, set.code());
        }
        status
    }
}

/// Bytes of a float.
pub fn size(dtype: Dtype) -> usize {
    if dtype == Dtype::F32 {
        4
    } else {
        2
    }
}

/// Segments over the bytes of all of them, to be written.
pub fn targets<'a>(bytes: &'a mut [u8], shapes: &[(usize, usize)], item: usize) -> Vec<Target<'a>> {
    let mut rest = bytes;
    let mut segs = Vec::new();
    for &(elems, cols) in shapes {
        let (mem, next) = rest.split_at_mut(elems * item);
        rest = next;
        segs.push(Segment { mem, elems, cols });
    }
    segs
}

/// Segments over the bytes of all of them.
pub fn segments<'a>(
    bytes: &'a [u8],
    shapes: &[(usize, usize)],
    item: usize,
) -> Vec<Segment<&'a [u8]>> {
    let mut at = 0;
    let mut one = |&(elems, cols): &(usize, usize)| {
        let mem = &bytes[at..at + elems * item];
        at += mem.len();
        Segment { mem, elems, cols }
    };
    shapes.iter().map(&mut one).collect()
}

/// Elements of all segments.
pub fn elements(shapes: &[(usize, usize)]) -> usize {
    shapes.iter().map(|s| s.0).sum()
}
