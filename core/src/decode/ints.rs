//! Small integers (step exponents, trailing-zero counts): constant, entropy coded or plain.

use crate::entropy::rans::Stream;
use crate::format::wire::Reader;
use crate::kernels::scalar::rans::decode_symbols;
use crate::Error;

/// Reads `n` of them.
pub fn read_ints(r: &mut Reader, n: usize) -> Result<Vec<i16>, Error> {
    let mode = r.u8()?;
    let lo = r.u16()? as i16;
    match mode {
        0 => Ok(vec![lo; n]),
        1 => {
            let mut stream = Stream::open(r, 1)?;
            let mut syms = vec![0; n];
            decode_symbols(&mut stream, &vec![0; n], &mut syms)?;
            stream.finish()?;
            Ok(syms
                .iter()
                .map(|&s| lo.wrapping_add(i16::from(s)))
                .collect())
        }
        2 => {
            let raw = r.bytes(n.checked_mul(2).ok_or(Error::Truncated)?)?;
            Ok(raw
                .chunks_exact(2)
                .map(|b| i16::from_le_bytes([b[0], b[1]]))
                .collect())
        }
        _ => Err(Error::Malformed),
    }
}
