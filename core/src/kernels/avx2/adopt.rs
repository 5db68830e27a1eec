//! AVX2 twin of the kernels of what is adopted, and of fields of several widths.

use crate::kernels::scalar::adopt::{self, CLASSES};
use crate::kernels::scalar::fields::REACH;
use core::arch::x86_64::*;

/// [`adopt::contexts`].
///
/// # Safety
/// The machine has AVX2.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn contexts(map: &[u8; CLASSES], ctx: &mut [u8]) {
    let n = ctx.len() & !31;
    let part = |k: usize| {
        _mm256_broadcastsi128_si256(_mm_loadu_si128(map.as_ptr().add(16 * k) as *const _))
    };
    let tables = [part(0), part(1), part(2), part(3)];
    for i in (0..n).step_by(32) {
        let p = ctx.as_mut_ptr().add(i) as *mut __m256i;
        let c = _mm256_loadu_si256(p);
        let low = _mm256_and_si256(c, _mm256_set1_epi8(15));
        let at = |k: usize| _mm256_shuffle_epi8(tables[k], low);
        // Bits 4 and 5 say which part, moved to the top of the byte.
        let (odd, upper) = (_mm256_slli_epi16::<3>(c), _mm256_slli_epi16::<2>(c));
        let first = _mm256_blendv_epi8(at(0), at(1), odd);
        let second = _mm256_blendv_epi8(at(2), at(3), odd);
        _mm256_storeu_si256(p, _mm256_blendv_epi8(first, second, upper));
    }
    adopt::contexts(map, &mut ctx[n..]);
}

/// Codes of 64 elements: their symbols, and fields of these widths, of at most 24 bits, from `bit`, below
/// 8, on. Returns the fields' bits.
///
/// # Safety
/// The machine has AVX2; there are 64 symbols and places for as many codes.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn fields<const SIDED: bool>(
    widths: &[u8; 64],
    sym: &[u8],
    from: &[u8; REACH],
    bit: usize,
    z: &mut [u32],
) -> usize {
    debug_assert!(sym.len() >= 64 && z.len() >= 64 && bit < 8);
    let one = _mm256_set1_epi32(1);
    let mut at = _mm256_set1_epi32(bit as i32);
    for i in (0..64).step_by(8) {
        let wide = |p: *const u8| _mm256_cvtepu8_epi32(_mm_loadl_epi64(p as *const _));
        let (w, s) = (wide(widths.as_ptr().add(i)), wide(sym.as_ptr().add(i)));
        // Sums of the widths up to each element.
        let v = _mm256_add_epi32(w, _mm256_slli_si256::<4>(w));
        let v = _mm256_add_epi32(v, _mm256_slli_si256::<8>(v));
        let last = _mm256_shuffle_epi32::<0xff>(v);
        let ends = _mm256_add_epi32(v, _mm256_permute2x128_si256::<0x08>(last, last));
        let start = _mm256_add_epi32(at, _mm256_sub_epi32(ends, w));
        at = _mm256_add_epi32(at, _mm256_permutevar8x32_epi32(ends, _mm256_set1_epi32(7)));
        // 64 fields of 24 bits end before the last whole load.
        let byte = _mm256_min_epu32(
            _mm256_srli_epi32::<3>(start),
            _mm256_set1_epi32(REACH as i32 - 4),
        );
        let word = _mm256_i32gather_epi32::<1>(from.as_ptr() as *const i32, byte);
        let word = _mm256_srlv_epi32(word, _mm256_and_si256(start, _mm256_set1_epi32(7)));
        let mask = _mm256_sub_epi32(_mm256_sllv_epi32(one, w), one);
        let field = _mm256_and_si256(word, mask);
        let upper = _mm256_sub_epi32(s, one);
        let code = if SIDED {
            let y = _mm256_or_si256(_mm256_sllv_epi32(_mm256_srli_epi32::<1>(upper), w), field);
            _mm256_or_si256(_mm256_slli_epi32::<1>(y), _mm256_and_si256(upper, one))
        } else {
            _mm256_add_epi32(_mm256_sllv_epi32(upper, w), field)
        };
        let none = _mm256_cmpeq_epi32(s, _mm256_setzero_si256());
        let code = _mm256_andnot_si256(none, _mm256_add_epi32(code, one));
        _mm256_storeu_si256(z.as_mut_ptr().add(i) as *mut _, code);
    }
    _mm256_extract_epi32::<0>(at) as usize - bit
}
