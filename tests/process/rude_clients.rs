//! What rude clients of the admin socket send: to the socket alone, and to the whole daemon.

/// Bytes that are no request.
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

/// The beginning of a request that is never finished: nothing, a head or a body, in turn.
pub fn half_open(index: usize) -> &'static str {
    match index % 3 {
        0 => "",
        1 => "GET /v1/version HTTP/1.1\r\nhost",
        _ => "POST /v1/services HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{\"serv",
    }
}
