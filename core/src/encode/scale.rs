//! Row scales: which power-of-two step a row gets, and its quarter-octave class.

use crate::format::float::{load, pow2, Format, GROUP};
use crate::format::header::{with_float, Dtype};
use crate::format::rows::{Rows, Segment};
use crate::kernels::scalar::squares::Squares;
use crate::kernels::{Isa, Task};
use crate::Error;

/// `2^(i / 64)` for `0 <= i < 64` by repeated square roots, which IEEE 754 rounds correctly.
fn root(i: u32) -> f64 {
    let mut v = 1.0;
    let mut r = 2.0f64;
    for bit in (0..6).rev() {
        r = r.sqrt();
        if i >> bit & 1 == 1 {
            v *= r;
        }
    }
    v
}

/// Row scales of floats by their root mean square; see [`row_scales`].
pub struct RowScales<'a> {
    pub dtype: Dtype,
    pub segs: &'a [Segment<&'a [u8]>],
    pub offset: i32,
}

impl Task for RowScales<'_> {
    type Out = Result<Vec<i16>, Error>;
    #[inline(always)]
    fn run<I: Isa>(self, _isa: I) -> Self::Out {
        with_float!(self.dtype, F => {
            Ok(row_scales::<F>(self.segs, &Rows::new(self.segs, F::BYTES)?, self.offset))
        })
    }
}

/// Scale of each row as `4 * e + class`: the base step is `2^e`, and the row's root mean square
/// lies `2^(offset / 64)` times lower than `2^(e + class / 4)` or up to a quarter octave above.
///
/// Sums run in a fixed order, so every machine gets the same scales.
#[inline(always)]
fn row_scales<F: Format>(segs: &[Segment<&[u8]>], rows: &Rows, offset: i32) -> Vec<i16> {
    let mut out = Vec::with_capacity(rows.count());
    // rms^2 * 2^(offset / 32)
    let (whole, part) = (offset.div_euclid(32), offset.rem_euclid(32) as u32);
    let gain = root(2 * part);
    for r in 0..rows.count() {
        let (seg, bytes) = rows.bytes(r, rows.range(r), F::BYTES);
        let mem = &segs[seg].mem[bytes];
        // In units of the octave of the largest weight, squares are no extremes.
        let octave = ((largest::<F>(mem) >> F::MANT) as i32 - F::BIAS).clamp(-126, 126);
        let mut sum = Squares::default();
        sum.row::<F>(mem, pow2(-octave));
        let mean = sum.total() / rows.range(r).len() as f64 * gain;
        out.push(scale_of(mean, whole + 2 * octave, F::E_MIN, F::E_MAX));
    }
    out
}

/// The largest finite magnitude of a row.
#[inline(always)]
fn largest<F: Format>(mem: &[u8]) -> u32 {
    let (mut bits, mut most) = ([0u32; GROUP], [0u32; 8]);
    for mem in mem.chunks(GROUP * F::BYTES) {
        let n = mem.len() / F::BYTES;
        load::<F>(mem, &mut bits[..n]);
        bits[n..].fill(0);
        for eight in bits.chunks_exact(8) {
            for (most, &b) in most.iter_mut().zip(eight) {
                let u = b & F::MASK;
                let u = if u < F::INF { u } else { 0 };
                *most = if u > *most { u } else { *most };
            }
        }
    }
    most.into_iter().max().unwrap_or(0)
}

/// `floor(4 * log2(sqrt(mean * 2^whole)))`, kept within the exponents.
fn scale_of(mean: f64, whole: i32, e_min: i32, e_max: i32) -> i16 {
    let bits = mean.to_bits();
    let exp = (bits >> 52) as i32 - 1023;
    let m = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    // mean = m * 2^exp; twice its root's log2 in halves: each is a quarter octave of the root.
    let half = i32::from(m >= root(32));
    let v = if exp == -1023 {
        i32::MIN / 2
    } else {
        2 * (exp + whole) + half
    };
    v.max(4 * e_min).min(4 * e_max + 3) as i16
}

/// Fewest rows for which telling a column's class pays.
const MIN_ROWS: usize = 128;
/// About so many rows are looked at.
const SOME_ROWS: usize = 512;

/// Class 0 to 3 of every column of every segment, by its mean square in units of the rows' steps in a
/// sample of rows: split at the mean and one standard deviation of the columns' logarithms.
#[inline(always)]
pub fn column_classes<F: Format, M: AsRef<[u8]>>(
    segs: &[Segment<M>],
    rows: &Rows,
    e: &[i16],
) -> Vec<Vec<i16>> {
    let mut out = Vec::with_capacity(segs.len());
    let mut steps = [1.0; 15];
    for (s, i) in steps.iter_mut().zip(1..) {
        *s = root(4 * i);
    }
    let mut row = 0;
    for s in segs {
        let count = (s.elems + s.cols - 1) / s.cols;
        let cols = s.cols.min(s.elems);
        let first = row;
        row += count;
        if count < MIN_ROWS {
            out.push(vec![0; cols]);
            continue;
        }
        let mut sums = vec![0f64; cols];
        let (mut bits, mut sizes) = ([0u32; GROUP], [0f32; GROUP]);
        for r in (first..row).step_by(count / SOME_ROWS + 1) {
            let scale = pow2(-i32::from(e[r]));
            let (_, bytes) = rows.bytes(r, rows.range(r), F::BYTES);
            let mem = &s.mem.as_ref()[bytes];
            for (sums, mem) in sums.chunks_mut(GROUP).zip(mem.chunks(GROUP * F::BYTES)) {
                let n = mem.len() / F::BYTES;
                load::<F>(mem, &mut bits[..n]);
                for (v, &b) in sizes.iter_mut().zip(&bits) {
                    let u = b & F::MASK;
                    let a = if u < F::INF { F::value(u) * scale } else { 0.0 };
                    *v = if a < 16.0 { a } else { 16.0 };
                }
                for (sum, &v) in sums.iter_mut().zip(&sizes[..n]) {
                    let a = f64::from(v);
                    *sum += a * a;
                }
            }
        }
        let logs: Vec<i64> = sums.iter().map(|&s| log2_q4(s, &steps)).collect();
        let n = cols as i64;
        let mean = logs.iter().sum::<i64>().div_euclid(n);
        let var = logs.iter().map(|l| (l - mean) * (l - mean)).sum::<i64>() / n;
        let dev = (var as f64).sqrt() as i64;
        let class = |&l: &i64| {
            i16::from(l >= mean - dev) + i16::from(l >= mean) + i16::from(l > mean + dev)
        };
        out.push(logs.iter().map(class).collect());
    }
    out
}

/// `floor(16 * log2(v))` of a non-negative number, given `2^(i / 16)` for `i` from 1 to 15.
fn log2_q4(v: f64, steps: &[f64; 15]) -> i64 {
    let bits = v.to_bits();
    let exp = (bits >> 52) as i64 - 1023;
    let m = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    16 * exp.max(-64) + steps.iter().filter(|&&s| m >= s).count() as i64
}
