//! All levels in one go are the same as one after the other, whatever the payloads.
#![cfg(feature = "encode")]

mod support;

use p2u_core::{apply, straight, Error, Set};
use support::chunks::{chain, CHAINS};
use support::weights::{DTYPES, FAMILIES};
use support::{targets, Case, Random, Shapes};

/// Payloads of the levels of some weights, each with its case.
fn chains(shapes: &Shapes) -> Vec<Vec<Case>> {
    let mut out = Vec::new();
    for dtype in DTYPES {
        for (i, family) in FAMILIES.iter().enumerate() {
            for (j, levels) in CHAINS.iter().enumerate() {
                let coded = (i + j) % 4 == 0;
                out.push(chain(family, dtype, shapes, levels, coded));
            }
        }
    }
    out
}

fn payloads(cases: &[Case]) -> Vec<&[u8]> {
    cases.iter().map(|c| &c.payload[..]).collect()
}

/// Memory after the levels in one go.
fn together(set: Set, case: &Case, levels: &[&[u8]]) -> Result<Vec<u8>, Error> {
    let mut mem = case.before.clone();
    let mut segs = targets(&mut mem, &case.shapes, case.item);
    straight(set, levels, case.dtype, &mut segs)?;
    Ok(mem)
}

/// The same of one after the other.
fn apart(set: Set, case: &Case, levels: &[&[u8]]) -> Result<Vec<u8>, Error> {
    let mut mem = case.before.clone();
    let sources = vec![None; case.shapes.len()];
    for payload in levels {
        let mut segs = targets(&mut mem, &case.shapes, case.item);
        apply(set, payload, case.dtype, case.item, &mut segs, &sources)?;
    }
    Ok(mem)
}

#[test]
fn blocks_have_all_levels_at_once() {
    let shapes: [Shapes; 3] = [
        vec![(1, 1)],
        vec![(65, 13), (96, 32)],
        vec![(6000, 777), (129, 128), (17, 1)],
    ];
    for cases in shapes.iter().flat_map(chains) {
        for n in 2..=cases.len() {
            let (first, last) = (&cases[0], &cases[n - 1]);
            for set in Set::all() {
                let found = together(set, first, &payloads(&cases[..n]));
                assert!(
                    found.as_ref() == Ok(&last.after),
                    "{} {}",
                    last.name,
                    set.code()
                );
            }
        }
    }
}

/// Damaged levels are refused, or decoded as they are one after the other.
#[test]
fn damage_makes_no_difference() {
    let (mut r, mut good) = (Random(5), 0);
    let shapes: Shapes = vec![(6000, 777), (129, 128), (17, 1)];
    for cases in chains(&shapes) {
        for _ in 0..4 {
            let mut bad: Vec<Vec<u8>> = cases.iter().map(|c| c.payload.clone()).collect();
            let level = r.below(bad.len());
            let reach = [40, 400, bad[level].len()][r.below(3)].min(bad[level].len());
            bad[level][r.below(reach)] = r.next() as u8;
            let levels: Vec<&[u8]> = bad.iter().map(|p| &p[..]).collect();
            for set in Set::all() {
                if let Ok(found) = together(set, &cases[0], &levels) {
                    let name = &cases[0].name;
                    assert_eq!(apart(set, &cases[0], &levels), Ok(found), "{name}");
                    good += 1;
                }
            }
        }
    }
    assert!(good > 0);
}

/// A refinement of another step than the base's, which chunk by chunk has a result, is refused.
#[test]
fn levels_have_one_step() {
    let mut some = 0;
    for mut cases in chains(&vec![(6000, 777)]) {
        // Behind header and head: all differences to the guesses are this number.
        let steps = &mut cases[1].payload[14..17];
        if steps == [0, 0, 0] {
            steps[1] = 1;
            let levels = &payloads(&cases)[..2];
            for set in Set::all() {
                assert!(together(set, &cases[0], levels).is_err());
                some += usize::from(apart(set, &cases[0], levels).is_ok());
            }
        }
    }
    assert!(some > 0);
}
