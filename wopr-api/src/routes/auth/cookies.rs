use axum::http::{HeaderMap, HeaderValue, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret as _, SecretString};
use wopr_core::auth::{KeyRing, Session};

use crate::config::Config;
use crate::error::ApiError;
use crate::extract::SESSION_COOKIE;

/// Says that the session is not to be remembered: it has no `Max-Age`, and neither has the session's cookie.
const DONT_REMEMBER_COOKIE: &str = "better-auth.dont_remember";
/// How long a browser keeps the cookie of a remembered session, in seconds: as long as the session lives.
const MAX_AGE_SECONDS: u32 = 7 * 24 * 60 * 60;

/// What `encodeURIComponent` leaves as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// The cookies that hand a session to a browser.
pub(super) fn begin(
    headers: &mut HeaderMap,
    config: &Config,
    keys: &KeyRing,
    token: &SecretString,
    session: &Session,
) -> Result<(), ApiError> {
    let max_age = session.remembered.then_some(MAX_AGE_SECONDS);
    let value = sealed(keys, token.expose_secret());
    append(headers, &cookie(config, SESSION_COOKIE, &value, max_age, config.cookie_domain.as_deref()))?;
    if !session.remembered {
        append(headers, &cookie(config, DONT_REMEMBER_COOKIE, &sealed(keys, "true"), None, None))?;
    }
    Ok(())
}

/// Takes them away again.
pub(super) fn end(headers: &mut HeaderMap, config: &Config) -> Result<(), ApiError> {
    append(headers, &cookie(config, SESSION_COOKIE, "", Some(0), config.cookie_domain.as_deref()))?;
    append(headers, &cookie(config, DONT_REMEMBER_COOKIE, "", Some(0), None))
}

fn sealed(keys: &KeyRing, value: &str) -> String {
    utf8_percent_encode(&keys.seal(value), ENCODED).to_string()
}

fn cookie(config: &Config, name: &str, value: &str, max_age: Option<u32>, domain: Option<&str>) -> String {
    let (prefix, secure) = if config.is_https() { ("__Secure-", "; Secure") } else { ("", "") };
    let max_age = max_age.map_or_else(String::new, |seconds| format!("; Max-Age={seconds}"));
    let domain = domain.map_or_else(String::new, |domain| format!("; Domain={domain}"));
    format!("{prefix}{name}={value}{max_age}{domain}; Path=/; HttpOnly{secure}; SameSite=Lax")
}

fn append(headers: &mut HeaderMap, cookie: &str) -> Result<(), ApiError> {
    let value = HeaderValue::from_str(cookie).map_err(ApiError::internal)?;
    headers.append(header::SET_COOKIE, value);
    Ok(())
}
