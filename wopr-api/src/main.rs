//! `wopr-api`: serve, migrate, and say what would be served.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
