//! Everything that is shown goes through here: one line per fact, colour and spinners only on a terminal.

use std::{
    fmt::Display,
    io::{IsTerminal, Write},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::account::{Fact, Kind};
use crate::failure::Failure;

const GREEN: &str = "32";
const RED: &str = "31";
const YELLOW: &str = "33";
const DIM: &str = "2";

/// The operator's screen.
#[derive(Debug, Clone)]
pub(crate) struct Ui {
    colour: bool,
    /// Present on a terminal only: elsewhere lines are final when they are written.
    spinners: Option<MultiProgress>,
    /// Lines go to standard error, because standard output is for a program that reads JSON.
    beside_json: bool,
    /// Nothing is shown but errors.
    silent: bool,
    /// Present if what is shown is kept for an account of it.
    kept: Option<Arc<Mutex<Vec<Fact>>>>,
}

impl Ui {
    /// Colour needs a terminal and no `NO_COLOR`; spinners need a terminal.
    pub(crate) fn detect() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colour: terminal && !no_colour,
            spinners: terminal.then(MultiProgress::new),
            beside_json: false,
            silent: false,
            kept: None,
        }
    }

    /// A screen for work that is told about by whoever has it done: only errors are shown.
    #[must_use]
    pub(crate) fn silent(&self) -> Self {
        Self { silent: true, spinners: None, kept: None, ..self.clone() }
    }

    /// This screen; if JSON is asked for, on standard error.
    #[must_use]
    pub(crate) fn beside_json(&self, json: bool) -> Self {
        Self { beside_json: json || self.kept.is_some(), ..self.clone() }
    }

    /// This screen, on standard error, keeping what is shown.
    pub(crate) fn keeping(&self) -> Self {
        Self { beside_json: true, kept: Some(Arc::default()), ..self.clone() }
    }

    /// What was shown since it is kept.
    pub(crate) fn facts(&self) -> Vec<Fact> {
        let kept = self.kept.iter().flat_map(|kept| kept.lock().unwrap_or_else(PoisonError::into_inner).clone());
        kept.collect()
    }

    fn keep(&self, kind: Kind, text: impl Display, took: Option<Duration>) {
        if let Some(kept) = &self.kept {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push(Fact::new(kind, text.to_string(), took));
        }
    }

    /// Where a program that works for this one writes to: not between what another program reads.
    pub(crate) fn stdout(&self) -> Stdio {
        if self.beside_json { std::io::stderr().into() } else { Stdio::inherit() }
    }

    /// Writes what a program is to read to standard output.
    pub(crate) fn json(&self, value: &impl Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(value).context("the answer cannot be written as JSON")?;
        Self { beside_json: false, ..self.clone() }.write(text);
        Ok(())
    }

    /// Writes one of several things that a program is to read, on a line of its own.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> anyhow::Result<()> {
        let text = serde_json::to_string(value).context("the answer cannot be written as JSON")?;
        Self { beside_json: false, ..self.clone() }.write(text);
        Ok(())
    }

    fn paint(&self, code: &str, text: impl Display) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_string() }
    }

    /// Writes one line for the operator.
    pub(crate) fn line(&self, text: impl Display) {
        self.keep(Kind::Line, &text, None);
        self.write(text);
    }

    fn write(&self, text: impl Display) {
        if self.silent {
            return;
        }
        let write = || {
            // A closed pipe (`wopr status | head -1`) is no reason to fail.
            let _closed = if self.beside_json {
                writeln!(std::io::stderr().lock(), "{text}")
            } else {
                writeln!(std::io::stdout().lock(), "{text}")
            };
        };
        match &self.spinners {
            Some(spinners) => spinners.suspend(write),
            None => write(),
        }
    }

    /// A heading above a group of lines.
    pub(crate) fn heading(&self, text: impl Display) {
        self.keep(Kind::Heading, &text, None);
        self.write(self.paint("1", text));
    }

    /// A fact that needed no work.
    pub(crate) fn note(&self, text: impl Display) {
        self.keep(Kind::Note, &text, None);
        self.write(format!("  {} {text}", self.paint(DIM, "·")));
    }

    /// Something worth knowing that stops nothing.
    pub(crate) fn warn(&self, text: impl Display) {
        self.keep(Kind::Warning, &text, None);
        self.write(format!("  {} {text}", self.paint(YELLOW, "!")));
    }

    /// Work that ended well, with the time it took.
    pub(crate) fn done(&self, text: impl Display, took: Duration) {
        self.keep(Kind::Done, &text, Some(took));
        let took = self.paint(DIM, seconds(took));
        self.write(format!("  {} {text}  {took}", self.paint(GREEN, "✓")));
    }

    /// Work that failed, with the time it took.
    pub(crate) fn failed(&self, text: impl Display, took: Duration) {
        self.keep(Kind::Failed, &text, Some(took));
        let took = self.paint(DIM, seconds(took));
        self.write(format!("  {} {text}  {took}", self.paint(RED, "✗")));
    }

    /// Announces work; the returned task ends the line.
    pub(crate) fn start(&self, what: impl Into<String>) -> Task {
        let what = what.into();
        let spinner = self.spinners.as_ref().map(|all| {
            let spinner = all.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}  {elapsed}") {
                spinner.set_style(style);
            }
            spinner.set_message(what.clone());
            spinner.enable_steady_tick(Duration::from_millis(100));
            spinner
        });
        if spinner.is_none() {
            self.write(format!("  … {what}"));
        }
        Task { ui: self.clone(), what, spinner, since: Instant::now() }
    }

    /// Prints rows in aligned columns below a header.
    pub(crate) fn table(&self, header: &[&str], rows: &[Vec<String>]) {
        for line in columns(header, rows) {
            self.line(line);
        }
    }

    /// Writes the failure to standard error: what, why, what to do.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        let mut lines = vec![format!("{} {error}", self.paint(RED, "error:"))];
        for (depth, cause) in error.chain().enumerate() {
            if depth > 0 {
                lines.push(format!("  because: {cause}"));
            }
            if let Some(failure) = cause.downcast_ref::<Failure>() {
                lines.extend(failure.why.iter().map(|why| format!("  because: {why}")));
                lines.extend(failure.fix.iter().map(|fix| format!("  to do:   {fix}")));
            }
        }
        let _closed = writeln!(std::io::stderr().lock(), "{}", lines.join("\n"));
    }
}

/// Work that was announced and has not ended yet.
#[derive(Debug)]
pub(crate) struct Task {
    ui: Ui,
    what: String,
    spinner: Option<ProgressBar>,
    since: Instant,
}

impl Task {
    /// Shows where the work stands; on a terminal only, so that logs stay short.
    pub(crate) fn update(&self, detail: impl Display) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(format!("{}: {detail}", self.what));
        }
    }

    /// Ends the line well.
    pub(crate) fn done(self, detail: impl Display) {
        self.clear();
        let detail = detail.to_string();
        let text = if detail.is_empty() { self.what.clone() } else { format!("{}: {detail}", self.what) };
        self.ui.done(text, self.since.elapsed());
    }

    /// Ends the line badly; the error itself is reported by the caller.
    pub(crate) fn failed(self) {
        self.clear();
        self.ui.failed(&self.what, self.since.elapsed());
    }

    /// Ends the line as the result says, and hands the result on.
    pub(crate) fn ends<T, E>(self, result: Result<T, E>, detail: impl FnOnce(&T) -> String) -> Result<T, E> {
        match &result {
            Ok(value) => self.done(detail(value)),
            Err(_) => self.failed(),
        }
        result
    }

    fn clear(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

/// `0.7 s`, `41 s`, `3 min 07 s`.
pub(crate) fn seconds(took: Duration) -> String {
    let (whole, tenths) = (took.as_secs(), took.subsec_millis() / 100);
    match whole {
        0..10 => format!("{whole}.{tenths} s"),
        10..120 => format!("{whole} s"),
        _ => format!("{} min {:02} s", whole / 60, whole % 60),
    }
}

fn columns(header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(header.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_naturally() {
        let cases = [(0, "0.0 s"), (749, "0.7 s"), (41_900, "41 s"), (187_000, "3 min 07 s")];
        for (millis, expected) in cases {
            assert_eq!(seconds(Duration::from_millis(millis)), expected);
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["wopr-api".to_owned(), "running".to_owned()], vec!["x".to_owned(), "y".to_owned()]];
        assert_eq!(columns(&["service", "state"], &rows), ["service   state", "wopr-api  running", "x         y"]);
    }
}
