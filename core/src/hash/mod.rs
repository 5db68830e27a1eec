//! SHA-256 (FIPS 180-4) of several streams or messages at once, with the processor's instructions.
//!
//! One stream waits for each pair of rounds; a second one fits into the gaps. Where the
//! instructions are missing there are no streams, and the caller has a library of its own.

#[cfg(target_arch = "x86_64")]
mod sha_ni;

/// Streams that have advanced by the same number of bytes.
pub struct Streams {
    states: Vec<[u32; 8]>,
    /// Bytes of each stream that do not fill a block yet: as many as `bytes % 64`.
    tails: Vec<[u8; BLOCK]>,
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

impl Streams {
    /// Empty streams, or `None` if this machine lacks the instructions.
    pub fn new(count: usize) -> Option<Self> {
        if !available() {
            return None;
        }
        Some(Streams {
            states: vec![START; count],
            tails: vec![[0; BLOCK]; count],
            bytes: 0,
        })
    }
    pub fn count(&self) -> usize {
        self.states.len()
    }
    /// Appends to every stream its part; the parts have one length.
    pub fn update(&mut self, parts: &[&[u8]]) {
        let size = parts.first().map_or(0, |p| p.len());
        assert!(parts.len() == self.count() && parts.iter().all(|p| p.len() == size));
        let fill = (self.bytes % BLOCK as u64) as usize;
        self.bytes += size as u64;
        let head = if fill == 0 {
            0
        } else {
            (BLOCK - fill).min(size)
        };
        for (tail, part) in self.tails.iter_mut().zip(parts) {
            tail[fill..fill + head].copy_from_slice(&part[..head]);
        }
        if fill > 0 && fill + head == BLOCK {
            let tails: Vec<&[u8]> = self.tails.iter().map(|t| &t[..]).collect();
            compress(&mut self.states, &tails);
        } else if fill > 0 {
            return;
        }
        let rest: Vec<&[u8]> = parts.iter().map(|p| &p[head..]).collect();
        compress(&mut self.states, &rest);
        let whole = (size - head) / BLOCK * BLOCK;
        for (tail, part) in self.tails.iter_mut().zip(rest) {
            tail[..part.len() - whole].copy_from_slice(&part[whole..]);
        }
    }
    /// Digest of one stream as it is now.
    pub fn digest(&self, index: usize) -> [u8; 32] {
        let fill = (self.bytes % BLOCK as u64) as usize;
        let (last, end) = padded(&self.tails[index][..fill], self.bytes);
        let mut state = [self.states[index]];
        compress(&mut state, &[&last[..end]]);
        in_bytes(&state[0])
    }
}

/// The last blocks of a message of so many bytes, of which `tail` does not fill a block.
fn padded(tail: &[u8], bytes: u64) -> ([u8; 2 * BLOCK], usize) {
    let mut last = [0u8; 2 * BLOCK];
    last[..tail.len()].copy_from_slice(tail);
    last[tail.len()] = 0x80;
    let end = if tail.len() < BLOCK - 8 {
        BLOCK
    } else {
        2 * BLOCK
    };
    last[end - 8..end].copy_from_slice(&(bytes * 8).to_be_bytes());
    (last, end)
}

fn in_bytes(state: &[u32; 8]) -> [u8; 32] {
    let mut out = [0; 32];
    for (out, word) in out.chunks_exact_mut(4).zip(state) {
        out.copy_from_slice(&word.to_be_bytes());
    }
    out
}

/// Bytes of two messages that are taken before the two longest are chosen anew.
const TURN: usize = 1 << 14;

/// Digests of whole messages of any lengths, or `None` if this machine lacks the instructions.
///
/// The two that have most left are taken in step, so that hardly any of them is left alone.
pub fn digests(messages: &[&[u8]]) -> Option<Vec<[u8; 32]>> {
    if !available() {
        return None;
    }
    let whole = |m: &[u8]| m.len() / BLOCK * BLOCK;
    let mut states = vec![START; messages.len()];
    let mut left: Vec<(usize, &[u8])> = messages
        .iter()
        .map(|m| &m[..whole(m)])
        .enumerate()
        .collect();
    while !left.is_empty() {
        left.sort_unstable_by_key(|(_, m)| core::cmp::Reverse(m.len()));
        let (first, others) = left.split_at_mut(1);
        let (n, long) = &mut first[0];
        match others.first_mut() {
            Some((k, short)) if !short.is_empty() => {
                let size = short.len().min(TURN);
                let mut both = [states[*n], states[*k]];
                compress(&mut both, &[&long[..size], &short[..size]]);
                states[*n] = both[0];
                states[*k] = both[1];
                *long = &long[size..];
                *short = &short[size..];
            }
            _ => {
                compress(&mut states[*n..*n + 1], &[long]);
                break;
            }
        }
    }
    let ends: Vec<_> = messages
        .iter()
        .map(|m| padded(&m[whole(m)..], m.len() as u64))
        .collect();
    for (state, (last, end)) in states.iter_mut().zip(&ends) {
        compress(core::slice::from_mut(state), &[&last[..*end]]);
    }
    Some(states.iter().map(in_bytes).collect())
}

#[cfg(target_arch = "x86_64")]
fn available() -> bool {
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1")
}

#[cfg(not(target_arch = "x86_64"))]
fn available() -> bool {
    false
}

/// Takes all whole blocks of each part into its state, two streams at a time; the parts have one
/// length.
fn compress(states: &mut [[u32; 8]], parts: &[&[u8]]) {
    if let ([a, b, c], [p, q, r]) = (&mut *states, parts) {
        // Each half of one with a half of another, so that none is left alone.
        let whole = p.len() / BLOCK * BLOCK;
        let half = whole / (2 * BLOCK) * BLOCK;
        pair((a, &p[..half]), (b, &q[..half]));
        pair((a, &p[half..whole]), (c, &r[..whole - half]));
        pair((b, &q[half..whole]), (c, &r[whole - half..whole]));
        return;
    }
    for (states, parts) in states.chunks_mut(2).zip(parts.chunks(2)) {
        if let ([a, b], [p, q]) = (&mut *states, parts) {
            pair((a, p), (b, q));
        } else {
            pair((&mut states[0], parts[0]), (&mut [0; 8], &[]));
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
    use super::{digests, Streams};

    fn one(message: &[u8]) -> [u8; 32] {
        let mut stream = Streams::new(1).unwrap();
        stream.update(&[message]);
        stream.digest(0)
    }

    #[test]
    fn messages_of_any_lengths_have_the_digests_of_each_alone() {
        if Streams::new(1).is_none() {
            return;
        }
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
        let lengths = [
            0, 1, 55, 56, 63, 64, 65, 16_384, 16_385, 70_000, 200_000, 90_000,
        ];
        for count in 0..=lengths.len() {
            let messages: Vec<&[u8]> = lengths[..count].iter().map(|&n| &bytes[..n]).collect();
            let alone: Vec<_> = messages.iter().map(|m| one(m)).collect();
            assert_eq!(digests(&messages).unwrap(), alone);
        }
    }
}
