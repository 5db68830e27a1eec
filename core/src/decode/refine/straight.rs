//! Refinements, and a base before them, in one go: all levels of a block while it is in cache.

use super::block::Block;
use super::Parts;
use crate::decode::base::Base;
use crate::decode::ints::read_ints;
use crate::decode::patches::Patches;
use crate::error::{Located, Place};
use crate::format::float::{pow2, Format};
use crate::format::header::{KIND_BASE, KIND_REFINE};
use crate::format::refine::Head;
use crate::format::rows::{Piece, Rows, Target, BLOCK};
use crate::format::wire::Reader;
use crate::kernels::scalar::bins::{coarse_contexts, coarse_contexts_of};
use crate::kernels::scalar::cells::{guess, halve, look, lowest_unit, Halving};
use crate::kernels::{Isa, Task};
use crate::Error;
use core::marker::PhantomData;

/// A base, if there is one, and refinements of one format.
struct Chain<'a, 'r, 'm, F> {
    start: Option<Start<'a>>,
    levels: Vec<Level<'a>>,
    rows: &'r Rows,
    segs: &'r mut [Target<'m>],
    format: PhantomData<F>,
}

/// The payloads of a base and of refinements, in order.
///
/// It fails wherever one chunk after the other would fail, and also where a refinement has another step
/// than the base, which is no valid package's, but which chunk by chunk has a result.
pub struct Straight<'a, 'r, 'm, F>(
    pub &'r [&'a [u8]],
    pub &'r mut [Target<'m>],
    pub PhantomData<F>,
);

impl<F: Format> Task for Straight<'_, '_, '_, F> {
    type Out = Result<(), Error>;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Out {
        let Straight(payloads, segs, format) = self;
        let rows = &Rows::new(segs, F::BYTES)?;
        let (first, later) = payloads.split_first().ok_or(Error::Argument)?;
        let start = Start::read::<F>(first, rows, segs)?;
        let mut levels = Vec::with_capacity(later.len());
        for payload in later {
            let r = &mut open::<F>(payload, KIND_REFINE, rows)?;
            let head = Head::read(r, false).at(Place::Header)?;
            let differences = read_ints(r, rows.count()).at(Place::Exponents)?;
            let e = start.base.e.clone();
            levels.push(Level::read::<F, _>(isa, r, head, rows, e, differences)?);
        }
        let start = Some(start);
        let rest = isa.enter(Chain::<F> {
            start,
            levels,
            rows,
            segs,
            format,
        })?;
        rest.iter().try_for_each(|r| r.end().at(Place::End))
    }
}

/// Decodes one refinement behind its head; `e` are the base's exponents.
#[inline(always)]
pub fn decode<F: Format, I: Isa>(
    isa: I,
    r: &mut Reader,
    head: Head,
    rows: &Rows,
    e: Vec<i16>,
    segs: &mut [Target],
) -> Result<(), Error> {
    let level = Level::read::<F, _>(isa, r, head, rows, e, Vec::new())?;
    let rest = isa.enter(Chain::<F> {
        start: None,
        levels: vec![level],
        rows,
        segs,
        format: PhantomData,
    })?;
    rest.into_iter().for_each(|rest| *r = rest);
    Ok(())
}

impl<'a, F: Format> Task for Chain<'a, '_, '_, F> {
    /// What is left of each payload.
    type Out = Result<Vec<Reader<'a>>, Error>;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Out {
        let Chain {
            mut start,
            mut levels,
            rows,
            segs,
            ..
        } = self;
        let plain = start.is_some() && levels.first().map_or(false, Level::is_plain);
        let mut block = Block::new();
        while block.next(rows, F::BYTES) {
            let b = &mut block;
            if let Some(start) = &mut start {
                start.block(isa, b, rows)?;
                if !plain {
                    start.values::<F, _>(isa, b, segs);
                }
            }
            for (i, level) in levels.iter_mut().enumerate() {
                match &start {
                    Some(start) if plain && i == 0 => {
                        level.cells::<F, _>(isa, b, rows, start, segs)?;
                    }
                    _ => {
                        level.check_steps::<F>(b, rows, segs)?;
                        level.parts.bins::<F, _>(isa, b, segs)?;
                    }
                }
                level.parts.beyond::<F, _>(isa, b, segs)?;
                level.patch::<F>(b, segs)?;
            }
        }
        let mut rest = Vec::with_capacity(levels.len() + 1);
        if let Some(start) = start {
            start.base.finish()?;
            rest.push(start.patches.rest());
        }
        for level in levels {
            level.parts.end()?;
            rest.push(level.patches.rest());
        }
        Ok(rest)
    }
}

/// The reader behind the header of a chunk of this kind.
fn open<'a, F: Format>(payload: &'a [u8], kind: u8, rows: &Rows) -> Result<Reader<'a>, Error> {
    let mut r = Reader::new(payload);
    let good = r.u8()? == kind
        && r.u8()? == F::DTYPE as u8
        && r.u32()? as usize == rows.count()
        && r.u32()? as usize == rows.elements();
    if good {
        Ok(r)
    } else {
        Err(Error::Mismatch)
    }
}

/// The base, and the block at hand of it.
struct Start<'a> {
    base: Base<'a>,
    patches: Patches<'a>,
    sym: [u8; BLOCK],
    /// Patches of the block: elements counted from its first one, and their bits.
    patched: Vec<(usize, &'a [u8])>,
}

impl<'a> Start<'a> {
    fn read<F: Format>(payload: &'a [u8], rows: &Rows, segs: &[Target]) -> Result<Self, Error> {
        let mut r = open::<F>(payload, KIND_BASE, rows)?;
        Ok(Start {
            base: Base::read(F::DTYPE, &mut r, rows, segs)?,
            patches: Patches::open(r, F::BYTES, rows.elements())?,
            sym: [0; BLOCK],
            patched: Vec::new(),
        })
    }

    /// Symbols and patches of a block.
    #[inline(always)]
    fn block<I: Isa>(&mut self, isa: I, b: &mut Block, rows: &Rows) -> Result<(), Error> {
        let out = (&mut b.ctx[..b.len], &mut self.sym[..b.len]);
        self.base.symbols(isa, rows, &b.pieces, b.start, out)?;
        take_patches(&mut self.patches, b, &mut self.patched)
    }

    /// The block's state after the base.
    #[inline(always)]
    fn values<F: Format, I: Isa>(&self, isa: I, b: &Block, segs: &mut [Target]) {
        for p in &b.pieces {
            let step = pow2(i32::from(self.base.e[p.row]));
            isa.bin_values::<F>(&self.sym[p.range()], step, p.bytes_mut(segs));
        }
        each_patch::<F>(&b.pieces, &self.patched, segs, |_, _, mem, bits| {
            mem.copy_from_slice(bits);
        });
    }
}

/// The patches of a block.
#[inline(never)]
fn take_patches<'a>(
    patches: &mut Patches<'a>,
    b: &Block,
    out: &mut Vec<(usize, &'a [u8])>,
) -> Result<(), Error> {
    out.clear();
    while let Some((index, bits)) = patches.below(b.start + b.len).at(Place::Patches)? {
        out.push((index - b.start, bits));
    }
    Ok(())
}

/// Calls with the piece, the number in the block, the memory and the bits of each patched element.
#[inline(always)]
fn each_patch<F: Format>(
    pieces: &[Piece],
    patched: &[(usize, &[u8])],
    segs: &mut [Target],
    mut f: impl FnMut(&Piece, usize, &mut [u8], &[u8]),
) {
    let mut pieces = pieces.iter();
    let mut piece = pieces.next();
    for &(i, bits) in patched {
        while piece.map_or(false, |p| p.to <= i) {
            piece = pieces.next();
        }
        if let Some(p) = piece {
            let at = (i - p.from) * F::BYTES;
            f(p, i, &mut p.bytes_mut(segs)[at..at + F::BYTES], bits);
        }
    }
}

/// The parts of a refinement behind its exponents.
struct Opening<'r, 'a, F>(&'r mut Reader<'a>, Head, Vec<i16>, usize, PhantomData<F>);

impl<'a, F: Format> Task for Opening<'_, 'a, F> {
    type Out = Result<Parts<'a>, Error>;
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> Self::Out {
        let Opening(r, head, e, n, _) = self;
        Parts::read::<F, _>(isa, r, head, e, n)
    }
}

/// A refinement, and where its rows are with the guesses of their steps.
struct Level<'a> {
    parts: Parts<'a>,
    patches: Patches<'a>,
    patched: Vec<(usize, &'a [u8])>,
    /// By how much the steps differ from the guesses; empty if they are not checked.
    differences: Vec<i16>,
    /// Of the row at hand: elements seen, and what they suggest.
    seen: usize,
    lowest: Option<i32>,
}

impl<'a> Level<'a> {
    /// Behind the head and, where they are to be checked, the differences of its steps.
    #[inline(always)]
    fn read<F: Format, I: Isa>(
        isa: I,
        r: &mut Reader<'a>,
        head: Head,
        rows: &Rows,
        e: Vec<i16>,
        differences: Vec<i16>,
    ) -> Result<Self, Error> {
        let n = rows.elements();
        let parts = isa.enter(Opening::<F>(r, head, e, n, PhantomData))?;
        Ok(Level {
            parts,
            patches: Patches::open(r.rest(), F::BYTES, n).at(Place::Patches)?,
            patched: Vec::new(),
            differences,
            seen: 0,
            lowest: None,
        })
    }

    /// Whether it is a first level of positions that need nothing but the symbols.
    fn is_plain(&self) -> bool {
        let head = &self.parts.head;
        head.from == 0 && !head.shifted && !head.sparse
    }

    /// Checks that the rows have the base's steps, given a block's previous state, of which only the
    /// elements that a guess looks at are read.
    #[inline(never)]
    fn check_steps<F: Format>(
        &mut self,
        b: &Block,
        rows: &Rows,
        segs: &[Target],
    ) -> Result<(), Error> {
        let from = self.parts.head.from;
        if self.differences.is_empty() {
            return Ok(());
        }
        for p in &b.pieces {
            let more = look(from).saturating_sub(self.seen).min(p.to - p.from);
            if let Some(unit) = lowest_unit::<F>(&p.bytes(segs)[..more * F::BYTES]) {
                self.lowest = Some(self.lowest.map_or(unit, |l| l.min(unit)));
            }
            self.seen += more;
            if b.start + p.to == rows.range(p.row).end {
                let e = self.differences[p.row].wrapping_add(guess::<F>(self.lowest, from));
                if e != self.parts.e[p.row] {
                    return Err(Error::Mismatch).at(Place::Exponents);
                }
                (self.seen, self.lowest) = (0, None);
            }
        }
        Ok(())
    }

    /// Cells of one block of a plain first level, from the base's symbols.
    #[inline(always)]
    fn cells<F: Format, I: Isa>(
        &mut self,
        isa: I,
        b: &mut Block,
        rows: &Rows,
        start: &Start,
        segs: &mut [Target],
    ) -> Result<(), Error> {
        // The base's state, as far as a guess looks at it.
        for p in &b.pieces {
            let some = look(0).min(p.to - p.from);
            let (sym, step) = (&start.sym[p.from..p.from + some], pow2(self.step(p)));
            isa.bin_values::<F>(sym, step, &mut p.bytes_mut(segs)[..some * F::BYTES]);
        }
        each_patch::<F>(&b.pieces, &start.patched, segs, |_, _, mem, bits| {
            mem.copy_from_slice(bits);
        });
        self.check_steps::<F>(b, rows, segs)?;
        self.parts.take_positions(isa, b).at(Place::Positions)?;
        if self.parts.head.coarse {
            let (ctx, parts) = (&mut b.ctx[..b.len], &self.parts);
            coarse_contexts_of(&start.sym[..b.len], ctx);
            each_patch::<F>(&b.pieces, &start.patched, segs, |p, i, _, bits| {
                coarse_contexts::<F>(bits, i32::from(parts.e[p.row]), &mut ctx[i..=i]);
            });
            self.parts.take_coarse(isa, b).at(Place::Coarse)?;
        }
        for p in &b.pieces {
            let row = Halving::new::<F>(&self.parts.head, self.step(p));
            let (sym, positions) = (&start.sym[p.range()], &b.positions[p.range()]);
            isa.cells_of::<F>(sym, self.step(p), positions, &row, p.bytes_mut(segs));
        }
        let parts = &self.parts;
        each_patch::<F>(&b.pieces, &start.patched, segs, |p, i, mem, bits| {
            mem.copy_from_slice(bits);
            let row = Halving::new::<F>(&parts.head, i32::from(parts.e[p.row]));
            halve::<F>(mem, &b.positions[i..=i], &row);
        });
        Ok(())
    }

    #[inline(always)]
    fn step(&self, p: &Piece) -> i32 {
        i32::from(self.parts.e[p.row])
    }

    /// Puts the block's patches in.
    #[inline(never)]
    fn patch<F: Format>(&mut self, b: &Block, segs: &mut [Target]) -> Result<(), Error> {
        take_patches(&mut self.patches, b, &mut self.patched)?;
        each_patch::<F>(&b.pieces, &self.patched, segs, |_, _, mem, bits| {
            mem.copy_from_slice(bits);
        });
        Ok(())
    }
}
