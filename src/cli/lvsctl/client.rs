//! HTTP/1.1 over the daemon's Unix socket.

use std::path::{Path, PathBuf};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use lvs_api::{API_VERSION, ApiError, ErrorCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::lvsctl::run::Failure;

/// The daemon's admin socket. Each request is a connection of its own.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
}

/// An answer whose body is still unread.
pub type Answer = Response<Incoming>;

impl Client {
    /// A client of the daemon behind `socket`.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Sends `GET` for `path` (below `/v1`) and reads the answer as `T`.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        read(self.send(Method::GET, path, None).await?).await
    }

    /// Sends any method with a JSON body. Returns the answer's body as text.
    pub async fn change(&self, method: Method, path: &str, body: Option<&impl Serialize>) -> Result<String, Failure> {
        let body = body.map(|body| serde_json::to_vec(body).expect("plain data"));
        let answer = self.send(method, path, body).await?;
        let bytes = collect(answer).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Sends a request. An error status becomes a [`Failure`].
    pub async fn send(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Answer, Failure> {
        let unreachable = |error: std::io::Error| Failure::Unreachable {
            socket: self.socket.clone(),
            error,
        };
        let stream = UnixStream::connect(&self.socket).await.map_err(unreachable)?;
        let broken = |error: hyper::Error| Failure::Unreachable {
            socket: self.socket.clone(),
            error: std::io::Error::other(error),
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(format!("/{API_VERSION}{path}"))
            .header("host", "lvsd")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| Failure::Usage(error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(broken)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let bytes = collect(answer).await?;
        Err(Failure::Refused(serde_json::from_slice(&bytes).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&bytes);
            ApiError::new(ErrorCode::BadRequest, format!("the daemon answered {status}: {text}"))
        })))
    }
}

/// Reads an answer as `T`.
pub async fn read<T: DeserializeOwned>(answer: Answer) -> Result<T, Failure> {
    serde_json::from_slice(&collect(answer).await?).map_err(|error| Failure::Misunderstood(error.to_string()))
}

/// The whole body of an answer.
pub async fn collect(answer: Answer) -> Result<Bytes, Failure> {
    let collected = answer.into_body().collect().await;
    Ok(collected
        .map_err(|error| Failure::Misunderstood(error.to_string()))?
        .to_bytes())
}

/// Escapes `text` for use as one segment of a path or one value of a query.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b':' | b'-' | b'_' => escaped.push(char::from(byte)),
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}
