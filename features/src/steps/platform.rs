use anyhow::{Result, ensure};
use cucumber::then;

use crate::http::Request;
use crate::wait;
use crate::world::World;

#[then("the platform says it is healthy")]
async fn healthy(world: &mut World) -> Result<()> {
    let reply = world.client.send(Request::get(format!("{}/health", world.stack.api))).await?.expect_status(200)?;
    let body = reply.json()?;
    ensure!(body["status"] == "ok" && body["service"] == "wopr-platform", "{reply}");
    Ok(())
}

#[then("the platform says it is ready")]
async fn ready(world: &mut World) -> Result<()> {
    let request = || Request::get(format!("{}/health/ready", world.stack.api));
    wait::until("ready", async || {
        let reply = world.client.send(request()).await?.expect_status(200)?;
        let body = reply.json()?;
        ensure!(body["status"] == "ready" && body["service"] == "wopr-platform", "{reply}");
        Ok(())
    })
    .await
}
