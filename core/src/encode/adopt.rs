//! The encoder of what a quantised file lacks; the twin of `adopt.rs`, with the decisions that cost bytes.

use crate::decode::adopt::{check_blocks, Head, Predictions, Scale, FAR, MAX_FIELD};
use crate::encode::delta::entropy;
use crate::encode::stream::encode;
use crate::encode::symbols::Symbols;
use crate::encode::{header, write_patches, Source};
use crate::entropy::table::MAX_CTX;
use crate::format::blocks::Block;
use crate::format::convert::Conversion;
use crate::format::flat::{gather, Cursor, Prior};
use crate::format::float::{load, Format, GROUP};
use crate::format::header::{with_float, Dtype, KIND_ADOPT};
use crate::format::rows::{Rows, Segment, BLOCK};
use crate::format::wire::put_varint;
use crate::kernels::scalar::adopt::CLASSES;
use crate::kernels::{Isa, Task};
use crate::Error;
use core::marker::PhantomData;

/// One block in so many is looked at first.
const SAMPLE: usize = 8;
/// Chunks of so few blocks are looked at as a whole.
const SMALL: usize = 64;
/// What a symbol's frequency costs in a table, in 1/256 bit.
const ENTRY: u64 = 5 * 256;

/// Floats, and blocks that stand for something like them.
pub struct Adopt<'a> {
    pub dtype: Dtype,
    pub block: u8,
    pub segs: &'a [Segment<&'a [u8]>],
    pub priors: &'a [Prior<'a>],
}

impl Task for Adopt<'_> {
    type Out = Result<Vec<u8>, Error>;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Out {
        with_float!(self.dtype, F => isa.enter(Of::<F>(self, PhantomData)))
    }
}

/// The same for one format.
struct Of<'a, F>(Adopt<'a>, PhantomData<F>);

impl<F: Format> Task for Of<'_, F> {
    type Out = Result<Vec<u8>, Error>;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Out {
        self.0.encode::<F, _>(isa)
    }
}

impl Adopt<'_> {
    /// The payload.
    #[inline(always)]
    fn encode<F: Format, I: Isa>(&self, isa: I) -> Result<Vec<u8>, Error> {
        let block = Block::from_code(self.block).map_err(|_| Error::Argument)?;
        let rows = &Rows::new(self.segs, F::BYTES)?;
        check_blocks(block, self.segs, self.priors).map_err(|_| Error::Argument)?;
        let n = rows.elements();
        let tz = trailing_zeros::<F>(self.segs);
        // From there on a step is eight floats or fewer.
        let turn = (4 * (F::MANT - tz).saturating_sub(3)).min(FAR as u32);
        let scale = Scale::new(F::MANT, tz, turn);
        let mut groups = self.sample::<F, _>(isa, block, n, scale, tz);
        let share = n as u64 / groups.iter().map(|g| g.count).sum::<u64>().max(1);
        merge(&mut groups, ENTRY / share.max(1));
        let mut head = Head {
            block,
            tz,
            turn,
            widths: [0; MAX_CTX],
            map: [0; CLASSES],
        };
        for (context, group) in groups.iter().enumerate() {
            head.widths[context] = group.width;
            head.map[group.first..=group.last].fill(context as u8);
        }

        let (mut z, mut ctx, mut made) = ([0u32; BLOCK], vec![0u8; n], Symbols::new(n));
        let mut reader = Walk::new::<F>(self, block);
        for start in (0..n).step_by(BLOCK) {
            let run = start..n.min(start + BLOCK);
            reader.take::<F, _>(isa, run.start, run.len());
            let (z, ctx) = (&mut z[..run.len()], &mut ctx[run]);
            reader.codes::<F>(scale, ctx, z);
            isa.adopt_contexts(&head.map, ctx);
            made.push::<_, true>(isa, &head.widths, z, ctx);
        }
        let mut out = header(KIND_ADOPT, self.dtype, rows);
        head.write(&mut out);
        encode(isa, &mut out, &made.sym, &ctx, MAX_CTX);
        if head.raw() {
            put_varint(&mut out, made.fields().len() as u32);
            out.extend_from_slice(made.fields());
        }
        let patches: Vec<u32> = made.far.iter().map(|&i| i as u32).collect();
        let segs = self.segs;
        write_patches::<F>(&mut out, &Source { segs, rows }, &mut [], &patches);
        Ok(out)
    }

    /// The classes that there are in a sample.
    #[inline(always)]
    fn sample<F: Format, I: Isa>(
        &self,
        isa: I,
        block: Block,
        n: usize,
        scale: Scale,
        tz: u32,
    ) -> Vec<Group> {
        let step = if n > SMALL * BLOCK {
            SAMPLE * BLOCK
        } else {
            BLOCK
        };
        let mut near = (F::MANT - tz).saturating_sub(3);
        loop {
            let mut groups: Vec<Group> =
                (0..CLASSES).map(|c| Group::new::<F>(c, tz, near)).collect();
            let mut reader = Walk::new::<F>(self, block);
            let (mut z, mut class, mut deep) = ([0u32; BLOCK], [0u8; BLOCK], 0);
            for start in (0..n).step_by(step) {
                let len = BLOCK.min(n - start);
                reader.take::<F, _>(isa, start, len);
                reader.codes::<F>(scale, &mut class[..len], &mut z[..len]);
                for (&z, &c) in z[..len].iter().zip(&class[..len]) {
                    let group = &mut groups[usize::from(c) & (CLASSES - 1)];
                    deep += usize::from(!group.add(z) && usize::from(c) < FAR);
                }
            }
            // Weights that have decayed lie many octaves below the others: with coarser symbols these
            // reach down to them.
            if near + tz < F::MANT && deep * 256 > n / (step / BLOCK) {
                near += 1;
                continue;
            }
            groups.retain(|g| g.count > 0);
            return groups;
        }
    }
}

/// Elements and predictions, block by block.
struct Walk<'a> {
    adopt: &'a Adopt<'a>,
    block: Block,
    predictions: Predictions,
    at: [Cursor; 2],
    mem: [u8; 4 * BLOCK],
}

impl<'a> Walk<'a> {
    fn new<F: Format>(adopt: &'a Adopt<'a>, block: Block) -> Self {
        Walk {
            adopt,
            block,
            predictions: Predictions::new(),
            at: [Cursor::default(); 2],
            mem: [0; 4 * BLOCK],
        }
    }

    #[inline(always)]
    fn take<F: Format, I: Isa>(&mut self, isa: I, start: usize, len: usize) {
        let (segs, run) = (self.adopt.segs, start..start + len);
        let out = &mut self.mem[..len * F::BYTES];
        let way = Conversion {
            source: F::DTYPE,
            dtype: F::DTYPE,
        };
        gather(isa, way, segs, |s| segs[s].mem, &run, &mut self.at[0], out);
        let priors = self.adopt.priors;
        self.predictions
            .take(isa, self.block, segs, priors, &run, &mut self.at[1]);
    }

    #[inline(always)]
    fn codes<F: Format>(&self, scale: Scale, class: &mut [u8], z: &mut [u32]) {
        self.predictions.classes(class);
        self.predictions
            .codes::<F>(scale, &self.mem[..z.len() * F::BYTES], z);
    }
}

/// Low bits that are zero in every element.
#[inline(always)]
fn trailing_zeros<F: Format>(segs: &[Segment<&[u8]>]) -> u32 {
    let (mut all, mut bits) = (0, [0u32; GROUP]);
    for mem in segs.iter().flat_map(|s| s.mem.chunks(GROUP * F::BYTES)) {
        let bits = &mut bits[..mem.len() / F::BYTES];
        load::<F>(mem, bits);
        all |= bits.iter().fold(0, |a, b| a | b);
        if all & 1 == 1 {
            return 0;
        }
    }
    (all | F::SIGN).trailing_zeros().min(F::MANT)
}

/// Adjacent classes with one context.
struct Group {
    first: usize,
    last: usize,
    width: u8,
    count: u64,
    counts: Vec<u32>,
    /// Bits for all of it but the table, in 1/256.
    cost: u64,
}

impl Group {
    fn new<F: Format>(class: usize, tz: u32, near: u32) -> Self {
        // A step has 2^(M - T) floats, or twice as many, where its exponent is the prediction's, half of
        // them on either side: some 32 to 64 symbols.
        let width = if class < FAR {
            near
        } else {
            (F::MANT - tz).saturating_sub((class - FAR) as u32 / 4 + 6)
        };
        Group {
            first: class,
            last: class,
            width: width.min(MAX_FIELD) as u8,
            count: 0,
            counts: vec![0; 256],
            cost: 0,
        }
    }

    /// Counts a code; says whether it has a symbol.
    fn add(&mut self, z: u32) -> bool {
        let w = z.wrapping_sub(1);
        let symbol = match z {
            0 => 0,
            _ => ((w >> 1 >> self.width << 1 | w & 1) as usize) + 1,
        };
        // Patches are as dear whatever the context.
        self.counts[if symbol > 255 { 0 } else { symbol }] += 1;
        self.count += 1;
        symbol < 256
    }

    /// Counts with at least so many raw bits.
    fn at_width(&self, width: u8) -> Vec<u32> {
        let mut out = vec![0; 256];
        for (s, &n) in self.counts.iter().enumerate() {
            let to = match s {
                0 => 0,
                _ => ((s - 1) >> 1 >> (width - self.width) << 1 | (s - 1) & 1) + 1,
            };
            out[to] += n;
        }
        out
    }

    fn with(&self, next: &Group, entry: u64) -> Group {
        let width = self.width.max(next.width);
        let mut counts = self.at_width(width);
        for (sum, n) in counts.iter_mut().zip(next.at_width(width)) {
            *sum += n;
        }
        let mut both = Group {
            first: self.first,
            last: next.last,
            width,
            count: self.count + next.count,
            counts,
            cost: 0,
        };
        both.price(entry);
        both
    }

    fn price(&mut self, entry: u64) {
        let raw = (self.count - u64::from(self.counts[0])) * u64::from(self.width) * 256;
        let listed = self.counts.iter().filter(|&&n| n > 0).count() as u64;
        self.cost = raw + entropy(self.counts.iter().copied()) + listed * entry;
    }
}

/// Merges neighbours, where that costs least first, until there are contexts for all and no table costs
/// more than it saves.
fn merge(groups: &mut Vec<Group>, entry: u64) {
    groups.iter_mut().for_each(|g| g.price(entry));
    let pair = |a: &Group, b: &Group| {
        let like = (a.first < FAR) == (b.first < FAR);
        if like {
            Some(a.with(b, entry))
        } else {
            None
        }
    };
    let mut pairs: Vec<Option<Group>> = groups.windows(2).map(|w| pair(&w[0], &w[1])).collect();
    loop {
        let loss = |i: usize| {
            let before = groups[i].cost + groups[i + 1].cost;
            pairs[i].as_ref().map(|p| p.cost as i64 - before as i64)
        };
        let best = (0..pairs.len()).filter_map(|i| Some((loss(i)?, i))).min();
        let (least, i) = match best {
            Some(best) => best,
            None => return,
        };
        if groups.len() <= MAX_CTX && least >= 0 {
            return;
        }
        if let Some(both) = pairs[i].take() {
            groups[i] = both;
        }
        groups.remove(i + 1);
        pairs.remove(i);
        if i > 0 {
            pairs[i - 1] = pair(&groups[i - 1], &groups[i]);
        }
        if i + 1 < groups.len() {
            pairs[i] = pair(&groups[i], &groups[i + 1]);
        }
    }
}
