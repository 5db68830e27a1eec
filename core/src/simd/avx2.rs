//! AVX2 twin: eight lanes a vector, eight vectors in flight.

use super::{avx2_rows, entry_points, Isa};
use crate::chunk::{apply_float, Dtype};
use crate::encode::{encode_float, Encoded, Plan};
use crate::float::Format;
use crate::level::Row;
use crate::rans::{Stream, MAX_LANES};
use crate::raw::RawReader;
use crate::rows::{Segment, Target};
use crate::table::{MAX_CTX, PROB_BITS, TOTAL};
use crate::wire::Reader;
use crate::Error;
use core::arch::x86_64::*;

pub struct Avx2;

/// For each set of starved lanes, which of the next eight words each lane takes.
static SPREAD: [[u32; 8]; 256] = spread();

const fn spread() -> [[u32; 8]; 256] {
    let mut t = [[0; 8]; 256];
    let mut m = 0;
    while m < 256 {
        let (mut lane, mut word) = (0, 0);
        while lane < 8 {
            if m >> lane & 1 == 1 {
                t[m][lane] = word;
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
    #[inline(always)]
    fn classify<F: Format>(mem: &[u8], e: i32, pos: &mut [i16], ctx: &mut [u8]) {
        // SAFETY: only reached through `apply` and `encode`, after `available(AVX2)`.
        unsafe { avx2_rows::classify::<F>(mem, e, pos, ctx) }
    }
    #[inline(always)]
    fn bin_values<F: Format>(sym: &[u8], step: f32, mem: &mut [u8]) {
        // SAFETY: as above.
        unsafe { avx2_rows::bin_values::<F>(sym, step, mem) }
    }
    #[inline(always)]
    fn combine<F: Format>(
        mem: &mut [u8],
        pos: &[i16],
        sym: &[u8],
        fields: &mut RawReader,
        row: Row,
    ) -> bool {
        // SAFETY: as above.
        unsafe { avx2_rows::combine::<F>(mem, pos, sym, fields, row) }
    }
    fn apply<F: Format>(kind: u8, r: &mut Reader, segs: &mut [Target]) -> Result<(), Error> {
        // SAFETY: `abi` chooses this type only when it is available.
        unsafe { apply::<F>(kind, r, segs) }
    }
    fn encode<F: Format>(
        dtype: Dtype,
        segs: &[Segment<&[u8]>],
        plan: &Plan,
    ) -> Result<Encoded, Error> {
        // SAFETY: `abi` chooses this type only when it is available.
        unsafe { encode::<F>(dtype, segs, plan) }
    }
}

entry_points!(Avx2, "avx2,bmi1,bmi2,popcnt,lzcnt");

/// Eight table entries. Single loads: the gather instruction is slower on every AVX2 machine that
/// lacks AVX-512. Each load has its entry where the blend takes it, so that one operation does both.
#[inline(always)]
unsafe fn look_up(tables: *const i32, index: __m256i) -> __m256i {
    let mut i = [0u32; 8];
    _mm256_storeu_si256(i.as_mut_ptr() as *mut _, index);
    // SAFETY: `DecodeTables` lists all slots of all 16 contexts, with `MARGIN` entries on both sides.
    let at = |j: usize| _mm_loadu_si128(tables.add(i[j] as usize).sub(j & 3) as *const _);
    let four = |j: usize| {
        let v = _mm_blend_epi32::<2>(_mm_cvtsi32_si128(*tables.add(i[j] as usize)), at(j + 1));
        _mm_blend_epi32::<8>(_mm_blend_epi32::<4>(v, at(j + 2)), at(j + 3))
    };
    _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(four(0)), four(4))
}

/// Decodes whole groups of 64 symbols while the words last for certain; returns how many symbols.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
unsafe fn decode64(stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> usize {
    if stream.tables.shift == [0; MAX_CTX] {
        decode64_with::<false>(stream, ctx, out)
    } else {
        decode64_with::<true>(stream, ctx, out)
    }
}

/// [`decode64`]; without `COARSE` all tables have one entry per slot.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
unsafe fn decode64_with<const COARSE: bool>(
    stream: &mut Stream,
    ctx: &[u8],
    out: &mut [u8],
) -> usize {
    let words = stream.words;
    let mut at = words.as_ptr();
    // A group takes at most 64 words, and a load may look at 8 more.
    let limit = at.add(words.len().saturating_sub(2 * (MAX_LANES + 8)));
    let tables = stream.tables.entries().as_ptr() as *const i32;
    let base =
        _mm256_broadcastsi128_si256(_mm_loadu_si128(stream.tables.base.as_ptr() as *const _));
    let shift =
        _mm256_broadcastsi128_si256(_mm_loadu_si128(stream.tables.shift.as_ptr() as *const _));
    let slot_mask = _mm256_set1_epi32(TOTAL as i32 - 1);
    let byte = _mm256_set1_epi32(255);
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let mut x = [_mm256_setzero_si256(); 8];
    for (j, x) in x.iter_mut().enumerate() {
        *x = _mm256_loadu_si256(stream.states.as_ptr().add(8 * j) as *const _);
    }
    let mut i = 0;
    while i + MAX_LANES <= ctx.len() && at < limit {
        let (mut b, mut s) = ([0u8; 64], [0u8; 64]);
        for half in 0..2 {
            let c = _mm256_loadu_si256(ctx.as_ptr().add(i + 32 * half) as *const _);
            let c = _mm256_and_si256(c, _mm256_set1_epi8(15));
            _mm256_storeu_si256(
                b.as_mut_ptr().add(32 * half) as *mut _,
                _mm256_shuffle_epi8(base, c),
            );
            if COARSE {
                _mm256_storeu_si256(
                    s.as_mut_ptr().add(32 * half) as *mut _,
                    _mm256_shuffle_epi8(shift, c),
                );
            }
        }
        let mut step = |j: usize, x: &mut __m256i| {
            let bytes = |p: &[u8; 64]| {
                _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.as_ptr().add(8 * j) as *const __m128i))
            };
            let slot = _mm256_and_si256(*x, slot_mask);
            let entry = if COARSE {
                _mm256_srlv_epi32(slot, bytes(&s))
            } else {
                slot
            };
            let e = look_up(
                tables,
                _mm256_add_epi32(_mm256_slli_epi32::<8>(bytes(&b)), entry),
            );
            let high = _mm256_srli_epi32::<{ PROB_BITS as i32 }>(*x);
            // freq * high + slot - start, with x = 4096 * high + slot.
            let start = _mm256_and_si256(_mm256_srli_epi32::<8>(e), slot_mask);
            let rest = _mm256_mullo_epi32(_mm256_srli_epi32::<20>(e), high);
            let next = _mm256_sub_epi32(_mm256_sub_epi32(*x, start), rest);
            let starved = _mm256_cmpeq_epi32(_mm256_srli_epi32::<16>(next), _mm256_setzero_si256());
            let m = _mm256_movemask_ps(_mm256_castsi256_ps(starved)) as usize;
            let fresh = _mm256_cvtepu16_epi32(_mm_loadu_si128(at as *const _));
            let spread = _mm256_loadu_si256(SPREAD.get_unchecked(m).as_ptr() as *const _);
            let fresh = _mm256_permutevar8x32_epi32(fresh, spread);
            let filled = _mm256_or_si256(_mm256_slli_epi32::<16>(next), fresh);
            *x = _mm256_blendv_epi8(next, filled, starved);
            at = at.add(2 * m.count_ones() as usize);
            _mm256_and_si256(e, byte)
        };
        for half in 0..2 {
            let x = &mut x[4 * half..4 * half + 4];
            let a = step(4 * half, &mut x[0]);
            let b = step(4 * half + 1, &mut x[1]);
            let c = step(4 * half + 2, &mut x[2]);
            let d = step(4 * half + 3, &mut x[3]);
            let packed = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
            let packed = _mm256_permutevar8x32_epi32(packed, order);
            _mm256_storeu_si256(out.as_mut_ptr().add(i + 32 * half) as *mut _, packed);
        }
        i += MAX_LANES;
    }
    for (j, x) in x.iter().enumerate() {
        _mm256_storeu_si256(stream.states.as_mut_ptr().add(8 * j) as *mut _, *x);
    }
    let read = at.offset_from(words.as_ptr()) as usize;
    stream.words = &words[read..];
    i
}
