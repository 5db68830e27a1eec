//! Every instruction set makes the same payloads, decodes them to the same bytes, and refuses the same.
#![cfg(feature = "encode")]

mod support;

use p2u_core::{Delta, Opaque, Set};
use support::chunks::{all, encode_levels, CHAINS};
use support::weights::{weights, DTYPES, FAMILIES};
use support::{segments, size, Random, Shapes};

fn shapes() -> Vec<Shapes> {
    vec![
        vec![(1, 1)],
        vec![(65, 13), (96, 32)],
        vec![(3000, 100), (129, 128), (17, 1)],
        vec![(40_000, 777)],
    ]
}

#[test]
fn encoders_write_the_same_bytes() {
    let sets = Set::all();
    for shapes in shapes() {
        for dtype in DTYPES {
            for (i, family) in FAMILIES.iter().enumerate() {
                let n = support::elements(&shapes);
                let (bytes, levels) = (weights(family, dtype, n, 100, 1), CHAINS[i % CHAINS.len()]);
                let segs = segments(&bytes, &shapes, size(dtype));
                let made = |set: Set| {
                    let e = encode_levels(set, dtype, &segs, levels, None, false);
                    let old = weights(family, dtype, n, 100, 2);
                    let old: Vec<_> = segments(&old, &shapes, size(dtype));
                    let priors: Vec<_> = old.iter().map(|s| Some(s.mem)).collect();
                    let (source, segs) = (dtype, &segs[..]);
                    let delta = set.run(Delta {
                        dtype,
                        segs,
                        source,
                        priors: &priors,
                    });
                    let opaque = set.run(Opaque {
                        item: size(dtype),
                        segs,
                    });
                    let squares: Vec<u64> = e.squares.iter().map(|s| s.to_bits()).collect();
                    (e.payloads, squares, delta, opaque)
                };
                let first = made(sets[0]);
                for &set in &sets[1..] {
                    assert!(
                        made(set) == first,
                        "{dtype:?} {family} {levels:?} {}",
                        set.code()
                    );
                }
            }
        }
    }
}

#[test]
fn decoders_read_the_same_bytes() {
    for n in [256, 20_224] {
        for case in all(n) {
            assert_eq!(
                case.apply_everywhere(&case.payload),
                Ok(()),
                "{}",
                case.name
            );
        }
    }
}

/// Damaged chunks of all sizes of streams, on damaged memory.
#[test]
fn decoders_agree_on_damage() {
    let mut r = Random(42);
    for n in [256, 2560, 20_224] {
        for mut case in all(n) {
            for _ in 0..12 {
                let mut payload = case.payload.clone();
                for _ in 0..=r.below(3) {
                    let i = r.below(payload.len());
                    payload[i] = r.next() as u8;
                }
                let i = r.below(case.before.len());
                case.before[i] = r.next() as u8;
                let _ = case.apply_everywhere(&payload);
            }
        }
    }
}
