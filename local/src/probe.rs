//! Asks a server on this machine whether it is well. Needs nothing but a socket, so it works in an image that holds a
//! program alone.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Less than the timeout of any image's health check.
const PATIENCE: Duration = Duration::from_secs(2);
/// As much of an answer as is looked at.
const ANSWER_BYTES_MAX: u64 = 4096;
/// Longer than any description of a container.
const BODY_BYTES_MAX: u64 = 4 << 20;

/// Asks a port of this machine for a path.
///
/// # Errors
/// When nothing answers in time, or the answer is not 200.
pub fn http(port: u16, path: &str) -> io::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    ask(stream, path)
}

/// Asks the server behind a socket file for a path.
///
/// # Errors
/// When nothing answers in time, or the answer is not 200.
pub fn unix(socket: &Path, path: &str) -> io::Result<()> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    ask(stream, path)
}

/// Asks the server behind a socket file for a path, and answers with the status and the body.
///
/// # Errors
/// When nothing answers in time, or something that is no answer.
pub fn unix_answer(socket: &Path, path: &str) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // In this version of the protocol a body is not cut into chunks, and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(BODY_BYTES_MAX).read_to_end(&mut answer)?;
    let no_answer = || io::Error::new(io::ErrorKind::InvalidData, format!("{path}: no answer of HTTP"));
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(no_answer)?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).ok_or_else(no_answer)?;
    Ok((status, answer.split_off(end + 4)))
}

fn ask(mut stream: impl Read + Write, path: &str) -> io::Result<()> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().unwrap_or_default();
    if status.split_whitespace().nth(1) == Some("200") {
        return Ok(());
    }
    Err(io::Error::other(format!("{path} answered {status:?}")))
}
