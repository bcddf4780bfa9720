//! `wopr-gpu-node`: the daemon, and what a script or a container engine asks of it.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
