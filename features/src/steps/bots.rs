use anyhow::{Context as _, Result, ensure};
use cucumber::{given, then, when};
use serde_json::{Value, json};

use crate::docker::{is_running, volume_at};
use crate::http::Reply;
use crate::wait;
use crate::world::World;

/// The image that `cargo wopr images` builds.
const IMAGE: &str = "wopr-network/wopr:latest";
const IMAGE_IN_DOCKER: &str = "ghcr.io/wopr-network/wopr:latest";

async fn create(world: &mut World, name: &str, mut input: Value, extra: &[(&str, &str)]) -> Result<()> {
    for (field, value) in extra {
        input[*field] = json!(value);
    }
    let person = world.person(name)?;
    let reply = person.mutate("fleet.createInstance", &input).await?;
    if reply.status == 200 {
        person.bot = reply.data()?["id"].as_str().map(str::to_owned);
    }
    world.reply = Some(reply);
    Ok(())
}

fn input(bot: &str, image: &str) -> Value {
    json!({ "name": bot, "image": image, "description": "made by a journey" })
}

#[when(expr = "{word} creates the bot {string} from {string}")]
async fn creates(world: &mut World, name: String, bot: String, image: String) -> Result<()> {
    create(world, &name, input(&bot, &image), &[]).await
}

#[when(expr = "{word} creates the bot {string} in the name of {word}")]
async fn creates_as(world: &mut World, name: String, bot: String, other: String) -> Result<()> {
    let tenant = world.person(&other)?.tenant()?.to_owned();
    create(world, &name, input(&bot, IMAGE), &[("tenantId", &tenant)]).await?;
    let reply = world.reply()?;
    ensure!(reply.status == 200 || reply.status == 400, "{reply}");
    Ok(())
}

#[given(expr = "{word} has a running bot {string}")]
async fn has_running(world: &mut World, name: String, bot: String) -> Result<()> {
    ensure!(
        world.stack.docker.has_image(IMAGE_IN_DOCKER).await,
        "the engine has no {IMAGE_IN_DOCKER}: run `cargo wopr images` once"
    );
    creates(world, name.clone(), bot, IMAGE.to_owned()).await?;
    world.reply()?.clone().expect_status(200)?;
    becomes(world, name, "running".to_owned()).await
}

#[then("the new bot is being provisioned")]
async fn provisioned(world: &mut World) -> Result<()> {
    let data = world.reply()?.data()?;
    let status = data["status"].as_str().unwrap_or_default();
    ensure!(status == "provisioning" || status == "created", "{data}");
    ensure!(data["id"].as_str().is_some_and(|id| uuid::Uuid::parse_str(id).is_ok()), "{data}");
    ensure!(data["name"].as_str().is_some(), "{data}");
    Ok(())
}

#[then(expr = "{word}'s bot becomes {string}")]
async fn becomes(world: &mut World, name: String, status: String) -> Result<()> {
    let person = world.person(&name)?;
    let bot = wait::until(&format!("a bot that is {status}"), async || {
        let bot = person.get_bot().await?;
        ensure!(bot["status"] == status.as_str(), "{bot}");
        Ok(bot)
    })
    .await?;
    world.container = bot["containerId"].as_str().map(str::to_owned).or(world.container.take());
    Ok(())
}

#[then(expr = "{word}'s bot stays {string}")]
async fn stays(world: &mut World, name: String, status: String) -> Result<()> {
    let person = world.person(&name)?;
    wait::throughout(&format!("a bot that is {status}"), async || {
        let bot = person.get_bot().await?;
        ensure!(bot["status"] == status.as_str(), "{bot}");
        Ok(())
    })
    .await
}

#[then(expr = "{word}'s bot says that its machine is unreachable")]
async fn says_unreachable(world: &mut World, name: String) -> Result<()> {
    let person = world.person(&name)?;
    wait::until("a bot that says what is wrong", async || {
        let bot = person.get_bot().await?;
        ensure!(bot["status"] != "running", "{bot}");
        let error = bot["lastError"].as_str().unwrap_or_default();
        ensure!(!error.is_empty(), "{bot}");
        Ok(())
    })
    .await
}

#[then(expr = "the answer says that {int} cents are needed")]
async fn says_needed(world: &mut World, cents: i64) -> Result<()> {
    let body = world.reply()?.json()?;
    ensure!(body["error"]["data"]["code"] == "PAYMENT_REQUIRED", "{body}");
    ensure!(body["error"]["data"]["details"]["required"] == cents, "{body}");
    Ok(())
}

#[then(expr = "{word} has no bots")]
async fn has_none(world: &mut World, name: String) -> Result<()> {
    let person = world.person(&name)?;
    wait::until("no bots", async || {
        let data = person.query("fleet.listInstances", &Value::Null).await?.data()?;
        ensure!(data["bots"].as_array().is_some_and(Vec::is_empty), "{data}");
        Ok(())
    })
    .await
}

async fn control(world: &mut World, name: &str, owner: &str, action: &str) -> Result<Reply> {
    let id = world.person(owner)?.bot_id()?.to_owned();
    let input = json!({ "id": id, "action": action });
    let reply = world.person(name)?.mutate("fleet.controlInstance", &input).await?;
    world.reply = Some(reply.clone());
    Ok(reply)
}

#[when(regex = r"^(\w+) (start|stop|restart)s the bot$")]
async fn controls(world: &mut World, name: String, action: String) -> Result<()> {
    control(world, &name, &name, &action).await?.expect_status(200)?;
    Ok(())
}

#[when(expr = "{word} destroys the bot")]
async fn destroys(world: &mut World, name: String) -> Result<()> {
    control(world, &name, &name, "destroy").await?.expect_status(200)?;
    Ok(())
}

#[when(expr = "{word} asks for {word}'s bot")]
async fn asks_for(world: &mut World, name: String, owner: String) -> Result<()> {
    let id = world.person(&owner)?.bot_id()?.to_owned();
    world.reply = Some(world.person(&name)?.query("fleet.getInstance", &json!({ "id": id })).await?);
    Ok(())
}

#[when(expr = "{word} stops {word}'s bot")]
async fn stops_anothers(world: &mut World, name: String, owner: String) -> Result<()> {
    control(world, &name, &owner, "stop").await?;
    Ok(())
}

#[when(expr = "{word} destroys {word}'s bot")]
async fn destroys_anothers(world: &mut World, name: String, owner: String) -> Result<()> {
    control(world, &name, &owner, "destroy").await?;
    Ok(())
}

// In Docker

fn container(world: &World) -> Result<&str> {
    world.container.as_deref().context("the bot's container was never seen")
}

#[then(expr = "Docker runs the bot's container, with its volume on {string}")]
async fn docker_runs(world: &mut World, path: String) -> Result<()> {
    let id = container(world)?;
    let found = world.stack.docker.find(id).await?.with_context(|| format!("Docker has no {id}"))?;
    ensure!(is_running(&found), "{:?}", found.state);
    volume_at(&found, &path)?;
    // What runs is named by its digest or its id, never by a tag that may come to mean something else.
    let image = found.config.and_then(|config| config.image).unwrap_or_default();
    ensure!(image.contains("sha256:"), "it runs from {image}");
    Ok(())
}

#[then("Docker shows the bot's container stopped")]
async fn docker_stopped(world: &mut World) -> Result<()> {
    let id = container(world)?;
    let found = world.stack.docker.find(id).await?.with_context(|| format!("Docker has no {id}"))?;
    ensure!(!is_running(&found), "{:?}", found.state);
    Ok(())
}

#[then("Docker no longer has the bot's container")]
async fn docker_gone(world: &mut World) -> Result<()> {
    let id = container(world)?;
    wait::until("the container's end", async || {
        ensure!(world.stack.docker.find(id).await?.is_none(), "Docker still has {id}");
        Ok(())
    })
    .await
}

#[given(expr = "the bot has written {string} into {string}")]
async fn has_written(world: &mut World, text: String, path: String) -> Result<()> {
    world.stack.docker.write(container(world)?, &path, &text).await
}

#[then(expr = "the bot still has {string} in {string}")]
async fn still_has(world: &mut World, text: String, path: String) -> Result<()> {
    let found = world.stack.docker.read(container(world)?, &path).await?;
    ensure!(found == text, "{path} says {found:?}");
    Ok(())
}

#[when("somebody removes the bot's container behind the platform's back")]
async fn removes(world: &mut World) -> Result<()> {
    world.stack.docker.remove(container(world)?).await
}

#[then(expr = "{word}'s bot is running again in a new container")]
async fn running_again(world: &mut World, name: String) -> Result<()> {
    let before = container(world)?.to_owned();
    let person = world.person(&name)?;
    let container = wait::until("a new container", async || {
        let bot = person.get_bot().await?;
        let container = bot["containerId"].as_str().unwrap_or_default().to_owned();
        ensure!(bot["status"] == "running" && !container.is_empty() && container != before, "{bot}");
        Ok(container)
    })
    .await?;
    world.container = Some(container);
    Ok(())
}

#[given("Docker is unreachable")]
async fn unreachable(world: &mut World) -> Result<()> {
    world.stack.cable()?.cut();
    Ok(())
}

#[when("Docker is reachable again")]
async fn reachable(world: &mut World) -> Result<()> {
    world.stack.cable()?.restore()
}
