//! Runs of bit fields, lowest bit first.

use crate::format::rows::BLOCK;
#[cfg(feature = "encode")]
use crate::format::wire::put_varint;
use crate::format::wire::{all_read, Reader};
use crate::Error;

/// Most bytes of one block's upper fields, and what a load of eight bytes reads beyond.
const REACH: usize = BLOCK / 8 * 7 + 16;

/// A run of fields: a position in some bytes.
pub struct Run<'a> {
    pub buf: &'a [u8],
    pub bit: usize,
}

impl<'a> Run<'a> {
    /// A run with its length in front, or an empty one if it is not there.
    pub fn open(r: &mut Reader<'a>, there: bool) -> Result<Self, Error> {
        let len = if there { r.varint()? as usize } else { 0 };
        let buf = r.bytes(len)?;
        Ok(Run { buf, bit: 0 })
    }

    /// Skips what fills the last byte.
    #[inline(always)]
    pub fn align(&mut self) {
        self.bit = (self.bit + 7) & !7;
    }

    /// Whether so many more bits are there.
    #[inline(always)]
    pub fn has(&self, bits: usize) -> Result<(), Error> {
        if self.bit + bits <= self.buf.len() * 8 {
            Ok(())
        } else {
            Err(Error::Truncated)
        }
    }

    /// Runs a kernel that may load up to [`REACH`] bytes from the position on; the kernel returns the
    /// bits it has used. Near the end it gets a copy with zeros behind.
    #[inline(always)]
    pub fn with(&mut self, kernel: impl FnOnce(&[u8], usize) -> usize) -> Result<(), Error> {
        let at = self.bit >> 3;
        let rest = self.buf.get(at..).unwrap_or(&[]);
        let used = if rest.len() >= REACH {
            kernel(rest, self.bit & 7)
        } else {
            let mut copy = [0u8; REACH];
            copy[..rest.len()].copy_from_slice(rest);
            kernel(&copy, self.bit & 7)
        };
        self.has(used)?;
        self.bit += used;
        Ok(())
    }

    /// Checks that the run is used up.
    pub fn end(&self) -> Result<(), Error> {
        all_read(self.bit, self.buf)
    }
}

#[cfg(feature = "encode")]
/// Writes a run; bits that do not fill a byte yet are held back.
#[derive(Default)]
pub struct RunWriter {
    pub out: Vec<u8>,
    /// The bits held back, and how many.
    held: u8,
    count: usize,
}

#[cfg(feature = "encode")]
impl RunWriter {
    pub fn with_capacity(bytes: usize) -> Self {
        RunWriter {
            out: Vec::with_capacity(bytes),
            ..RunWriter::default()
        }
    }

    /// Appends what a kernel writes from the given bit on; the kernel keeps the bits before and returns
    /// the bit at which it has ended.
    #[inline(always)]
    pub fn with(&mut self, kernel: impl FnOnce(&mut Room, usize) -> usize) {
        let mut room = [0u8; 2 * BLOCK + 16];
        room[0] = self.held;
        let end = kernel(&mut room, self.count);
        self.out.extend_from_slice(&room[..end >> 3]);
        self.held = room[end >> 3] & ((1u16 << (end & 7)) - 1) as u8;
        self.count = end & 7;
    }

    /// Whole bytes so far.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Fills the last byte.
    pub fn align(&mut self) {
        if self.count > 0 {
            self.out.push(self.held);
            self.held = 0;
            self.count = 0;
        }
    }

    /// Ends the run and appends it with its length in front.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        self.align();
        put_varint(out, self.out.len() as u32);
        out.extend_from_slice(&self.out);
    }
}

#[cfg(feature = "encode")]
/// Room for one block's fields: what is held back, at most two bytes an element, and a wide store.
pub type Room = [u8; 2 * BLOCK + 16];

#[cfg(all(test, feature = "encode"))]
mod tests {
    use super::*;
    use crate::kernels::scalar::bits::{gather, pack_low, scatter, unpack_low};

    /// Runs of fields of several widths come back, whatever bit they begin at.
    #[test]
    fn runs_come_back() {
        let field = |i: usize| ((i * 2_654_435_761) >> 7) as u16;
        let mut w = RunWriter::default();
        let sizes = [1usize, 7, 64, 2000, 3];
        for (width, &n) in sizes.iter().enumerate().map(|(i, n)| (3 * i as u32 + 1, n)) {
            let mask = (1u32 << width) - 1;
            let fields: Vec<u16> = (0..n).map(|i| field(i) & mask as u16).collect();
            w.with(|room, bit| pack_low(&fields, width, room, bit));
        }
        let masks: Vec<u8> = (0..1001)
            .map(|i| [0, 1, 7, 127, 0b111_0000][i % 5])
            .collect();
        let values: Vec<u8> = (0..masks.len())
            .map(|i| field(i) as u8 & masks[i])
            .collect();
        w.with(|room, bit| gather(&values, &masks, room, bit));
        let mut out = Vec::new();
        w.finish(&mut out);

        let mut r = Reader::new(&out);
        let mut run = Run::open(&mut r, true).expect("a run");
        assert_eq!(r.end(), Ok(()));
        for (width, &n) in sizes.iter().enumerate().map(|(i, n)| (3 * i as u32 + 1, n)) {
            let mut fields = vec![0; n];
            run.has(n * width as usize).expect("bits");
            unpack_low(run.buf, run.bit, width, &mut fields);
            run.bit += n * width as usize;
            let mask = ((1u32 << width) - 1) as u16;
            assert!(fields
                .iter()
                .enumerate()
                .all(|(i, &f)| f == field(i) & mask));
        }
        let mut found = vec![0; masks.len()];
        run.with(|buf, bit| scatter(buf, bit, &masks, &mut found))
            .expect("bits");
        assert!(found == values);
        assert_eq!(run.end(), Ok(()));
        assert_eq!(run.has(9), Err(Error::Truncated));
        run.bit -= 8;
        assert_eq!(run.end(), Err(Error::Malformed));
    }
}
