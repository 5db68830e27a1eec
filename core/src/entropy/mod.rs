//! Streams of symbols: frequency tables, and the states of the lanes.

pub mod rans;
pub mod table;
