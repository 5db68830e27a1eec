//! Version updates of floats of which few changed (SPEC.md, "Gaps"): for each class of predictions, how
//! many elements of it stay as they are between two that change.
//!
//! The work is a count of classes, and some steps for each change; nothing is coded for the others.

use crate::entropy::rans::Stream;
use crate::entropy::table::MAX_CTX;
use crate::error::{Located, Place};
use crate::format::convert::Conversion;
use crate::format::flat::{bytes, check_sources, gather, scatter, Cursor, Prior};
use crate::format::float::Format;
use crate::format::header::{by_format, Dtype};
use crate::format::rows::{self, BLOCK};
use crate::format::wire::{all_read, Reader};
use crate::kernels::scalar::gaps::{GROUP, GROUPS, SPAN};
use crate::kernels::{Isa, Task};
use crate::Error;
use core::marker::PhantomData;

/// Symbol of a gap without an end: this many steps, and the next symbol goes on.
pub const LONG: u8 = 255;
/// No context: what is behind the last element.
pub const NONE: u8 = 255;
/// Widest field of a gap.
pub const MAX_GAP_FIELD: u32 = 20;

/// What holds for a whole chunk.
pub struct Head {
    /// Biased exponent of the first context and all below it; each further one is a context up to the
    /// last.
    pub low: u8,
    /// Classes of the contexts.
    pub map: [u8; MAX_CTX],
    /// Symbols of gaps, by class; 0: nothing of it changed.
    pub counts: [u32; MAX_CTX],
    /// Raw bits below a gap's symbol, by class.
    pub widths: [u8; MAX_CTX],
}

impl Head {
    fn read(r: &mut Reader, n: usize) -> Result<Self, Error> {
        let (low, mut map) = (r.u8()?, [0; MAX_CTX]);
        for (pair, b) in map.chunks_exact_mut(2).zip(r.bytes(MAX_CTX / 2)?) {
            pair.copy_from_slice(&[b & 15, b >> 4]);
        }
        let used = r.u16()?;
        let (mut counts, mut widths) = ([0; MAX_CTX], [0; MAX_CTX]);
        let classes = || (0..MAX_CTX).filter(|c| used >> c & 1 == 1);
        let mut all = 0u64;
        for c in classes() {
            counts[c] = r.varint()?;
            all += u64::from(counts[c]);
            if counts[c] == 0 {
                return Err(Error::Malformed);
            }
        }
        for c in classes() {
            widths[c] = r.u8()?;
        }
        // Each of them is at least one element.
        if all > n as u64 || widths.iter().any(|&w| u32::from(w) > MAX_GAP_FIELD) {
            return Err(Error::Malformed);
        }
        Ok(Head {
            low,
            map,
            counts,
            widths,
        })
    }

    #[cfg(feature = "encode")]
    pub fn write(&self, out: &mut Vec<u8>) {
        use crate::format::wire::put_varint;
        let used = |c: usize| u16::from(self.counts[c] > 0) << c;
        let used = (0..MAX_CTX).fold(0, |all, c| all | used(c));
        out.push(self.low);
        out.extend(self.map.chunks_exact(2).map(|p| p[0] | p[1] << 4));
        out.extend_from_slice(&used.to_le_bytes());
        self.counts
            .iter()
            .filter(|&&n| n > 0)
            .for_each(|&n| put_varint(out, n));
        let some = self.widths.iter().zip(&self.counts).filter(|(_, &n)| n > 0);
        out.extend(some.map(|(&w, _)| w));
    }
}

/// The changes of one class: numbers of its elements, ascending, and their codes.
struct Class {
    class: u8,
    /// The number of the next one; `usize::MAX` behind the last.
    next: usize,
    at: usize,
    end: usize,
    /// Elements of the class so far.
    seen: usize,
    /// Most spans have no change of it.
    rare: bool,
}

/// All changes of a chunk, class by class.
struct Changes {
    numbers: Vec<u32>,
    codes: Vec<u8>,
    classes: Vec<Class>,
}

impl Changes {
    #[inline(always)]
    fn read<I: Isa>(isa: I, r: &mut Reader, head: &Head, n: usize) -> Result<Self, Error> {
        let total = head.counts.iter().map(|&n| n as usize).sum();
        let gaps = symbols(isa, r, &head.counts, total)?;
        let size = r.varint().at(Place::RawFields)? as usize;
        let fields = r.bytes(size).at(Place::RawFields)?;
        let (mut numbers, mut ends) = (Vec::with_capacity(total), [0; MAX_CTX]);
        let (mut bit, mut rest) = (0, &gaps[..]);
        for c in 0..MAX_CTX {
            let (own, others) = rest.split_at(head.counts[c] as usize);
            rest = others;
            if own.last() == Some(&LONG) {
                return Err(Error::Malformed).at(Place::Symbols);
            }
            let (w, mut number) = (u32::from(head.widths[c]), 0u64);
            for &s in own {
                number += u64::from(s) << w;
                if s == LONG {
                    continue;
                }
                number += field(fields, bit, w);
                bit += w as usize;
                if number >= n as u64 {
                    return Err(Error::Malformed).at(Place::Symbols);
                }
                numbers.push(number as u32);
                number += 1;
            }
            ends[c] = numbers.len();
        }
        all_read(bit, fields).at(Place::RawFields)?;
        let mut counts = [0; MAX_CTX];
        let mut classes = Vec::new();
        for c in 0..MAX_CTX {
            let at = if c > 0 { ends[c - 1] } else { 0 };
            counts[c] = (ends[c] - at) as u32;
            if at < ends[c] {
                classes.push(Class {
                    class: c as u8,
                    next: numbers[at] as usize,
                    at,
                    end: ends[c],
                    seen: 0,
                    rare: (ends[c] - at) * SPAN < n,
                });
            }
        }
        let codes = symbols(isa, r, &counts, numbers.len())?;
        Ok(Changes {
            numbers,
            codes,
            classes,
        })
    }

    /// Changes a block of elements of these contexts.
    #[inline(always)]
    fn apply<F: Format, I: Isa>(&mut self, isa: I, ctx: &[u8; BLOCK], mem: &mut [u8]) {
        let (numbers, codes) = (&self.numbers[..], &self.codes[..]);
        for class in &mut self.classes {
            if class.rare {
                class.search::<F, _>(isa, numbers, codes, ctx, mem);
            } else {
                class.look_up::<F, _>(isa, numbers, codes, ctx, mem);
            }
        }
    }
}

impl Class {
    /// Applies the next change, to an element of a block.
    #[inline(always)]
    fn change<F: Format>(&mut self, numbers: &[u32], codes: &[u8], mem: &mut [u8], i: usize) {
        F::store(mem, i, changed::<F>(F::load(mem, i), codes[self.at]));
        self.at += 1;
        self.next = usize::MAX;
        if self.at < self.end {
            self.next = numbers[self.at] as usize;
        }
    }

    /// Finds the changes in a block where hardly a span has one: most are only counted.
    #[inline(always)]
    fn search<F: Format, I: Isa>(
        &mut self,
        isa: I,
        numbers: &[u32],
        codes: &[u8],
        ctx: &[u8; BLOCK],
        mem: &mut [u8],
    ) {
        for (s, span) in ctx.chunks_exact(SPAN).enumerate() {
            let end = self.seen + isa.class_count(array(span), self.class) as usize;
            if self.next < end {
                let mut seen = self.seen;
                for (g, group) in span.chunks_exact(GROUP).enumerate() {
                    let mask = isa.class_mask(array(group), self.class);
                    let end = seen + mask.count_ones() as usize;
                    while self.next < end {
                        let i = nth_one(mask, (self.next - seen) as u32);
                        self.change::<F>(numbers, codes, mem, s * SPAN + g * GROUP + i);
                    }
                    seen = end;
                }
            }
            self.seen = end;
        }
    }

    /// Finds the changes in a block where there are several: all groups are counted, so that nothing
    /// but the number of changes has to be guessed by the processor.
    #[inline(always)]
    fn look_up<F: Format, I: Isa>(
        &mut self,
        isa: I,
        numbers: &[u32],
        codes: &[u8],
        ctx: &[u8; BLOCK],
        mem: &mut [u8],
    ) {
        let (mut masks, mut ends) = ([0u64; GROUPS], [0i16; GROUPS]);
        let mut sum = 0;
        let groups = ctx.chunks_exact(GROUP).zip(masks.iter_mut());
        for ((group, mask), end) in groups.zip(&mut ends) {
            *mask = isa.class_mask(array(group), self.class);
            sum += mask.count_ones() as i16;
            *end = sum;
        }
        let end = self.seen + sum as usize;
        while self.next < end {
            let k = (self.next - self.seen) as i16;
            let g = isa.ended(&ends, k) & (GROUPS - 1);
            let before = if g > 0 { ends[g - 1] } else { 0 };
            let i = nth_one(masks[g], (k - before) as u32);
            self.change::<F>(numbers, codes, mem, g * GROUP + i);
        }
        self.seen = end;
    }
}

/// A slice of the length that it has.
#[inline(always)]
pub fn array<const N: usize>(bytes: &[u8]) -> &[u8; N] {
    bytes.try_into().unwrap_or(&[0; N])
}

/// The symbols of a stream whose contexts come one after the other.
#[inline(always)]
fn symbols<I: Isa>(
    isa: I,
    r: &mut Reader,
    counts: &[u32; MAX_CTX],
    total: usize,
) -> Result<Vec<u8>, Error> {
    let mut stream = Stream::open(r, MAX_CTX).at(Place::Symbols)?;
    let mut ctx = Vec::with_capacity(total);
    for (c, &n) in counts.iter().enumerate() {
        ctx.resize(ctx.len() + n as usize, c as u8);
    }
    let mut out = vec![0; total];
    for (ctx, out) in ctx.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
        isa.decode_symbols(&mut stream, ctx, out)
            .at(Place::Symbols)?;
    }
    stream.finish().at(Place::Symbols)?;
    Ok(out)
}

/// A field of at most [`MAX_GAP_FIELD`] bits; zeros behind the end.
#[inline(always)]
fn field(buf: &[u8], bit: usize, width: u32) -> u64 {
    let at = bit >> 3;
    let word = match buf.get(at..at + 8).map(<[u8; 8]>::try_from) {
        Some(Ok(bytes)) => u64::from_le_bytes(bytes),
        _ => {
            let (mut bytes, rest) = ([0u8; 8], buf.get(at..).unwrap_or(&[]));
            let n = rest.len().min(8);
            bytes[..n].copy_from_slice(&rest[..n]);
            u64::from_le_bytes(bytes)
        }
    };
    word >> (bit & 7) & ((1 << width) - 1)
}

/// The place of the one bit of `mask` that has `n` others below it.
#[inline(always)]
fn nth_one(mask: u64, n: u32) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x80 * ONES;
    // Ones of each byte and all below it.
    let pairs = mask - ((mask >> 1) & (0x55 * ONES));
    let fours = (pairs & (0x33 * ONES)) + ((pairs >> 2) & (0x33 * ONES));
    let sums = ((fours + (fours >> 4)) & (0x0f * ONES)).wrapping_mul(ONES);
    // Bytes that end before the bit.
    let before = ((((u64::from(n) * ONES) | TOPS) - sums) & TOPS).count_ones() & 7;
    let below = (sums << 8 >> (8 * before)) as u8;
    let byte = (mask >> (8 * before)) as u8;
    let nth = (n as u8).wrapping_sub(below) & 7;
    8 * before as usize + usize::from(NTH_ONE[usize::from(byte)][usize::from(nth)])
}

/// The place of the `n`-th one bit of each byte.
static NTH_ONE: [[u8; 8]; 256] = nth_ones();

const fn nth_ones() -> [[u8; 8]; 256] {
    let mut out = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut n) = (0, 0);
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                out[byte][n] = bit as u8;
                n += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    out
}

/// An element with the difference of a zigzag code, as ordered integers.
#[inline(always)]
fn changed<F: Format>(bits: u32, code: u8) -> u32 {
    let up = 32 - 8 * F::BYTES as u32;
    let flip = |x: u32| x as i32 ^ ((x as i32 >> 31) & 0x7fff_ffff);
    let d = i32::from(code >> 1) ^ -i32::from(code & 1);
    let o = flip(bits << up) >> up;
    let o = (o.wrapping_add(d) << up) as u32;
    // Bits below an element of two bytes are inverted, too, and drop out.
    flip(o) as u32 >> up
}

/// Decodes a chunk after its numbers of rows and elements.
pub fn decode<I: Isa>(
    isa: I,
    dtype: Dtype,
    r: &mut Reader,
    n: usize,
    segs: &mut [rows::Target],
    sources: &[Prior],
) -> Result<(), Error> {
    check_sources(segs, sources, dtype.bytes(), true)?;
    let head = Head::read(r, n).at(Place::Header)?;
    let changes = if head.counts.iter().all(|&n| n == 0) {
        None
    } else {
        Some(Changes::read(isa, r, &head, n)?)
    };
    by_format!(dtype, F => isa.enter(Walk::<F> {
        low: head.low,
        map: head.map,
        changes,
        n,
        segs,
        sources,
        format: PhantomData,
    }))?;
    crate::decode::patches::read_patches(r, dtype.bytes(), n, segs).at(Place::Patches)
}

/// The walk over all elements.
struct Walk<'a, 'm, 's, F> {
    low: u8,
    map: [u8; MAX_CTX],
    changes: Option<Changes>,
    n: usize,
    segs: &'a mut [rows::Target<'m>],
    sources: &'a [Prior<'s>],
    format: PhantomData<F>,
}

impl<F: Format> Task for Walk<'_, '_, '_, F> {
    type Out = Result<(), Error>;
    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) -> Self::Out {
        let way = Conversion {
            source: F::DTYPE,
            dtype: F::DTYPE,
        };
        let beside = self.sources.iter().any(Option::is_some);
        let mut to = Cursor::default();
        let (mut mem, mut ctx) = ([0u8; 4 * BLOCK], [NONE; BLOCK]);
        if !beside && self.changes.is_none() {
            return Ok(());
        }
        for start in (0..self.n).step_by(BLOCK) {
            let run = start..self.n.min(start + BLOCK);
            if let Some(part) = to.whole(self.segs, &run) {
                let range = bytes(&part.inner, F::BYTES);
                let own = &mut self.segs[part.seg].mem[range.clone()];
                if let Some(source) = self.sources[part.seg] {
                    own.copy_from_slice(&source[range]);
                }
                Self::block(isa, &mut self.changes, self.low, &self.map, &mut ctx, own);
                continue;
            }
            let mem = &mut mem[..run.len() * F::BYTES];
            let own = |s: usize| self.sources[s].unwrap_or(&*self.segs[s].mem);
            let mut from = to;
            gather(isa, way, self.segs, own, &run, &mut from, mem);
            Self::block(isa, &mut self.changes, self.low, &self.map, &mut ctx, mem);
            scatter(self.segs, F::BYTES, &run, &mut to, mem);
        }
        let done = |changes: &Changes| changes.classes.iter().all(|c| c.at == c.end);
        if self.changes.as_ref().map_or(true, done) {
            Ok(())
        } else {
            Err(Error::Malformed).at(Place::Symbols)
        }
    }
}

impl<F: Format> Walk<'_, '_, '_, F> {
    /// Changes a block of elements.
    #[inline(always)]
    fn block<I: Isa>(
        isa: I,
        changes: &mut Option<Changes>,
        low: u8,
        map: &[u8; MAX_CTX],
        ctx: &mut [u8; BLOCK],
        mem: &mut [u8],
    ) {
        if let Some(changes) = changes {
            let n = mem.len() / F::BYTES;
            ctx[n..].fill(NONE);
            isa.delta_contexts::<F>(mem, low, &mut ctx[..n]);
            isa.map_contexts(map, &mut ctx[..n]);
            changes.apply::<F, _>(isa, ctx, mem);
        }
    }
}
