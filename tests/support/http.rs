//! Requests to the admin socket by hand, well-formed and rude: a client of its own, to test the server and `lvsctl`.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use lvs_api::ApiError;

use crate::waits::PATIENCE;

/// A connection whose reads end sometime.
pub fn connect(socket: &Path) -> UnixStream {
    try_connect(socket).expect("the director listens")
}

fn try_connect(socket: &Path) -> Option<UnixStream> {
    let stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    Some(stream)
}

/// Status and body of the answer to one request; `None` when the director is gone or goes before it has answered.
pub fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = try_connect(socket)?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: lvsd\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // The director may answer and close before it has read what it refuses: a body, or a client too many at once.
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body.as_bytes());
    let answer = read_all(&mut stream);
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status(&answer)?, body.to_owned()))
}

/// The status in the first line of an answer.
pub fn status(answer: &str) -> Option<u16> {
    answer.split(' ').nth(1)?.parse().ok()
}

/// The refusal in the body of an answer.
pub fn refusal(body: &str) -> ApiError {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body:?}"))
}

/// Everything until the other end closes; a reset counts as closing.
pub fn read_all(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4_096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What is no request.
pub fn garbage() -> Vec<String> {
    let long = format!("GET /v1/version HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    [
        "\0\u{1}\u{2}\u{3}garbage\r\n\r\n",
        "GET\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        &long,
    ]
    .map(str::to_owned)
    .to_vec()
}

/// A hundred clients, each with the beginning of a request that it never finishes: nothing, a head or a body, in turn.
pub fn half_open_clients(connect: impl Fn() -> UnixStream) -> Vec<UnixStream> {
    let client = |index| {
        let mut stream = connect();
        stream.write_all(half_open(index).as_bytes()).expect("it is let in");
        stream
    };
    (0..100).map(client).collect()
}

fn half_open(index: usize) -> &'static str {
    match index % 3 {
        0 => "",
        1 => "GET /v1/version HTTP/1.1\r\nhost",
        _ => "POST /v1/services HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{\"serv",
    }
}
