//! AVX2 twins of the encoder's kernels.

use crate::entropy::encoder::{EncodeTables, Words, ENCODE_STRIDE};
use crate::entropy::rans::MAX_LANES;
use crate::kernels::scalar::words;
use core::arch::x86_64::*;

/// For each set of full lanes, which bytes of the lanes' words come to the end of a vector.
static PACK: [[u8; 16]; 256] = pack();

const fn pack() -> [[u8; 16]; 256] {
    let mut t = [[0x80; 16]; 256];
    let mut m = 0;
    while m < 256 {
        let (mut lane, mut at) = (8, 16);
        while lane > 0 {
            lane -= 1;
            if m >> lane & 1 == 1 {
                at -= 2;
                t[m][at] = 2 * lane as u8;
                t[m][at + 1] = 2 * lane as u8 + 1;
            }
        }
        m += 1;
    }
    t
}

/// Twin of [`words::encode_symbols`] for 64 lanes: eight lanes a vector, from the last vector to the first.
///
/// # Safety
/// The machine has AVX2.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn encode_symbols(
    words: &mut Words,
    states: &mut [u32],
    tables: &EncodeTables,
    syms: &[u8],
    ctx: &[u8],
) {
    let whole = syms.len() / MAX_LANES * MAX_LANES;
    words::encode_symbols(words, states, tables, &syms[whole..], &ctx[whole..]);
    assert!(states.len() == MAX_LANES && ctx.len() == syms.len());
    // A store reaches 16 bytes below the last word; `Words` has a margin of more.
    assert!(words.at >= 2 * whole + 16);
    let entries = tables.entries();
    let (zero, stride) = (_mm_setzero_si128(), _mm_set1_epi16(ENCODE_STRIDE as i16));
    let mut at = words.buf.as_mut_ptr().add(words.at);
    let mut x = [_mm256_setzero_si256(); 8];
    for (j, x) in x.iter_mut().enumerate() {
        *x = _mm256_loadu_si256(states.as_ptr().add(8 * j) as *const _);
    }
    for group in (0..whole).step_by(MAX_LANES).rev() {
        // Numbers of the entries, in the order of the symbols.
        let mut index = [0u16; MAX_LANES];
        for j in 0..4 {
            let load = |p: &[u8]| _mm_loadu_si128(p.as_ptr().add(group + 16 * j) as *const _);
            let (s, c) = (load(syms), _mm_and_si128(load(ctx), _mm_set1_epi8(15)));
            let to = index.as_mut_ptr().add(16 * j);
            let number = |s, c| _mm_add_epi16(s, _mm_mullo_epi16(c, stride));
            let low = number(_mm_unpacklo_epi8(s, zero), _mm_unpacklo_epi8(c, zero));
            let high = number(_mm_unpackhi_epi8(s, zero), _mm_unpackhi_epi8(c, zero));
            _mm_storeu_si128(to as *mut _, low);
            _mm_storeu_si128(to.add(8) as *mut _, high);
        }
        for (j, x) in x.iter_mut().enumerate().rev() {
            // SAFETY: a context is below 16.
            let entry = |l: usize| *entries.add(usize::from(index[8 * j + l])) as i64;
            let even = _mm256_setr_epi64x(entry(0), entry(2), entry(4), entry(6));
            let odd = _mm256_setr_epi64x(entry(1), entry(3), entry(5), entry(7));
            encode8(x, &mut at, even, odd);
        }
    }
    for (j, x) in x.iter().enumerate() {
        _mm256_storeu_si256(states.as_mut_ptr().add(8 * j) as *mut _, *x);
    }
    words.at = at.offset_from(words.buf.as_ptr()) as usize;
}

/// One symbol into each of eight lanes, given the entries of the even and the odd ones.
///
/// # Safety
/// The machine has AVX2; 16 bytes below `at` can be written.
#[inline(always)]
unsafe fn encode8(x: &mut __m256i, at: &mut *mut u8, even: __m256i, odd: __m256i) {
    let info = _mm256_blend_epi32::<0xaa>(_mm256_srli_epi64::<32>(even), odd);
    let twelve = _mm256_set1_epi32(0xfff);
    let less = _mm256_and_si256(_mm256_srli_epi32::<12>(info), twelve);
    let full = _mm256_cmpgt_epi32(_mm256_srli_epi32::<20>(*x), less);
    let m = _mm256_movemask_ps(_mm256_castsi256_ps(full)) as usize;
    let low = _mm256_blend_epi16::<0xaa>(*x, _mm256_setzero_si256());
    let low = _mm256_packus_epi32(low, low);
    let low = _mm256_castsi256_si128(_mm256_permute4x64_epi64::<8>(low));
    let pack = _mm_loadu_si128(PACK.get_unchecked(m).as_ptr() as *const _);
    _mm_storeu_si128(at.sub(16) as *mut _, _mm_shuffle_epi8(low, pack));
    *at = at.sub(2 * m.count_ones() as usize);
    let v = _mm256_blendv_epi8(*x, _mm256_srli_epi32::<16>(*x), full);
    let bias = _mm256_and_si256(_mm256_srli_epi32::<24>(info), _mm256_set1_epi32(1));
    let biased = _mm256_add_epi32(v, bias);
    let upper = _mm256_mul_epu32(_mm256_srli_epi64::<32>(biased), odd);
    let lower = _mm256_srli_epi64::<32>(_mm256_mul_epu32(biased, even));
    let product = _mm256_blend_epi32::<0xaa>(lower, upper);
    let q = _mm256_srlv_epi32(product, _mm256_srli_epi32::<28>(info));
    let rest = _mm256_mullo_epi32(q, _mm256_xor_si256(less, twelve));
    let start = _mm256_and_si256(info, twelve);
    *x = _mm256_add_epi32(_mm256_add_epi32(v, start), rest);
}
