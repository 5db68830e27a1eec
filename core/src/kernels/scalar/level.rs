//! What a decoder knows of a weight at one level, and how it learns more (SPEC.md, "Levels").
//!
//! At the *base* a weight is known to lie in the bin `q` of width `2^e` around `q * 2^e`; at a
//! *cell* level in the cell `c` of width `2^e` from `c * 2^e` up, with its sign. Both lower edges
//! are `h * 2^(e-1)` with the integer `h = 2q - 1` or `h = 2c`. Refining codes the position of
//! the finer cell, or of the float itself in ordered integers, from that edge on.

#![cfg_attr(not(feature = "encode"), allow(dead_code, unused_imports))]

use crate::entropy::table::Layout;
use crate::format::float::{load, pow2, store, trunc, Format, GROUP};

/// Most halvings between the base step and any cell level.
pub const K_MAX: u32 = 15;
/// Context of an element that is known exactly already: one symbol, no bits.
pub const KNOWN: u8 = 13;
/// Contexts of a refine stream.
pub const CONTEXTS: usize = 14;

/// Context of bin `q >= 0`: 0..=8 themselves, then 9-15, 16-31, 32-63, 64 and more.
#[inline(always)]
pub fn bin_context(q: i32) -> u8 {
    let fine = if q < 8 { q } else { 8 };
    (fine + i32::from(q > 8) + i32::from(q > 15) + i32::from(q > 31) + i32::from(q > 63)) as u8
}

/// Position of an element that is known exactly already, as `classify` writes it.
pub const NOWHERE: i16 = -1;

/// Number of the cell an open element lies in; 0 for any other.
#[inline(always)]
fn cell<F: Format>(u: u32, scale: f32) -> (i32, bool) {
    let a = F::value(u) * scale;
    let open = (u != 0) & (u < F::INF) & (a < 8_388_608.0);
    (trunc(if open { a } else { 0.0 }), open)
}

/// Finds what is known of the elements of one row piece: context, and from the base the bin's
/// number (a cell's is found again where it is needed).
#[inline(always)]
pub fn classify<F: Format, const CELLS: bool>(mem: &[u8], e: i32, pos: &mut [i16], ctx: &mut [u8]) {
    let scale = pow2(-e);
    let mut bits = [0u32; GROUP];
    for (g, mem) in mem.chunks(GROUP * F::BYTES).enumerate() {
        let at = g * GROUP..g * GROUP + mem.len() / F::BYTES;
        let bits = &mut bits[..at.len()];
        load::<F>(mem, bits);
        let ctx = &mut ctx[at.clone()];
        if CELLS {
            for (&bits, ctx) in bits.iter().zip(ctx) {
                let u = bits & F::MASK;
                let a = F::value(u) * scale;
                let open = (u != 0) & (u < F::INF) & (a < 8_388_608.0);
                let octave = ((if open { a } else { 0.0 }).to_bits() >> 23) as i32 - 126;
                let octave = if octave < 0 { 0 } else { octave };
                let octave = if octave > 12 { 12 } else { octave };
                *ctx = if open { octave as u8 } else { KNOWN };
            }
        } else {
            for ((&bits, pos), ctx) in bits.iter().zip(&mut pos[at]).zip(ctx) {
                let a = F::value(bits & F::MASK) * scale;
                let open = a < 127.5;
                let q = trunc((if open { a } else { 0.0 }) + 0.5);
                *pos = if open { q as i16 } else { NOWHERE };
                *ctx = if open { bin_context(q) } else { KNOWN };
            }
        }
    }
}

/// Lower edge `h` of an element, from its bits or from the bin's number.
#[inline(always)]
pub fn edge<F: Format, const CELLS: bool>(bits: u32, pos: i16, scale: f32) -> i32 {
    if CELLS {
        2 * cell::<F>(bits & F::MASK, scale).0
    } else {
        2 * i32::from(pos) - 1
    }
}

/// Moves elements to the bin `shift` (zigzag coded) beside their base code.
pub fn apply_shift<F: Format>(shift: &[u8], mem: &mut [u8], pos: &mut [i16], ctx: &mut [u8]) {
    for (i, &s) in shift.iter().enumerate().filter(|(_, &s)| s != 0) {
        if ctx[i] == KNOWN {
            continue;
        }
        let (bits, q) = (F::load(mem, i), i32::from(pos[i]));
        let q = if bits & F::SIGN != 0 { -q } else { q } + unzigzag(s);
        F::store(mem, i, (bits & F::MASK) | if q < 0 { F::SIGN } else { 0 });
        pos[i] = q.abs() as i16;
        ctx[i] = bin_context(q.abs());
    }
}

pub fn zigzag(d: i32) -> Option<u8> {
    u8::try_from(if d < 0 { -2 * d - 1 } else { 2 * d }).ok()
}

fn unzigzag(s: u8) -> i32 {
    let s = i32::from(s);
    if s % 2 == 0 {
        s / 2
    } else {
        -(s + 1) / 2
    }
}

/// What a refinement leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Cells of width `2^(e - k)`.
    Cells {
        k: u32,
    },
    Exact,
}

/// One row's parameters in a refinement.
#[derive(Clone, Copy)]
pub struct Row {
    /// Step exponent of what is known.
    pub e: i32,
    /// Low bits that are zero in every float of the row.
    pub tz: u32,
    /// Width of the raw fields.
    pub raw: u32,
    /// Width of what stands below the symbol in context 0.
    pub raw_zero: u32,
}

/// Symbol layouts: from the base, context 0 lists exact zeros (+0, -0) and then magnitude and sign.
pub fn layouts(cells: bool) -> [Layout; CONTEXTS] {
    let mut l = [Layout::Plain; CONTEXTS];
    if !cells {
        l[0] = Layout::Paired;
    }
    l
}

/// Upper part of the largest ordered integer in the zero bin, as symbols count down from it.
#[inline(always)]
pub fn zero_top<F: Format, const CELLS: bool>(row: &Row) -> u32 {
    let edge = pow2(if CELLS { row.e } else { row.e - 1 });
    ((F::ceil(edge) - 1) >> row.tz) >> row.raw_zero
}

/// Lower edges of a group.
#[inline(always)]
pub fn edges<F: Format, const CELLS: bool>(bits: &[u32], pos: &[i16], scale: f32, h: &mut [i32]) {
    if CELLS {
        for (h, &bits) in h.iter_mut().zip(bits) {
            *h = edge::<F, true>(bits, 0, scale);
        }
    } else {
        for (h, &pos) in h.iter_mut().zip(pos) {
            *h = edge::<F, false>(0, pos, scale);
        }
    }
}

/// Elements of one row in a refinement: what is known of them, and what it says.
pub struct Elements<'a> {
    pub mem: &'a mut [u8],
    pub pos: &'a [i16],
    pub ctx: &'a [u8],
    pub sym: &'a [u8],
    pub raw: &'a [u32],
}

/// Known position + symbol + raw field -> the next state.
#[inline(always)]
pub fn combine<F: Format, const CELLS: bool>(el: Elements, row: Row, target: Target) {
    match target {
        Target::Exact => rewrite::<F, _, CELLS>(el, row, ToExact::new::<F, CELLS>(row)),
        Target::Cells { k } => rewrite::<F, _, CELLS>(el, row, ToCells::new(row, k)),
    }
}

/// What a refinement makes of one element. (A closure is not always inlined.)
trait Next {
    /// The magnitude, by lower edge, context, symbol and raw field; bits above it say nothing.
    fn magnitude<F: Format, const CELLS: bool>(&self, h: i32, ctx: u8, sym: u32, raw: u32) -> u32;
}

/// Exact floats.
struct ToExact {
    half: f32,
    top: u32,
    below: u32,
    row: Row,
}

impl ToExact {
    #[inline(always)]
    fn new<F: Format, const CELLS: bool>(row: Row) -> Self {
        ToExact {
            half: pow2(row.e - 1),
            top: zero_top::<F, CELLS>(&row),
            below: (1 << row.tz) - 1,
            row,
        }
    }
}

impl Next for ToExact {
    #[inline(always)]
    fn magnitude<F: Format, const CELLS: bool>(&self, h: i32, ctx: u8, sym: u32, raw: u32) -> u32 {
        let row = &self.row;
        let lo = F::ceil(h as f32 * self.half).wrapping_add(self.below) >> row.tz;
        let inside = lo.wrapping_add((sym << row.raw) | raw);
        let z = if CELLS { sym } else { sym.wrapping_sub(2) >> 1 };
        let near = (self.top.wrapping_sub(z) << row.raw_zero) | raw;
        (if ctx == 0 { near } else { inside }) << row.tz
    }
}

/// Representatives of cells `k` halvings finer.
struct ToCells {
    width: f32,
    k: u32,
    raw: u32,
}

impl ToCells {
    #[inline(always)]
    fn new(row: Row, k: u32) -> Self {
        ToCells {
            width: pow2(row.e - k as i32 - 1),
            k,
            raw: row.raw,
        }
    }
}

impl Next for ToCells {
    #[inline(always)]
    fn magnitude<F: Format, const CELLS: bool>(&self, h: i32, ctx: u8, sym: u32, raw: u32) -> u32 {
        let inside = ((h << (self.k - 1)) as u32).wrapping_add((sym << self.raw) | raw);
        let near = (sym.wrapping_sub(2) >> 1 << self.raw) | raw;
        let c = if !CELLS && ctx == 0 { near } else { inside };
        // A hostile chunk may name any cell; keep the arithmetic exact for it, too.
        let c = (c & 0x7f_ffff) as i32;
        F::floor((2 * c + 1) as f32 * self.width)
    }
}

#[inline(always)]
fn rewrite<F: Format, N: Next, const CELLS: bool>(el: Elements, row: Row, next: N) {
    let scale = pow2(-row.e);
    let (mut cur, mut h) = ([0u32; GROUP], [0i32; GROUP]);
    for (g, mem) in el.mem.chunks_mut(GROUP * F::BYTES).enumerate() {
        let at = g * GROUP..g * GROUP + mem.len() / F::BYTES;
        let (cur, h) = (&mut cur[..at.len()], &mut h[..at.len()]);
        load::<F>(mem, cur);
        edges::<F, CELLS>(cur, &el.pos[at.clone()], scale, h);
        let (ctx, sym, raw) = (&el.ctx[at.clone()], &el.sym[at.clone()], &el.raw[at]);
        let items = cur.iter_mut().zip(&*h).zip(ctx).zip(sym).zip(raw);
        for ((((cur, &h), &ctx), &sym), &raw) in items {
            let sym = u32::from(sym);
            let u = next.magnitude::<F, CELLS>(h, ctx, sym, raw) & F::MASK;
            *cur = merge::<F, CELLS>(*cur, u, ctx, sym);
        }
        store::<F>(cur, mem);
    }
}

/// The element's next bits: magnitude `u` unless the element is known or a zero that is named.
#[inline(always)]
fn merge<F: Format, const CELLS: bool>(cur: u32, u: u32, ctx: u8, sym: u32) -> u32 {
    let named = !CELLS && ctx == 0;
    let u = if named && sym < 2 { 0 } else { u };
    let sign = if named {
        (sym & 1) << (F::BYTES as u32 * 8 - 1)
    } else {
        cur & F::SIGN
    };
    if ctx == KNOWN {
        cur
    } else {
        u | sign
    }
}

/// The inverse of [`combine_exact`] for one element: symbol and what stands below it. A symbol
/// outside 0..=255 says that the element has to be patched.
#[inline(always)]
pub fn split_exact<F: Format, const CELLS: bool>(
    bits: u32,
    h: i32,
    ctx: u8,
    row: &Row,
    half: f32,
    top: u32,
) -> (i32, u32) {
    let u = bits & F::MASK;
    let sign = (bits >> (F::BYTES as u32 * 8 - 1)) as i32;
    let ut = u >> row.tz;
    let z = top.wrapping_sub(ut >> row.raw_zero) as i32;
    let near = if CELLS {
        z
    } else {
        z.wrapping_mul(2).wrapping_add(2 + sign)
    };
    let near = if !CELLS && u == 0 { sign } else { near };
    let lo = (F::ceil(h as f32 * half).wrapping_add((1 << row.tz) - 1)) >> row.tz;
    let d = ut.wrapping_sub(lo);
    let inside = (d as i32) >> row.raw;
    let zero = ctx == 0;
    let sym = if zero { near } else { inside };
    let mask = (1u32 << if zero { row.raw_zero } else { row.raw }) - 1;
    let below = if zero { ut } else { d } & mask;
    let known = ctx == KNOWN;
    (if known { 0 } else { sym }, if known { 0 } else { below })
}

/// The inverse of [`combine_cells`] for one element, like [`split_exact`].
#[inline(always)]
pub fn split_cells<F: Format, const CELLS: bool>(
    bits: u32,
    h: i32,
    ctx: u8,
    row: &Row,
    k: u32,
) -> (i32, u32) {
    let u = bits & F::MASK;
    let sign = (bits >> (F::BYTES as u32 * 8 - 1)) as i32;
    let a = F::value(u) * pow2(k as i32 - row.e);
    let fits = a < 8_388_608.0;
    let c = trunc(if fits { a } else { 0.0 });
    let mask = (1i32 << row.raw) - 1;
    let near = 2 + 2 * (c >> row.raw) + sign;
    let near = if u == 0 { sign } else { near };
    // Wraps only where the finer cell does not fit.
    let d = c.wrapping_sub(h << (k - 1));
    let zero = !CELLS && ctx == 0;
    let sym = if zero { near } else { d >> row.raw };
    let sym = if fits { sym } else { -1 };
    let below = (if zero { c } else { d } & mask) as u32;
    let known = ctx == KNOWN;
    (if known { 0 } else { sym }, if known { 0 } else { below })
}

/// [`zero_top`] and the half step, for the encoder's loop over a row.
pub fn row_constants<F: Format, const CELLS: bool>(row: &Row) -> (f32, u32) {
    (pow2(row.e - 1), zero_top::<F, CELLS>(row))
}

/// Whether a sparse chunk leaves out the element's raw field.
#[inline(always)]
pub fn is_zero(cells: bool, ctx: u8, sym: u8) -> bool {
    ctx == KNOWN || (!cells && ctx == 0 && sym < 2)
}
