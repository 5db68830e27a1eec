//! The codec for Rust: [`apply`], [`straight`], and what a [`Set`] can run. The crate's tests and the fuzz driver are the
//! callers; everybody else comes through the C ABI.

pub use crate::decode::{apply, straight};
pub use crate::format::blocks::Block;
pub use crate::format::flat::Prior;
pub use crate::format::header::Dtype;
pub use crate::format::rows::{Segment, Target};
pub use crate::kernels::Set;

#[cfg(feature = "encode")]
pub use crate::encode::{
    adopt::Adopt, delta::Delta, opaque::Opaque, opaque_delta::OpaqueDelta, scale::RowScales,
    Encoded, Floats, Plan,
};
