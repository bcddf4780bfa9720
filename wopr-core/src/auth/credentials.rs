//! What people type: addresses and passwords.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};

use super::AuthError;

/// The longest address that mail can be sent to, in bytes (RFC 5321, 4.5.3.1.3, less the angle brackets).
const MAX_EMAIL_BYTES: usize = 254;

/// A mail address, in lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Email(String);

impl Email {
    /// Reads an address as people write it: letters, digits and `_'+-.` before the `@`, a host name with at least one
    /// dot after it. Case is dropped.
    ///
    /// # Errors
    /// [`AuthError::InvalidEmail`].
    pub fn parse(text: &str) -> Result<Self, AuthError> {
        let valid = text.len() <= MAX_EMAIL_BYTES
            && text.split_once('@').is_some_and(|(local, host)| valid_local(local) && valid_host(host));
        if valid { Ok(Self(text.to_ascii_lowercase())) } else { Err(AuthError::InvalidEmail) }
    }

    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the `@`.
    pub(super) fn local_part(&self) -> &str {
        self.0.split_once('@').map_or("", |(local, _)| local)
    }
}

fn valid_local(local: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_'+-.".contains(&byte);
    local.bytes().all(allowed)
        && !local.starts_with('.')
        && !local.contains("..")
        && local.bytes().last().is_some_and(|byte| byte != b'.' && byte != b'\'')
}

fn valid_host(host: &str) -> bool {
    let label = |label: &str| {
        label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && label.bytes().next().is_some_and(|byte| byte != b'-')
            && label.len() <= 63
    };
    let Some((domain, top)) = host.rsplit_once('.') else { return false };
    domain.split('.').all(label) && top.len() >= 2 && top.bytes().all(|byte| byte.is_ascii_alphabetic())
}

impl fmt::Display for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Email {
    /// Only the host: addresses are personal data and do not belong in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "…@{}", self.0.split_once('@').map_or("", |(_, host)| host))
    }
}

/// Which passwords are accepted. Length only: rules about classes make passwords worse, not better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordPolicy {
    /// The fewest characters.
    pub min_chars: usize,
    /// The most characters.
    pub max_chars: usize,
}

impl Default for PasswordPolicy {
    /// 8 to 128 characters.
    fn default() -> Self {
        Self { min_chars: 8, max_chars: 128 }
    }
}

impl PasswordPolicy {
    /// Accepts or refuses a password that somebody wants to have from now on.
    ///
    /// # Errors
    /// [`AuthError::PasswordTooShort`], [`AuthError::PasswordTooLong`].
    pub fn check(&self, password: SecretString) -> Result<NewPassword, AuthError> {
        let chars = password.expose_secret().chars().count();
        if chars < self.min_chars {
            return Err(AuthError::PasswordTooShort { min_chars: self.min_chars });
        }
        if chars > self.max_chars {
            return Err(AuthError::PasswordTooLong { max_chars: self.max_chars });
        }
        Ok(NewPassword(password))
    }
}

/// A password that the policy accepts.
#[derive(Debug, Clone)]
pub struct NewPassword(pub(super) SecretString);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, want) in [
            ("testuser@example.com", Some("testuser@example.com")),
            ("Ann.O'Neil+wopr@Mail.Example.COM", Some("ann.o'neil+wopr@mail.example.com")),
            ("a@b.co", Some("a@b.co")),
            ("a_b-c@x-y.example", Some("a_b-c@x-y.example")),
            ("", None),
            ("a", None),
            ("@example.com", None),
            ("a@", None),
            ("a@localhost", None),
            ("a@example.c", None),
            ("a@example.c0m", None),
            ("a@.com", None),
            ("a@-x.com", None),
            ("a@x..com", None),
            (".a@example.com", None),
            ("a.@example.com", None),
            ("a..b@example.com", None),
            ("a'@example.com", None),
            ("a b@example.com", None),
            ("a@b@example.com", None),
            ("a@example.com\n", None),
            ("a\r\nBcc: b@example.com", None),
            (" a@example.com", None),
            ("ä@example.com", None),
        ] {
            assert_eq!(Email::parse(text).ok().as_ref().map(Email::as_str), want, "{text:?}");
        }
        assert!(Email::parse(&format!("{}@example.com", "a".repeat(243))).is_err());
    }

    #[test]
    fn an_address_is_not_printed_for_debugging() {
        let email = Email::parse("ann@example.com").unwrap();
        assert_eq!(format!("{email:?}"), "…@example.com");
    }

    #[test]
    fn a_password_is_measured_in_characters() {
        let policy = PasswordPolicy::default();
        assert!(policy.check("Testpass1".into()).is_ok());
        assert!(policy.check("ääääääää".into()).is_ok(), "eight characters in sixteen bytes");
        assert!(matches!(policy.check("1234567".into()), Err(AuthError::PasswordTooShort { min_chars: 8 })));
        assert!(policy.check("x".repeat(128).into()).is_ok());
        assert!(matches!(policy.check("x".repeat(129).into()), Err(AuthError::PasswordTooLong { max_chars: 128 })));
    }

    proptest! {
        #[test]
        fn no_accepted_address_can_carry_a_second_header(text in "\\PC{0,40}|[a-z.@\r\n,;<> ]{0,40}") {
            if let Ok(email) = Email::parse(&text) {
                prop_assert!(!email.as_str().contains(|c: char| c.is_whitespace() || "<>,;\"\\".contains(c)));
                prop_assert_eq!(email.as_str().matches('@').count(), 1);
                prop_assert_eq!(Email::parse(email.as_str()).unwrap(), email);
            }
        }
    }
}
