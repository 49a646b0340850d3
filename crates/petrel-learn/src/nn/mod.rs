//! How is a small network trained? Batched forward and backward passes, categorical heads, and Adam, on flat buffers.
//!
//! The layout of parameters is that of [`petrel_policy::network`]. Inputs are sample-major (one row per sample), because
//! that is how observations arrive; everything behind the first layer is feature-major (one contiguous run of samples per
//! feature), because every element-wise kernel then works on whole vectors of samples without a horizontal operation.

pub mod adam;
pub mod categorical;
pub(crate) mod kernels;
pub mod mlp;

pub use adam::{Adam, AdamSettings};
pub use categorical::Categorical;
pub use mlp::{Tape, orthogonal};
