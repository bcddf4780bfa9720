//! The mails, one small function each: the same facts as text and as HTML.
//!
//! Values are escaped in HTML, and a subject has no line breaks, whatever is put into it.

use secrecy::{ExposeSecret as _, SecretString};

use super::Mail;
use crate::ids::{OneTimeTokenId, UserId};

/// What a mail says: paragraphs, and one thing to do.
struct Content<'a> {
    title: &'a str,
    paragraphs: &'a [&'a str],
    /// What the link says, and where it leads.
    link: Option<(&'a str, &'a str)>,
}

impl Content<'_> {
    fn text(&self) -> String {
        let link = self.link.map_or_else(String::new, |(label, url)| format!("\n{label}:\n{url}\n"));
        format!("{}\n\n{}\n{link}\n-- \nWOPR\n", self.title, self.paragraphs.join("\n\n"))
    }

    fn html(&self) -> String {
        let title = escape(self.title);
        let paragraphs: String =
            self.paragraphs.iter().flat_map(|text| ["<p>", &escape(text), "</p>"].map(str::to_owned)).collect();
        // Only web addresses become links: a value must not turn into a script.
        let link = self.link.filter(|(_, url)| is_web_address(url));
        let link = link.map_or_else(String::new, |(label, url)| {
            format!("<p><a href=\"{}\">{}</a></p>", escape(url), escape(label))
        });
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title></head>\
             <body><h1>{title}</h1>{paragraphs}{link}<hr><p>WOPR</p></body></html>"
        )
    }

    fn mail(&self, template: &'static str, cause: impl std::fmt::Display, recipient: &str) -> Mail {
        Mail {
            dedupe_key: format!("{template}:{cause}"),
            template,
            recipient: recipient.to_owned(),
            subject: self.title.split_whitespace().collect::<Vec<_>>().join(" "),
            text_body: self.text(),
            html_body: self.html(),
        }
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn is_web_address(url: &str) -> bool {
    url.starts_with("https://") || url.starts_with("http://")
}

/// The link that verifies an address.
pub(crate) fn verify_email(cause: OneTimeTokenId, recipient: &str, base_url: &str, token: &SecretString) -> Mail {
    let url = format!("{base_url}/auth/verify?token={}", token.expose_secret());
    let content = Content {
        title: "Verify your email address",
        paragraphs: &[
            "Please confirm that this is your address.",
            "The link works once, for 24 hours. If you did not sign up, ignore this mail.",
        ],
        link: Some(("Verify your address", &url)),
    };
    content.mail("verify-email", cause, recipient)
}

/// The link that lets its reader set a new password.
pub(crate) fn password_reset(cause: OneTimeTokenId, recipient: &str, url: &SecretString) -> Mail {
    let content = Content {
        title: "Reset your password",
        paragraphs: &[
            "Somebody asked for a new password for this address.",
            "The link works once, for one hour. If it was not you, ignore this mail: nothing has changed.",
        ],
        link: Some(("Choose a new password", url.expose_secret())),
    };
    content.mail("password-reset", cause, recipient)
}

/// The address is verified.
pub(crate) fn welcome(user: UserId, recipient: &str, ui_url: &str) -> Mail {
    let content = Content {
        title: "Welcome to WOPR",
        paragraphs: &[
            "Your address is verified.",
            "Your balance is in your account, and your first bot is one step away.",
        ],
        link: Some(("Open WOPR", ui_url)),
    };
    content.mail("welcome", user, recipient)
}

/// A few paragraphs about something that has happened. `cause` names it.
pub(crate) fn notice(template: &'static str, cause: &str, recipient: &str, title: &str, paragraphs: &[&str]) -> Mail {
    Content { title, paragraphs, link: None }.mail(template, cause, recipient)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn what_is_put_in_stays_text() {
        let content = Content {
            title: "a <b>\r\nBcc: x@example.com",
            paragraphs: &["<script>alert('\"')</script> & co"],
            link: Some(("go", "https://example.com/?a=1&b=\"><script>")),
        };
        let mail = content.mail("test", 1, "ann@example.com");
        assert_eq!(mail.subject, "a <b> Bcc: x@example.com");
        assert!(!mail.html_body.contains("<script") && !mail.html_body.contains("<b>"), "{}", mail.html_body);
        assert!(mail.html_body.contains("href=\"https://example.com/?a=1&amp;b=&quot;&gt;&lt;script&gt;\""));
        assert!(mail.text_body.contains("<script>alert('\"')</script> & co"));
    }

    #[test]
    fn only_web_addresses_become_links() {
        for (url, linked) in [("https://x.example", true), ("http://x.example", true), ("javascript:alert(1)", false)] {
            let content = Content { title: "t", paragraphs: &[], link: Some(("go", url)) };
            assert_eq!(content.html().contains("<a "), linked, "{url}");
        }
    }

    #[test]
    fn the_mails_read_as_they_should() {
        let at = Timestamp::constant(1_800_000_000, 0);
        let id = OneTimeTokenId::new(at);
        let url = "https://api.example/api/auth/reset-password/tok?callbackURL=x".into();
        let mails = [
            verify_email(id, "ann@example.com", "https://api.example", &"c0ffee".into()),
            password_reset(id, "ann@example.com", &url),
            welcome(UserId::new(at), "ann@example.com", "https://app.example"),
        ];
        let text =
            mails.map(|mail| format!("{}: {}\n{}\n{}", mail.template, mail.subject, mail.text_body, mail.html_body));
        insta::assert_snapshot!(text.join("\n=====\n"));
    }
}
