//! The SQL of the price book and the catalogue. Row structs stay inside.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection as _};
use jiff::{SignedDuration, Timestamp};
use jiff_diesel::ToDiesel as _;
use uuid::Uuid;

use super::book::{BookPage, BookQuery, BookRow};
use super::catalogue::Model;
use super::model::Capability;
use super::price::{Price, Side, Unit};
use crate::db::DbError;
use crate::db::schema::gateway::{models, prices};

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = SqlUuid)]
    id: Uuid,
    #[diesel(sql_type = Text)]
    capability: String,
    #[diesel(sql_type = Text)]
    provider: String,
    #[diesel(sql_type = Text)]
    model: String,
    #[diesel(sql_type = Text)]
    unit: String,
    #[diesel(sql_type = Text)]
    side: String,
    #[diesel(sql_type = Nullable<BigInt>)]
    nanos: Option<i64>,
    #[diesel(sql_type = Timestamptz)]
    valid_from: jiff_diesel::Timestamp,
    #[diesel(sql_type = Text)]
    created_by: String,
    #[diesel(sql_type = Bool)]
    active: bool,
    #[diesel(sql_type = BigInt)]
    total: i64,
}

impl TryFrom<Row> for BookRow {
    type Error = DbError;

    fn try_from(row: Row) -> Result<Self, DbError> {
        let broken = |what: &str| DbError::inconsistent("prices", format!("{}: {what}", row.id));
        Ok(Self {
            capability: Capability::from_word(&row.capability).ok_or_else(|| broken("unknown capability"))?,
            unit: Unit::from_word(&row.unit).ok_or_else(|| broken("unknown unit"))?,
            side: Side::from_word(&row.side).ok_or_else(|| broken("unknown side"))?,
            id: row.id,
            provider: row.provider,
            model: row.model,
            nanos: row.nanos,
            valid_from: row.valid_from.to_jiff(),
            created_by: row.created_by,
            active: row.active,
        })
    }
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = models)]
struct OfferRow {
    id: String,
    capability: String,
    provider: String,
    provider_model: String,
    max_output_tokens: Option<i32>,
    priority: i32,
    enabled: bool,
}

impl TryFrom<OfferRow> for (Model, bool) {
    type Error = DbError;

    fn try_from(row: OfferRow) -> Result<Self, DbError> {
        let broken = |what: &str| DbError::inconsistent("models", format!("{}: {what}", row.id));
        let most = row.max_output_tokens.map(u32::try_from).transpose();
        let model = Model {
            capability: Capability::from_word(&row.capability).ok_or_else(|| broken("unknown capability"))?,
            max_output_tokens: most.map_err(|_| broken("negative output"))?,
            id: row.id,
            provider: row.provider,
            provider_model: row.provider_model,
            priority: row.priority,
        };
        Ok((model, row.enabled))
    }
}

/// Whether a row `p` is the price that holds at `$1`, and how many rows there are on all pages.
const BOOK: &str = "SELECT *, count(*) OVER () AS total FROM (
    SELECT p.*, p.nanos IS NOT NULL AND p.valid_from <= $1 AND NOT EXISTS (
        SELECT FROM prices n WHERE (n.capability, n.provider, n.model, n.unit, n.side)
                = (p.capability, p.provider, p.model, p.unit, p.side)
            AND n.valid_from > p.valid_from AND n.valid_from <= $1) AS active
    FROM prices p) book";

pub(super) struct BookRepository<'c> {
    conn: &'c mut AsyncPgConnection,
}

impl<'c> BookRepository<'c> {
    pub(super) fn new(conn: &'c mut AsyncPgConnection) -> Self {
        Self { conn }
    }

    /// Lets nobody else append until the transaction ends; the book can be read meanwhile.
    pub(super) async fn lock(&mut self) -> Result<(), DbError> {
        self.conn.batch_execute("LOCK TABLE prices IN SHARE ROW EXCLUSIVE MODE").await?;
        Ok(())
    }

    /// Rows of the book.
    pub(super) async fn list(&mut self, at: Timestamp, query: &BookQuery) -> Result<BookPage, DbError> {
        let rows: Vec<Row> = diesel::sql_query(format!(
            "{BOOK} WHERE side = $2 AND ($3 IS NULL OR capability = $3) AND ($4 IS NULL OR provider = $4)
                 AND ($5 IS NULL OR active = $5)
             ORDER BY capability, provider, model, unit, valid_from DESC LIMIT $6 OFFSET $7"
        ))
        .bind::<Timestamptz, _>(at.to_diesel())
        .bind::<Text, _>(query.side.as_str())
        .bind::<Nullable<Text>, _>(query.capability.map(Capability::as_str))
        .bind::<Nullable<Text>, _>(query.provider.as_deref())
        .bind::<Nullable<Bool>, _>(query.active)
        .bind::<BigInt, _>(i64::from(query.limit.min(BookQuery::MOST)))
        .bind::<BigInt, _>(i64::from(query.offset))
        .load(self.conn)
        .await?;
        let total = if let [row, ..] = rows.as_slice() { row.total } else { 0 };
        let total = u64::try_from(total).map_err(|error| DbError::inconsistent("prices", error))?;
        Ok(BookPage { rows: rows.into_iter().map(BookRow::try_from).collect::<Result<_, _>>()?, total })
    }

    /// A row of the book.
    pub(super) async fn find(&mut self, at: Timestamp, id: Uuid) -> Result<Option<BookRow>, DbError> {
        let row: Option<Row> = diesel::sql_query(format!("{BOOK} WHERE id = $2"))
            .bind::<Timestamptz, _>(at.to_diesel())
            .bind::<SqlUuid, _>(id)
            .get_result(self.conn)
            .await
            .optional()?;
        row.map(BookRow::try_from).transpose()
    }

    /// Appends a price that holds from `at` on, and in any case after the one before it.
    pub(super) async fn append(
        &mut self,
        at: Timestamp,
        price: &Price,
        nanos: Option<i64>,
        by: &str,
    ) -> Result<BookRow, DbError> {
        let newest: Option<jiff_diesel::Timestamp> = prices::table
            .filter(prices::capability.eq(price.capability.as_str()))
            .filter(prices::provider.eq(&price.provider))
            .filter(prices::model.eq(&price.model))
            .filter(prices::unit.eq(price.unit.as_str()))
            .filter(prices::side.eq(price.side.as_str()))
            .select(diesel::dsl::max(prices::valid_from))
            .get_result(self.conn)
            .await?;
        let after = newest.map(|newest| newest.to_jiff() + SignedDuration::from_micros(1));
        let valid_from = after.map_or(at, |after| after.max(at));
        diesel::insert_into(prices::table)
            .values((
                prices::id.eq(price.id),
                prices::capability.eq(price.capability.as_str()),
                prices::provider.eq(&price.provider),
                prices::model.eq(&price.model),
                prices::unit.eq(price.unit.as_str()),
                prices::side.eq(price.side.as_str()),
                prices::nanos.eq(nanos),
                prices::valid_from.eq(valid_from.to_diesel()),
                prices::created_by.eq(by),
            ))
            .execute(self.conn)
            .await?;
        Ok(BookRow {
            id: price.id,
            capability: price.capability,
            provider: price.provider.clone(),
            model: price.model.clone(),
            unit: price.unit,
            side: price.side,
            nanos,
            valid_from,
            created_by: by.to_owned(),
            active: nanos.is_some(),
        })
    }

    /// Every offer, and whether it may be asked for.
    pub(super) async fn offers(&mut self) -> Result<Vec<(Model, bool)>, DbError> {
        let rows: Vec<OfferRow> = models::table
            .order((models::id, models::capability, models::provider))
            .select(OfferRow::as_select())
            .load(self.conn)
            .await?;
        rows.into_iter().map(<(Model, bool)>::try_from).collect()
    }

    /// Writes an offer, a new one or another one in its place.
    pub(super) async fn save_offer(&mut self, model: &Model, enabled: bool) -> Result<(), DbError> {
        let most = model.max_output_tokens.map(i32::try_from).transpose();
        let values = (
            models::provider_model.eq(&model.provider_model),
            models::max_output_tokens.eq(most.map_err(|error| DbError::inconsistent("models", error))?),
            models::priority.eq(model.priority),
            models::enabled.eq(enabled),
        );
        diesel::insert_into(models::table)
            .values((
                models::id.eq(&model.id),
                models::capability.eq(model.capability.as_str()),
                models::provider.eq(&model.provider),
                values,
            ))
            .on_conflict((models::id, models::capability, models::provider))
            .do_update()
            .set(values)
            .execute(self.conn)
            .await?;
        Ok(())
    }
}
