//! What can be asked for, who can be asked, and in which order.

use std::collections::HashMap;
use std::sync::Arc;

use super::metrics::LaneId;
use super::model::{Capability, Dialect, Usage};
use super::ports::ModelProvider;
use super::price::{PriceBook, Quote};
use super::providers::ProviderState;
use crate::money::Money;

/// A model as somebody offers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// What is asked for.
    pub id: String,
    /// What it can do.
    pub capability: Capability,
    /// Who serves it: the name of a provider, or `gpu-<service>` for our own machines.
    pub provider: String,
    /// Its name there.
    pub provider_model: String,
    /// More is never written for one call; `None` where nothing is written.
    pub max_output_tokens: Option<u32>,
    /// Lower is asked first where the price is the same.
    pub priority: i32,
}

/// Somebody who is there.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) provider: Arc<dyn ModelProvider>,
    /// How they are doing.
    pub(super) state: Arc<ProviderState>,
    /// Where they are counted.
    pub(super) lane: LaneId,
}

/// Somebody who can serve a call.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) provider: Arc<dyn ModelProvider>,
    pub(super) state: Arc<ProviderState>,
    pub(super) lane: LaneId,
    pub(super) model: Arc<Model>,
    pub(super) quote: Arc<Quote>,
    /// Our own machines come before everybody else.
    pub(super) own: bool,
}

impl Candidate {
    /// How it is asked by a client of that dialect: as the client speaks, if it can.
    pub(super) fn dialect(&self, client: Dialect) -> Option<Dialect> {
        let spoken = self.provider.dialects(self.model.capability);
        spoken.iter().copied().find(|dialect| *dialect == client).or_else(|| spoken.first().copied())
    }
}

/// All offers of one moment.
#[derive(Default)]
pub(super) struct Catalogue {
    offers: HashMap<Capability, HashMap<String, Vec<Candidate>>>,
}

impl Catalogue {
    /// The offers of `models` by those providers that are there; what has no price is not offered.
    pub(super) fn new(
        models: Vec<Model>,
        providers: &HashMap<String, Vec<Served>>,
        book: &PriceBook,
        margin_bps: u32,
    ) -> Self {
        let mut catalogue = Self::default();
        for model in models {
            let Some(serving) = providers.get(&model.provider) else { continue };
            let Some(quote) = book.quote(model.capability, &model.provider, &model.provider_model, margin_bps) else {
                tracing::warn!("{} of {} has no price and is not offered", model.id, model.provider);
                continue;
            };
            let (model, quote) = (Arc::new(model), Arc::new(quote));
            for served in serving.iter().filter(|served| !served.provider.dialects(model.capability).is_empty()) {
                let offers = catalogue.offers.entry(model.capability).or_default();
                offers.entry(model.id.clone()).or_default().push(Candidate {
                    provider: Arc::clone(&served.provider),
                    state: Arc::clone(&served.state),
                    lane: served.lane,
                    model: Arc::clone(&model),
                    quote: Arc::clone(&quote),
                    own: model.provider.starts_with("gpu-"),
                });
            }
        }
        catalogue
    }

    /// Who can serve a model, the best first: our own machines, then by what this call costs, then by priority. A model
    /// that was named is never swapped for another.
    pub(super) fn candidates(&self, capability: Capability, model: &str, usage: &Usage) -> Vec<Candidate> {
        let Some(offers) = self.offers.get(&capability).and_then(|models| models.get(model)) else {
            return Vec::new();
        };
        let mut sorted: Vec<(bool, Money, i32, &Candidate)> = offers
            .iter()
            .map(|offer| (!offer.own, offer.quote.most(usage).unwrap_or(Money::MAX), offer.model.priority, offer))
            .collect();
        sorted.sort_by_key(|(hosted, price, priority, _)| (*hosted, *price, *priority));
        sorted.into_iter().map(|(.., offer)| offer.clone()).collect()
    }

    /// Whether that provider can be asked for that model now.
    pub(super) fn offers(&self, capability: Capability, model: &str, provider: &str) -> bool {
        let offers = self.offers.get(&capability).and_then(|models| models.get(model));
        offers.is_some_and(|offers| offers.iter().any(|offer| offer.model.provider == provider))
    }

    /// Everything that can be asked for, each model once for each capability, sorted by name.
    pub(super) fn list(&self) -> Vec<Arc<Model>> {
        let mut models: Vec<Arc<Model>> = self
            .offers
            .values()
            .flat_map(|models| models.values().filter_map(|offers| offers.first()))
            .map(|offer| Arc::clone(&offer.model))
            .collect();
        models.sort_by(|a, b| (&a.id, a.capability).cmp(&(&b.id, b.capability)));
        models
    }
}
