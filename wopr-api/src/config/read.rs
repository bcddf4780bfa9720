use std::collections::BTreeMap;
use std::str::FromStr;

use axum::http::Uri;
use ipnet::{IpNet, Ipv4Net};
use secrecy::SecretString;
use wopr_core::auth::{OperatorToken, Scope};
use wopr_core::fleet::NetworkRange;

use super::keys::{KEYS, TENANT_TOKEN_PREFIX};
use super::source::{ConfigErrors, Layer, Setting, Sources, Values, merge};
use super::{Config, Environment, LogFormat, MailConfig, RegistryConfig, STRIPE_API_BASE, StripeConfig};

/// Keys that sign or encrypt have at least this many characters.
const MIN_SECRET_CHARS: usize = 32;
/// Operator tokens have at least this many characters.
const MIN_TOKEN_CHARS: usize = 16;

pub(super) fn read(sources: &Sources) -> Result<Config, ConfigErrors> {
    let mut reader = Reader(merge(sources));
    let production = reader.choice("WOPR_ENVIRONMENT", &[("development", false), ("production", true)]);
    let ui_origins = reader.origins("UI_ORIGIN", production);
    let base_url = reader.url("BETTER_AUTH_URL", production);
    let ui_url = match reader.text("PLATFORM_UI_URL") {
        Some(_) => reader.url("PLATFORM_UI_URL", production),
        None => ui_origins.first().cloned().unwrap_or_default(),
    };
    let mut trusted_origins = ui_origins.clone();
    trusted_origins.extend(origin_of(&base_url).filter(|origin| !ui_origins.contains(origin)));
    let gpu = reader.gpu(&base_url, production);
    let gateway = reader.gateway(production);
    let backup = reader.backup(production);
    let cookie_domain = reader.cookie_domain();
    let host = |origin: &String| Some(Uri::from_str(origin).ok()?.host()?.to_owned());
    let ours = trusted_origins.iter().filter_map(host).chain(cookie_domain.clone()).collect::<Vec<_>>();
    let proxy = reader.proxy(&ours);
    let config = Config {
        environment: if production { Environment::Production } else { Environment::Development },
        port: reader.number("PORT", 0, u16::MAX),
        log_level: reader.log_filter("LOG_LEVEL"),
        log_format: reader.choice("LOG_FORMAT", &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
        database_url: reader.required_secret("DATABASE_URL"),
        database_schema: reader.text("DATABASE_SCHEMA").unwrap_or_default(),
        database_max_connections: reader.number("DATABASE_MAX_CONNECTIONS", 2, 500),
        sign_ups_per_hour: reader.number("SIGN_UPS_PER_HOUR", 1, 100_000),
        request_timeout_seconds: reader.number("REQUEST_TIMEOUT_SECONDS", 1, 600),
        shutdown_grace_seconds: reader.number("SHUTDOWN_GRACE_SECONDS", 1, 600),
        platform_secrets: reader.keys("PLATFORM_SECRET"),
        auth_secrets: reader.keys("BETTER_AUTH_SECRET"),
        base_url,
        trusted_origins,
        ui_origins,
        ui_url,
        cookie_domain,
        trusted_proxies: reader.trusted_proxies(production),
        operator_tokens: reader.operator_tokens(),
        image_allowlist: reader.list("FLEET_IMAGE_ALLOWLIST"),
        tenant_networks: reader.tenant_networks(),
        key_overlap_seconds: reader.number("FLEET_KEY_OVERLAP_SECONDS", 0, 86_400),
        own_images_first: reader.choice("FLEET_IMAGE_PULL", &[("always", false), ("missing", true)]),
        registry: reader.registry(),
        docker_host: reader.text("DOCKER_HOST"),
        proxy,
        gpu,
        gateway,
        backup,
        stripe: reader.stripe(production),
        credit_prices: reader.credit_prices(),
        mail: reader.mail(),
        require_verified_email: reader.choice("REQUIRE_VERIFIED_EMAIL", &[("false", false), ("true", true)]),
        platform_admin_email: reader.address("PLATFORM_ADMIN_EMAIL"),
        settings: reader.settings(),
    };
    if reader.0.errors.is_empty() { Ok(config) } else { Err(ConfigErrors(reader.0.errors)) }
}

/// The `scheme://host[:port]` of a URL, lower-cased and without a default port.
pub fn origin_of(url: &str) -> Option<String> {
    let uri = Uri::from_str(url).ok()?;
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let host = uri.host()?.to_ascii_lowercase();
    let default = match scheme.as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    Some(match uri.port_u16() {
        Some(port) if port != default => format!("{scheme}://{host}:{port}"),
        _ => format!("{scheme}://{host}"),
    })
}

pub(super) struct Reader(Values);

impl Reader {
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.0.values.get(name).map(|(value, _)| value.clone())
    }

    pub(super) fn wrong(&mut self, error: impl Into<String>) {
        self.0.errors.push(error.into());
    }

    pub(super) fn list(&self, name: &str) -> Vec<String> {
        let text = self.text(name).unwrap_or_default();
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    /// One of a few words, the first of which also stands in when the value is none of them.
    pub(super) fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> T {
        let text = self.text(name).unwrap_or_default();
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        self.wrong(format!("{name} is {text:?}; it must be {}", words.join(" or ")));
        choices[0].1
    }

    pub(super) fn number<N: FromStr + PartialOrd + Copy + std::fmt::Display>(
        &mut self,
        name: &str,
        least: N,
        most: N,
    ) -> N {
        let text = self.text(name).unwrap_or_default();
        match text.parse::<N>() {
            Ok(number) if number >= least && number <= most => number,
            _ => {
                self.wrong(format!("{name} is {text:?}; it must be a number from {least} to {most}"));
                least
            }
        }
    }

    fn log_filter(&mut self, name: &str) -> String {
        let text = self.text(name).unwrap_or_default();
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&text) {
            self.wrong(format!("{name} is {text:?}, which is not a log filter: {error}"));
        }
        text
    }

    fn required_secret(&mut self, name: &str) -> SecretString {
        let value = self.text(name);
        if value.is_none() {
            self.wrong(format!("{name} is missing"));
        }
        value.unwrap_or_default().into()
    }

    /// Keys that sign or encrypt: required, long and not a sample's.
    fn keys(&mut self, name: &str) -> Vec<SecretString> {
        let items = self.list(name);
        if items.is_empty() {
            self.wrong(format!("{name} is missing"));
        }
        self.strong(name, items)
    }

    /// Keys that may be absent, but not weak.
    pub(super) fn strong(&mut self, name: &str, items: Vec<String>) -> Vec<SecretString> {
        for item in &items {
            let chars = item.chars().count();
            if chars < MIN_SECRET_CHARS {
                self.wrong(format!("{name} has {chars} characters; it needs at least {MIN_SECRET_CHARS}"));
            } else if is_placeholder(item) {
                self.wrong(format!("{name} looks like a sample's placeholder; make one with `openssl rand -hex 32`"));
            }
        }
        items.into_iter().map(SecretString::from).collect()
    }

    pub(super) fn url(&mut self, name: &str, https: bool) -> String {
        let Some(text) = self.text(name) else {
            self.wrong(format!("{name} is missing"));
            return String::new();
        };
        if origin_of(&text).is_none() {
            self.wrong(format!("{name} is {text:?}; it must be an absolute http or https URL"));
        } else if https && !text.starts_with("https://") {
            self.wrong(format!("{name} is {text:?}; in production it must be https"));
        }
        text.trim_end_matches('/').to_owned()
    }

    fn origins(&mut self, name: &str, https: bool) -> Vec<String> {
        let mut origins = Vec::new();
        for item in self.list(name) {
            match origin_of(&item) {
                Some(origin) if origin == item.trim_end_matches('/').to_ascii_lowercase() => {
                    if https && !origin.starts_with("https://") {
                        self.wrong(format!("{name} has {item:?}; in production every origin must be https"));
                    }
                    origins.push(origin);
                }
                _ => self.wrong(format!(
                    "{name} has {item:?}; an origin is a scheme and a host, such as https://app.example.com"
                )),
            }
        }
        if origins.is_empty() && self.list(name).is_empty() {
            self.wrong(format!("{name} is missing"));
        }
        origins
    }

    /// A domain; `localhost` has no subdomains that would share it, so it stands for none.
    fn cookie_domain(&mut self) -> Option<String> {
        let domain = self.text("COOKIE_DOMAIN")?;
        let plain = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
        };
        if !plain(&domain) {
            self.wrong(format!("COOKIE_DOMAIN is {domain:?}; it must be a domain such as .example.com"));
        }
        (domain.trim_start_matches('.') != "localhost").then_some(domain)
    }

    /// In production somebody has to have thought of it: without it, all who come through a proxy are counted as one.
    fn trusted_proxies(&mut self, production: bool) -> Vec<IpNet> {
        let name = "TRUSTED_PROXY_IPS";
        match self.text(name).as_deref() {
            None if production => self.wrong(format!(
                "{name} is missing; it must be where the reverse proxy's requests come from, or `none` if there is no proxy"
            )),
            Some("none") => {}
            _ => return self.networks(name),
        }
        Vec::new()
    }

    fn networks(&mut self, name: &str) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for item in self.list(name) {
            let network = item.parse::<IpNet>().ok().or_else(|| item.parse::<std::net::IpAddr>().ok().map(IpNet::from));
            match network {
                Some(network) => networks.push(network),
                None => self.wrong(format!("{name} has {item:?}; it must be an address or a CIDR network")),
            }
        }
        networks
    }

    fn operator_tokens(&mut self) -> Vec<OperatorToken> {
        let mut tokens = Vec::new();
        let platform = [
            ("FLEET_API_TOKEN", None),
            ("FLEET_API_TOKEN_READ", Some(Scope::Read)),
            ("FLEET_API_TOKEN_WRITE", Some(Scope::Write)),
            ("FLEET_API_TOKEN_ADMIN", Some(Scope::Admin)),
        ];
        for (name, scope) in platform {
            if let Some(token) = self.text(name) {
                self.require_token(name, &token);
                let scope = scope.or_else(|| scope_in(&token)).unwrap_or(Scope::Admin);
                tokens.push(OperatorToken { name: name.to_owned(), tenant_id: None, scope, token: token.into() });
            }
        }
        for (tenant, (value, _)) in self.0.tenant_tokens.clone() {
            let name = format!("{TENANT_TOKEN_PREFIX}{tenant}");
            let Ok(tenant_id) = tenant.parse() else {
                self.wrong(format!("{name}: {tenant:?} is not a tenant id"));
                continue;
            };
            let parts = value.split_once(':').and_then(|(scope, token)| Some((scope.parse::<Scope>().ok()?, token)));
            let Some((scope, token)) = parts else {
                self.wrong(format!("{name} must be <read|write|admin>:<token>"));
                continue;
            };
            self.require_token(&name, token);
            tokens.push(OperatorToken { name, tenant_id: Some(tenant_id), scope, token: token.to_owned().into() });
        }
        tokens
    }

    fn require_token(&mut self, name: &str, token: &str) {
        let chars = token.chars().count();
        if chars < MIN_TOKEN_CHARS {
            self.wrong(format!("{name} has {chars} characters; it needs at least {MIN_TOKEN_CHARS}"));
        } else if is_placeholder(token) {
            self.wrong(format!("{name} looks like a sample's placeholder"));
        }
    }

    fn tenant_networks(&mut self) -> NetworkRange {
        let prefix = self.number("FLEET_NETWORK_PREFIX", 16, 28);
        let text = self.text("FLEET_NETWORK_RANGE").unwrap_or_default();
        let range = text.parse::<Ipv4Net>().map_err(|error| error.to_string());
        let range = range.and_then(|range| {
            NetworkRange::new(range.addr(), range.prefix_len(), prefix).map_err(|error| error.to_string())
        });
        range.unwrap_or_else(|error| {
            self.wrong(format!("FLEET_NETWORK_RANGE is {text:?} with FLEET_NETWORK_PREFIX {prefix}: {error}"));
            NetworkRange::default()
        })
    }

    pub(super) fn registry(&mut self) -> Option<RegistryConfig> {
        match (self.text("REGISTRY_USERNAME"), self.text("REGISTRY_PASSWORD")) {
            (Some(username), Some(password)) => Some(RegistryConfig {
                server: self.text("REGISTRY_SERVER").unwrap_or_default(),
                username,
                password: password.into(),
            }),
            (None, None) => None,
            _ => {
                self.wrong("REGISTRY_USERNAME and REGISTRY_PASSWORD go together; one is missing");
                None
            }
        }
    }

    fn stripe(&mut self, production: bool) -> Option<StripeConfig> {
        let api_base = self.url("STRIPE_API_BASE", production);
        if production && origin_of(&api_base) != origin_of(STRIPE_API_BASE) {
            self.wrong(format!("STRIPE_API_BASE is {api_base:?}; in production it must be {STRIPE_API_BASE}"));
        }
        let webhook_secrets = self.list("STRIPE_WEBHOOK_SECRET");
        let Some(secret_key) = self.text("STRIPE_SECRET_KEY") else {
            if !webhook_secrets.is_empty() {
                self.wrong("STRIPE_WEBHOOK_SECRET is set without STRIPE_SECRET_KEY");
            }
            return None;
        };
        if webhook_secrets.is_empty() {
            self.wrong("STRIPE_WEBHOOK_SECRET is missing; it is needed with STRIPE_SECRET_KEY");
        }
        if production && (is_placeholder(&secret_key) || secret_key.starts_with("sk_test_")) {
            self.wrong("STRIPE_SECRET_KEY is not a live key");
        }
        let webhook_secrets = webhook_secrets.into_iter().map(SecretString::from).collect();
        Some(StripeConfig { secret_key: secret_key.into(), webhook_secrets, api_base })
    }

    fn credit_prices(&mut self) -> BTreeMap<u32, String> {
        let mut prices = BTreeMap::new();
        for dollars in [5, 10, 25, 50, 100] {
            let name = format!("STRIPE_CREDIT_PRICE_{dollars}");
            if let Some(price) = self.text(&name) {
                if prices.values().any(|other| *other == price) {
                    self.wrong(format!("{name} is the price of another pack too"));
                }
                prices.insert(dollars, price);
            }
        }
        prices
    }

    fn mail(&mut self) -> Option<MailConfig> {
        let from = self.address("MAIL_FROM").unwrap_or_default();
        let smtp_url = self.text("SMTP_URL")?;
        if !smtp_url.starts_with("smtp://") && !smtp_url.starts_with("smtps://") {
            self.wrong("SMTP_URL must start with smtp:// or smtps://");
        }
        Some(MailConfig { smtp_url: smtp_url.into(), from })
    }

    fn address(&mut self, name: &str) -> Option<String> {
        let address = self.text(name)?;
        let plausible = address.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty() && !domain.is_empty() && !address.contains(char::is_whitespace) && !domain.contains('@')
        });
        if !plausible {
            self.wrong(format!("{name} is {address:?}; it must be an e-mail address"));
        }
        Some(address)
    }

    fn settings(&self) -> Vec<Setting> {
        let mut settings: Vec<Setting> = KEYS
            .iter()
            .map(|key| match self.0.values.get(key.name) {
                Some((_, layer)) if key.is_secret() => {
                    Setting { name: key.name.to_owned(), shown: Some("***".to_owned()), layer: *layer }
                }
                Some((value, layer)) => {
                    Setting { name: key.name.to_owned(), shown: Some(value.clone()), layer: *layer }
                }
                None => Setting { name: key.name.to_owned(), shown: None, layer: Layer::Unset },
            })
            .collect();
        settings.extend(self.0.tenant_tokens.iter().map(|(tenant, (_, layer))| Setting {
            name: format!("{TENANT_TOKEN_PREFIX}{tenant}"),
            shown: Some("***".to_owned()),
            layer: *layer,
        }));
        settings
    }
}

/// `wopr_write_…` says its scope itself.
fn scope_in(token: &str) -> Option<Scope> {
    let (scope, rest) = token.strip_prefix("wopr_")?.split_once('_')?;
    scope.parse().ok().filter(|_| !rest.is_empty())
}

/// Whether a secret is what a sample file has in its place.
fn is_placeholder(secret: &str) -> bool {
    const SAMPLES: [&str; 8] =
        ["change-me", "changeme", "change_me", "placeholder", "replace", "your-", "your_", "xxxxxx"];
    let lower = secret.to_ascii_lowercase();
    let distinct = secret.bytes().collect::<std::collections::BTreeSet<_>>().len();
    SAMPLES.iter().any(|sample| lower.contains(sample)) || distinct < 6
}
