//! What one scenario knows.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::http::{Client, Reply};
use crate::mailbox::Mailbox;
use crate::person::Person;
use crate::stack::Stack;
use crate::wait;

/// The world of one scenario: a platform, the people in it, and the last answer.
#[derive(Debug, cucumber::World)]
#[world(init = Self::start)]
pub struct World {
    /// The platform.
    pub stack: Stack,
    /// For requests of nobody in particular.
    pub client: Client,
    /// The last answer.
    pub reply: Option<Reply>,
    /// Webhooks that were sent or are to be sent, oldest first: the event, and the header it is signed with.
    pub reports: Vec<Value>,
    /// The dispute under way at Stripe.
    pub dispute: Option<String>,
    /// The container of the bot, before somebody did something to it.
    pub container: Option<String>,
    /// A balance to compare with, in cents.
    pub balance_before: Option<i64>,
    /// The link of a mail that was read.
    pub link: Option<String>,
    people: BTreeMap<String, Person>,
}

/// What a tenant's things have in Docker.
fn label(tenant: &str) -> String {
    format!("wopr.tenant-id={tenant}")
}

impl World {
    async fn start() -> Result<Self> {
        Ok(Self {
            stack: Stack::start().await?,
            client: Client::new()?,
            reply: None,
            reports: Vec::new(),
            dispute: None,
            container: None,
            balance_before: None,
            link: None,
            people: BTreeMap::new(),
        })
    }

    /// Somebody, known by name from now on.
    ///
    /// # Errors
    /// Never for a name that is already known.
    pub fn person(&mut self, name: &str) -> Result<&mut Person> {
        if !self.people.contains_key(name) {
            let email = self.address(&format!("{}@example.com", name.to_lowercase()));
            self.introduce(name, email);
        }
        self.people.get_mut(name).with_context(|| format!("nobody is called {name}"))
    }

    /// Somebody with this address.
    pub fn introduce(&mut self, name: &str, email: String) {
        let person = Person::new(&self.client, &self.stack.api, name, email);
        self.people.insert(name.to_owned(), person);
    }

    /// The address as the feature says it, but unique where other scenarios have been before. A `+suffix` would not do: it
    /// leads to the same mailbox, and who has that is welcomed once.
    pub fn address(&self, email: &str) -> String {
        match email.split_once('@') {
            Some((local, host)) if self.stack.is_shared() => {
                format!("{local}-{}@{host}", uuid::Uuid::new_v4().simple())
            }
            _ => email.to_owned(),
        }
    }

    /// The last answer.
    ///
    /// # Errors
    /// When nothing was asked yet.
    pub fn reply(&self) -> Result<&Reply> {
        self.reply.as_ref().context("nothing was asked yet")
    }

    /// The mails to somebody.
    ///
    /// # Errors
    /// Without a mail catcher.
    pub fn mailbox(&mut self, name: &str) -> Result<Mailbox> {
        let catcher = self.stack.mail.clone().context("there is no mail catcher")?;
        let (client, address) = (self.client.clone(), self.person(name)?.email.clone());
        Ok(Mailbox::new(client, &catcher, &address))
    }

    /// Removes what the scenario made in Docker, and stops its platform. Also called after a failure.
    ///
    /// # Errors
    /// When something could not be removed.
    pub async fn end(&mut self) -> Result<()> {
        let labels: Vec<_> = self.people.values().filter_map(|person| person.tenant.as_deref()).map(label).collect();
        if self.stack.is_shared() {
            // A platform that goes on would put back what it misses.
            for person in self.people.values_mut().filter(|person| person.bot.is_some()) {
                person.destroy_bots().await?;
            }
            return wait::until("nothing of theirs in Docker", async || {
                for label in &labels {
                    ensure!(!self.stack.docker.has(label).await?, "there is something with {label}");
                }
                Ok(())
            })
            .await;
        }
        let stopped = self.stack.stop().await;
        for label in &labels {
            self.stack.docker.sweep(label).await?;
        }
        stopped
    }
}
