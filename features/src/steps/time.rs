use anyhow::{Result, ensure};
use cucumber::{then, when};
use jiff::SignedDuration;
use serde_json::json;

use crate::person::Person;
use crate::wait;
use crate::world::World;

/// What a bot costs per day, in cents.
const PER_DAY: i64 = 17;

#[when(regex = r"^(\d+) (day|hour)s? pass(?:es)?$")]
async fn passes(world: &mut World, count: i64, unit: String) -> Result<()> {
    let hours = if unit == "day" { 24 * count } else { count };
    world.stack.advance(SignedDuration::from_hours(hours))
}

#[when(regex = r"^(\d+) days? and (\d+) hours? pass$")]
async fn days_and_hours_pass(world: &mut World, days: i64, hours: i64) -> Result<()> {
    world.stack.advance(SignedDuration::from_hours(24 * days + hours))
}

#[when(regex = r"^(\d+) days pass, one by one$")]
async fn days_pass(world: &mut World, days: usize) -> Result<()> {
    for _ in 0..days {
        world.stack.advance(SignedDuration::from_hours(24))?;
        // Several rounds of every worker, as a real day has.
        tokio::time::sleep(wait::WATCH).await;
    }
    Ok(())
}

/// What was taken for a bot's runtime so far, newest first, in cents.
async fn charges(person: &mut Person) -> Result<Vec<i64>> {
    let data = person.query("billing.creditsHistory", &json!({ "limit": 250 })).await?.data()?;
    let entries = data["entries"].as_array().cloned().unwrap_or_default();
    let runtime = entries.iter().filter(|entry| entry["type"] == "bot_runtime");
    Ok(runtime.filter_map(|entry| entry["amount"].as_i64()).map(|nanos| -nanos / 10_000_000).collect())
}

#[then(expr = "{word} has been charged for the bot within the last day")]
async fn charged_once(world: &mut World, name: String) -> Result<()> {
    let person = world.person(&name)?;
    wait::until("a charge", async || {
        ensure!(!charges(person).await?.is_empty(), "nothing was charged");
        Ok(())
    })
    .await
}

#[then(expr = "{word} has been charged {int} cents for each of the last {int} days")]
async fn charged_daily(world: &mut World, name: String, cents: i64, days: usize) -> Result<()> {
    let person = world.person(&name)?;
    let expected = vec![cents; days];
    wait::until("the charges", async || {
        let charges = charges(person).await?;
        ensure!(charges.get(..days) == Some(expected.as_slice()), "{charges:?}");
        Ok(())
    })
    .await
}

#[then(expr = "{word}'s balance does not fall any more")]
async fn stays_put(world: &mut World, name: String) -> Result<()> {
    let person = world.person(&name)?;
    let before = person.balance_cents().await?;
    let charged = charges(person).await?.len();
    for _ in 0..3 {
        world.stack.advance(SignedDuration::from_hours(24))?;
        tokio::time::sleep(wait::WATCH).await;
    }
    let person = world.person(&name)?;
    let (after, entries) = (person.balance_cents().await?, charges(person).await?);
    ensure!(after == before && entries.len() == charged, "{before} became {after} cents: {entries:?}");
    Ok(())
}

#[when("days pass until the credit is used up")]
async fn used_up(world: &mut World) -> Result<()> {
    for _ in 0..10 {
        if world.person("Ada")?.balance_cents().await? < PER_DAY {
            return Ok(());
        }
        days_pass(world, 1).await?;
    }
    anyhow::bail!("ten days later there is still credit")
}

#[then(expr = "{word} is refused another bot")]
async fn refused(world: &mut World, name: String) -> Result<()> {
    let input = json!({ "name": "one-more", "image": "wopr-network/wopr:latest", "description": "" });
    world.person(&name)?.mutate("fleet.createInstance", &input).await?.expect_status(402)?;
    Ok(())
}
