//! SHA-256 (FIPS 180-4) of several streams or messages at once, with the processor's instructions.
//!
//! One stream waits for each pair of rounds; a second one fits into the gaps. Where the
//! instructions are missing there are no streams, and the caller has a library of its own.

#[cfg(target_arch = "x86_64")]
mod sha_ni;

/// Streams, each of which advances as it likes.
pub struct Streams {
    streams: Vec<Stream>,
}

#[derive(Clone)]
struct Stream {
    state: [u32; 8],
    /// Bytes that do not fill a block yet: `bytes % 64`.
    tail: [u8; BLOCK],
    bytes: u64,
}

const BLOCK: usize = 64;

const START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

impl Stream {
    const EMPTY: Stream = Stream {
        state: START,
        tail: [0; BLOCK],
        bytes: 0,
    };
    fn fill(&self) -> usize {
        (self.bytes % BLOCK as u64) as usize
    }
    /// Takes the bytes that fill the block that was begun, and leaves the others.
    fn begin<'a>(&mut self, part: &'a [u8]) -> &'a [u8] {
        let fill = self.fill();
        let (head, rest) = part.split_at(if fill == 0 {
            0
        } else {
            part.len().min(BLOCK - fill)
        });
        self.tail[fill..fill + head.len()].copy_from_slice(head);
        self.bytes += head.len() as u64;
        if fill > 0 && self.fill() == 0 {
            pair((&mut self.state, &self.tail), (&mut [0; 8], &[]));
        }
        rest
    }
    /// Takes note of whole blocks that were hashed, and keeps the bytes after them.
    fn end(&mut self, rest: &[u8]) {
        let tail = &rest[rest.len() / BLOCK * BLOCK..];
        let fill = self.fill();
        self.tail[fill..fill + tail.len()].copy_from_slice(tail);
        self.bytes += rest.len() as u64;
    }
    fn digest(&self) -> [u8; 32] {
        let fill = self.fill();
        let mut last = [0u8; 2 * BLOCK];
        last[..fill].copy_from_slice(&self.tail[..fill]);
        last[fill] = 0x80;
        let end = if fill < BLOCK - 8 { BLOCK } else { 2 * BLOCK };
        last[end - 8..end].copy_from_slice(&(self.bytes * 8).to_be_bytes());
        let mut state = self.state;
        pair((&mut state, &last[..end]), (&mut [0; 8], &[]));
        let mut out = [0; 32];
        for (out, word) in out.chunks_exact_mut(4).zip(&state) {
            out.copy_from_slice(&word.to_be_bytes());
        }
        out
    }
}

impl Streams {
    /// Empty streams, or `None` if this machine lacks the instructions.
    pub fn new(count: usize) -> Option<Self> {
        if !available() {
            return None;
        }
        Some(Streams {
            streams: vec![Stream::EMPTY; count],
        })
    }
    pub fn count(&self) -> usize {
        self.streams.len()
    }
    /// Appends to every stream its part, of any length.
    pub fn update(&mut self, parts: &[&[u8]]) {
        assert!(parts.len() == self.count());
        let rest: Vec<&[u8]> = self
            .streams
            .iter_mut()
            .zip(parts)
            .map(|(s, p)| s.begin(p))
            .collect();
        compress(&mut self.streams, &rest);
        for (stream, rest) in self.streams.iter_mut().zip(rest) {
            stream.end(rest);
        }
    }
    /// Digest of one stream as it is now.
    pub fn digest(&self, index: usize) -> [u8; 32] {
        self.streams[index].digest()
    }
    /// Makes one stream an empty one.
    pub fn restart(&mut self, index: usize) {
        self.streams[index] = Stream::EMPTY;
    }
}

#[cfg(target_arch = "x86_64")]
fn available() -> bool {
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1")
}

#[cfg(not(target_arch = "x86_64"))]
fn available() -> bool {
    false
}

/// Bytes of two parts that are taken before the two longest are chosen anew.
const TURN: usize = 1 << 14;

/// Takes all whole blocks of each part into its stream's state. The two that have most left are taken
/// in step, so that hardly any of them is left alone.
fn compress(streams: &mut [Stream], parts: &[&[u8]]) {
    let mut left: Vec<(&mut [u32; 8], &[u8])> = streams
        .iter_mut()
        .zip(parts)
        .map(|(s, p)| (&mut s.state, &p[..p.len() / BLOCK * BLOCK]))
        .collect();
    loop {
        left.sort_unstable_by_key(|(_, part)| core::cmp::Reverse(part.len()));
        match &mut left[..] {
            [(a, long), (b, short), ..] if !short.is_empty() => {
                let (now, later) = short.split_at(short.len().min(TURN));
                pair((&mut **a, &long[..now.len()]), (&mut **b, now));
                *long = &long[now.len()..];
                *short = later;
            }
            [(a, long), ..] => return pair((&mut **a, long), (&mut [0; 8], &[])),
            [] => return,
        }
    }
}

/// Takes all whole blocks into two states, in step as far as both have some.
fn pair(a: (&mut [u32; 8], &[u8]), b: (&mut [u32; 8], &[u8])) {
    let both = a.1.len().min(b.1.len()) / BLOCK * BLOCK;
    // SAFETY: there are streams only where `available` said so.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        use crate::hash::sha_ni::compress;
        compress([&mut *a.0, &mut *b.0], [&a.1[..both], &b.1[..both]]);
        compress([a.0], [&a.1[both..]]);
        compress([b.0], [&b.1[both..]]);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (a, b, both);
}

#[cfg(test)]
mod tests {
    use super::Streams;

    fn one(message: &[u8]) -> [u8; 32] {
        let mut stream = Streams::new(1).unwrap();
        stream.update(&[message]);
        stream.digest(0)
    }

    #[test]
    fn streams_of_any_lengths_have_the_digests_of_each_alone() {
        if Streams::new(1).is_none() {
            return;
        }
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
        let lengths = [
            0, 1, 55, 56, 63, 64, 65, 16_384, 16_385, 70_000, 200_000, 90_000,
        ];
        for count in 0..=lengths.len() {
            let mut streams = Streams::new(count).unwrap();
            for _ in 0..2 {
                let messages: Vec<&[u8]> = lengths[..count].iter().map(|&n| &bytes[..n]).collect();
                // In three parts, which end at other places in each of them.
                let cut = |at: usize| -> Vec<&[u8]> {
                    messages
                        .iter()
                        .map(|m| &m[m.len() * at / 3..m.len() * (at + 1) / 3])
                        .collect()
                };
                for at in 0..3 {
                    streams.update(&cut(at));
                }
                for (n, message) in messages.iter().enumerate() {
                    assert_eq!(streams.digest(n), one(message));
                    streams.restart(n);
                }
            }
        }
    }
}
