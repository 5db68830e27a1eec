//! The compression function of SHA-256 with the instructions for it, for `N` streams in step.

use core::arch::x86_64::*;

/// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
static K: [[u32; 4]; 16] = [
    [0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5],
    [0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5],
    [0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3],
    [0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174],
    [0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc],
    [0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da],
    [0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7],
    [0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967],
    [0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13],
    [0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85],
    [0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3],
    [0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070],
    [0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5],
    [0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3],
    [0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208],
    [0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2],
];

/// One stream's working variables, as the instructions want them.
#[derive(Clone, Copy)]
struct State {
    abef: __m128i,
    cdgh: __m128i,
}

/// Working variables of a state.
///
/// # Safety
/// The machine has SSE4.1.
#[inline(always)]
unsafe fn load(state: &[u32; 8]) -> State {
    let abcd = _mm_loadu_si128(state.as_ptr() as *const _);
    let efgh = _mm_loadu_si128(state.as_ptr().add(4) as *const _);
    let (cdab, efgh) = (
        _mm_shuffle_epi32::<0xb1>(abcd),
        _mm_shuffle_epi32::<0x1b>(efgh),
    );
    State {
        abef: _mm_alignr_epi8::<8>(cdab, efgh),
        cdgh: _mm_blend_epi16::<0xf0>(efgh, cdab),
    }
}

/// The inverse of [`load`].
///
/// # Safety
/// The machine has SSE4.1.
#[inline(always)]
unsafe fn store(s: State, state: &mut [u32; 8]) {
    let (feba, dchg) = (
        _mm_shuffle_epi32::<0x1b>(s.abef),
        _mm_shuffle_epi32::<0xb1>(s.cdgh),
    );
    let (abcd, efgh) = (
        _mm_blend_epi16::<0xf0>(feba, dchg),
        _mm_alignr_epi8::<8>(dchg, feba),
    );
    _mm_storeu_si128(state.as_mut_ptr() as *mut _, abcd);
    _mm_storeu_si128(state.as_mut_ptr().add(4) as *mut _, efgh);
}

/// Takes all whole blocks of each part into its state; the parts have one length.
///
/// # Safety
/// The machine has the instructions for SHA-256, and SSE4.1.
#[target_feature(enable = "sha,sse4.1,ssse3")]
pub unsafe fn compress<const N: usize>(states: [&mut [u32; 8]; N], parts: [&[u8]; N]) {
    let size = parts[0].len();
    assert!(parts.iter().all(|p| p.len() == size));
    let order = _mm_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12);
    let zero = _mm_setzero_si128();
    let mut s = [State {
        abef: zero,
        cdgh: zero,
    }; N];
    for n in 0..N {
        s[n] = load(states[n]);
    }
    for at in (0..size / 64 * 64).step_by(64) {
        let before = s;
        let (mut a, mut b, mut c, mut d) = ([zero; N], [zero; N], [zero; N], [zero; N]);
        for n in 0..N {
            let word = |i: usize| {
                let p = parts[n].as_ptr().add(at + 16 * i);
                _mm_shuffle_epi8(_mm_loadu_si128(p as *const _), order)
            };
            a[n] = word(0);
            b[n] = word(1);
            c[n] = word(2);
            d[n] = word(3);
        }
        // Four rounds with the words `now`, and the schedule of those that come after them.
        macro_rules! rounds {
            ($i:literal, $before:ident, $now:ident, $next:ident) => {
                let k = _mm_loadu_si128(K[$i].as_ptr() as *const _);
                for n in 0..N {
                    let w = _mm_add_epi32($now[n], k);
                    s[n].cdgh = _mm_sha256rnds2_epu32(s[n].cdgh, s[n].abef, w);
                    if $i >= 3 && $i < 15 {
                        let mixed = _mm_alignr_epi8::<4>($now[n], $before[n]);
                        let sum = _mm_add_epi32($next[n], mixed);
                        $next[n] = _mm_sha256msg2_epu32(sum, $now[n]);
                    }
                    let w = _mm_shuffle_epi32::<0x0e>(w);
                    s[n].abef = _mm_sha256rnds2_epu32(s[n].abef, s[n].cdgh, w);
                    if $i >= 1 && $i < 13 {
                        $before[n] = _mm_sha256msg1_epu32($before[n], $now[n]);
                    }
                }
            };
        }
        rounds!(0, d, a, b);
        rounds!(1, a, b, c);
        rounds!(2, b, c, d);
        rounds!(3, c, d, a);
        rounds!(4, d, a, b);
        rounds!(5, a, b, c);
        rounds!(6, b, c, d);
        rounds!(7, c, d, a);
        rounds!(8, d, a, b);
        rounds!(9, a, b, c);
        rounds!(10, b, c, d);
        rounds!(11, c, d, a);
        rounds!(12, d, a, b);
        rounds!(13, a, b, c);
        rounds!(14, b, c, d);
        rounds!(15, c, d, a);
        for n in 0..N {
            s[n].abef = _mm_add_epi32(s[n].abef, before[n].abef);
            s[n].cdgh = _mm_add_epi32(s[n].cdgh, before[n].cdgh);
        }
    }
    for (s, state) in s.iter().zip(states) {
        store(*s, state);
    }
}
