//! Accepts clients and bounds what each may cost.
//!
//! In:  connections. Out: requests to the router, one task a client.
//! Never: lets a client that sends or reads nothing keep its place, or more clients in than are allowed.

use std::io;
use std::sync::Arc;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use lvs_api::{ApiError, ErrorCode};
use nix::unistd::{Gid, Uid};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{Duration, sleep};
use tokio_io_timeout::TimeoutStream;

use super::{Admin, AdminLimits, routes};
use crate::mgmt::unix_socket::UnixSocket;

/// The longest request head in bytes. At most as much of a body is buffered at once.
const BUFFER_MAX_BYTES: usize = 64 << 10;

/// The pause after `accept` failed because descriptors or memory ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the future is dropped.
pub async fn serve(socket: UnixSocket, admin: Arc<Admin>) -> io::Result<()> {
    let listener = UnixListener::from_std(socket.listener.try_clone()?)?;
    let limits = admin.limits;
    let places = Arc::new(Semaphore::new(limits.clients_max));
    let router = routes::router(admin);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("admin socket: {error}; trying again");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(error) = admit(&stream, &socket) {
            refuse(&stream, &error);
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            let message = format!("{} clients are connected already; try again later", limits.clients_max);
            refuse(&stream, &ApiError::new(ErrorCode::Busy, message));
            continue;
        };
        let router = router.clone();
        tokio::spawn(async move {
            converse(stream, router, limits).await;
            drop(place);
        });
    }
}

fn admit(stream: &UnixStream, socket: &UnixSocket) -> Result<(), ApiError> {
    let forbidden = |message: String| ApiError::new(ErrorCode::Forbidden, message);
    let peer = stream
        .peer_cred()
        .map_err(|error| forbidden(format!("who you are is unknown: {error}")))?;
    if socket.gate.admits(Uid::from_raw(peer.uid()), Gid::from_raw(peer.gid())) {
        return Ok(());
    }
    let message = format!(
        "user {} may not control lvsd; be root or a member of the socket's group",
        peer.uid()
    );
    Err(forbidden(message))
}

/// Answers without reading the request. What does not fit the socket's buffer at once is lost.
fn refuse(stream: &UnixStream, error: &ApiError) {
    let body = serde_json::to_string(error).unwrap_or_default();
    let reason = if error.code == ErrorCode::Busy {
        "Service Unavailable"
    } else {
        "Forbidden"
    };
    let answer = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        error.code.status(),
        body.len()
    );
    // The client is gone or will see the connection close.
    let _ = stream.try_write(answer.as_bytes());
}

/// Serves one client until it goes, or is slower than the limits allow.
pub(crate) async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    router: Router,
    limits: AdminLimits,
) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.write_timeout));
    let conversation = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(BUFFER_MAX_BYTES)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router))
        .await;
    if let Err(error) = conversation {
        log::debug!("a client: {error}");
    }
}
