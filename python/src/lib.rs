//! The worlds of `petrel-sim` for Python: many worlds of one kind, stepped together without the interpreter lock.
//!
//! Only arrays and numbers pass the border; spaces, registration and Gymnasium's conventions are in `petrel_gym/*.py`.

mod batch;
mod classic;
mod queue;
mod rows;

use pyo3::prelude::*;

/// Compiled part of `petrel_gym`; use the environments instead.
#[pymodule]
mod _worlds {
    #[pymodule_export]
    use super::classic::ClassicWorlds;
    #[pymodule_export]
    use super::queue::{QueueWorlds, queue_raw_names};
    #[pymodule_export]
    use super::rows::scenario_weights;
}
