//! The price book and the catalogue, as those who keep them see them.

use jiff::Timestamp;
use uuid::Uuid;

use super::book_repository::BookRepository;
use super::catalogue::Model;
use super::error::GatewayError;
use super::model::Capability;
use super::price::{Price, Side, Unit};
use super::service::Gateway;
use crate::audit::{self, AuditEntry, Origin, Resource};

/// A row of the price book. Rows are never changed: a newer one of the same thing takes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookRow {
    /// Names it in explanations of charges.
    pub id: Uuid,
    /// Of what.
    pub capability: Capability,
    /// Whose; `*` is everybody's that has no own.
    pub provider: String,
    /// The provider's name of the model; `*` is every model that has no own.
    pub model: String,
    /// For how much.
    pub unit: Unit,
    /// Paid or charged.
    pub side: Side,
    /// Nano-dollars for one unit; `None` ended the price before it.
    pub nanos: Option<i64>,
    /// Since when.
    pub valid_from: Timestamp,
    /// Who set it.
    pub created_by: String,
    /// Whether it is the price that holds now.
    pub active: bool,
}

/// Which rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookQuery {
    /// Paid or charged.
    pub side: Side,
    /// Only of this capability.
    pub capability: Option<Capability>,
    /// Only of this provider.
    pub provider: Option<String>,
    /// Only what holds now, or only what does not.
    pub active: Option<bool>,
    /// At most so many.
    pub limit: u32,
    /// How many are passed over.
    pub offset: u32,
}

impl BookQuery {
    /// More are never answered at once.
    pub const MOST: u32 = 250;

    /// All of a side.
    pub const fn of(side: Side) -> Self {
        Self { side, capability: None, provider: None, active: None, limit: Self::MOST, offset: 0 }
    }
}

/// Some rows of the book.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookPage {
    /// By capability, provider, model and unit, the newest first.
    pub rows: Vec<BookRow>,
    /// On all pages.
    pub total: u64,
}

/// An offer of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// What is offered, by whom.
    pub model: Model,
    /// Whether it may be asked for.
    pub enabled: bool,
    /// Whether it can be, in this process: its provider is there, and it has a price.
    pub available: bool,
}

impl Gateway {
    /// Rows of the price book.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn price_book(&self, query: &BookQuery) -> Result<BookPage, GatewayError> {
        let mut conn = self.inner.db.connection().await?;
        Ok(BookRepository::new(&mut conn).list(self.inner.clock.now(), query).await?)
    }

    /// Sets a price from now on, whatever it was before; `None` ends it. What was charged before stays as it was.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn set_price(&self, origin: &Origin, price: &Price, nanos: Option<i64>) -> Result<BookRow, GatewayError> {
        let now = self.inner.clock.now();
        let row = self
            .inner
            .db
            .transaction(async |conn| {
                let mut book = BookRepository::new(conn);
                book.lock().await?;
                let row = book.append(now, price, nanos, &origin.actor.name()).await?;
                audit::record_in(conn, now, &priced(origin, &row)).await?;
                Ok::<_, GatewayError>(row)
            })
            .await?;
        self.inner.stale.notify_waiters();
        Ok(row)
    }

    /// As [`Gateway::set_price`], for what the row is a price of, which must be the one that holds now.
    ///
    /// # Errors
    /// [`GatewayError::PriceNotFound`], [`GatewayError::Storage`].
    pub async fn change_price(
        &self,
        origin: &Origin,
        side: Side,
        id: Uuid,
        nanos: Option<i64>,
    ) -> Result<BookRow, GatewayError> {
        let now = self.inner.clock.now();
        let row = self
            .inner
            .db
            .transaction(async |conn| {
                let mut book = BookRepository::new(conn);
                book.lock().await?;
                let before = book.find(now, id).await?.filter(|row| row.active && row.side == side);
                let price = before.map(|row| Price {
                    id: Uuid::new_v4(),
                    capability: row.capability,
                    provider: row.provider,
                    model: row.model,
                    unit: row.unit,
                    side: row.side,
                    nanos: nanos.unwrap_or_default(),
                });
                let price = price.ok_or(GatewayError::PriceNotFound(id))?;
                let row = book.append(now, &price, nanos, &origin.actor.name()).await?;
                audit::record_in(conn, now, &priced(origin, &row)).await?;
                Ok::<_, GatewayError>(row)
            })
            .await?;
        self.inner.stale.notify_waiters();
        Ok(row)
    }

    /// The catalogue: every offer, also those that nobody can ask for at present.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn offers(&self) -> Result<Vec<Offer>, GatewayError> {
        let mut conn = self.inner.db.connection().await?;
        let offers = BookRepository::new(&mut conn).offers().await?;
        let catalogue = self.inner.catalogue();
        let available = |model: &Model| catalogue.offers(model.capability, &model.id, &model.provider);
        Ok(offers
            .into_iter()
            .map(|(model, enabled)| Offer { available: enabled && available(&model), model, enabled })
            .collect())
    }

    /// Offers a model, or changes the offer; one that is not enabled stays in the catalogue and cannot be asked for. Seen by
    /// every process within seconds.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn save_offer(&self, origin: &Origin, model: &Model, enabled: bool) -> Result<(), GatewayError> {
        let at = self.inner.clock.now();
        self.inner
            .db
            .transaction(async |conn| {
                BookRepository::new(conn).save_offer(model, enabled).await?;
                let entry = AuditEntry::success(origin, None, "gateway.model", Resource::new("model", &model.id))
                    .with("provider", model.provider.as_str())
                    .with("capability", model.capability.as_str())
                    .with("providerModel", model.provider_model.as_str())
                    .with("enabled", enabled);
                Ok::<_, GatewayError>(audit::record_in(conn, at, &entry).await?)
            })
            .await?;
        self.inner.stale.notify_waiters();
        Ok(())
    }

    /// As [`Gateway::save_offer`], enabled.
    ///
    /// # Errors
    /// [`GatewayError::Storage`].
    pub async fn save_model(&self, origin: &Origin, model: &Model) -> Result<(), GatewayError> {
        self.save_offer(origin, model, true).await
    }
}

fn priced(origin: &Origin, row: &BookRow) -> AuditEntry {
    AuditEntry::success(origin, None, "gateway.price", Resource::new("price", row.id))
        .with("capability", row.capability.as_str())
        .with("provider", row.provider.as_str())
        .with("model", row.model.as_str())
        .with("unit", row.unit.as_str())
        .with("side", row.side.as_str())
        .with("nanos", row.nanos)
}
