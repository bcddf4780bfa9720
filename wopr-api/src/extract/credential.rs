use axum::http::{HeaderMap, header};
use percent_encoding::percent_decode_str;

/// The session cookie's name over plain HTTP; over HTTPS it has the prefix `__Secure-`.
pub(crate) const SESSION_COOKIE: &str = "better-auth.session_token";

/// What a request offers to say who sent it.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// `Authorization: Bearer …`.
    Bearer(String),
    /// A session cookie, already decoded: the token and its signature.
    Session {
        /// The token as it was issued.
        token: String,
        /// Base64 of its HMAC.
        signature: String,
    },
    /// Something that is none of these, such as another scheme or an unsigned token.
    Unusable,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bearer(_) => "Bearer(…)",
            Self::Session { .. } => "Session(…)",
            Self::Unusable => "Unusable",
        })
    }
}

impl Credential {
    /// The request's credential: the bearer if there is one, else the session cookie.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        if let Some(value) = headers.get(header::AUTHORIZATION) {
            let bearer = value.to_str().ok().and_then(|text| {
                let (scheme, token) = text.split_once(' ')?;
                scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
            });
            return Some(match bearer {
                Some(token) if !token.is_empty() => Self::Bearer(token),
                _ => Self::Unusable,
            });
        }
        let secure = format!("__Secure-{SESSION_COOKIE}");
        let value = cookie(headers, &secure).or_else(|| cookie(headers, SESSION_COOKIE))?;
        Some(Self::signed(value))
    }

    /// Splits `token.signature`, which may come percent-encoded as we sent it or decoded by a person.
    fn signed(value: &str) -> Self {
        // A decoded base64 signature has `+`, `/` and `=`, but never `%`: decoding twice is harmless.
        let Ok(decoded) = percent_decode_str(value).decode_utf8() else { return Self::Unusable };
        match decoded.rsplit_once('.') {
            Some((token, signature)) if !token.is_empty() && !signature.is_empty() => {
                Self::Session { token: token.to_owned(), signature: signature.to_owned() }
            }
            _ => Self::Unusable,
        }
    }
}

/// The first cookie of that name.
pub(crate) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn of(headers: &[(&'static str, &'static str)]) -> Option<Credential> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        Credential::of(&map)
    }

    fn session() -> Credential {
        Credential::Session { token: "tok".to_owned(), signature: "a+/b=".to_owned() }
    }

    #[test]
    fn a_bearer_comes_before_a_cookie_and_hides_it_even_when_unusable() {
        let cookie = ("cookie", "better-auth.session_token=tok.a%2B%2Fb%3D");
        assert_eq!(of(&[("authorization", "bEaReR abc"), cookie]), Some(Credential::Bearer("abc".to_owned())));
        for value in ["Basic abc", "Bearer", "Bearer ", "abc"] {
            assert_eq!(of(&[("authorization", value), cookie]), Some(Credential::Unusable), "{value}");
        }
    }

    #[test]
    fn a_session_cookie_is_read_encoded_decoded_and_prefixed() {
        for value in [
            "better-auth.session_token=tok.a%2B%2Fb%3D",
            "better-auth.session_token=tok.a+/b=",
            "x=1; better-auth.session_token=tok.a%2B%2Fb%3D; y=2",
            "__Secure-better-auth.session_token=tok.a%2B%2Fb%3D",
            "better-auth.session_token=old.sig; __Secure-better-auth.session_token=tok.a+/b=",
        ] {
            assert_eq!(of(&[("cookie", value)]), Some(session()), "{value}");
        }
    }

    #[test]
    fn an_unsigned_or_empty_token_is_no_session() {
        for value in ["tok", "tok.", ".sig", "%ff.sig", ""] {
            let cookie = format!("better-auth.session_token={value}");
            let mut map = HeaderMap::new();
            map.append("cookie", HeaderValue::try_from(cookie).unwrap());
            assert_eq!(Credential::of(&map), Some(Credential::Unusable), "{value}");
        }
        assert_eq!(of(&[("cookie", "other=1")]), None);
        assert_eq!(of(&[]), None);
    }
}
