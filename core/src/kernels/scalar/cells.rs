//! The arithmetic of a refinement, element by element: the reference of every vector twin.

use crate::format::float::{load, pow2, store, Format, GROUP};
use crate::format::refine::Head;
use crate::format::rows::BLOCK;

/// One row's way from bins to cells.
#[derive(Clone, Copy)]
pub struct Halving {
    /// Smallest ordered integer that the base has delivered exactly.
    pub known: u32,
    /// Half the width of the cells.
    pub half: f32,
    /// Halvings.
    pub k: u32,
}

impl Halving {
    /// `e` is the base's step exponent.
    #[inline(always)]
    pub fn new<F: Format>(head: &Head, e: i32) -> Self {
        Halving {
            known: known_from::<F>(e),
            half: pow2(e - head.mid as i32 - 1),
            k: head.mid,
        }
    }
    #[cfg(feature = "encode")]
    /// What takes a value to the number of its new cell.
    #[inline(always)]
    pub fn scale(&self) -> f32 {
        // The reciprocal of a power of two.
        f32::from_bits((254 << 23) - (2.0 * self.half).to_bits())
    }
}

/// One row's way from cells to finer ones, as far as upper mantissas reach.
#[derive(Clone, Copy)]
pub struct Narrowing {
    pub known: u32,
    /// Bits that an upper mantissa has left, plus the exponent field of its element.
    pub reach: i32,
    /// Half the width of the old cells.
    pub half: f32,
    /// Most halvings.
    pub k: u32,
}

impl Narrowing {
    #[inline(always)]
    pub fn new<F: Format>(head: &Head, e: i32) -> Self {
        Narrowing {
            known: known_from::<F>(e),
            reach: (7 + e - head.mid as i32 + F::BIAS).max(0),
            half: pow2(e - head.mid as i32 - 1),
            k: head.to - head.mid,
        }
    }
    #[cfg(feature = "encode")]
    /// What takes a value to the number of its old cell.
    #[inline(always)]
    pub fn scale(&self) -> f32 {
        f32::from_bits((254 << 23) - (2.0 * self.half).to_bits())
    }
}

/// Smallest ordered integer that lies outside the bins: the base delivers it exactly.
#[inline(always)]
pub fn known_from<F: Format>(e: i32) -> u32 {
    F::ceil(127.5 * pow2(e))
}

/// One row's way from cells to floats.
#[derive(Clone, Copy)]
pub struct Fraction {
    /// Width of an upper field plus the exponent field of its element.
    pub reach: i32,
    /// Low bits that are zero in every float of the row.
    pub tz: u32,
}

impl Fraction {
    #[inline(always)]
    pub fn new<F: Format>(head: &Head, e: i32, tz: u32) -> Self {
        let reach = 7 + e - head.to as i32 + F::BIAS;
        Fraction {
            reach: if reach < 0 { 0 } else { reach },
            tz,
        }
    }
    /// Width of the low plane's fields.
    #[inline(always)]
    pub fn low<F: Format>(&self) -> u32 {
        F::LOW.saturating_sub(self.tz)
    }
    /// Bits of the upper part that are zero throughout the row, as a mask.
    #[inline(always)]
    pub fn idle<F: Format>(&self) -> u8 {
        (1 << self.tz.saturating_sub(F::LOW)) - 1
    }
}

/// Signed value of an element.
#[inline(always)]
fn signed<F: Format>(bits: u32) -> f32 {
    let sign = (bits & F::SIGN) << (32 - 8 * F::BYTES);
    f32::from_bits(F::value(bits & F::MASK).to_bits() | sign)
}

/// Moves open elements to the cell that each position names, counted from the most negative one.
#[inline(never)]
pub fn halve<F: Format>(mem: &mut [u8], positions: &[u8], row: &Halving) {
    let (step, first) = (2.0 * row.half, (1 - (1 << row.k)) as f32 * row.half);
    let mut bits = [0u32; GROUP];
    for (mem, positions) in mem
        .chunks_mut(GROUP * F::BYTES)
        .zip(positions.chunks(GROUP))
    {
        let bits = &mut bits[..positions.len()];
        load::<F>(mem, bits);
        for (b, &f) in bits.iter_mut().zip(positions) {
            let y = signed::<F>(*b) + (f32::from(f) * step + first);
            let sign = y.to_bits() >> 31 << (8 * F::BYTES - 1);
            let new = F::floor(y.abs()) | sign;
            *b = if *b & F::MASK < row.known { new } else { *b };
        }
        store::<F>(bits, mem);
    }
}

/// Cells of base symbols by the positions in their bins: [`halve`] behind
/// [`bin_values`](super::base::bin_values).
#[inline(never)]
pub fn cells_of<F: Format>(sym: &[u8], e: i32, positions: &[u8], row: &Halving, mem: &mut [u8]) {
    super::base::bin_values::<F>(sym, pow2(e), mem);
    halve::<F>(mem, positions, row);
}

#[cfg(feature = "encode")]
/// The inverse of [`halve`]: positions of the weights in `mem`, seen from the state `cur`, which
/// becomes the next one.
#[inline(never)]
pub fn locate<F: Format>(mem: &[u8], cur: &mut [u8], positions: &mut [u8], row: &Halving) {
    let scale = row.scale();
    let (last, middle) = ((1 << row.k) - 1, 1 << (row.k - 1));
    let (mut bits, mut state) = ([0u32; GROUP], [0u32; GROUP]);
    let groups = mem
        .chunks(GROUP * F::BYTES)
        .zip(cur.chunks(GROUP * F::BYTES))
        .zip(positions.chunks_mut(GROUP));
    for ((mem, cur), positions) in groups {
        let (bits, state) = (&mut bits[..positions.len()], &mut state[..positions.len()]);
        load::<F>(mem, bits);
        load::<F>(cur, state);
        for ((&b, &s), f) in bits.iter().zip(&*state).zip(positions) {
            let (u, s) = (b & F::MASK, s & F::MASK);
            let cell = |u: u32| (F::value(u) * scale).min(16_777_216.0) as i32;
            let at = cell(u) - cell(s) + middle;
            // Only an element that is patched lies outside.
            let at = at.clamp(0, last);
            let at = if b & F::SIGN != 0 { last - at } else { at };
            *f = if s < row.known { at as u8 } else { 0 };
        }
    }
    halve::<F>(cur, positions, row);
}

/// Masks of the finer positions that follow from a state.
#[inline(never)]
pub fn finer_widths<F: Format>(mem: &[u8], row: &Narrowing, masks: &mut [u8]) {
    let mut bits = [0u32; GROUP];
    for (mem, masks) in mem.chunks(GROUP * F::BYTES).zip(masks.chunks_mut(GROUP)) {
        let bits = &mut bits[..masks.len()];
        load::<F>(mem, bits);
        for (&b, mask) in bits.iter().zip(masks) {
            let u = b & F::MASK;
            let left = (row.reach - (u >> F::MANT).max(1) as i32).clamp(0, row.k as i32);
            let n = if u == 0 || u >= row.known { 0 } else { left };
            *mask = ((1u32 << n) - 1) as u8;
        }
    }
}

/// Moves elements to the cells that finer positions name, of as many bits as their masks.
#[inline(never)]
pub fn narrow<F: Format>(mem: &mut [u8], masks: &[u8], positions: &[u8], row: &Narrowing) {
    let mut bits = [0u32; GROUP];
    let groups = mem
        .chunks_mut(GROUP * F::BYTES)
        .zip(masks.chunks(GROUP).zip(positions.chunks(GROUP)));
    for (mem, (masks, positions)) in groups {
        let bits = &mut bits[..masks.len()];
        load::<F>(mem, bits);
        for (b, (&m, &f)) in bits.iter_mut().zip(masks.iter().zip(positions)) {
            let width = 1.0 / (f32::from(m) + 1.0);
            let offset = ((2.0 * f32::from(f) + 1.0) * width - 1.0) * row.half;
            let y = signed::<F>(*b) + offset;
            let sign = y.to_bits() >> 31 << (8 * F::BYTES - 1);
            let new = F::floor(y.abs()) | sign;
            *b = if m > 0 { new } else { *b };
        }
        store::<F>(bits, mem);
    }
}

#[cfg(feature = "encode")]
/// The inverse of [`narrow`]: finer positions of the weights in `mem`, seen from the state `cur`,
/// which becomes the next one.
#[inline(never)]
pub fn locate_finer<F: Format>(
    mem: &[u8],
    cur: &mut [u8],
    masks: &[u8],
    positions: &mut [u8],
    row: &Narrowing,
) {
    let scale = row.scale();
    let (mut bits, mut state) = ([0u32; GROUP], [0u32; GROUP]);
    let groups = mem
        .chunks(GROUP * F::BYTES)
        .zip(cur.chunks(GROUP * F::BYTES))
        .zip(masks.chunks(GROUP).zip(positions.chunks_mut(GROUP)));
    for ((mem, cur), (masks, positions)) in groups {
        let (bits, state) = (&mut bits[..masks.len()], &mut state[..masks.len()]);
        load::<F>(mem, bits);
        load::<F>(cur, state);
        let items = bits.iter().zip(&*state).zip(masks.iter().zip(positions));
        for ((&b, &s), (&m, f)) in items {
            let (last, cells) = (i32::from(m), f32::from(m) + 1.0);
            let cell = |u: u32| (F::value(u) * (scale * cells)).min(16_777_216.0) as i32;
            let at = cell(b & F::MASK) - cell(s & F::MASK) + (last + 1) / 2;
            // Only an element that is patched lies outside.
            let at = at.clamp(0, last);
            *f = if b & F::SIGN != 0 { last - at } else { at } as u8;
        }
    }
    narrow::<F>(cur, masks, positions, row);
}

/// Masks of the upper fields that follow from a state, and the elements of the lowest cell, which are
/// numbered from `start` on.
#[inline(never)]
pub fn widths<F: Format>(
    mem: &[u8],
    row: &Fraction,
    masks: &mut [u8],
    deep: &mut Deep,
    start: usize,
) {
    let idle = row.idle::<F>();
    let mut bits = [0u32; GROUP];
    let groups = mem.chunks(GROUP * F::BYTES).zip(masks.chunks_mut(GROUP));
    for (g, (mem, masks)) in groups.enumerate() {
        let bits = &mut bits[..masks.len()];
        load::<F>(mem, bits);
        for (i, (&b, mask)) in bits.iter().zip(masks).enumerate() {
            let u = b & F::MASK;
            let w = row.reach - (u >> F::MANT).max(1) as i32;
            let w = if u == 0 || !(0..=8).contains(&w) {
                0
            } else {
                w
            };
            *mask = ((1u32 << w.min(7)) - 1) as u8 & !idle;
            if w == 8 {
                deep.push(start + g * GROUP + i);
            }
        }
    }
}

/// Numbers of a block's elements in the lowest cell.
pub struct Deep {
    pub list: [u16; BLOCK + 8],
    pub len: usize,
}

impl Deep {
    pub fn new() -> Self {
        Deep {
            list: [0; BLOCK + 8],
            len: 0,
        }
    }
    #[inline(always)]
    pub fn push(&mut self, i: usize) {
        self.list[self.len] = i as u16;
        self.len += 1;
    }
    /// End of those in the list from `start` on that are below a number.
    #[inline(always)]
    pub fn end(&self, start: usize, below: usize) -> usize {
        let rest = &self.list[start..self.len];
        start + rest.iter().take_while(|&&i| usize::from(i) < below).count()
    }
}

/// Puts upper fields and the low plane into a row's elements.
#[inline(never)]
pub fn fill<F: Format>(mem: &mut [u8], masks: &[u8], fields: &[u8], low: &[u16], row: &Fraction) {
    let idle = u32::from(row.idle::<F>());
    let mut bits = [0u32; GROUP];
    let groups = mem
        .chunks_mut(GROUP * F::BYTES)
        .zip(masks.chunks(GROUP))
        .zip(fields.chunks(GROUP).zip(low.chunks(GROUP)));
    for ((mem, masks), (fields, low)) in groups {
        let bits = &mut bits[..masks.len()];
        load::<F>(mem, bits);
        let items = bits.iter_mut().zip(masks).zip(fields.iter().zip(low));
        for ((b, &m), (&f, &l)) in items {
            let upper = *b >> F::LOW & !(u32::from(m) | idle) | u32::from(f);
            *b = upper << F::LOW | u32::from(l) << row.tz;
        }
        store::<F>(bits, mem);
    }
}

#[cfg(feature = "encode")]
/// The inverse of [`fill`]: the lowest seven upper bits, and the low plane.
#[inline(never)]
pub fn drain<F: Format>(mem: &[u8], fields: &mut [u8], low: &mut [u16], row: &Fraction) {
    let mask = (1u32 << row.low::<F>()) - 1;
    let mut bits = [0u32; GROUP];
    let groups = mem
        .chunks(GROUP * F::BYTES)
        .zip(fields.chunks_mut(GROUP).zip(low.chunks_mut(GROUP)));
    for (mem, (fields, low)) in groups {
        let bits = &mut bits[..fields.len()];
        load::<F>(mem, bits);
        for (&b, (f, l)) in bits.iter().zip(fields.iter_mut().zip(low)) {
            *f = (b >> F::LOW) as u8;
            *l = (b >> row.tz & mask) as u16;
        }
    }
}

/// Lowers the exponents of listed elements, numbered from `from` on, by so many octaves, at most to
/// that of subnormal floats.
#[inline(always)]
pub fn sink<F: Format>(mem: &mut [u8], from: usize, list: &[u16], octaves: &[u8]) {
    for (&i, &octaves) in list.iter().zip(octaves) {
        let i = usize::from(i) - from;
        let bits = F::load(mem, i);
        let exponent = (bits & F::MASK) >> F::MANT;
        F::store(mem, i, bits - (exponent.min(u32::from(octaves)) << F::MANT));
    }
}

#[cfg(feature = "encode")]
/// The inverse of [`sink`]: by how many octaves the listed weights lie below the state.
#[inline(always)]
pub fn octaves<F: Format>(mem: &[u8], cur: &[u8], from: usize, list: &[u16], out: &mut Vec<u8>) {
    let exponent = |mem: &[u8], i: usize| (F::load(mem, i) & F::MASK) >> F::MANT;
    out.extend(list.iter().map(|&i| {
        let i = usize::from(i) - from;
        exponent(cur, i).wrapping_sub(exponent(mem, i)).min(255) as u8
    }));
}

/// Elements of a row that a guess looks at: in fine cells only small weights have all halvings.
pub fn look(from: u32) -> usize {
    if from > 6 {
        32
    } else {
        8
    }
}

/// What a row's first elements suggest as the base's step exponent: bins are multiples of the step, and
/// the middles of cells odd multiples of half their width.
pub fn guess_step<F: Format>(mem: &[u8], from: u32) -> i16 {
    let mem = &mem[..mem.len().min(look(from) * F::BYTES)];
    guess::<F>(lowest_unit::<F>(mem), from)
}

/// The least power of two of which some element is an odd multiple, as an exponent field plus zeros.
pub fn lowest_unit<F: Format>(mem: &[u8]) -> Option<i32> {
    mem.chunks_exact(F::BYTES)
        .map(|m| F::load(m, 0) & F::MASK)
        .filter(|&u| u > 0 && u < F::INF)
        .map(|u| {
            let (exponent, fraction) = (u >> F::MANT, u & ((1 << F::MANT) - 1));
            let hidden = u32::from(exponent > 0) << F::MANT;
            exponent.max(1) as i32 + (fraction | hidden).trailing_zeros() as i32
        })
        .min()
}

/// The guess that follows from the least of [`lowest_unit`].
pub fn guess<F: Format>(lowest: Option<i32>, from: u32) -> i16 {
    let half = if from > 0 { from as i32 + 1 } else { 0 };
    match lowest {
        Some(g) => (g - F::BIAS - F::MANT as i32 + half) as i16,
        None => 0,
    }
}
