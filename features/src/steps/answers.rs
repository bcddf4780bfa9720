use anyhow::{Result, ensure};
use cucumber::then;

use crate::world::World;

#[then(expr = "the answer is {int}")]
async fn answer_is(world: &mut World, status: u16) -> Result<()> {
    let reply = world.reply()?;
    ensure!(reply.status == status, "expected {status}, got {reply}");
    Ok(())
}

#[then(expr = "the answer is {int} with the message {string}")]
async fn answer_says(world: &mut World, status: u16, message: String) -> Result<()> {
    let reply = world.reply()?;
    ensure!(reply.status == status, "expected {status}, got {reply}");
    ensure!(reply.message()? == message, "expected {message:?}, got {reply}");
    Ok(())
}

#[then(expr = "the answer is {int} with the code {string}")]
async fn answer_has_code(world: &mut World, status: u16, code: String) -> Result<()> {
    let reply = world.reply()?;
    ensure!(reply.status == status, "expected {status}, got {reply}");
    ensure!(reply.json()?["code"] == code.as_str(), "expected {code:?}, got {reply}");
    Ok(())
}
