//! What can go wrong when the page is served?

use std::net::SocketAddr;

/// Errors of the dashboard.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DashError {
    /// Something else listens there already.
    #[error("{address} is in use by another program; choose another address for the page (port 0 takes a free one)")]
    Occupied {
        /// Address asked for.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("listen for the page on {address}: {source}")]
    Listen {
        /// Address asked for.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The thread or its runtime could not be started.
    #[error("start the thread of the page: {source}")]
    Start {
        /// Why not.
        source: std::io::Error,
    },
}
