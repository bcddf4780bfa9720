//! Models, asked by a bot and by its owner; what that costs is computed again from the price book and from what the model's
//! server says was used.

use anyhow::Context;
use bollard::Docker;
use reqwest::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Customer, LIMIT, answer, found, sql};
use crate::{commands::wait_until, exec::ready::output_of};

/// The model of our own GPU machine.
const MODEL: &str = "llama-3.1-8b";
/// Who serves it.
const PROVIDER: &str = "gpu-llama";
const QUESTION: &str = "Shall we play a game?";
/// Calls that are made: one by the bot, one whole and one streamed by its owner.
const CALLS: usize = 3;
/// What is added to costs unless configured otherwise, and the stack does not: 30 %, in hundredths of a per cent.
const MARGIN_BPS: i128 = 3_000;
const WHOLE_BPS: i128 = 10_000;
/// Prices are for so many tokens.
const PRICED_TOKENS: i128 = 1_000_000;

/// What a server says a call used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
struct Usage {
    prompt_tokens: i64,
    completion_tokens: i64,
}

/// A row of the price book that holds for the model.
#[derive(Debug, Deserialize)]
struct Price {
    unit: String,
    side: String,
    nanos: i64,
}

/// A row of a call.
#[derive(Debug, Deserialize)]
struct Call {
    of_the_bot: bool,
    streamed: bool,
    outcome: String,
    usage_source: String,
    input_units: i64,
    output_units: i64,
    charge_nanos: i64,
}

/// Where the customer's credit stands.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Credit {
    balance: i64,
    /// What was moved for anything but models; a day of the bot may be charged at any time.
    others: i64,
}

/// Where a call used what, and how it was asked.
#[derive(Debug, Clone, Copy)]
struct Asked {
    by_the_bot: bool,
    streamed: bool,
    usage: Usage,
}

impl Customer<'_> {
    /// Asks a model three ways; the balance falls by what the price book says of the usage that was reported.
    pub(super) async fn asks(&self, engine: &Docker, database: &str) -> anyhow::Result<String> {
        let before = self.credit(engine, database).await?;
        let key = self.service_key().await?;
        let bot = Asked { by_the_bot: true, streamed: false, usage: self.bot_asks(engine).await? };
        let whole = Asked { by_the_bot: false, streamed: false, usage: self.asks_whole(&key).await? };
        let streamed = Asked { by_the_bot: false, streamed: true, usage: self.asks_streamed(&key).await? };
        let rows = wait_until(LIMIT, || async {
            let rows = self.calls(engine, database).await?;
            Ok((rows.len() >= CALLS).then_some(rows))
        });
        let rows = rows.await?.with_context(|| format!("not all of {CALLS} calls are written down"))?;
        anyhow::ensure!(rows.len() == CALLS, "{CALLS} calls were made, and written down is {rows:?}");
        let prices = prices(engine, database).await?;
        let mut total = 0;
        for asked in [bot, whole, streamed] {
            let expected = charge(&prices, asked.usage)?;
            let row = rows.iter().find(|row| (row.of_the_bot, row.streamed) == (asked.by_the_bot, asked.streamed));
            let row = row.with_context(|| format!("{asked:?} is not written down in {rows:?}"))?;
            let written = Usage { prompt_tokens: row.input_units, completion_tokens: row.output_units };
            anyhow::ensure!(row.outcome == "completed" && row.usage_source == "reported", "{asked:?} became {row:?}");
            anyhow::ensure!(written == asked.usage, "{asked:?} became {row:?}");
            anyhow::ensure!(row.charge_nanos == expected, "{asked:?} should cost {expected} nano-dollars: {row:?}");
            total += expected;
        }
        let after = self.credit(engine, database).await?;
        let fallen = (before.balance - before.others) - (after.balance - after.others);
        anyhow::ensure!(fallen == total, "the balance fell by {fallen} instead of {total} nano-dollars");
        let tokens: i64 =
            [bot, whole, streamed].iter().map(|asked| asked.usage.prompt_tokens + asked.usage.completion_tokens).sum();
        Ok(format!("{CALLS} calls, {tokens} tokens, {total} nano-dollars"))
    }

    async fn bot_asks(&self, engine: &Docker) -> anyhow::Result<Usage> {
        let container = self.container(engine).await?.id.context("the bot's container has no id")?;
        let command = ["/wopr-bot", "ask", "--model", MODEL, "--max-tokens", "8", QUESTION];
        let said = output_of(engine, &container, &command).await?;
        let said: Value = serde_json::from_str(&said).with_context(|| format!("the bot says no JSON: {said}"))?;
        anyhow::ensure!(said["reply"].is_string(), "the bot has no reply: {said}");
        usage(&said["usage"])
    }

    async fn chat(&self, key: &str, more: &Value) -> anyhow::Result<reqwest::Response> {
        let mut body = json!({
            "model": MODEL, "max_tokens": 8, "messages": [{ "role": "user", "content": QUESTION }],
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let path = "/v1/chat/completions";
        self.http.post(self.url(path)).bearer_auth(key).json(&body).send().await.with_context(|| format!("POST {path}"))
    }

    async fn asks_whole(&self, key: &str) -> anyhow::Result<Usage> {
        let body = answer(self.chat(key, &json!({})).await?, StatusCode::OK).await?;
        found(&body, "/choices/0/message/content")?;
        usage(&body["usage"])
    }

    async fn asks_streamed(&self, key: &str) -> anyhow::Result<Usage> {
        let wanted = json!({ "stream": true, "stream_options": { "include_usage": true } });
        let response = self.chat(key, &wanted).await?;
        let (status, text) = (response.status(), response.text().await.context("the stream breaks off")?);
        anyhow::ensure!(status == StatusCode::OK, "a stream answers {status}: {text}");
        let events: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        anyhow::ensure!(events.last() == Some(&"[DONE]"), "the stream does not end as it should: {text}");
        let mut events = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
        let last = events.rfind(|event| event["usage"].is_object());
        usage(&last.with_context(|| format!("the stream does not say what was used: {text}"))?["usage"])
    }

    async fn credit(&self, engine: &Docker, database: &str) -> anyhow::Result<Credit> {
        let query = format!(
            "SELECT json_build_object('balance', balance_nanos, 'others', coalesce((
                SELECT sum(amount_credits) FROM credit_transactions c
                WHERE c.tenant_id = w.tenant_id AND type <> 'adapter_usage'), 0)::bigint)
            FROM wallets w WHERE tenant_id = '{}'",
            self.tenant
        );
        json_of(engine, database, &query).await
    }

    async fn calls(&self, engine: &Docker, database: &str) -> anyhow::Result<Vec<Call>> {
        let query = format!(
            "SELECT coalesce(json_agg(json_build_object('of_the_bot', bot_id IS NOT NULL, 'streamed', streamed,
                'outcome', outcome, 'usage_source', usage_source, 'input_units', input_units,
                'output_units', output_units, 'charge_nanos', charge_nanos)), '[]')
            FROM gateway_requests WHERE tenant_id = '{}'",
            self.tenant
        );
        json_of(engine, database, &query).await
    }
}

/// The prices that hold now for the model, the one of most words for each unit and side.
async fn prices(engine: &Docker, database: &str) -> anyhow::Result<Vec<Price>> {
    let query = format!(
        "SELECT json_agg(p) FROM (
            SELECT DISTINCT ON (unit, side) unit, side, nanos FROM (
                SELECT DISTINCT ON (provider, model, unit, side) * FROM prices
                WHERE capability = 'chat-completions' AND provider IN ('{PROVIDER}', '*')
                    AND model IN ('{MODEL}', '*') AND valid_from <= now()
                ORDER BY provider, model, unit, side, valid_from DESC) newest
            WHERE nanos IS NOT NULL ORDER BY unit, side, provider = '*', model = '*') p"
    );
    json_of(engine, database, &query).await
}

async fn json_of<T: for<'de> Deserialize<'de>>(engine: &Docker, database: &str, query: &str) -> anyhow::Result<T> {
    let output = sql(engine, database, query).await?;
    serde_json::from_str(&output).with_context(|| format!("psql said {output}"))
}

fn usage(said: &Value) -> anyhow::Result<Usage> {
    let usage: Usage = serde_json::from_value(said.clone()).with_context(|| format!("no usage: {said}"))?;
    anyhow::ensure!(usage.prompt_tokens > 0 && usage.completion_tokens > 0, "nothing was used: {said}");
    Ok(usage)
}

/// What a call is charged, in nano-dollars: at the sell prices if there are both, else at the costs and the margin; rounded
/// once, half a nano-dollar up.
fn charge(prices: &[Price], usage: Usage) -> anyhow::Result<i64> {
    let price = |side: &str, unit: &str| {
        prices.iter().find(|price| price.side == side && price.unit == unit).map(|price| i128::from(price.nanos))
    };
    let total = |side: &str| {
        let input = price(side, "million-input-tokens")? * i128::from(usage.prompt_tokens);
        Some(input + price(side, "million-output-tokens")? * i128::from(usage.completion_tokens))
    };
    let (dividend, divisor) = match total("sell") {
        Some(sold) => (sold, PRICED_TOKENS),
        None => (
            total("cost").with_context(|| format!("{MODEL} has no price"))? * (WHOLE_BPS + MARGIN_BPS),
            PRICED_TOKENS * WHOLE_BPS,
        ),
    };
    Ok(i64::try_from((dividend + divisor / 2) / divisor)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(side: &str, unit: &str, nanos: i64) -> Price {
        Price { unit: unit.to_owned(), side: side.to_owned(), nanos }
    }

    #[test]
    fn a_charge_is_cost_and_margin_unless_it_has_sell_prices() {
        let mut prices = vec![
            price("cost", "million-input-tokens", 50_000_000),
            price("cost", "million-output-tokens", 100_000_000),
        ];
        let usage = Usage { prompt_tokens: 11, completion_tokens: 7 };
        assert_eq!(charge(&prices, usage).unwrap(), 1_625);
        prices.push(price("sell", "million-input-tokens", 1));
        assert_eq!(charge(&prices, usage).unwrap(), 1_625, "one sell price alone is none");
        prices.push(price("sell", "million-output-tokens", 500_000));
        assert_eq!(charge(&prices, usage).unwrap(), 4, "3.500011 goes up");
        assert!(charge(&[], usage).is_err());
    }
}
