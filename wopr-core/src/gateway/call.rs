//! One call, from its admission to its charge.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::OwnedSemaphorePermit;

use super::catalogue::Candidate;
use super::credit::Reservation;
use super::error::GatewayError;
use super::metrics::{CallEnd, LaneId};
use super::model::{Capability, Dialect, TokenUsage, Usage};
use super::ports::{AnswerBody, ProviderError};
use super::price::Quote;
use super::question::{Facts, Question};
use super::record::{CallRecord, Line, Outcome, UsageSource};
use super::service::Inner;
use super::spending::Pending;
use super::tenant_keys::TenantKeyError;
use super::wire::{self, StreamMeter, StreamTranslator, UsageFilter};
use crate::ids::CallId;

/// An answer that is not streamed is never longer.
const WHOLE_BYTES: usize = 32 << 20;
/// The end of a stream is held back until the charge is written; more than this is not.
const HELD_BYTES: usize = 64 << 10;
/// What is known of a stream is written down when so much more was produced.
const PROGRESS_BYTES: u64 = 16 << 10;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Names the call in logs, rows and the ledger.
    pub call_id: CallId,
    /// Of the body.
    pub content_type: String,
    /// The body.
    pub body: Body,
    /// Whether it was given before, and nobody was charged for it again.
    pub replayed: bool,
}

/// The body of an answer.
pub enum Body {
    /// All of it. Its charge is written down.
    Whole(Bytes),
    /// Events. The charge is written down before the last of them; whoever drops it has left, and is charged for what was
    /// produced until then.
    Events(Events),
}

/// Events of an answer, as they are made.
pub type Events = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(bytes) => f.debug_tuple("Whole").field(&bytes.len()).finish(),
            Self::Events(_) => f.write_str("Events"),
        }
    }
}

/// What a call may cost, counted against the tenant's limits and taken from its credit.
pub(super) struct SetAside {
    pub(super) pending: Pending,
    pub(super) credit: Reservation,
}

/// A call that was let in. However it is dropped, it is charged.
pub(super) struct InFlight {
    inner: Arc<Inner>,
    question: Question,
    facts: Facts,
    record: CallRecord,
    set_aside: Option<SetAside>,
    quote: Arc<Quote>,
    began: Instant,
    /// The wire of the provider that answers.
    dialect: Dialect,
    meter: Option<StreamMeter>,
    reported: Option<Usage>,
    counted_output: u64,
    answered: bool,
    ended: bool,
    /// Where it is counted, and who is to blame if it does not end well.
    lane: LaneId,
    blame: CallEnd,
    /// A place at one of our machines, until the answer ends.
    slot: Option<OwnedSemaphorePermit>,
}

impl InFlight {
    pub(super) fn new(
        inner: Arc<Inner>,
        question: Question,
        facts: Facts,
        record: CallRecord,
        set_aside: Option<SetAside>,
        quote: Arc<Quote>,
    ) -> Self {
        let dialect = question.dialect;
        inner.metrics.begun();
        Self {
            inner,
            question,
            facts,
            record,
            set_aside,
            quote,
            began: Instant::now(),
            dialect,
            meter: None,
            reported: None,
            counted_output: 0,
            answered: false,
            ended: false,
            lane: LaneId::NOBODY,
            blame: CallEnd::UpstreamError,
            slot: None,
        }
    }

    pub(super) fn question(&self) -> &Question {
        &self.question
    }

    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Who is to blame for it, if it does not end well.
    pub(super) fn blame(&mut self, end: CallEnd) {
        self.blame = end;
    }

    pub(super) fn asked(&mut self) {
        self.record.attempts = self.record.attempts.saturating_add(1);
    }

    /// Whether the tenant's own account pays for it.
    pub(super) fn is_byok(&self) -> bool {
        self.record.byok
    }

    /// Whether it is the tenant's own key that an error is about. Neither we nor the provider are to blame then.
    pub(super) fn own_key_refused(&self, candidate: &Candidate, error: &ProviderError) -> Option<TenantKeyError> {
        let (status, retry_after) = match error {
            ProviderError::Account(status) if self.record.byok => (*status, None),
            ProviderError::Busy { retry_after } if self.record.byok => (429, *retry_after),
            _ => return None,
        };
        Some(TenantKeyError::Refused { provider: candidate.model.provider.clone(), status, retry_after })
    }

    /// A provider has begun to answer.
    pub(super) fn answered_by(
        &mut self,
        candidate: &Candidate,
        dialect: Dialect,
        usage: Option<Usage>,
        slot: Option<OwnedSemaphorePermit>,
    ) {
        self.record.provider = Some(candidate.model.provider.clone());
        self.record.machine = candidate.own.then(|| candidate.provider.name().to_owned());
        self.record.model_served = Some(candidate.model.provider_model.clone());
        self.record.first_byte_ms = Some(u32::try_from(self.began.elapsed().as_millis()).unwrap_or(u32::MAX));
        (self.dialect, self.quote, self.reported, self.slot) = (dialect, Arc::clone(&candidate.quote), usage, slot);
        (self.answered, self.lane) = (true, candidate.lane);
    }

    /// When it began, in seconds of Unix time.
    fn created(&self) -> i64 {
        self.record.started_at.as_second()
    }

    pub(super) fn call_id(&self) -> CallId {
        CallId::from_uuid(self.record.id)
    }

    /// What was used as far as is known.
    fn usage(&self, outcome: Outcome) -> (Usage, UsageSource) {
        let nothing = (Usage::Tokens(TokenUsage::default()), UsageSource::None);
        if !self.answered {
            return nothing;
        }
        if let Some(usage) = self.reported.or_else(|| self.facts.given()) {
            return (usage, UsageSource::Reported);
        }
        let counted = |input: Option<u64>, cached_input, cost| {
            let output = self.meter.as_ref().map_or(self.counted_output, StreamMeter::counted_tokens);
            let input = input.unwrap_or_else(|| self.facts.counted_input(&self.question.body));
            (Usage::Tokens(TokenUsage { input, cached_input, output, cost }), UsageSource::Estimated)
        };
        match self.meter.as_ref().and_then(StreamMeter::usage) {
            // What was written is said at the end; an answer that was left before has only what was read.
            Some(usage) if self.meter.as_ref().is_some_and(StreamMeter::finished) || usage.output > 0 => {
                (Usage::Tokens(usage), UsageSource::Reported)
            }
            Some(usage) => counted(Some(usage.input), usage.cached_input, None),
            // An answer that is not streamed and did not come to its end shows nothing of what was produced.
            None if self.meter.is_none() && outcome != Outcome::Completed => nothing,
            None => match self.record.capability.as_str() {
                word if word == Capability::Transcription.as_str() => nothing,
                _ => counted(None, 0, None),
            },
        }
    }

    fn measure(&mut self, outcome: Outcome) {
        let (usage, source) = self.usage(outcome);
        let charge = match self.quote.charge(&usage) {
            Ok(charge) => charge,
            Err(error) => {
                tracing::error!(call = %self.record.id, "a charge cannot be computed: {error}");
                return;
            }
        };
        let (input, cached, output) = match usage {
            Usage::Tokens(tokens) => (tokens.input, tokens.cached_input, tokens.output),
            Usage::Characters(count) | Usage::AudioMillis(count) | Usage::Images(count) => (count, 0, 0),
        };
        let units = |count| i64::try_from(count).unwrap_or(i64::MAX);
        let record = &mut self.record;
        (record.input_units, record.cached_units, record.output_units) = (units(input), units(cached), units(output));
        (record.cost_nanos, record.charge_nanos, record.explanation) = (charge.cost, charge.charge, charge.explanation);
        (record.usage_source, record.outcome) = (source, outcome);
        record.ended_at = self.inner.clock.now();
    }

    /// Writes down what is known, in case that this process does not live to see the end.
    fn note_progress(&mut self) {
        self.measure(Outcome::Interrupted);
        if let Err(error) = self.inner.journal.append(&Line::Progress(&self.record)) {
            tracing::error!(call = %self.record.id, "the progress of a call could not be written: {error}");
        }
    }

    /// Ends the call: it is charged for what was used. Answers where in the journal that is.
    pub(super) fn end(&mut self, outcome: Outcome) -> Result<u64, GatewayError> {
        if self.ended {
            return Ok(self.inner.journal.position());
        }
        self.measure(outcome);
        let position = self.inner.journal.append(&Line::Ended(&self.record))?;
        self.ended = true;
        self.inner.metrics.unsettled();
        let end = CallEnd::of(outcome, self.blame);
        self.inner.metrics.ended(self.lane, self.question.capability, end, &self.record);
        if let Some(SetAside { pending, credit }) = self.set_aside.take() {
            pending.end(self.record.charge_nanos);
            credit.spend(self.record.charge_nanos);
        }
        Ok(position)
    }

    /// As [`InFlight::end`], and waits until the charge cannot be lost any more.
    async fn end_for_good(&mut self, outcome: Outcome) -> Result<(), GatewayError> {
        let position = self.end(outcome)?;
        Ok(self.inner.journal.settled_on_disk(position).await?)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.ended
            && let Err(error) = self.end(Outcome::ClientLeft)
        {
            // It stays open in the journal: the next start ends it as it was last known.
            tracing::error!(call = %self.record.id, "the end of a call could not be written: {error}");
            self.inner.metrics.lost();
        }
    }
}

/// Reads an answer that is not streamed to its end, and charges it. It goes on if the caller leaves: what was asked for is
/// paid for either way.
pub(super) async fn whole(
    mut call: InFlight,
    content_type: String,
    mut body: AnswerBody,
) -> Result<Answer, GatewayError> {
    let mut bytes = Vec::new();
    while let Some(part) = body.next().await {
        let broken = match part {
            Ok(part) if bytes.len() + part.len() <= WHOLE_BYTES => {
                bytes.extend_from_slice(&part);
                continue;
            }
            Ok(_) => ProviderError::Broken("the answer is too long".to_owned()),
            Err(error) => error,
        };
        tracing::warn!(call = %call.call_id(), "an answer broke off: {broken}");
        if broken == ProviderError::TimedOut {
            call.blame(CallEnd::Timeout);
        }
        call.end_for_good(Outcome::ProviderFailed).await?;
        return Err(match broken {
            ProviderError::TimedOut => GatewayError::ProviderTimedOut,
            _ => GatewayError::ProviderFailed,
        });
    }
    let (capability, dialect) = (call.question.capability, call.dialect);
    let tokens =
        matches!(capability, Capability::ChatCompletions | Capability::TextCompletions | Capability::Embeddings);
    if call.reported.is_none() && tokens {
        call.reported = wire::usage_of_answer(dialect, capability, &bytes).map(Usage::Tokens);
        if call.reported.is_none() {
            call.counted_output = wire::counted_tokens_of_answer(dialect, &bytes);
        }
    }
    let mut bytes = Bytes::from(bytes);
    if dialect != call.question.dialect {
        match wire::translate_answer(dialect, call.question.dialect, &bytes, call.facts.model(), call.created()) {
            Ok(translated) => bytes = translated,
            Err(error) => {
                tracing::error!(call = %call.call_id(), "an answer cannot be translated: {error}");
                call.end_for_good(Outcome::ProviderFailed).await?;
                return Err(GatewayError::ProviderFailed);
            }
        }
    }
    call.end_for_good(Outcome::Completed).await?;
    Ok(Answer { call_id: call.call_id(), content_type, body: Body::Whole(bytes), replayed: false })
}

/// What stands between a provider's events and a client's.
enum Passage {
    /// Bytes pass as they are.
    Open,
    /// What only we asked for is taken out.
    Filtered(UsageFilter),
    /// Two wires.
    Translated(Box<StreamTranslator>),
}

impl Passage {
    fn push(&mut self, chunk: Bytes) -> Bytes {
        match self {
            Self::Open => chunk,
            Self::Filtered(filter) => filter.push(chunk),
            Self::Translated(translator) => {
                let mut out = Vec::new();
                translator.push(&chunk, &mut out);
                out.into()
            }
        }
    }

    fn finish(&mut self) -> Bytes {
        match self {
            Self::Open => Bytes::new(),
            Self::Filtered(filter) => filter.finish(),
            Self::Translated(translator) => {
                let mut out = Vec::new();
                translator.finish(&mut out);
                out.into()
            }
        }
    }
}

struct Streaming {
    call: InFlight,
    body: AnswerBody,
    passage: Passage,
    held: Vec<Bytes>,
    held_bytes: usize,
    noted_bytes: u64,
    over: bool,
}

/// Passes events on as they come, and charges what they say was used.
pub(super) fn events(mut call: InFlight, body: AnswerBody) -> Events {
    let (from, to) = (call.dialect, call.question.dialect);
    let asked_for_usage = matches!(&call.facts, Facts::Text(facts) if facts.wants_usage);
    let passage = match (from, to) {
        (from, to) if from != to => {
            let translator = StreamTranslator::new(from, to, call.facts.model(), call.created(), asked_for_usage);
            Passage::Translated(Box::new(translator))
        }
        (Dialect::OpenAi, _) if !asked_for_usage => Passage::Filtered(UsageFilter::default()),
        _ => Passage::Open,
    };
    call.meter = Some(StreamMeter::new(from));
    let streaming = Streaming { call, body, passage, held: Vec::new(), held_bytes: 0, noted_bytes: 0, over: false };
    Box::pin(stream::unfold(streaming, async |mut streaming| {
        let chunk = streaming.next().await?;
        Some((chunk, streaming))
    }))
}

impl Streaming {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.over {
                return (!self.held.is_empty()).then(|| self.held.remove(0));
            }
            match self.body.next().await {
                Some(Ok(chunk)) => {
                    let meter = self.call.meter.as_mut()?;
                    meter.observe(&chunk);
                    let (finished, produced) = (meter.finished(), meter.produced_bytes());
                    let passed = self.passage.push(chunk);
                    if produced >= self.noted_bytes + PROGRESS_BYTES {
                        self.noted_bytes = produced;
                        self.call.note_progress();
                    }
                    if passed.is_empty() {
                        continue;
                    }
                    // The end is let through when the charge is written down.
                    if finished && self.held_bytes + passed.len() <= HELD_BYTES {
                        self.held_bytes += passed.len();
                        self.held.push(passed);
                        continue;
                    }
                    if self.held.is_empty() {
                        return Some(passed);
                    }
                    self.held.push(passed);
                    let all = self.held.concat();
                    (self.held, self.held_bytes) = (Vec::new(), 0);
                    return Some(all.into());
                }
                Some(Err(error)) => {
                    tracing::warn!(call = %self.call.call_id(), "a stream broke off: {error}");
                    if error == ProviderError::TimedOut {
                        self.call.blame(CallEnd::Timeout);
                    }
                    self.end(Outcome::ProviderFailed).await;
                }
                None => {
                    let whole = self.call.meter.as_mut().is_some_and(|meter| {
                        meter.end();
                        if meter.is_blind() {
                            tracing::warn!(call = %self.call.record.id, "a part of a stream was too long to be counted");
                        }
                        meter.finished() && !meter.failed()
                    });
                    self.end(if whole { Outcome::Completed } else { Outcome::ProviderFailed }).await;
                }
            }
        }
    }

    /// Charges, and lets the end through. What broke off ends with an error in the client's own words.
    async fn end(&mut self, outcome: Outcome) {
        self.over = true;
        let rest = self.passage.finish();
        if !rest.is_empty() {
            self.held.push(rest);
        }
        let failed_itself = self.call.meter.as_ref().is_some_and(StreamMeter::failed);
        let ended = self.call.end_for_good(outcome).await;
        if let Err(error) = &ended {
            tracing::error!(call = %self.call.call_id(), "the charge of a stream could not be written: {error}");
            self.held.clear();
        }
        if ended.is_err() || outcome == Outcome::ProviderFailed && !failed_itself {
            let message = "The answer broke off";
            self.held.push(wire::stream_error(self.call.question.dialect, "server_error", message).into());
        }
    }
}
