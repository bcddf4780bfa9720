//! Mails through an SMTP server.

use std::time::Duration;

use async_trait::async_trait;
use lettre::message::{Mailbox, MultiPart};
use lettre::transport::smtp::Error;
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use secrecy::{ExposeSecret as _, SecretString};

use crate::notify::{MailError, Mailer, OutgoingMail};

/// How long one command of the conversation may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How to reach the mail server.
#[derive(Debug, Clone)]
pub struct SmtpConfig {
    /// `smtps://user:password@host[:465]`, `smtp://…[:587]?tls=required`, or `smtp://host:25` without encryption.
    pub url: SecretString,
    /// The sender: `name <address>` or an address. Its host is the right side of each `Message-ID`.
    pub from: String,
    /// Where answers go.
    pub reply_to: Option<String>,
}

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SmtpConfigError {
    /// Not an SMTP URL. What it says is not repeated: it may hold a password.
    #[error("the SMTP URL cannot be used")]
    Url,
    /// Not a sender.
    #[error("{0:?} cannot be used as a sender")]
    From(String),
    /// Not an address for answers.
    #[error("{0:?} cannot be used as an address for answers")]
    ReplyTo(String),
}

/// Sends mails through an SMTP server, over a few connections that are kept open.
pub struct SmtpMailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    reply_to: Option<Mailbox>,
}

impl SmtpMailer {
    /// Reads the configuration. Nothing is connected until the first mail.
    ///
    /// # Errors
    /// [`SmtpConfigError`].
    pub fn new(config: &SmtpConfig) -> Result<Self, SmtpConfigError> {
        let transport = AsyncSmtpTransport::<Tokio1Executor>::from_url(config.url.expose_secret())
            .map_err(|_| SmtpConfigError::Url)?
            .timeout(Some(TIMEOUT))
            .build();
        let from = config.from.parse().map_err(|_| SmtpConfigError::From(config.from.clone()))?;
        let reply_to = match &config.reply_to {
            Some(address) => Some(address.parse().map_err(|_| SmtpConfigError::ReplyTo(address.clone()))?),
            None => None,
        };
        Ok(Self { transport, from, reply_to })
    }

    fn message(&self, mail: &OutgoingMail) -> Result<Message, MailError> {
        let refused = |error: &dyn std::fmt::Display| MailError::Permanent(error.to_string());
        let recipient: Address = mail.recipient.parse().map_err(|error| refused(&error))?;
        let mut message = Message::builder()
            .message_id(Some(format!("<{}@{}>", mail.message_id, self.from.email.domain())))
            .from(self.from.clone())
            .to(recipient.into())
            .subject(&mail.subject);
        if let Some(reply_to) = &self.reply_to {
            message = message.reply_to(reply_to.clone());
        }
        let body = MultiPart::alternative_plain_html(mail.text_body.clone(), mail.html_body.clone());
        message.multipart(body).map_err(|error| refused(&error))
    }
}

#[async_trait]
impl Mailer for SmtpMailer {
    async fn send(&self, mail: &OutgoingMail) -> Result<(), MailError> {
        self.transport.send(self.message(mail)?).await.map(drop).map_err(|error| mail_error(&error))
    }
}

/// A 5xx answer is final (RFC 5321, 4.2.1), everything else is worth another attempt.
fn mail_error(error: &Error) -> MailError {
    // The source of a lettre error holds the server's words; `Display` of the whole would lose them.
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    if error.is_permanent() { MailError::Permanent(text) } else { MailError::Temporary(text) }
}
