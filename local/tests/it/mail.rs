//! Mail in, mail shown.

use std::sync::Arc;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use wopr_local::clock::SystemClock;
use wopr_local::mail::{Config, MailCatcher};

use crate::support::{TempDir, http};

struct Sender {
    stream: BufReader<TcpStream>,
}

impl Sender {
    async fn connect(catcher: &MailCatcher) -> Self {
        let mut sender = Self { stream: BufReader::new(TcpStream::connect(catcher.smtp_address()).await.unwrap()) };
        assert_eq!(sender.answer().await.0, 220);
        sender
    }

    /// The code and text of one answer, several lines joined.
    async fn answer(&mut self) -> (u16, String) {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).await.unwrap();
            text.push_str(&line);
            if line.as_bytes().get(3) != Some(&b'-') {
                return (line[..3].parse().unwrap(), text);
            }
        }
    }

    async fn say(&mut self, line: &str) -> u16 {
        self.stream.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
        self.answer().await.0
    }

    async fn send(&mut self, to: &str, message: &str) -> u16 {
        assert_eq!(self.say("MAIL FROM:<noreply@wopr.bot> SIZE=100 BODY=8BITMIME").await, 250);
        assert_eq!(self.say(&format!("RCPT TO:<{to}>")).await, 250);
        assert_eq!(self.say("DATA").await, 354);
        self.say(&format!("{message}\r\n.")).await
    }
}

async fn json(catcher: &MailCatcher, path: &str) -> Value {
    http().get(format!("http://{}{path}", catcher.http_address())).send().await.unwrap().json().await.unwrap()
}

#[tokio::test]
async fn a_mail_is_kept_decoded_shown_safely_and_survives_a_restart() {
    let directory = TempDir::new();
    let config = Config { data_dir: Some(directory.path().to_owned()), ..Config::for_tests() };
    let catcher = MailCatcher::start(config.clone(), Arc::new(SystemClock)).await.unwrap();
    let mut sender = Sender::connect(&catcher).await;
    assert_eq!(sender.say("EHLO test").await, 250);
    let message = "Subject: =?utf-8?q?Best=C3=A4tigen?=\r\nContent-Type: text/html; charset=utf-8\r\n\
                   Content-Transfer-Encoding: quoted-printable\r\n\r\n<script>alert(1)</script>\r\n..a line with a dot =C3=A9\r\n";
    assert_eq!(sender.send("Ada@example.com", message).await, 250);
    assert_eq!(sender.send("bob@example.com", "Subject: plain\r\n\r\nsee http://a.example/verify?t=1").await, 250);
    assert_eq!(sender.say("QUIT").await, 221);

    let listed = json(&catcher, "/api/mails?to=ada@EXAMPLE.com").await;
    assert_eq!(listed["mails"].as_array().unwrap().len(), 1);
    assert_eq!(listed["mails"][0]["subject"], "Bestätigen");
    catcher.shutdown().await;

    let catcher = MailCatcher::start(config, Arc::new(SystemClock)).await.unwrap();
    let shown = json(&catcher, "/api/mails/1").await;
    assert_eq!(shown["html"], "<script>alert(1)</script>\r\n.a line with a dot é\r\n\r\n");
    assert_eq!((&shown["from"], &shown["to"][0]), (&"noreply@wopr.bot".into(), &"Ada@example.com".into()));
    let page = http().get(format!("http://{}/mails/1", catcher.http_address())).send().await.unwrap();
    assert!(page.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    let page = page.text().await.unwrap();
    assert!(!page.contains("<script>") && page.contains("<iframe sandbox="), "{page}");
    let page =
        http().get(format!("http://{}/mails/2", catcher.http_address())).send().await.unwrap().text().await.unwrap();
    assert!(page.contains("<a href=\"http://a.example/verify?t=1\""), "{page}");
    let gone: Value = http()
        .delete(format!("http://{}/api/mails", catcher.http_address()))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(gone["deleted"], 2);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    let missing = http().get(format!("http://{}/api/mails/1", catcher.http_address())).send().await.unwrap();
    assert_eq!(missing.status(), 404);
}

#[tokio::test]
async fn what_is_out_of_order_too_large_or_unknown_is_refused() {
    let config = Config { mail_bytes_max: 1000, mails_max: 2, ..Config::for_tests() };
    let catcher = MailCatcher::start(config, Arc::new(SystemClock)).await.unwrap();
    let mut sender = Sender::connect(&catcher).await;
    for (line, code) in [
        ("MAIL FROM:<a@b>", 503),
        ("EHLO test", 250),
        ("RCPT TO:<a@b>", 503),
        ("DATA", 503),
        ("MAIL FROM:<a@b> SIZE=1001", 552),
        ("MAIL FROM:a@b", 501),
        ("MAIL FROM:<a@b> NOVELTY=1", 555),
        ("MAIL FROM:<>", 250),
        ("MAIL FROM:<a@b>", 503),
        ("RCPT TO:<>", 501),
        ("RSET", 250),
        ("RCPT TO:<a@b>", 503),
        ("STARTTLS", 502),
        ("AUTH PLAIN AAAA", 502),
        ("NOOP", 250),
        ("vrfy a", 252),
        ("TURN", 500),
    ] {
        assert_eq!(sender.say(line).await, code, "{line}");
    }
    assert_eq!(sender.send("a@b", &"0123456789\r\n".repeat(100)).await, 552);
    for number in 1..=3 {
        assert_eq!(sender.send("a@b", &format!("Subject: {number}\r\n\r\n")).await, 250);
    }
    let subjects: Vec<String> = catcher.mails().iter().map(|mail| mail.parsed.subject.clone()).collect();
    assert_eq!(subjects, ["3", "2"], "the oldest is forgotten");
    catcher.shutdown().await;
}
