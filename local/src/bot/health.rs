//! `wopr-bot health`: asks a bot on this machine whether it is well. Needs nothing but a socket, so it works in an image
//! that holds the program alone.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Less than the timeout of any image's health check.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks for `/health`.
///
/// # Errors
/// When nothing answers in time, or the answer is not 200.
pub fn probe(port: u16) -> io::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.lines().next().unwrap_or_default();
    if status.split_whitespace().nth(1) == Some("200") {
        return Ok(());
    }
    Err(io::Error::other(format!("/health answered {status:?}")))
}
