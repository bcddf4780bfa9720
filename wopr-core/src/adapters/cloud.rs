//! DigitalOcean as a cloud provider: <https://docs.digitalocean.com/reference/api/digitalocean/>.

use std::net::Ipv4Addr;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::{Method, StatusCode, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::http::client;
use crate::gpu::{CloudError, CloudProvider, CloudRegion, CloudSize, Machine, MachineState, NewMachine};

/// DigitalOcean's own API.
pub const DIGITALOCEAN: &str = "https://api.digitalocean.com";
/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The most entries that a page of a list has.
const PAGE: usize = 200;
/// A list that does not end by then is not read to its end.
const MAX_PAGES: usize = 50;
/// How often a request is repeated that changes nothing, or nothing a second time.
const REPEATS: u32 = 2;
/// The first pause between two of them.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause that is waited for here; whoever has to wait longer is told so instead.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The token or the address cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the configuration of DigitalOcean cannot be used")]
pub struct InvalidCloudConfig;

/// A DigitalOcean account.
#[derive(Clone)]
pub struct DigitalOcean {
    client: reqwest::Client,
    base_url: String,
    authorization: header::HeaderValue,
    first_pause: Duration,
}

impl std::fmt::Debug for DigitalOcean {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DigitalOcean").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

impl DigitalOcean {
    /// The account of `token`, at DigitalOcean or at `base_url`.
    ///
    /// # Errors
    /// [`InvalidCloudConfig`].
    pub fn new(token: &SecretString, base_url: Option<&str>) -> Result<Self, InvalidCloudConfig> {
        let mut authorization = header::HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
            .map_err(|_| InvalidCloudConfig)?;
        authorization.set_sensitive(true);
        let base_url = base_url.unwrap_or(DIGITALOCEAN).trim_end_matches('/').to_owned();
        if token.expose_secret().is_empty() || reqwest::Url::parse(&base_url).is_err() {
            return Err(InvalidCloudConfig);
        }
        let client = client(TIMEOUT).map_err(|_| InvalidCloudConfig)?;
        Ok(Self { client, base_url, authorization, first_pause: FIRST_PAUSE })
    }

    /// With another first pause between repeated requests.
    #[must_use]
    pub fn with_first_pause(mut self, pause: Duration) -> Self {
        self.first_pause = pause;
        self
    }

    /// Sends a request that may be repeated: after a failure of theirs, and when they want fewer.
    async fn repeat(&self, method: Method, path: &str) -> Result<Value, CloudError> {
        let mut pause = self.first_pause;
        for _ in 0..REPEATS {
            let wait = match self.send(method.clone(), path, None).await {
                Err(CloudError::Unavailable(_)) => pause,
                Err(CloudError::RateLimited { retry_after: Some(wanted) }) if wanted <= LONGEST_PAUSE => wanted,
                answer => return answer,
            };
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.send(method, path, None).await
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, CloudError> {
        let mut request = self.client.request(method, format!("{}{path}", self.base_url));
        request = request.header(header::AUTHORIZATION, self.authorization.clone());
        if let Some(body) = body {
            request = request.json(body);
        }
        // The error's own text would show the URL; what kind of failure it was is enough.
        let answer = request.send().await.map_err(|error| {
            let kind = if error.is_timeout() { "it did not answer in time" } else { "no connection" };
            CloudError::Unavailable(kind.to_owned())
        })?;
        let (status, retry_after) = (answer.status(), retry_after(answer.headers()));
        let body = answer.bytes().await.map_err(|_| CloudError::Unavailable("the answer broke off".to_owned()))?;
        if status.is_success() {
            if body.is_empty() {
                return Ok(Value::Null);
            }
            return serde_json::from_slice(&body)
                .map_err(|error| CloudError::Protocol(format!("not JSON at column {}", error.column())));
        }
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        Err(failure(status, retry_after, said["message"].as_str()))
    }

    /// Every entry of a list. Pages are counted here: an address to go on at is not followed, wherever it leads.
    async fn list(&self, path: &str, name: &'static str) -> Result<Vec<Value>, CloudError> {
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut entries = Vec::new();
        for page in 1..=MAX_PAGES {
            let path = format!("{path}{separator}page={page}&per_page={PAGE}");
            let mut answer = self.repeat(Method::GET, &path).await?;
            let Value::Array(found) = answer[name].take() else { return Err(missing(name)) };
            entries.extend(found);
            if answer.pointer("/links/pages/next").and_then(Value::as_str).is_none() {
                return Ok(entries);
            }
        }
        Err(CloudError::Protocol(format!("the list of {name} does not end")))
    }
}

fn retry_after(headers: &header::HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn failure(status: StatusCode, retry_after: Option<Duration>, said: Option<&str>) -> CloudError {
    match status.as_u16() {
        401 | 403 => CloudError::Unauthorized,
        404 => CloudError::NotFound,
        429 => CloudError::RateLimited { retry_after },
        408 | 500.. => CloudError::Unavailable(format!("it answered {status}")),
        _ => {
            let said: String = said.unwrap_or("it did not say why").chars().take(200).collect();
            CloudError::Refused(format!("{said} ({})", status.as_u16()))
        }
    }
}

fn missing(name: &str) -> CloudError {
    CloudError::Protocol(format!("{name} is missing"))
}

fn text(object: &Value, name: &str) -> Result<String, CloudError> {
    object[name].as_str().map(str::to_owned).ok_or_else(|| missing(name))
}

fn number(object: &Value, name: &str) -> Result<i64, CloudError> {
    object[name].as_i64().ok_or_else(|| missing(name))
}

fn flag(object: &Value, name: &str) -> Result<bool, CloudError> {
    object[name].as_bool().ok_or_else(|| missing(name))
}

fn words(object: &Value, name: &str) -> Result<Vec<String>, CloudError> {
    let words = object[name].as_array().ok_or_else(|| missing(name))?;
    Ok(words.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

/// Dollars as they stand in JSON, in whole cents, half a cent up. Read as the text it is: money never is a float.
fn cents(price: &Value) -> Option<i64> {
    let text = price.as_number()?.to_string();
    let (dollars, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let dollars: i64 = dollars.parse().ok().filter(|dollars| *dollars >= 0)?;
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let padded = format!("{fraction}000");
    let thousandths: i64 = padded.get(..3)?.parse().ok()?;
    dollars.checked_mul(100)?.checked_add((thousandths + 5) / 10)
}

/// The id of a droplet: digits, and part of a path.
fn segment(id: &str) -> Result<&str, CloudError> {
    let plain = !id.is_empty() && id.len() <= 20 && id.bytes().all(|byte| byte.is_ascii_digit());
    if plain { Ok(id) } else { Err(CloudError::NotFound) }
}

/// A tag as part of a query: ours have letters, digits, colons and hyphens.
fn tag_in_query(tag: &str) -> String {
    percent_encoding::utf8_percent_encode(tag, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn machine(droplet: &Value) -> Result<Machine, CloudError> {
    let id = droplet["id"].as_u64().ok_or_else(|| missing("id"))?;
    let state = match droplet["status"].as_str() {
        Some("new") => MachineState::New,
        Some("active") => MachineState::Active,
        Some("off" | "archive") => MachineState::Off,
        _ => return Err(missing("status")),
    };
    let networks = droplet.pointer("/networks/v4").and_then(Value::as_array);
    let public = networks.into_iter().flatten().find(|network| network["type"] == "public");
    let address: Option<Ipv4Addr> =
        public.and_then(|network| network["ip_address"].as_str()).and_then(|address| address.parse().ok());
    let monthly_cost_cents = droplet.pointer("/size/price_monthly").and_then(cents);
    Ok(Machine { id: id.to_string(), state, public_address: address, monthly_cost_cents })
}

#[async_trait]
impl CloudProvider for DigitalOcean {
    async fn create_machine(&self, new: &NewMachine) -> Result<Machine, CloudError> {
        let body = json!({
            "name": new.name,
            "region": new.region.as_str(),
            "size": new.size.as_str(),
            "image": new.image.as_str(),
            "ssh_keys": new.ssh_key.iter().collect::<Vec<_>>(),
            "tags": new.tags,
            "user_data": new.user_data.expose_secret(),
            "ipv6": false,
            "monitoring": true,
        });
        // Never repeated here: whether the first one was done cannot be known from its failure.
        let answer = self.send(Method::POST, "/v2/droplets", Some(&body)).await?;
        machine(&answer["droplet"])
    }

    async fn find_machine(&self, id: &str) -> Result<Option<Machine>, CloudError> {
        match self.repeat(Method::GET, &format!("/v2/droplets/{}", segment(id)?)).await {
            Ok(answer) => machine(&answer["droplet"]).map(Some),
            Err(CloudError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn list_tagged(&self, tag: &str) -> Result<Vec<Machine>, CloudError> {
        let droplets = self.list(&format!("/v2/droplets?tag_name={}", tag_in_query(tag)), "droplets").await?;
        let mut machines: Vec<Machine> = droplets.iter().map(machine).collect::<Result<_, _>>()?;
        // Ids count up.
        machines.sort_by_key(|machine| machine.id.parse::<u64>().unwrap_or(u64::MAX));
        Ok(machines)
    }

    async fn delete_machine(&self, id: &str) -> Result<(), CloudError> {
        match self.repeat(Method::DELETE, &format!("/v2/droplets/{}", segment(id)?)).await {
            Ok(_) | Err(CloudError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn reboot_machine(&self, id: &str) -> Result<(), CloudError> {
        let path = format!("/v2/droplets/{}/actions", segment(id)?);
        self.send(Method::POST, &path, Some(&json!({ "type": "reboot" }))).await.map(drop)
    }

    async fn list_regions(&self) -> Result<Vec<CloudRegion>, CloudError> {
        let read = |region: &Value| {
            Ok(CloudRegion {
                slug: text(region, "slug")?,
                name: text(region, "name")?,
                available: flag(region, "available")?,
                sizes: words(region, "sizes")?,
            })
        };
        self.list("/v2/regions", "regions").await?.iter().map(read).collect()
    }

    async fn list_sizes(&self) -> Result<Vec<CloudSize>, CloudError> {
        let read = |size: &Value| {
            Ok(CloudSize {
                slug: text(size, "slug")?,
                memory_mib: number(size, "memory")?,
                processors: number(size, "vcpus")?,
                disk_gib: number(size, "disk")?,
                monthly_cost_cents: cents(&size["price_monthly"]).ok_or_else(|| missing("price_monthly"))?,
                available: flag(size, "available")?,
                regions: words(size, "regions")?,
                description: text(size, "description")?,
            })
        };
        self.list("/v2/sizes", "sizes").await?.iter().map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_become_cents_without_a_float() {
        for (dollars, expected) in [
            ("5", Some(500)),
            ("5.0", Some(500)),
            ("2476.8", Some(247_680)),
            ("0.005", Some(1)),
            ("0.0049", Some(0)),
            ("12.345678", Some(1_235)),
            ("-1", None),
            ("1e300", None),
            ("\"5\"", None),
            ("null", None),
        ] {
            assert_eq!(cents(&serde_json::from_str(dollars).unwrap()), expected, "{dollars}");
        }
    }

    #[test]
    fn an_id_cannot_lead_elsewhere() {
        for bad in ["", "../account", "1/actions", "1?x", "1 ", "a", "123456789012345678901"] {
            assert_eq!(segment(bad), Err(CloudError::NotFound), "{bad:?}");
        }
        assert_eq!(segment("3164494"), Ok("3164494"));
    }

    #[test]
    fn the_token_is_not_printed() {
        let account = DigitalOcean::new(&"dop_v1_secret".into(), None).unwrap();
        assert!(!format!("{account:?}").contains("secret"));
        assert_eq!(DigitalOcean::new(&"a\nb".into(), None).unwrap_err(), InvalidCloudConfig);
        assert_eq!(DigitalOcean::new(&"".into(), None).unwrap_err(), InvalidCloudConfig);
        assert_eq!(DigitalOcean::new(&"a".into(), Some("nonsense")).unwrap_err(), InvalidCloudConfig);
    }
}
