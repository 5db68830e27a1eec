//! Instruction sets: one [`Isa`] per twin of the decoder, chosen at run time.

use crate::rans::Stream;
use crate::Error;

#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(p2u_avx512)]
pub mod avx512;
#[cfg(target_arch = "aarch64")]
pub mod neon;

/// Kernels compiled for one instruction set.
pub trait Isa {
    /// Decodes a block of symbols; the same bytes as [`Stream::decode_scalar`] for every input.
    fn decode(stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> Result<(), Error>;
    /// Runs `f` compiled for this instruction set, so that its plain loops use wide vectors.
    fn run<R>(f: impl FnOnce() -> R) -> R;
}

/// The portable reference.
pub struct Scalar;

impl Isa for Scalar {
    #[inline(always)]
    fn decode(stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> Result<(), Error> {
        stream.decode_scalar(ctx, out)
    }
    #[inline(always)]
    fn run<R>(f: impl FnOnce() -> R) -> R {
        f()
    }
}

/// The instruction sets of the ABI: 0 is the best one of this machine.
pub const SCALAR: u32 = 1;
pub const AVX2: u32 = 2;
pub const AVX512: u32 = 3;
pub const NEON: u32 = 4;

/// Whether this build on this machine can run `isa`.
pub fn available(isa: u32) -> bool {
    match isa {
        SCALAR => true,
        #[cfg(target_arch = "x86_64")]
        AVX2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2"),
        #[cfg(p2u_avx512)]
        AVX512 => {
            available(AVX2)
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
        }
        #[cfg(target_arch = "aarch64")]
        NEON => true,
        _ => false,
    }
}

/// The instruction set to use for the caller's wish.
pub fn resolve(wish: u32) -> Result<u32, Error> {
    if wish == 0 {
        return Ok([AVX512, AVX2, NEON].iter().copied().find(|&i| available(i)).unwrap_or(SCALAR));
    }
    if available(wish) {
        Ok(wish)
    } else {
        Err(Error::Argument)
    }
}
