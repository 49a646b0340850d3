//! Did somebody ask for the end? Counts Ctrl-C and SIGTERM: the first one ends a job cleanly, the second at once.

use crate::error::CommandError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code of a program that a second Ctrl-C ended.
const EXIT_INTERRUPTED: i32 = 130;

/// Whether a signal came.
#[derive(Clone)]
pub(crate) struct Interrupts {
    asked: Arc<AtomicBool>,
}

impl Interrupts {
    /// Listens from now on.
    pub(crate) fn listen() -> Result<Self, CommandError> {
        let failed = || CommandError::io("listening for Ctrl-C");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed())?;
        let (interrupt, terminate) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt()).map_err(failed())?, signal(SignalKind::terminate()).map_err(failed())?)
        };
        let interrupts = Self { asked: Arc::default() };
        let counting = interrupts.clone();
        std::thread::Builder::new()
            .name("interrupts".to_string())
            .spawn(move || runtime.block_on(counting.count(interrupt, terminate)))
            .map_err(failed())?;
        Ok(interrupts)
    }

    /// True once somebody asked for the end.
    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// The end has begun for another reason: the next signal ends the program at once.
    pub(crate) fn next_one_is_final(&self) {
        self.asked.store(true, Ordering::SeqCst);
    }

    async fn count(self, mut interrupt: Signal, mut terminate: Signal) {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if self.asked.swap(true, Ordering::SeqCst) {
                // The children end with this process; everything durable is on disk already.
                std::process::exit(EXIT_INTERRUPTED);
            }
        }
    }
}
