//! Where a browser may be sent in the end.

use axum::http::StatusCode;

use crate::config::{Config, origin_of};
use crate::error::ApiError;

/// Which field of a request a link came in; each has its own refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Callback,
    Redirect,
}

impl Field {
    fn refusal(self) -> ApiError {
        let (code, message) = match self {
            Self::Callback => ("INVALID_CALLBACKURL", "Invalid callbackURL"),
            Self::Redirect => ("INVALID_REDIRECTURL", "Invalid redirectURL"),
        };
        ApiError::new(StatusCode::FORBIDDEN, code, message)
    }
}

/// Lets a link through that stays with us: a path, or a page of a trusted origin.
///
/// # Errors
/// 403, named after the field.
pub(super) fn check(config: &Config, field: Field, link: Option<&str>) -> Result<(), ApiError> {
    let trusted = link.is_none_or(|link| is_path(link) || is_trusted(link, &config.trusted_origins));
    if trusted { Ok(()) } else { Err(field.refusal()) }
}

/// A link with a path is one to the user interface.
pub(super) fn absolute(config: &Config, link: &str) -> String {
    if is_path(link) { format!("{}{link}", config.ui_url) } else { link.to_owned() }
}

/// The link with one more query parameter, whose value needs no encoding.
pub(super) fn with_parameter(link: &str, name: &str, value: &str) -> String {
    let (link, fragment) = link.split_once('#').map_or((link, ""), |(link, fragment)| (link, fragment));
    let separator = if link.contains('?') { '&' } else { '?' };
    let hash = if fragment.is_empty() { "" } else { "#" };
    format!("{link}{separator}{name}={value}{hash}{fragment}")
}

/// `/path?query`, and nothing that a browser could take for another host.
fn is_path(link: &str) -> bool {
    let Some(rest) = link.strip_prefix('/') else { return false };
    let lower = rest.to_ascii_lowercase();
    let other_host = ["/", "\\", "%2f", "%5c"].iter().any(|start| lower.starts_with(start));
    let plain = rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\<>\"'`{}|^".contains(&byte));
    !other_host && plain
}

fn is_trusted(link: &str, trusted: &[String]) -> bool {
    let plain = link.bytes().all(|byte| byte.is_ascii_graphic() && !b"\\<>\"'`{}|^".contains(&byte));
    plain && origin_of(link).is_some_and(|origin| trusted.contains(&origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_pages_are_led_to() {
        let trusted = ["https://app.example".to_owned(), "http://localhost:3000".to_owned()];
        let table = [
            ("/", true),
            ("/dashboard?a=1&b=%20x", true),
            ("https://app.example", true),
            ("https://app.example/reset?x=1#y", true),
            ("http://localhost:3000/reset", true),
            ("", false),
            ("dashboard", false),
            ("//evil.example", false),
            ("/\\evil.example", false),
            ("/%2fevil.example", false),
            ("/%5Cevil.example", false),
            ("/a b", false),
            ("/\r\nSet-Cookie: x", false),
            ("https://evil.example", false),
            ("https://app.example.evil.example", false),
            ("https://app.example@evil.example", false),
            ("https://app.example:444/", false),
            ("http://app.example/", false),
            ("https:app.example", false),
            ("javascript:alert(1)", false),
            ("https://app.example\\@evil.example", false),
            (" https://app.example", false),
        ];
        for (link, want) in table {
            assert_eq!(is_path(link) || is_trusted(link, &trusted), want, "{link:?}");
        }
    }

    #[test]
    fn a_parameter_is_put_before_the_fragment() {
        assert_eq!(with_parameter("/a", "token", "x"), "/a?token=x");
        assert_eq!(with_parameter("/a?b=1#c", "token", "x"), "/a?b=1&token=x#c");
    }
}
