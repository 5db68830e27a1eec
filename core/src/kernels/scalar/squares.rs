//! Sums of squares, in a fixed order.

use crate::format::float::{load, Format, GROUP};

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
