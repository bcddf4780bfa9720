use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::notify::{MailError, Mailer, OutgoingMail};

/// A mailer that keeps what it is given. As a mail server does, it takes a mail with a known `message_id` without
/// delivering it a second time, and refuses addresses without a host.
#[derive(Debug, Default)]
pub struct MemoryMailer {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    delivered: Vec<OutgoingMail>,
    /// What the next mails are answered, before anything is taken again.
    failures: VecDeque<Failure>,
}

/// How a mail is to fail.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    Refuse(MailError),
    /// The mail is taken, the answer is lost.
    LoseAnswer,
}

impl MemoryMailer {
    /// Answers the next mail with this error; several calls queue up.
    pub fn fail_next(&self, error: MailError) {
        self.state().failures.push_back(Failure::Refuse(error));
    }

    /// Takes the next mail but answers with a fault, as when the connection breaks at the wrong moment.
    pub fn lose_next_answer(&self) {
        self.state().failures.push_back(Failure::LoseAnswer);
    }

    /// What has been delivered, in order.
    pub fn delivered(&self) -> Vec<OutgoingMail> {
        self.state().delivered.clone()
    }

    /// The last mail of a template that an address got.
    pub fn last(&self, template: &str, recipient: &str) -> Option<OutgoingMail> {
        let fits = |mail: &&OutgoingMail| mail.template == template && mail.recipient == recipient;
        self.state().delivered.iter().rev().find(fits).cloned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Mailer for MemoryMailer {
    async fn send(&self, mail: &OutgoingMail) -> Result<(), MailError> {
        let mut state = self.state();
        let failure = state.failures.pop_front();
        if let Some(Failure::Refuse(error)) = failure {
            return Err(error);
        }
        if !mail.recipient.split_once('@').is_some_and(|(local, host)| !local.is_empty() && !host.is_empty()) {
            return Err(MailError::Permanent("not an address".to_owned()));
        }
        if !state.delivered.iter().any(|known| known.message_id == mail.message_id) {
            state.delivered.push(mail.clone());
        }
        match failure {
            Some(_) => Err(MailError::Temporary("the connection broke".to_owned())),
            None => Ok(()),
        }
    }
}
