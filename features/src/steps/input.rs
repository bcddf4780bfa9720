use anyhow::{Result, bail, ensure};
use cucumber::{then, when};
use reqwest::Method;

use crate::http::Request;
use crate::person::SESSION_COOKIE;
use crate::world::World;

/// Bodies that are too long to write into a feature.
fn body(described: &str) -> Result<Vec<u8>> {
    Ok(match described {
        "nothing" => Vec::new(),
        "half an object" => br#"{"name":"#.to_vec(),
        "a list" => b"[]".to_vec(),
        "a number" => b"7".to_vec(),
        "null" => b"null".to_vec(),
        "numbers for texts" => br#"{"name":1,"email":2,"password":3,"image":4,"priceId":5,"id":6}"#.to_vec(),
        "bytes that are no text" => vec![0xff, 0xfe, 0x00, 0x80],
        "ten thousand brackets" => b"[".repeat(10_000),
        "three megabytes" => format!(r#"{{"name":"{}"}}"#, "x".repeat(3_000_000)).into_bytes(),
        "a zero character" => br#"{"name":"a\u0000b","email":"a\u0000b@example.com","password":"Testpass1"}"#.to_vec(),
        other => bail!("no body is called {other}"),
    })
}

#[when(expr = "{word} sends {string} to {string}")]
async fn sends(world: &mut World, name: String, described: String, target: String) -> Result<()> {
    let request = Request::post(format!("{}{target}", world.stack.api))
        .header("content-type", "application/json")
        .body(body(&described)?);
    world.reply = Some(world.person(&name)?.send(request).await?);
    Ok(())
}

#[when(expr = "{word} asks with the {word} method for {string}")]
async fn asks(world: &mut World, name: String, method: String, target: String) -> Result<()> {
    let request = Request::new(Method::from_bytes(method.as_bytes())?, format!("{}{target}", world.stack.api));
    world.reply = Some(world.person(&name)?.send(request).await?);
    Ok(())
}

#[when(expr = "{word} asks for {string} with the cookie {string}")]
async fn asks_with_cookie(world: &mut World, name: String, target: String, cookie: String) -> Result<()> {
    let real = world.person(&name)?.jar.get(SESSION_COOKIE).unwrap_or_default().to_owned();
    let decoded = percent_encoding::percent_decode_str(&real).decode_utf8()?.into_owned();
    let (token, signature) = decoded.rsplit_once('.').unwrap_or((decoded.as_str(), ""));
    let value = match cookie.as_str() {
        "unsigned" => token.to_owned(),
        "signed with nothing" => format!("{token}."),
        "signed by somebody else" => format!("{token}.{}=", "A".repeat(43)),
        "of another token" => format!("{}.{signature}", "a".repeat(token.len())),
        "very long" => "x".repeat(6_000),
        "of quotes" => "\"'<>;--".to_owned(),
        other => bail!("no cookie is called {other}"),
    };
    let request =
        Request::get(format!("{}{target}", world.stack.api)).header("cookie", format!("{SESSION_COOKIE}={value}"));
    world.reply = Some(world.client.send(request).await?);
    Ok(())
}

#[when(expr = "a page of {string} posts to {string} with {word}'s cookie")]
async fn foreign_page(world: &mut World, origin: String, target: String, name: String) -> Result<()> {
    let mut request = Request::post(format!("{}{target}", world.stack.api)).without_origin().header("origin", origin);
    request = request.header("content-type", "application/json").body("{}").cookies(&world.person(&name)?.jar);
    world.reply = Some(world.client.send(request).await?);
    Ok(())
}

#[then("the answer is an error of the sender's, and says so without a trace of our inside")]
async fn senders_error(world: &mut World) -> Result<()> {
    let reply = world.reply()?;
    ensure!((400..500).contains(&reply.status), "{reply}");
    for inside in ["panicked", "src/", ".rs:", "diesel", "postgres", "stack backtrace"] {
        ensure!(!reply.body.contains(inside), "{reply}");
    }
    Ok(())
}
