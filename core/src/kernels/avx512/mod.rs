//! AVX-512: kernels that replace those of AVX2, sixteen lanes a vector.

// Compiled only where build.rs finds a compiler that has these intrinsics.
#![allow(clippy::incompatible_msrv)]

use crate::entropy::rans::{Stream, MAX_LANES};
use crate::entropy::table::{PROB_BITS, TOTAL};
use core::arch::x86_64::*;

/// Proof that this machine has AVX-512 F, BW, VL and DQ.
#[derive(Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// The proof, if the machine has the instructions.
    pub fn new() -> Option<Self> {
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq");
        if found {
            Some(Avx512(()))
        } else {
            None
        }
    }
    /// Decodes whole groups of 64 symbols of as many lanes; returns how many symbols.
    pub fn decode_symbols(self, stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> usize {
        if stream.lanes < MAX_LANES {
            return 0;
        }
        assert!(out.len() >= ctx.len());
        // SAFETY: `self` is the proof.
        unsafe { decode64(stream, ctx, out) }
    }
}

/// Decodes whole groups of 64 symbols while the words last for certain; returns how many symbols.
///
/// # Safety
/// The machine has the instructions; `out` is as long as `ctx`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,popcnt")]
unsafe fn decode64(stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> usize {
    let words = stream.words;
    let mut at = 0usize;
    // A group takes at most 64 words, and a load may look at 16 more.
    let limit = words.len().saturating_sub(2 * (MAX_LANES + 16));
    let tables = stream.tables.entries().as_ptr() as *const i32;
    let base = _mm_loadu_si128(stream.tables.base.as_ptr() as *const _);
    let shift = _mm_loadu_si128(stream.tables.shift.as_ptr() as *const _);
    let slot_mask = _mm512_set1_epi32(TOTAL as i32 - 1);
    let mut x = [_mm512_setzero_si512(); 4];
    for (j, x) in x.iter_mut().enumerate() {
        *x = _mm512_loadu_si512(stream.states.as_ptr().add(16 * j) as *const _);
    }
    let mut i = 0;
    while i + MAX_LANES <= ctx.len() && at < limit {
        for (j, x) in x.iter_mut().enumerate() {
            let c = _mm_loadu_si128(ctx.as_ptr().add(i + 16 * j) as *const _);
            let c = _mm_and_si128(c, _mm_set1_epi8(15));
            let b = _mm512_cvtepu8_epi32(_mm_shuffle_epi8(base, c));
            let s = _mm512_cvtepu8_epi32(_mm_shuffle_epi8(shift, c));
            let slot = _mm512_and_si512(*x, slot_mask);
            let index = _mm512_add_epi32(_mm512_slli_epi32::<8>(b), _mm512_srlv_epi32(slot, s));
            // SAFETY (gather): `DecodeTables` lists all slots of all 16 contexts.
            let e = _mm512_i32gather_epi32::<4>(index, tables);
            let high = _mm512_srli_epi32::<PROB_BITS>(*x);
            let start = _mm512_and_si512(_mm512_srli_epi32::<8>(e), slot_mask);
            let rest = _mm512_mullo_epi32(_mm512_srli_epi32::<20>(e), high);
            let next = _mm512_sub_epi32(_mm512_sub_epi32(*x, start), rest);
            let starved = _mm512_cmplt_epu32_mask(next, _mm512_set1_epi32(1 << 16));
            let fresh = _mm256_loadu_si256(words.as_ptr().add(at) as *const _);
            let fresh = _mm512_maskz_expand_epi32(starved, _mm512_cvtepu16_epi32(fresh));
            let filled = _mm512_or_si512(_mm512_slli_epi32::<16>(next), fresh);
            *x = _mm512_mask_mov_epi32(next, starved, filled);
            at += 2 * starved.count_ones() as usize;
            _mm_storeu_si128(
                out.as_mut_ptr().add(i + 16 * j) as *mut _,
                _mm512_cvtepi32_epi8(e),
            );
        }
        i += MAX_LANES;
    }
    for (j, x) in x.iter().enumerate() {
        _mm512_storeu_si512(stream.states.as_mut_ptr().add(16 * j) as *mut _, *x);
    }
    stream.words = &words[at..];
    i
}
