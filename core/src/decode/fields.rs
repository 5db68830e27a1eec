//! Raw fields of a delta: each as wide as its element's context says, without gaps.

use crate::entropy::table::MAX_CTX;
use crate::format::wire::all_read;
use crate::kernels::scalar::fields::REACH;
use crate::kernels::Isa;
use crate::Error;

/// Fields of 64 elements from which on it pays to look at them all.
const DENSE: u32 = 12;

/// Position in the fields.
pub struct Fields<'a> {
    buf: &'a [u8],
    bit: usize,
}

impl<'a> Fields<'a> {
    pub fn new(buf: &'a [u8]) -> Self {
        Fields { buf, bit: 0 }
    }

    /// Codes from symbols and the fields below them; `SIDED`: below all but their lowest bit.
    #[inline(always)]
    pub fn take<I: Isa, const SIDED: bool>(
        &mut self,
        isa: I,
        widths: &[u8; MAX_CTX],
        ctx: &[u8],
        sym: &[u8],
        z: &mut [u32],
    ) -> Result<(), Error> {
        let mut w = [0u8; 64];
        let groups = ctx.chunks(64).zip(sym.chunks(64)).zip(z.chunks_mut(64));
        for ((ctx, sym), z) in groups {
            for (z, &s) in z.iter_mut().zip(sym) {
                *z = u32::from(s);
            }
            let mut some = isa.field_widths(widths, ctx, sym, &mut w);
            if some == 0 {
                continue;
            }
            let mut near = [0u8; REACH];
            let (src, mut bit) = self.window(&mut near);
            if some.count_ones() >= DENSE {
                if let Some(bits) = isa.dense_fields::<SIDED>(&w, sym, src, bit, z) {
                    bit += bits;
                    some = 0;
                }
            }
            while some != 0 {
                let i = some.trailing_zeros() as usize & 63;
                some &= some - 1;
                let w = u32::from(w[i]);
                // 64 fields of 24 bits end before the last whole load.
                let at = (bit >> 3).min(REACH - 8);
                let word = src[at..at + 8].try_into().unwrap_or([0; 8]);
                let v = (u64::from_le_bytes(word) >> (bit & 7)) as u32;
                if let Some(z) = z.get_mut(i) {
                    let (upper, field) = (z.wrapping_sub(1), v & ((1 << w) - 1));
                    *z = 1 + if SIDED {
                        ((upper >> 1) << w | field) << 1 | upper & 1
                    } else {
                        (upper << w) + field
                    };
                }
                bit += w as usize;
            }
            self.bit = (self.bit & !7) + bit;
            if (self.bit + 7) >> 3 > self.buf.len() {
                return Err(Error::Truncated);
            }
        }
        Ok(())
    }

    /// The bytes from the next field on, and its bit in the first of them; zeros after the end.
    #[inline(always)]
    fn window<'b>(&self, near: &'b mut [u8; REACH]) -> (&'b [u8; REACH], usize)
    where
        'a: 'b,
    {
        let (at, bit) = (self.bit >> 3, self.bit & 7);
        let whole = self.buf.get(at..at + REACH).map(<&[u8; REACH]>::try_from);
        if let Some(Ok(whole)) = whole {
            return (whole, bit);
        }
        let rest = self.buf.get(at..).unwrap_or(&[]);
        near[..rest.len()].copy_from_slice(rest);
        (near, bit)
    }

    pub fn finish(&self) -> Result<(), Error> {
        all_read(self.bit, self.buf)
    }
}
