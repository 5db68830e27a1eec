//! NEON: the lanes' arithmetic in vectors of four, table look-ups one by one.

use super::scalar::rans::decode_symbols;
use super::{Isa, Task};
use crate::entropy::rans::{Stream, MAX_LANES};
use crate::entropy::table::{MAX_CTX, PROB_BITS, TOTAL};
use crate::Error;
use core::arch::aarch64::*;

/// Proof that this machine has NEON.
#[derive(Clone, Copy)]
pub struct Neon(());

impl Neon {
    /// The proof; every machine of 64 bits has it.
    pub fn new() -> Option<Self> {
        Some(Neon(()))
    }
}

/// Runs a task compiled for this set.
///
/// # Safety
/// The machine has NEON.
#[target_feature(enable = "neon")]
#[inline(never)]
unsafe fn enter<T: Task>(isa: Neon, task: T) -> T::Out {
    task.run(isa)
}

impl Isa for Neon {
    #[inline(always)]
    fn enter<T: Task>(self, task: T) -> T::Out {
        // SAFETY: `self` is the proof.
        unsafe { enter(self, task) }
    }
    #[inline(always)]
    fn decode_symbols(self, stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let out = &mut out[..ctx.len()];
        let mut done = 0;
        if stream.lanes == MAX_LANES {
            // SAFETY: `self` is the proof.
            done = unsafe { decode64(stream, ctx, out) };
        }
        decode_symbols(stream, &ctx[done..], &mut out[done..])
    }
}

/// Decodes whole groups of 64 symbols while the words last for certain; returns how many symbols.
///
/// # Safety
/// The machine has NEON.
#[target_feature(enable = "neon")]
unsafe fn decode64(stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> usize {
    let words = stream.words;
    let mut at = 0usize;
    let limit = words.len().saturating_sub(2 * MAX_LANES);
    let slot_mask = vdupq_n_u32(TOTAL - 1);
    let mut i = 0;
    while i + MAX_LANES <= ctx.len() && at < limit {
        for j in (0..MAX_LANES).step_by(4) {
            let p = stream.states.as_mut_ptr().add(j);
            let x = vld1q_u32(p);
            let mut e = [0u32; 4];
            for (l, e) in e.iter_mut().enumerate() {
                let c = usize::from(ctx[i + j + l]) & (MAX_CTX - 1);
                let slot = (*p.add(l) & (TOTAL - 1)) >> stream.tables.shift[c];
                *e = stream.tables.entries()
                    [usize::from(stream.tables.base[c]) * 256 + slot as usize];
                out[i + j + l] = *e as u8;
            }
            let e = vld1q_u32(e.as_ptr());
            let high = vshrq_n_u32::<{ PROB_BITS as i32 }>(x);
            let start = vandq_u32(vshrq_n_u32::<8>(e), slot_mask);
            vst1q_u32(
                p,
                vmlsq_u32(vsubq_u32(x, start), vshrq_n_u32::<20>(e), high),
            );
            for l in 0..4 {
                let x = *p.add(l);
                if x < 1 << 16 {
                    let w = u16::from_le_bytes([words[at], words[at + 1]]);
                    *p.add(l) = x << 16 | u32::from(w);
                    at += 2;
                }
            }
        }
        i += MAX_LANES;
    }
    stream.words = &words[at..];
    i
}
