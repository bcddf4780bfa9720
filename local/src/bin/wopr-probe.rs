//! Asks a server on this machine whether it is well: `wopr-probe <port> <path>` exits 0 when the answer is 200.
//!
//! Needs nothing but the standard library, so it works in an image that holds little else.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().and_then(|port| port.parse().ok());
    let (Some(port), Some(path), None) = (port, arguments.next(), arguments.next()) else {
        eprintln!("usage: wopr-probe <port> <path>");
        return ExitCode::from(2);
    };
    match wopr_local::probe::http(port, &path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("unhealthy: {error}");
            ExitCode::FAILURE
        }
    }
}
