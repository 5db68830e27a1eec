//! The encoder of one refinement: the inverse of `chunk.rs`, decisions that cost bytes included.

use crate::chunk::{is_zero, RefineHead};
use crate::encode::{write_patches, Scratch, Source, SAMPLE};
use crate::float::{pow2, Format};
use crate::level::{
    apply_shift, classify, combine_cells, edge, edges, layouts, load, own_bin, row_constants,
    split_cells, split_exact, zigzag, Row, Target, CONTEXTS, GROUP, KNOWN,
};
use crate::rans::{encode, write_ints};
use crate::raw::RawWriter;
use crate::simd::Isa;
use crate::table::Layout;
use crate::wire::put_varint;

/// One refinement to encode.
#[derive(Clone, Copy)]
pub struct Step {
    pub target: Target,
    /// The base stands in the same chunk.
    pub full: bool,
    /// The base codes are not each weight's nearest.
    pub coded: bool,
}

/// Encodes one refinement; leaves the refined state in `s.cur` unless it is the exact one.
#[inline(always)]
pub fn refine<F: Format, I: Isa, const CELLS: bool>(
    out: &mut Vec<u8>,
    src: &Source,
    e: &[i16],
    s: &mut Scratch,
    step: Step,
) {
    let (rows, target) = (src.rows, step.target);
    for r in 0..rows.count() {
        let (p, mem) = (rows.range(r), &s.cur[src.state::<F>(r)]);
        if CELLS {
            classify::<F, true>(mem, i32::from(e[r]), &mut s.pos[p.clone()], &mut s.ctx[p]);
        } else {
            I::classify::<F>(mem, i32::from(e[r]), &mut s.pos[p.clone()], &mut s.ctx[p]);
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
        encode::<I>(out, shift, &before, &[Layout::Plain; CONTEXTS]);
    }
    let row = |r: usize| Row {
        e: i32::from(e[r]),
        tz: tz[r] as u32,
        raw: raw.saturating_sub(tz[r] as u32),
        raw_zero: raw_zero.saturating_sub(tz[r] as u32),
    };
    let (fields, extra, mut patches) = split::<F, CELLS>(src, s, target, sparse, row);
    encode::<I>(out, &s.sym, &s.ctx, &layouts(CELLS));
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
}

/// Symbols of all rows, into `s.sym`; returns both raw streams and the elements to patch.
#[inline(always)]
fn split<F: Format, const CELLS: bool>(
    src: &Source,
    s: &mut Scratch,
    target: Target,
    sparse: bool,
    row: impl Fn(usize) -> Row,
) -> (Vec<u8>, Vec<u8>, Vec<u32>) {
    let mut patches = Vec::new();
    let (mut fields, mut extra) = (RawWriter::default(), RawWriter::default());
    for r in 0..src.rows.count() {
        let (p, row) = (src.rows.range(r), row(r));
        let (mem, cur) = (src.row::<F>(r), &mut s.cur[src.state::<F>(r)]);
        let (pos, ctx, below) = (
            &s.pos[p.clone()],
            &s.ctx[p.clone()],
            &mut s.below[..p.len()],
        );
        let sym = &mut s.sym[p.clone()];
        if split_row::<F, CELLS>(mem, cur, pos, ctx, sym, below, &row, target) {
            patch_row::<F, CELLS>(mem, cur, pos, ctx, &row, target, p.start, &mut patches);
        }
        if let Target::Cells { k } = target {
            combine_cells::<F, CELLS>(cur, pos, ctx, sym, below, row, k);
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
            for i in (0..sym.len()).filter(|&i| ctx[i] == 0 && !is_zero(CELLS, 0, sym[i])) {
                extra.put_width(below[i] >> row.raw, row.raw_zero - row.raw);
            }
        }
    }
    fields.flush();
    extra.flush();
    (fields.out, extra.out, patches)
}

/// Symbols and low bits of one row; says whether some element has to be patched.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn split_row<F: Format, const CELLS: bool>(
    mem: &[u8],
    cur: &[u8],
    pos: &[i16],
    ctx: &[u8],
    sym: &mut [u8],
    below: &mut [u32],
    row: &Row,
    target: Target,
) -> bool {
    let (half, top) = row_constants::<F, CELLS>(row);
    let scale = pow2(-row.e);
    let mut all = 0;
    let (mut bits, mut edge) = ([0u32; GROUP], ([0u32; GROUP], [0i32; GROUP]));
    for (g, mem) in mem.chunks(GROUP * F::BYTES).enumerate() {
        let at = g * GROUP..g * GROUP + mem.len() / F::BYTES;
        let (bits, h) = (&mut bits[..at.len()], &mut edge.1[..at.len()]);
        load::<F>(mem, bits);
        if CELLS {
            load::<F>(
                &cur[at.start * F::BYTES..at.end * F::BYTES],
                &mut edge.0[..at.len()],
            );
        }
        edges::<F, CELLS>(&edge.0[..at.len()], &pos[at.clone()], scale, h);
        let items = bits.iter().zip(&*h).zip(&ctx[at.clone()]);
        let items = items.zip(&mut sym[at.clone()]).zip(&mut below[at]);
        match target {
            Target::Exact => {
                for ((((&bits, &h), &ctx), sym), below) in items {
                    let (s, b) = split_exact::<F, CELLS>(bits, h, ctx, row, half, top);
                    *sym = s as u8;
                    *below = b;
                    all |= s;
                }
            }
            Target::Cells { k } => {
                for ((((&bits, &h), &ctx), sym), below) in items {
                    let (s, b) = split_cells::<F, CELLS>(bits, h, ctx, row, k);
                    *sym = s as u8;
                    *below = b;
                    all |= s;
                }
            }
        }
    }
    all & !255 != 0
}

/// Which elements of a row have to be patched.
#[allow(clippy::too_many_arguments)]
fn patch_row<F: Format, const CELLS: bool>(
    mem: &[u8],
    cur: &[u8],
    pos: &[i16],
    ctx: &[u8],
    row: &Row,
    target: Target,
    start: usize,
    patches: &mut Vec<u32>,
) {
    let (half, top) = row_constants::<F, CELLS>(row);
    for i in 0..ctx.len() {
        let h = edge::<F, CELLS>(F::load(cur, i), pos[i], pow2(-row.e));
        let (s, _) = match target {
            Target::Exact => split_exact::<F, CELLS>(F::load(mem, i), h, ctx[i], row, half, top),
            Target::Cells { k } => split_cells::<F, CELLS>(F::load(mem, i), h, ctx[i], row, k),
        };
        if s & !255 != 0 {
            patches.push((start + i) as u32);
        }
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
    let (mut octaves, mut zeros) = ([0u64; 33], 0);
    let (mut r, mut i) = (0, 0);
    while i < n {
        let (p, mem, scale) = (src.rows.range(r), src.row::<F>(r), pow2(-i32::from(e[r])));
        r += 1;
        while i < p.end {
            let c = s.ctx[i];
            zeros += usize::from(c == KNOWN || F::load(mem, i - p.start) & F::MASK == 0);
            if c != 0 && c != KNOWN {
                let h = edge::<F, CELLS>(F::load(&s.cur, i), s.pos[i], scale);
                let bin = (h + i32::from(!CELLS)) / 2;
                octaves[(31 - (bin as u32 | 1).leading_zeros()) as usize] += 1;
            }
            i += SAMPLE;
        }
    }
    let (raw, raw_zero) = raw_widths::<F>(&octaves, n, target);
    (zeros * SAMPLE > n / 64, raw, raw_zero)
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
    for m in mem.chunks_exact(F::BYTES) {
        let u = F::load(m, 0) & F::MASK;
        all |= if u < F::INF { u } else { 0 };
    }
    let tz = if all == 0 {
        0
    } else {
        all.trailing_zeros().min(F::MANT)
    };
    if tz < 3 {
        0
    } else {
        tz as i16
    }
}
