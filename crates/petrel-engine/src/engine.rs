//! What must an engine offer to be scaled by Petrel?

use crate::error::EngineError;
use crossbeam_channel::Receiver;
use petrel_core::{DesiredState, Heartbeat};
use std::time::Duration;

/// Something noteworthy that an engine did. A slow reader misses events rather than slowing the engine.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineEvent {
    /// An executor takes tasks from now on.
    ExecutorRunning {
        /// Its number.
        executor: u64,
        /// Its process.
        pid: u32,
    },
    /// An executor ended that should not have.
    ExecutorLost {
        /// Its number.
        executor: u64,
        /// Tasks that run again elsewhere.
        tasks_lost: usize,
        /// How it was noticed.
        detail: String,
    },
    /// An executor left as it was asked to.
    ExecutorLeft {
        /// Its number.
        executor: u64,
    },
    /// A batch was committed.
    BatchCommitted {
        /// Its number.
        batch: u64,
        /// Records that entered the sink.
        records: u64,
    },
    /// Lines of a batch are in the topics.
    BatchPublished {
        /// Its number.
        batch: u64,
    },
    /// Small files became one.
    FilesMerged {
        /// How many.
        files: usize,
    },
}

/// A streaming job whose executors come and go as it is told. The embedded [`crate::driver::Driver`] is one.
///
/// An engine is told desired state, never commands: [`Engine::apply`] may be repeated, late or lost without harm.
pub trait Engine: Send + Sync {
    /// Takes over a desired state; one that is older than the last is ignored.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for another protocol version or a tier that this engine does not have.
    fn apply(&self, desired: &DesiredState) -> Result<(), EngineError>;

    /// The engine as it is now, with the batches since the last acknowledged heartbeat.
    fn heartbeat(&self) -> Heartbeat;

    /// The heartbeat with this sequence number arrived: its batches need not be sent again.
    fn acknowledge(&self, sequence: u64);

    /// Commits everything that is in the log now, lets the executors leave and ends the job. Windows that are open stay
    /// open in the state. Returns when that is done.
    ///
    /// # Errors
    /// [`EngineError::NotDrained`] after `deadline`; the job then ends all the same and loses nothing, as the records
    /// stay in the log.
    fn drain(&self, deadline: Duration) -> Result<(), EngineError>;

    /// Ends the job at once. A batch that runs is given up and done again by the next start.
    fn stop(&self);

    /// Waits until the job has ended.
    ///
    /// # Errors
    /// Why it ended, when nobody asked for it.
    fn wait(&self) -> Result<(), EngineError>;

    /// Events from now on; all receivers share one bounded queue.
    fn events(&self) -> Receiver<EngineEvent>;
}
