use std::path::PathBuf;

use super::ProxySettings;
use super::read::Reader;

impl Reader {
    /// The reverse proxy in front of bots, if they are to be reached from outside.
    pub(super) fn proxy(&mut self) -> Option<ProxySettings> {
        let needed = ["PLATFORM_DOMAIN", "PROXY_ADMIN_SOCKET", "PROXY_CONTAINER"];
        let missing: Vec<_> = needed.into_iter().filter(|name| self.text(name).is_none()).collect();
        if missing.len() == needed.len() {
            return None;
        }
        if !missing.is_empty() {
            self.wrong(format!("bots' names outside need {}", missing.join(", ")));
        }
        let domain = self.text("PLATFORM_DOMAIN")?;
        if !is_domain(&domain) {
            self.wrong(format!("PLATFORM_DOMAIN is {domain:?}; it must be a domain, such as wopr.bot"));
        }
        Some(ProxySettings {
            domain,
            admin_socket: PathBuf::from(self.text("PROXY_ADMIN_SOCKET")?),
            container: self.text("PROXY_CONTAINER")?,
        })
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

#[cfg(test)]
mod tests {
    use super::is_domain;

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
}
