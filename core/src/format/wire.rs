//! Reading and writing the bytes of a chunk: bounds-checked cursor, varints, bit fields.

use crate::Error;

/// A bounds-checked reader; every method fails with `Truncated` instead of running over.
pub struct Reader<'a> {
    buf: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(buf: &'a [u8]) -> Self {
        Reader { buf }
    }
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], Error> {
        if n > self.buf.len() {
            return Err(Error::Truncated);
        }
        let (head, tail) = self.buf.split_at(n);
        self.buf = tail;
        Ok(head)
    }
    pub fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.bytes(1)?[0])
    }
    pub fn u16(&mut self) -> Result<u16, Error> {
        let b = self.bytes(2)?;
        Ok(u16::from_le_bytes([b[0], b[1]]))
    }
    pub fn u32(&mut self) -> Result<u32, Error> {
        let b = self.bytes(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }
    /// LEB128, at most 5 bytes, at most `u32::MAX`.
    pub fn varint(&mut self) -> Result<u32, Error> {
        let mut v = 0u64;
        for shift in 0..5 {
            let b = self.u8()?;
            v |= u64::from(b & 0x7f) << (7 * shift);
            if b < 0x80 {
                return u32::try_from(v).map_err(|_| Error::Malformed);
            }
        }
        Err(Error::Malformed)
    }
    /// A reader of the bytes that are left.
    pub fn rest(&self) -> Self {
        Reader { buf: self.buf }
    }
    pub fn end(&self) -> Result<(), Error> {
        if self.buf.is_empty() {
            Ok(())
        } else {
            Err(Error::Malformed)
        }
    }
    /// A bit reader over the rest; give back what it did not touch with [`BitReader::finish`].
    pub fn bits(&mut self) -> BitReader<'a> {
        BitReader {
            buf: self.buf,
            pos: 0,
        }
    }
    pub fn resume(&mut self, bits: BitReader<'a>) -> Result<(), Error> {
        let n = (bits.pos + 7) / 8;
        self.bytes(n).map(|_| ())
    }
}

/// LSB-first bit fields.
pub struct BitReader<'a> {
    buf: &'a [u8],
    pos: usize,
}

impl BitReader<'_> {
    pub fn bit(&mut self) -> Result<u32, Error> {
        let byte = *self.buf.get(self.pos / 8).ok_or(Error::Truncated)?;
        let bit = (byte >> (self.pos % 8)) & 1;
        self.pos += 1;
        Ok(u32::from(bit))
    }
    pub fn take(&mut self, n: u32) -> Result<u32, Error> {
        let mut v = 0;
        for i in 0..n {
            v |= self.bit()? << i;
        }
        Ok(v)
    }
    /// Number of 0 bits before the next 1 bit.
    pub fn unary(&mut self, limit: u32) -> Result<u32, Error> {
        let mut n = 0;
        while self.bit()? == 0 {
            n += 1;
            if n > limit {
                return Err(Error::Malformed);
            }
        }
        Ok(n)
    }
}

#[cfg(feature = "encode")]
#[derive(Default)]
pub struct BitWriter {
    pub out: Vec<u8>,
    pos: usize,
}

#[cfg(feature = "encode")]
impl BitWriter {
    pub fn put(&mut self, v: u32, n: u32) {
        for i in 0..n {
            if self.pos % 8 == 0 {
                self.out.push(0);
            }
            *self.out.last_mut().unwrap() |= (((v >> i) & 1) as u8) << (self.pos % 8);
            self.pos += 1;
        }
    }
    pub fn unary(&mut self, n: u32) {
        self.put(0, n);
        self.put(1, 1);
    }
}

/// Whether so many bits are all that a buffer has, but for those that fill its last byte.
pub fn all_read(bits: usize, buf: &[u8]) -> Result<(), Error> {
    if (bits + 7) >> 3 == buf.len() {
        Ok(())
    } else {
        Err(Error::Malformed)
    }
}

#[cfg(feature = "encode")]
pub fn put_varint(out: &mut Vec<u8>, mut v: u32) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

#[cfg(all(test, feature = "encode"))]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back_and_have_limits() {
        for v in [0, 1, 127, 128, 16_383, 16_384, u32::MAX - 1, u32::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, v);
            let mut r = Reader::new(&out);
            assert_eq!(r.varint(), Ok(v));
            assert_eq!(r.end(), Ok(()));
            assert_eq!(
                Reader::new(&out[..out.len() - 1]).varint(),
                Err(Error::Truncated)
            );
        }
        let needless = [0x85, 0x80, 0];
        assert_eq!(Reader::new(&needless).varint(), Ok(5));
        let (large, long) = ([0xff, 0xff, 0xff, 0xff, 0x10], [0x80; 6]);
        assert_eq!(Reader::new(&large).varint(), Err(Error::Malformed));
        assert_eq!(Reader::new(&long).varint(), Err(Error::Malformed));
    }

    #[test]
    fn bits_come_back() {
        let mut w = BitWriter::default();
        w.put(0b101, 3);
        w.unary(9);
        w.put(0x1ff, 9);
        let mut r = Reader::new(&w.out);
        let mut bits = r.bits();
        assert_eq!(bits.take(3), Ok(0b101));
        assert_eq!(bits.unary(9), Ok(9));
        assert_eq!(bits.take(9), Ok(0x1ff));
        assert_eq!(
            bits.take(3),
            Err(Error::Truncated),
            "22 bits of 24 are used"
        );
        let mut bits = r.bits();
        assert_eq!(bits.take(3), Ok(0b101));
        assert_eq!(bits.unary(8), Err(Error::Malformed));
        assert_eq!(r.resume(bits), Ok(()));
    }
}
