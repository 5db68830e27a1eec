//! Codes of differences as symbols, and the raw fields below them (SPEC.md, "Delta" and "Adopt"): the
//! inverse of `fields.rs`.

use crate::entropy::table::MAX_CTX;
use crate::format::rows::BLOCK;
use crate::kernels::Isa;

/// Bytes that the fields of 64 elements, and a store of eight at the last one, may need.
const ROOM: usize = 64 * 24 / 8 + 16;

/// Symbols of codes: none of it, or the code less one without its raw bits, plus one. The raw bits are
/// the lowest ones, or `SIDED` those above the lowest.
#[derive(Default)]
pub struct Symbols {
    pub sym: Vec<u8>,
    /// Numbers of the codes that have no symbol.
    pub far: Vec<usize>,
    fields: Vec<u8>,
    /// Whole bytes of the fields, and what goes on behind them.
    bytes: usize,
    acc: u64,
    fill: u32,
}

impl Symbols {
    /// None yet, of so many.
    pub fn new(count: usize) -> Self {
        let sym = Vec::with_capacity(count);
        Symbols {
            sym,
            ..Symbols::default()
        }
    }

    /// Adds codes in their contexts, of which some have raw bits.
    #[inline(always)]
    pub fn push<I: Isa, const SIDED: bool>(
        &mut self,
        isa: I,
        widths: &[u8; MAX_CTX],
        z: &[u32],
        ctx: &[u8],
    ) {
        let mut at = self.sym.len();
        self.sym.resize(at + z.len(), 0);
        for (z, ctx) in z.chunks(64).zip(ctx.chunks(64)) {
            let (mut w, mut below) = ([0u8; 64], [0u32; 64]);
            isa.field_widths(widths, ctx, &[1; 64][..ctx.len()], &mut w);
            let sym = &mut self.sym[at..at + z.len()];
            if split::<SIDED>(z, &mut w, sym, &mut below) {
                let lost = (0..z.len()).filter(|&i| z[i] > 0 && sym[i] == 0);
                self.far.extend(lost.map(|i| at + i));
            }
            self.pack(&below, &w);
            at += z.len();
        }
    }

    /// Adds codes none of which has raw bits.
    #[inline(always)]
    pub fn push_plain(&mut self, z: &[u32]) {
        for z in z.chunks(BLOCK) {
            let at = self.sym.len();
            self.sym.resize(at + z.len(), 0);
            let mut all = 0;
            for (sym, &z) in self.sym[at..].iter_mut().zip(z) {
                *sym = if z > 255 { 0 } else { z as u8 };
                all |= z;
            }
            if all > 255 {
                let lost = (0..z.len()).filter(|&i| z[i] > 255);
                self.far.extend(lost.map(|i| at + i));
            }
        }
    }

    /// Adds fields of at most 24 bits.
    #[inline(always)]
    fn pack(&mut self, below: &[u32; 64], w: &[u8; 64]) {
        if self.fields.len() < self.bytes + ROOM {
            self.fields.resize(2 * self.bytes + 4 * ROOM, 0);
        }
        let (mut bytes, mut acc, mut fill) = (self.bytes, self.acc, self.fill);
        for (below, w) in below.chunks_exact(2).zip(w.chunks_exact(2)) {
            acc |= u64::from(below[0]) << fill;
            fill += u32::from(w[0]);
            acc |= u64::from(below[1]) << fill;
            fill += u32::from(w[1]);
            self.fields[bytes..bytes + 8].copy_from_slice(&acc.to_le_bytes());
            bytes += fill as usize >> 3;
            acc >>= fill & !7;
            fill &= 7;
        }
        (self.bytes, self.acc, self.fill) = (bytes, acc, fill);
    }

    /// All fields.
    pub fn fields(&self) -> &[u8] {
        &self.fields[..self.bytes + usize::from(self.fill > 0)]
    }
}

/// Symbols of up to 64 codes and what is below them; widths of what has no field become 0. Says
/// whether some code has no symbol.
#[inline(always)]
fn split<const SIDED: bool>(
    z: &[u32],
    widths: &mut [u8; 64],
    sym: &mut [u8],
    below: &mut [u32; 64],
) -> bool {
    let mut lost = 0;
    let items = z.iter().zip(widths).zip(sym).zip(below);
    for (((&z, width), sym), below) in items {
        let (w, code) = (u32::from(*width), z.wrapping_sub(1));
        let field = if SIDED { code >> 1 } else { code };
        let above = field >> w;
        let above = if SIDED { above << 1 | code & 1 } else { above };
        let some = (z != 0) & (above < 255);
        *sym = if some { above as u8 } else { 255 }.wrapping_add(1);
        *below = if some { field & ((1 << w) - 1) } else { 0 };
        *width = if some { *width } else { 0 };
        lost |= u32::from((z != 0) & (above >= 255));
    }
    lost != 0
}
