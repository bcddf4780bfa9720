//! The provider's books against the ledger, cent by cent.
//!
//! Every movement of the provider's balance is followed to the fact that explains it. What has no fact is fetched and
//! handled as its webhook would have been; what the provider keeps is posted as a fee. What stays unexplained, or was
//! credited and never reached the provider's balance, is reported.

mod repository;

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use self::repository::ReconcileRepository;
use super::Payments;
use super::error::PaymentsError;
use super::ports::{BalanceKind, BalanceTransaction, DisputeState, ProviderError};
use crate::audit::{Actor, Origin};
use crate::billing::{Account, PlatformAccount, Transfer, TransferKind};
use crate::ids::ReconciliationId;
use crate::money::Money;

/// The first run looks this far back.
const FIRST_PERIOD: SignedDuration = SignedDuration::from_hours(35 * 24);
/// Each run looks again at the end of the one before: a checkout may be paid up to a day after it was made, and a
/// webhook is tried for three days.
const OVERLAP: SignedDuration = SignedDuration::from_hours(4 * 24);
/// What is younger may still be on its way.
const DELAY: SignedDuration = SignedDuration::from_hours(1);
/// A page holds at least one; more pages than this are a provider that repeats itself.
const MAX_PAGES: usize = 100_000;
/// The only currency of the ledger.
const CURRENCY: &str = "usd";

/// Something that the two books do not agree on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The provider's id of the movement, or the ledger's reference of what has none.
    pub id: String,
    /// The charge, refund or dispute behind it.
    pub source_id: Option<String>,
    /// What the provider moved, in cents.
    pub provider_cents: i64,
    /// What the ledger knows, in cents.
    pub ledger_cents: i64,
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconciliation {
    /// Its id.
    pub id: ReconciliationId,
    /// When it began.
    pub started_at: Timestamp,
    /// Movements from here on …
    pub period_start: Timestamp,
    /// … up to here were looked at.
    pub period_end: Timestamp,
    /// How many movements the ledger explains, repaired ones included.
    pub matched: usize,
    /// What the ledger did not know and now does, by the provider's id of the movement.
    pub repaired: Vec<String>,
    /// What the provider moved and the ledger still does not know.
    pub missing_in_ledger: Vec<Difference>,
    /// What was credited and never reached the provider's balance.
    pub missing_at_provider: Vec<Difference>,
    /// What both know and do not agree on.
    pub differing: Vec<Difference>,
    /// What customers paid, less refunds and disputes, in cents.
    pub gross_cents: i64,
    /// What the provider kept, in cents.
    pub fee_cents: i64,
    /// What left for our bank, in cents.
    pub payout_cents: i64,
}

impl Reconciliation {
    /// Whether every cent is explained.
    pub fn is_clean(&self) -> bool {
        self.missing_in_ledger.is_empty() && self.missing_at_provider.is_empty() && self.differing.is_empty()
    }

    fn report(&self) -> Value {
        let list = |differences: &[Difference]| -> Vec<Value> {
            differences
                .iter()
                .map(|difference| {
                    json!({
                        "id": difference.id,
                        "source": difference.source_id,
                        "provider_cents": difference.provider_cents,
                        "ledger_cents": difference.ledger_cents,
                    })
                })
                .collect()
        };
        json!({
            "matched": self.matched,
            "repaired": self.repaired,
            "missing_in_ledger": list(&self.missing_in_ledger),
            "missing_at_provider": list(&self.missing_at_provider),
            "differing": list(&self.differing),
            "gross_cents": self.gross_cents,
            "fee_cents": self.fee_cents,
            "payout_cents": self.payout_cents,
        })
    }
}

/// What explains a movement.
enum Explanation {
    /// A fact of this amount; of this payment, if it is one.
    Fact { cents: i64, payment: Option<String> },
    /// It moves nothing of a customer's.
    Ours,
    /// Nothing.
    None,
}

impl Payments {
    /// Compares the provider's books with the ledger since the last run, repairs what is missing in the ledger, and
    /// stores what was found; `None` without a provider. For a periodic task.
    ///
    /// # Errors
    /// [`PaymentsError::Provider`], [`PaymentsError::Billing`], [`PaymentsError::Storage`]: the run is not stored, and
    /// the next one looks at the same period.
    pub async fn reconcile(&self) -> Result<Option<Reconciliation>, PaymentsError> {
        let Ok(provider) = self.provider() else { return Ok(None) };
        let started_at = self.clock.now();
        let back = |from: Timestamp, by| from.saturating_sub(by).unwrap_or(Timestamp::MIN);
        let mut conn = self.db.connection().await?;
        let last_end = ReconcileRepository::new(&mut conn).last_end().await?;
        drop(conn);
        let period_end = back(started_at, DELAY);
        let mut run = Reconciliation {
            id: ReconciliationId::new(started_at),
            started_at,
            period_start: last_end
                .map_or_else(|| back(period_end, FIRST_PERIOD), |end| back(end.min(period_end), OVERLAP)),
            period_end,
            matched: 0,
            repaired: Vec::new(),
            missing_in_ledger: Vec::new(),
            missing_at_provider: Vec::new(),
            differing: Vec::new(),
            gross_cents: 0,
            fee_cents: 0,
            payout_cents: 0,
        };
        let mut seen = BTreeSet::new();
        let mut after: Option<String> = None;
        // Up to now, so that what was credited just before the period's end is found at the provider.
        for _ in 0..MAX_PAGES {
            let page = provider.list_balance_transactions(run.period_start, started_at, after.as_deref()).await?;
            for moved in &page.items {
                self.follow(&mut run, &mut seen, moved).await?;
            }
            after = page.items.last().map(|moved| moved.id.clone());
            if !page.has_more || after.is_none() {
                break;
            }
        }
        let mut conn = self.db.connection().await?;
        // The start of the period is left out: what was paid there may have moved the balance before it.
        let since = last_end.map_or(run.period_start, |end| back(end.min(period_end), OVERLAP / 2));
        for (reference, payment, cents) in ReconcileRepository::new(&mut conn).list_credited(since, period_end).await? {
            if payment.as_ref().is_none_or(|payment| !seen.contains(payment)) {
                run.missing_at_provider.push(Difference {
                    id: reference,
                    source_id: payment,
                    provider_cents: 0,
                    ledger_cents: cents,
                });
            }
        }
        let finished = self.clock.now();
        ReconcileRepository::new(&mut conn).insert(&run, finished).await?;
        if run.is_clean() {
            tracing::info!("{} movements of the provider's balance are explained", run.matched);
        } else {
            tracing::error!(
                reconciliation.id = %run.id, missing_in_ledger = run.missing_in_ledger.len(),
                missing_at_provider = run.missing_at_provider.len(), differing = run.differing.len(),
                "the provider's books and the ledger disagree"
            );
        }
        Ok(Some(run))
    }

    /// Follows one movement to what explains it.
    async fn follow(
        &self,
        run: &mut Reconciliation,
        seen: &mut BTreeSet<String>,
        moved: &BalanceTransaction,
    ) -> Result<(), PaymentsError> {
        let young = moved.created_at >= run.period_end;
        let mut explanation = self.explain(moved).await?;
        if matches!(explanation, Explanation::None) && !young && self.repair(moved).await? {
            explanation = self.explain(moved).await?;
            if !matches!(explanation, Explanation::None) {
                run.repaired.push(moved.id.clone());
            }
        }
        if let Explanation::Fact { payment: Some(payment), .. } = &explanation {
            seen.insert(payment.clone());
        }
        if young {
            return Ok(());
        }
        self.post_fee(moved).await?;
        let difference = |ledger_cents| Difference {
            id: moved.id.clone(),
            source_id: moved.source_id.clone(),
            provider_cents: moved.amount,
            ledger_cents,
        };
        match moved.kind {
            BalanceKind::Payout => run.payout_cents = run.payout_cents.saturating_sub(moved.amount),
            BalanceKind::Fee => run.fee_cents = run.fee_cents.saturating_sub(moved.amount),
            _ => run.gross_cents = run.gross_cents.saturating_add(moved.amount),
        }
        run.fee_cents = run.fee_cents.saturating_add(moved.fee);
        match explanation {
            Explanation::Ours => run.matched += 1,
            Explanation::Fact { cents, .. } if cents == moved.amount.saturating_abs() => run.matched += 1,
            Explanation::Fact { cents, .. } => run.differing.push(difference(cents * moved.amount.signum())),
            Explanation::None => run.missing_in_ledger.push(difference(0)),
        }
        Ok(())
    }

    async fn explain(&self, moved: &BalanceTransaction) -> Result<Explanation, PaymentsError> {
        let provider = self.provider()?;
        let source = match (moved.kind, &moved.source_id) {
            (BalanceKind::Payout | BalanceKind::Fee, _) => return Ok(Explanation::Ours),
            (BalanceKind::Other, _) | (_, None) => return Ok(Explanation::None),
            (_, Some(source)) => source,
        };
        let found = match moved.kind {
            BalanceKind::Payment => match absent(provider.get_charge(source).await)? {
                Some(charge) => match charge.payment_intent_id {
                    Some(payment) => {
                        let mut conn = self.db.connection().await?;
                        let cents = ReconcileRepository::new(&mut conn).paid_cents(&payment).await?;
                        return Ok(match cents {
                            Some(cents) => Explanation::Fact { cents, payment: Some(payment) },
                            None => Explanation::None,
                        });
                    }
                    None => None,
                },
                None => None,
            },
            BalanceKind::Refund | BalanceKind::RefundFailure => {
                let failed = moved.kind == BalanceKind::RefundFailure;
                let mut conn = self.db.connection().await?;
                ReconcileRepository::new(&mut conn).refunded_cents(source, failed).await?
            }
            BalanceKind::Dispute => {
                let mut conn = self.db.connection().await?;
                ReconcileRepository::new(&mut conn).disputed_cents(source, moved.amount > 0).await?
            }
            BalanceKind::Payout | BalanceKind::Fee | BalanceKind::Other => None,
        };
        Ok(found.map_or(Explanation::None, |cents| Explanation::Fact { cents, payment: None }))
    }

    /// Fetches what a movement is about and handles it as its webhook would have been. Answers whether there was
    /// anything to handle.
    async fn repair(&self, moved: &BalanceTransaction) -> Result<bool, PaymentsError> {
        let provider = self.provider()?;
        let Some(source) = &moved.source_id else { return Ok(false) };
        let origin = Origin::system("reconciler");
        let now = self.clock.now();
        match moved.kind {
            BalanceKind::Payment => {
                let charge = absent(provider.get_charge(source).await)?;
                let Some(payment) = charge.and_then(|charge| charge.payment_intent_id) else { return Ok(false) };
                if let Some(session) = provider.find_checkout_of_payment(&payment).await? {
                    self.db.transaction(async |conn| self.checkout_paid_in(conn, now, &origin, &session).await).await?;
                } else {
                    let Some(intent) = absent(provider.get_payment(&payment).await)? else { return Ok(false) };
                    if !intent.succeeded {
                        return Ok(false);
                    }
                    self.db
                        .transaction(async |conn| self.payment_succeeded_in(conn, now, &origin, &intent).await)
                        .await?;
                }
            }
            BalanceKind::Refund | BalanceKind::RefundFailure => {
                let Some(refund) = absent(provider.get_refund(source).await)? else { return Ok(false) };
                for fact in self.refund_facts(vec![refund]).await? {
                    self.db.transaction(async |conn| self.refunded_in(conn, now, &origin, &fact).await).await?;
                }
            }
            BalanceKind::Dispute => {
                let Some(mut dispute) = absent(provider.get_dispute(source).await)? else { return Ok(false) };
                if moved.amount > 0 {
                    // The money is back, whatever the dispute says of itself meanwhile.
                    dispute.state = DisputeState::Won;
                }
                if let Some(fact) = self.dispute_fact(&dispute).await? {
                    self.db.transaction(async |conn| self.disputed_in(conn, now, &origin, &fact).await).await?;
                }
            }
            BalanceKind::Payout | BalanceKind::Fee | BalanceKind::Other => return Ok(false),
        }
        Ok(true)
    }

    /// Posts what the provider kept of a movement, or gave back of what it kept.
    async fn post_fee(&self, moved: &BalanceTransaction) -> Result<(), PaymentsError> {
        let kept = if moved.kind == BalanceKind::Fee { moved.fee.saturating_sub(moved.amount) } else { moved.fee };
        if kept == 0 || moved.currency != CURRENCY {
            return Ok(());
        }
        let amount = Money::try_from_cents(kept.saturating_abs())?;
        let fees = Account::Platform(PlatformAccount::StripeFees);
        let clearing = Account::Platform(PlatformAccount::StripeClearing);
        let (debit, credit) = if kept > 0 { (fees, clearing) } else { (clearing, fees) };
        let key = format!("fee:{}", moved.id);
        let actor = Actor::System("reconciler");
        let transfer = Transfer::new(key, TransferKind::ProcessorFee, debit, credit, amount, actor);
        self.billing.post(&[transfer]).await?;
        Ok(())
    }
}

/// What the provider does not know is not there.
fn absent<T>(answer: Result<T, ProviderError>) -> Result<Option<T>, PaymentsError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(ProviderError::NotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
