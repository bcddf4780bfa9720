//! From the journal into the database: charges in groups, each once.

use jiff::Timestamp;

use std::sync::{Arc, Mutex, PoisonError};

use jiff::SignedDuration;
use uuid::Uuid;

use super::error::GatewayError;
use super::journal::Journal;
use super::record::CallRecord;
use super::repository::GatewayRepository;
use crate::billing::{Billing, Spent};
use crate::clock::SharedClock;
use crate::db::Db;
use crate::ids::{CallId, TenantId};

/// Calls in one transaction.
const GROUP: usize = 500;
/// For how long a call is tried again that fails while the database is there, if nothing says that its rows are to blame.
const DOUBT: SignedDuration = SignedDuration::from_mins(1);

/// The call that holds up those after it, and since when.
pub(super) type Doubt = Arc<Mutex<Option<(Uuid, Timestamp)>>>;

/// Settles what the journal has.
#[derive(Clone)]
pub(super) struct Settler {
    pub(super) db: Db,
    pub(super) clock: SharedClock,
    pub(super) billing: Billing,
    pub(super) journal: Journal,
    pub(super) doubt: Doubt,
}

impl Settler {
    /// Settles the next group; answers its calls, none when there is nothing to settle.
    pub(super) async fn settle_group(&self) -> Result<Vec<CallRecord>, GatewayError> {
        let from = self.journal.cursor();
        let (calls, to) = self.journal.read_ended(from, GROUP)?;
        if !calls.is_empty() {
            match self.write(&calls).await {
                Ok(()) => {}
                Err(error) if is_away(&error) => return Err(error),
                Err(error) => {
                    tracing::error!("{} calls could not be settled together: {error}; each alone", calls.len());
                    self.settle_each(&calls).await?;
                }
            }
        }
        if to > from {
            self.journal.settle(to)?;
        }
        Ok(calls)
    }

    /// A call that cannot be settled must not stop those after it: it is kept in a file, and somebody has to look at it. Whether it
    /// cannot is known at once only if its rows were refused.
    async fn settle_each(&self, calls: &[CallRecord]) -> Result<(), GatewayError> {
        for call in calls {
            match self.write(std::slice::from_ref(call)).await {
                Ok(()) => {}
                Err(error) if is_away(&error) => {
                    self.trust();
                    return Err(error);
                }
                // A schema that is behind has no place for any call.
                Err(error) if !is_refusal(&error) && self.is_behind().await => {
                    self.trust();
                    return Err(error);
                }
                Err(error) if !is_refusal(&error) && !self.has_doubted(call.id) => return Err(error),
                Err(error) => {
                    tracing::error!(call = %call.id, "a call cannot be settled and is set aside: {error}");
                    self.journal.set_aside(call)?;
                }
            }
        }
        self.trust();
        Ok(())
    }

    async fn is_behind(&self) -> bool {
        self.db.schema_state().await.is_ok_and(|state| !state.is_servable())
    }

    fn trust(&self) {
        *self.doubt.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether this call has failed for long enough.
    fn has_doubted(&self, call: Uuid) -> bool {
        let now = self.clock.now();
        let mut doubt = self.doubt.lock().unwrap_or_else(PoisonError::into_inner);
        let since = doubt.filter(|(doubtful, _)| *doubtful == call).map_or(now, |(_, since)| since);
        *doubt = Some((call, since));
        now.duration_since(since) >= DOUBT
    }

    async fn write(&self, calls: &[CallRecord]) -> Result<(), GatewayError> {
        let at: Timestamp = self.clock.now();
        let holder = self.journal.holder();
        let spent: Vec<Spent> = calls
            .iter()
            .filter(|call| call.charge_nanos.is_positive())
            .map(|call| Spent {
                tenant: TenantId::from_uuid(call.tenant_id),
                reference: CallId::from_uuid(call.id).to_string(),
                amount: call.charge_nanos,
                description: format!("{} of {}", call.capability, call.model_asked),
            })
            .collect();
        self.db
            .transaction(async |conn| {
                self.billing.settle_spent_in(conn, at, holder, &spent).await?;
                GatewayRepository::new(conn).insert_calls(calls).await?;
                Ok(())
            })
            .await
    }
}

/// Whether trying the same again cannot help.
fn is_refusal(error: &GatewayError) -> bool {
    match error {
        GatewayError::Storage(error) => error.is_refusal(),
        _ => true,
    }
}

/// Whether trying the same again may help.
fn is_away(error: &GatewayError) -> bool {
    match error {
        GatewayError::Storage(error) => error.is_unavailable(),
        GatewayError::Unaccountable(_) => true,
        _ => false,
    }
}
