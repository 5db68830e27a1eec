//! Why a call failed, and at which part of a chunk.

/// Why a chunk was refused. The numbers are part of the C ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
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

/// Parts of a chunk, as SPEC.md calls them. The numbers are part of the C ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Place {
    /// None in particular.
    Chunk = 0,
    Header = 1,
    Scales = 2,
    Columns = 3,
    Symbols = 4,
    Patches = 5,
    Exponents = 6,
    TrailingZeros = 7,
    Shifts = 8,
    Zeros = 9,
    Coarse = 10,
    Octaves = 11,
    Positions = 12,
    FinerPositions = 13,
    LowPlane = 14,
    UpperFields = 15,
    Planes = 16,
    Bitmap = 17,
    RawFields = 18,
    /// Behind the last part.
    End = 19,
}

/// Why a call failed, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    pub kind: Kind,
    pub place: Place,
}

#[allow(non_upper_case_globals)]
impl Error {
    pub const Truncated: Error = Error::of(Kind::Truncated);
    pub const Malformed: Error = Error::of(Kind::Malformed);
    pub const Mismatch: Error = Error::of(Kind::Mismatch);
    pub const Argument: Error = Error::of(Kind::Argument);
    pub const Internal: Error = Error::of(Kind::Internal);

    const fn of(kind: Kind) -> Self {
        Error {
            kind,
            place: Place::Chunk,
        }
    }

    /// The status of the C ABI: the kind, and in the next byte the place.
    pub fn status(self) -> i32 {
        i32::from(self.kind as u8) | i32::from(self.place as u8) << 8
    }
}

/// Says where a result failed, unless it says so itself.
pub trait Located {
    fn at(self, place: Place) -> Self;
}

impl<T> Located for Result<T, Error> {
    #[inline(always)]
    fn at(self, place: Place) -> Self {
        self.map_err(|e| match e.place {
            Place::Chunk => Error { place, ..e },
            _ => e,
        })
    }
}
