//! Mutates chunks of every kind and applies them with every instruction set of this machine. Each has to
//! give the same status and, if that is good, the same bytes; nothing may panic.
//!
//! `p2u-core-fuzz COUNT [SEED]`: a failure is printed with all that reproduces it, and the exit status is 1.

#[path = "../../tests/support/mod.rs"]
mod support;

use p2u_core::{Error, Set};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::ExitCode;
use support::{chunks, Case, Random};

/// Sizes of chunks: the smallest are quick, the largest have streams of 64 lanes.
const SIZES: [usize; 4] = [256, 256, 1024, 16_640];

/// Bytes that are the ends of ranges.
const ENDS: [u8; 8] = [0, 1, 2, 0x7f, 0x80, 0x81, 0xfe, 0xff];

/// What happened to one payload.
type Outcome = Result<(Result<(), Error>, Vec<u8>), ()>;

fn outcome(case: &Case, set: Set, payload: &[u8]) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| case.apply(set, payload))).map_err(|_| ())
}

/// Whether all sets do the same without a panic; if not, why.
fn judge(case: &Case, payload: &[u8]) -> Result<bool, String> {
    let sets = Set::all();
    let first = outcome(case, sets[0], payload);
    if first.is_err() {
        return Err(format!("set {} panicked", sets[0].code()));
    }
    for &set in &sets[1..] {
        match (&first, &outcome(case, set, payload)) {
            (_, Err(())) => return Err(format!("set {} panicked", set.code())),
            (Ok((a, _)), Ok((b, _))) if a != b => {
                return Err(format!("set {}: {b:?}, not {a:?}", set.code()));
            }
            (Ok((Ok(()), a)), Ok((_, b))) if a != b => {
                return Err(format!("set {}: other bytes", set.code()));
            }
            _ => {}
        }
    }
    Ok(matches!(first, Ok((Ok(()), _))))
}

/// A place in a payload: often near its beginning, where heads and tables are.
fn place(r: &mut Random, len: usize) -> usize {
    match r.below(3) {
        0 => r.below(len.min(32)),
        1 => r.below(len.min(400)),
        _ => r.below(len),
    }
}

/// One mutation of a payload that is not empty; `other` lends its bytes.
fn mutate(r: &mut Random, payload: &mut Vec<u8>, other: &[u8]) {
    let at = place(r, payload.len());
    match r.below(9) {
        0 | 1 => payload[at] ^= 1 << r.below(8),
        2 => payload[at] = r.next() as u8,
        3 => payload[at] = ENDS[r.below(ENDS.len())],
        4 => payload[at] = payload[at].wrapping_add(1 + r.below(2) as u8 * 254),
        5 => payload.truncate(at + 1),
        6 => {
            let n = (1 + r.below(8)).min(payload.len() - at);
            payload.drain(at..at + n);
        }
        7 => {
            let n = 1 + r.below(8);
            payload.splice(at..at, (0..n).map(|_| r.next() as u8));
        }
        _ => {
            let from = r.below(other.len());
            let n = (1 + r.below(64)).min(other.len() - from);
            let to = (at + n).min(payload.len());
            payload.splice(at..to, other[from..from + n].iter().copied());
        }
    }
    if payload.is_empty() {
        payload.push(r.next() as u8);
    }
}

/// Previous bytes and sources may be anything, too.
fn disturb(r: &mut Random, case: &mut Case) {
    let sources = case.sources.iter_mut().flatten();
    for mem in sources.chain(std::iter::once(&mut case.before)) {
        for _ in 0..r.below(4) {
            let i = r.below(mem.len());
            mem[i] = r.next() as u8;
        }
    }
}

/// Prints a failure, and the payload as a line of hexadecimal digits.
fn report(case: &Case, payload: &[u8], number: u64, why: &str) {
    let hex: String = payload.iter().map(|b| format!("{b:02x}")).collect();
    println!(
        "FAILED: {why}\n  payload {number}, from \"{}\"\n  {hex}",
        case.name
    );
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>());
    let (count, seed) = match (args.next(), args.next()) {
        (Some(Ok(count)), None) => (count, 1),
        (Some(Ok(count)), Some(Ok(seed))) => (count, seed),
        _ => {
            eprintln!("usage: p2u-core-fuzz COUNT [SEED]");
            return ExitCode::from(2);
        }
    };
    let mut r = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let sizes: Vec<Vec<Case>> = SIZES.iter().map(|&n| chunks::all(n)).collect();
    let (mut accepted, mut failures) = (0u64, 0u64);
    for number in 0..count {
        // Large chunks take fifty times as long: one in a hundred.
        let size = if r.below(100) == 0 { 3 } else { r.below(3) };
        let cases = &sizes[size];
        let mut case = cases[r.below(cases.len())].clone();
        let other = &cases[r.below(cases.len())].payload;
        let mut payload = case.payload.clone();
        for _ in 0..=r.below(3) {
            mutate(&mut r, &mut payload, other);
        }
        disturb(&mut r, &mut case);
        match judge(&case, &payload) {
            Ok(good) => accepted += u64::from(good),
            Err(why) => {
                failures += 1;
                report(&case, &payload, number, &why);
            }
        }
    }
    let sets: Vec<u32> = Set::all().into_iter().map(Set::code).collect();
    println!(
        "{count} payloads of seed {seed}, sets {sets:?}: {accepted} accepted, {failures} failures"
    );
    ExitCode::from(u8::from(failures > 0))
}
