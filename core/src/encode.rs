//! The encoder of one chunk: base and every refinement in one pass over the tensor.
//!
//! Which step a row gets and which code a weight gets is the caller's recipe; whatever it is, the
//! last level is exact. What the levels cannot say (infinities, NaNs, outliers) is patched.

use crate::chunk::{is_zero, Dtype, RefineHead, CLASSES, ESCAPE, KIND_BASE, KIND_FULL, KIND_REFINE};
use crate::float::{pow2, Format};
use crate::level::{
    apply_shift, bin_value, classify, combine_cells, layouts, own_bin, row_constants, split_cells,
    split_exact, zigzag, Row, Target, CONTEXTS, KNOWN, K_MAX, Q_MAX,
};
use crate::rans::{encode, write_ints};
use crate::raw::RawWriter;
use crate::rows::{Cursor, Rows, Segment};
use crate::scale::column_classes;
use crate::table::Layout;
use crate::wire::put_varint;
use crate::Error;

/// What the caller decided for a chunk.
pub struct Plan<'a> {
    /// `4 * e + class` of each row.
    pub scales: &'a [i16],
    /// Signed base codes, or `None` for each weight's nearest bin.
    pub codes: Option<&'a [i16]>,
    /// Halvings of the base step at each level after the base, growing; 0 is exact and last.
    pub levels: &'a [u8],
    /// Base and exact in one chunk.
    pub full: bool,
}

/// Payloads in order of level, and the squared errors of their states.
#[derive(Default)]
pub struct Encoded {
    pub payloads: Vec<Vec<u8>>,
    /// Sum of squares of the finite weights, then of the error at each level.
    pub squares: Vec<f64>,
}

/// One element in so many is looked at for decisions that only cost bytes if they are wrong. Prime,
/// so that no usual row length hides a column.
const SAMPLE: usize = 13;

fn header(kind: u8, dtype: Dtype, rows: &Rows) -> Vec<u8> {
    let mut out = vec![kind, dtype as u8];
    out.extend_from_slice(&(rows.count() as u32).to_le_bytes());
    out.extend_from_slice(&(rows.elements() as u32).to_le_bytes());
    out
}

#[inline(always)]
pub fn encode_float<F: Format>(dtype: Dtype, segs: &[Segment<&[u8]>], plan: &Plan) -> Result<Encoded, Error> {
    let rows = Rows::new(segs, F::BYTES)?;
    let n = rows.elements();
    check_plan::<F>(plan, &rows)?;
    let mut bits = vec![0u32; n];
    Cursor::default().load::<F, _>(segs, &mut bits);
    let mut e: Vec<i16> = plan.scales.iter().map(|v| v >> 2).collect();

    let mut done = Encoded::default();
    done.squares.push(squares::<F>(&bits, &vec![0; n]));
    let mut out = header(if plan.full { KIND_FULL } else { KIND_BASE }, dtype, &rows);
    let mut cur = vec![0u32; n];
    let columns = column_classes::<F, _>(segs, &rows, &e, &bits);
    encode_base::<F>(&mut out, &rows, plan, &e, &columns, &bits, &mut cur);
    if plan.full {
        refine::<F, false>(&mut out, &rows, &e, &bits, &mut cur, Target::Exact, true, plan.codes.is_some());
        done.payloads.push(out);
        done.squares.push(0.0);
        return Ok(done);
    }
    done.payloads.push(out);
    done.squares.push(squares::<F>(&bits, &cur));
    let mut halved = 0;
    for &level in plan.levels {
        let k = u32::from(level);
        let target = if k == 0 { Target::Exact } else { Target::Cells { k: k - halved } };
        let mut out = header(KIND_REFINE, dtype, &rows);
        if halved == 0 {
            refine::<F, false>(&mut out, &rows, &e, &bits, &mut cur, target, false, plan.codes.is_some());
        } else {
            refine::<F, true>(&mut out, &rows, &e, &bits, &mut cur, target, false, false);
        }
        done.payloads.push(out);
        done.squares.push(if k == 0 { 0.0 } else { squares::<F>(&bits, &cur) });
        e.iter_mut().for_each(|e| *e -= (k.max(halved) - halved) as i16);
        halved = k;
    }
    Ok(done)
}

fn check_plan<F: Format>(plan: &Plan, rows: &Rows) -> Result<(), Error> {
    let growing = plan.levels.windows(2).all(|w| w[0] < w[1] || w[1] == 0);
    let ok = plan.scales.len() == rows.count()
        && plan.codes.map_or(true, |c| c.len() == rows.elements())
        && plan.scales.iter().all(|v| (F::E_MIN..=F::E_MAX).contains(&i32::from(v >> 2)))
        && growing
        && plan.levels.iter().rev().skip(1).all(|&k| k > 0)
        && plan.levels.iter().all(|&k| u32::from(k) <= K_MAX);
    if ok {
        Ok(())
    } else {
        Err(Error::Argument)
    }
}

/// Sum of squared differences of finite values, in a fixed order.
#[inline(always)]
fn squares<F: Format>(a: &[u32], b: &[u32]) -> f64 {
    let value = |bits: u32| {
        let u = bits & F::MASK;
        let v = if u < F::INF { F::value(u) } else { 0.0 };
        f64::from(if bits & F::SIGN != 0 { -v } else { v })
    };
    let mut sum = [0f64; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for ((s, &a), &b) in sum.iter_mut().zip(a).zip(b) {
            let d = value(a) - value(b);
            *s += d * d;
        }
    }
    ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]))
}

fn write_patches<F: Format>(out: &mut Vec<u8>, at: &[u32], bits: &[u32]) {
    put_varint(out, at.len() as u32);
    let mut next = 0;
    for &i in at {
        put_varint(out, i - next);
        out.extend_from_slice(&bits[i as usize].to_le_bytes()[..F::BYTES]);
        next = i + 1;
    }
}

#[inline(always)]
fn encode_base<F: Format>(
    out: &mut Vec<u8>, rows: &Rows, plan: &Plan, e: &[i16], columns: &[Vec<i16>], bits: &[u32], cur: &mut [u32],
) {
    let n = bits.len();
    let (mut sym, mut ctx) = (vec![0u8; n], vec![0u8; n]);
    let mut patches = Vec::new();
    for r in 0..rows.count() {
        let p = rows.range(r);
        let class = ((plan.scales[r] & 3) << 2) as u8;
        let (seg, _) = rows.place(r, p.start);
        for (c, &col) in ctx[p.clone()].iter_mut().zip(&columns[seg]) {
            *c = class | col as u8;
        }
        let codes = plan.codes.map(|c| &c[p.clone()]);
        let (bits, sym, cur) = (&bits[p.clone()], &mut sym[p.clone()], &mut cur[p.clone()]);
        if base_row::<F>(bits, codes, i32::from(e[r]), sym, cur) {
            for i in (0..sym.len()).filter(|&i| sym[i] == ESCAPE) {
                cur[i] = bits[i];
                patches.push((p.start + i) as u32);
            }
        }
    }
    write_ints(out, plan.scales);
    for c in columns {
        write_ints(out, c);
    }
    encode(out, &sym, &ctx, &[Layout::Plain; CLASSES]);
    write_patches::<F>(out, &patches, bits);
}

/// Base symbols and values of one row; says whether some element is outside the bins.
#[inline(always)]
fn base_row<F: Format>(bits: &[u32], codes: Option<&[i16]>, e: i32, sym: &mut [u8], cur: &mut [u32]) -> bool {
    let (scale, step) = (pow2(-e), pow2(e));
    let mut escapes = false;
    for ((&bits, sym), cur) in bits.iter().zip(sym.iter_mut()).zip(cur.iter_mut()) {
        let (q, fits) = own_bin::<F>(bits & F::MASK, scale);
        let q = if bits & F::SIGN != 0 { -q } else { q };
        *sym = if fits { (q + 128) as u8 } else { ESCAPE };
        *cur = bin_value::<F>(q, step);
        escapes |= !fits;
    }
    if let Some(codes) = codes {
        for ((sym, cur), &c) in sym.iter_mut().zip(cur).zip(codes).filter(|((s, _), _)| **s != ESCAPE) {
            let q = i32::from(c).max(-Q_MAX).min(Q_MAX);
            *sym = (q + 128) as u8;
            *cur = bin_value::<F>(q, step);
        }
    }
    escapes
}

/// Encodes one refinement; leaves the refined state in `cur` unless it is the exact one.
#[inline(always)]
fn refine<F: Format, const CELLS: bool>(
    out: &mut Vec<u8>, rows: &Rows, e: &[i16], bits: &[u32], cur: &mut [u32], target: Target, full: bool, coded: bool,
) {
    let n = bits.len();
    let (mut h, mut ctx) = (vec![0i32; n], vec![0u8; n]);
    for r in 0..rows.count() {
        let p = rows.range(r);
        classify::<F, CELLS>(&cur[p.clone()], i32::from(e[r]), &mut h[p.clone()], &mut ctx[p]);
    }
    let (shift, far) = if coded { shifts::<F>(rows, e, bits, cur, &h, &ctx) } else { (None, Vec::new()) };
    let mut before = Vec::new();
    if let Some(s) = &shift {
        before = ctx.clone();
        apply_shift::<F>(s, cur, &mut h, &mut ctx);
    }
    let zeros = (0..n).step_by(SAMPLE).filter(|&i| ctx[i] == KNOWN || bits[i] & F::MASK == 0);
    let sparse = zeros.count() * SAMPLE > n / 64;
    let (raw, raw_zero) = raw_widths::<F, CELLS>(&h, &ctx, target);
    let head = RefineHead { from_cells: CELLS, target, shifted: shift.is_some(), sparse, raw, raw_zero };

    let tz: Vec<i16> = match target {
        Target::Exact => (0..rows.count()).map(|r| trailing_zeros::<F>(&bits[rows.range(r)])).collect(),
        Target::Cells { .. } => vec![0; rows.count()],
    };
    head.write(out);
    if !full {
        write_ints(out, e);
    }
    if target == Target::Exact {
        write_ints(out, &tz);
    }
    if let Some(s) = &shift {
        encode(out, s, &before, &[Layout::Plain; CONTEXTS]);
    }

    let mut sym = vec![0u8; n];
    let (mut below, mut patches) = (vec![0u32; n], Vec::new());
    let (mut fields, mut extra) = (RawWriter::default(), RawWriter::default());
    for r in 0..rows.count() {
        let t = tz[r] as u32;
        let row = Row {
            e: i32::from(e[r]),
            tz: t,
            raw: raw.saturating_sub(t),
            raw_zero: raw_zero.saturating_sub(t),
        };
        let p = rows.range(r);
        let (bits, h, ctx) = (&bits[p.clone()], &h[p.clone()], &ctx[p.clone()]);
        let (sym, below) = (&mut sym[p.clone()], &mut below[p.clone()]);
        if split_row::<F, CELLS>(bits, h, ctx, sym, below, &row, target) {
            patch_row::<F, CELLS>(bits, h, ctx, &row, target, p.start, &mut patches);
        }
        if let Target::Cells { k } = target {
            combine_cells::<F, CELLS>(&mut cur[p], h, ctx, sym, below, row, k);
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
    if !far.is_empty() {
        patches.extend_from_slice(&far);
        patches.sort_unstable();
        patches.dedup();
    }
    for &i in &patches {
        cur[i as usize] = bits[i as usize];
    }
    encode(out, &sym, &ctx, &layouts(CELLS));
    fields.flush();
    put_varint(out, fields.out.len() as u32);
    out.extend_from_slice(&fields.out);
    if raw_zero > raw {
        extra.flush();
        put_varint(out, extra.out.len() as u32);
        out.extend_from_slice(&extra.out);
    }
    write_patches::<F>(out, &patches, bits);
}

/// Symbols and low bits of one row; says whether some element has to be patched.
#[inline(always)]
fn split_row<F: Format, const CELLS: bool>(
    bits: &[u32], h: &[i32], ctx: &[u8], sym: &mut [u8], below: &mut [u32], row: &Row, target: Target,
) -> bool {
    let (half, top) = row_constants::<F, CELLS>(row);
    let mut all = 0;
    let items = bits.iter().zip(h).zip(ctx).zip(sym).zip(below);
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
    all & !255 != 0
}

/// Which elements of a row have to be patched.
fn patch_row<F: Format, const CELLS: bool>(
    bits: &[u32], h: &[i32], ctx: &[u8], row: &Row, target: Target, start: usize, patches: &mut Vec<u32>,
) {
    let (half, top) = row_constants::<F, CELLS>(row);
    for (i, ((&bits, &h), &ctx)) in bits.iter().zip(h).zip(ctx).enumerate() {
        let (s, _) = match target {
            Target::Exact => split_exact::<F, CELLS>(bits, h, ctx, row, half, top),
            Target::Cells { k } => split_cells::<F, CELLS>(bits, h, ctx, row, k),
        };
        if s & !255 != 0 {
            patches.push((start + i) as u32);
        }
    }
}

/// By how many bins each weight's own bin lies beside its base code; `None` if none does. Also the
/// elements whose own bin is too far away to be said: they would end on the wrong side of zero.
fn shifts<F: Format>(rows: &Rows, e: &[i16], bits: &[u32], cur: &[u32], h: &[i32], ctx: &[u8]) -> (Option<Vec<u8>>, Vec<u32>) {
    let mut out = vec![0u8; bits.len()];
    let (mut any, mut far) = (false, Vec::new());
    for r in 0..rows.count() {
        let scale = pow2(-i32::from(e[r]));
        for i in rows.range(r) {
            if ctx[i] == KNOWN {
                continue;
            }
            let signed = |q: i32, bits: u32| if bits & F::SIGN != 0 { -q } else { q };
            let base = signed((h[i] + 1) / 2, cur[i]);
            let (own, fits) = own_bin::<F>(bits[i] & F::MASK, scale);
            if fits {
                match zigzag(signed(own, bits[i]) - base) {
                    Some(s) => out[i] = s,
                    None => far.push(i as u32),
                }
                any |= out[i] != 0;
            }
        }
    }
    (if any { Some(out) } else { None }, far)
}

/// Width of the raw fields: as wide as they can be while hardly any element needs fewer bits.
#[inline(always)]
fn raw_widths<F: Format, const CELLS: bool>(h: &[i32], ctx: &[u8], target: Target) -> (u32, u32) {
    let mut octaves = [0u64; 33];
    for (&h, &c) in h.iter().zip(ctx).step_by(SAMPLE) {
        if c != 0 && c != KNOWN {
            let bin = (h + i32::from(!CELLS)) / 2;
            octaves[(31 - (bin as u32 | 1).leading_zeros()) as usize] += 1;
        }
    }
    // Floats in a bin of octave `o`: about 2^(MANT - o).
    let waste = |raw: u32, cap: u32| -> u64 {
        let bits = |o: usize| raw.saturating_sub(cap.min(F::MANT.saturating_sub(o as u32)));
        octaves.iter().enumerate().map(|(o, &n)| n * u64::from(bits(o))).sum()
    };
    let fit = |most: u32, least: u32, cap: u32| {
        let mut raw = most;
        while raw > least && waste(raw, cap) * 256 * SAMPLE as u64 > h.len() as u64 {
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
fn trailing_zeros<F: Format>(bits: &[u32]) -> i16 {
    let mut all = 0;
    for &b in bits {
        let u = b & F::MASK;
        all |= if u < F::INF { u } else { 0 };
    }
    let tz = if all == 0 { 0 } else { all.trailing_zeros().min(F::MANT) };
    if tz < 3 {
        0
    } else {
        tz as i16
    }
}
