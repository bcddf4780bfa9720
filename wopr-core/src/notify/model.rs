/// A mail to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Names the cause, such as `verify-email:<user>`; the same key is queued once.
    pub dedupe_key: String,
    /// The template it was written from, such as `verify-email`.
    pub template: &'static str,
    /// The recipient's address.
    pub recipient: String,
    /// The subject line.
    pub subject: String,
    /// The plain text.
    pub text_body: String,
    /// The same as HTML, every inserted value escaped.
    pub html_body: String,
}
