//! AVX2 twin of the kernels of gaps.

use crate::kernels::scalar::gaps;
use crate::kernels::scalar::gaps::{GROUP, GROUPS, SPAN};
use core::arch::x86_64::*;

/// A vector of bytes.
///
/// # Safety
/// The machine has AVX2; 32 bytes can be read.
#[inline(always)]
unsafe fn load(p: *const u8) -> __m256i {
    _mm256_loadu_si256(p as *const _)
}

/// The top bits of two vectors of bytes.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn mask(a: __m256i, b: __m256i) -> u64 {
    let low = u64::from(_mm256_movemask_epi8(a) as u32);
    low | u64::from(_mm256_movemask_epi8(b) as u32) << 32
}

/// [`gaps::class_mask`].
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
pub unsafe fn class_mask(ctx: &[u8; GROUP], class: u8) -> u64 {
    let c = _mm256_set1_epi8(class as i8);
    let same = |at| _mm256_cmpeq_epi8(load(ctx.as_ptr().add(at)), c);
    mask(same(0), same(32))
}

/// [`gaps::class_count`].
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
pub unsafe fn class_count(ctx: &[u8; SPAN], class: u8) -> u32 {
    let c = _mm256_set1_epi8(class as i8);
    let mut sum = _mm256_setzero_si256();
    for at in (0..SPAN).step_by(32) {
        // Equal is -1.
        sum = _mm256_sub_epi8(sum, _mm256_cmpeq_epi8(load(ctx.as_ptr().add(at)), c));
    }
    let sum = _mm256_sad_epu8(sum, _mm256_setzero_si256());
    let half = _mm256_extracti128_si256::<1>(sum);
    let sum = _mm_add_epi64(_mm256_castsi256_si128(sum), half);
    (_mm_cvtsi128_si32(sum) + _mm_extract_epi32::<2>(sum)) as u32
}

/// [`gaps::map_contexts`].
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
pub unsafe fn map_contexts(map: &[u8; 16], ctx: &mut [u8]) {
    let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(map.as_ptr() as *const _));
    let n = ctx.len() & !31;
    for at in (0..n).step_by(32) {
        let p = ctx.as_mut_ptr().add(at);
        _mm256_storeu_si256(p as *mut _, _mm256_shuffle_epi8(table, load(p)));
    }
    gaps::map_contexts(map, &mut ctx[n..]);
}

/// [`gaps::ended`].
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
pub unsafe fn ended(ends: &[i16; GROUPS], element: i16) -> usize {
    let element = _mm256_set1_epi16(element);
    let later = |at| _mm256_cmpgt_epi16(load(ends.as_ptr().add(at) as *const u8), element);
    let later = _mm256_packs_epi16(later(0), later(16));
    GROUPS - (_mm256_movemask_epi8(later) as u32).count_ones() as usize
}

/// [`gaps::differing`] for elements of two bytes.
///
/// # Safety
/// The machine has AVX2.
#[cfg(feature = "encode")]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn differing16(new: &[u8], old: &[u8], out: &mut [u64]) {
    let n = (new.len().min(old.len()) / 128).min(out.len());
    for (g, out) in out[..n].iter_mut().enumerate() {
        let same = |k: usize| {
            let at = 128 * g + 32 * k;
            _mm256_cmpeq_epi16(load(new.as_ptr().add(at)), load(old.as_ptr().add(at)))
        };
        let pair = |k| {
            let v = _mm256_packs_epi16(same(k), same(k + 1));
            _mm256_permute4x64_epi64::<0xd8>(v)
        };
        *out = !mask(pair(0), pair(2));
    }
    gaps::differing::<2>(&new[128 * n..], &old[128 * n..], &mut out[n..]);
}
