use std::fmt;

use async_trait::async_trait;

/// A mail on its way out.
#[derive(Clone, PartialEq, Eq)]
pub struct OutgoingMail {
    /// The same for every attempt to send this mail: what recognises a second copy. Letters, digits and `_`.
    pub message_id: String,
    /// The template it was written from.
    pub template: String,
    /// The recipient's address.
    pub recipient: String,
    /// The subject line.
    pub subject: String,
    /// The plain text.
    pub text_body: String,
    /// The same as HTML.
    pub html_body: String,
}

impl fmt::Debug for OutgoingMail {
    /// Without the texts, which may carry links that let their reader in, and without the address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutgoingMail")
            .field("message_id", &self.message_id)
            .field("template", &self.template)
            .finish_non_exhaustive()
    }
}

/// Why a mail was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailError {
    /// Trying again may help: the server was away, busy or refused for now.
    #[error("the mail server did not take the mail for now: {0}")]
    Temporary(String),
    /// Trying again does not help: the address or the mail is refused.
    #[error("the mail server refuses the mail: {0}")]
    Permanent(String),
}

/// Sends mails.
#[async_trait]
pub trait Mailer: Send + Sync + 'static {
    /// Hands one mail over. `Ok` means that the other side has taken responsibility for it.
    ///
    /// # Errors
    /// [`MailError`]; after a connection that broke the mail may have been taken nevertheless.
    async fn send(&self, mail: &OutgoingMail) -> Result<(), MailError>;
}
