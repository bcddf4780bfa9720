//! Speaking a text: one run of the synthesiser, which gets the text on its input and writes a WAV file to its output.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

/// Words a minute at normal speed, espeak-ng's own default.
const WORDS_PER_MINUTE: u32 = 175;

/// What is spoken.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) text: String,
    /// A voice of the synthesiser.
    pub(super) voice: &'static str,
    /// In hundredths of normal speed.
    pub(super) speed_percent: u32,
}

/// Why nothing was spoken.
#[derive(Debug, thiserror::Error)]
pub(super) enum SynthesisError {
    /// The synthesiser could not be run.
    #[error("the synthesiser could not be run")]
    Run(#[from] std::io::Error),
    /// It took too long, and was killed.
    #[error("the synthesiser took longer than {0:?}")]
    TooLong(Duration),
    /// It ended in failure.
    #[error("the synthesiser ended with {status}: {said}")]
    Failed { status: std::process::ExitStatus, said: String },
}

/// Speaks; answers with a WAV file.
pub(super) async fn speak(program: &Path, order: &Order, patience: Duration) -> Result<Vec<u8>, SynthesisError> {
    let words_per_minute = WORDS_PER_MINUTE * order.speed_percent / 100;
    let mut child = Command::new(program)
        .args(["--stdout", "--stdin", "-b", "1", "-v", order.voice, "-s", &words_per_minute.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let input = child.stdin.take();
    let working = async {
        let write = async {
            if let Some(mut input) = input {
                input.write_all(order.text.as_bytes()).await?;
                input.shutdown().await?;
            }
            Ok::<(), std::io::Error>(())
        };
        let (written, output) = tokio::join!(write, child.wait_with_output());
        let output = output?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(SynthesisError::Failed { status: output.status, said });
        }
        written?;
        Ok(with_sizes(output.stdout))
    };
    timeout(patience, working).await.map_err(|_elapsed| SynthesisError::TooLong(patience))?
}

/// Fills in the two sizes of a WAV head. The synthesiser writes to a pipe, where it cannot go back and do so itself.
fn with_sizes(mut file: Vec<u8>) -> Vec<u8> {
    const HEAD: usize = 44;
    if file.len() < HEAD || !file.starts_with(b"RIFF") || file.get(36..40) != Some(b"data") {
        return file;
    }
    let size = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_le_bytes();
    let (whole, sound) = (size(file.len() - 8), size(file.len() - HEAD));
    file[4..8].copy_from_slice(&whole);
    file[40..44].copy_from_slice(&sound);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sizes_in_the_head_are_those_of_the_file() {
        let mut file = b"RIFF\x24\xf0\xff\x7fWAVEfmt \x10\0\0\0\x01\0\x01\0".to_vec();
        file.resize(36, 0);
        file.extend_from_slice(b"data\0\xf0\xff\x7f");
        file.extend_from_slice(&[1, 2, 3, 4]);
        let fixed = with_sizes(file);
        assert_eq!(fixed[4..8], 40_u32.to_le_bytes());
        assert_eq!(fixed[40..44], 4_u32.to_le_bytes());
        assert_eq!(with_sizes(b"no sound".to_vec()), b"no sound");
    }
}
