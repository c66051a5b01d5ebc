//! The optional TCP listener: `GET /metrics` for a Prometheus on another machine, and nothing else.
//!
//! In:  connections to `metrics.listen`. Out: the text. Never: anything that changes or names more than the metrics;
//! more clients at once than [`CLIENTS_MAX`].

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use tokio::sync::Semaphore;
use tokio::time::{Duration, sleep};

use crate::mgmt::admin::{Admin, observe, serve};

/// Clients that may be connected at once. A further connection is closed without an answer.
const CLIENTS_MAX: usize = 16;

/// The pause after `accept` failed because descriptors or memory ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens the listener; other programs' sockets are left alone.
///
/// # Errors
/// When the address is taken or not of this machine.
pub fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves until the future is dropped; without a listener it only waits.
///
/// # Errors
/// When the runtime does not take the listener.
pub async fn serve(listener: Option<TcpListener>, admin: Arc<Admin>) -> io::Result<()> {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let limits = admin.limits;
    let router = Router::new()
        .route("/metrics", get(observe::get_metrics))
        .with_state(admin);
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("metrics: {error}; trying again");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let router = router.clone();
        tokio::spawn(async move {
            serve::converse(stream, router, limits).await;
            drop(place);
        });
    }
}
