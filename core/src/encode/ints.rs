//! Small integers (step exponents, trailing-zero counts): constant, entropy coded or plain.

use super::stream::encode;
use crate::kernels::scalar::Scalar;

/// Writes them.
pub fn write_ints(out: &mut Vec<u8>, v: &[i16]) {
    let lo = v.iter().copied().min().unwrap_or(0);
    let hi = v.iter().copied().max().unwrap_or(0);
    let range = i32::from(hi) - i32::from(lo);
    let mode = if range == 0 {
        0u8
    } else {
        1 + u8::from(range > 255)
    };
    out.push(mode);
    out.extend_from_slice(&lo.to_le_bytes());
    match mode {
        0 => {}
        1 => {
            let syms: Vec<u8> = v
                .iter()
                .map(|&x| (i32::from(x) - i32::from(lo)) as u8)
                .collect();
            encode(Scalar, out, &syms, &vec![0; syms.len()], 1);
        }
        _ => v
            .iter()
            .for_each(|x| out.extend_from_slice(&x.to_le_bytes())),
    }
}
