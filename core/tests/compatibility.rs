//! Chunks that older writers made are still read, to the same bytes, by every instruction set.
//!
//! A file of `tests/data` has the chunks of one chain, each with the bytes that it leads to. A new kind of
//! chunk gets a new file; a file changes only with the format's version. `cargo test --test compatibility
//! -- --ignored` writes those that are missing.
#![cfg(feature = "encode")]

mod support;

use p2u_core::{Dtype, Set};
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use support::chunks::{adopt, chain, delta, full, opaque, opaque_delta};
use support::weights::DTYPES;
use support::{Case, Shapes};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |d: &[u8]| u8::from_str_radix(std::str::from_utf8(d).expect("ASCII"), 16);
    digits.map(|d| byte(d).expect("a byte")).collect()
}

/// The text of a file.
fn print(cases: &[Case]) -> String {
    let first = &cases[0];
    let mut out = format!("dtype {} item {} shapes", first.dtype as u8, first.item);
    for (elems, cols) in &first.shapes {
        write!(out, " {elems}x{cols}").expect("a string");
    }
    writeln!(out, "\nbefore {}", to_hex(&first.before)).expect("a string");
    for source in first.sources.iter().flatten() {
        writeln!(out, "source {}", to_hex(source)).expect("a string");
    }
    for case in cases {
        let (payload, after) = (to_hex(&case.payload), to_hex(&case.after));
        writeln!(out, "payload {payload}\nafter {after}").expect("a string");
    }
    out
}

/// The inverse of [`print`].
fn parse(name: &str, text: &str) -> Vec<Case> {
    let mut lines = text.lines();
    let head: Vec<&str> = lines.next().expect("a head").split(' ').collect();
    let number = |text: &str| text.parse::<usize>().expect("a number");
    let shape = |text: &&str| {
        let (elems, cols) = text.split_once('x').expect("a shape");
        (number(elems), number(cols))
    };
    let mut next = Case {
        name: name.to_string(),
        dtype: Dtype::from_code(number(head[1]) as u32).expect("a dtype"),
        item: number(head[3]),
        shapes: head[5..].iter().map(shape).collect(),
        before: Vec::new(),
        sources: None,
        payload: Vec::new(),
        after: Vec::new(),
    };
    let mut cases = Vec::new();
    for line in lines {
        let (key, value) = line.split_once(' ').expect("a key");
        let value = from_hex(value);
        match key {
            "before" => next.before = value,
            "source" => next.sources.get_or_insert_with(Vec::new).push(value),
            "payload" => next.payload = value,
            "after" => {
                next.after = value;
                cases.push(next.clone());
                next.before = next.after.clone();
            }
            _ => panic!("{name}: {key}"),
        }
    }
    cases
}

/// What there are files of, by name.
fn made() -> Vec<(String, Vec<Case>)> {
    let shapes: Shapes = vec![(84, 12), (7, 3)];
    let whole: Shapes = vec![(256, 64)];
    let mut out = Vec::new();
    for dtype in DTYPES {
        let name = |what: &str| format!("{dtype:?}-{what}").to_lowercase();
        for (family, levels) in [
            ("special", &[4, 0][..]),
            ("sparse", &[1, 8, 0]),
            ("binades", &[11, 0]),
        ] {
            out.push((name(family), chain(family, dtype, &shapes, levels, false)));
        }
        out.push((
            name("codes"),
            chain("normal", dtype, &shapes, &[2, 5, 0], true),
        ));
        out.push((name("full"), vec![full("heavy", dtype, &shapes)]));
        for source in DTYPES {
            let name = name(&format!("from-{source:?}"));
            out.push((name, vec![delta(dtype, source, &shapes, 2)]));
        }
        if dtype == Dtype::BF16 {
            out.push((name("gaps"), vec![delta(dtype, dtype, &shapes, 40)]));
        }
        out.push((name("adopts"), vec![adopt(dtype, 12, &whole)]));
    }
    out.push(("opaque".to_string(), vec![opaque(4, &shapes)]));
    out.push((
        "opaque-delta".to_string(),
        vec![opaque_delta(2, 18, &shapes)],
    ));
    out
}

#[test]
fn chunks_of_older_writers_are_read() {
    let (mut kinds, mut files) = ([0; 8], 0);
    for entry in fs::read_dir(folder()).expect("tests/data") {
        let path = entry.expect("a file").path();
        let text = fs::read_to_string(&path).expect("a text");
        let name = path.file_name().expect("a name").to_string_lossy();
        for case in parse(&name, &text) {
            kinds[usize::from(case.payload[0])] += 1;
            for set in Set::all() {
                let (status, mem) = case.apply(set, &case.payload);
                assert_eq!(status, Ok(()), "{name}, set {}", set.code());
                assert!(mem == case.after, "{name}, set {}", set.code());
            }
        }
        files += 1;
    }
    assert!(kinds.iter().all(|&n| n > 0), "{kinds:?} of {files} files");
}

#[test]
#[ignore = "writes the files of tests/data that are missing"]
fn write_missing_files() {
    fs::create_dir_all(folder()).expect("tests/data");
    for (name, cases) in made() {
        let path = folder().join(name + ".chunks");
        if !path.exists() {
            fs::write(path, print(&cases)).expect("a file");
        }
    }
}
