//! Streams of symbols: frequency tables, and the states of the lanes.

#[cfg(feature = "encode")]
pub mod encoder;
pub mod rans;
pub mod table;
