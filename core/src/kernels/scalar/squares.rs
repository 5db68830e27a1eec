//! Sums of squares, in a fixed order: every machine gets the same ones.
//!
//! Eight lanes take turns within a row. A lane adds in `f32` within a group of 64 elements and in `f64`
//! from group to group, so values have to be scaled to where their squares are no extremes.

use crate::format::float::{load, Format, GROUP};

/// A sum of squares.
#[derive(Default)]
pub struct Squares([f64; 8]);

/// Values of a group of elements times a power of two, 0 for those that are not finite or far beyond the
/// bins, which have no errors; a loop of its own, so that it is vectorised.
#[inline(always)]
fn values<F: Format>(mem: &[u8], scale: f32, out: &mut [f32; GROUP]) -> usize {
    let n = mem.len() / F::BYTES;
    let mut bits = [0u32; GROUP];
    load::<F>(mem, &mut bits[..n]);
    for (v, &b) in out.iter_mut().zip(&bits) {
        let u = b & F::MASK;
        let a = F::value(u) * scale;
        // Not NaN either.
        let a = if a < 65536.0 { a } else { 0.0 };
        *v = f32::from_bits(a.to_bits() | (b & F::SIGN) << (32 - F::BYTES * 8));
    }
    n
}

impl Squares {
    /// Goes on with a group's lanes.
    #[inline(always)]
    pub fn flush(&mut self, lanes: &[f32; 8]) {
        for (sum, &lane) in self.0.iter_mut().zip(lanes) {
            *sum += f64::from(lane);
        }
    }
    /// Adds the squares of the first `n` values of a group.
    #[inline(always)]
    pub fn group(&mut self, values: &mut [f32; GROUP], n: usize) {
        if n < GROUP {
            values[n..].fill(0.0);
        }
        let mut lanes = [0f32; 8];
        for eight in values.chunks_exact(8) {
            for (lane, &v) in lanes.iter_mut().zip(eight) {
                *lane += v * v;
            }
        }
        self.flush(&lanes);
    }
    /// Adds the squares of one row.
    #[inline(always)]
    pub fn row<F: Format>(&mut self, mem: &[u8], scale: f32) {
        let mut x = [0f32; GROUP];
        for mem in mem.chunks(GROUP * F::BYTES) {
            let n = values::<F>(mem, scale, &mut x);
            self.group(&mut x, n);
        }
    }
    /// Adds the squares of the differences of two rows.
    #[inline(always)]
    pub fn differences<F: Format>(&mut self, a: &[u8], b: &[u8], scale: f32) {
        let (mut x, mut y) = ([0f32; GROUP], [0f32; GROUP]);
        for (a, b) in a.chunks(GROUP * F::BYTES).zip(b.chunks(GROUP * F::BYTES)) {
            let n = values::<F>(a, scale, &mut x);
            values::<F>(b, scale, &mut y);
            for (x, &y) in x.iter_mut().zip(&y) {
                *x -= y;
            }
            self.group(&mut x, n);
        }
    }
    pub fn total(&self) -> f64 {
        let s = &self.0;
        ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]))
    }
}
