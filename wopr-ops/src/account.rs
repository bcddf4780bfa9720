//! What `--json` writes for commands that act: what they did, step by step, and how it ended.

use std::time::Duration;

use serde::Serialize;

use crate::failure::{Exit, Failure, exit_of};

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Account {
    /// The command, without its arguments.
    command: &'static str,
    /// How the process ends; `--help` says what the numbers mean.
    exit_code: u8,
    /// How long it took.
    took_ms: u64,
    /// What was done and seen, in order.
    facts: Vec<Fact>,
    /// Why it failed; `null` if it did not.
    failure: Option<Told>,
}

/// One thing that was done or seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Fact {
    kind: Kind,
    text: String,
    /// How long it took; `null` if it was no work.
    took_ms: Option<u64>,
}

/// What a fact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// What the facts after it are about.
    Heading,
    /// Something that needed no work.
    Note,
    /// Something worth knowing that stops nothing.
    Warning,
    /// Work that ended well.
    Done,
    /// Work that failed.
    Failed,
    /// A line of an answer.
    Line,
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Told {
    /// What could not be done.
    what: String,
    /// What was seen that prevented it, the nearest first.
    because: Vec<String>,
    /// What to do about it.
    to_do: Vec<String>,
}

impl Fact {
    pub(crate) fn new(kind: Kind, text: String, took: Option<Duration>) -> Self {
        Self { kind, text, took_ms: took.map(milliseconds) }
    }
}

fn milliseconds(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

impl Account {
    /// Of a command that ended, or was interrupted if there is no result.
    pub(crate) fn new(
        command: &'static str,
        facts: Vec<Fact>,
        took: Duration,
        result: Option<Result<(), &anyhow::Error>>,
    ) -> Self {
        let (exit_code, failure) = match result {
            Some(Ok(())) => (0, None),
            Some(Err(error)) => (exit_of(error) as u8, Some(Told::of(error))),
            None => (Exit::Interrupted as u8, None),
        };
        Self { command, exit_code, took_ms: milliseconds(took), facts, failure }
    }
}

impl Told {
    fn of(error: &anyhow::Error) -> Self {
        let mut told = Self { what: error.to_string(), because: Vec::new(), to_do: Vec::new() };
        for (depth, cause) in error.chain().enumerate() {
            if depth > 0 {
                told.because.push(cause.to_string());
            }
            if let Some(failure) = cause.downcast_ref::<Failure>() {
                told.because.extend(failure.why.clone());
                told.to_do.extend(failure.fix.clone());
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    fn account() -> Account {
        let failure = Failure::new(Exit::PortTaken, "port 80 is taken").why("nginx holds it").fix("stop it");
        let error = Err::<(), _>(failure).context("the proxy could not be started").unwrap_err();
        let facts = vec![
            Fact::new(Kind::Heading, "Machines".to_owned(), None),
            Fact::new(Kind::Done, "wopr-vps".to_owned(), Some(Duration::from_millis(7))),
        ];
        Account::new("up", facts, Duration::from_secs(1), Some(Err(&error)))
    }

    #[test]
    fn a_failure_is_told_with_all_its_causes() {
        let account = account();
        assert_eq!((account.exit_code, account.took_ms), (5, 1000));
        let told = account.failure.unwrap();
        assert_eq!(told.what, "the proxy could not be started");
        assert_eq!(told.because, ["port 80 is taken", "nginx holds it"]);
        assert_eq!(told.to_do, ["stop it"]);
        assert_eq!(Account::new("up", Vec::new(), Duration::ZERO, None).exit_code, 130);
    }

    #[test]
    fn the_schema_is_that_of_the_account() {
        crate::runbook::assert_schema_fits("account", &schemars::schema_for!(Account), &account());
    }
}
