//! P2U core: the codec's kernels behind a C ABI. Only `std`, no other crates.
//!
//! The wire formats are in SPEC.md; each module's comment names its section.

#![deny(clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]
// A row number counts through several parallel arrays here.
#![allow(clippy::needless_range_loop)]

mod abi;
mod api;
mod decode;
#[cfg(feature = "encode")]
mod encode;
mod entropy;
mod error;
mod format;
#[cfg(not(target_arch = "wasm32"))]
mod hash;
mod kernels;

pub use api::*;
pub use error::Error;
