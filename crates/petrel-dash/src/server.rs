//! Where does the page run, and how does it end?

use crate::connections::BoundedListener;
use crate::routes::{Shared, router};
use crate::{DashError, DashSources};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Connections at once; further ones wait.
const CONNECTION_LIMIT: usize = 256;
/// Threads for heartbeats and bursts, which may wait for the controller's lock.
const BLOCKING_THREADS: usize = 4;

/// A running page; dropping it closes the port and all streams.
#[derive(Debug)]
pub struct DashHandle {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DashHandle {
    /// The address it listens on, with the port that was chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for DashHandle {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of the page panicked");
        }
    }
}

/// Serves page, API and metrics on `listen` (port 0 takes a free one) from a thread of its own. Must
/// not be dropped inside one of the callbacks in `sources`.
///
/// # Errors
/// [`DashError::Occupied`] naming the address when something else listens there,
/// [`DashError::Listen`], [`DashError::Start`].
pub fn serve(listen: SocketAddr, sources: DashSources) -> Result<DashHandle, DashError> {
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AddrInUse => DashError::Occupied { address: listen },
        _ => DashError::Listen { address: listen, source },
    };
    let listener = TcpListener::bind(listen).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let started = |source| DashError::Start { source };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(started)?;
    let listener = {
        let _inside = runtime.enter();
        BoundedListener::new(tokio::net::TcpListener::from_std(listener).map_err(failed)?, CONNECTION_LIMIT)
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let run = move || {
        runtime.block_on(async move {
            let shared = Arc::new(Shared::new(sources));
            let recording = Arc::clone(&shared);
            tokio::spawn(async move { recording.record().await });
            tokio::select! {
                // Resolves when the handle is dropped, with an error that says just that.
                _ = stopped => {}
                ended = axum::serve(listener, router(shared)) => {
                    tracing::error!(?ended, "the page ended by itself");
                }
            }
        });
    };
    let thread = std::thread::Builder::new().name("dash".to_string()).spawn(run).map_err(started)?;
    tracing::info!(%address, "page is served");
    Ok(DashHandle { address, stop: Some(stop), thread: Some(thread) })
}
