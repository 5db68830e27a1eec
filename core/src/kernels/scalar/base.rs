//! Bins of the base: their numbers and values.

#[cfg(feature = "encode")]
use super::bins::signed_bin;
#[cfg(feature = "encode")]
use super::squares::Squares;
#[cfg(feature = "encode")]
use crate::format::float::{load, pow2, store, GROUP};
use crate::format::float::{trunc, Format};

/// Largest bin number; what lies outside travels exactly in the base.
#[cfg(feature = "encode")]
pub const Q_MAX: i32 = 127;

/// Base symbol of an element that is patched; a bin `q` is symbol `q + 128`.
pub const ESCAPE: u8 = 0;

/// Values of base symbols.
#[inline(never)]
pub fn bin_values<F: Format>(sym: &[u8], step: f32, mem: &mut [u8]) {
    for (m, &s) in mem.chunks_exact_mut(F::BYTES).zip(sym) {
        let q = if s == ESCAPE { 0 } else { i32::from(s) - 128 };
        F::store(m, 0, bin_value::<F>(q, step));
    }
}

/// Base value of signed bin `q`.
#[inline(always)]
pub fn bin_value<F: Format>(q: i32, step: f32) -> u32 {
    let sign = if q < 0 { F::SIGN } else { 0 };
    F::floor(q.abs() as f32 * step) | sign
}

/// Number of the bin a magnitude belongs to, and whether it is inside the bins at all (NaN and
/// infinity are not).
#[inline(always)]
pub fn own_bin<F: Format>(u: u32, scale: f32) -> (i32, bool) {
    let a = F::value(u) * scale;
    let fits = a < 127.5;
    let a = if fits { a } else { 0.0 };
    let q = trunc(a);
    (q + i32::from(a - q as f32 >= 0.5), fits)
}

#[cfg(feature = "encode")]
/// Sums of squares of the finite weights, and of the base's errors.
#[derive(Default)]
pub struct Sums {
    pub signal: f64,
    pub error: f64,
}

#[cfg(feature = "encode")]
impl Sums {
    /// Adds those of a row, in steps, and the weights outside the bins, whose symbol is the escape:
    /// these are put into the state.
    #[inline(always)]
    pub fn add_row<F: Format>(
        &mut self,
        (signal, error): (&Squares, &Squares),
        step: f32,
        mem: &[u8],
        escapes: Option<(&[u8], &mut [u8])>,
    ) {
        let square = f64::from(step) * f64::from(step);
        self.signal += signal.total() * square;
        self.error += error.total() * square;
        if let Some((sym, cur)) = escapes {
            for (i, _) in sym.iter().enumerate().filter(|(_, &s)| s == ESCAPE) {
                let bits = F::load(mem, i);
                F::store(cur, i, bits);
                if bits & F::MASK < F::INF {
                    let v = f64::from(F::value(bits & F::MASK));
                    self.signal += v * v;
                }
            }
        }
    }
}

#[cfg(feature = "encode")]
/// Nearest bins of one row as symbols, and the base's state; says whether some element is outside the
/// bins, which is patched: the state has its own bits.
#[inline(never)]
pub fn base_row<F: Format>(
    mem: &[u8],
    e: i32,
    sym: &mut [u8],
    cur: &mut [u8],
    sums: &mut Sums,
) -> bool {
    let (scale, step) = (pow2(-e), pow2(e));
    let (mut signal, mut error) = (Squares::default(), Squares::default());
    let mut escapes = 0;
    let (mut bits, mut sizes, mut rests) = ([0u32; GROUP], [0f32; GROUP], [0f32; GROUP]);
    let groups = mem
        .chunks(GROUP * F::BYTES)
        .zip(cur.chunks_mut(GROUP * F::BYTES));
    for ((mem, cur), sym) in groups.zip(sym.chunks_mut(GROUP)) {
        let bits = &mut bits[..sym.len()];
        load::<F>(mem, bits);
        let items = bits.iter_mut().zip(&mut *sym);
        for ((bits, sym), (size, rest)) in items.zip(sizes.iter_mut().zip(&mut rests)) {
            let a = F::value(*bits & F::MASK) * scale;
            let (q, fits) = signed_bin::<F>(*bits, scale);
            *sym = if fits { (q + 128) as u8 } else { ESCAPE };
            *bits = bin_value::<F>(if fits { q } else { 0 }, step);
            *size = if fits { a } else { 0.0 };
            *rest = if fits { a - q.abs() as f32 } else { 0.0 };
            escapes |= u32::from(!fits);
        }
        store::<F>(bits, cur);
        signal.group(&mut sizes, sym.len());
        error.group(&mut rests, sym.len());
    }
    let escaped = escapes != 0;
    let there = if escaped { Some((&*sym, cur)) } else { None };
    sums.add_row::<F>((&signal, &error), step, mem, there);
    escaped
}
