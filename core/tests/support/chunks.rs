//! Chunks of every kind.

use super::weights::{weights, DTYPES, FAMILIES};
use super::{elements, segments, size, Case, Random, Shapes};
use p2u_core::{
    Adopt, Block, Delta, Dtype, Encoded, Floats, Opaque, OpaqueDelta, Plan, Prior, RowScales,
    Segment, Set,
};

/// Levels of a chain, with the halvings that they are reached at; 0 is exact.
pub const CHAINS: [&[u8]; 5] = [&[0], &[4, 0], &[2, 5, 9, 0], &[11, 0], &[1, 8]];

/// Base and levels of weights as the encoder writes them.
pub fn encode_levels(
    set: Set,
    dtype: Dtype,
    segs: &[Segment<&[u8]>],
    levels: &[u8],
    codes: Option<&[i16]>,
    full: bool,
) -> Encoded {
    let offset = -120;
    let scales = set.run(RowScales {
        dtype,
        segs,
        offset,
    });
    let plan = &Plan {
        scales: &scales.expect("scales of float rows"),
        codes,
        levels,
        full,
    };
    set.run(Floats { dtype, segs, plan }).expect("floats")
}

/// Codes that are often not the nearest.
fn other_codes(n: usize, seed: u64) -> Vec<i16> {
    let mut r = Random(seed);
    (0..n).map(|_| r.below(19) as i16 - 9).collect()
}

/// The cases of a chain of levels: each payload with the state that it begins at.
pub fn chain(family: &str, dtype: Dtype, shapes: &Shapes, levels: &[u8], coded: bool) -> Vec<Case> {
    let (item, n) = (size(dtype), elements(shapes));
    let bytes = weights(family, dtype, n, shapes[0].1, 7 + levels.len() as u64);
    let codes = other_codes(n, 3);
    let codes = if coded { Some(&codes[..]) } else { None };
    let set = Set::all()[0];
    let done = encode_levels(
        set,
        dtype,
        &segments(&bytes, shapes, item),
        levels,
        codes,
        false,
    );
    let mut before = vec![0xa5; bytes.len()];
    let mut out = Vec::new();
    for (j, payload) in done.payloads.into_iter().enumerate() {
        let mark = if coded { "coded" } else { "" };
        let mut case = Case {
            name: format!("{dtype:?} {family}{mark} {levels:?} {j}"),
            dtype,
            item,
            shapes: shapes.clone(),
            before,
            sources: None,
            payload,
            after: Vec::new(),
        };
        let (status, mem) = case.apply(set, &case.payload);
        assert_eq!(status, Ok(()), "{}", case.name);
        case.after = mem.clone();
        before = mem;
        out.push(case);
    }
    if levels.last() == Some(&0) {
        assert_eq!(before, bytes, "{dtype:?} {family} {levels:?}: exact");
    }
    out
}

/// Base and exact in one.
pub fn full(family: &str, dtype: Dtype, shapes: &Shapes) -> Case {
    let item = size(dtype);
    let after = weights(family, dtype, elements(shapes), shapes[0].1, 11);
    let segs = segments(&after, shapes, item);
    let done = encode_levels(Set::all()[0], dtype, &segs, &[], None, true);
    Case {
        name: format!("{dtype:?} {family} full"),
        dtype,
        item,
        shapes: shapes.clone(),
        before: vec![0x5a; after.len()],
        sources: None,
        payload: done.payloads[0].clone(),
        after,
    }
}

/// The bytes of each segment.
fn split(bytes: &[u8], shapes: &Shapes, item: usize) -> Vec<Vec<u8>> {
    let segs = segments(bytes, shapes, item);
    segs.iter().map(|s| s.mem.to_vec()).collect()
}

fn priors(sources: &[Vec<u8>]) -> Vec<Prior<'_>> {
    sources.iter().map(|s| Some(&s[..])).collect()
}

/// A version update of floats; `spread`: one element in so many differs.
pub fn delta(dtype: Dtype, source: Dtype, shapes: &Shapes, spread: usize) -> Case {
    let (item, n) = (size(dtype), elements(shapes));
    let mut r = Random(spread as u64);
    let mut after = weights("special", dtype, n, shapes[0].1, 13);
    let sources = if source == dtype {
        let before = after.clone();
        for i in (0..n).filter(|_| r.below(spread) == 0).collect::<Vec<_>>() {
            after[i * item] ^= r.next() as u8;
        }
        before
    } else {
        weights("special", source, n, shapes[0].1, 13)
    };
    let sources = split(&sources, shapes, size(source));
    let payload = Set::all()[0].run(Delta {
        dtype,
        segs: &segments(&after, shapes, item),
        source,
        priors: &priors(&sources),
    });
    Case {
        name: format!("{dtype:?} from {source:?}, one in {spread}"),
        dtype,
        item,
        shapes: shapes.clone(),
        before: vec![0x77; after.len()],
        sources: Some(sources),
        payload: payload.expect("delta"),
        after,
    }
}

/// Types of blocks, with elements and bytes of each.
pub const BLOCKS: [(u8, usize, usize); 12] = [
    (2, 32, 18),
    (3, 32, 20),
    (6, 32, 22),
    (7, 32, 24),
    (8, 32, 34),
    (10, 256, 84),
    (11, 256, 110),
    (12, 256, 144),
    (13, 256, 176),
    (14, 256, 210),
    (64, 1, 1),
    (65, 1, 1),
];

/// Floats from blocks, which are not theirs. The segments have whole blocks.
pub fn adopt(dtype: Dtype, block: u8, shapes: &Shapes) -> Case {
    let (_, elems, bytes) = BLOCKS[BLOCKS.iter().position(|b| b.0 == block).expect("a type")];
    assert_eq!(Block::from_code(block).map(Block::size), Ok((elems, bytes)));
    let item = size(dtype);
    let mut r = Random(u64::from(block));
    let after = weights("special", dtype, elements(shapes), shapes[0].1, 17);
    let one = |&(n, _): &(usize, usize)| (0..n / elems * bytes).map(|_| r.next() as u8).collect();
    let sources: Vec<Vec<u8>> = shapes.iter().map(one).collect();
    let payload = Set::all()[0].run(Adopt {
        dtype,
        block,
        segs: &segments(&after, shapes, item),
        priors: &priors(&sources),
    });
    Case {
        name: format!("{dtype:?} adopts {block}"),
        dtype,
        item,
        shapes: shapes.clone(),
        before: vec![0x33; after.len()],
        sources: Some(sources),
        payload: payload.expect("adopt"),
        after,
    }
}

/// Bytes of which some planes are constant, some random, some compressible.
fn structured(n: usize, item: usize, seed: u64) -> Vec<u8> {
    let mut r = Random(seed);
    let mut byte = |i: usize| match i % item.max(3) {
        0 => r.below(9) as u8,
        1 => r.next() as u8,
        _ => 42,
    };
    (0..n * item).map(&mut byte).collect()
}

pub fn opaque(item: usize, shapes: &Shapes) -> Case {
    let after = structured(elements(shapes), item, item as u64);
    let payload = Set::all()[0].run(Opaque {
        item,
        segs: &segments(&after, shapes, item),
    });
    Case {
        name: format!("opaque {item}"),
        dtype: Dtype::Opaque,
        item,
        shapes: shapes.clone(),
        before: vec![0x11; after.len()],
        sources: None,
        payload: payload.expect("opaque"),
        after,
    }
}

pub fn opaque_delta(item: usize, stride: usize, shapes: &Shapes) -> Case {
    let after = structured(elements(shapes), item, stride as u64);
    let mut r = Random(5);
    let mut old = after.clone();
    for b in old
        .iter_mut()
        .filter(|_| r.below(4) == 0)
        .collect::<Vec<_>>()
    {
        *b = b.wrapping_add(r.below(5) as u8);
    }
    let sources = split(&old, shapes, item);
    let payload = Set::all()[0].run(OpaqueDelta {
        item,
        stride,
        segs: &segments(&after, shapes, item),
        priors: &priors(&sources),
    });
    Case {
        name: format!("opaque delta {item}, stride {stride}"),
        dtype: Dtype::Opaque,
        item,
        shapes: shapes.clone(),
        before: old,
        sources: Some(sources),
        payload: payload.expect("opaque delta"),
        after,
    }
}

/// Every kind of chunk for every dtype, of one size: `n` elements or so, a multiple of 256.
pub fn all(n: usize) -> Vec<Case> {
    let shapes: Shapes = vec![(n, 48), (n / 4 + 3, 19), (1, 1)];
    let whole: Shapes = vec![(n / 256 * 256, 256), (512, 64)];
    let mut out = Vec::new();
    for dtype in DTYPES {
        for (i, family) in FAMILIES.iter().enumerate() {
            out.extend(chain(
                family,
                dtype,
                &shapes,
                CHAINS[i % CHAINS.len()],
                i % 3 == 2,
            ));
        }
        out.push(full("heavy", dtype, &shapes));
        out.push(full("special", dtype, &shapes));
        for source in DTYPES {
            out.push(delta(dtype, source, &shapes, 1));
        }
        out.push(delta(dtype, dtype, &shapes, 40));
        for &(block, ..) in BLOCKS
            .iter()
            .step_by(if dtype == Dtype::F16 { 1 } else { 4 })
        {
            out.push(adopt(dtype, block, &whole));
        }
    }
    out.extend([1, 2, 3, 8, 16].iter().map(|&item| opaque(item, &shapes)));
    for (item, stride) in [(1, 1), (2, 2), (4, 4), (1, 18), (3, 256)] {
        out.push(opaque_delta(item, stride, &shapes));
    }
    out
}
