//! Version updates of floats (SPEC.md, "Delta"): the difference of ordered integers between an element
//! and its prediction, in the context of the prediction's exponent.
//!
//! A bitmap says which blocks of elements differ at all; only these have symbols.

use crate::decode::fields::Fields;
use crate::decode::opaque::{CODED, CONSTANT, STORED};
use crate::decode::patches::read_patches;
use crate::entropy::rans::Stream;
use crate::entropy::table::MAX_CTX;
use crate::format::convert::Conversion;
use crate::format::flat::{check_sources, copy, gather, scatter, Cursor, Prior};
use crate::format::header::{by_format, Dtype};
use crate::format::rows::{self, BLOCK};
use crate::format::wire::Reader;
use crate::kernels::Isa;
use crate::Error;
use core::ops::Range;

/// Logarithm of the elements of one bit of the bitmap.
pub const MIN_BLOCK: u32 = 6;
pub const MAX_BLOCK: u32 = 12;
/// Widest raw field: 255 symbols of it fit 32 bits.
pub const MAX_FIELD: u32 = 24;

/// What holds for a whole chunk.
pub struct Head {
    pub source: Dtype,
    /// Biased exponent of context 0 and all below it; each further one is a context up to the last.
    pub low: u8,
    /// Low bits that are zero in every element.
    pub tz: u32,
    pub block: u32,
    /// Raw bits below the symbol, by context.
    pub widths: [u8; MAX_CTX],
}

impl Head {
    fn read(r: &mut Reader, dtype: Dtype) -> Result<Self, Error> {
        let source = match Dtype::from_code(u32::from(r.u8()?)) {
            Ok(Dtype::Opaque) | Err(_) => return Err(Error::Malformed),
            Ok(dtype) => dtype,
        };
        let (low, tz, block) = (r.u8()?, u32::from(r.u8()?), u32::from(r.u8()?));
        let used = r.u16()?;
        let mut widths = [0; MAX_CTX];
        for (c, w) in widths.iter_mut().enumerate() {
            if used >> c & 1 == 1 {
                *w = r.u8()?;
            }
        }
        let bad = tz > dtype.mantissa()
            || !(MIN_BLOCK..=MAX_BLOCK).contains(&block)
            || widths.iter().any(|&w| u32::from(w) > MAX_FIELD);
        if bad {
            return Err(Error::Malformed);
        }
        Ok(Head {
            source,
            low,
            tz,
            block,
            widths,
        })
    }

    #[cfg(feature = "encode")]
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.source as u8, self.low, self.tz as u8, self.block as u8]);
        let used = |c: usize| u16::from(self.widths[c] > 0) << c;
        let used = (0..MAX_CTX).fold(0, |all, c| all | used(c));
        out.extend_from_slice(&used.to_le_bytes());
        out.extend(self.widths.iter().filter(|&&w| w > 0));
    }

    pub fn raw(&self) -> bool {
        self.widths.iter().any(|&w| w > 0)
    }
}

/// Bits of blocks, eight a byte: constant, stored or coded.
fn read_bitmap<I: Isa>(isa: I, r: &mut Reader, blocks: usize) -> Result<Vec<u8>, Error> {
    let size = (blocks + 7) / 8;
    match r.u8()? {
        CONSTANT => Ok(vec![r.u8()?; size]),
        STORED => Ok(r.bytes(size)?.to_vec()),
        CODED => {
            let mut stream = Stream::open(r, 1)?;
            let mut out = vec![0; size];
            let ctx = [0u8; BLOCK];
            for block in out.chunks_mut(BLOCK) {
                isa.decode_symbols(&mut stream, &ctx[..block.len()], block)?;
            }
            stream.finish()?;
            Ok(out)
        }
        _ => Err(Error::Malformed),
    }
}

/// Runs of elements that have symbols, as many as a batch holds; the others are only copied.
struct Runs<'a> {
    bitmap: &'a [u8],
    block: u32,
    n: usize,
    at: usize,
}

impl Runs<'_> {
    /// The next run of elements in blocks that are all coded or all not, at most `most`.
    #[inline(always)]
    fn next(&mut self, most: usize) -> Option<(bool, Range<usize>)> {
        if self.at >= self.n {
            return None;
        }
        let bit = |at: usize| {
            let b = at >> self.block;
            self.bitmap[b >> 3] >> (b & 7) & 1 == 1
        };
        let (start, coded) = (self.at, bit(self.at));
        let most = if coded {
            most.min(self.n - start)
        } else {
            self.n - start
        };
        let mut end = start;
        while end - start < most && bit(end) == coded {
            end = (end | ((1 << self.block) - 1)) + 1;
        }
        self.at = end.min(start + most);
        Some((coded, start..self.at))
    }
}

/// Decodes a chunk after its numbers of rows and elements.
#[inline(always)]
pub fn decode<I: Isa>(
    isa: I,
    dtype: Dtype,
    r: &mut Reader,
    n: usize,
    segs: &mut [rows::Target],
    sources: &[Prior],
) -> Result<(), Error> {
    let (head, item) = (&Head::read(r, dtype)?, dtype.bytes());
    let way = Conversion {
        source: head.source,
        dtype,
    };
    check_sources(segs, sources, way.source.bytes(), way.source == way.dtype)?;
    let beside = sources.iter().any(Option::is_some);
    let bitmap = read_bitmap(isa, r, ((n - 1) >> head.block) + 1)?;
    let mut runs = Runs {
        bitmap: &bitmap,
        block: head.block,
        n,
        at: 0,
    };
    let any = (0..n).step_by(1 << head.block).any(|i| {
        let b = i >> head.block;
        bitmap[b >> 3] >> (b & 7) & 1 == 1
    });
    let mut stream = if any {
        Some(Stream::open(r, MAX_CTX)?)
    } else {
        None
    };
    let size = if any && head.raw() { r.varint()? } else { 0 };
    let mut fields = Fields::new(r.bytes(size as usize)?);

    let (mut from, mut to) = (Cursor::default(), Cursor::default());
    let mut batch = Batch::new();
    loop {
        let next = runs.next(BLOCK - batch.len);
        if let Some((coded, run)) = &next {
            if *coded {
                let out = &mut batch.mem[batch.len * item..][..run.len() * item];
                let mem = |s: usize| sources[s].unwrap_or(&*segs[s].mem);
                gather(isa, way, segs, mem, run, &mut from, out);
                batch.len += run.len();
                batch.runs.push(run.clone());
            } else if beside {
                copy(isa, way, segs, sources, run, &mut from);
            }
        }
        if batch.len == BLOCK || (next.is_none() && batch.len > 0) {
            if let Some(stream) = &mut stream {
                batch.decode(isa, dtype, head, stream, &mut fields)?;
            }
            batch.scatter(segs, item, &mut to);
        }
        if next.is_none() {
            break;
        }
    }
    if let Some(stream) = stream {
        stream.finish()?;
    }
    fields.finish()?;
    read_patches(r, item, n, segs)
}

/// Elements that are decoded together.
struct Batch {
    len: usize,
    runs: Vec<Range<usize>>,
    /// Predictions, then the elements.
    mem: [u8; 4 * BLOCK],
    ctx: [u8; BLOCK],
    sym: [u8; BLOCK],
    z: [u32; BLOCK],
}

impl Batch {
    fn new() -> Self {
        Batch {
            len: 0,
            runs: Vec::new(),
            mem: [0; 4 * BLOCK],
            ctx: [0; BLOCK],
            sym: [0; BLOCK],
            z: [0; BLOCK],
        }
    }

    #[inline(always)]
    fn decode<I: Isa>(
        &mut self,
        isa: I,
        dtype: Dtype,
        head: &Head,
        stream: &mut Stream,
        fields: &mut Fields,
    ) -> Result<(), Error> {
        let mem = &mut self.mem[..self.len * dtype.bytes()];
        let (ctx, sym) = (&mut self.ctx[..self.len], &mut self.sym[..self.len]);
        by_format!(dtype, F => isa.delta_contexts::<F>(mem, head.low, ctx));
        isa.decode_symbols(stream, ctx, sym)?;
        let z = &mut self.z[..sym.len()];
        if head.raw() {
            fields.take::<_, false>(isa, &head.widths, ctx, sym, z)?;
        }
        let z = if head.raw() { Some(&*z) } else { None };
        by_format!(dtype, F => isa.delta_combine::<F>(mem, sym, z, head.tz));
        Ok(())
    }

    #[inline(always)]
    fn scatter(&mut self, segs: &mut [rows::Target], item: usize, at: &mut Cursor) {
        let mut done = 0;
        for run in self.runs.drain(..) {
            let from = &self.mem[done * item..][..run.len() * item];
            scatter(segs, item, &run, at, from);
            done += run.len();
        }
        self.len = 0;
    }
}
