//! `logs`: what a container writes.

use bollard::{container::LogOutput, query_parameters::LogsOptionsBuilder};
use futures_util::StreamExt;
use serde::Serialize;

use crate::{cli::LogsArgs, engine, exec::sites::find, paths::Paths, ui::Ui};

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &LogsArgs) -> anyhow::Result<()> {
    let (site, name) = find(paths, engine::require().await?, &args.service).await?;
    let tail = args.tail.to_string();
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).tail(&tail).follow(args.follow).build();
    let mut chunks = site.engine.logs(&name, Some(options));
    if args.json {
        let mut lines = Lines::default();
        while let Some(chunk) = chunks.next().await {
            for line in lines.take(&chunk?) {
                ui.json_line(&line)?;
            }
        }
        return lines.rest().iter().try_for_each(|line| ui.json_line(line));
    }
    let mut rest = String::new();
    while let Some(chunk) = chunks.next().await {
        rest.push_str(&chunk?.to_string());
        while let Some((line, after)) = rest.split_once('\n') {
            ui.line(line.trim_end_matches('\r'));
            rest = after.to_owned();
        }
    }
    if !rest.is_empty() {
        ui.line(rest);
    }
    Ok(())
}

/// A line, as `--json` shows it.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Line {
    stream: Stream,
    text: String,
}

/// Where a line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
enum Stream {
    Stdout,
    Stderr,
}

/// Lines out of chunks; what is not ended yet is kept, by stream.
#[derive(Debug, Default)]
struct Lines {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Lines {
    fn take(&mut self, chunk: &LogOutput) -> Vec<Line> {
        let (stream, rest) = match chunk {
            LogOutput::StdErr { .. } => (Stream::Stderr, &mut self.stderr),
            LogOutput::StdOut { .. } | LogOutput::StdIn { .. } | LogOutput::Console { .. } => {
                (Stream::Stdout, &mut self.stdout)
            }
        };
        rest.extend_from_slice(chunk.as_ref());
        let mut lines = Vec::new();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            lines.push(Line::new(stream, &line));
        }
        lines
    }

    /// What was written and never ended.
    fn rest(self) -> Vec<Line> {
        let both = [(Stream::Stdout, self.stdout), (Stream::Stderr, self.stderr)];
        let left = both.iter().filter(|(_, rest)| !rest.is_empty());
        left.map(|(stream, rest)| Line::new(*stream, rest)).collect()
    }
}

impl Line {
    fn new(stream: Stream, bytes: &[u8]) -> Self {
        Self { stream, text: String::from_utf8_lossy(bytes).trim_end_matches(['\r', '\n']).to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_by_stream() {
        let stdout = |text: &'static str| LogOutput::StdOut { message: text.into() };
        let stderr = |text: &'static str| LogOutput::StdErr { message: text.into() };
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for chunk in [stdout("a"), stderr("x\ny"), stdout("b\r\nc\nd"), stderr("\n")] {
            all.extend(lines.take(&chunk));
        }
        all.extend(lines.rest());
        let seen: Vec<(Stream, &str)> = all.iter().map(|line| (line.stream, line.text.as_str())).collect();
        let (out, err) = (Stream::Stdout, Stream::Stderr);
        assert_eq!(seen, [(err, "x"), (out, "ab"), (out, "c"), (err, "y"), (out, "d")]);
    }

    #[test]
    fn the_schema_is_that_of_a_line() {
        let line = Line::new(Stream::Stderr, b"a\n");
        crate::runbook::assert_schema_fits("logs", &schemars::schema_for!(Line), &line);
    }
}
