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

#[cfg(all(test, feature = "encode"))]
mod tests {
    use super::*;
    use crate::encode::ints::write_ints;

    #[test]
    fn integers_come_back() {
        let lists: [Vec<i16>; 5] = [
            vec![-7; 100],
            (0..1000).map(|i| i % 50 - 400).collect(),
            vec![i16::MIN, i16::MAX, 0],
            vec![i16::MIN, i16::MIN + 255],
            vec![],
        ];
        for (mode, list) in [0, 1, 2, 1, 0].iter().zip(lists) {
            let mut out = Vec::new();
            write_ints(&mut out, &list);
            assert_eq!(out[0], *mode);
            let mut r = Reader::new(&out);
            assert_eq!(read_ints(&mut r, list.len()), Ok(list.clone()));
            assert_eq!(r.end(), Ok(()));
            for len in 0..out.len() {
                assert!(read_ints(&mut Reader::new(&out[..len]), list.len()).is_err());
            }
        }
        let unknown = [3, 0, 0];
        assert_eq!(
            read_ints(&mut Reader::new(&unknown), 1),
            Err(Error::Malformed)
        );
    }
}
