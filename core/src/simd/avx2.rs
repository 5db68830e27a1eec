//! AVX2 twin: eight lanes a vector, eight vectors in flight.

use super::{entry_points, Isa};
use crate::chunk::{apply_float, Dtype};
use crate::encode::{encode_float, Encoded, Plan};
use crate::float::Format;
use crate::rans::{Stream, MAX_LANES};
use crate::rows::{Segment, Target};
use crate::table::{PROB_BITS, TOTAL};
use crate::wire::Reader;
use crate::Error;
use core::arch::x86_64::*;

pub struct Avx2;

/// For each set of starved lanes, which of the next eight words each lane takes (3 bits a lane,
/// one byte a lane).
static SPREAD: [u64; 256] = spread();

const fn spread() -> [u64; 256] {
    let mut t = [0u64; 256];
    let mut m = 0;
    while m < 256 {
        let (mut lane, mut word) = (0, 0u64);
        while lane < 8 {
            if m >> lane & 1 == 1 {
                t[m] |= word << (8 * lane);
                word += 1;
            }
            lane += 1;
        }
        m += 1;
    }
    t
}

impl Isa for Avx2 {
    #[inline(always)]
    fn decode(stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let out = &mut out[..ctx.len()];
        let mut done = 0;
        if stream.lanes == MAX_LANES {
            // SAFETY: only reached through `apply`, after `available(AVX2)`.
            done = unsafe { decode64(stream, ctx, out) };
        }
        stream.decode_scalar(&ctx[done..], &mut out[done..])
    }
    fn apply<F: Format>(kind: u8, r: &mut Reader, segs: &mut [Target]) -> Result<(), Error> {
        // SAFETY: `abi` chooses this type only when it is available.
        unsafe { apply::<F>(kind, r, segs) }
    }
    fn encode<F: Format>(
        dtype: Dtype, segs: &[Segment<&[u8]>], plan: &Plan,
    ) -> Result<Encoded, Error> {
        // SAFETY: `abi` chooses this type only when it is available.
        unsafe { encode::<F>(dtype, segs, plan) }
    }
}

entry_points!(Avx2, "avx2,bmi1,bmi2,popcnt,lzcnt");

/// Decodes whole groups of 64 symbols while the words last for certain; returns how many symbols.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
unsafe fn decode64(stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> usize {
    let words = stream.words;
    let mut at = 0usize;
    // A group takes at most 64 words, and a load may look at 8 more.
    let limit = words.len().saturating_sub(2 * (MAX_LANES + 8));
    let tables = stream.tables.entries.as_ptr() as *const i32;
    let base = _mm256_broadcastsi128_si256(_mm_loadu_si128(stream.tables.base.as_ptr() as *const _));
    let shift = _mm256_broadcastsi128_si256(_mm_loadu_si128(stream.tables.shift.as_ptr() as *const _));
    let slot_mask = _mm256_set1_epi32(TOTAL as i32 - 1);
    let zero = _mm256_setzero_si256();
    let low_byte = _mm256_setr_epi8(
        0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, //
        0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
    );
    let mut x = [zero; 8];
    for (j, x) in x.iter_mut().enumerate() {
        *x = _mm256_loadu_si256(stream.states.as_ptr().add(8 * j) as *const _);
    }
    let mut i = 0;
    while i + MAX_LANES <= ctx.len() && at < limit {
        let c = _mm256_set1_epi8(15);
        let c0 = _mm256_and_si256(_mm256_loadu_si256(ctx.as_ptr().add(i) as *const _), c);
        let c1 = _mm256_and_si256(_mm256_loadu_si256(ctx.as_ptr().add(i + 32) as *const _), c);
        let (mut b, mut s) = ([0u8; 64], [0u8; 64]);
        _mm256_storeu_si256(b.as_mut_ptr() as *mut _, _mm256_shuffle_epi8(base, c0));
        _mm256_storeu_si256(b.as_mut_ptr().add(32) as *mut _, _mm256_shuffle_epi8(base, c1));
        _mm256_storeu_si256(s.as_mut_ptr() as *mut _, _mm256_shuffle_epi8(shift, c0));
        _mm256_storeu_si256(s.as_mut_ptr().add(32) as *mut _, _mm256_shuffle_epi8(shift, c1));
        for (j, x) in x.iter_mut().enumerate() {
            let bytes = |p: &[u8; 64]| {
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.as_ptr().add(8 * j) as *const __m128i))
            };
            let slot = _mm256_and_si256(*x, slot_mask);
            let index = _mm256_add_epi32(
                _mm256_slli_epi32::<8>(bytes(&b)),
                _mm256_srlv_epi32(slot, bytes(&s)),
            );
            // SAFETY (gather): `DecodeTables` lists all slots of all 16 contexts.
            let e = _mm256_i32gather_epi32::<4>(tables, index);
            let high = _mm256_srli_epi32::<{ PROB_BITS as i32 }>(*x);
            let less = _mm256_and_si256(_mm256_srli_epi32::<8>(e), slot_mask);
            let next = _mm256_add_epi32(_mm256_mullo_epi32(less, high), high);
            let next = _mm256_sub_epi32(_mm256_add_epi32(next, slot), _mm256_srli_epi32::<20>(e));
            let starved = _mm256_cmpeq_epi32(_mm256_srli_epi32::<16>(next), zero);
            let m = _mm256_movemask_ps(_mm256_castsi256_ps(starved)) as usize;
            let fresh = _mm256_cvtepu16_epi32(_mm_loadu_si128(words.as_ptr().add(at) as *const _));
            let order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(SPREAD[m] as i64));
            let fresh = _mm256_permutevar8x32_epi32(fresh, order);
            let filled = _mm256_or_si256(_mm256_slli_epi32::<16>(next), fresh);
            *x = _mm256_blendv_epi8(next, filled, starved);
            at += 2 * m.count_ones() as usize;
            let packed = _mm256_shuffle_epi8(e, low_byte);
            let lo = _mm256_castsi256_si128(packed);
            let hi = _mm256_extracti128_si256::<1>(packed);
            let sym = _mm_unpacklo_epi32(lo, hi);
            _mm_storel_epi64(out.as_mut_ptr().add(i + 8 * j) as *mut _, sym);
        }
        i += MAX_LANES;
    }
    for (j, x) in x.iter().enumerate() {
        _mm256_storeu_si256(stream.states.as_mut_ptr().add(8 * j) as *mut _, *x);
    }
    stream.words = &words[at..];
    i
}
