//! The encoder of one chunk: base and every refinement in one pass over the tensor.
//!
//! Which step a row gets and which code a weight gets is the caller's recipe; whatever it is, the
//! last level is exact. What the levels cannot say (infinities, NaNs, outliers) is patched.

pub mod adopt;
pub mod delta;
pub mod gaps;
pub mod ints;
pub mod opaque;
pub mod opaque_delta;
pub mod refine;
pub mod scale;
pub mod stream;
pub mod symbols;

use crate::encode::ints::write_ints;
use crate::encode::refine::{refine, Step};
use crate::encode::scale::column_classes;
use crate::encode::stream::encode;
use crate::format::float::{pow2, Format};
use crate::format::header::{with_float, Dtype, CLASSES, KIND_BASE, KIND_FULL, KIND_REFINE};
use crate::format::refine::{FINER_MAX, TO_MAX};
use crate::format::rows::{Rows, Segment};
use crate::format::wire::put_varint;
use crate::kernels::scalar::base::{bin_value, Sums, ESCAPE, Q_MAX};
use crate::kernels::scalar::squares::Squares;
use crate::kernels::{Isa, Task};
use crate::Error;
use core::marker::PhantomData;
use std::cell::Cell;

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
pub const SAMPLE: usize = 13;

pub fn header(kind: u8, dtype: Dtype, rows: &Rows) -> Vec<u8> {
    let mut out = vec![kind, dtype as u8];
    out.extend_from_slice(&(rows.count() as u32).to_le_bytes());
    out.extend_from_slice(&(rows.elements() as u32).to_le_bytes());
    out
}

/// Buffers kept from chunk to chunk: fresh memory costs more than what is done with it.
#[derive(Default)]
struct Scratch {
    /// State after the last level, as the decoder has it.
    cur: Vec<u8>,
    /// Contexts and symbols of the base.
    class: Vec<u8>,
    sym: Vec<u8>,
}

thread_local! {
    static SCRATCH: Cell<Scratch> = Cell::new(Scratch::default());
}

/// Most elements for which the buffers are kept.
const KEEP: usize = 1 << 22;

impl Scratch {
    fn take(n: usize, state: usize) -> Self {
        let mut s = SCRATCH.with(Cell::take);
        s.cur.resize(state, 0);
        s.class.resize(n, 0);
        s.sym.resize(n, 0);
        s
    }
    fn keep(self) {
        if self.sym.len() <= KEEP {
            SCRATCH.with(|s| s.set(self));
        }
    }
}

/// What every step of one chunk's encoder looks at.
pub struct Source<'a> {
    pub segs: &'a [Segment<&'a [u8]>],
    pub rows: &'a Rows,
}

impl<'a> Source<'a> {
    /// Bytes of row `r`.
    #[inline(always)]
    pub fn row<F: Format>(&self, r: usize) -> &'a [u8] {
        let (seg, bytes) = self.rows.bytes(r, self.rows.range(r), F::BYTES);
        &self.segs[seg].mem[bytes]
    }
    /// Place of row `r` in the state.
    #[inline(always)]
    pub fn state<F: Format>(&self, r: usize) -> core::ops::Range<usize> {
        let p = self.rows.range(r);
        p.start * F::BYTES..p.end * F::BYTES
    }
    /// Sum of squared differences of weights and state; `e` are the rows' step exponents.
    pub fn errors<F: Format, I: Isa>(&self, isa: I, cur: &[u8], e: &[i16]) -> f64 {
        isa.enter(Errors::<F>(self, cur, e, PhantomData))
    }
}

/// Sum of squared differences of weights and state, a part of a row of step `2^e`.
#[inline(always)]
fn squared_error<F: Format>(mem: &[u8], cur: &[u8], e: i16) -> f64 {
    let mut sum = Squares::default();
    sum.differences::<F>(mem, cur, pow2(-i32::from(e)));
    let step = f64::from(pow2(i32::from(e)));
    sum.total() * step * step
}

/// [`Source::errors`].
struct Errors<'a, F>(&'a Source<'a>, &'a [u8], &'a [i16], PhantomData<F>);

impl<F: Format> Task for Errors<'_, F> {
    type Out = f64;
    #[inline(always)]
    fn run<I: Isa>(self, _isa: I) -> f64 {
        let Errors(src, cur, e, _) = self;
        let row = |r: usize| squared_error::<F>(src.row::<F>(r), &cur[src.state::<F>(r)], e[r]);
        (0..e.len()).map(row).sum()
    }
}

/// Rows of floats, and what the caller decided for them.
pub struct Floats<'a> {
    pub dtype: Dtype,
    pub segs: &'a [Segment<&'a [u8]>],
    pub plan: &'a Plan<'a>,
}

impl Task for Floats<'_> {
    type Out = Result<Encoded, Error>;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Out {
        with_float!(self.dtype, F => isa.enter(Levels::<F>(self, PhantomData)))
    }
}

/// The same for one format.
struct Levels<'a, F>(Floats<'a>, PhantomData<F>);

impl<F: Format> Task for Levels<'_, F> {
    type Out = Result<Encoded, Error>;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Out {
        encode_float::<F, _>(isa, self.0.dtype, self.0.segs, self.0.plan)
    }
}

#[inline(always)]
fn encode_float<F: Format, I: Isa>(
    isa: I,
    dtype: Dtype,
    segs: &[Segment<&[u8]>],
    plan: &Plan,
) -> Result<Encoded, Error> {
    let rows = &Rows::new(segs, F::BYTES)?;
    check_plan::<F>(plan, rows)?;
    let src = Source { segs, rows };
    let e: Vec<i16> = plan.scales.iter().map(|v| v >> 2).collect();
    let mut s = Scratch::take(rows.elements(), rows.elements() * F::BYTES);
    let mut done = Encoded::default();
    let mut out = header(if plan.full { KIND_FULL } else { KIND_BASE }, dtype, rows);
    let columns = column_classes::<F, _>(segs, rows, &e);
    let sums = encode_base::<F, _>(isa, &mut out, &src, plan, &e, &columns, &mut s);
    done.squares.push(sums.signal);
    let mut far = Vec::new();
    let mut step = Step {
        from: 0,
        to: None,
        full: plan.full,
        coded: plan.codes.is_some(),
        sparse: refine::is_sparse::<F>(&src),
    };
    if !plan.full {
        done.payloads.push(std::mem::take(&mut out));
        done.squares.push(sums.error);
    }
    for &level in if plan.full { &[0] } else { plan.levels } {
        if !plan.full {
            out = header(KIND_REFINE, dtype, rows);
        }
        step.to = if level > 0 {
            Some(u32::from(level))
        } else {
            None
        };
        let error = refine::<F, _>(isa, &mut out, &src, &e, &mut s.cur, &mut far, step);
        done.payloads.push(std::mem::take(&mut out));
        done.squares.push(error);
        step.from = u32::from(level);
        step.coded = false;
    }
    s.keep();
    Ok(done)
}

fn check_plan<F: Format>(plan: &Plan, rows: &Rows) -> Result<(), Error> {
    let mut from = 0;
    let mut growing = true;
    for &to in plan.levels.iter().filter(|&&k| k > 0) {
        let most = if from == 0 {
            TO_MAX
        } else {
            TO_MAX.min(from + FINER_MAX)
        };
        growing &= (from + 1..=most).contains(&u32::from(to));
        from = u32::from(to);
    }
    let ok = plan.scales.len() == rows.count()
        && plan.codes.map_or(true, |c| c.len() == rows.elements())
        && plan
            .scales
            .iter()
            .all(|v| (F::E_MIN..=F::E_MAX).contains(&i32::from(v >> 2)))
        && growing
        && plan.levels.iter().rev().skip(1).all(|&k| k > 0);
    if ok {
        Ok(())
    } else {
        Err(Error::Argument)
    }
}

/// Writes the elements at the indices given, in order, and puts them into the state, if there is one.
pub fn write_patches<F: Format>(out: &mut Vec<u8>, src: &Source, cur: &mut [u8], at: &[u32]) {
    put_varint(out, at.len() as u32);
    let (mut next, mut r) = (0, 0);
    for &i in at {
        put_varint(out, i - next);
        next = i + 1;
        while src.rows.range(r).end <= i as usize {
            r += 1;
        }
        let from = (i as usize - src.rows.range(r).start) * F::BYTES;
        let bits = &src.row::<F>(r)[from..from + F::BYTES];
        out.extend_from_slice(bits);
        if let Some(cur) = cur.get_mut(i as usize * F::BYTES..next as usize * F::BYTES) {
            cur.copy_from_slice(bits);
        }
    }
}

/// Encodes the base; leaves its state in `s`.
#[inline(always)]
fn encode_base<F: Format, I: Isa>(
    isa: I,
    out: &mut Vec<u8>,
    src: &Source,
    plan: &Plan,
    e: &[i16],
    columns: &[Vec<i16>],
    s: &mut Scratch,
) -> Sums {
    let rows = src.rows;
    let columns8: Vec<Vec<u8>> = columns
        .iter()
        .map(|c| c.iter().map(|&v| v as u8).collect())
        .collect();
    let mut patches = Vec::new();
    let mut sums = Sums::default();
    for r in 0..rows.count() {
        let p = rows.range(r);
        let class = ((plan.scales[r] & 3) << 2) as u8;
        let (seg, _) = rows.place(r, p.start);
        for (c, &col) in s.class[p.clone()].iter_mut().zip(&columns8[seg]) {
            *c = class | col;
        }
        let (mem, sym) = (src.row::<F>(r), &mut s.sym[p.clone()]);
        let cur = &mut s.cur[src.state::<F>(r)];
        if isa.base_row::<F>(mem, i32::from(e[r]), sym, cur, &mut sums) {
            patches.extend(
                (0..sym.len())
                    .filter(|&i| sym[i] == ESCAPE)
                    .map(|i| (p.start + i) as u32),
            );
        }
        if let Some(codes) = plan.codes {
            take_codes::<F>(&codes[p], i32::from(e[r]), sym, cur);
        }
    }
    write_ints(out, plan.scales);
    for c in columns {
        write_ints(out, c);
    }
    encode(isa, out, &s.sym, &s.class, CLASSES);
    write_patches::<F>(out, src, &mut s.cur, &patches);
    if plan.codes.is_some() {
        sums.error = src.errors::<F, _>(isa, &s.cur, e);
    }
    sums
}

/// The caller's base codes instead of the nearest bins: symbols and state.
fn take_codes<F: Format>(codes: &[i16], e: i32, sym: &mut [u8], cur: &mut [u8]) {
    let items = sym
        .iter_mut()
        .zip(cur.chunks_exact_mut(F::BYTES))
        .zip(codes);
    for ((sym, cur), &c) in items.filter(|((s, _), _)| **s != ESCAPE) {
        let q = i32::from(c).clamp(-Q_MAX, Q_MAX);
        *sym = (q + 128) as u8;
        F::store(cur, 0, bin_value::<F>(q, pow2(e)));
    }
}
