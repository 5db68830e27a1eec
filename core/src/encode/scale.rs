//! Row scales: which power-of-two step a row gets, and its quarter-octave class.

use crate::format::float::{pow2, Format};
use crate::format::rows::{Rows, Segment};
use crate::kernels::scalar::level::{load, GROUP};

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

/// Scale of each row as `4 * e + class`: the base step is `2^e`, and the row's root mean square
/// lies `2^(offset / 64)` times lower than `2^(e + class / 4)` or up to a quarter octave above.
///
/// Sums run in a fixed order in `f64`, so every machine gets the same scales.
#[inline(always)]
pub fn row_scales<F: Format>(segs: &[Segment<&[u8]>], rows: &Rows, offset: i32) -> Vec<i16> {
    let mut out = Vec::with_capacity(rows.count());
    // rms^2 * 2^(offset / 32)
    let (whole, part) = (offset.div_euclid(32), offset.rem_euclid(32) as u32);
    let gain = root(2 * part);
    for r in 0..rows.count() {
        let (seg, bytes) = rows.bytes(r, rows.range(r), F::BYTES);
        let mut sum = Squares::default();
        sum.add_own::<F>(&segs[seg].mem[bytes]);
        let mean = sum.total() / rows.range(r).len() as f64 * gain;
        out.push(scale_of(mean, whole, F::E_MIN, F::E_MAX));
    }
    out
}

/// Sum of squares of finite values in eight lanes that take turns: a fixed order.
#[derive(Default)]
pub struct Squares {
    sum: [f64; 8],
    turn: usize,
}

/// Value of an element, 0 if it is not finite.
#[inline(always)]
fn finite<F: Format>(bits: u32) -> f32 {
    let u = bits & F::MASK;
    let v = if u < F::INF { F::value(u) } else { 0.0 };
    f32::from_bits(v.to_bits() | (bits & F::SIGN) << (32 - F::BYTES * 8))
}

/// Values of a group of elements; a loop of its own, so that it is vectorised.
#[inline(always)]
fn values<F: Format>(mem: &[u8], out: &mut [f32; GROUP]) -> usize {
    let n = mem.len() / F::BYTES;
    let mut bits = [0u32; GROUP];
    load::<F>(mem, &mut bits[..n]);
    for (v, &b) in out.iter_mut().zip(&bits) {
        *v = finite::<F>(b);
    }
    n
}

impl Squares {
    /// Adds the squares of the differences of two rows.
    #[inline(always)]
    pub fn add<F: Format>(&mut self, a: &[u8], b: &[u8]) {
        let head = (((8 - self.turn) & 7) * F::BYTES).min(a.len());
        let ((first_a, a), (first_b, b)) = (a.split_at(head), b.split_at(head));
        self.some::<F>(first_a, first_b);
        let whole = a.len() / (8 * F::BYTES) * (8 * F::BYTES);
        let ((a, rest_a), (b, rest_b)) = (a.split_at(whole), b.split_at(whole));
        let (mut x, mut y) = ([0f32; GROUP], [0f32; GROUP]);
        for (a, b) in a.chunks(GROUP * F::BYTES).zip(b.chunks(GROUP * F::BYTES)) {
            let n = values::<F>(a, &mut x).min(values::<F>(b, &mut y));
            for (x, y) in x[..n].chunks_exact(8).zip(y[..n].chunks_exact(8)) {
                for ((s, &x), &y) in self.sum.iter_mut().zip(x).zip(y) {
                    let d = f64::from(x) - f64::from(y);
                    *s += d * d;
                }
            }
        }
        self.some::<F>(rest_a, rest_b);
    }
    /// Adds the squares of one row.
    #[inline(always)]
    pub fn add_own<F: Format>(&mut self, a: &[u8]) {
        const ZEROS: [u8; 8 * 4] = [0; 32];
        let (first, a) = a.split_at((((8 - self.turn) & 7) * F::BYTES).min(a.len()));
        self.some::<F>(first, &ZEROS);
        let (a, rest) = a.split_at(a.len() / (8 * F::BYTES) * (8 * F::BYTES));
        let mut x = [0f32; GROUP];
        for a in a.chunks(GROUP * F::BYTES) {
            let n = values::<F>(a, &mut x);
            for x in x[..n].chunks_exact(8) {
                for (s, &x) in self.sum.iter_mut().zip(x) {
                    let d = f64::from(x);
                    *s += d * d;
                }
            }
        }
        self.some::<F>(rest, &ZEROS);
    }
    /// The sums, that of the next element first; for a kernel that adds to them.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub fn begin(&self) -> [f64; 8] {
        let mut lanes = self.sum;
        lanes.rotate_left(self.turn);
        lanes
    }
    /// Takes the sums back after `count` elements.
    #[inline(always)]
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub fn end(&mut self, mut lanes: [f64; 8], count: usize) {
        lanes.rotate_right(self.turn);
        self.sum = lanes;
        self.turn = (self.turn + count) & 7;
    }
    /// Fewer than eight elements.
    #[inline(always)]
    fn some<F: Format>(&mut self, a: &[u8], b: &[u8]) {
        for (a, b) in a.chunks_exact(F::BYTES).zip(b.chunks_exact(F::BYTES)) {
            let d = f64::from(finite::<F>(F::load(a, 0))) - f64::from(finite::<F>(F::load(b, 0)));
            self.sum[self.turn] += d * d;
            self.turn = (self.turn + 1) & 7;
        }
    }
    pub fn total(&self) -> f64 {
        let s = &self.sum;
        ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))
    }
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

/// Class 0 to 3 of every column of every segment, by its mean square in units of the rows' steps:
/// split at the mean and one standard deviation of the columns' logarithms.
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
        for r in first..row {
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
