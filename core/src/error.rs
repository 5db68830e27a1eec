//! Why a call failed.

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
