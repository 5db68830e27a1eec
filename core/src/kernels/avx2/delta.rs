//! AVX2 twin of the kernels of deltas.

use crate::entropy::table::MAX_CTX;
use crate::format::float::Format;
use crate::kernels::scalar::delta;
use core::arch::x86_64::*;

/// Order of 32-bit parts after two steps of packing.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn in_order(v: __m256i) -> __m256i {
    _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
}

/// A vector of bytes.
///
/// # Safety
/// The machine has AVX2; 32 bytes can be read.
#[inline(always)]
unsafe fn load(p: *const u8) -> __m256i {
    _mm256_loadu_si256(p as *const _)
}

/// Writes a vector of bytes.
///
/// # Safety
/// The machine has AVX2; 32 bytes can be written.
#[inline(always)]
unsafe fn store(p: *mut u8, v: __m256i) {
    _mm256_storeu_si256(p as *mut _, v);
}

/// [`delta::contexts`].
///
/// # Safety
/// The machine has AVX2.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn contexts<F: Format>(pred: &[u8], low: u8, ctx: &mut [u8]) {
    let n = ctx.len().min(pred.len() / F::BYTES) & !31;
    let from = _mm256_set1_epi16(i16::from(low));
    let top = _mm256_set1_epi16(15);
    let bounded = |e| _mm256_min_epu16(_mm256_subs_epu16(e, from), top);
    for i in (0..n).step_by(32) {
        let p = pred.as_ptr().add(i * F::BYTES);
        let packed = if F::BYTES == 2 {
            let exponent = |p| {
                let v = _mm256_slli_epi16::<1>(load(p));
                if F::MANT == 7 {
                    _mm256_srli_epi16::<8>(v)
                } else {
                    _mm256_srli_epi16::<11>(v)
                }
            };
            let (a, b) = (bounded(exponent(p)), bounded(exponent(p.add(32))));
            _mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi16(a, b))
        } else {
            let e = |k: usize| _mm256_srli_epi32::<24>(_mm256_slli_epi32::<1>(load(p.add(32 * k))));
            let a = bounded(_mm256_packus_epi32(e(0), e(1)));
            let b = bounded(_mm256_packus_epi32(e(2), e(3)));
            in_order(_mm256_packus_epi16(a, b))
        };
        store(ctx.as_mut_ptr().add(i), packed);
    }
    delta::contexts::<F>(&pred[n * F::BYTES..], low, &mut ctx[n..]);
}

/// Differences of 16 elements of 16 bits.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn unzigzag16(z: __m256i) -> __m256i {
    let odd = _mm256_and_si256(z, _mm256_set1_epi16(1));
    let sign = _mm256_sub_epi16(_mm256_setzero_si256(), odd);
    _mm256_xor_si256(_mm256_srli_epi16::<1>(z), sign)
}

/// Bits of floats as integers in the order of the floats; its own inverse.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn flip16(x: __m256i) -> __m256i {
    let low = _mm256_srli_epi16::<1>(_mm256_srai_epi16::<15>(x));
    _mm256_xor_si256(x, low)
}

/// Differences of 8 elements of 32 bits.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn unzigzag32(z: __m256i) -> __m256i {
    let odd = _mm256_and_si256(z, _mm256_set1_epi32(1));
    let sign = _mm256_sub_epi32(_mm256_setzero_si256(), odd);
    _mm256_xor_si256(_mm256_srli_epi32::<1>(z), sign)
}

/// The same for 32 bits.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn flip32(x: __m256i) -> __m256i {
    let low = _mm256_srli_epi32::<1>(_mm256_srai_epi32::<31>(x));
    _mm256_xor_si256(x, low)
}

/// Sixteen elements of 16 bits with their differences.
///
/// # Safety
/// The machine has AVX2; sixteen elements can be read and written.
#[inline(always)]
unsafe fn combine16(p: *mut u8, d: __m256i, tz: __m128i, below: __m256i) {
    let o = _mm256_sra_epi16(flip16(load(p)), tz);
    let o = _mm256_sll_epi16(_mm256_add_epi16(o, d), tz);
    let filled = _mm256_and_si256(_mm256_srai_epi16::<15>(o), below);
    store(p, flip16(_mm256_or_si256(o, filled)));
}

/// Eight elements of 32 bits with their differences.
///
/// # Safety
/// The machine has AVX2; eight elements can be read and written.
#[inline(always)]
unsafe fn combine32(p: *mut u8, z: __m256i, tz: __m128i, below: __m256i) {
    let o = _mm256_sra_epi32(flip32(load(p)), tz);
    let o = _mm256_sll_epi32(_mm256_add_epi32(o, unzigzag32(z)), tz);
    let filled = _mm256_and_si256(_mm256_srai_epi32::<31>(o), below);
    store(p, flip32(_mm256_or_si256(o, filled)));
}

/// [`delta::combine`].
///
/// # Safety
/// The machine has AVX2.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn combine<F: Format>(mem: &mut [u8], sym: &[u8], z: Option<&[u32]>, tz: u32) {
    let z_len = z.map_or(sym.len(), <[u32]>::len);
    let n = (mem.len() / F::BYTES).min(sym.len()).min(z_len) & !15;
    let count = _mm_cvtsi32_si128(tz as i32);
    for i in (0..n).step_by(16) {
        let p = mem.as_mut_ptr().add(i * F::BYTES);
        if F::BYTES == 2 {
            let below = _mm256_set1_epi16((1 << tz) - 1);
            let d = match z {
                Some(z) => {
                    // A hostile difference may have more than 16 bits.
                    let low = _mm256_set1_epi32(0xffff);
                    let part = |k: usize| {
                        let z = load(z.as_ptr().add(i + k) as *const _);
                        _mm256_and_si256(unzigzag32(z), low)
                    };
                    let v = _mm256_packus_epi32(part(0), part(8));
                    _mm256_permute4x64_epi64::<0xd8>(v)
                }
                None => {
                    let s = _mm_loadu_si128(sym.as_ptr().add(i) as *const _);
                    unzigzag16(_mm256_cvtepu8_epi16(s))
                }
            };
            combine16(p, d, count, below);
        } else {
            let below = _mm256_set1_epi32((1 << tz) - 1);
            for half in [0, 8] {
                let z = match z {
                    Some(z) => load(z.as_ptr().add(i + half) as *const _),
                    None => {
                        let s = sym.as_ptr().add(i + half) as *const _;
                        _mm256_cvtepu8_epi32(_mm_loadl_epi64(s))
                    }
                };
                combine32(p.add(4 * half), z, count, below);
            }
        }
    }
    delta::combine::<F>(&mut mem[n * F::BYTES..], &sym[n..], z.map(|z| &z[n..]), tz);
}

/// [`delta::zigzags`].
///
/// # Safety
/// The machine has AVX2.
#[cfg(feature = "encode")]
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn zigzags<F: Format>(new: &[u8], old: &[u8], tz: u32, z: &mut [u32]) {
    let n = (new.len().min(old.len()) / F::BYTES).min(z.len()) & !15;
    let count = _mm_cvtsi32_si128(tz as i32);
    for i in (0..n).step_by(16) {
        let (a, b) = (
            new.as_ptr().add(i * F::BYTES),
            old.as_ptr().add(i * F::BYTES),
        );
        let out = z.as_mut_ptr().add(i) as *mut u8;
        if F::BYTES == 2 {
            let ordered = |p| _mm256_sra_epi16(flip16(load(p)), count);
            let d = _mm256_sll_epi16(_mm256_sub_epi16(ordered(a), ordered(b)), count);
            let d = _mm256_sra_epi16(d, count);
            let v = _mm256_xor_si256(_mm256_slli_epi16::<1>(d), _mm256_srai_epi16::<15>(d));
            store(out, _mm256_cvtepu16_epi32(_mm256_castsi256_si128(v)));
            let high = _mm256_extracti128_si256::<1>(v);
            store(out.add(32), _mm256_cvtepu16_epi32(high));
        } else {
            for half in [0, 32] {
                let ordered = |p: *const u8| _mm256_sra_epi32(flip32(load(p.add(half))), count);
                let d = _mm256_sll_epi32(_mm256_sub_epi32(ordered(a), ordered(b)), count);
                let d = _mm256_sra_epi32(d, count);
                let v = _mm256_xor_si256(_mm256_slli_epi32::<1>(d), _mm256_srai_epi32::<31>(d));
                store(out.add(half), v);
            }
        }
    }
    let at = n * F::BYTES;
    delta::zigzags::<F>(&new[at..], &old[at..], tz, &mut z[n..]);
}

/// [`field_widths`](crate::kernels::scalar::fields::field_widths) of 64 elements.
///
/// # Safety
/// The machine has AVX2; there are 64 contexts and symbols.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn field_widths(
    widths: &[u8; MAX_CTX],
    ctx: &[u8],
    sym: &[u8],
    out: &mut [u8; 64],
) -> u64 {
    debug_assert!(ctx.len() >= 64 && sym.len() >= 64);
    let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(widths.as_ptr() as *const _));
    let (low, zero) = (_mm256_set1_epi8(MAX_CTX as i8 - 1), _mm256_setzero_si256());
    let mut some = 0;
    for half in [0, 32] {
        let c = _mm256_loadu_si256(ctx.as_ptr().add(half) as *const _);
        let s = _mm256_loadu_si256(sym.as_ptr().add(half) as *const _);
        let w = _mm256_shuffle_epi8(table, _mm256_and_si256(c, low));
        let w = _mm256_andnot_si256(_mm256_cmpeq_epi8(s, zero), w);
        _mm256_storeu_si256(out.as_mut_ptr().add(half) as *mut _, w);
        let none = _mm256_movemask_epi8(_mm256_cmpeq_epi8(w, zero)) as u32;
        some |= u64::from(!none) << half;
    }
    some
}
