//! The decoder of one refinement: blocks of elements, each in a few passes while it is in cache.

use super::base::check_exponents;
use super::ints::read_ints;
use crate::entropy::rans::Stream;
use crate::error::{Located, Place};
use crate::format::float::Format;
use crate::format::refine::Head;
use crate::format::rows::{Piece, Rows, Target, BLOCK};
use crate::format::runs::Run;
use crate::format::wire::Reader;
use crate::kernels::scalar::bins::{self, COARSE_CONTEXTS, SHIFT_CONTEXTS};
use crate::kernels::scalar::cells::{guess_step, sink, Fraction, Halving, Narrowing};
use crate::kernels::Isa;
use crate::Error;
use block::{spread, Block};

pub mod block;
pub mod straight;

/// Symbols of rare elements, all at once: where these elements are follows from the states.
pub struct Rare {
    symbols: Vec<u8>,
    next: usize,
}

impl Rare {
    /// At most `n` symbols of one context, their count in front.
    fn read<I: Isa>(isa: I, r: &mut Reader, there: bool, n: usize) -> Result<Self, Error> {
        let count = if there { r.varint()? as usize } else { 0 };
        if count > n {
            return Err(Error::Malformed);
        }
        let mut symbols = vec![0; count];
        if count > 0 {
            let mut stream = Stream::open(r, 1)?;
            for part in symbols.chunks_mut(BLOCK) {
                isa.decode_symbols(&mut stream, &[0; BLOCK][..part.len()], part)?;
            }
            stream.finish()?;
        }
        Ok(Rare { symbols, next: 0 })
    }
    #[inline(always)]
    fn take(&mut self, n: usize) -> Result<&[u8], Error> {
        let at = self.next;
        self.next += n;
        self.symbols.get(at..at + n).ok_or(Error::Truncated)
    }
    fn end(&self) -> Result<(), Error> {
        if self.next == self.symbols.len() {
            Ok(())
        } else {
            Err(Error::Malformed)
        }
    }
}

/// The parts of a refinement, each as far as it is read.
struct Parts<'a> {
    head: Head,
    e: Vec<i16>,
    tz: Vec<i16>,
    shifts: Option<Stream<'a>>,
    zeros: Rare,
    coarse: Option<Stream<'a>>,
    octaves: Rare,
    positions: Run<'a>,
    finer: Run<'a>,
    low: Run<'a>,
    /// Width of the low plane in the row before.
    low_width: u32,
    upper: Run<'a>,
}

/// The base's step exponents: what the previous bytes suggest, and the differences to it.
pub fn read_steps<F: Format>(
    r: &mut Reader,
    head: &Head,
    rows: &Rows,
    segs: &[Target],
) -> Result<Vec<i16>, Error> {
    let mut e = read_ints(r, rows.count()).at(Place::Exponents)?;
    for (row, e) in e.iter_mut().enumerate() {
        let (seg, bytes) = rows.bytes(row, rows.range(row), F::BYTES);
        *e = e.wrapping_add(guess_step::<F>(&segs[seg].mem[bytes], head.from));
    }
    check_exponents(F::DTYPE, &e).at(Place::Exponents)?;
    Ok(e)
}

impl<'a> Parts<'a> {
    #[inline(always)]
    fn read<F: Format, I: Isa>(
        isa: I,
        r: &mut Reader<'a>,
        head: Head,
        e: Vec<i16>,
        n: usize,
    ) -> Result<Self, Error> {
        let tz = if head.exact {
            read_ints(r, e.len()).at(Place::TrailingZeros)?
        } else {
            Vec::new()
        };
        if tz.iter().any(|&t| !(0..=F::MANT as i16).contains(&t)) {
            return Err(Error::Malformed).at(Place::TrailingZeros);
        }
        let shifts = open_if(r, head.shifted, SHIFT_CONTEXTS).at(Place::Shifts)?;
        let zeros = Rare::read(isa, r, head.sparse && head.from == 0, n).at(Place::Zeros)?;
        let coarse = open_if(r, head.coarse, COARSE_CONTEXTS).at(Place::Coarse)?;
        Ok(Parts {
            head,
            e,
            tz,
            shifts,
            zeros,
            coarse,
            octaves: Rare::read(isa, r, head.exact, n).at(Place::Octaves)?,
            positions: Run::open(r, head.from == 0).at(Place::Positions)?,
            finer: Run::open(r, head.to > head.mid).at(Place::FinerPositions)?,
            low: Run::open(r, head.exact && F::LOW > 0).at(Place::LowPlane)?,
            low_width: 0,
            upper: Run::open(r, head.exact).at(Place::UpperFields)?,
        })
    }

    /// From the base's bins, if these are at hand, to cells.
    #[inline(always)]
    fn bins<F: Format, I: Isa>(
        &mut self,
        isa: I,
        b: &mut Block,
        segs: &mut [Target],
    ) -> Result<(), Error> {
        if self.shifts.is_some() {
            self.shift::<F, _>(isa, b, segs).at(Place::Shifts)?;
        }
        if self.head.sparse {
            self.find_absent::<F>(b, segs).at(Place::Zeros)?;
        }
        if self.head.from == 0 {
            self.halve::<F, _>(isa, b, segs).at(Place::Positions)?;
        }
        Ok(())
    }

    /// What comes behind the positions.
    #[inline(always)]
    fn beyond<F: Format, I: Isa>(
        &mut self,
        isa: I,
        b: &mut Block,
        segs: &mut [Target],
    ) -> Result<(), Error> {
        if self.head.to > self.head.mid {
            self.narrow::<F, _>(isa, b, segs)
                .at(Place::FinerPositions)?;
        }
        if self.head.exact {
            self.fill::<F, _>(isa, b, segs).at(Place::UpperFields)?;
        }
        Ok(())
    }

    fn shift<F: Format, I: Isa>(
        &mut self,
        isa: I,
        b: &mut Block,
        segs: &mut [Target],
    ) -> Result<(), Error> {
        let stream = match &mut self.shifts {
            Some(stream) => stream,
            None => return Ok(()),
        };
        for p in &b.pieces {
            let e = i32::from(self.e[p.row]);
            bins::shift_contexts::<F>(p.bytes(segs), e, &mut b.ctx[p.range()]);
        }
        isa.decode_symbols(stream, &b.ctx[..b.len], &mut b.sym[..b.len])?;
        for p in &b.pieces {
            let e = i32::from(self.e[p.row]);
            bins::shift::<F>(p.bytes_mut(segs), e, &b.sym[p.range()]);
        }
        Ok(())
    }

    /// Finds the exact zeros of a sparse chunk.
    fn find_absent<F: Format>(&mut self, b: &mut Block, segs: &mut [Target]) -> Result<(), Error> {
        for p in &b.pieces {
            let (mem, absent) = (p.bytes_mut(segs), &mut b.absent[p.range()]);
            for (i, absent) in absent.iter_mut().enumerate() {
                let zero = F::load(mem, i) & F::MASK == 0;
                *absent = match (zero, self.head.from) {
                    (false, _) => 0,
                    (true, 0) => self.zeros.take(1)?[0],
                    (true, _) => 1,
                };
                if *absent > 2 {
                    return Err(Error::Malformed);
                }
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn halve<F: Format, I: Isa>(
        &mut self,
        isa: I,
        b: &mut Block,
        segs: &mut [Target],
    ) -> Result<(), Error> {
        self.take_positions(isa, b)?;
        if self.coarse.is_some() {
            for p in &b.pieces {
                let e = i32::from(self.e[p.row]);
                bins::coarse_contexts::<F>(p.bytes(segs), e, &mut b.ctx[p.range()]);
            }
            if self.head.sparse {
                bins::without(&b.absent[..b.len], &mut b.ctx[..b.len]);
            }
            self.take_coarse(isa, b).at(Place::Coarse)?;
        }
        for p in &b.pieces {
            let row = Halving::new::<F>(&self.head, i32::from(self.e[p.row]));
            let (mem, positions) = (p.bytes_mut(segs), &b.positions[p.range()]);
            isa.halve::<F>(mem, positions, &row);
            if self.head.sparse {
                zero::<F>(p.bytes_mut(segs), &b.absent[p.range()]);
            }
        }
        Ok(())
    }

    /// The plain parts of a block's positions.
    #[inline(always)]
    fn take_positions<I: Isa>(&mut self, isa: I, b: &mut Block) -> Result<(), Error> {
        let (plain, n) = (self.head.plain(), b.len);
        let present = b.present(self.head.sparse, 0..n);
        self.positions.has(present * plain as usize)?;
        isa.unpack(
            self.positions.buf,
            self.positions.bit,
            plain,
            &mut b.positions[..present],
        );
        self.positions.bit += present * plain as usize;
        if self.head.sparse {
            spread(&mut b.positions[..n], present, &b.absent[..n]);
        }
        Ok(())
    }

    /// The coarse parts, by the contexts of the block.
    #[inline(always)]
    fn take_coarse<I: Isa>(&mut self, isa: I, b: &mut Block) -> Result<(), Error> {
        if let Some(stream) = &mut self.coarse {
            isa.decode_symbols(stream, &b.ctx[..b.len], &mut b.sym[..b.len])?;
            let plain = self.head.plain();
            for (f, &s) in b.positions[..b.len].iter_mut().zip(&b.sym) {
                *f |= (s & 3) << plain;
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn narrow<F: Format, I: Isa>(
        &mut self,
        isa: I,
        b: &mut Block,
        segs: &mut [Target],
    ) -> Result<(), Error> {
        for p in &b.pieces {
            let row = Narrowing::new::<F>(&self.head, i32::from(self.e[p.row]));
            isa.finer_widths::<F>(p.bytes(segs), &row, &mut b.masks[p.range()]);
        }
        let (masks, positions) = (&b.masks[..b.len], &mut b.positions[..b.len]);
        self.finer
            .with(|buf, bit| isa.scatter(buf, bit, masks, positions))?;
        for p in &b.pieces {
            let row = Narrowing::new::<F>(&self.head, i32::from(self.e[p.row]));
            let (masks, positions) = (&b.masks[p.range()], &b.positions[p.range()]);
            isa.narrow::<F>(p.bytes_mut(segs), masks, positions, &row);
        }
        Ok(())
    }

    #[inline(always)]
    fn fill<F: Format, I: Isa>(
        &mut self,
        isa: I,
        b: &mut Block,
        segs: &mut [Target],
    ) -> Result<(), Error> {
        b.deep.len = 0;
        for p in &b.pieces {
            let (mem, row) = (p.bytes(segs), self.fraction::<F>(p));
            isa.widths::<F>(mem, &row, &mut b.masks[p.range()], &mut b.deep, p.from);
        }
        let (masks, fields) = (&b.masks[..b.len], &mut b.fields[..b.len]);
        self.upper
            .with(|buf, bit| isa.scatter(buf, bit, masks, fields))?;
        if F::LOW > 0 {
            self.take_low::<F, _>(isa, b).at(Place::LowPlane)?;
        }
        for p in &b.pieces {
            let (row, mem, at) = (self.fraction::<F>(p), p.bytes_mut(segs), p.range());
            let (masks, fields) = (&b.masks[at.clone()], &b.fields[at.clone()]);
            isa.fill::<F>(mem, masks, fields, &b.low[at], &row);
        }
        let octaves = self.octaves.take(b.deep.len).at(Place::Octaves)?;
        let mut done = 0;
        for p in &b.pieces {
            let end = b.deep.end(done, p.to);
            let (list, octaves) = (&b.deep.list[done..end], &octaves[done..end]);
            sink::<F>(p.bytes_mut(segs), p.from, list, octaves);
            done = end;
        }
        Ok(())
    }

    #[inline(always)]
    fn fraction<F: Format>(&self, p: &Piece) -> Fraction {
        Fraction::new::<F>(&self.head, i32::from(self.e[p.row]), self.tz[p.row] as u32)
    }

    /// The low plane of a block, row by row or as far as rows have one width.
    #[inline(always)]
    fn take_low<F: Format, I: Isa>(&mut self, isa: I, b: &mut Block) -> Result<(), Error> {
        let mut next = 0;
        while next < b.pieces.len() {
            let width = self.fraction::<F>(&b.pieces[next]).low::<F>();
            let from = b.pieces[next].from;
            while next < b.pieces.len() && self.fraction::<F>(&b.pieces[next]).low::<F>() == width {
                next += 1;
            }
            let at = from..b.pieces[next - 1].to;
            if width != self.low_width {
                self.low.align();
                self.low_width = width;
            }
            let present = b.present(self.head.sparse, at.clone());
            let (low, bits) = (&mut b.low[at.clone()], present * width as usize);
            self.low.has(bits)?;
            isa.unpack_low(self.low.buf, self.low.bit, width, &mut low[..present]);
            self.low.bit += bits;
            if self.head.sparse {
                spread(low, present, &b.absent[at]);
            }
        }
        Ok(())
    }

    fn end(&self) -> Result<(), Error> {
        let finish = |s: &Option<Stream>| s.as_ref().map_or(Ok(()), Stream::finish);
        finish(&self.shifts).at(Place::Shifts)?;
        finish(&self.coarse).at(Place::Coarse)?;
        self.zeros.end().at(Place::Zeros)?;
        self.octaves.end().at(Place::Octaves)?;
        self.positions.end().at(Place::Positions)?;
        self.finer.end().at(Place::FinerPositions)?;
        self.low.end().at(Place::LowPlane)?;
        self.upper.end().at(Place::UpperFields)
    }
}

fn open_if<'a>(
    r: &mut Reader<'a>,
    there: bool,
    contexts: usize,
) -> Result<Option<Stream<'a>>, Error> {
    if there {
        Stream::open(r, contexts).map(Some)
    } else {
        Ok(None)
    }
}

/// Puts exact zeros back.
fn zero<F: Format>(mem: &mut [u8], absent: &[u8]) {
    for (i, &a) in absent.iter().enumerate().filter(|(_, &a)| a > 0) {
        F::store(mem, i, if a == 1 { 0 } else { F::SIGN });
    }
}
