//! Chunks from strangers are refused or decoded, by every instruction set alike; nothing else happens.
#![cfg(feature = "encode")]

mod support;

use p2u_core::{Dtype, Error, Set};
use support::chunks::all;

/// Every beginning of a chunk is refused, and so is a chunk with something behind it.
#[test]
fn a_chunk_ends_where_it_ends() {
    for case in all(256) {
        for len in 0..case.payload.len() {
            let status = case.apply_everywhere(&case.payload[..len]);
            assert!(status.is_err(), "{}: {len} bytes", case.name);
        }
        let longer = [&case.payload[..], &[0]].concat();
        assert_eq!(
            case.apply_everywhere(&longer),
            Err(Error::Malformed),
            "{}",
            case.name
        );
    }
}

/// Each byte in turn has another value: nothing panics, and the sets agree. (`fuzz/` tries more of them.)
#[test]
fn every_byte_may_be_wrong() {
    for case in all(256) {
        let mut payload = case.payload.clone();
        for i in 0..payload.len() {
            let right = payload[i];
            payload[i] = [right ^ (1 << (i / 3 % 8)), !right, 0][i % 3];
            let _ = case.apply_everywhere(&payload);
            payload[i] = right;
        }
    }
}

/// A chunk for other elements is refused before anything is written.
#[test]
fn a_chunk_for_others_is_refused() {
    for case in all(256) {
        let mut other = case.clone();
        other.dtype = match case.dtype {
            Dtype::F32 => Dtype::F16,
            Dtype::F16 => Dtype::BF16,
            Dtype::BF16 => Dtype::F16,
            Dtype::Opaque => continue,
        };
        let (status, mem) = other.apply(Set::all()[0], &case.payload);
        assert!(status == Err(Error::Mismatch), "{}", case.name);
        assert!(mem == case.before, "{}", case.name);
    }
}

/// Memory that does not fit its shape is the caller's mistake, not the chunk's.
#[test]
fn segments_have_to_fit() {
    for case in all(256) {
        let mut other = case.clone();
        other.shapes[0].1 = 0;
        if case.dtype != Dtype::Opaque {
            assert_eq!(
                other.apply_everywhere(&case.payload),
                Err(Error::Argument),
                "{}",
                case.name
            );
        }
        other.shapes.clear();
        other.sources = None;
        let status = other.apply_everywhere(&case.payload);
        assert_eq!(status, Err(Error::Argument), "{}", case.name);
    }
}

/// Sources of the wrong size are refused.
#[test]
fn sources_have_to_fit() {
    for mut case in all(256) {
        if let Some(sources) = &mut case.sources {
            sources[0].pop();
            assert_eq!(
                case.apply_everywhere(&case.payload),
                Err(Error::Mismatch),
                "{}",
                case.name
            );
            case.sources.as_mut().expect("sources").pop();
            assert_eq!(
                case.apply_everywhere(&case.payload),
                Err(Error::Mismatch),
                "{}",
                case.name
            );
        }
    }
}
