//! The encoder of version updates; the twin of `delta.rs`, with the decisions that cost bytes.

use crate::decode::delta::{Head, MAX_BLOCK, MAX_FIELD, MIN_BLOCK};
use crate::decode::opaque::{CODED, CONSTANT, STORED};
use crate::encode::gaps;
use crate::encode::stream::{encode, encode_with};
use crate::encode::symbols::Symbols;
use crate::encode::{write_patches, SAMPLE};
use crate::entropy::encoder::{log2_q8, Slack};
use crate::entropy::table::MAX_CTX;
use crate::format::convert::Conversion;
use crate::format::flat::{bytes, check_sources, gather, Cursor, Prior};
use crate::format::float::Format;
use crate::format::header::{with_float, Dtype, KIND_DELTA};
use crate::format::rows::{Rows, Segment, BLOCK};
use crate::format::wire::put_varint;
use crate::kernels::{Isa, Task};
use crate::Error;
use core::marker::PhantomData;
use core::ops::Range;

/// Elements of the new version and of the one before.
pub struct Delta<'a> {
    pub dtype: Dtype,
    pub segs: &'a [Segment<&'a [u8]>],
    pub source: Dtype,
    pub priors: &'a [Prior<'a>],
}

/// What the first look finds.
struct Look {
    /// A bit per 64 elements: something differs.
    bitmap: Vec<u8>,
    /// Elements by exponent, of a sample of those blocks.
    exponents: [u32; 256],
    /// Those that differ.
    changed: [u32; 256],
    /// Any bit of any element.
    ones: u32,
}

/// Symbols' sources: one of each per element in a coded block.
struct Coded {
    z: Vec<u32>,
    ctx: Vec<u8>,
    /// Runs of elements, ascending.
    runs: Vec<Range<usize>>,
}

impl Coded {
    /// Numbers of the elements that have these codes.
    fn elements(&self, codes: &[usize]) -> Vec<u32> {
        let (mut before, mut run) = (0, 0);
        let mut number = |&i: &usize| {
            while i - before >= self.runs[run].len() {
                before += self.runs[run].len();
                run += 1;
            }
            (self.runs[run].start + i - before) as u32
        };
        codes.iter().map(&mut number).collect()
    }
}

impl Task for Delta<'_> {
    type Out = Result<Vec<u8>, Error>;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Out {
        with_float!(self.dtype, F => isa.enter(Of::<F>(self, PhantomData)))
    }
}

/// The same for one format.
struct Of<'a, F>(Delta<'a>, PhantomData<F>);

impl<F: Format> Task for Of<'_, F> {
    type Out = Result<Vec<u8>, Error>;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Out {
        self.0.encode::<F, _>(isa)
    }
}

impl Delta<'_> {
    /// The payload. The sources are as long as the segments.
    #[inline(always)]
    fn encode<F: Format, I: Isa>(&self, isa: I) -> Result<Vec<u8>, Error> {
        if self.source == Dtype::Opaque {
            return Err(Error::Argument);
        }
        let rows = &Rows::new(self.segs, F::BYTES)?;
        check_sources(self.segs, self.priors, self.source.bytes(), false)
            .map_err(|_| Error::Argument)?;
        let n = rows.elements();
        if let Some(out) = gaps::encode::<F, _>(isa, self, rows, n) {
            return Ok(out);
        }
        let look = self.look::<F, _>(isa, n);
        let (block, bitmap) = choose_blocks(&look, n);
        let mut head = Head {
            source: self.source,
            low: lowest(&look.exponents),
            tz: look.ones.trailing_zeros().min(F::MANT),
            block,
            widths: [0; MAX_CTX],
        };
        let coded = self.differences::<F, _>(isa, &head, &bitmap, n);
        head.widths = choose_widths::<F>(&coded);

        let mut out = vec![KIND_DELTA, self.dtype as u8];
        out.extend_from_slice(&(rows.count() as u32).to_le_bytes());
        out.extend_from_slice(&(n as u32).to_le_bytes());
        head.write(&mut out);
        write_bitmap(isa, &mut out, &bitmap);
        let mut patches = Vec::new();
        if !coded.ctx.is_empty() {
            let mut made = Symbols::new(coded.z.len());
            if head.raw() {
                made.push::<_, false>(isa, &head.widths, &coded.z, &coded.ctx);
            } else {
                made.push_plain(&coded.z);
            }
            encode_with(isa, &mut out, &made.sym, &coded.ctx, MAX_CTX, Slack::Share);
            if head.raw() {
                put_varint(&mut out, made.fields().len() as u32);
                out.extend_from_slice(made.fields());
            }
            patches = coded.elements(&made.far);
        }
        let source = crate::encode::Source {
            segs: self.segs,
            rows,
        };
        write_patches::<F>(&mut out, &source, &mut [], &patches);
        Ok(out)
    }

    /// Elements of a run, new and predicted.
    pub fn load<I: Isa>(
        &self,
        isa: I,
        run: &Range<usize>,
        at: &mut [Cursor; 2],
        new: &mut [u8],
        old: &mut [u8],
    ) {
        let way = |source| Conversion {
            source,
            dtype: self.dtype,
        };
        let mem = |s: usize| self.segs[s].mem;
        gather(isa, way(self.dtype), self.segs, mem, run, &mut at[0], new);
        let prior = |s: usize| self.priors[s].unwrap_or(&[]);
        gather(
            isa,
            way(self.source),
            self.segs,
            prior,
            run,
            &mut at[1],
            old,
        );
    }

    /// The same of one dtype, where they are if that is in one place.
    #[inline(always)]
    pub fn bytes<'b, I: Isa>(
        &'b self,
        isa: I,
        run: &Range<usize>,
        at: &mut [Cursor; 2],
        new: &'b mut [u8],
        old: &'b mut [u8],
    ) -> (&'b [u8], &'b [u8]) {
        let item = self.dtype.bytes();
        if let Some(p) = at[0].whole(self.segs, run) {
            at[1] = at[0];
            let range = bytes(&p.inner, item);
            let prior = self.priors[p.seg].unwrap_or(&[]);
            return (&self.segs[p.seg].mem[range.clone()], &prior[range]);
        }
        let size = run.len() * item;
        self.load(isa, run, at, &mut new[..size], &mut old[..size]);
        (&new[..size], &old[..size])
    }

    #[inline(always)]
    fn look<F: Format, I: Isa>(&self, isa: I, n: usize) -> Look {
        let mut look = Look {
            bitmap: vec![0; (n + 511) / 512],
            exponents: [0; 256],
            changed: [0; 256],
            ones: 0,
        };
        let mut at = [Cursor::default(); 2];
        let (mut new, mut old) = ([0u8; 4 * BLOCK], [0u8; 4 * BLOCK]);
        for start in (0..n).step_by(BLOCK) {
            let run = start..n.min(start + BLOCK);
            let new = &mut new[..run.len() * F::BYTES];
            let old = &mut old[..new.len()];
            self.load(isa, &run, &mut at, new, old);
            for m in new.chunks_exact(F::BYTES) {
                look.ones |= F::load(m, 0) & F::MASK;
            }
            let blocks = new.chunks(64 * F::BYTES).zip(old.chunks(64 * F::BYTES));
            for (b, (new, old)) in blocks.enumerate() {
                if new != old {
                    let b = (start >> 6) + b;
                    look.bitmap[b >> 3] |= 1 << (b & 7);
                    let pairs = new.chunks_exact(F::BYTES).zip(old.chunks_exact(F::BYTES));
                    for (new, old) in pairs.step_by(SAMPLE) {
                        let e = ((F::load(old, 0) & F::MASK) >> F::MANT) as usize;
                        look.exponents[e] += 1;
                        look.changed[e] += u32::from(new != old);
                    }
                }
            }
        }
        look
    }

    /// Zigzag differences and contexts of all elements in coded blocks.
    #[inline(always)]
    fn differences<F: Format, I: Isa>(
        &self,
        isa: I,
        head: &Head,
        bitmap: &[u8],
        n: usize,
    ) -> Coded {
        let runs = coded_runs(bitmap, head.block, n);
        let total = runs.iter().map(|r| r.len()).sum();
        let mut coded = Coded {
            z: vec![0; total],
            ctx: vec![0; total],
            runs,
        };
        let (mut at, mut done) = ([Cursor::default(); 2], 0);
        let (mut new, mut old) = ([0u8; 4 * BLOCK], [0u8; 4 * BLOCK]);
        for run in &coded.runs {
            for start in run.clone().step_by(BLOCK) {
                let part = start..run.end.min(start + BLOCK);
                let new = &mut new[..part.len() * F::BYTES];
                let old = &mut old[..new.len()];
                self.load(isa, &part, &mut at, new, old);
                let to = done..done + part.len();
                isa.delta_contexts::<F>(old, head.low, &mut coded.ctx[to.clone()]);
                isa.delta_zigzags::<F>(new, old, head.tz, &mut coded.z[to.clone()]);
                done = to.end;
            }
        }
        coded
    }
}

fn coded_runs(bitmap: &[u8], block: u32, n: usize) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for start in (0..n).step_by(1 << block) {
        let b = start >> block;
        if bitmap[b >> 3] >> (b & 7) & 1 == 1 {
            let end = n.min(start + (1 << block));
            match runs.last_mut() {
                Some(run) if run.end == start => run.end = end,
                _ => runs.push(start..end),
            }
        }
    }
    runs
}

fn write_bitmap<I: Isa>(isa: I, out: &mut Vec<u8>, bitmap: &[u8]) {
    if bitmap.iter().all(|&b| b == bitmap[0]) {
        out.extend_from_slice(&[CONSTANT, bitmap[0]]);
        return;
    }
    let at = out.len();
    out.push(CODED);
    encode(isa, out, bitmap, &vec![0; bitmap.len()], 1);
    if out.len() - at > bitmap.len() {
        out.truncate(at);
        out.push(STORED);
        out.extend_from_slice(bitmap);
    }
}

/// Bits of `counts` under their own frequencies, in 1/256 bit.
pub fn entropy(counts: impl Iterator<Item = u32> + Clone) -> u64 {
    let sum: u32 = counts.clone().sum();
    let bits = |c: u32| u64::from(c) * u64::from(log2_q8(sum) - log2_q8(c));
    counts.filter(|&c| c > 0).map(bits).sum()
}

/// Elements of a block, and which blocks are coded: larger blocks have a cheaper bitmap, and more
/// symbols that say that nothing changed.
fn choose_blocks(look: &Look, n: usize) -> (u32, Vec<u8>) {
    let ones = |map: &[u8]| map.iter().map(|b| b.count_ones()).sum::<u32>();
    let first = u64::from(ones(&look.bitmap));
    // Cost of a block in which nothing changed, in 1/256 bit.
    let pairs = look.exponents.iter().zip(&look.changed);
    let same = |(&all, &changed): (&u32, &u32)| {
        let bits = log2_q8(all.max(1)) - log2_q8((all - changed).max(1));
        u64::from(all) * u64::from(bits)
    };
    let seen: u64 = look.exponents.iter().map(|&n| u64::from(n)).sum();
    let nothing = 64 * pairs.map(same).sum::<u64>() / seen.max(1);
    let mut best = (u64::MAX, MIN_BLOCK, Vec::new());
    let mut map = look.bitmap.clone();
    for block in MIN_BLOCK..=MAX_BLOCK {
        let mut counts = [0u32; 256];
        map.iter().for_each(|&b| counts[usize::from(b)] += 1);
        let more = (u64::from(ones(&map)) << (block - MIN_BLOCK)) - first;
        let cost = entropy(counts.iter().copied()) + more * nothing;
        if cost < best.0 {
            best = (cost, block, map.clone());
        }
        map = halved(&map);
    }
    let blocks = ((n - 1) >> best.1) + 1;
    if ones(&best.2) as usize == blocks {
        best.2.iter_mut().for_each(|b| *b = 255);
    }
    (best.1, best.2)
}

/// The bitmap of blocks of twice the size.
fn halved(map: &[u8]) -> Vec<u8> {
    let nibble = |b: u8| {
        let pairs = (b | b >> 1) & 0x55;
        let pairs = (pairs | pairs >> 1) & 0x33;
        (pairs | pairs >> 2) & 0x0f
    };
    map.chunks(2)
        .map(|b| nibble(b[0]) | b.get(1).map_or(0, |&b| nibble(b)) << 4)
        .collect()
}

/// Exponent of context 0: the largest exponents, but for outliers, have contexts of their own.
pub fn lowest(exponents: &[u32; 256]) -> u8 {
    let sum: u32 = exponents.iter().sum();
    let (mut above, mut top) = (0, 255);
    while top > 0 && above + exponents[top] <= sum / 1024 {
        above += exponents[top];
        top -= 1;
    }
    top.saturating_sub(14) as u8
}

/// Raw bits of each context: few enough to tell sizes apart, many enough that hardly any difference is
/// too large for a symbol.
fn choose_widths<F: Format>(coded: &Coded) -> [u8; MAX_CTX] {
    let step = if coded.z.len() > 1 << 16 { SAMPLE } else { 1 };
    let mut lengths = [[0u64; 33]; MAX_CTX];
    for (&z, &c) in coded.z.iter().zip(&coded.ctx).step_by(step) {
        lengths[usize::from(c) & (MAX_CTX - 1)][(32 - z.leading_zeros()) as usize] += 1;
    }
    let mut widths = [0; MAX_CTX];
    for (width, lengths) in widths.iter_mut().zip(&lengths) {
        *width = choose_width::<F>(lengths, step as u64);
    }
    widths
}

/// Width for differences of which `lengths[i]` have `i` bits; costs are in 1/64 bit.
fn choose_width<F: Format>(lengths: &[u64; 33], step: u64) -> u8 {
    let changed: u64 = lengths[1..].iter().sum();
    let longest = lengths.iter().rposition(|&n| n > 0).unwrap_or(0) as u32;
    let (mut half, mut middle) = (0, 1);
    while middle < 32 && half + lengths[middle] < (changed + 1) / 2 {
        half += lengths[middle];
        middle += 1;
    }
    let cost = |w: u32| {
        let far: u64 = lengths.iter().skip(w as usize + 9).sum();
        let table = 64 * 5 * (1 << longest.saturating_sub(w).min(8)) / step;
        // A step that is small against the differences costs the square of their ratio.
        let ratio = 2 * (w as i32 + 1 - middle as i32);
        let lost = if ratio < 0 {
            (3 * changed) >> -ratio
        } else {
            (3 * changed) << ratio.min(8)
        };
        let slow = if w > 0 { changed / 4 } else { 0 };
        far * 64 * (8 * F::BYTES as u64 + 16) + table + lost + slow
    };
    (0..=MAX_FIELD).min_by_key(|&w| cost(w)).unwrap_or(0) as u8
}
