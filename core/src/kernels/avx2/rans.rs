//! AVX2 twin of the rANS decoder: 64 lanes in four pairs of vectors, sixteen lanes a pair.
//!
//! A lane's way from one symbol to the next is some sixty cycles long, most of them waiting: for
//! the slot to reach the address units, the table entry to come back, the mask of starved lanes to
//! pick a shuffle. Operations that wait clog the vector schedulers, so the way is cut into four
//! stages, and while one pair is in one of them the other pairs are in the others.

use super::Avx2;
use crate::entropy::rans::{Stream, MAX_LANES};
use crate::entropy::table::{MAX_CTX, PROB_BITS, TOTAL};
use crate::kernels::scalar::rans as scalar;
use crate::Error;
use core::arch::x86_64::*;

type Pair = [__m256i; 2];

#[repr(align(32))]
struct Shuffles([[u8; 32]; 256]);

/// For each set of starved lanes, the shuffle that gives each of them its word of the next eight,
/// and the others 0.
static SPREAD: Shuffles = Shuffles(spread());

const fn spread() -> [[u8; 32]; 256] {
    let mut t = [[0x80; 32]; 256];
    let mut m = 0;
    while m < 256 {
        let (mut lane, mut word) = (0, 0);
        while lane < 8 {
            if m >> lane & 1 == 1 {
                t[m][4 * lane] = 2 * word;
                t[m][4 * lane + 1] = 2 * word + 1;
                word += 1;
            }
            lane += 1;
        }
        m += 1;
    }
    t
}

/// Where the tables of sixteen elements begin, and what takes slots to entries, for each pair; in
/// the order of packed vectors: lanes 0-3, 8-11 and 4-7, 12-15.
struct Places {
    base: [__m256i; 4],
    scale: [__m256i; 4],
}

impl Places {
    /// Of the 64 elements whose contexts begin at `ctx`.
    ///
    /// # Safety
    /// The machine has AVX2; 64 contexts can be read.
    #[inline(always)]
    unsafe fn new<const COARSE: bool>(ctx: *const u8, tables: &Lookup) -> Self {
        let zero = _mm256_setzero_si256();
        let mut p = Places {
            base: [zero; 4],
            scale: [zero; 4],
        };
        let order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
        for half in 0..2 {
            let c = _mm256_loadu_si256(ctx.add(32 * half) as *const _);
            let c = _mm256_and_si256(c, _mm256_set1_epi8(MAX_CTX as i8 - 1));
            let c = _mm256_permutevar8x32_epi32(c, order);
            let b = _mm256_shuffle_epi8(tables.base, c);
            p.base[2 * half] = _mm256_unpacklo_epi8(zero, b);
            p.base[2 * half + 1] = _mm256_unpackhi_epi8(zero, b);
            if COARSE {
                let s = _mm256_shuffle_epi8(tables.scale, c);
                p.scale[2 * half] = _mm256_unpacklo_epi8(zero, s);
                p.scale[2 * half + 1] = _mm256_unpackhi_epi8(zero, s);
            }
        }
        p
    }
}

/// The stream's tables.
struct Lookup {
    entries: *const i32,
    /// By context: bits 8 to 15 of the first entry's number.
    base: __m256i,
    /// By context: bits 8 to 15 of what `slot << 4` is multiplied with, for the entry in the upper
    /// half of the product.
    scale: __m256i,
}

impl Lookup {
    /// The tables of a stream.
    ///
    /// # Safety
    /// The machine has AVX2.
    #[inline(always)]
    unsafe fn new(stream: &Stream) -> Self {
        let mut scale = [0u8; MAX_CTX];
        for (s, shift) in scale.iter_mut().zip(stream.tables.shift) {
            *s = 16 >> shift;
        }
        let both = |t: &[u8; MAX_CTX]| {
            _mm256_broadcastsi128_si256(_mm_loadu_si128(t.as_ptr() as *const _))
        };
        Lookup {
            entries: stream.tables.entries().as_ptr() as *const i32,
            base: both(&stream.tables.base),
            scale: both(&scale),
        }
    }

    /// First stage: the numbers of a pair's entries, four in each integer.
    ///
    /// # Safety
    /// The machine has AVX2.
    #[inline(always)]
    unsafe fn numbers<const COARSE: bool>(&self, x: Pair, at: &Places, pair: usize) -> [u64; 4] {
        let slot = |x| _mm256_and_si256(x, _mm256_set1_epi32(TOTAL as i32 - 1));
        let mut v = _mm256_packus_epi32(slot(x[0]), slot(x[1]));
        if COARSE {
            v = _mm256_mulhi_epu16(_mm256_slli_epi16::<4>(v), at.scale[pair]);
        }
        let v = _mm256_add_epi16(v, at.base[pair]);
        let (lo, hi) = (_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
        [
            _mm_cvtsi128_si64(lo) as u64,
            _mm_extract_epi64::<1>(lo) as u64,
            _mm_cvtsi128_si64(hi) as u64,
            _mm_extract_epi64::<1>(hi) as u64,
        ]
    }

    /// Second stage: the entries.
    ///
    /// # Safety
    /// The machine has AVX2; the numbers come from [`Lookup::numbers`].
    #[inline(always)]
    unsafe fn entries(&self, numbers: [u64; 4]) -> Pair {
        let [a, b, c, d] = numbers;
        let both = |lo, hi| _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(lo), hi);
        [
            both(self.four(a), self.four(c)),
            both(self.four(b), self.four(d)),
        ]
    }

    /// Four entries. Single loads: the gather instruction is slower on every AVX2 machine that
    /// lacks AVX-512. Each load has its entry where the blend takes it, so that one operation does
    /// both.
    ///
    /// # Safety
    /// The machine has AVX2; the numbers come from [`Lookup::numbers`].
    #[inline(always)]
    unsafe fn four(&self, numbers: u64) -> __m128i {
        // SAFETY: `DecodeTables` lists all slots of all 16 contexts, with a margin on both sides.
        let at = |j: usize| self.entries.add((numbers >> (16 * j)) as u16 as usize);
        let load = |j: usize| _mm_loadu_si128(at(j).sub(j) as *const _);
        let v = _mm_blend_epi32::<2>(_mm_cvtsi32_si128(*at(0)), load(1));
        _mm_blend_epi32::<8>(_mm_blend_epi32::<4>(v, load(2)), load(3))
    }
}

/// A pair between the last two stages.
#[derive(Clone, Copy)]
struct Next {
    states: Pair,
    starved: Pair,
    /// A word for each starved lane, 0 for the others.
    words: Pair,
}

impl Next {
    /// Third stage: takes the symbols out of the states, and words for the starved lanes from `at`.
    ///
    /// # Safety
    /// The machine has AVX2; 32 words can be read from `at` on.
    #[inline(always)]
    unsafe fn new(x: Pair, entries: Pair, at: &mut *const u8) -> Self {
        let mut n = Next {
            states: x,
            starved: x,
            words: x,
        };
        for k in 0..2 {
            let (x, e) = (x[k], entries[k]);
            let high = _mm256_srli_epi32::<{ PROB_BITS as i32 }>(x);
            // freq * high + slot - start, with x = 4096 * high + slot.
            let start = _mm256_srli_epi32::<8>(e);
            let start = _mm256_and_si256(start, _mm256_set1_epi32(TOTAL as i32 - 1));
            let rest = _mm256_mullo_epi32(_mm256_srli_epi32::<20>(e), high);
            let x = _mm256_sub_epi32(_mm256_sub_epi32(x, start), rest);
            let low = _mm256_min_epu32(x, _mm256_set1_epi32(0xffff));
            let starved = _mm256_cmpeq_epi32(x, low);
            let m = _mm256_movemask_ps(_mm256_castsi256_ps(starved)) as usize;
            let words = _mm256_broadcastsi128_si256(_mm_loadu_si128(*at as *const _));
            let spread = SPREAD.0.get_unchecked(m).as_ptr();
            n.words[k] = _mm256_shuffle_epi8(words, _mm256_load_si256(spread as *const _));
            *at = at.add(2 * m.count_ones() as usize);
            n.states[k] = x;
            n.starved[k] = starved;
        }
        n
    }

    /// Last stage: the states.
    ///
    /// # Safety
    /// The machine has AVX2.
    #[inline(always)]
    unsafe fn refilled(&self) -> Pair {
        let one = |k: usize| {
            let count = _mm256_and_si256(self.starved[k], _mm256_set1_epi32(16));
            _mm256_or_si256(_mm256_sllv_epi32(self.states[k], count), self.words[k])
        };
        [one(0), one(1)]
    }
}

/// The symbols of two pairs of entries, in order.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn symbols(a: Pair, b: Pair) -> __m256i {
    let byte = |v| _mm256_and_si256(v, _mm256_set1_epi32(255));
    let pack = |v: Pair| _mm256_packus_epi32(byte(v[0]), byte(v[1]));
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_permutevar8x32_epi32(_mm256_packus_epi16(pack(a), pack(b)), order)
}

/// Twin of [`scalar::decode_symbols`].
///
/// # Safety
/// The machine has AVX2 and BMI2.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
#[inline(never)]
pub unsafe fn decode_symbols(
    isa: Avx2,
    stream: &mut Stream,
    ctx: &[u8],
    out: &mut [u8],
) -> Result<(), Error> {
    let out = &mut out[..ctx.len()];
    let done = if stream.lanes < MAX_LANES {
        0
    } else {
        groups(isa, stream, ctx, out)
    };
    scalar::decode(stream, &ctx[done..], &mut out[done..])
}

/// Decodes whole groups of 64 symbols of as many lanes; returns how many symbols.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn groups(isa: Avx2, stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> usize {
    #[cfg(p2u_avx512)]
    if let Some(wide) = isa.wide {
        return wide.decode_symbols(stream, ctx, out);
    }
    let _ = isa;
    decode64(stream, ctx, out)
}

/// Decodes whole groups of 64 symbols while the words last for certain; returns how many symbols.
///
/// # Safety
/// The machine has AVX2.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
unsafe fn decode64(stream: &mut Stream, ctx: &[u8], out: &mut [u8]) -> usize {
    if stream.tables.shift == [0; MAX_CTX] {
        decode64_with::<false>(stream, ctx, out)
    } else {
        decode64_with::<true>(stream, ctx, out)
    }
}

/// [`decode64`]; without `COARSE` all tables have one entry per slot.
///
/// # Safety
/// The machine has AVX2.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt,lzcnt")]
unsafe fn decode64_with<const COARSE: bool>(
    stream: &mut Stream,
    ctx: &[u8],
    out: &mut [u8],
) -> usize {
    assert!(out.len() >= ctx.len());
    let (words, ctx, n) = (stream.words, ctx.as_ptr(), ctx.len());
    let mut at = words.as_ptr();
    // A group takes at most 64 words, two pairs of the one before 32, and a load looks at 8.
    let limit = at.add(
        words
            .len()
            .saturating_sub(2 * (MAX_LANES + MAX_LANES / 2 + 8)),
    );
    if n < MAX_LANES || at >= limit {
        return 0;
    }
    let tables = Lookup::new(stream);
    let mut x = [[_mm256_setzero_si256(); 2]; 4];
    for (j, x) in x.iter_mut().flatten().enumerate() {
        *x = _mm256_loadu_si256(stream.states.as_ptr().add(8 * j) as *const _);
    }
    let mut places = Places::new::<COARSE>(ctx, &tables);
    // What each pair is between its stages.
    let (mut numbers, mut entries) = ([[0; 4]; 4], x);
    macro_rules! first {
        ($p:expr) => {
            numbers[$p] = tables.numbers::<COARSE>(x[$p], &places, $p)
        };
    }
    macro_rules! second {
        ($p:expr) => {
            entries[$p] = tables.entries(numbers[$p])
        };
    }
    macro_rules! third {
        ($p:expr) => {
            Next::new(x[$p], entries[$p], &mut at)
        };
    }
    macro_rules! store {
        ($at:expr, $a:expr, $b:expr) => {
            let symbols = symbols(entries[$a], entries[$b]);
            _mm256_storeu_si256(out.as_mut_ptr().add($at) as *mut _, symbols)
        };
    }
    first!(0);
    second!(0);
    first!(1);
    let mut next = [third!(0); 4];
    second!(1);
    first!(2);
    x[0] = next[0].refilled();
    next[1] = third!(1);
    store!(0, 0, 1);
    second!(2);
    first!(3);
    let mut i = MAX_LANES;
    while i + MAX_LANES <= n && at < limit {
        places = Places::new::<COARSE>(ctx.add(i), &tables);
        x[1] = next[1].refilled();
        next[2] = third!(2);
        second!(3);
        first!(0);

        x[2] = next[2].refilled();
        next[3] = third!(3);
        store!(i - 32, 2, 3);
        second!(0);
        first!(1);

        x[3] = next[3].refilled();
        next[0] = third!(0);
        second!(1);
        first!(2);

        x[0] = next[0].refilled();
        next[1] = third!(1);
        store!(i, 0, 1);
        second!(2);
        first!(3);
        i += MAX_LANES;
    }
    x[1] = next[1].refilled();
    x[2] = third!(2).refilled();
    second!(3);
    x[3] = third!(3).refilled();
    store!(i - 32, 2, 3);
    for (j, x) in x.iter().flatten().enumerate() {
        _mm256_storeu_si256(stream.states.as_mut_ptr().add(8 * j) as *mut _, *x);
    }
    let read = at.offset_from(words.as_ptr()) as usize;
    stream.words = &words[read..];
    i
}
