//! What is encoded comes back, bit for bit.
#![cfg(feature = "encode")]

mod support;

use p2u_core::{Dtype, Set};
use support::chunks::{adopt, chain, delta, full, opaque, opaque_delta, BLOCKS, CHAINS};
use support::weights::{DTYPES, FAMILIES};
use support::{Case, Shapes};

/// Shapes that do not fit blocks, vectors or lanes: single elements, one row, one column, and more than
/// the 16384 symbols from which on a stream has 64 lanes.
fn shapes() -> Vec<Shapes> {
    vec![
        vec![(1, 1)],
        vec![(5, 9)],
        vec![(31, 31), (33, 1)],
        vec![(2047, 63), (1, 5), (2051, 2051)],
        vec![(20_011, 777)],
    ]
}

fn check(case: &Case) {
    for set in Set::all() {
        let (status, mem) = case.apply(set, &case.payload);
        assert_eq!(status, Ok(()), "{}, set {}", case.name, set.code());
        assert!(mem == case.after, "{}, set {}", case.name, set.code());
    }
}

#[test]
fn levels_end_in_the_weights() {
    for shapes in shapes() {
        for dtype in DTYPES {
            for (i, family) in FAMILIES.iter().enumerate() {
                for coded in [false, true] {
                    let levels = CHAINS[(i + shapes.len() + usize::from(coded)) % CHAINS.len()];
                    chain(family, dtype, &shapes, levels, coded)
                        .iter()
                        .for_each(check);
                }
                check(&full(family, dtype, &shapes));
            }
        }
    }
}

/// Exact zeros are zeros in the base, which has the nearest bins, and at every level after it.
#[test]
fn zeros_are_zeros_at_every_state() {
    let shapes = vec![(4096, 64), (300, 30)];
    for dtype in DTYPES {
        for family in ["sparse", "special"] {
            let cases = chain(family, dtype, &shapes, &[2, 5, 9, 0], false);
            let item = support::size(dtype);
            let exact = cases.last().expect("a level").after.clone();
            let zero = |b: &[u8]| b[item - 1] & 0x7f == 0 && b[..item - 1].iter().all(|&b| b == 0);
            for case in &cases {
                for (w, s) in exact.chunks_exact(item).zip(case.after.chunks_exact(item)) {
                    assert!(!zero(w) || zero(s), "{}", case.name);
                }
            }
        }
    }
}

#[test]
fn updates_lead_to_the_new_version() {
    for shapes in shapes() {
        for dtype in DTYPES {
            for source in DTYPES {
                check(&delta(dtype, source, &shapes, 1));
            }
            check(&delta(dtype, dtype, &shapes, 100));
        }
        for item in [1, 2, 3, 4, 8, 16] {
            check(&opaque(item, &shapes));
            check(&opaque_delta(item, item, &shapes));
            check(&opaque_delta(item, 18, &shapes));
        }
    }
}

/// An update in place: the source is the memory that is written.
#[test]
fn updates_work_in_place() {
    for dtype in DTYPES {
        let mut case = delta(dtype, dtype, &vec![(5000, 50), (77, 7)], 30);
        case.before = case.sources.take().expect("sources").concat();
        check(&case);
    }
    let mut case = opaque_delta(2, 2, &vec![(5000, 50)]);
    case.before = case.sources.take().expect("sources").concat();
    check(&case);
}

#[test]
fn floats_come_back_from_any_blocks() {
    for &(block, ..) in &BLOCKS {
        for dtype in DTYPES {
            check(&adopt(dtype, block, &vec![(256, 256), (5120, 512)]));
        }
    }
    assert_eq!(Dtype::from_code(3), Ok(Dtype::BF16));
}
