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
