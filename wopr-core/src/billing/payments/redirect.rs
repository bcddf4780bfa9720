//! Where a payer may be sent back to. Pure.

use super::error::PaymentsError;

/// The longest address that is accepted.
const MAX_LENGTH: usize = 2048;

/// The origins that may be redirected to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RedirectOrigins(Vec<String>);

impl RedirectOrigins {
    /// From addresses of which only the origin counts, such as `https://app.example.com/`.
    ///
    /// # Errors
    /// The first address that has no usable origin.
    pub fn new<'a>(addresses: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let origins: Result<Vec<_>, _> =
            addresses.into_iter().map(|address| origin(address).ok_or_else(|| address.to_owned())).collect();
        Ok(Self(origins?))
    }

    /// Refuses an address of another origin.
    ///
    /// # Errors
    /// [`PaymentsError::RedirectNotAllowed`].
    pub fn check(&self, address: &str) -> Result<(), PaymentsError> {
        let allowed = address.len() <= MAX_LENGTH && origin(address).is_some_and(|origin| self.0.contains(&origin));
        allowed.then_some(()).ok_or(PaymentsError::RedirectNotAllowed)
    }
}

/// Scheme, host and port in lower case, without a default port. `None` for everything a browser could read another way
/// than we do.
fn origin(address: &str) -> Option<String> {
    let confusing = |c: char| c.is_whitespace() || c.is_control() || c == '\\';
    if address.contains(confusing) {
        return None;
    }
    let (scheme, rest) = address.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let default_port = match scheme.as_str() {
        "http" => "80",
        "https" => "443",
        _ => return None,
    };
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) => (host, port),
        None => (authority, default_port),
    };
    let plain_host =
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
    plain_host.then(|| format!("{scheme}://{}:{port}", host.to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_origin_counts() {
        let origins = RedirectOrigins::new(["http://localhost:3000", "https://app.example.com/ignored"]).unwrap();
        let allowed = [
            "http://localhost:3000/dashboard",
            "http://LOCALHOST:3000?paid=1#top",
            "https://app.example.com",
            "https://app.example.com:443/billing?next=https://evil.example",
        ];
        for address in allowed {
            assert!(origins.check(address).is_ok(), "{address}");
        }
        let long = format!("http://localhost:3000/{}", "x".repeat(MAX_LENGTH));
        let refused = [
            "https://localhost:3000/",
            "http://localhost:3001/",
            "http://localhost/",
            "https://app.example.com.evil.example/",
            "https://app.example.com@evil.example/",
            "https://evil.example/https://app.example.com",
            "https://app.example.com\\@evil.example/",
            "https://app.example.com:444/",
            "//app.example.com/",
            "javascript://app.example.com/%0aalert(1)",
            " https://app.example.com/",
            "https://app.exa\nmple.com/",
            "",
            &long,
        ];
        for address in refused {
            assert!(origins.check(address).is_err(), "{address}");
        }
    }

    #[test]
    fn an_unusable_origin_is_named() {
        assert_eq!(RedirectOrigins::new(["https://a.example", "app.example"]), Err("app.example".to_owned()));
    }
}
