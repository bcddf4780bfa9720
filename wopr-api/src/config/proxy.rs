use super::ProxySettings;
use super::read::Reader;

/// The one domain that bots may share with the platform: a browser keeps no cookie for all of it.
const LOCAL: &str = "localhost";

impl Reader {
    /// The reverse proxy in front of bots, if they are to be reached from outside. `ours` are the hosts of the platform itself, and
    /// the domain of its cookies.
    pub(super) fn proxy(&mut self, ours: &[String]) -> Option<ProxySettings> {
        let (domain, container) = match (self.text("BOT_DOMAIN"), self.text("PROXY_CONTAINER")) {
            (Some(domain), Some(container)) => (domain, container),
            (None, None) => return None,
            _ => {
                self.wrong("BOT_DOMAIN and PROXY_CONTAINER go together; one is missing");
                return None;
            }
        };
        if !is_domain(&domain) {
            self.wrong(format!("BOT_DOMAIN is {domain:?}; it must be a domain, such as bots.example"));
        }
        if let Some(host) = ours.iter().find(|host| domain != LOCAL && is_one(&domain, host.trim_start_matches('.'))) {
            self.wrong(format!(
                "BOT_DOMAIN is {domain}, and {host} is the platform's own: bots could set its cookies, or be sent them"
            ));
        }
        Some(ProxySettings { domain, container })
    }
}

/// A bot's part and the dot before it take 64 of the 253 characters of a host name.
fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 189 && text.split('.').all(is_label)
}

/// Whether one of two domains is the other, or below it.
fn is_one(one: &str, other: &str) -> bool {
    let is_below = |lower: &str, upper: &str| lower.strip_suffix(upper).is_some_and(|rest| rest.ends_with('.'));
    one == other || is_below(one, other) || is_below(other, one)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_is_lower_case_labels() {
        for good in ["localhost", "wopr.bot", "bots.xn--bcher-kva.example"] {
            assert!(is_domain(good), "{good}");
        }
        for bad in ["", ".", "wopr.bot.", "Wopr.bot", "-a.bot", "a..b", "https://wopr.bot", "wopr.bot:80", "*.wopr.bot"]
        {
            assert!(!is_domain(bad), "{bad}");
        }
    }

    #[test]
    fn domains_are_one_where_a_cookie_of_one_is_sent_to_the_other() {
        for (one, other) in [("wopr.bot", "wopr.bot"), ("wopr.bot", "app.wopr.bot"), ("bots.wopr.bot", "wopr.bot")] {
            assert!(is_one(one, other) && is_one(other, one), "{one} {other}");
        }
        for (one, other) in
            [("wopr.bot", "app.wopr.example"), ("my-wopr.bot", "wopr.bot"), ("a.wopr.bot", "b.wopr.bot")]
        {
            assert!(!is_one(one, other) && !is_one(other, one), "{one} {other}");
        }
    }
}
