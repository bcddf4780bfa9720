//! A tenant's credit: what it has and what moved it.

mod admin;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use wopr_core::billing::{Entry, HistoryQuery, TransferKind};
use wopr_core::ids::{TenantId, TransferId, UserId};

use crate::error::ApiError;
use crate::state::AppState;
use crate::trpc::{Access, Context, Procedures};

pub(crate) fn router() -> OpenApiRouter<AppState> {
    admin::router()
}

pub(crate) fn procedures(p: &mut Procedures) {
    p.query("billing.creditsBalance", Access::User, credits_balance);
    p.query("billing.creditsHistory", Access::User, credits_history);
    admin::procedures(p);
}

#[derive(Debug, Deserialize)]
struct BalanceInput {
    tenant: Option<TenantId>,
}

#[derive(Debug, Serialize)]
struct BalanceOutput {
    tenant: TenantId,
    balance_cents: i64,
    daily_burn_cents: i64,
    /// `null` when nothing is consumed.
    runway_days: Option<i64>,
}

/// `billing.creditsBalance`
async fn credits_balance(cx: Context, input: BalanceInput) -> Result<BalanceOutput, ApiError> {
    let tenant = cx.tenant(input.tenant)?;
    let outlook = cx.state.billing.outlook(tenant).await?;
    Ok(BalanceOutput {
        tenant,
        balance_cents: outlook.balance.balance.as_cents_rounded(),
        daily_burn_cents: outlook.daily_burn.as_cents_rounded(),
        runway_days: outlook.runway_days,
    })
}

#[derive(Debug, Deserialize)]
struct HistoryInput {
    tenant: Option<TenantId>,
    #[serde(flatten)]
    page: PageInput,
}

/// `billing.creditsHistory`
async fn credits_history(cx: Context, input: HistoryInput) -> Result<Transactions, ApiError> {
    let tenant = cx.tenant(input.tenant)?;
    history(&cx.state, tenant, &input.page).await
}

/// Which entries of a history.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
pub(super) struct PageInput {
    /// `grant`, `refund`, `correction`, or the exact type of a transaction.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Not before this, in milliseconds since 1970.
    from: Option<i64>,
    /// Before this, in milliseconds since 1970.
    to: Option<i64>,
    /// How many, 50 unless told; pages have at most 250.
    limit: Option<u32>,
    /// How many to pass over.
    offset: Option<u32>,
}

impl PageInput {
    fn query(&self) -> Result<HistoryQuery, ApiError> {
        let instant = |millis: Option<i64>| millis.map(Timestamp::from_millisecond).transpose();
        let out_of_range = |_| ApiError::bad_request("`from` and `to` are milliseconds since 1970");
        let kinds = match self.kind.as_deref() {
            None => Vec::new(),
            Some("grant") => vec![TransferKind::SignupGrant, TransferKind::AdminGrant, TransferKind::Promo],
            Some("correction") => vec![TransferKind::AdminAdjust],
            Some(word) => vec![
                TransferKind::from_word(word).ok_or_else(|| ApiError::bad_request("No such type of transaction"))?,
            ],
        };
        if self.limit == Some(0) {
            return Err(ApiError::bad_request("`limit` is at least 1"));
        }
        let defaults = HistoryQuery::default();
        Ok(HistoryQuery {
            kinds,
            from: instant(self.from).map_err(out_of_range)?,
            to: instant(self.to).map_err(out_of_range)?,
            limit: self.limit.unwrap_or(defaults.limit),
            offset: self.offset.unwrap_or(defaults.offset),
        })
    }
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Transactions {
    entries: Vec<Transaction>,
    /// On all pages.
    total: u64,
}

/// A movement of a tenant's credit; amounts in nano-dollars.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct Transaction {
    #[schema(value_type = String)]
    id: TransferId,
    #[schema(value_type = String)]
    tenant_id: TenantId,
    /// Negative for debits.
    amount: i64,
    balance_after: i64,
    #[serde(rename = "type")]
    kind: &'static str,
    description: Option<String>,
    reference_id: String,
    funding_source: Option<&'static str>,
    #[schema(value_type = Option<String>)]
    attributed_user_id: Option<UserId>,
    created_at: String,
}

impl From<Entry> for Transaction {
    fn from(entry: Entry) -> Self {
        Self {
            id: entry.id,
            tenant_id: entry.tenant_id,
            amount: entry.amount.as_nanos(),
            balance_after: entry.balance_after.as_nanos(),
            kind: entry.kind.as_str(),
            description: entry.description,
            reference_id: entry.reference_key,
            funding_source: entry.funding_source.map(wopr_core::billing::FundingSource::as_str),
            attributed_user_id: entry.attributed_user_id,
            created_at: format!("{:.3}", entry.occurred_at),
        }
    }
}

async fn history(state: &AppState, tenant: TenantId, page: &PageInput) -> Result<Transactions, ApiError> {
    let history = state.billing.history(tenant, &page.query()?).await?;
    let entries = history.entries.into_iter().map(Transaction::from).collect();
    Ok(Transactions { entries, total: history.total })
}
