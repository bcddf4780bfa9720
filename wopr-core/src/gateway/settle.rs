//! From the journal into the database: charges in groups, each once.

use jiff::Timestamp;

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

/// Settles what the journal has.
#[derive(Clone)]
pub(super) struct Settler {
    pub(super) db: Db,
    pub(super) clock: SharedClock,
    pub(super) billing: Billing,
    pub(super) journal: Journal,
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

    /// A call that cannot be settled must not stop those after it: it is kept in a file, and somebody has to look at it.
    async fn settle_each(&self, calls: &[CallRecord]) -> Result<(), GatewayError> {
        for call in calls {
            match self.write(std::slice::from_ref(call)).await {
                Ok(()) => {}
                Err(error) if is_away(&error) => return Err(error),
                Err(error) => {
                    tracing::error!(call = %call.id, "a call cannot be settled and is set aside: {error}");
                    self.journal.set_aside(call)?;
                }
            }
        }
        Ok(())
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

/// Whether trying the same again may help.
fn is_away(error: &GatewayError) -> bool {
    match error {
        GatewayError::Storage(error) => error.is_unavailable(),
        GatewayError::Unaccountable(_) => true,
        _ => false,
    }
}
