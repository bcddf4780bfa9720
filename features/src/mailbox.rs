//! Mails, as the mail catcher shows them.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::http::{Client, Request};

/// Reads the mails to one address.
#[derive(Debug, Clone)]
pub struct Mailbox {
    client: Client,
    catcher: String,
    address: String,
}

impl Mailbox {
    /// The mails that the catcher at this URL has for this address.
    pub fn new(client: Client, catcher: &str, address: &str) -> Self {
        Self { client, catcher: catcher.to_owned(), address: address.to_owned() }
    }

    async fn get(&self, path: &str) -> Result<Value> {
        let reply = self.client.send(Request::get(format!("{}{path}", self.catcher))).await?;
        reply.expect_status(200)?.json()
    }

    /// The plain text of each mail, newest first.
    ///
    /// # Errors
    /// When the catcher does not answer.
    pub async fn texts(&self) -> Result<Vec<String>> {
        let address = percent_encoding::utf8_percent_encode(&self.address, percent_encoding::NON_ALPHANUMERIC);
        let listed = self.get(&format!("/api/mails?to={address}")).await?;
        let mut texts = Vec::new();
        for mail in listed["mails"].as_array().into_iter().flatten() {
            let shown = self.get(&format!("/api/mails/{}", mail["id"])).await?;
            texts.push(shown["text"].as_str().unwrap_or_default().to_owned());
        }
        Ok(texts)
    }

    /// The newest link that contains `part`.
    ///
    /// # Errors
    /// When no mail has one.
    pub async fn newest_link(&self, part: &str) -> Result<String> {
        let texts = self.texts().await?;
        let mut links = texts.iter().flat_map(|text| text.split_whitespace());
        let link = links.find(|word| word.starts_with("http") && word.contains(part));
        ensure!(link.is_some(), "{} mails to {}, none with a link to {part}", texts.len(), self.address);
        Ok(link.context("checked above")?.to_owned())
    }
}
