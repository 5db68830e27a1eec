//! The encoder of one refinement: the inverse of `chunk.rs`, decisions that cost bytes included.

use crate::decode::refine::RefineHead;
use crate::encode::ints::write_ints;
use crate::encode::stream::encode;
use crate::encode::{write_patches, Scratch, Source, SAMPLE};
use crate::entropy::table::Layout;
use crate::format::float::{load, pow2, Format, GROUP};
use crate::format::wire::put_varint;
use crate::kernels::scalar::base::own_bin;
use crate::kernels::scalar::level::{
    apply_shift, edge, is_zero, layouts, zero_top, zigzag, Elements, Row, Target, CONTEXTS, KNOWN,
};
use crate::kernels::scalar::quantise::{patch_row, split_row, Cells};
use crate::kernels::scalar::raw::RawWriter;
use crate::kernels::scalar::squares::Squares;
use crate::kernels::Isa;

/// One refinement to encode.
#[derive(Clone, Copy)]
pub struct Step {
    pub target: Target,
    /// The base stands in the same chunk.
    pub full: bool,
    /// The base codes are not each weight's nearest.
    pub coded: bool,
    /// What is known of the elements is in the buffers already.
    pub known: bool,
}

/// Encodes one refinement; leaves the refined state in `s.cur` unless it is the exact one. Returns
/// the sum of its squared errors.
#[inline(always)]
pub fn refine<F: Format, I: Isa, const CELLS: bool>(
    isa: I,
    out: &mut Vec<u8>,
    src: &Source,
    e: &[i16],
    s: &mut Scratch,
    step: Step,
) -> f64 {
    let (rows, target) = (src.rows, step.target);
    for r in 0..if step.known { 0 } else { rows.count() } {
        let (p, mem) = (rows.range(r), &s.cur[src.state::<F>(r)]);
        if CELLS {
            isa.classify_cells::<F>(mem, i32::from(e[r]), &mut s.ctx[p]);
        } else {
            isa.classify::<F>(mem, i32::from(e[r]), &mut s.pos[p.clone()], &mut s.ctx[p]);
        }
    }
    let (shift, far) = if step.coded {
        shifts::<F>(src, e, s)
    } else {
        (None, Vec::new())
    };
    let mut before = Vec::new();
    if let Some(shift) = &shift {
        before = s.ctx.clone();
        apply_shift::<F>(shift, &mut s.cur, &mut s.pos, &mut s.ctx);
    }
    let (sparse, raw, raw_zero) = look::<F, CELLS>(src, e, s, target);
    let head = RefineHead {
        from_cells: CELLS,
        target,
        shifted: shift.is_some(),
        sparse,
        raw,
        raw_zero,
    };
    let tz: Vec<i16> = match target {
        Target::Exact => (0..rows.count())
            .map(|r| trailing_zeros::<F>(src.row::<F>(r)))
            .collect(),
        Target::Cells { .. } => vec![0; rows.count()],
    };
    head.write(out);
    if !step.full {
        write_ints(out, e);
    }
    if target == Target::Exact {
        write_ints(out, &tz);
    }
    if let Some(shift) = &shift {
        encode(isa, out, shift, &before, &[Layout::Plain; CONTEXTS]);
    }
    let row = |r: usize| Row {
        e: i32::from(e[r]),
        tz: tz[r] as u32,
        raw: raw.saturating_sub(tz[r] as u32),
        raw_zero: raw_zero.saturating_sub(tz[r] as u32),
    };
    let fresh = !CELLS && !step.coded;
    let made = split::<F, _, CELLS>(isa, src, s, target, sparse, fresh, row);
    let (fields, extra, mut patches) = (made.fields, made.extra, made.patches);
    encode(isa, out, &s.sym, &s.ctx, &layouts(CELLS));
    put_varint(out, fields.len() as u32);
    out.extend_from_slice(&fields);
    if raw_zero > raw {
        put_varint(out, extra.len() as u32);
        out.extend_from_slice(&extra);
    }
    if !far.is_empty() {
        patches.extend_from_slice(&far);
        patches.sort_unstable();
        patches.dedup();
    }
    write_patches::<F>(out, src, &mut s.cur, &patches);
    if target == Target::Exact {
        0.0
    } else if fresh && patches.is_empty() {
        made.error.total()
    } else {
        src.squares::<F>(&s.cur).total()
    }
}

/// What [`split`] makes beside the symbols.
struct Fields {
    fields: Vec<u8>,
    extra: Vec<u8>,
    patches: Vec<u32>,
    error: Squares,
}

/// Symbols of all rows, into `s.sym`; returns both raw streams and the elements to patch. If it is
/// fresh, the state holds the weights, and the squared errors of the new one are returned, too.
#[inline(always)]
fn split<F: Format, I: Isa, const CELLS: bool>(
    isa: I,
    src: &Source,
    s: &mut Scratch,
    target: Target,
    sparse: bool,
    fresh: bool,
    row: impl Fn(usize) -> Row,
) -> Fields {
    let (mut patches, mut error) = (Vec::new(), Squares::default());
    let (mut fields, mut extra) = (RawWriter::default(), RawWriter::default());
    for r in 0..src.rows.count() {
        let (p, row) = (src.rows.range(r), row(r));
        let mem = src.row::<F>(r);
        // Exact from bins takes no look at it, and it may not be there.
        let cur = s.cur.get_mut(src.state::<F>(r)).unwrap_or(&mut []);
        let (pos, ctx, below) = (
            &s.pos[p.clone()],
            &s.ctx[p.clone()],
            &mut s.below[..p.len()],
        );
        let sym = &mut s.sym[p.clone()];
        let out = Cells {
            pos,
            cur: &mut *cur,
            sym: &mut *sym,
            below: &mut *below,
        };
        let mut patch = |cur: &[u8]| {
            patch_row::<F, CELLS>(mem, cur, pos, ctx, &row, target, p.start, &mut patches);
        };
        match target {
            Target::Exact if CELLS => {
                if isa.split_from_cells::<F>(mem, ctx, out, &row) {
                    patch(cur);
                }
            }
            Target::Exact => {
                if isa.split_exact::<F>(mem, pos, ctx, sym, below, &row) {
                    patch(cur);
                }
            }
            Target::Cells { k } if fresh => {
                if isa.split_cells::<F>(mem, ctx, out, &row, k, &mut error) {
                    patch(cur);
                }
            }
            Target::Cells { .. } => {
                if split_row::<F, CELLS>(mem, cur, pos, ctx, sym, below, &row, target) {
                    patch(cur);
                }
                let elements = Elements {
                    mem: cur,
                    pos,
                    ctx,
                    sym,
                    raw: below,
                };
                isa.combine::<F, CELLS>(elements, row, target);
            }
        }
        fields.row(row.raw);
        if sparse {
            for i in (0..sym.len()).filter(|&i| !is_zero(CELLS, ctx[i], sym[i])) {
                fields.put(&[below[i]]);
            }
        } else {
            fields.put(below);
        }
        if row.raw_zero > row.raw {
            // Over the low bits, which are written already.
            let mut count = 0;
            for i in 0..sym.len() {
                let upper = below[i] >> row.raw;
                below[count] = upper;
                count += usize::from(ctx[i] == 0 && !is_zero(CELLS, 0, sym[i]));
            }
            extra.put_width(&below[..count], row.raw_zero - row.raw);
        }
    }
    fields.flush();
    extra.flush();
    Fields {
        fields: fields.out,
        extra: extra.out,
        patches,
        error,
    }
}

/// By how many bins each weight's own bin lies beside its base code; `None` if none does. Also the
/// elements whose own bin is too far away to be said: they would end on the wrong side of zero.
fn shifts<F: Format>(src: &Source, e: &[i16], s: &Scratch) -> (Option<Vec<u8>>, Vec<u32>) {
    let mut out = vec![0u8; s.ctx.len()];
    let (mut any, mut far) = (false, Vec::new());
    for r in 0..src.rows.count() {
        let (scale, mem, p) = (pow2(-i32::from(e[r])), src.row::<F>(r), src.rows.range(r));
        for i in p.clone().filter(|&i| s.ctx[i] != KNOWN) {
            let signed = |q: i32, bits: u32| if bits & F::SIGN != 0 { -q } else { q };
            let bits = F::load(mem, i - p.start);
            let base = signed(i32::from(s.pos[i]), F::load(&s.cur, i));
            let (own, fits) = own_bin::<F>(bits & F::MASK, scale);
            if fits {
                match zigzag(signed(own, bits) - base) {
                    Some(s) => out[i] = s,
                    None => far.push(i as u32),
                }
                any |= out[i] != 0;
            }
        }
    }
    (if any { Some(out) } else { None }, far)
}

/// Looks at a sample: whether exact zeros are worth leaving out, and the widths of the raw fields,
/// which are as wide as they can be while hardly any element needs fewer bits.
#[inline(always)]
fn look<F: Format, const CELLS: bool>(
    src: &Source,
    e: &[i16],
    s: &Scratch,
    target: Target,
) -> (bool, u32, u32) {
    let n = s.ctx.len();
    let (mut octaves, mut depths, mut zeros) = ([0u64; 33], [0u64; 256], 0);
    let (mut r, mut i) = (0, 0);
    while i < n {
        let (p, mem, scale) = (src.rows.range(r), src.row::<F>(r), pow2(-i32::from(e[r])));
        let top = top_octave::<F, CELLS>(i32::from(e[r]));
        r += 1;
        while i < p.end {
            let c = s.ctx[i];
            let u = F::load(mem, i - p.start) & F::MASK;
            zeros += usize::from(c == KNOWN || u == 0);
            if c == 0 && u != 0 {
                depths[top.saturating_sub(u >> F::MANT).min(255) as usize] += 1;
            } else if c != 0 && c != KNOWN {
                let bits = if CELLS { F::load(&s.cur, i) } else { 0 };
                let h = edge::<F, CELLS>(bits, s.pos[i], scale);
                let bin = (h + i32::from(!CELLS)) / 2;
                octaves[(31 - (bin as u32 | 1).leading_zeros()) as usize] += 1;
            }
            i += SAMPLE;
        }
    }
    let (raw, mut raw_zero) = raw_widths::<F>(&octaves, n, target);
    if let Target::Exact = target {
        raw_zero += coarser(&depths, if CELLS { 255 } else { 126 }, n);
    }
    (zeros * SAMPLE > n / 64, raw, raw_zero)
}

/// Octave, as a float's exponent field, of the largest float that is near zero in a row.
#[inline(always)]
fn top_octave<F: Format, const CELLS: bool>(e: i32) -> u32 {
    zero_top::<F, CELLS>(&Row {
        e,
        tz: 0,
        raw: 0,
        raw_zero: F::MANT,
    })
}

/// Bits of the mantissa that go without a symbol near zero, of the three that may have one: weights
/// that training has left to decay lie a hundred octaves below the others, and would be patches.
///
/// `depths`: of a sample near zero, how many octaves below the top; `last`: the last symbol.
fn coarser(depths: &[u64; 256], last: usize, n: usize) -> u32 {
    let beyond = |bits: u32| -> u64 { depths[(last >> (3 - bits)) + 1..].iter().sum() };
    (0..3)
        .find(|&bits| beyond(bits) * 256 * SAMPLE as u64 <= n as u64)
        .unwrap_or(3)
}

fn raw_widths<F: Format>(octaves: &[u64; 33], n: usize, target: Target) -> (u32, u32) {
    // Floats in a bin of octave `o`: about 2^(MANT - o).
    let waste = |raw: u32, cap: u32| -> u64 {
        let bits = |o: usize| raw.saturating_sub(cap.min(F::MANT.saturating_sub(o as u32)));
        octaves
            .iter()
            .enumerate()
            .map(|(o, &n)| n * u64::from(bits(o)))
            .sum()
    };
    let fit = |most: u32, least: u32, cap: u32| {
        let mut raw = most;
        while raw > least && waste(raw, cap) * 256 * SAMPLE as u64 > n as u64 {
            raw -= 1;
        }
        raw
    };
    match target {
        Target::Exact => {
            let most = F::MANT - 3;
            (fit(most, F::MANT.saturating_sub(7), F::MANT), most)
        }
        Target::Cells { k } => {
            let raw = fit(k.saturating_sub(4), k.saturating_sub(7), k);
            (raw, raw)
        }
    }
}

/// Low bits that are zero in every finite float of the row; fewer than three are not worth it.
#[inline(always)]
fn trailing_zeros<F: Format>(mem: &[u8]) -> i16 {
    let mut all = 0;
    let mut bits = [0u32; GROUP];
    for mem in mem.chunks(GROUP * F::BYTES) {
        let bits = &mut bits[..mem.len() / F::BYTES];
        load::<F>(mem, bits);
        for &b in &*bits {
            let u = b & F::MASK;
            all |= if u < F::INF { u } else { 0 };
        }
        if all & 7 != 0 {
            return 0;
        }
    }
    if all == 0 {
        0
    } else {
        all.trailing_zeros().min(F::MANT) as i16
    }
}
