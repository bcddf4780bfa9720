//! The provider's signature over a webhook. Pure.

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

/// How far the signature's time may be from ours, either way, in seconds: what the provider's own libraries allow of
/// the past, see <https://docs.stripe.com/webhooks#verify-manually>.
pub const TOLERANCE_SECONDS: i64 = 300;
/// More signatures in one header are not looked at.
const MAX_SIGNATURES: usize = 16;

/// Whether `header` (`t=…,v1=…[,v1=…]`) signs `body` with one of the secrets at about `now`.
///
/// The whole text of a secret is the key, its `whsec_` prefix included.
pub(super) fn is_valid(secrets: &[SecretString], header: &str, body: &[u8], now: Timestamp) -> bool {
    let Some((time, signatures)) = parse(header) else { return false };
    // The text that was signed is the one that was sent: `+5` and `005` are not the number `5`.
    let Ok(seconds) = time.parse::<i64>() else { return false };
    if seconds.to_string() != time || now.as_second().abs_diff(seconds) > TOLERANCE_SECONDS.unsigned_abs() {
        return false;
    }
    let mut valid = false;
    for secret in secrets.iter().map(ExposeSecret::expose_secret).filter(|secret| !secret.is_empty()) {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { continue };
        mac.update(time.as_bytes());
        mac.update(b".");
        mac.update(body);
        for signature in &signatures {
            // Compares in constant time; every pair is compared, so the time does not tell which secret matched.
            valid |= mac.clone().verify_slice(signature).is_ok();
        }
    }
    valid
}

fn parse(header: &str) -> Option<(&str, Vec<Vec<u8>>)> {
    let (mut time, mut signatures) = (None, Vec::new());
    for part in header.split(',') {
        match part.trim().split_once('=') {
            Some(("t", value)) if time.replace(value).is_some() => return None,
            Some(("v1", value)) if signatures.len() < MAX_SIGNATURES => signatures.extend(hex::decode(value)),
            _ => {}
        }
    }
    Some((time?, signatures))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_800_000_000;
    const BODY: &[u8] = br#"{"id":"evt_1"}"#;

    fn sign(secret: &str, seconds: i64, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
        mac.update(format!("{seconds}.").as_bytes());
        mac.update(body);
        format!("t={seconds},v1={}", hex::encode(mac.finalize().into_bytes()))
    }

    fn valid(secrets: &[&str], header: &str) -> bool {
        let secrets: Vec<_> = secrets.iter().map(|secret| SecretString::from(*secret)).collect();
        is_valid(&secrets, header, BODY, Timestamp::from_second(NOW).unwrap())
    }

    #[test]
    fn the_whole_secret_is_the_key_and_every_secret_of_the_ring_counts() {
        assert!(valid(&["whsec_new"], &sign("whsec_new", NOW, BODY)));
        assert!(valid(&["whsec_new", "whsec_old"], &sign("whsec_old", NOW, BODY)));
        assert!(!valid(&["whsec_new"], &sign("new", NOW, BODY)));
        assert!(!valid(&["whsec_new"], &sign("whsec_old", NOW, BODY)));
        assert!(!valid(&[""], &sign("", NOW, BODY)));
        assert!(!valid(&[], &sign("", NOW, BODY)));
    }

    #[test]
    fn any_of_several_signatures_counts() {
        let header = sign("whsec_a", NOW, BODY);
        let (time, signature) = header.split_once(',').unwrap();
        assert!(valid(&["whsec_a"], &format!("{time},v1={},{signature},v0=00", "0".repeat(64))));
        assert!(valid(&["whsec_a"], &format!("{signature}, {time}")));
    }

    #[test]
    fn five_minutes_either_way_are_accepted_and_no_more() {
        for (offset, accepted) in [(-301, false), (-300, true), (300, true), (301, false)] {
            assert_eq!(valid(&["whsec_a"], &sign("whsec_a", NOW + offset, BODY)), accepted, "{offset}");
        }
    }

    #[test]
    fn headers_that_mean_nothing_are_refused() {
        let good = sign("whsec_a", NOW, BODY);
        let signature = good.split_once("v1=").unwrap().1;
        let table = [
            String::new(),
            format!("t={NOW}"),
            format!("v1={signature}"),
            format!("t={NOW},v0={signature}"),
            format!("t=,v1={signature}"),
            format!("t=+{NOW},v1={signature}"),
            format!("t={NOW},t={NOW},v1={signature}"),
            format!("t={NOW},v1={}", &signature[2..]),
            format!("t={NOW},v1={signature}00"),
            format!("t=99999999999999999999,v1={signature}"),
            format!("t={},v1={signature}", i64::MIN),
        ];
        for header in table {
            assert!(!valid(&["whsec_a"], &header), "{header}");
        }
    }

    proptest! {
        #[test]
        fn no_header_panics(header: String) {
            prop_assert!(!valid(&["whsec_a"], &header));
        }

        #[test]
        fn a_changed_body_is_refused(position in 0..BODY.len(), flip in 1u8..) {
            let mut body = BODY.to_vec();
            body[position] ^= flip;
            let secrets = [SecretString::from("whsec_a")];
            prop_assert!(!is_valid(&secrets, &sign("whsec_a", NOW, BODY), &body, Timestamp::from_second(NOW).unwrap()));
        }
    }
}
