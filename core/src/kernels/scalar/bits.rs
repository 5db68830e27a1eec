//! Bit fields of consecutive elements, lowest bit first.

#[cfg(feature = "encode")]
use crate::format::runs::Room;

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
#[inline(never)]
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

#[cfg(feature = "encode")]
/// Appends the bits of each field that its mask, `2^n - 2^m`, has, from a bit of `room` on; returns the
/// bit behind them.
#[inline(never)]
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

#[cfg(feature = "encode")]
/// Appends fields of one width, at most 8, from a bit of `room` on; returns the bit behind them.
#[inline(always)]
pub fn pack(fields: &[u8], width: u32, room: &mut Room, bit: usize) -> usize {
    let masks = [((1u16 << width) - 1) as u8; 64];
    let part = |bit, fields: &[u8]| gather(fields, &masks[..fields.len()], room, bit);
    fields.chunks(64).fold(bit, part)
}

/// The inverse of [`gather`]: each element's bits at the place of its mask. Returns the bits used.
#[inline(never)]
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

#[cfg(feature = "encode")]
/// The inverse of [`unpack_low`]; returns the bit behind the fields.
#[inline(never)]
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
