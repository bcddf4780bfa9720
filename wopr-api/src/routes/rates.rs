//! What calls to models cost us and are sold for, and the catalogue of models: for operators.
//!
//! The price book is append-only. A change is a row of its own that takes over, and has an id of its own; so has a removal.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::{Deserialize, Serialize};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;
use wopr_core::audit::Origin;
use wopr_core::gateway::{BookQuery, BookRow, Capability, Model, Offer, Price, Side, Unit};

use crate::decimal::{Decimal, NanoDollars};
use crate::error::{ApiError, Issue};
use crate::extract::{Json, Path, PlatformAdmin, Query, origin};
use crate::state::AppState;
use crate::trpc::{Access, Context, NoInput, Procedures};

/// Stands for every provider or model that is not named.
const ANY: &str = "*";
/// No unit costs a million dollars.
const MOST_NANOS: i64 = 1_000_000_000_000_000;
const MAX_PROVIDER_CHARS: usize = 64;
const MAX_MODEL_CHARS: usize = 200;

pub(crate) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(rest_list))
        .routes(routes!(rest_margins))
        .routes(routes!(rest_create_sell))
        .routes(routes!(rest_update_sell, rest_delete_sell))
        .routes(routes!(rest_create_provider))
        .routes(routes!(rest_update_provider, rest_delete_provider))
        .routes(routes!(rest_models, rest_save_model))
}

pub(crate) fn procedures(p: &mut Procedures) {
    p.query("admin.ratesListSell", Access::PlatformAdmin, list_sell);
    p.query("admin.ratesListProvider", Access::PlatformAdmin, list_provider);
    p.mutation("admin.ratesCreateSell", Access::PlatformAdmin, create_sell);
    p.mutation("admin.ratesCreateProvider", Access::PlatformAdmin, create_provider);
    p.mutation("admin.ratesUpdateSell", Access::PlatformAdmin, update_sell);
    p.mutation("admin.ratesUpdateProvider", Access::PlatformAdmin, update_provider);
    p.mutation("admin.ratesDeleteSell", Access::PlatformAdmin, delete_sell);
    p.mutation("admin.ratesDeleteProvider", Access::PlatformAdmin, delete_provider);
    p.query("admin.ratesMargins", Access::PlatformAdmin, margins);
    p.query("admin.gatewayModels", Access::PlatformAdmin, models);
    p.mutation("admin.gatewaySaveModel", Access::PlatformAdmin, save_model);
}

/// Which rows of the book.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListInput {
    capability: Option<String>,
    adapter: Option<String>,
    is_active: Option<bool>,
    limit: Option<u32>,
    offset: Option<u32>,
}

impl ListInput {
    fn query(self, side: Side) -> Result<BookQuery, ApiError> {
        let limit = self.limit.unwrap_or(BookQuery::MOST);
        if !(1..=BookQuery::MOST).contains(&limit) {
            return Err(invalid("limit", format!("1 to {} are answered at once", BookQuery::MOST)));
        }
        Ok(BookQuery {
            capability: self.capability.as_deref().map(capability).transpose()?,
            provider: self.adapter,
            active: self.is_active,
            limit,
            offset: self.offset.unwrap_or_default(),
            ..BookQuery::of(side)
        })
    }
}

fn invalid(field: &str, message: impl Into<String>) -> ApiError {
    ApiError::invalid_input(vec![Issue::field(field, message)])
}

fn capability(word: &str) -> Result<Capability, ApiError> {
    Capability::from_word(word).ok_or_else(|| {
        invalid("capability", format!("it is one of {}", Capability::ALL.map(Capability::as_str).join(", ")))
    })
}

/// A name of a provider or model; absent, `null` and `*` are all of them.
fn name(field: &str, name: Option<String>, most: usize) -> Result<String, ApiError> {
    let name = name.unwrap_or_else(|| ANY.to_owned());
    let plain = !name.is_empty() && name.chars().count() <= most && !name.chars().any(|c| c.is_control() || c == ' ');
    if plain { Ok(name) } else { Err(invalid(field, format!("1 to {most} characters without blanks are needed"))) }
}

/// What a unit is sold for.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct SellRate {
    #[serde(flatten)]
    rate: Rate,
    /// What one unit costs the tenant, in US dollars; `null` where a price was ended.
    #[schema(value_type = Option<f64>)]
    price_usd: Option<NanoDollars>,
}

/// What a unit costs us.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct ProviderCost {
    #[serde(flatten)]
    rate: Rate,
    /// What one unit costs us, in US dollars; `null` where a price was ended.
    #[schema(value_type = Option<f64>)]
    cost_usd: Option<NanoDollars>,
}

/// A row of the book.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Rate {
    id: Uuid,
    capability: &'static str,
    display_name: String,
    /// Whose; `null` is everybody's that has no own.
    adapter: Option<String>,
    /// The provider's name of the model; `null` is every model that has no own.
    model: Option<String>,
    unit: &'static str,
    /// Whether it holds now.
    is_active: bool,
    created_by: String,
    created_at: String,
    /// Rows are never changed: when it was made.
    updated_at: String,
}

impl From<BookRow> for Rate {
    fn from(row: BookRow) -> Self {
        let named = |name: &String| (name != ANY).then(|| name.clone());
        let (adapter, model) = (named(&row.provider), named(&row.model));
        let words = [Some(row.capability.as_str()), adapter.as_deref(), model.as_deref(), Some(row.unit.as_str())];
        let display_name = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
        let at = format!("{:.3}", row.valid_from);
        Self {
            id: row.id,
            capability: row.capability.as_str(),
            display_name,
            adapter,
            model,
            unit: row.unit.as_str(),
            is_active: row.active,
            created_by: row.created_by,
            updated_at: at.clone(),
            created_at: at,
        }
    }
}

impl From<BookRow> for SellRate {
    fn from(row: BookRow) -> Self {
        Self { price_usd: row.nanos.map(Decimal), rate: row.into() }
    }
}

impl From<BookRow> for ProviderCost {
    fn from(row: BookRow) -> Self {
        Self { cost_usd: row.nanos.map(Decimal), rate: row.into() }
    }
}

#[derive(Debug, Serialize)]
struct Page<T> {
    entries: Vec<T>,
    total: u64,
}

async fn page<T: From<BookRow>>(state: &AppState, input: Option<ListInput>, side: Side) -> Result<Page<T>, ApiError> {
    let query = input.unwrap_or_default().query(side)?;
    let page = state.gateway.price_book(&query).await?;
    Ok(Page { entries: page.rows.into_iter().map(T::from).collect(), total: page.total })
}

/// `admin.ratesListSell`
async fn list_sell(cx: Context, input: Option<ListInput>) -> Result<Page<SellRate>, ApiError> {
    page(&cx.state, input, Side::Sell).await
}

/// `admin.ratesListProvider`
async fn list_provider(cx: Context, input: Option<ListInput>) -> Result<Page<ProviderCost>, ApiError> {
    page(&cx.state, input, Side::Cost).await
}

/// A price that holds from now on.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewRate {
    capability: String,
    /// Whose; every provider that has no own unless named.
    adapter: Option<String>,
    /// The provider's name of the model; every model that has no own unless named.
    model: Option<String>,
    /// `million-input-tokens`, `million-cached-input-tokens`, `million-output-tokens`, `million-characters`, `minute` or `image`.
    unit: String,
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewSellRate {
    #[serde(flatten)]
    rate: NewRate,
    /// US dollars for one unit, with at most nine decimals.
    #[schema(value_type = f64)]
    price_usd: NanoDollars,
}

#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct NewProviderCost {
    #[serde(flatten)]
    rate: NewRate,
    /// US dollars for one unit, with at most nine decimals.
    #[schema(value_type = f64)]
    cost_usd: NanoDollars,
}

fn price(field: &str, Decimal(nanos): NanoDollars) -> Result<i64, ApiError> {
    if (1..=MOST_NANOS).contains(&nanos) {
        return Ok(nanos);
    }
    Err(invalid(field, "more than nothing and at most a million dollars can be a price"))
}

async fn create<T: From<BookRow>>(
    state: &AppState,
    origin: &Origin,
    side: Side,
    rate: NewRate,
    nanos: i64,
) -> Result<T, ApiError> {
    let unit = Unit::from_word(&rate.unit)
        .ok_or_else(|| invalid("unit", format!("it is one of {}", Unit::ALL.map(Unit::as_str).join(", "))))?;
    let price = Price {
        id: Uuid::new_v4(),
        capability: capability(&rate.capability)?,
        provider: name("adapter", rate.adapter, MAX_PROVIDER_CHARS)?,
        model: name("model", rate.model, MAX_MODEL_CHARS)?,
        unit,
        side,
        nanos,
    };
    Ok(state.gateway.set_price(origin, &price, Some(nanos)).await?.into())
}

/// `admin.ratesCreateSell`
async fn create_sell(cx: Context, input: NewSellRate) -> Result<SellRate, ApiError> {
    let nanos = price("priceUsd", input.price_usd)?;
    create(&cx.state, &cx.origin, Side::Sell, input.rate, nanos).await
}

/// `admin.ratesCreateProvider`
async fn create_provider(cx: Context, input: NewProviderCost) -> Result<ProviderCost, ApiError> {
    let nanos = price("costUsd", input.cost_usd)?;
    create(&cx.state, &cx.origin, Side::Cost, input.rate, nanos).await
}

/// Another price for the same thing. What it is a price of stays: another thing has a price of its own.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct RateChange {
    capability: Option<String>,
    adapter: Option<String>,
    model: Option<String>,
    unit: Option<String>,
    /// US dollars for one unit of what is sold.
    #[schema(value_type = Option<f64>)]
    price_usd: Option<NanoDollars>,
    /// US dollars for one unit of what we pay.
    #[schema(value_type = Option<f64>)]
    cost_usd: Option<NanoDollars>,
    /// `false` ends the price.
    is_active: Option<bool>,
}

async fn change<T: From<BookRow>>(
    state: &AppState,
    origin: &Origin,
    side: Side,
    id: Uuid,
    change: RateChange,
) -> Result<T, ApiError> {
    let kept = [
        ("capability", change.capability.is_some()),
        ("adapter", change.adapter.is_some()),
        ("model", change.model.is_some()),
        ("unit", change.unit.is_some()),
    ];
    if let Some((field, _)) = kept.into_iter().find(|(_, named)| *named) {
        return Err(invalid(field, "a price of something else is a new price"));
    }
    let (field, asked) = match side {
        Side::Sell => ("priceUsd", change.price_usd),
        Side::Cost => ("costUsd", change.cost_usd),
    };
    let nanos = match (asked, change.is_active) {
        (Some(asked), None | Some(true)) => Some(price(field, asked)?),
        (None, Some(false)) => None,
        _ => return Err(invalid(field, "a price, or `isActive: false` to end it, is needed")),
    };
    Ok(state.gateway.change_price(origin, side, id, nanos).await?.into())
}

#[derive(Debug, Deserialize)]
struct RateChangeInput {
    id: Uuid,
    #[serde(flatten)]
    change: RateChange,
}

/// `admin.ratesUpdateSell`
async fn update_sell(cx: Context, input: RateChangeInput) -> Result<SellRate, ApiError> {
    change(&cx.state, &cx.origin, Side::Sell, input.id, input.change).await
}

/// `admin.ratesUpdateProvider`
async fn update_provider(cx: Context, input: RateChangeInput) -> Result<ProviderCost, ApiError> {
    change(&cx.state, &cx.origin, Side::Cost, input.id, input.change).await
}

#[derive(Debug, Deserialize)]
struct IdInput {
    id: Uuid,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Ended {
    success: bool,
}

async fn end(state: &AppState, origin: &Origin, side: Side, id: Uuid) -> Result<Ended, ApiError> {
    state.gateway.change_price(origin, side, id, None).await?;
    Ok(Ended { success: true })
}

/// `admin.ratesDeleteSell`
async fn delete_sell(cx: Context, input: IdInput) -> Result<Ended, ApiError> {
    end(&cx.state, &cx.origin, Side::Sell, input.id).await
}

/// `admin.ratesDeleteProvider`
async fn delete_provider(cx: Context, input: IdInput) -> Result<Ended, ApiError> {
    end(&cx.state, &cx.origin, Side::Cost, input.id).await
}

#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
struct MarginsInput {
    /// Such as `chat-completions`.
    capability: Option<String>,
}

/// What is earned with what is sold at a price of its own; everything else is sold at cost and the configured margin.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Margins {
    margins: Vec<Margin>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct Margin {
    capability: &'static str,
    sell_rate: SellRate,
    /// What the same costs us, the cheapest first.
    provider_costs: Vec<ProviderCost>,
    /// Of the price, when the cheapest serves it; `null` where nothing is known to cost.
    #[schema(value_type = Option<f64>)]
    best_margin_pct: Option<Decimal<2>>,
}

/// In hundredths of a per cent, rounded down.
fn margin_of(sold: i64, cost: i64) -> Option<i64> {
    let share = (i128::from(sold) - i128::from(cost)) * 10_000;
    i64::try_from(share.div_euclid(i128::from(sold).max(1))).ok()
}

async fn all_margins(state: &AppState, input: MarginsInput) -> Result<Margins, ApiError> {
    let capability = input.capability.as_deref().map(capability).transpose()?;
    let held = |side| BookQuery { capability, active: Some(true), ..BookQuery::of(side) };
    let sold = state.gateway.price_book(&held(Side::Sell)).await?.rows;
    let costs = state.gateway.price_book(&held(Side::Cost)).await?.rows;
    let fits = |sold: &str, cost: &str| sold == cost || sold == ANY || cost == ANY;
    let margins = sold.into_iter().map(|sold| {
        let mut same: Vec<&BookRow> = costs
            .iter()
            .filter(|cost| cost.capability == sold.capability && cost.unit == sold.unit)
            .filter(|cost| fits(&sold.provider, &cost.provider) && fits(&sold.model, &cost.model))
            .collect();
        same.sort_by_key(|cost| cost.nanos);
        let best = same.first().and_then(|cost| margin_of(sold.nanos?, cost.nanos?));
        Margin {
            capability: sold.capability.as_str(),
            best_margin_pct: best.map(Decimal),
            provider_costs: same.into_iter().cloned().map(ProviderCost::from).collect(),
            sell_rate: sold.into(),
        }
    });
    Ok(Margins { margins: margins.collect() })
}

/// `admin.ratesMargins`
async fn margins(cx: Context, input: Option<MarginsInput>) -> Result<Margins, ApiError> {
    all_margins(&cx.state, input.unwrap_or_default()).await
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
struct RatesParams {
    /// Such as `chat-completions`.
    capability: Option<String>,
    /// Only what holds now, or only what does not.
    active: Option<bool>,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Rates {
    sell_rates: Vec<SellRate>,
    provider_costs: Vec<ProviderCost>,
    total_sell_rates: u64,
    total_provider_costs: u64,
}

/// The price book: the newest 250 rows of each side.
#[utoipa::path(
    get, path = "/api/admin/rates", tag = "admin", params(RatesParams),
    responses((status = 200, body = Rates)),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"]))
)]
async fn rest_list(
    State(state): State<AppState>,
    _caller: PlatformAdmin,
    Query(params): Query<RatesParams>,
) -> Result<Json<Rates>, ApiError> {
    let input = || {
        let (capability, is_active) = (params.capability.clone(), params.active);
        Some(ListInput { capability, is_active, ..ListInput::default() })
    };
    let sold: Page<SellRate> = page(&state, input(), Side::Sell).await?;
    let costs: Page<ProviderCost> = page(&state, input(), Side::Cost).await?;
    Ok(Json(Rates {
        sell_rates: sold.entries,
        provider_costs: costs.entries,
        total_sell_rates: sold.total,
        total_provider_costs: costs.total,
    }))
}

/// What is earned with what is sold.
#[utoipa::path(
    get, path = "/api/admin/rates/margins", tag = "admin", params(MarginsInput),
    responses((status = 200, body = Margins)),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"]))
)]
async fn rest_margins(
    State(state): State<AppState>,
    _caller: PlatformAdmin,
    Query(input): Query<MarginsInput>,
) -> Result<Json<Margins>, ApiError> {
    all_margins(&state, input).await.map(Json)
}

/// Sells something at a price from now on.
#[utoipa::path(
    post, path = "/api/admin/rates/sell", tag = "admin", request_body = NewSellRate,
    responses((status = 201, body = SellRate)),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"]))
)]
async fn rest_create_sell(
    State(state): State<AppState>,
    PlatformAdmin(caller): PlatformAdmin,
    parts: Parts,
    Json(input): Json<NewSellRate>,
) -> Result<(StatusCode, Json<SellRate>), ApiError> {
    let nanos = price("priceUsd", input.price_usd)?;
    let made = create(&state, &origin(&parts, Some(&caller)), Side::Sell, input.rate, nanos).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Says what something costs us from now on.
#[utoipa::path(
    post, path = "/api/admin/rates/provider", tag = "admin", request_body = NewProviderCost,
    responses((status = 201, body = ProviderCost)),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"]))
)]
async fn rest_create_provider(
    State(state): State<AppState>,
    PlatformAdmin(caller): PlatformAdmin,
    parts: Parts,
    Json(input): Json<NewProviderCost>,
) -> Result<(StatusCode, Json<ProviderCost>), ApiError> {
    let nanos = price("costUsd", input.cost_usd)?;
    let made = create(&state, &origin(&parts, Some(&caller)), Side::Cost, input.rate, nanos).await?;
    Ok((StatusCode::CREATED, Json(made)))
}

/// Sells the same at another price from now on; the answer has the id of the new row.
#[utoipa::path(
    put, path = "/api/admin/rates/sell/{id}", tag = "admin", request_body = RateChange,
    params(("id" = Uuid, Path)),
    responses((status = 200, body = SellRate), (status = 404, description = "No such price holds")),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"]))
)]
async fn rest_update_sell(
    State(state): State<AppState>,
    PlatformAdmin(caller): PlatformAdmin,
    parts: Parts,
    Path(id): Path<Uuid>,
    Json(input): Json<RateChange>,
) -> Result<Json<SellRate>, ApiError> {
    change(&state, &origin(&parts, Some(&caller)), Side::Sell, id, input).await.map(Json)
}

/// Says that the same costs us something else from now on; the answer has the id of the new row.
#[utoipa::path(
    put, path = "/api/admin/rates/provider/{id}", tag = "admin", request_body = RateChange,
    params(("id" = Uuid, Path)),
    responses((status = 200, body = ProviderCost), (status = 404, description = "No such price holds")),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"]))
)]
async fn rest_update_provider(
    State(state): State<AppState>,
    PlatformAdmin(caller): PlatformAdmin,
    parts: Parts,
    Path(id): Path<Uuid>,
    Json(input): Json<RateChange>,
) -> Result<Json<ProviderCost>, ApiError> {
    change(&state, &origin(&parts, Some(&caller)), Side::Cost, id, input).await.map(Json)
}

/// Ends a price; what was charged by it stays as it was.
#[utoipa::path(
    delete, path = "/api/admin/rates/sell/{id}", tag = "admin", params(("id" = Uuid, Path)),
    responses((status = 200, body = Ended), (status = 404, description = "No such price holds")),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"]))
)]
async fn rest_delete_sell(
    State(state): State<AppState>,
    PlatformAdmin(caller): PlatformAdmin,
    parts: Parts,
    Path(id): Path<Uuid>,
) -> Result<Json<Ended>, ApiError> {
    end(&state, &origin(&parts, Some(&caller)), Side::Sell, id).await.map(Json)
}

/// Ends a cost; what has none is not offered.
#[utoipa::path(
    delete, path = "/api/admin/rates/provider/{id}", tag = "admin", params(("id" = Uuid, Path)),
    responses((status = 200, body = Ended), (status = 404, description = "No such price holds")),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"]))
)]
async fn rest_delete_provider(
    State(state): State<AppState>,
    PlatformAdmin(caller): PlatformAdmin,
    parts: Parts,
    Path(id): Path<Uuid>,
) -> Result<Json<Ended>, ApiError> {
    end(&state, &origin(&parts, Some(&caller)), Side::Cost, id).await.map(Json)
}

/// A model as somebody offers it.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
struct OfferBody {
    /// What is asked for.
    id: String,
    capability: String,
    /// Who serves it: a provider, or `gpu-<service>` for our own machines.
    provider: String,
    /// Its name there.
    provider_model: String,
    /// More is never written for one call.
    max_output_tokens: Option<u32>,
    /// Lower is asked first where the price is the same; 100 unless told.
    #[serde(default = "usual_priority")]
    priority: i32,
    /// Whether it may be asked for; it may unless told otherwise.
    #[serde(default = "yes")]
    enabled: bool,
}

/// An offer, and whether it holds.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct OfferView {
    #[serde(flatten)]
    offer: OfferBody,
    /// Whether it can be asked for now: its provider is there, and it has a price.
    available: bool,
}

const fn usual_priority() -> i32 {
    100
}

const fn yes() -> bool {
    true
}

impl From<Offer> for OfferView {
    fn from(Offer { model, enabled, available }: Offer) -> Self {
        let offer = OfferBody {
            id: model.id,
            capability: model.capability.as_str().to_owned(),
            provider: model.provider,
            provider_model: model.provider_model,
            max_output_tokens: model.max_output_tokens,
            priority: model.priority,
            enabled,
        };
        Self { offer, available }
    }
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Offers {
    models: Vec<OfferView>,
}

async fn offers(state: &AppState) -> Result<Offers, ApiError> {
    Ok(Offers { models: state.gateway.offers().await?.into_iter().map(OfferView::from).collect() })
}

async fn save(state: &AppState, origin: &Origin, input: OfferBody) -> Result<Offers, ApiError> {
    let named = |field, text: String, most| match text.as_str() {
        ANY => Err(invalid(field, "a name is needed")),
        _ => name(field, Some(text), most),
    };
    if input.max_output_tokens.is_some_and(|most| most == 0 || i32::try_from(most).is_err()) {
        return Err(invalid("maxOutputTokens", "it is a positive number, or null"));
    }
    let model = Model {
        id: named("id", input.id, MAX_MODEL_CHARS)?,
        capability: capability(&input.capability)?,
        provider: named("provider", input.provider, MAX_PROVIDER_CHARS)?,
        provider_model: named("providerModel", input.provider_model, MAX_MODEL_CHARS)?,
        max_output_tokens: input.max_output_tokens,
        priority: input.priority,
    };
    state.gateway.save_offer(origin, &model, input.enabled).await?;
    offers(state).await
}

/// `admin.gatewayModels`
async fn models(cx: Context, _input: NoInput) -> Result<Offers, ApiError> {
    offers(&cx.state).await
}

/// `admin.gatewaySaveModel`
async fn save_model(cx: Context, input: OfferBody) -> Result<Offers, ApiError> {
    save(&cx.state, &cx.origin, input).await
}

/// The catalogue of models, with what cannot be asked for at present.
#[utoipa::path(
    get, path = "/api/admin/gateway/models", tag = "admin",
    responses((status = 200, body = Offers)),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"]))
)]
async fn rest_models(State(state): State<AppState>, _caller: PlatformAdmin) -> Result<Json<Offers>, ApiError> {
    offers(&state).await.map(Json)
}

/// Offers a model, or changes an offer: its id, capability and provider name it.
#[utoipa::path(
    put, path = "/api/admin/gateway/models", tag = "admin", request_body = OfferBody,
    responses((status = 200, body = Offers)),
    security(("bearer" = ["platform_admin"]), ("session" = ["platform_admin"]))
)]
async fn rest_save_model(
    State(state): State<AppState>,
    PlatformAdmin(caller): PlatformAdmin,
    parts: Parts,
    Json(input): Json<OfferBody>,
) -> Result<Json<Offers>, ApiError> {
    save(&state, &origin(&parts, Some(&caller)), input).await.map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_margin_is_a_part_of_the_price_rounded_down() {
        assert_eq!(margin_of(200, 100), Some(5_000));
        assert_eq!(margin_of(300, 200), Some(3_333));
        assert_eq!(margin_of(100, 200), Some(-10_000));
        assert_eq!(margin_of(3, 10), Some(-23_334));
    }
}
