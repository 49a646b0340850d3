//! `petrel executor`: one process that runs tasks for a driver, which starts it and tells it the rest.

use crate::error::CommandError;
use petrel_engine::error::EngineError;
use petrel_engine::executor::{ExecutorArgs, run_executor};
use std::process::ExitCode;

pub(crate) fn run() -> Result<ExitCode, CommandError> {
    crate::start_logging("info");
    let args = ExecutorArgs::from_env()?;
    match run_executor(&args) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // Not an error of the executor: it never outlives its driver.
        Err(EngineError::DriverLost { executor, address }) => {
            tracing::info!(executor, address, "driver is gone, executor ends");
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error.into()),
    }
}
