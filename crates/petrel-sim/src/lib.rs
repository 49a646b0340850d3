//! (being written)
pub mod classic;
pub mod scenario;
