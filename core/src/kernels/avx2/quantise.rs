//! AVX2 twin of the encoder's way from floats to bins.

use super::floats::{half_float, load, widen};
use super::rows::contexts;
use crate::format::float::{pow2, Format};
use crate::kernels::scalar::base::{Known, Sums};
use core::arch::x86_64::*;

/// Elements of one step from floats to bins.
const STEP: usize = 32;

/// Sums of squares of four pairs of lanes.
#[derive(Clone, Copy)]
pub struct Pair(__m256d, __m256d);

impl Pair {
    /// Goes on with these sums.
    ///
    /// # Safety
    /// The machine has AVX2.
    #[inline(always)]
    pub unsafe fn new(lanes: [f64; 8]) -> Self {
        Pair(
            _mm256_loadu_pd(lanes.as_ptr()),
            _mm256_loadu_pd(lanes.as_ptr().add(4)),
        )
    }
    /// The sums.
    ///
    /// # Safety
    /// The machine has AVX2.
    #[inline(always)]
    pub unsafe fn lanes(self) -> [f64; 8] {
        let mut out = [0.0; 8];
        _mm256_storeu_pd(out.as_mut_ptr(), self.0);
        _mm256_storeu_pd(out.as_mut_ptr().add(4), self.1);
        out
    }
    /// Adds squares.
    ///
    /// # Safety
    /// The machine has AVX2.
    #[inline(always)]
    unsafe fn add(&mut self, v: __m256) {
        let low = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
        let high = _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(v));
        self.0 = _mm256_add_pd(self.0, _mm256_mul_pd(low, low));
        self.1 = _mm256_add_pd(self.1, _mm256_mul_pd(high, high));
    }
    /// Adds squares of differences, but those of which `skip` is all ones.
    ///
    /// # Safety
    /// The machine has AVX2.
    #[inline(always)]
    pub unsafe fn add_difference(&mut self, v: __m256, w: __m256, skip: __m256i) {
        let skip = _mm256_castsi256_ps(skip);
        let (v, w) = (_mm256_andnot_ps(skip, v), _mm256_andnot_ps(skip, w));
        let low = |v| _mm256_cvtps_pd(_mm256_castps256_ps128(v));
        let high = |v| _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(v));
        let (a, b) = (
            _mm256_sub_pd(low(v), low(w)),
            _mm256_sub_pd(high(v), high(w)),
        );
        self.0 = _mm256_add_pd(self.0, _mm256_mul_pd(a, a));
        self.1 = _mm256_add_pd(self.1, _mm256_mul_pd(b, b));
    }
}

/// One row's constants and sums on the way to bins.
struct Base {
    scale: __m256,
    step: __m256,
    signal: Pair,
    error: Pair,
}

impl Base {
    /// Bin numbers of eight magnitudes; all ones outside the bins.
    ///
    /// # Safety
    /// The machine has AVX2.
    #[inline(always)]
    unsafe fn bins(&mut self, v: __m256) -> __m256i {
        let a = _mm256_mul_ps(v, self.scale);
        let out = _mm256_cmp_ps::<_CMP_NLT_UQ>(a, _mm256_set1_ps(127.5));
        let q = _mm256_cvttps_epi32(a);
        let rest = _mm256_sub_ps(a, _mm256_cvtepi32_ps(q));
        let up = _mm256_cmp_ps::<_CMP_GE_OQ>(rest, _mm256_set1_ps(0.5));
        let q = _mm256_sub_epi32(q, _mm256_castps_si256(up));
        // Exact in f32: the value lies within a factor of two of the bin's, or the bin is 0.
        let error = _mm256_sub_ps(v, _mm256_mul_ps(_mm256_cvtepi32_ps(q), self.step));
        self.error.add(_mm256_andnot_ps(out, error));
        let finite = _mm256_cmp_ps::<_CMP_LT_OQ>(v, _mm256_set1_ps(f32::INFINITY));
        self.signal.add(_mm256_and_ps(v, finite));
        _mm256_or_si256(q, _mm256_castps_si256(out))
    }
    /// Bin numbers of sixteen elements, and all ones for the negative ones.
    ///
    /// # Safety
    /// The machine has AVX2 and F16C; sixteen elements can be read.
    #[inline(always)]
    unsafe fn bins16<F: Format>(&mut self, mem: *const u8) -> (__m256i, __m256i) {
        let mask = F::MASK as i32;
        let (a, b, sign);
        if F::BYTES == 2 {
            let v = load(mem);
            sign = _mm256_srai_epi16::<15>(v);
            let u = _mm256_and_si256(v, _mm256_set1_epi16(mask as i16));
            let (low, high) = (_mm256_castsi256_si128(u), _mm256_extracti128_si256::<1>(u));
            a = self.bins(widen16::<F>(low));
            b = self.bins(widen16::<F>(high));
        } else {
            let (u, v) = (load(mem), load(mem.add(32)));
            let signs = _mm256_packs_epi32(_mm256_srai_epi32::<31>(u), _mm256_srai_epi32::<31>(v));
            sign = _mm256_permute4x64_epi64::<0xd8>(signs);
            let mask = _mm256_set1_epi32(mask);
            a = self.bins(_mm256_castsi256_ps(_mm256_and_si256(u, mask)));
            b = self.bins(_mm256_castsi256_ps(_mm256_and_si256(v, mask)));
        }
        let q = _mm256_permute4x64_epi64::<0xd8>(_mm256_packs_epi32(a, b));
        (q, sign)
    }
}

/// Values of eight 16-bit magnitudes.
///
/// # Safety
/// The machine has AVX2 and F16C.
#[inline(always)]
unsafe fn widen16<F: Format>(u: __m128i) -> __m256 {
    if half_float::<F>() {
        widen(u)
    } else {
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(u)))
    }
}

/// 32 elements: symbols, bin numbers and contexts; returns all ones where a symbol is the escape.
///
/// # Safety
/// The machine has AVX2 and F16C; 32 elements can be read, and as many results written.
#[inline(always)]
unsafe fn base32<F: Format>(
    mem: *const u8,
    base: &mut Base,
    sym: *mut u8,
    pos: *mut i16,
    ctx: *mut u8,
) -> __m256i {
    let (a, sign_a) = base.bins16::<F>(mem);
    let (b, sign_b) = base.bins16::<F>(mem.add(16 * F::BYTES));
    _mm256_storeu_si256(pos as *mut _, a);
    _mm256_storeu_si256(pos.add(16) as *mut _, b);
    _mm256_storeu_si256(ctx as *mut _, contexts(a, b));
    let (out_a, out_b) = (_mm256_srai_epi16::<15>(a), _mm256_srai_epi16::<15>(b));
    let middle = _mm256_set1_epi16(128);
    let a = _mm256_add_epi16(
        _mm256_sub_epi16(_mm256_xor_si256(a, sign_a), sign_a),
        middle,
    );
    let b = _mm256_add_epi16(
        _mm256_sub_epi16(_mm256_xor_si256(b, sign_b), sign_b),
        middle,
    );
    let s = _mm256_packus_epi16(_mm256_andnot_si256(out_a, a), _mm256_andnot_si256(out_b, b));
    _mm256_storeu_si256(sym as *mut _, _mm256_permute4x64_epi64::<0xd8>(s));
    _mm256_or_si256(out_a, out_b)
}

/// Twin of [`base_row`](crate::kernels::scalar::base::base_row).
///
/// # Safety
/// The machine has AVX2 and F16C.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
pub unsafe fn base_row<F: Format>(
    mem: &[u8],
    e: i32,
    sym: &mut [u8],
    known: Known,
    sums: &mut Sums,
) -> bool {
    let n = sym.len();
    assert!(mem.len() == n * F::BYTES && known.pos.len() == n && known.ctx.len() == n);
    let mut base = Base {
        scale: _mm256_set1_ps(pow2(-e)),
        step: _mm256_set1_ps(pow2(e)),
        signal: Pair::new(sums.signal.begin()),
        error: Pair::new(sums.error.begin()),
    };
    let mut escapes = _mm256_setzero_si256();
    let whole = n / STEP * STEP;
    for i in (0..whole).step_by(STEP) {
        let (pos, ctx) = (known.pos.as_mut_ptr(), known.ctx.as_mut_ptr());
        let (mem, sym) = (mem.as_ptr().add(i * F::BYTES), sym.as_mut_ptr().add(i));
        let out = base32::<F>(mem, &mut base, sym, pos.add(i), ctx.add(i));
        escapes = _mm256_or_si256(escapes, out);
    }
    if whole < n {
        // Zeros add nothing to the sums.
        let (mut m, mut s) = ([0u8; 4 * STEP], [0u8; STEP]);
        let (mut p, mut c) = ([0i16; STEP], [0u8; STEP]);
        m[..(n - whole) * F::BYTES].copy_from_slice(&mem[whole * F::BYTES..]);
        let (s_at, p_at) = (s.as_mut_ptr(), p.as_mut_ptr());
        let out = base32::<F>(m.as_ptr(), &mut base, s_at, p_at, c.as_mut_ptr());
        escapes = _mm256_or_si256(escapes, out);
        sym[whole..].copy_from_slice(&s[..n - whole]);
        known.pos[whole..].copy_from_slice(&p[..n - whole]);
        known.ctx[whole..].copy_from_slice(&c[..n - whole]);
    }
    sums.signal.end(base.signal.lanes(), n);
    sums.error.end(base.error.lanes(), n);
    _mm256_movemask_epi8(escapes) != 0
}
