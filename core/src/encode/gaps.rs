//! The encoder of updates of which few elements changed; the twin of `decode/gaps.rs`.

use crate::decode::gaps::{array, Head, LONG, MAX_GAP_FIELD, NONE};
use crate::encode::delta::{lowest, Delta};
use crate::encode::stream::encode_with;
use crate::encode::{header, write_patches, Source, SAMPLE};
use crate::entropy::encoder::{log2_q8, Slack};
use crate::entropy::table::MAX_CTX;
use crate::format::flat::Cursor;
use crate::format::float::Format;
use crate::format::header::KIND_GAPS;
use crate::format::rows::{Rows, BLOCK};
use crate::format::wire::put_varint;
use crate::kernels::scalar::delta::zigzag;
use crate::kernels::scalar::gaps::{GROUP, SPAN};
use crate::kernels::Isa;

/// One block in so many is looked at.
const STRIDE: usize = 16;
/// Chunks of fewer blocks are looked at as a whole.
const FEW: usize = 64;
/// Of so many elements at most one changed: else every element has a symbol.
const RARE: u64 = 12;

/// A class of which less than this part of all changes is may be one with a neighbour, if that costs
/// less than this part of a bit for each change.
const RARE_CLASS: u64 = 128;
const WORTH: i64 = 64;

/// What a sample of the blocks shows.
struct Look {
    elements: u64,
    changed: u64,
    /// Groups of elements, and those with a change.
    groups: u64,
    touched: u64,
    /// Changes too large for a symbol.
    far: u64,
    /// Changed elements by exponent, and a part of all elements.
    exponents: [u32; 256],
    all: [u32; 256],
    /// Any bit of any element.
    ones: u32,
}

impl Look {
    /// Whether changes are few, small, and not in a few places only.
    fn suits(&self) -> bool {
        let few = self.changed * RARE <= self.elements && self.ones & 1 == 1;
        // Groups that so many changes would hit at random, about: 1 - exp(-64 p).
        let hit = self.groups * 64 * self.changed / (self.elements + 32 * self.changed).max(1);
        few && self.far * 32 <= self.changed && 3 * self.touched >= 2 * hit.min(self.groups)
    }
}

/// The changes of a class.
#[derive(Default)]
struct Class {
    /// Elements so far.
    seen: u32,
    numbers: Vec<u32>,
    codes: Vec<u8>,
}

/// The payload, if it is one that this kind is made for.
#[inline(always)]
pub fn encode<F: Format, I: Isa>(isa: I, delta: &Delta, rows: &Rows, n: usize) -> Option<Vec<u8>> {
    if delta.source != delta.dtype {
        return None;
    }
    let look = look::<F, _>(isa, delta, n);
    if !look.suits() {
        return None;
    }
    let low = lowest(&look.exponents);
    let map = choose_classes(&look, low);
    let (classes, patches) = changes::<F, _>(isa, delta, low, &map, n);
    let mut out = header(KIND_GAPS, delta.dtype, rows);
    write::<I>(isa, &mut out, low, map, &classes);
    let source = Source {
        segs: delta.segs,
        rows,
    };
    write_patches::<F>(&mut out, &source, &mut [], &patches);
    Some(out)
}

#[inline(always)]
fn look<F: Format, I: Isa>(isa: I, delta: &Delta, n: usize) -> Look {
    let mut look = Look {
        elements: 0,
        changed: 0,
        groups: 0,
        touched: 0,
        far: 0,
        exponents: [0; 256],
        all: [0; 256],
        ones: 0,
    };
    let blocks = (n + BLOCK - 1) / BLOCK;
    let step = if blocks < FEW { 1 } else { STRIDE };
    let mut at = [Cursor::default(); 2];
    let (mut new, mut old) = ([0u8; 4 * BLOCK], [0u8; 4 * BLOCK]);
    let mut masks = [0u64; BLOCK / GROUP];
    for block in (0..blocks).step_by(step) {
        let run = block * BLOCK..n.min(block * BLOCK + BLOCK);
        let (new, old) = delta.bytes(isa, &run, &mut at, &mut new, &mut old);
        let masks = &mut masks[..(run.len() + GROUP - 1) / GROUP];
        isa.differing::<F>(new, old, masks);
        look.elements += run.len() as u64;
        look.groups += masks.len() as u64;
        look.ones |= new
            .chunks_exact(F::BYTES)
            .fold(0, |all, m| all | F::load(m, 0));
        for old in old.chunks_exact(F::BYTES).step_by(SAMPLE) {
            look.all[((F::load(old, 0) & F::MASK) >> F::MANT) as usize & 255] += 1;
        }
        look.touched += masks.iter().filter(|&&mask| mask != 0).count() as u64;
        for i in ones(masks) {
            look.changed += 1;
            let (a, b) = (F::load(new, i), F::load(old, i));
            look.exponents[((b & F::MASK) >> F::MANT) as usize & 255] += 1;
            look.far += u64::from(zigzag::<F>(a, b) > 255);
        }
    }
    look
}

/// Classes of contexts. Each class is counted in all elements, on both sides, so that neighbours of
/// which about the same part changed are one.
fn choose_classes(look: &Look, low: u8) -> [u8; MAX_CTX] {
    let mut classes: Vec<Share> = (0..MAX_CTX).map(|c| Share::of(look, low, c)).collect();
    while classes.len() > 1 {
        // Where more changed, codes differ, too: small weights change by more steps.
        let rare = |share: &Share| share.changed * RARE_CLASS <= look.changed;
        let loss = |p: &[Share]| p[0].with(&p[1]).cost() - p[0].cost() - p[1].cost();
        let pairs = classes.windows(2).enumerate();
        let pairs = pairs.filter(|(_, p)| rare(&p[0]) || rare(&p[1]));
        let least = pairs.map(|(i, p)| (loss(p), i)).min();
        let (loss, i) = match least {
            Some(least) => least,
            None => break,
        };
        if loss * WORTH > look.changed as i64 * 256 {
            break;
        }
        let next = classes.remove(i + 1);
        classes[i] = classes[i].with(&next);
    }
    let mut map = [0; MAX_CTX];
    for (number, class) in classes.iter().enumerate() {
        map[class.first..].fill(number as u8);
    }
    map
}

/// Contexts of one class.
struct Share {
    first: usize,
    elements: u64,
    changed: u64,
}

impl Share {
    /// A single context.
    fn of(look: &Look, low: u8, context: usize) -> Self {
        let low = usize::from(low);
        let first = if context == 0 { 0 } else { low + context };
        let last = context == MAX_CTX - 1;
        let end = if last { 256 } else { low + context + 1 };
        let sum = |counts: &[u32; 256]| -> u64 {
            let counts = counts.get(first..end.min(256)).unwrap_or(&[]);
            counts.iter().map(|&n| u64::from(n)).sum()
        };
        Share {
            first: context,
            elements: sum(&look.all) * SAMPLE as u64,
            changed: sum(&look.exponents),
        }
    }

    fn with(&self, next: &Share) -> Self {
        Share {
            first: self.first,
            elements: self.elements + next.elements,
            changed: self.changed + next.changed,
        }
    }

    /// What the places of its changes cost, about, in 1/256 bit.
    fn cost(&self) -> i64 {
        let ratio = (self.elements.max(self.changed).max(1) << 8) / self.changed.max(1);
        let bits = log2_q8(ratio.min(u64::from(u32::MAX)) as u32) - 8 * 256;
        self.changed as i64 * i64::from(bits)
    }
}

/// The changes by class, and the elements that have to travel whole.
#[inline(always)]
fn changes<F: Format, I: Isa>(
    isa: I,
    delta: &Delta,
    low: u8,
    map: &[u8; MAX_CTX],
    n: usize,
) -> (Vec<Class>, Vec<u32>) {
    let count = usize::from(map[MAX_CTX - 1]) + 1;
    let mut found = Found {
        classes: (0..count).map(|_| Class::default()).collect(),
        patches: Vec::new(),
    };
    let mut at = [Cursor::default(); 2];
    let (mut new, mut old) = ([0u8; 4 * BLOCK], [0u8; 4 * BLOCK]);
    let (mut ctx, mut differ) = ([NONE; BLOCK], [0u64; BLOCK / GROUP]);
    for start in (0..n).step_by(BLOCK) {
        let run = start..n.min(start + BLOCK);
        let (new, old) = delta.bytes(isa, &run, &mut at, &mut new, &mut old);
        ctx[run.len()..].fill(NONE);
        isa.delta_contexts::<F>(old, low, &mut ctx[..run.len()]);
        isa.map_contexts(map, &mut ctx[..run.len()]);
        differ.fill(0);
        isa.differing::<F>(new, old, &mut differ);
        for (s, differ) in differ.chunks_exact(SPAN / GROUP).enumerate() {
            let ctx = array(&ctx[s * SPAN..(s + 1) * SPAN]);
            let bytes = s * SPAN * F::BYTES;
            if start + s * SPAN < n {
                let (new, old) = (&new[bytes..], &old[bytes..]);
                found.span::<F, _>(isa, start + s * SPAN, ctx, differ, new, old);
            }
        }
    }
    (found.classes, found.patches)
}

struct Found {
    classes: Vec<Class>,
    patches: Vec<u32>,
}

impl Found {
    /// Takes the changes of a span, which begins at an element of the chunk.
    #[inline(always)]
    fn span<F: Format, I: Isa>(
        &mut self,
        isa: I,
        start: usize,
        ctx: &[u8; SPAN],
        differ: &[u64],
        new: &[u8],
        old: &[u8],
    ) {
        const GROUPS: usize = SPAN / GROUP;
        let hit = ones(differ).fold(0u32, |all, i| all | 1 << (ctx[i] & 15));
        // Of each class: its elements, and how many there are before each group.
        let (mut masks, mut before) = ([[0; GROUPS]; MAX_CTX], [[0; GROUPS]; MAX_CTX]);
        for (c, class) in self.classes.iter_mut().enumerate() {
            if hit >> c & 1 == 0 {
                class.seen += isa.class_count(ctx, c as u8);
                continue;
            }
            let groups = ctx.chunks_exact(GROUP).zip(masks[c].iter_mut());
            for ((group, mask), before) in groups.zip(before[c].iter_mut()) {
                *mask = isa.class_mask(array(group), c as u8);
                *before = class.seen;
                class.seen += mask.count_ones();
            }
        }
        for i in ones(differ) {
            let (c, group, bit) = (usize::from(ctx[i] & 15), i / GROUP, i % GROUP);
            let z = zigzag::<F>(F::load(new, i), F::load(old, i));
            if z > 255 {
                self.patches.push((start + i) as u32);
                continue;
            }
            let below = (masks[c][group] & ((1 << bit) - 1)).count_ones();
            self.classes[c].numbers.push(before[c][group] + below);
            self.classes[c].codes.push(z as u8);
        }
    }
}

/// Places of the bits that are set.
#[inline(always)]
fn ones(masks: &[u64]) -> impl Iterator<Item = usize> + '_ {
    masks.iter().enumerate().flat_map(|(g, &mask)| {
        let mut left = mask;
        core::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let bit = left.trailing_zeros() as usize;
            left &= left - 1;
            Some(g * GROUP + bit)
        })
    })
}

/// Raw bits below the symbols of gaps: about four steps are the mean.
fn gap_width(class: &Class) -> u8 {
    let mean = class.seen / class.numbers.len().max(1) as u32;
    let width = 31 - (mean / 3).max(1).leading_zeros();
    width.min(MAX_GAP_FIELD) as u8
}

fn write<I: Isa>(isa: I, out: &mut Vec<u8>, low: u8, map: [u8; MAX_CTX], classes: &[Class]) {
    let mut head = Head {
        low,
        map,
        counts: [0; MAX_CTX],
        widths: [0; MAX_CTX],
    };
    let (mut gaps, mut gap_ctx, mut fields) = (Vec::new(), Vec::new(), Fields::default());
    let (mut codes, mut code_ctx) = (Vec::new(), Vec::new());
    for (c, class) in classes.iter().enumerate() {
        let (before, w) = (gaps.len(), u32::from(gap_width(class)));
        let mut next = 0;
        for &number in &class.numbers {
            let mut gap = number - next;
            next = number + 1;
            while gap >> w >= u32::from(LONG) {
                gaps.push(LONG);
                gap -= u32::from(LONG) << w;
            }
            gaps.push((gap >> w) as u8);
            fields.put(gap & ((1 << w) - 1), w);
        }
        head.counts[c] = (gaps.len() - before) as u32;
        head.widths[c] = w as u8;
        gap_ctx.resize(gaps.len(), c as u8);
        codes.extend_from_slice(&class.codes);
        code_ctx.resize(codes.len(), c as u8);
    }
    head.write(out);
    if gaps.is_empty() {
        return;
    }
    encode_with(isa, out, &gaps, &gap_ctx, MAX_CTX, Slack::Share);
    let fields = fields.finish();
    put_varint(out, fields.len() as u32);
    out.extend_from_slice(&fields);
    encode_with(isa, out, &codes, &code_ctx, MAX_CTX, Slack::Share);
}

/// Bit fields, lowest bit first.
#[derive(Default)]
struct Fields {
    out: Vec<u8>,
    held: u64,
    count: u32,
}

impl Fields {
    #[inline(always)]
    fn put(&mut self, bits: u32, width: u32) {
        self.held |= u64::from(bits) << self.count;
        self.count += width;
        while self.count >= 8 {
            self.out.push(self.held as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.count > 0 {
            self.out.push(self.held as u8);
        }
        self.out
    }
}
