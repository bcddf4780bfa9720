//! Calls that are made once, however often they are asked for: the answer is kept for a day under a key that the client
//! chose.

use bytes::Bytes;
use jiff::SignedDuration;
use memchr::memmem;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::answers_repository::{AnswersRepository, Claim, Claimed};
use super::call::{Answer, Body};
use super::callers::Caller;
use super::error::GatewayError;
use super::model::Capability;
use super::question::{Facts, Question};
use super::service::Gateway;
use super::to_its_end::ToItsEnd;
use crate::ids::CallId;

/// How long an answer is kept.
const KEPT: SignedDuration = SignedDuration::from_hours(24);
/// A call that has been in progress for longer was lost with its process: no provider is waited for this long.
const LOST: SignedDuration = SignedDuration::from_mins(15);
/// Longer answers are not kept.
const LONGEST_BYTES: usize = 1 << 20;
/// Of each tenant the newest answers are kept, up to so many bytes together.
const TENANT_BYTES: i64 = 64 << 20;
/// Keys are never longer.
const MAX_KEY_CHARS: usize = 255;

/// Why a call that is to be made once was not made, nor answered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdempotencyError {
    /// The key is none.
    #[error("the idempotency key is not 1 to {MAX_KEY_CHARS} visible ASCII characters")]
    InvalidKey,
    /// The call is being made.
    #[error("a call with this idempotency key is in progress")]
    InProgress,
    /// The key was used for another call.
    #[error("this idempotency key was used for another request")]
    OtherRequest,
    /// The call was made, answered and charged; its answer was too long to be kept.
    #[error("the call with this idempotency key was answered, and its answer was too long to be kept")]
    AnswerTooLong,
}

/// What a client names a call by. Only its hash is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    hash: [u8; 32],
}

impl IdempotencyKey {
    /// Reads a key.
    ///
    /// # Errors
    /// [`IdempotencyError::InvalidKey`].
    pub fn new(text: &str) -> Result<Self, IdempotencyError> {
        if text.is_empty() || text.len() > MAX_KEY_CHARS || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(IdempotencyError::InvalidKey);
        }
        Ok(Self { hash: Sha256::digest(text).into() })
    }
}

/// What is asked, whatever a client puts between the parts of a form: it is another thing each time the form is made.
fn fingerprint(question: &Question) -> [u8; 32] {
    let mut hash = Sha256::new();
    for word in [question.capability.as_str(), question.dialect.as_str()] {
        hash.update(word);
        hash.update([0]);
    }
    let content_type = question.content_type.as_deref().unwrap_or_default();
    let boundary = match question.capability {
        Capability::Transcription => multer::parse_boundary(content_type).ok(),
        _ => None,
    };
    match boundary {
        None => hash.update(&question.body),
        Some(boundary) => {
            let delimiter = format!("--{boundary}");
            let mut from = 0;
            for at in memmem::find_iter(&question.body, delimiter.as_bytes()) {
                hash.update(&question.body[from..at]);
                hash.update([0]);
                from = at + delimiter.len();
            }
            hash.update(&question.body[from..]);
        }
    }
    hash.finalize().into()
}

impl Gateway {
    /// As [`Gateway::call`], once for a key of the caller's tenant: whoever asks the same again with the same key within a
    /// day is given the same answer, and is not charged again. A call that failed may be made again with its key. Streams
    /// are made each time.
    ///
    /// # Errors
    /// As [`Gateway::call`], and [`GatewayError::Idempotency`].
    pub async fn call_once(
        &self,
        caller: &Caller,
        question: Question,
        key: &IdempotencyKey,
    ) -> Result<Answer, GatewayError> {
        let facts = self.let_in(caller, &question).await?;
        if facts.stream() {
            return self.make(caller, question, facts).await;
        }
        // From the claim to the keeping of the answer, whether or not the caller stays.
        let (gateway, caller, key) = (self.clone(), caller.clone(), key.clone());
        ToItsEnd::new(async move { gateway.once(&caller, question, facts, &key).await }).await
    }

    async fn once(
        &self,
        caller: &Caller,
        question: Question,
        facts: Facts,
        key: &IdempotencyKey,
    ) -> Result<Answer, GatewayError> {
        let claim = Claim {
            tenant: caller.tenant_id,
            key_hash: key.hash,
            body_hash: fingerprint(&question),
            holder: self.inner.journal.holder(),
            attempt: Uuid::new_v4(),
        };
        let capability = question.capability;
        let refused = |error: GatewayError| {
            self.inner.metrics.refused(Some(capability), &error);
            error
        };
        match self.claim(&claim).await.map_err(refused)? {
            Claimed::Ours => {}
            Claimed::OtherRequest => return Err(refused(IdempotencyError::OtherRequest.into())),
            Claimed::InProgress => return Err(refused(IdempotencyError::InProgress.into())),
            Claimed::Answered { body: None, .. } => return Err(refused(IdempotencyError::AnswerTooLong.into())),
            Claimed::Answered { call_id, content_type, body: Some(body) } => {
                return Ok(Answer { call_id, content_type, body: Body::Whole(body), replayed: true });
            }
        }
        let answer = self.make(caller, question, facts).await;
        let kept = match &answer {
            Ok(Answer { call_id, content_type, body: Body::Whole(bytes), .. }) => {
                self.keep(&claim, *call_id, content_type, bytes).await
            }
            Ok(Answer { body: Body::Events(_), .. }) | Err(_) => self.release(&claim).await,
        };
        if let Err(error) = kept {
            // The answer is paid for, and goes to whoever asked. Until the claim is taken for lost, others are told to wait.
            tracing::error!("what came of a call that is to be made once cannot be kept: {error}");
        }
        answer
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, GatewayError> {
        let now = self.inner.clock.now();
        let mut conn = self.inner.db.connection().await?;
        Ok(AnswersRepository::new(&mut conn).claim(now, now + LOST, claim).await?)
    }

    async fn keep(&self, claim: &Claim, call_id: CallId, content_type: &str, body: &Bytes) -> Result<(), GatewayError> {
        let until = self.inner.clock.now() + KEPT;
        let body = (body.len() <= LONGEST_BYTES).then_some(&body[..]);
        let mut conn = self.inner.db.connection().await?;
        Ok(AnswersRepository::new(&mut conn).keep(until, claim, call_id, content_type, body).await?)
    }

    async fn release(&self, claim: &Claim) -> Result<(), GatewayError> {
        let mut conn = self.inner.db.connection().await?;
        Ok(AnswersRepository::new(&mut conn).release(claim).await?)
    }

    /// Lets calls be made again that were in progress when a process before this one ended.
    pub(super) async fn release_lost(&self) -> Result<(), GatewayError> {
        let mut conn = self.inner.db.connection().await?;
        Ok(AnswersRepository::new(&mut conn).release_of(self.inner.journal.holder()).await?)
    }

    /// Forgets answers that were kept long enough, and the oldest of whoever has too many. For a periodic task.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn forget_answers(&self) -> Result<usize, GatewayError> {
        let now = self.inner.clock.now();
        let mut conn = self.inner.db.connection().await?;
        Ok(AnswersRepository::new(&mut conn).forget(now, TENANT_BYTES).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::Dialect;

    fn question(capability: Capability, content_type: Option<&str>, body: &str) -> Question {
        Question {
            capability,
            dialect: Dialect::OpenAi,
            body: Bytes::copy_from_slice(body.as_bytes()),
            content_type: content_type.map(str::to_owned),
        }
    }

    #[test]
    fn a_key_is_some_visible_characters() {
        for good in ["a", "stainless-python-retry-1f", &"k".repeat(255)] {
            assert!(IdempotencyKey::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "ä", "\u{7f}", &"k".repeat(256)] {
            assert_eq!(IdempotencyKey::new(bad), Err(IdempotencyError::InvalidKey), "{bad}");
        }
    }

    #[test]
    fn a_form_that_is_made_again_is_the_same_question() {
        let form = |boundary: &str, language: &str| {
            let body = format!(
                "--{boundary}\r\ncontent-disposition: form-data; name=\"language\"\r\n\r\n{language}\r\n--{boundary}--\r\n"
            );
            let content_type = format!("multipart/form-data; boundary={boundary}");
            fingerprint(&question(Capability::Transcription, Some(&content_type), &body))
        };
        assert_eq!(form("one", "en"), form("another", "en"));
        assert_ne!(form("one", "en"), form("one", "de"));
        let json = |capability, body| fingerprint(&question(capability, None, body));
        assert_ne!(json(Capability::Embeddings, "{}"), json(Capability::ChatCompletions, "{}"));
        assert_ne!(json(Capability::Embeddings, "{}"), json(Capability::Embeddings, "{ }"));
    }
}
