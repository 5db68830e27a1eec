//! Bytes of a chunk and the caller's memory: what decoder and encoder have in common.

pub mod blocks;
pub mod convert;
pub mod flat;
pub mod float;
pub mod header;
pub mod refine;
pub mod rows;
pub mod runs;
pub mod wire;
