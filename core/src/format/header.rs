//! Kinds of chunks, and their elements.

use crate::format::float::Format;
use crate::Error;

pub const KIND_OPAQUE: u8 = 0;
pub const KIND_BASE: u8 = 1;
pub const KIND_REFINE: u8 = 2;
/// Base and exact refinement in one: for tensors that have no lower precision.
pub const KIND_FULL: u8 = 3;
/// Differences to another version.
pub const KIND_DELTA: u8 = 4;
/// The same for elements without levels.
pub const KIND_OPAQUE_DELTA: u8 = 5;
/// Floats from what somebody quantised them to.
pub const KIND_ADOPT: u8 = 6;
/// Differences to another version, where few elements differ.
pub const KIND_GAPS: u8 = 7;

/// Contexts of a base stream: quarter octave of the row's scale, times four, plus column class.
pub const CLASSES: usize = 16;

/// Column classes: how a column's scale compares with the others of its tensor.
pub const COLUMN_CLASSES: i16 = 4;

/// An expression with `$f` as the format of a float dtype, which the caller has made sure of.
///
/// What is generic over formats is compiled three times for each instruction set, so code that knows
/// chunks takes a dtype where it can, and only kernels are generic.
macro_rules! by_format {
    ($dtype:expr, $f:ident => $body:expr) => {
        match $dtype {
            $crate::format::header::Dtype::F32 => {
                type $f = $crate::format::float::F32;
                $body
            }
            $crate::format::header::Dtype::F16 => {
                type $f = $crate::format::float::F16;
                $body
            }
            _ => {
                type $f = $crate::format::float::BF16;
                $body
            }
        }
    };
}

pub(crate) use by_format;

/// Element types of the ABI and the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Dtype {
    Opaque = 0,
    F32 = 1,
    F16 = 2,
    BF16 = 3,
}

impl Dtype {
    pub fn from_code(code: u32) -> Result<Self, Error> {
        match code {
            0 => Ok(Dtype::Opaque),
            1 => Ok(Dtype::F32),
            2 => Ok(Dtype::F16),
            3 => Ok(Dtype::BF16),
            _ => Err(Error::Argument),
        }
    }
    /// Bytes of a float.
    pub fn bytes(self) -> usize {
        by_format!(self, F => F::BYTES)
    }
    /// Stored mantissa bits of a float.
    pub fn mantissa(self) -> u32 {
        by_format!(self, F => F::MANT)
    }
}

/// A result with `$f` as the format of a float dtype; other dtypes are an error.
#[cfg(feature = "encode")]
macro_rules! with_float {
    ($dtype:expr, $f:ident => $body:expr) => {
        match $dtype {
            $crate::format::header::Dtype::F32 => {
                type $f = $crate::format::float::F32;
                $body
            }
            $crate::format::header::Dtype::F16 => {
                type $f = $crate::format::float::F16;
                $body
            }
            $crate::format::header::Dtype::BF16 => {
                type $f = $crate::format::float::BF16;
                $body
            }
            $crate::format::header::Dtype::Opaque => Err($crate::Error::Argument),
        }
    };
}

#[cfg(feature = "encode")]
pub(crate) use with_float;
