//! Caddy as a [`ReverseProxy`], by its admin API on a Unix socket.
//!
//! Its own configuration stays its operator's: it has a `subroute` handler with `"@id": "bots"`, whose routes are replaced as a
//! whole, and nothing else is touched.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::http::{self, NoHttpClient};
use crate::fleet::{ProxyError, ReverseProxy, Route};

/// Where the routes of bots are in the configuration. Caddy takes requests on its socket that are sent to this host.
const ROUTES: &str = "http://localhost/id/bots/routes";
/// How long it may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest part of its answers that is passed on, in characters.
const LONGEST_MESSAGE: usize = 300;

/// The platform's cookies, in what a browser sends. A bot is its tenant's program, and would be whoever visits it.
const OUR_COOKIES: &str = r"(?:__Secure-)?better-auth\.[^=;]*=[^;]*;? *";
/// What makes a bot's cookie one of the whole domain: it would be sent to the platform and to other bots.
const COOKIE_DOMAIN: &str = r"(?i); *domain=[^;]*";

/// A Caddy.
#[derive(Debug)]
pub struct Caddy {
    client: Client,
}

impl Caddy {
    /// The Caddy whose admin API listens on that Unix socket. Nothing is connected until first use.
    ///
    /// # Errors
    /// [`NoHttpClient`].
    pub fn new(socket: &Path) -> Result<Self, NoHttpClient> {
        let client = http::builder(&[])?.timeout(TIMEOUT).unix_socket(socket).build();
        Ok(Self { client: client.map_err(|error| NoHttpClient(Box::new(error)))? })
    }
}

#[async_trait]
impl ReverseProxy for Caddy {
    async fn set_routes(&self, routes: &[Route]) -> Result<bool, ProxyError> {
        let wanted = describe(routes);
        let present: Value = serde_json::from_str(&answer(self.client.get(ROUTES)).await?)
            .map_err(|error| ProxyError::Refused(error.to_string()))?;
        if present == wanted {
            return Ok(false);
        }
        answer(self.client.patch(ROUTES).json(&wanted)).await?;
        Ok(true)
    }
}

async fn answer(request: RequestBuilder) -> Result<String, ProxyError> {
    let unreachable = |error: reqwest::Error| ProxyError::Unreachable(chain(&error));
    let response = request.send().await.map_err(unreachable)?;
    let status = response.status();
    let body = response.text().await.map_err(unreachable)?;
    if status == StatusCode::OK {
        return Ok(body);
    }
    let said: String = body.trim().chars().take(LONGEST_MESSAGE).collect();
    Err(ProxyError::Refused(format!("{status}: {said}")))
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// As Caddy writes it. The first route matches every request, and goes on to the others.
fn describe(routes: &[Route]) -> Value {
    let replace = |field: &str, pattern: &str| json!({ "replace": { field: [{ "search_regexp": pattern }] } });
    let (request, mut response) = (replace("Cookie", OUR_COOKIES), replace("Set-Cookie", COOKIE_DOMAIN));
    // Else it would be done before the bot has answered.
    response["deferred"] = json!(true);
    let cookies = json!({ "handle": [{ "handler": "headers", "request": request, "response": response }] });
    let to_bot = |route: &Route| {
        let handler = match &route.upstream {
            Some(upstream) => json!({ "handler": "reverse_proxy", "upstreams": [{ "dial": upstream }] }),
            None => json!({ "handler": "static_response", "status_code": 503, "body": "This bot does not run.\n" }),
        };
        json!({ "match": [{ "host": [route.host] }], "handle": [handler], "terminal": true })
    };
    std::iter::once(cookies).chain(routes.iter().map(to_bot)).collect()
}
