//! Amounts as customers write them.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use cucumber::Parameter;

/// An amount such as `$25.50` or `-$3.00`, in cents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Parameter)]
#[param(name = "usd", regex = r"-?\$\d+\.\d\d")]
pub struct Usd(pub i64);

impl FromStr for Usd {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (sign, amount) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
        let Some((dollars, cents)) = amount.strip_prefix('$').and_then(|amount| amount.split_once('.')) else {
            bail!("{text} is not an amount");
        };
        let dollars: i64 = dollars.parse().with_context(|| format!("the dollars of {text}"))?;
        let cents: i64 = cents.parse().with_context(|| format!("the cents of {text}"))?;
        Ok(Self(sign * (dollars * 100 + cents)))
    }
}

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}${}.{:02}", self.0.abs() / 100, self.0.abs() % 100)
    }
}

/// A credit pack by what it costs, such as `$25`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Parameter)]
#[param(name = "pack", regex = r"\$\d+")]
pub struct Pack(pub i64);

impl FromStr for Pack {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let dollars = text.strip_prefix('$').with_context(|| format!("{text} is not a pack"))?;
        Ok(Self(dollars.parse().with_context(|| format!("the dollars of {text}"))?))
    }
}
