//! Where does a server run, and how does it end?

use crate::connections::BoundedListener;
use crate::many_jobs::JobsSource;
use crate::{DashError, DashSources, many_jobs, one_job};
use axum::Router;
use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// Threads for callbacks that may wait for a disk or a lock.
const BLOCKING_THREADS: usize = 4;

/// How many peers may be connected, and for how long without a word?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections at once; further ones wait.
    pub connections: usize,
    /// A connection on which nothing moved for so long is closed: its peer may be gone.
    pub idle: Duration,
}

impl ConnectionLimits {
    /// For the server of one job.
    pub const ONE_JOB: Self = Self { connections: 256, idle: Duration::from_secs(300) };
}

/// A running server; dropping it closes the port and all streams.
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
            tracing::error!("the thread of the server panicked");
        }
    }
}

/// Serves page, API and metrics of one job on `listen` (port 0 takes a free one) from a thread of its own. Must not be
/// dropped inside one of the callbacks in `sources`.
///
/// # Errors
/// [`DashError::Occupied`] naming the address when something else listens there,
/// [`DashError::Listen`], [`DashError::Start`].
pub fn serve(listen: SocketAddr, sources: DashSources) -> Result<DashHandle, DashError> {
    let shared = Arc::new(one_job::Shared::new(sources));
    let recording = Arc::clone(&shared);
    start(listen, ConnectionLimits::ONE_JOB, one_job::router(shared), async move { recording.record().await })
}

/// Serves overview, pages, API and metrics of many jobs on `listen`, the same way.
///
/// # Errors
/// As [`serve`].
pub fn serve_jobs(
    listen: SocketAddr,
    source: Arc<dyn JobsSource>,
    limits: ConnectionLimits,
) -> Result<DashHandle, DashError> {
    let shared = Arc::new(many_jobs::Shared::new(source));
    start(listen, limits, many_jobs::router(Arc::clone(&shared)), shared.refresh())
}

fn start(
    listen: SocketAddr,
    limits: ConnectionLimits,
    router: Router,
    beside: impl Future<Output = ()> + Send + 'static,
) -> Result<DashHandle, DashError> {
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
        BoundedListener::new(tokio::net::TcpListener::from_std(listener).map_err(failed)?, limits)
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let run = move || {
        runtime.block_on(async move {
            tokio::spawn(beside);
            tokio::select! {
                // Resolves when the handle is dropped, with an error that says just that.
                _ = stopped => {}
                ended = axum::serve(listener, router) => {
                    tracing::error!(?ended, "the server ended by itself");
                }
            }
        });
    };
    let thread = std::thread::Builder::new().name("dash".to_string()).spawn(run).map_err(started)?;
    tracing::info!(%address, "serving");
    Ok(DashHandle { address, stop: Some(stop), thread: Some(thread) })
}
