//! `wopr-bot ask`: puts a question to the bot on this machine, as its owner would.

use std::io;
use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::volume;

/// A little longer than the bot itself waits for a model.
const PATIENCE: Duration = Duration::from_secs(310);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The volume has no token that opens the bot.
    #[error("the bot's token cannot be read")]
    Token(#[source] io::Error),
    /// There is no client for the bot.
    #[error(transparent)]
    Client(#[from] crate::http::NoClient),
    /// The bot does not answer, or not with JSON.
    #[error("the bot does not answer")]
    Silent(#[from] reqwest::Error),
    /// The bot has no answer.
    #[error("the bot answers {status}: {body}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// What it says.
        body: Value,
    },
}

/// Has the bot that listens on `port` ask a model, and answers with what it says: reply, usage and model.
///
/// # Errors
/// [`AskError`].
pub async fn ask(port: u16, home: &Path, question: &str, model: &str, max_tokens: u32) -> Result<Value, AskError> {
    let token = volume::read_token(home).map_err(AskError::Token)?;
    let body = json!({ "question": question, "model": model, "max_tokens": max_tokens });
    let url = format!("http://127.0.0.1:{port}/ask");
    let response = crate::http::client(PATIENCE)?.post(url).bearer_auth(token).json(&body).send().await?;
    let (status, body) = (response.status(), response.json().await?);
    if status.is_success() { Ok(body) } else { Err(AskError::Refused { status, body }) }
}
