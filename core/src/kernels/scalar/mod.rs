//! The portable kernels, which every other instruction set equals byte for byte.

pub mod level;
pub mod quantise;
pub mod raw;
