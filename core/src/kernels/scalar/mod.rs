//! The portable kernels, which those of every other instruction set equal byte for byte.

use super::{Isa, Task};

pub mod adopt;
pub mod base;
pub mod bins;
pub mod bits;
pub mod cells;
pub mod delta;
pub mod fields;
pub mod gaps;
pub mod rans;
#[cfg(feature = "encode")]
pub mod squares;
#[cfg(feature = "encode")]
pub mod words;

/// No instructions but those that the compiler takes anyway.
#[derive(Clone, Copy)]
pub struct Scalar;

impl Isa for Scalar {
    #[inline(never)]
    fn enter<T: Task>(self, task: T) -> T::Out {
        task.run(self)
    }
}
