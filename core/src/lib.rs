//! P2U core: the codec's kernels behind a C ABI. Only `std`, no other crates.
//!
//! The wire formats are in SPEC.md; each module's comment names its section.

// A row number counts through several parallel arrays here.
#![allow(clippy::needless_range_loop)]

mod abi;
mod adopt;
mod adopt_encode;
mod bins;
mod blocks;
mod chunk;
mod convert;
mod delta;
mod delta_encode;
mod dispatch;
mod encode;
mod fields;
mod flat;
mod float;
mod opaque;
mod opaque_delta;
mod quantise;
mod rans;
mod rans_encode;
mod refine;
mod rows;
mod scale;
mod sha256;
mod simd;
mod symbols;
mod table;
mod wire;

/// Why a chunk was refused. The numbers are part of the C ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Error {
    /// The chunk ends before its content does.
    Truncated = 1,
    /// A field has a value that the format does not allow.
    Malformed = 2,
    /// The chunk is well-formed but is not for these tensors.
    Mismatch = 3,
    /// The caller's arguments do not fit together.
    Argument = 4,
    /// A kernel panicked; a bug.
    Internal = 5,
}
