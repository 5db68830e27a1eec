//! The encoder of one refinement: the inverse of `decode/refine`.

use super::ints::write_ints;
use super::stream::encode;
use super::{squared_error, write_patches, Source};
use crate::decode::refine::block::{close, Block};
use crate::format::float::{load, pow2, Format, GROUP};
use crate::format::refine::{Head, FINER_MAX};
use crate::format::rows::Piece;
use crate::format::runs::RunWriter;
use crate::format::wire::put_varint;
use crate::kernels::scalar::bins;
use crate::kernels::scalar::cells::{guess_step, octaves, Fraction, Halving, Narrowing};
use crate::kernels::Isa;
use look::{pays_to_code, positions_of};

pub use look::is_sparse;

mod look;

/// One refinement to encode.
#[derive(Clone, Copy)]
pub struct Step {
    /// Halvings of the base step behind the state at hand.
    pub from: u32,
    /// Halvings to reach; `None`: the floats themselves.
    pub to: Option<u32>,
    /// The base stands in the same chunk.
    pub full: bool,
    /// The base codes are not each weight's nearest.
    pub coded: bool,
    /// Exact zeros have no fields.
    pub sparse: bool,
}

/// What a chunk's refinement consists of, each part in order of its elements.
#[derive(Default)]
struct Made {
    zeros: Vec<u8>,
    coarse: Vec<u8>,
    coarse_ctx: Vec<u8>,
    octaves: Vec<u8>,
    positions: RunWriter,
    finer: RunWriter,
    low: RunWriter,
    low_width: u32,
    upper: RunWriter,
    patches: Vec<u32>,
    /// Sum of the squared errors of cells, before patches.
    error: f64,
}

/// Encodes one refinement; `cur` is the state, which becomes the next one (of exact floats, the cells
/// that lead to them). `far` lists the elements that no cell can describe, see [`shifts`]. Returns
/// the sum of the new state's squared errors.
#[inline(always)]
pub fn refine<F: Format, I: Isa>(
    isa: I,
    out: &mut Vec<u8>,
    src: &Source,
    e: &[i16],
    cur: &mut [u8],
    far: &mut Vec<u32>,
    step: Step,
) -> f64 {
    let exact = step.to.is_none();
    let shifts = if step.coded {
        shifts::<F>(src, e, cur)
    } else {
        Shifts::default()
    };
    far.extend_from_slice(&shifts.far);
    let positions = || positions_of::<F>(src, e, step.to);
    let (mid, to) = match (step.from, step.to) {
        (0, Some(to)) => (to.min(positions()).max(to.saturating_sub(FINER_MAX)), to),
        (0, None) => {
            let mid = positions();
            (mid, mid)
        }
        (from, to) => (from, to.unwrap_or(from)),
    };
    let mut head = Head {
        exact,
        shifted: shifts.any,
        sparse: step.sparse,
        coarse: false,
        from: step.from,
        mid,
        to,
    };
    head.coarse = head.from == 0 && mid >= 2 && pays_to_code::<F>(src, e, cur);
    head.write(out);
    if !step.full {
        let guess = |r| guess_step::<F>(&cur[src.state::<F>(r)], head.from);
        let differences: Vec<i16> = (0..e.len()).map(|r| e[r].wrapping_sub(guess(r))).collect();
        write_ints(out, &differences);
    }
    let mut tz = Vec::new();
    if exact {
        tz.extend((0..src.rows.count()).map(|r| trailing_zeros::<F>(src.row::<F>(r))));
        write_ints(out, &tz);
    }
    if shifts.any {
        shifts.write::<F, _>(isa, out, src, e, cur);
    }
    let n = src.rows.elements();
    let bytes = |there: bool, bits: u32| {
        if there {
            n / 8 * bits as usize + n / 64
        } else {
            0
        }
    };
    let mut made = Made {
        patches: far.clone(),
        positions: RunWriter::with_capacity(bytes(head.from == 0, head.plain())),
        low: RunWriter::with_capacity(bytes(exact, F::LOW)),
        upper: RunWriter::with_capacity(bytes(exact, 3)),
        ..Made::default()
    };
    let rows = RowParams { head, e, tz: &tz };
    let mut block = Block::new();
    while block.next(src.rows, F::BYTES) {
        made.block::<F, _>(isa, &mut block, src, &rows, cur);
    }
    out.reserve(
        made.positions.len() + made.finer.len() + made.low.len() + made.upper.len() + n / 16,
    );
    made.write::<F, _>(isa, out, &head);
    made.patches.sort_unstable();
    made.patches.dedup();
    write_patches::<F>(out, src, cur, &made.patches);
    match (exact, made.patches.is_empty()) {
        (true, _) => 0.0,
        (false, true) => made.error,
        (false, false) => src.errors::<F, _>(isa, cur, e),
    }
}

/// What the rows' parameters follow from.
struct RowParams<'a> {
    head: Head,
    e: &'a [i16],
    tz: &'a [i16],
}

impl RowParams<'_> {
    #[inline(always)]
    fn halving<F: Format>(&self, p: &Piece) -> Halving {
        Halving::new::<F>(&self.head, i32::from(self.e[p.row]))
    }
    #[inline(always)]
    fn fraction<F: Format>(&self, p: &Piece) -> Fraction {
        Fraction::new::<F>(&self.head, i32::from(self.e[p.row]), self.tz[p.row] as u32)
    }
}

impl Made {
    #[inline(always)]
    fn block<F: Format, I: Isa>(
        &mut self,
        isa: I,
        b: &mut Block,
        src: &Source,
        rows: &RowParams,
        cur: &mut [u8],
    ) {
        let cur = &mut cur[b.start * F::BYTES..(b.start + b.len) * F::BYTES];
        if rows.head.sparse {
            self.find_absent::<F>(b, src, &rows.head, cur);
        }
        if rows.head.from == 0 {
            self.halve::<F, _>(isa, b, src, rows, cur);
        }
        if rows.head.to > rows.head.mid {
            self.narrow::<F, _>(isa, b, src, rows, cur);
        }
        if rows.head.exact {
            self.fill::<F, _>(isa, b, src, rows, cur);
        } else {
            self.keep_zeros::<F>(b, src, cur);
            for p in &b.pieces {
                let (mem, e) = (p.bytes(src.segs), rows.e[p.row]);
                self.error += squared_error::<F>(mem, part::<F>(cur, p), e);
            }
        }
    }

    /// Which elements have no fields, and symbols for those that might have some.
    fn find_absent<F: Format>(&mut self, b: &mut Block, src: &Source, head: &Head, cur: &[u8]) {
        for p in &b.pieces {
            let mem = p.bytes(src.segs);
            for i in p.range() {
                let bits = F::load(mem, i - p.from);
                let zero = F::load(cur, i) & F::MASK == 0;
                b.absent[i] = match (zero, head.from) {
                    (false, _) => 0,
                    (true, 0) if bits & F::MASK > 0 => 0,
                    (true, 0) => 1 + u8::from(bits & F::SIGN != 0),
                    (true, _) => 1,
                };
                if zero && head.from == 0 {
                    self.zeros.push(b.absent[i]);
                }
            }
        }
    }

    /// Positions of one block, and its next state.
    #[inline(always)]
    fn halve<F: Format, I: Isa>(
        &mut self,
        isa: I,
        b: &mut Block,
        src: &Source,
        rows: &RowParams,
        cur: &mut [u8],
    ) {
        let (n, head) = (b.len, &rows.head);
        if head.coarse {
            for p in &b.pieces {
                let (cur, e) = (part::<F>(cur, p), i32::from(rows.e[p.row]));
                bins::coarse_contexts::<F>(cur, e, &mut b.ctx[p.range()]);
            }
            if head.sparse {
                bins::without(&b.absent[..n], &mut b.ctx[..n]);
            }
            self.coarse_ctx.extend_from_slice(&b.ctx[..n]);
        }
        for p in &b.pieces {
            let mem = p.bytes(src.segs);
            let positions = &mut b.positions[p.range()];
            isa.locate::<F>(mem, part::<F>(cur, p), positions, &rows.halving::<F>(p));
        }
        let mut present = n;
        if head.sparse {
            for i in (0..n).filter(|&i| b.absent[i] > 0) {
                b.positions[i] = 0;
                F::store(cur, i, if b.absent[i] == 1 { 0 } else { F::SIGN });
            }
        }
        let plain = head.plain();
        if head.coarse {
            self.coarse
                .extend(b.positions[..n].iter().map(|f| f >> plain));
        }
        if head.sparse {
            present = close(&mut b.positions[..n], &b.absent[..n]);
        }
        let positions = &b.positions[..present];
        self.positions
            .with(|room, bit| isa.pack(positions, plain, room, bit));
    }

    /// Finer positions of one block, and its next state.
    #[inline(always)]
    fn narrow<F: Format, I: Isa>(
        &mut self,
        isa: I,
        b: &mut Block,
        src: &Source,
        rows: &RowParams,
        cur: &mut [u8],
    ) {
        for p in &b.pieces {
            let row = Narrowing::new::<F>(&rows.head, i32::from(rows.e[p.row]));
            let (mem, cur) = (p.bytes(src.segs), part::<F>(cur, p));
            let (masks, positions) = (&mut b.masks[p.range()], &mut b.positions[p.range()]);
            isa.finer_widths::<F>(cur, &row, masks);
            isa.locate_finer::<F>(mem, cur, masks, positions, &row);
        }
        let (positions, masks) = (&b.positions[..b.len], &b.masks[..b.len]);
        self.finer
            .with(|room, bit| isa.gather(positions, masks, room, bit));
    }

    /// What leads from the cells of one block to its floats.
    #[inline(always)]
    fn fill<F: Format, I: Isa>(
        &mut self,
        isa: I,
        b: &mut Block,
        src: &Source,
        rows: &RowParams,
        cur: &mut [u8],
    ) {
        b.deep.len = 0;
        for p in &b.pieces {
            let (row, at) = (rows.fraction::<F>(p), p.range());
            let mem = p.bytes(src.segs);
            isa.widths::<F>(
                part::<F>(cur, p),
                &row,
                &mut b.masks[at.clone()],
                &mut b.deep,
                p.from,
            );
            isa.drain::<F>(mem, &mut b.fields[at.clone()], &mut b.low[at], &row);
            if row.tz > 0 {
                // Only an element that is not finite has bits there.
                let below = (1 << row.tz) - 1;
                let odd = (0..p.to - p.from).filter(|&i| F::load(mem, i) & below != 0);
                self.patches
                    .extend(odd.map(|i| (b.start + p.from + i) as u32));
            }
        }
        let (fields, masks) = (&b.fields[..b.len], &b.masks[..b.len]);
        self.upper
            .with(|room, bit| isa.gather(fields, masks, room, bit));
        let mut done = 0;
        for p in &b.pieces {
            let end = b.deep.end(done, p.to);
            let (mem, list) = (p.bytes(src.segs), &b.deep.list[done..end]);
            octaves::<F>(mem, part::<F>(cur, p), p.from, list, &mut self.octaves);
            done = end;
        }
        if F::LOW > 0 {
            self.put_low::<F, _>(isa, b, rows);
        }
    }

    /// The low plane of a block, as far as rows have one width.
    #[inline(always)]
    fn put_low<F: Format, I: Isa>(&mut self, isa: I, b: &mut Block, rows: &RowParams) {
        let mut next = 0;
        while next < b.pieces.len() {
            let width = rows.fraction::<F>(&b.pieces[next]).low::<F>();
            let from = b.pieces[next].from;
            while next < b.pieces.len() && rows.fraction::<F>(&b.pieces[next]).low::<F>() == width {
                next += 1;
            }
            let at = from..b.pieces[next - 1].to;
            if width != self.low_width {
                self.low.align();
                self.low_width = width;
            }
            let mut low = &mut b.low[at.clone()];
            if rows.head.sparse {
                let present = close(low, &b.absent[at]);
                low = &mut low[..present];
            }
            self.low
                .with(|room, bit| isa.pack_low(low, width, room, bit));
        }
    }

    /// Exact zeros stay zeros in cells.
    #[inline(always)]
    fn keep_zeros<F: Format>(&mut self, b: &Block, src: &Source, cur: &[u8]) {
        let mut bits = [0u32; GROUP];
        for p in &b.pieces {
            for (g, mem) in p.bytes(src.segs).chunks(GROUP * F::BYTES).enumerate() {
                let bits = &mut bits[..mem.len() / F::BYTES];
                load::<F>(mem, bits);
                if bits.iter().fold(false, |any, &b| any | (b & F::MASK == 0)) {
                    let first = p.from + g * GROUP;
                    let zeros = (0..bits.len()).filter(|&i| bits[i] & F::MASK == 0);
                    let moved = zeros.filter(|&i| F::load(cur, first + i) & F::MASK != 0);
                    self.patches
                        .extend(moved.map(|i| (b.start + first + i) as u32));
                }
            }
        }
    }

    #[inline(always)]
    fn write<F: Format, I: Isa>(&mut self, isa: I, out: &mut Vec<u8>, head: &Head) {
        if head.sparse && head.from == 0 {
            write_rare(isa, out, &self.zeros);
        }
        if head.coarse {
            encode(
                isa,
                out,
                &self.coarse,
                &self.coarse_ctx,
                bins::COARSE_CONTEXTS,
            );
        }
        if head.exact {
            write_rare(isa, out, &self.octaves);
        }
        if head.from == 0 {
            std::mem::take(&mut self.positions).finish(out);
        }
        if head.to > head.mid {
            std::mem::take(&mut self.finer).finish(out);
        }
        if head.exact && F::LOW > 0 {
            std::mem::take(&mut self.low).finish(out);
        }
        if head.exact {
            std::mem::take(&mut self.upper).finish(out);
        }
    }
}

fn write_rare<I: Isa>(isa: I, out: &mut Vec<u8>, symbols: &[u8]) {
    put_varint(out, symbols.len() as u32);
    if !symbols.is_empty() {
        encode(isa, out, symbols, &vec![0; symbols.len()], 1);
    }
}

/// State of one piece, of that of its block.
#[inline(always)]
fn part<'a, F: Format>(cur: &'a mut [u8], p: &Piece) -> &'a mut [u8] {
    &mut cur[p.from * F::BYTES..p.to * F::BYTES]
}

/// By how many bins each weight's own bin lies from its base code.
#[derive(Default)]
struct Shifts {
    symbols: Vec<u8>,
    any: bool,
    /// Elements that lie too far away: they would end on the wrong side of zero.
    far: Vec<u32>,
}

fn shifts<F: Format>(src: &Source, e: &[i16], cur: &[u8]) -> Shifts {
    let mut out = Shifts {
        symbols: vec![0; src.rows.elements()],
        ..Shifts::default()
    };
    for r in 0..src.rows.count() {
        let (scale, mem, p) = (pow2(-i32::from(e[r])), src.row::<F>(r), src.rows.range(r));
        for i in p.clone() {
            let (base, open) = bins::signed_bin::<F>(F::load(cur, i), scale);
            let (own, fits) = bins::signed_bin::<F>(F::load(mem, i - p.start), scale);
            if open && fits && own != base {
                match bins::zigzag(own - base) {
                    Some(s) => out.symbols[i] = s,
                    None => out.far.push(i as u32),
                }
                out.any = true;
            }
        }
    }
    out
}

impl Shifts {
    /// Writes the stream and moves the state.
    fn write<F: Format, I: Isa>(
        &self,
        isa: I,
        out: &mut Vec<u8>,
        src: &Source,
        e: &[i16],
        cur: &mut [u8],
    ) {
        let mut ctx = vec![0; self.symbols.len()];
        for r in 0..src.rows.count() {
            let (p, e) = (src.rows.range(r), i32::from(e[r]));
            let cur = &mut cur[src.state::<F>(r)];
            bins::shift_contexts::<F>(cur, e, &mut ctx[p.clone()]);
            bins::shift::<F>(cur, e, &self.symbols[p]);
        }
        encode(isa, out, &self.symbols, &ctx, bins::SHIFT_CONTEXTS);
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
