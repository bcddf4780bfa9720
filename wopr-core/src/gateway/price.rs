//! What calls cost, and what is charged for them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::model::{Capability, TokenUsage, Usage};
use crate::money::{Money, MoneyOverflow};

/// A margin of one: 10 000 basis points are 100 %.
const WHOLE_BPS: i128 = 10_000;
/// Every [`Unit::parts`] divides it.
const COMMON_PARTS: i64 = 3_000_000;
/// Stands for every provider or model that is not named.
const ANY: &str = "*";

/// What has a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// A million tokens that are read.
    MillionInputTokens,
    /// A million tokens that are read from a cache.
    MillionCachedInputTokens,
    /// A million tokens that are written.
    MillionOutputTokens,
    /// A million characters that are spoken.
    MillionCharacters,
    /// A minute that is listened to; counted in milliseconds.
    Minute,
    /// A picture.
    Image,
}

impl Unit {
    /// Every unit.
    pub const ALL: [Self; 6] = [
        Self::MillionInputTokens,
        Self::MillionCachedInputTokens,
        Self::MillionOutputTokens,
        Self::MillionCharacters,
        Self::Minute,
        Self::Image,
    ];

    /// The stored and public word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MillionInputTokens => "million-input-tokens",
            Self::MillionCachedInputTokens => "million-cached-input-tokens",
            Self::MillionOutputTokens => "million-output-tokens",
            Self::MillionCharacters => "million-characters",
            Self::Minute => "minute",
            Self::Image => "image",
        }
    }

    /// The unit of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.as_str() == word)
    }

    /// How many of what is counted make one unit.
    pub const fn parts(self) -> i64 {
        match self {
            Self::MillionInputTokens
            | Self::MillionCachedInputTokens
            | Self::MillionOutputTokens
            | Self::MillionCharacters => 1_000_000,
            Self::Minute => 60_000,
            Self::Image => 1,
        }
    }
}

/// Which price it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// What we pay.
    Cost,
    /// What is charged.
    Sell,
}

impl Side {
    /// The stored and public word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cost => "cost",
            Self::Sell => "sell",
        }
    }

    /// The side of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Cost, Self::Sell].into_iter().find(|side| side.as_str() == word)
    }
}

/// A price that holds now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    /// Names it in explanations.
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
    /// Nano-dollars for one unit.
    pub nanos: i64,
}

/// The prices of one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct PriceBook {
    prices: HashMap<(Capability, Unit, Side), Vec<Price>>,
}

impl PriceBook {
    /// A book of these prices.
    pub(super) fn new(prices: impl IntoIterator<Item = Price>) -> Self {
        let mut book = Self::default();
        for price in prices {
            book.prices.entry((price.capability, price.unit, price.side)).or_default().push(price);
        }
        book
    }

    /// The price of most words: provider and model named, then the provider, then the model, then neither.
    fn find(&self, capability: Capability, provider: &str, model: &str, unit: Unit, side: Side) -> Option<PricePart> {
        let prices = self.prices.get(&(capability, unit, side))?;
        [(provider, model), (provider, ANY), (ANY, model), (ANY, ANY)]
            .into_iter()
            .find_map(|(provider, model)| {
                prices.iter().find(|price| price.provider == provider && price.model == model)
            })
            .map(|price| PricePart { unit, nanos: price.nanos, price: price.id })
    }

    /// What a provider's model costs and is sold for; nothing if a price is missing: what has no price is not for sale.
    pub(super) fn quote(&self, capability: Capability, provider: &str, model: &str, margin_bps: u32) -> Option<Quote> {
        let find = |unit, side| self.find(capability, provider, model, unit, side);
        let needed: &[Unit] = match capability {
            Capability::ChatCompletions | Capability::TextCompletions => {
                &[Unit::MillionInputTokens, Unit::MillionOutputTokens]
            }
            Capability::Embeddings => &[Unit::MillionInputTokens],
            Capability::Transcription => &[Unit::Minute],
            Capability::Tts => &[Unit::MillionCharacters],
            Capability::ImageGeneration => &[Unit::Image],
        };
        let all = |side| -> Option<Vec<PricePart>> {
            let mut parts: Vec<PricePart> = needed.iter().map(|unit| find(*unit, side)).collect::<Option<_>>()?;
            parts.extend(find(Unit::MillionCachedInputTokens, side));
            Some(parts)
        };
        Some(Quote { cost: all(Side::Cost)?, sell: all(Side::Sell).unwrap_or_default(), margin_bps, is_free: false })
    }
}

/// The price of one unit, and which row of the book it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PricePart {
    unit: Unit,
    nanos: i64,
    price: Uuid,
}

/// The prices of one provider's model: sold at its sell prices if it has them all, else at cost and margin; never both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Quote {
    cost: Vec<PricePart>,
    sell: Vec<PricePart>,
    margin_bps: u32,
    /// Somebody else pays for it.
    is_free: bool,
}

/// What a call cost us and what is charged for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Charge {
    /// Paid to the provider.
    pub(super) cost: Money,
    /// Taken from the tenant.
    pub(super) charge: Money,
    /// How the charge came about.
    pub(super) explanation: Explanation,
}

/// How a charge came about: it can be computed again from this alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Quantities and the prices they were multiplied with.
    pub parts: Vec<ExplainedPart>,
    /// What the provider said it costs; the parts are for information then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_cost: Option<Money>,
    /// Added to the cost, in hundredths of a per cent; nothing when sold at sell prices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin_bps: Option<u32>,
}

/// A quantity and its price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedPart {
    /// Priced by.
    pub unit: Unit,
    /// How many of what is counted.
    pub quantity: i64,
    /// Nano-dollars for one unit.
    pub nanos: i64,
    /// The row of the price book.
    pub price: Uuid,
}

impl Quote {
    /// Of calls that a tenant's own account pays for: nothing, whatever the provider says that they cost.
    pub(super) fn paid_by_the_tenant() -> Self {
        Self { cost: Vec::new(), sell: Vec::new(), margin_bps: 0, is_free: true }
    }

    /// What a call of that usage costs, rounded once, half a nano-dollar away from zero.
    ///
    /// # Errors
    /// [`MoneyOverflow`] for more than can be written.
    pub(super) fn charge(&self, usage: &Usage) -> Result<Charge, MoneyOverflow> {
        if self.is_free {
            return Ok(Charge { cost: Money::ZERO, charge: Money::ZERO, explanation: Explanation::default() });
        }
        let cost_parts = explained(&self.cost, usage);
        let reported_cost = match usage {
            Usage::Tokens(tokens) => tokens.cost,
            Usage::Characters(_) | Usage::AudioMillis(_) | Usage::Images(_) => None,
        };
        let cost_total = match reported_cost {
            Some(cost) => i128::from(cost.as_nanos().max(0)) * i128::from(COMMON_PARTS),
            None => total(&cost_parts),
        };
        let cost = rounded(cost_total, i128::from(COMMON_PARTS))?;
        if self.sell.is_empty() {
            let factor = WHOLE_BPS + i128::from(self.margin_bps);
            let charge =
                rounded(cost_total.checked_mul(factor).ok_or(MoneyOverflow)?, i128::from(COMMON_PARTS) * WHOLE_BPS)?;
            let explanation = Explanation { parts: cost_parts, reported_cost, margin_bps: Some(self.margin_bps) };
            return Ok(Charge { cost, charge, explanation });
        }
        let parts = explained(&self.sell, usage);
        let charge = rounded(total(&parts), i128::from(COMMON_PARTS))?;
        Ok(Charge { cost, charge, explanation: Explanation { parts, reported_cost, margin_bps: None } })
    }

    /// The most that a call can be charged: all of its input uncached, all of its output written.
    ///
    /// # Errors
    /// [`MoneyOverflow`] for more than can be written.
    pub(super) fn most(&self, usage: &Usage) -> Result<Money, MoneyOverflow> {
        let usage = match usage {
            Usage::Tokens(tokens) => Usage::Tokens(TokenUsage { cached_input: 0, cost: None, ..*tokens }),
            other => *other,
        };
        self.charge(&usage).map(|charge| charge.charge)
    }
}

fn explained(parts: &[PricePart], usage: &Usage) -> Vec<ExplainedPart> {
    let cached_has_price = parts.iter().any(|part| part.unit == Unit::MillionCachedInputTokens);
    let quantity = |unit| match (usage, unit) {
        (Usage::Tokens(tokens), Unit::MillionInputTokens) if cached_has_price => {
            tokens.input.saturating_sub(tokens.cached_input)
        }
        (Usage::Tokens(tokens), Unit::MillionInputTokens) => tokens.input,
        (Usage::Tokens(tokens), Unit::MillionCachedInputTokens) => tokens.cached_input.min(tokens.input),
        (Usage::Tokens(tokens), Unit::MillionOutputTokens) => tokens.output,
        (Usage::Characters(characters), Unit::MillionCharacters) => *characters,
        (Usage::AudioMillis(millis), Unit::Minute) => *millis,
        (Usage::Images(images), Unit::Image) => *images,
        _ => 0,
    };
    parts
        .iter()
        .map(|part| ExplainedPart {
            unit: part.unit,
            quantity: i64::try_from(quantity(part.unit)).unwrap_or(i64::MAX),
            nanos: part.nanos,
            price: part.price,
        })
        .filter(|part| part.quantity > 0)
        .collect()
}

/// In nano-dollars times [`COMMON_PARTS`].
fn total(parts: &[ExplainedPart]) -> i128 {
    parts
        .iter()
        .map(|part| {
            let product = i128::from(part.quantity).saturating_mul(i128::from(part.nanos));
            product.saturating_mul(i128::from(COMMON_PARTS / part.unit.parts()))
        })
        .fold(0, i128::saturating_add)
}

/// Of a value that is not negative: halves go up.
fn rounded(value: i128, divisor: i128) -> Result<Money, MoneyOverflow> {
    let nanos = value.checked_add(divisor / 2).ok_or(MoneyOverflow)? / divisor;
    i64::try_from(nanos).map(Money::from_nanos).map_err(|_| MoneyOverflow)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn price(provider: &str, model: &str, unit: Unit, side: Side, nanos: i64) -> Price {
        Price {
            id: Uuid::from_u128(u128::from(nanos.unsigned_abs()) + 1),
            capability: Capability::ChatCompletions,
            provider: provider.to_owned(),
            model: model.to_owned(),
            unit,
            side,
            nanos,
        }
    }

    fn tokens(input: u64, cached_input: u64, output: u64) -> Usage {
        Usage::Tokens(TokenUsage { input, cached_input, output, cost: None })
    }

    fn book() -> PriceBook {
        PriceBook::new([
            price("*", "*", Unit::MillionInputTokens, Side::Cost, 1_000_000_000),
            price("*", "*", Unit::MillionOutputTokens, Side::Cost, 2_000_000_000),
            price("p", "*", Unit::MillionInputTokens, Side::Cost, 300_000_000),
            price("p", "m", Unit::MillionInputTokens, Side::Cost, 100_000_001),
            price("p", "m", Unit::MillionOutputTokens, Side::Cost, 400_000_000),
            price("p", "m", Unit::MillionCachedInputTokens, Side::Cost, 10_000_000),
            price("q", "m", Unit::MillionInputTokens, Side::Sell, 7_000_000_000),
            price("q", "m", Unit::MillionOutputTokens, Side::Sell, 9_000_000_000),
            price("r", "m", Unit::MillionInputTokens, Side::Sell, 5_000_000_000),
        ])
    }

    #[test]
    fn charges_are_exact_and_rounded_once() {
        let chat = Capability::ChatCompletions;
        let table: &[(&str, &str, u32, Usage, i64, i64)] = &[
            // provider, model, margin, usage, cost, charge
            ("x", "y", 3_000, tokens(1_000, 0, 500), 2_000_000, 2_600_000),
            ("x", "y", 3_000, tokens(0, 0, 0), 0, 0),
            ("p", "other", 0, tokens(10, 0, 0), 3_000, 3_000),
            // 3 × 100.000001 = 300.000003; with 30 % 390.0000039
            ("p", "m", 3_000, tokens(3, 0, 0), 300, 390),
            // 1 × 100.000001 + 100 × 10 = 1100.000001; with 0.05 % 1100.55 → 1101
            ("p", "m", 5, tokens(101, 100, 0), 1_100, 1_101),
            // No price of its own for what is cached: as everything else.
            ("p", "other", 0, tokens(10, 10, 0), 3_000, 3_000),
            // Sell prices: the margin is not added.
            ("q", "m", 3_000, tokens(10, 0, 10), 30_000, 160_000),
            // One of two sell prices is none.
            ("r", "m", 0, tokens(10, 0, 10), 30_000, 30_000),
        ];
        for (provider, model, margin, usage, cost, charge) in table {
            let quote = book().quote(chat, provider, model, *margin).unwrap();
            let charged = quote.charge(usage).unwrap();
            let got = (charged.cost.as_nanos(), charged.charge.as_nanos());
            assert_eq!(got, (*cost, *charge), "{provider} {model} {usage:?}");
            assert!(quote.most(usage).unwrap() >= charged.charge);
        }
    }

    #[test]
    fn what_the_provider_says_it_costs_is_what_it_costs() {
        let quote = book().quote(Capability::ChatCompletions, "p", "m", 3_000).unwrap();
        let usage = TokenUsage { input: 1_000_000, output: 1, cached_input: 0, cost: Some(Money::from_nanos(7)) };
        let charged = quote.charge(&Usage::Tokens(usage)).unwrap();
        assert_eq!((charged.cost.as_nanos(), charged.charge.as_nanos()), (7, 9));
        let zero = TokenUsage { cost: Some(Money::ZERO), ..usage };
        assert_eq!(quote.charge(&Usage::Tokens(zero)).unwrap().charge, Money::ZERO, "a zero is a zero");
    }

    #[test]
    fn what_has_no_price_is_not_for_sale() {
        let book = PriceBook::new([price("*", "*", Unit::MillionInputTokens, Side::Cost, 1)]);
        assert_eq!(book.quote(Capability::ChatCompletions, "p", "m", 0), None);
        assert_eq!(book.quote(Capability::Embeddings, "p", "m", 0), None);
    }

    #[test]
    fn a_minute_is_counted_in_milliseconds() {
        let minute =
            Price { capability: Capability::Transcription, ..price("*", "*", Unit::Minute, Side::Cost, 4_300_000) };
        let quote = PriceBook::new([minute]).quote(Capability::Transcription, "d", "nova-2", 3_000).unwrap();
        // 1.5 s of $0.0043 a minute: 107 500, and 30 %.
        assert_eq!(quote.charge(&Usage::AudioMillis(1_500)).unwrap().charge, Money::from_nanos(139_750));
    }

    proptest! {
        #[test]
        fn an_explanation_gives_the_charge_again(input in 0u64..10_000_000, cached in 0u64..10_000_000, output in 0u64..1_000_000) {
            let quote = book().quote(Capability::ChatCompletions, "p", "m", 3_000).unwrap();
            let charged = quote.charge(&tokens(input, cached, output)).unwrap();
            let text = serde_json::to_string(&charged.explanation).unwrap();
            let read: Explanation = serde_json::from_str(&text).unwrap();
            let factor = WHOLE_BPS + i128::from(read.margin_bps.unwrap());
            let again = rounded(total(&read.parts) * factor, i128::from(COMMON_PARTS) * WHOLE_BPS).unwrap();
            prop_assert_eq!(again, charged.charge);
        }
    }
}
