//! What a scenario is told to: a platform of its own in this process, or one that is already running.
//!
//! | Variable | A running stack, as seen from here |
//! |---|---|
//! | `WOPR_TARGET_URL` | the API; without it every scenario gets a platform of its own |
//! | `WOPR_TARGET_STRIPE_URL` | the Stripe stand-in |
//! | `WOPR_TARGET_STRIPE_KEY` | a secret key that the stand-in accepts |
//! | `WOPR_TARGET_STRIPE_CONTROL_KEY` | its control key, unless it is open to this machine |
//! | `WOPR_TARGET_WEBHOOK_SECRET` | the secret that webhooks are signed with |
//! | `WOPR_TARGET_MAIL_URL` | the mail catcher's page; without it scenarios tagged `@mail` are left out |
//! | `WOPR_TARGET_DATABASE_CONTAINER` | the container with the database |
//! | `WOPR_TARGET_ADMIN_TOKEN` | an operator token; without it scenarios tagged `@operator` are left out |
//!
//! `DOCKER_HOST` names the engine that hosts bots and the database. A client speaks from an address of its own, by
//! `X-Forwarded-For`, which the stack has to believe. Scenarios tagged `@clock` and `@docker-away` need a platform of
//! their own, and are left out of a running one.

mod external;
mod in_process;

use std::path::Path;

use anyhow::{Context as _, Result};
use jiff::{SignedDuration, Timestamp};

use crate::clock::TravelClock;
use crate::database::Database;
use crate::docker::{Cable, Engine};

/// Where everything is, and what is needed to speak with it.
#[derive(Debug)]
pub struct Stack {
    /// The API's base URL.
    pub api: String,
    /// The Stripe stand-in's base URL.
    pub stripe: String,
    /// A secret key that the stand-in accepts.
    pub stripe_key: String,
    /// The stand-in's control key, if it has one.
    pub stripe_control_key: Option<String>,
    /// Signs webhooks.
    pub webhook_secret: String,
    /// The mail catcher's page.
    pub mail: Option<String>,
    /// The database.
    pub database: Database,
    /// An operator's token of scope admin.
    pub admin_token: Option<String>,
    /// The engine that hosts bots.
    pub docker: Engine,
    own: Option<in_process::Platform>,
}

impl Stack {
    /// The running stack that the environment names, else a platform of its own.
    ///
    /// # Errors
    /// What is missing.
    pub async fn start() -> Result<Self> {
        match external::target() {
            Some(api) => external::connect(api).await,
            None => in_process::start(None).await,
        }
    }

    /// A platform of this process, with its bots on the engine behind this socket.
    ///
    /// # Errors
    /// What is missing.
    pub async fn start_on(engine: &Path) -> Result<Self> {
        in_process::start(Some(engine)).await
    }

    /// The tags that this environment cannot serve, and why.
    pub fn unavailable_tags() -> Vec<(&'static str, &'static str)> {
        if external::target().is_some() { external::unavailable_tags() } else { Vec::new() }
    }

    /// Whether mail addresses must differ from those of earlier scenarios.
    pub fn is_shared(&self) -> bool {
        self.own.is_none()
    }

    /// The time the platform goes by.
    #[expect(clippy::disallowed_methods, reason = "a stack outside this process goes by the machine's clock")]
    pub fn now(&self) -> Timestamp {
        self.own.as_ref().map_or_else(Timestamp::now, |own| own.clock.now())
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// On a stack outside this process.
    pub fn advance(&self, step: SignedDuration) -> Result<()> {
        self.clock()?.advance(step);
        Ok(())
    }

    fn clock(&self) -> Result<&TravelClock> {
        let own = self.own.as_ref().context("only a platform of this process has a clock that can be put forward")?;
        Ok(&own.clock)
    }

    /// The platform's cable to Docker.
    ///
    /// # Errors
    /// On a stack outside this process, or on an engine of its own.
    pub fn cable(&mut self) -> Result<&mut Cable> {
        let cable = self.own.as_mut().and_then(|own| own.cable.as_mut());
        cable.context("only a platform of this process on the machine's engine has a cable to Docker that can be cut")
    }

    /// Stops what this process started.
    ///
    /// # Errors
    /// When something did not end by itself.
    pub async fn stop(&mut self) -> Result<()> {
        match self.own.take() {
            Some(own) => own.stop().await,
            None => Ok(()),
        }
    }
}
