use std::sync::Arc;

use diesel::sql_types::{Integer, Nullable, Text};
use diesel_async::RunQueryDsl;
use jiff::SignedDuration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use wopr_core::adapters::smtp::{SmtpConfig, SmtpConfigError, SmtpMailer};
use wopr_core::audit::Origin;
use wopr_core::auth::{Auth, AuthConfig, Email, SignUp};
use wopr_core::notify::{Delivered, MailError, Mailer, Notifier, OutgoingMail};
use wopr_core::testing::{FixedClock, MemoryMailer, TestDb};

/// A queue with one mail in it: the one that a sign-up causes.
struct Queue {
    test: TestDb,
    clock: FixedClock,
    mailer: Arc<MemoryMailer>,
    notifier: Notifier,
    auth: Auth,
}

impl Queue {
    async fn with_mails(count: usize) -> Self {
        let test = TestDb::create().await;
        let clock = FixedClock::default();
        let mailer = Arc::new(MemoryMailer::default());
        let shared = Arc::new(clock.clone());
        let notifier = Notifier::new(test.db.clone(), shared.clone(), Some(mailer.clone()));
        let auth = crate::auth::auth(&test, &clock, AuthConfig::new("https://api.example", "https://app.example"));
        let queue = Self { test, clock, mailer, notifier, auth };
        for number in 0..count {
            queue.sign_up(&format!("user{number}@example.com")).await;
        }
        queue
    }

    async fn sign_up(&self, email: &str) {
        let password = self.auth.password_policy().check("Testpass1".into()).unwrap();
        let email = Email::parse(email).unwrap();
        let sign_up = SignUp { email, name: "Ann".to_owned(), image: None, password, remember: true };
        self.auth.sign_up(&Origin::system("test"), sign_up).await.unwrap();
    }

    async fn row(&self) -> Row {
        let mut conn = self.test.db.connection().await.unwrap();
        diesel::sql_query("SELECT state, attempts, last_error, text_body FROM mail_outbox ORDER BY id LIMIT 1")
            .get_result(&mut conn)
            .await
            .unwrap()
    }

    /// Moves on far enough for every retry and lease.
    fn wait(&self) {
        self.clock.advance(SignedDuration::from_hours(2));
    }
}

#[derive(diesel::QueryableByName, Debug)]
struct Row {
    #[diesel(sql_type = Text)]
    state: String,
    #[diesel(sql_type = Integer)]
    attempts: i32,
    #[diesel(sql_type = Nullable<Text>)]
    last_error: Option<String>,
    #[diesel(sql_type = Text)]
    text_body: String,
}

const SENT: Delivered = Delivered { sent: 1, retried: 0, dead: 0 };
const RETRIED: Delivered = Delivered { sent: 0, retried: 1, dead: 0 };
const DEAD: Delivered = Delivered { sent: 0, retried: 0, dead: 1 };
const NOTHING: Delivered = Delivered { sent: 0, retried: 0, dead: 0 };

fn busy() -> MailError {
    MailError::Temporary("busy".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_mail_is_sent_once_and_its_link_is_forgotten() {
    let queue = Queue::with_mails(1).await;
    assert!(queue.row().await.text_body.contains("/auth/verify?token="));
    assert_eq!(queue.notifier.deliver().await.unwrap(), SENT);
    assert_eq!(queue.notifier.deliver().await.unwrap(), NOTHING);
    queue.wait();
    assert_eq!(queue.notifier.deliver().await.unwrap(), NOTHING);
    assert_eq!(queue.mailer.delivered().len(), 1);
    let row = queue.row().await;
    assert_eq!((row.state.as_str(), row.attempts, row.text_body.as_str()), ("sent", 1, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn several_workers_send_each_mail_once() {
    let queue = Queue::with_mails(12).await;
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let notifier = queue.notifier.clone();
            tokio::spawn(async move { notifier.deliver().await.unwrap().sent })
        })
        .collect();
    let mut sent = 0;
    for worker in workers {
        sent += worker.await.unwrap();
    }
    assert_eq!(sent, 12);
    assert_eq!(queue.mailer.delivered().len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_is_retried_later_and_not_at_once() {
    let queue = Queue::with_mails(1).await;
    queue.mailer.fail_next(busy());
    assert_eq!(queue.notifier.deliver().await.unwrap(), RETRIED);
    assert_eq!(queue.notifier.deliver().await.unwrap(), NOTHING, "it waits");
    let row = queue.row().await;
    assert_eq!(row.state, "pending");
    assert!(row.last_error.unwrap().contains("busy"));
    queue.clock.advance(SignedDuration::from_secs(90));
    assert_eq!(queue.notifier.deliver().await.unwrap(), NOTHING, "1.6 minutes at least");
    queue.clock.advance(SignedDuration::from_secs(60));
    assert_eq!(queue.notifier.deliver().await.unwrap(), SENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_five_faults_it_is_given_up() {
    let queue = Queue::with_mails(1).await;
    for attempt in 1..=5 {
        queue.mailer.fail_next(busy());
        let want = if attempt < 5 { RETRIED } else { DEAD };
        assert_eq!(queue.notifier.deliver().await.unwrap(), want, "attempt {attempt}");
        queue.wait();
    }
    assert_eq!(queue.notifier.deliver().await.unwrap(), NOTHING);
    let row = queue.row().await;
    assert_eq!((row.state.as_str(), row.attempts, row.text_body.as_str()), ("dead", 5, ""));
    assert_eq!(row.last_error.as_deref(), Some("busy"));
    assert!(queue.mailer.delivered().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_final() {
    let queue = Queue::with_mails(1).await;
    queue.mailer.fail_next(MailError::Permanent("no such mailbox".to_owned()));
    assert_eq!(queue.notifier.deliver().await.unwrap(), DEAD);
    queue.wait();
    assert_eq!(queue.notifier.deliver().await.unwrap(), NOTHING);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_sends_the_same_message_id_again() {
    let queue = Queue::with_mails(1).await;
    queue.mailer.lose_next_answer();
    assert_eq!(queue.notifier.deliver().await.unwrap(), RETRIED);
    queue.wait();
    assert_eq!(queue.notifier.deliver().await.unwrap(), SENT);
    assert_eq!(queue.mailer.delivered().len(), 1, "the server knows the message id");
}

/// Dies while sending, as a process does that is killed.
struct Dying;

#[async_trait::async_trait]
impl Mailer for Dying {
    async fn send(&self, _mail: &OutgoingMail) -> Result<(), MailError> {
        panic!("killed while sending")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_while_sending_leaves_the_mail_to_the_next_worker() {
    let queue = Queue::with_mails(1).await;
    let dying = Notifier::new(queue.test.db.clone(), Arc::new(queue.clock.clone()), Some(Arc::new(Dying)));
    let killed = tokio::spawn({
        let dying = dying.clone();
        async move { dying.deliver().await }
    });
    assert!(killed.await.unwrap_err().is_panic());
    assert_eq!(queue.notifier.deliver().await.unwrap(), NOTHING, "the lease still runs");
    queue.clock.advance(SignedDuration::from_mins(5));
    assert_eq!(queue.notifier.deliver().await.unwrap(), SENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_kills_every_worker_is_given_up() {
    let queue = Queue::with_mails(1).await;
    for _ in 0..5 {
        let dying = Notifier::new(queue.test.db.clone(), Arc::new(queue.clock.clone()), Some(Arc::new(Dying)));
        assert!(tokio::spawn(async move { dying.deliver().await }).await.unwrap_err().is_panic());
        queue.wait();
    }
    assert_eq!(queue.notifier.deliver().await.unwrap(), DEAD);
    assert!(queue.mailer.delivered().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_mailer_mails_wait_until_they_are_stale() {
    let queue = Queue::with_mails(1).await;
    let silent = Notifier::new(queue.test.db.clone(), Arc::new(queue.clock.clone()), None);
    assert_eq!(silent.deliver().await.unwrap(), NOTHING);
    assert_eq!(queue.row().await.attempts, 0);
    silent.purge().await.unwrap();
    assert_eq!(queue.row().await.state, "pending");
    queue.clock.advance(SignedDuration::from_hours(8 * 24));
    silent.purge().await.unwrap();
    assert_eq!(queue.row().await.state, "dead");
    queue.clock.advance(SignedDuration::from_hours(90 * 24));
    assert_eq!(silent.purge().await.unwrap(), 1);
}

/// What every mailer promises.
async fn keeps_the_contract(mailer: &dyn Mailer) {
    let mail = OutgoingMail {
        message_id: "mail_0190c6a7b5e77c0a9d3c2b1a00112233".to_owned(),
        template: "welcome".to_owned(),
        recipient: "ann@example.com".to_owned(),
        subject: "Grüße aus WOPR".to_owned(),
        text_body: "plain\n.\nwith a dot".to_owned(),
        html_body: "<p>html</p>".to_owned(),
    };
    mailer.send(&mail).await.unwrap();
    let refused = mailer.send(&OutgoingMail { recipient: "nobody".to_owned(), ..mail }).await;
    assert!(matches!(refused, Err(MailError::Permanent(_))), "{refused:?}");
}

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    let mailer = MemoryMailer::default();
    keeps_the_contract(&mailer).await;
    assert_eq!(mailer.delivered().len(), 1);
}

#[tokio::test]
async fn the_smtp_mailer_keeps_the_contract() {
    let server = SmtpServer::start("250 taken").await;
    keeps_the_contract(&server.mailer()).await;
    let taken = server.taken.lock().await.clone();
    assert_eq!(taken.len(), 1);
    for part in [
        "Message-ID: <mail_0190c6a7b5e77c0a9d3c2b1a00112233@wopr.example>",
        "From: WOPR <noreply@wopr.example>",
        "Reply-To: support@wopr.example",
        "To: ann@example.com",
        "text/plain",
        "text/html",
    ] {
        assert!(taken[0].contains(part), "{part}: {}", taken[0]);
    }
}

#[tokio::test]
async fn an_smtp_server_that_is_busy_or_away_is_tried_again() {
    let mail = OutgoingMail {
        message_id: "mail_1".to_owned(),
        template: "welcome".to_owned(),
        recipient: "ann@example.com".to_owned(),
        subject: "s".to_owned(),
        text_body: "t".to_owned(),
        html_body: "h".to_owned(),
    };
    let busy = SmtpServer::start("451 try later").await;
    let answer = busy.mailer().send(&mail).await;
    assert!(matches!(&answer, Err(MailError::Temporary(text)) if text.contains("try later")), "{answer:?}");
    let unwilling = SmtpServer::start("550 no such mailbox").await;
    let answer = unwilling.mailer().send(&mail).await;
    assert!(matches!(&answer, Err(MailError::Permanent(text)) if text.contains("no such mailbox")), "{answer:?}");
    // A port that was free a moment ago, with nobody behind it.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let answer = mailer_at(port).send(&mail).await;
    assert!(matches!(&answer, Err(MailError::Temporary(_))), "{answer:?}");
}

#[tokio::test]
async fn an_smtp_configuration_is_checked_without_repeating_its_password() {
    let config = |url: &str, from: &str, reply_to: Option<&str>| SmtpConfig {
        url: url.into(),
        from: from.to_owned(),
        reply_to: reply_to.map(str::to_owned),
    };
    let wrong = SmtpMailer::new(&config("ftp://user:hunter2@mail.example", "a@b.example", None)).err().unwrap();
    assert_eq!(wrong, SmtpConfigError::Url);
    assert!(!format!("{wrong:?} {wrong}").contains("hunter2"));
    let wrong = SmtpMailer::new(&config("smtp://mail.example", "nobody", None)).err();
    assert_eq!(wrong, Some(SmtpConfigError::From("nobody".to_owned())));
    let wrong = SmtpMailer::new(&config("smtp://mail.example", "a@b.example", Some("x"))).err();
    assert_eq!(wrong, Some(SmtpConfigError::ReplyTo("x".to_owned())));
}

fn mailer_at(port: u16) -> SmtpMailer {
    SmtpMailer::new(&SmtpConfig {
        url: format!("smtp://127.0.0.1:{port}").into(),
        from: "WOPR <noreply@wopr.example>".to_owned(),
        reply_to: Some("support@wopr.example".to_owned()),
    })
    .unwrap()
}

/// As much of an SMTP server as a client needs: it answers every mail the same.
struct SmtpServer {
    port: u16,
    taken: Arc<Mutex<Vec<String>>>,
}

impl SmtpServer {
    async fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let store = taken.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, answer, store.clone()));
            }
        });
        Self { port, taken }
    }

    fn mailer(&self) -> SmtpMailer {
        mailer_at(self.port)
    }
}

async fn converse(stream: TcpStream, answer: &'static str, taken: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 test ESMTP\r\n").await?;
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        let reply = match line.get(..4).unwrap_or("") {
            "EHLO" | "HELO" => "250 test",
            "DATA" => {
                stream.write_all(b"354 go ahead\r\n").await?;
                let mut mail = String::new();
                while !mail.ends_with("\r\n.\r\n") && stream.read_line(&mut mail).await? > 0 {}
                if answer.starts_with('2') {
                    taken.lock().await.push(mail);
                }
                answer
            }
            "QUIT" => "221 bye",
            _ => "250 ok",
        };
        stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
        line.clear();
    }
    Ok(())
}
