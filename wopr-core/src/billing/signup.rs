//! One signup grant for one person, as far as an address can tell.

use sha2::{Digest as _, Sha256};

/// A digest of the address in its one form: trimmed and in lower case. With `fold_aliases`, what follows a `+` in the
/// local part does not count, and neither do the dots in the local part of a Gmail address, as Gmail delivers all of
/// these to one mailbox.
pub(super) fn email_digest(email: &str, fold_aliases: bool) -> [u8; 32] {
    Sha256::digest(normalise(email, fold_aliases).as_bytes()).into()
}

fn normalise(email: &str, fold_aliases: bool) -> String {
    let email = email.trim().to_lowercase();
    let Some((local, domain)) = email.rsplit_once('@') else { return email };
    if !fold_aliases {
        return email;
    }
    let local = local.split_once('+').map_or(local, |(before, _)| if before.is_empty() { local } else { before });
    match domain {
        "gmail.com" | "googlemail.com" => format!("{}@gmail.com", local.replace('.', "")),
        _ => format!("{local}@{domain}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_of_one_mailbox_are_one_address() {
        let table = [
            (" Ann@Example.com ", "ann@example.com", "ann@example.com"),
            ("ann+bonus@example.com", "ann@example.com", "ann+bonus@example.com"),
            ("a.n.n+x@gmail.com", "ann@gmail.com", "a.n.n+x@gmail.com"),
            ("ann@googlemail.com", "ann@gmail.com", "ann@googlemail.com"),
            ("a.nn@example.com", "a.nn@example.com", "a.nn@example.com"),
            ("+@example.com", "+@example.com", "+@example.com"),
        ];
        for (address, folded, plain) in table {
            assert_eq!(normalise(address, true), folded);
            assert_eq!(normalise(address, false), plain);
        }
    }
}
