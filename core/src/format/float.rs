//! The three progressive float formats, seen as sign plus *ordered integer*.
//!
//! For a float with `B` bits the low `B - 1` bits, read as an integer `u`, grow with the magnitude.
//! All codec arithmetic happens on `u`, or on `f32` values that are small integers times a power of
//! two, where every operation is exact; no rounding mode or fused operation can change a byte.

use crate::format::header::Dtype;

/// Step exponents `e` keep every bin edge `h * 2^(e-1)` a normal, exact `f32`.
pub trait Format: Copy + 'static {
    const DTYPE: Dtype;
    /// Bytes per element.
    const BYTES: usize;
    /// Stored mantissa bits.
    const MANT: u32;
    /// Ordered integer of infinity; anything from here up is not finite.
    const INF: u32;
    /// Bias of the exponent.
    const BIAS: i32;
    /// Smallest and largest step exponent.
    const E_MIN: i32;
    const E_MAX: i32;

    /// Bits of element `i` of little-endian memory.
    fn load(mem: &[u8], i: usize) -> u32;
    fn store(mem: &mut [u8], i: usize, bits: u32);
    /// Value of an ordered integer (exact; infinities and NaNs stay what they are).
    fn value(u: u32) -> f32;
    /// `U(v)`: the smallest ordered integer whose value is at least `v` (`v >= 0`, finite).
    fn ceil(v: f32) -> u32;
    /// The largest ordered integer whose value is at most `v`.
    fn floor(v: f32) -> u32;

    const SIGN: u32 = 1 << (Self::BYTES as u32 * 8 - 1);
    const MASK: u32 = Self::SIGN - 1;
    /// Bits of the low plane: all but the upper seven of the mantissa.
    const LOW: u32 = Self::MANT - 7;
}

#[derive(Clone, Copy)]
pub struct F32;
#[derive(Clone, Copy)]
pub struct F16;
#[derive(Clone, Copy)]
pub struct BF16;

impl Format for F32 {
    const DTYPE: Dtype = Dtype::F32;
    const BYTES: usize = 4;
    const MANT: u32 = 23;
    const INF: u32 = 0x7f80_0000;
    const BIAS: i32 = 127;
    const E_MIN: i32 = -110;
    const E_MAX: i32 = 119;
    #[inline(always)]
    fn load(mem: &[u8], i: usize) -> u32 {
        let b = &mem[i * 4..i * 4 + 4];
        u32::from_le_bytes([b[0], b[1], b[2], b[3]])
    }
    #[inline(always)]
    fn store(mem: &mut [u8], i: usize, bits: u32) {
        mem[i * 4..i * 4 + 4].copy_from_slice(&bits.to_le_bytes());
    }
    #[inline(always)]
    fn value(u: u32) -> f32 {
        f32::from_bits(u)
    }
    #[inline(always)]
    fn ceil(v: f32) -> u32 {
        v.to_bits()
    }
    #[inline(always)]
    fn floor(v: f32) -> u32 {
        v.to_bits()
    }
}

impl Format for BF16 {
    const DTYPE: Dtype = Dtype::BF16;
    const BYTES: usize = 2;
    const MANT: u32 = 7;
    const INF: u32 = 0x7f80;
    const BIAS: i32 = 127;
    const E_MIN: i32 = -110;
    const E_MAX: i32 = 119;
    #[inline(always)]
    fn load(mem: &[u8], i: usize) -> u32 {
        let b = &mem[i * 2..i * 2 + 2];
        u16::from_le_bytes([b[0], b[1]]) as u32
    }
    #[inline(always)]
    fn store(mem: &mut [u8], i: usize, bits: u32) {
        mem[i * 2..i * 2 + 2].copy_from_slice(&(bits as u16).to_le_bytes());
    }
    #[inline(always)]
    fn value(u: u32) -> f32 {
        f32::from_bits(u << 16)
    }
    #[inline(always)]
    fn ceil(v: f32) -> u32 {
        v.to_bits().wrapping_add(0xffff) >> 16
    }
    #[inline(always)]
    fn floor(v: f32) -> u32 {
        v.to_bits() >> 16
    }
}

/// f32 exponent bias minus f16 exponent bias.
const REBIAS: u32 = 112 << 23;
const TWO_24: f32 = 16_777_216.0;
const MIN_NORMAL_F16: f32 = 1.0 / 16384.0;

impl Format for F16 {
    const DTYPE: Dtype = Dtype::F16;
    const BYTES: usize = 2;
    const MANT: u32 = 10;
    const INF: u32 = 0x7c00;
    const BIAS: i32 = 15;
    // 2^(e-1) is at least the smallest subnormal, and 127.5 * 2^e is finite.
    const E_MIN: i32 = -23;
    const E_MAX: i32 = 8;
    #[inline(always)]
    fn load(mem: &[u8], i: usize) -> u32 {
        BF16::load(mem, i)
    }
    #[inline(always)]
    fn store(mem: &mut [u8], i: usize, bits: u32) {
        BF16::store(mem, i, bits);
    }
    #[inline(always)]
    fn value(u: u32) -> f32 {
        // Subnormals go through an exact integer conversion, so that a host that flushes f32
        // denormals to zero decodes the same bytes.
        let tiny = u as i32 as f32 * (1.0 / TWO_24);
        let normal = f32::from_bits((u << 13).wrapping_add(REBIAS));
        let inf = f32::from_bits((u << 13) | 0x7f80_0000);
        if u < 0x400 {
            tiny
        } else if u < Self::INF {
            normal
        } else {
            inf
        }
    }
    #[inline(always)]
    fn ceil(v: f32) -> u32 {
        let tiny = v * TWO_24;
        let t = tiny.min(4096.0) as i32;
        let t = t + i32::from((t as f32) < tiny);
        let normal = v.to_bits().wrapping_sub(REBIAS).wrapping_add(0x1fff) >> 13;
        if v < MIN_NORMAL_F16 {
            t as u32
        } else {
            normal.min(Self::INF)
        }
    }
    #[inline(always)]
    fn floor(v: f32) -> u32 {
        let t = (v * TWO_24).min(4096.0) as u32;
        let normal = v.to_bits().wrapping_sub(REBIAS) >> 13;
        if v < MIN_NORMAL_F16 {
            t
        } else {
            normal.min(Self::INF - 1)
        }
    }
}

/// `2^e` for exponents of normal `f32` numbers.
#[inline(always)]
pub fn pow2(e: i32) -> f32 {
    debug_assert!((-126..=127).contains(&e));
    f32::from_bits(((e + 127) as u32) << 23)
}

/// Elements the portable loops hold at a time: loops over loads or stores of a generic width are not
/// vectorised together with what is done in between.
pub const GROUP: usize = 64;

/// Truncation for values that are known to fit an `i32`.
#[inline(always)]
pub fn trunc(v: f32) -> i32 {
    debug_assert!(v.abs() < 2_147_483_000.0);
    // SAFETY: every caller passes a finite value below 2^24 in magnitude.
    unsafe { v.to_int_unchecked() }
}

/// Bits of consecutive elements.
#[inline(always)]
pub fn load<F: Format>(mem: &[u8], out: &mut [u32]) {
    for (o, m) in out.iter_mut().zip(mem.chunks_exact(F::BYTES)) {
        *o = F::load(m, 0);
    }
}

/// The inverse of [`load`].
#[inline(always)]
pub fn store<F: Format>(bits: &[u32], mem: &mut [u8]) {
    for (&b, m) in bits.iter().zip(mem.chunks_exact_mut(F::BYTES)) {
        F::store(m, 0, b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every finite magnitude of 16 bits is its own floor and ceiling, and lies between its neighbours.
    fn all_values<F: Format>() {
        for u in 0..F::INF {
            let v = F::value(u);
            assert_eq!((F::floor(v), F::ceil(v)), (u, u));
            let above = f32::from_bits(v.to_bits() + 1);
            assert_eq!(
                (F::floor(above), F::ceil(above)),
                (u, u + 1),
                "above {u:#x}"
            );
            assert!(u == 0 || F::value(u - 1) < v);
        }
    }

    #[test]
    fn magnitudes_are_ordered() {
        all_values::<BF16>();
        all_values::<F16>();
        assert_eq!(F16::value(1), 1.0 / 16_777_216.0);
        assert_eq!(F16::floor(1e9), F16::INF - 1);
        assert_eq!(F16::ceil(1e9), F16::INF);
    }
}
