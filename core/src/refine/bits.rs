//! Runs of bit fields, lowest bit first.

use crate::rows::BLOCK;
use crate::wire::{all_read, put_varint, Reader};
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

/// The eight bytes at `at`, zeros behind the end.
#[inline(always)]
fn word(buf: &[u8], at: usize) -> u64 {
    if let Some(Ok(bytes)) = buf.get(at..at + 8).map(<[u8; 8]>::try_from) {
        return u64::from_le_bytes(bytes);
    }
    let mut bytes = [0u8; 8];
    let rest = buf.get(at..).unwrap_or(&[]);
    let n = rest.len().min(8);
    bytes[..n].copy_from_slice(&rest[..n]);
    u64::from_le_bytes(bytes)
}

/// Fields of `width` bits, 0 to 16, from a bit on, as far as `out` has room.
#[inline(always)]
pub fn unpack<T: Field>(buf: &[u8], bit: usize, width: u32, out: &mut [T]) {
    let mask = (1u64 << width) - 1;
    for (i, out) in out.iter_mut().enumerate() {
        let bit = bit + i * width as usize;
        *out = T::new(word(buf, bit >> 3) >> (bit & 7) & mask);
    }
}

/// What a field is read into.
pub trait Field {
    fn new(bits: u64) -> Self;
}

impl Field for u8 {
    #[inline(always)]
    fn new(bits: u64) -> Self {
        bits as u8
    }
}

impl Field for u16 {
    #[inline(always)]
    fn new(bits: u64) -> Self {
        bits as u16
    }
}

/// Writes a run; bits that do not fill a byte yet are held back.
#[derive(Default)]
pub struct RunWriter {
    pub out: Vec<u8>,
    /// The bits held back, and how many.
    held: u8,
    count: usize,
}

/// Room for one block's fields: what is held back, at most two bytes an element, and a wide store.
pub type Room = [u8; 2 * BLOCK + 16];

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

/// Appends the bits of each field that its mask, `2^n - 2^m`, has, from a bit of `room` on; returns the
/// bit behind them.
#[inline(always)]
pub fn gather(fields: &[u8], masks: &[u8], room: &mut Room, bit: usize) -> usize {
    let (mut at, mut count) = (bit >> 3, bit & 7);
    let mut held = u64::from(room[at]) & ((1 << count) - 1);
    for (&f, &m) in fields.iter().zip(masks) {
        let low = m.trailing_zeros() & 7;
        held |= u64::from((f & m) >> low) << count;
        count += m.count_ones() as usize;
        room[at] = held as u8;
        // Whole bytes leave.
        let full = count >> 3;
        at += full;
        count &= 7;
        held >>= 8 * full;
        room[at] = held as u8;
    }
    8 * at + count
}

/// The inverse of [`gather`]: each element's bits at the place of its mask. Returns the bits used.
#[inline(always)]
pub fn scatter(buf: &[u8], bit: usize, masks: &[u8], out: &mut [u8]) -> usize {
    let mut at = bit;
    for (o, &m) in out.iter_mut().zip(masks) {
        let low = m.trailing_zeros() & 7;
        *o = ((word(buf, at >> 3) >> (at & 7)) << low) as u8 & m;
        at += m.count_ones() as usize;
    }
    at - bit
}

/// Fields of the low plane, of at most 16 bits, from a bit on.
#[inline(always)]
pub fn unpack_low(buf: &[u8], bit: usize, width: u32, out: &mut [u16]) {
    unpack(buf, bit, width, out);
}

/// The inverse of [`unpack_low`]; returns the bit behind the fields.
#[inline(always)]
pub fn pack_low(fields: &[u16], width: u32, room: &mut Room, bit: usize) -> usize {
    let (mut at, mut count) = (bit >> 3, bit & 7);
    let mut held = u64::from(room[at]) & ((1 << count) - 1);
    for &f in fields {
        held |= u64::from(f) << count;
        count += width as usize;
        let full = count >> 3;
        room[at..at + 3].copy_from_slice(&held.to_le_bytes()[..3]);
        at += full;
        count &= 7;
        held >>= 8 * full;
        room[at] = held as u8;
    }
    8 * at + count
}
