//! What is on sale, and what a payment is worth. Pure.

use super::error::PaymentsError;
use crate::money::{Money, MoneyOverflow};

/// The packs: what is charged and what is credited, in cents.
pub const PACKS: [(i64, i64); 5] = [(500, 500), (1_000, 1_000), (2_500, 2_550), (5_000, 5_250), (10_000, 11_000)];

/// A pack on sale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// The provider's id of its price.
    pub price_id: String,
    /// What is charged, in cents.
    pub charged_cents: i64,
    /// What is credited, in cents.
    pub credit_cents: i64,
}

impl Pack {
    /// `$25`.
    pub fn label(&self) -> String {
        format!("${}", self.charged_cents / 100)
    }

    /// The bonus in whole percent of the charge.
    pub fn bonus_percent(&self) -> i64 {
        (self.credit_cents - self.charged_cents) * 100 / self.charged_cents
    }
}

/// The packs on sale, cheapest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PriceList(Vec<Pack>);

impl PriceList {
    /// From the configured price of each pack, by its charge in dollars; packs without a price are not on sale.
    pub fn new(price_of: impl Fn(i64) -> Option<String>) -> Self {
        let packs = PACKS.iter().filter_map(|&(charged_cents, credit_cents)| {
            let price_id = price_of(charged_cents / 100).filter(|id| !id.is_empty())?;
            Some(Pack { price_id, charged_cents, credit_cents })
        });
        Self(packs.collect())
    }

    /// All, cheapest first.
    pub fn packs(&self) -> &[Pack] {
        &self.0
    }

    /// The pack with this price.
    pub fn find(&self, price_id: &str) -> Option<&Pack> {
        self.0.iter().find(|pack| pack.price_id == price_id)
    }

    /// The pack that charges exactly this.
    pub fn find_by_charge(&self, charged_cents: i64) -> Option<&Pack> {
        self.0.iter().find(|pack| pack.charged_cents == charged_cents)
    }
}

/// What a payment is worth to the tenant: the part that was paid for, and the part that is a gift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    /// Covered by the money that arrived.
    pub purchase: Money,
    /// Given on top.
    pub bonus: Money,
}

impl Credit {
    /// Of `paid_cents` with `tax_cents` of taxes in it, which are worth `credit_cents`; or as much as was paid.
    ///
    /// # Errors
    /// [`PaymentsError::AmountOutOfRange`] unless something is left after taxes.
    pub fn of(paid_cents: i64, tax_cents: i64, credit_cents: Option<i64>) -> Result<Self, PaymentsError> {
        let net = paid_cents.checked_sub(tax_cents).filter(|net| *net > 0 && tax_cents >= 0);
        let net = net.ok_or(PaymentsError::AmountOutOfRange)?;
        let credit = credit_cents.unwrap_or(net);
        if credit <= 0 {
            return Err(PaymentsError::AmountOutOfRange);
        }
        // A pack sold above its credit would otherwise give a negative bonus.
        let purchase = net.min(credit);
        Ok(Self { purchase: Money::try_from_cents(purchase)?, bonus: Money::try_from_cents(credit - purchase)? })
    }

    /// The part of it that `cents` of the `paid_cents` stand for. More than was paid counts as all.
    ///
    /// # Errors
    /// [`MoneyOverflow`] when nothing was paid.
    pub fn share(self, cents: i64, paid_cents: i64) -> Result<Self, MoneyOverflow> {
        let cents = cents.min(paid_cents);
        Ok(Self {
            purchase: self.purchase.try_scale(cents, paid_cents)?,
            bonus: self.bonus.try_scale(cents, paid_cents)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all() -> PriceList {
        PriceList::new(|dollars| Some(format!("price_{dollars}")))
    }

    #[test]
    fn the_packs_credit_what_they_promise() {
        let offered: Vec<_> =
            all().packs().iter().map(|pack| (pack.label(), pack.credit_cents, pack.bonus_percent())).collect();
        let expected = [("$5", 500, 0), ("$10", 1_000, 0), ("$25", 2_550, 2), ("$50", 5_250, 5), ("$100", 11_000, 10)];
        assert_eq!(offered, expected.map(|(label, credit, bonus)| (label.to_owned(), credit, bonus)));
    }

    #[test]
    fn packs_without_a_price_are_not_on_sale() {
        let list = PriceList::new(|dollars| (dollars == 25).then(|| "price_x".to_owned()));
        assert_eq!(list.packs().len(), 1);
        assert_eq!(list.find("price_x").map(|pack| pack.credit_cents), Some(2_550));
        assert!(list.find("price_5").is_none() && list.find_by_charge(500).is_none());
        assert!(PriceList::new(|_| Some(String::new())).packs().is_empty());
    }

    #[test]
    fn a_discount_is_a_bonus_and_a_tax_is_no_credit() {
        let cents = Money::from_cents;
        let table = [
            (3_000, 0, None, 3_000, 0),
            (2_500, 0, Some(2_550), 2_500, 50),
            (2_000, 0, Some(2_550), 2_000, 550),
            (2_975, 475, Some(2_550), 2_500, 50),
            (2_600, 0, Some(2_550), 2_550, 0),
        ];
        for (paid, tax, credit, purchase, bonus) in table {
            let found = Credit::of(paid, tax, credit).unwrap();
            assert_eq!(found, Credit { purchase: cents(purchase), bonus: cents(bonus) }, "{paid} {tax} {credit:?}");
        }
        for (paid, tax) in [(0, 0), (-1, 0), (100, 100), (100, -1)] {
            assert!(matches!(Credit::of(paid, tax, None), Err(PaymentsError::AmountOutOfRange)));
        }
    }

    #[test]
    fn giving_a_whole_pack_back_takes_the_bonus_too() {
        let credit = Credit::of(2_500, 0, Some(2_550)).unwrap();
        assert_eq!(credit.share(2_500, 2_500).unwrap(), credit);
        let half = credit.share(1_250, 2_500).unwrap();
        assert_eq!((half.purchase, half.bonus), (Money::from_cents(1_250), Money::from_cents(25)));
    }

    proptest! {
        #[test]
        fn the_refunds_of_a_pack_add_up_to_its_credit(pack in 0usize..5, parts in prop::collection::vec(1i64..3_000, 1..8)) {
            let (paid, worth) = PACKS[pack];
            let credit = Credit::of(paid, 0, Some(worth)).unwrap();
            let (mut left, mut back) = (paid, 0);
            for part in parts.into_iter().chain([paid]) {
                let part = part.min(left);
                left -= part;
                let share = credit.share(part, paid).unwrap();
                back += share.purchase.as_nanos() + share.bonus.as_nanos();
            }
            prop_assert_eq!(left, 0);
            prop_assert_eq!(back, Money::try_from_cents(worth).unwrap().as_nanos());
        }
    }
}
