//! What the operator is told when something goes wrong: what, why, and what to do about it.

use std::process::ExitCode;

/// How the process ends. The numbers are part of the interface: scripts may rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Something failed that none of the other codes names.
    Failed = 1,
    /// This machine or account cannot do what was asked: not root, no package manager, no disk.
    Environment = 3,
    /// No Docker engine answers and none could be started.
    Engine = 4,
    /// A host port that the stack wants is taken.
    PortTaken = 5,
    /// A program did not compile or an image could not be built.
    Image = 6,
    /// A part of the stack did not become ready in time.
    NotReady = 7,
    /// The stack is up, but the happy path does not work on it.
    HappyPath = 8,
    /// A check of `test`, `conformance` or `runbook` failed.
    Check = 9,
    /// Stopped by ctrl-C; the same command again goes on where it stopped.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A failure the operator can act on.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub(crate) struct Failure {
    /// What could not be done, in one line.
    pub(crate) what: String,
    /// What was seen that prevented it.
    pub(crate) why: Option<String>,
    /// What to do about it.
    pub(crate) fix: Option<String>,
    /// The exit code it ends the process with.
    pub(crate) exit: Exit,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { what: what.into(), why: None, fix: None, exit }
    }

    #[must_use]
    pub(crate) fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    #[must_use]
    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// The exit code of an error: of the first [`Failure`] in its chain, else [`Exit::Failed`].
pub(crate) fn exit_of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(|cause| cause.downcast_ref::<Failure>()).map_or(Exit::Failed, |f| f.exit)
}

/// All that an error tells whoever ran the command.
pub(crate) fn told(error: &anyhow::Error) -> String {
    let failure = error.chain().find_map(|cause| cause.downcast_ref::<Failure>());
    let why = failure.and_then(|failure| failure.why.clone()).unwrap_or_default();
    format!("{error:#}\n{why}")
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_exit_code_survives_added_context() {
        let taken: anyhow::Result<()> = Err(Failure::new(Exit::PortTaken, "port 3100").into());
        let error = taken.context("starting the API").unwrap_err();
        assert_eq!(exit_of(&error), Exit::PortTaken);
        assert_eq!(exit_of(&anyhow::anyhow!("anything else")), Exit::Failed);
    }
}
