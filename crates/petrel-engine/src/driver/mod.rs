//! driver
pub mod batch_plan;
pub mod schedule;
pub mod watermark;
