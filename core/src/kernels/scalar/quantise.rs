//! Row kernels of the encoder: floats to base symbols, and what is known to finer symbols.

use crate::format::float::{load, pow2, Format, GROUP};
use crate::kernels::scalar::level::{
    self, combine, edge, edges, row_constants, split_exact, Elements, Row, Target,
};
use crate::kernels::scalar::squares::Squares;

/// One row between two levels: what is known of it, its state, and what it is coded as.
pub struct Cells<'a> {
    pub pos: &'a [i16],
    pub cur: &'a mut [u8],
    pub sym: &'a mut [u8],
    pub below: &'a mut [u32],
}

/// Symbols and low bits of one row from bins to cells, and its state, which was the weights'; adds
/// the squared errors. Says whether some element has to be patched.
#[inline(always)]
pub fn split_cells<F: Format>(
    mem: &[u8],
    ctx: &[u8],
    out: Cells,
    row: &Row,
    k: u32,
    error: &mut Squares,
) -> bool {
    let Cells {
        pos,
        cur,
        sym,
        below,
    } = out;
    let target = Target::Cells { k };
    let far = split_row::<F, false>(mem, &[], pos, ctx, sym, below, row, target);
    let elements = Elements {
        mem: &mut *cur,
        pos,
        ctx,
        sym,
        raw: below,
    };
    combine::<F, false>(elements, *row, target);
    error.add::<F>(mem, cur);
    far
}

/// Symbols and low bits of one row; says whether some element has to be patched.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub fn split_row<F: Format, const CELLS: bool>(
    mem: &[u8],
    cur: &[u8],
    pos: &[i16],
    ctx: &[u8],
    sym: &mut [u8],
    below: &mut [u32],
    row: &Row,
    target: Target,
) -> bool {
    let (half, top) = row_constants::<F, CELLS>(row);
    let scale = pow2(-row.e);
    let mut all = 0;
    let (mut bits, mut edge) = ([0u32; GROUP], ([0u32; GROUP], [0i32; GROUP]));
    for (g, mem) in mem.chunks(GROUP * F::BYTES).enumerate() {
        let at = g * GROUP..g * GROUP + mem.len() / F::BYTES;
        let (bits, h) = (&mut bits[..at.len()], &mut edge.1[..at.len()]);
        load::<F>(mem, bits);
        if CELLS {
            load::<F>(
                &cur[at.start * F::BYTES..at.end * F::BYTES],
                &mut edge.0[..at.len()],
            );
        }
        edges::<F, CELLS>(&edge.0[..at.len()], &pos[at.clone()], scale, h);
        let items = bits.iter().zip(&*h).zip(&ctx[at.clone()]);
        let items = items.zip(&mut sym[at.clone()]).zip(&mut below[at]);
        match target {
            Target::Exact => {
                for ((((&bits, &h), &ctx), sym), below) in items {
                    let (s, b) = split_exact::<F, CELLS>(bits, h, ctx, row, half, top);
                    *sym = s as u8;
                    *below = b;
                    all |= s;
                }
            }
            Target::Cells { k } => {
                for ((((&bits, &h), &ctx), sym), below) in items {
                    let (s, b) = level::split_cells::<F, CELLS>(bits, h, ctx, row, k);
                    *sym = s as u8;
                    *below = b;
                    all |= s;
                }
            }
        }
    }
    all & !255 != 0
}

/// Which elements of a row have to be patched.
#[allow(clippy::too_many_arguments)]
pub fn patch_row<F: Format, const CELLS: bool>(
    mem: &[u8],
    cur: &[u8],
    pos: &[i16],
    ctx: &[u8],
    row: &Row,
    target: Target,
    start: usize,
    patches: &mut Vec<u32>,
) {
    let (half, top) = row_constants::<F, CELLS>(row);
    for i in 0..ctx.len() {
        let bits = if CELLS { F::load(cur, i) } else { 0 };
        let h = edge::<F, CELLS>(bits, pos[i], pow2(-row.e));
        let (s, _) = match target {
            Target::Exact => split_exact::<F, CELLS>(F::load(mem, i), h, ctx[i], row, half, top),
            Target::Cells { k } => {
                level::split_cells::<F, CELLS>(F::load(mem, i), h, ctx[i], row, k)
            }
        };
        if s & !255 != 0 {
            patches.push((start + i) as u32);
        }
    }
}
