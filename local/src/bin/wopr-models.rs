//! Writes a small model: `wopr-models <kind> <file>`.

use std::process::ExitCode;

use wopr_local::models;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(kind), Some(file), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        eprintln!("usage: wopr-models llama|whisper <file>");
        return ExitCode::from(2);
    };
    let model = match kind.as_str() {
        "llama" => models::gguf::model(),
        "whisper" => models::whisper::model(),
        other => {
            eprintln!("there is no kind of model called {other}");
            return ExitCode::from(2);
        }
    };
    match std::fs::write(&file, model) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{file} could not be written: {error}");
            ExitCode::FAILURE
        }
    }
}
