use anyhow::{Context as _, Result, bail, ensure};
use cucumber::{given, then, when};
use futures_util::future::try_join_all;
use serde_json::json;

use crate::http::Request;
use crate::person::{Person, SESSION_COOKIE};
use crate::wait;
use crate::world::World;

#[given(expr = "{word} has signed up")]
pub(super) async fn signed_up(world: &mut World, name: String) -> Result<()> {
    let reply = world.person(&name)?.sign_up().await?.expect_status(200)?;
    world.reply = Some(reply);
    Ok(())
}

#[when(expr = "{word} signs up as {string} with the password {string}")]
async fn signs_up_as(world: &mut World, name: String, email: String, password: String) -> Result<()> {
    let email = world.address(&email);
    world.introduce(&name, email);
    let person = world.person(&name)?;
    person.password = password;
    world.reply = Some(person.sign_up().await?);
    Ok(())
}

#[when(expr = "{word} signs up again with the same address")]
async fn signs_up_again(world: &mut World, name: String) -> Result<()> {
    let email = world.person(&name)?.email.clone();
    sign_up_anew(world, &name, email).await
}

#[when(expr = "{word} signs up again with the same address in capital letters")]
async fn signs_up_in_capitals(world: &mut World, name: String) -> Result<()> {
    let email = world.person(&name)?.email.to_uppercase();
    sign_up_anew(world, &name, email).await
}

/// With a browser that knows nothing of the first time.
async fn sign_up_anew(world: &mut World, name: &str, email: String) -> Result<()> {
    let mut again = Person::new(&world.client, &world.stack.api, name, email);
    world.reply = Some(again.sign_up().await?);
    Ok(())
}

#[when(expr = "{word} signs up with a password of {int} characters")]
async fn signs_up_with_length(world: &mut World, name: String, length: usize) -> Result<()> {
    let person = world.person(&name)?;
    person.password = "x".repeat(length);
    world.reply = Some(person.sign_up().await?);
    Ok(())
}

#[then(expr = "the answer names {word} and carries a session cookie")]
async fn answer_names(world: &mut World, name: String) -> Result<()> {
    let email = world.person(&name)?.email.clone();
    let reply = world.reply()?.clone().expect_status(200)?;
    let body = reply.json()?;
    ensure!(body["user"]["email"] == email.as_str(), "{reply}");
    ensure!(body["user"]["id"].as_str().is_some_and(|id| !id.is_empty()), "{reply}");
    // The plain name, as a shell script greps for it.
    let cookie = reply.header("set-cookie");
    ensure!(cookie.starts_with(&format!("{SESSION_COOKIE}=")), "{cookie}");
    ensure!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Lax"), "{cookie}");
    Ok(())
}

#[then("the cookie is accepted percent-encoded, as received")]
async fn cookie_encoded(world: &mut World) -> Result<()> {
    let value = session_cookie(world)?;
    ensure!(value.contains('%'), "{value} is not encoded");
    accepts(world, &value).await
}

#[then("the cookie is accepted decoded")]
async fn cookie_decoded(world: &mut World) -> Result<()> {
    let value = session_cookie(world)?;
    let value = percent_encoding::percent_decode_str(&value).decode_utf8()?.into_owned();
    accepts(world, &value).await
}

fn session_cookie(world: &mut World) -> Result<String> {
    Ok(world.person("Ada")?.jar.get(SESSION_COOKIE).context("no session cookie")?.to_owned())
}

async fn accepts(world: &World, value: &str) -> Result<()> {
    let request = Request::query(&world.stack.api, "billing.creditsBalance", &json!({}));
    let request = request.header("cookie", format!("{SESSION_COOKIE}={value}"));
    world.client.send(request).await?.expect_status(200)?;
    Ok(())
}

#[when(expr = "{word} signs out, but keeps her cookie")]
async fn signs_out(world: &mut World, name: String) -> Result<()> {
    let person = world.person(&name)?;
    let kept = person.jar.clone();
    person.auth("/sign-out", &json!({})).await?.expect_status(200)?;
    ensure!(person.jar.get(SESSION_COOKIE).is_none(), "the answer did not take the cookie back");
    person.jar = kept;
    Ok(())
}

#[then(expr = "{word}'s session is over")]
async fn session_over(world: &mut World, name: String) -> Result<()> {
    let person = world.person(&name)?.clone();
    let request = Request::query(&world.stack.api, "billing.creditsBalance", &json!({}));
    person.send_as_is(request.cookies(&person.jar)).await?.expect_status(401)?;
    let request = Request::get(format!("{}/api/auth/get-session", world.stack.api)).cookies(&person.jar);
    let reply = person.send_as_is(request).await?.expect_status(200)?;
    ensure!(reply.json()?.is_null(), "{reply}");
    Ok(())
}

#[then(expr = "{word} is signed in")]
async fn is_signed_in(world: &mut World, name: String) -> Result<()> {
    world.reply()?.clone().expect_status(200)?;
    let api = world.stack.api.clone();
    let person = world.person(&name)?;
    let reply = person.send(Request::get(format!("{api}/api/auth/get-session"))).await?.expect_status(200)?;
    ensure!(reply.json()?["user"]["email"] == person.email.as_str(), "{reply}");
    Ok(())
}

#[then(expr = "{word}'s credentials still read the balance")]
async fn still_reads(world: &mut World, name: String) -> Result<()> {
    world.person(&name)?.balance_cents().await?;
    Ok(())
}

#[when(expr = "{word}'s client refreshes the session")]
async fn refreshes(world: &mut World, name: String) -> Result<()> {
    let api = world.stack.api.clone();
    let reply = world.person(&name)?.send(Request::get(format!("{api}/api/auth/get-session"))).await?;
    ensure!(!reply.json()?.is_null(), "{reply}");
    Ok(())
}

#[when(expr = "{word} signs in")]
async fn signs_in(world: &mut World, name: String) -> Result<()> {
    let password = world.person(&name)?.password.clone();
    signs_in_with(world, name, password).await
}

#[when(expr = "{word} signs in with a wrong password")]
async fn signs_in_wrong(world: &mut World, name: String) -> Result<()> {
    signs_in_with(world, name, "not-the-password-1".to_owned()).await
}

#[when(expr = "{word} signs in with the password {string}")]
async fn signs_in_with(world: &mut World, name: String, password: String) -> Result<()> {
    let person = world.person(&name)?;
    person.jar = crate::http::Jar::default();
    let mut typed = person.clone();
    typed.password = password;
    let reply = typed.sign_in().await?;
    person.jar = typed.jar;
    world.reply = Some(reply);
    Ok(())
}

#[when(expr = "somebody signs in as {string}")]
async fn somebody_signs_in(world: &mut World, email: String) -> Result<()> {
    let mut stranger = Person::new(&world.client, &world.stack.api, "somebody", email);
    world.reply = Some(stranger.sign_in().await?);
    Ok(())
}

/// What a link in such a mail contains.
fn link_in(mail: &str) -> Result<&'static str> {
    match mail {
        "verify-email" => Ok("/auth/verify?token="),
        "password-reset" => Ok("/reset-password/"),
        other => bail!("no mail is called {other}"),
    }
}

#[given(expr = "{word} has received the mail {string}")]
async fn has_mail(world: &mut World, name: String, mail: String) -> Result<()> {
    let (mailbox, part) = (world.mailbox(&name)?, link_in(&mail)?);
    let link = wait::until(&format!("a mail {mail}"), async || mailbox.newest_link(part).await).await?;
    world.link = Some(link);
    Ok(())
}

#[when(expr = "{word} opens the link in the mail {string}")]
#[when(expr = "{word} opens the link in the mail {string} again")]
async fn opens_link(world: &mut World, name: String, mail: String) -> Result<()> {
    has_mail(world, name.clone(), mail).await?;
    let link = world.link.clone().context("no link")?;
    world.reply = Some(world.person(&name)?.send(Request::get(link)).await?);
    Ok(())
}

#[when(expr = "{word} opens the link in the mail {string} {int} times at once")]
async fn opens_link_often(world: &mut World, name: String, mail: String, times: usize) -> Result<()> {
    has_mail(world, name.clone(), mail).await?;
    let link = world.link.clone().context("no link")?;
    let person = world.person(&name)?.clone();
    let replies = try_join_all((0..times).map(|_| person.send_as_is(Request::get(link.clone())))).await?;
    let successes = replies.iter().filter(|reply| reply.header("location").contains("status=success")).count();
    ensure!(successes == 1, "{successes} of {times} clicks succeeded: {replies:?}");
    Ok(())
}

#[then(expr = "{word} is sent on to a page that says {string}")]
async fn sent_on(world: &mut World, _name: String, part: String) -> Result<()> {
    let reply = world.reply()?;
    ensure!(reply.status == 302, "{reply}");
    let location = reply.header("location");
    ensure!(location.starts_with(crate::http::ORIGIN) || world.stack.is_shared(), "{location}");
    ensure!(location.contains(&part), "{location}");
    Ok(())
}

#[when(expr = "{word} asks for a new password")]
async fn forgets(world: &mut World, name: String) -> Result<()> {
    let email = world.person(&name)?.email.clone();
    forgets_for(world, email).await?;
    world.reply()?.clone().expect_status(200)?;
    Ok(())
}

#[when(expr = "somebody asks for a new password for {string}")]
async fn forgets_for(world: &mut World, email: String) -> Result<()> {
    let body = json!({ "email": email, "redirectTo": "http://localhost:3000/reset" });
    let request = Request::post(format!("{}/api/auth/request-password-reset", world.stack.api)).json(&body);
    world.reply = Some(world.client.send(request).await?);
    Ok(())
}

#[when(expr = "{word} follows the mail and sets the password {string}")]
async fn resets(world: &mut World, name: String, password: String) -> Result<()> {
    has_mail(world, name.clone(), "password-reset".to_owned()).await?;
    let link = world.link.clone().context("no link")?;
    let reply = world.client.send(Request::get(link)).await?.expect_status(302)?;
    let location = reply.header("location");
    let token = location.split_once("token=").map(|(_, token)| token).with_context(|| location.to_owned())?;
    world.link = Some(token.to_owned());
    sets_password(world, &password).await
}

#[when(expr = "{word} uses the link of that mail again for the password {string}")]
async fn resets_again(world: &mut World, _name: String, password: String) -> Result<()> {
    sets_password(world, &password).await
}

/// With the token of the mail that was followed last.
async fn sets_password(world: &mut World, password: &str) -> Result<()> {
    let body = json!({ "newPassword": password, "token": world.link.as_deref().context("no token")? });
    let request = Request::post(format!("{}/api/auth/reset-password", world.stack.api)).json(&body);
    world.reply = Some(world.client.send(request).await?);
    Ok(())
}
