use std::sync::Arc;

use diesel::sql_types::{BigInt, Text};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection as _};
use jiff::SignedDuration;
use secrecy::{ExposeSecret as _, SecretString};
use wopr_core::audit::{Actor, Origin};
use wopr_core::auth::{
    AdminGrant, Auth, AuthConfig, AuthError, Email, ImageChange, Limit, OperatorToken, Scope, SignUp, Started, Throttle,
};
use wopr_core::billing::{Billing, BillingConfig};
use wopr_core::ids::{ApiKeyId, TenantId};
use wopr_core::money::Money;
use wopr_core::notify::Notifier;
use wopr_core::testing::{FixedClock, MemoryMailer, TestDb};

const PASSWORD: &str = "Testpass1";

/// The domain on a test database.
pub(crate) fn auth(test: &TestDb, clock: &FixedClock, config: AuthConfig) -> Auth {
    Auth::new(test.db.clone(), Arc::new(clock.clone()), billing(test, clock), config)
}

fn billing(test: &TestDb, clock: &FixedClock) -> Billing {
    Billing::new(test.db.clone(), Arc::new(clock.clone()), BillingConfig::default())
}

struct World {
    test: TestDb,
    clock: FixedClock,
    auth: Auth,
    mailer: Arc<MemoryMailer>,
    notifier: Notifier,
}

#[derive(diesel::QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

#[derive(diesel::QueryableByName)]
struct Value {
    #[diesel(sql_type = Text)]
    value: String,
}

impl World {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut AuthConfig)) -> Self {
        let test = TestDb::create().await;
        let clock = FixedClock::default();
        let mut config = AuthConfig::new("https://api.example", "https://app.example");
        change(&mut config);
        let auth = auth(&test, &clock, config);
        let mailer = Arc::new(MemoryMailer::default());
        let notifier = Notifier::new(test.db.clone(), Arc::new(clock.clone()), Some(mailer.clone()));
        Self { test, clock, auth, mailer, notifier }
    }

    fn form(&self, email: &str) -> SignUp {
        let password = self.auth.password_policy().check(PASSWORD.into()).unwrap();
        SignUp { email: address(email), name: "Ann".to_owned(), image: None, password, remember: true }
    }

    async fn sign_up(&self, email: &str) -> Started {
        self.auth.sign_up(&origin(), self.form(email)).await.unwrap()
    }

    async fn sign_in(&self, email: &str, password: &str) -> Result<Started, AuthError> {
        self.auth.sign_in(&origin(), &address(email), &password.into(), true).await
    }

    async fn is_signed_in(&self, started: &Started) -> bool {
        self.auth.find_session(started.token.expose_secret()).await.unwrap().is_some()
    }

    /// The token in the last mail of a template.
    async fn mailed(&self, template: &str, recipient: &str) -> String {
        self.notifier.deliver().await.unwrap();
        let mail = self.mailer.last(template, recipient).unwrap();
        let marker = if template == "verify-email" { "/auth/verify?token=" } else { "/reset-password/" };
        let (_, rest) = mail.text_body.split_once(marker).unwrap();
        rest.chars().take_while(char::is_ascii_alphanumeric).collect()
    }

    async fn count(&self, query: &str) -> i64 {
        let mut conn = self.test.db.connection().await.unwrap();
        let row: Count =
            diesel::sql_query(format!("SELECT count(*) AS count FROM {query}")).get_result(&mut conn).await.unwrap();
        row.count
    }

    async fn run(&self, statement: &str) {
        self.test.db.connection().await.unwrap().batch_execute(statement).await.unwrap();
    }

    /// What was written to the audit log, sorted: the clock stands still.
    async fn audited(&self) -> Vec<String> {
        let mut conn = self.test.db.connection().await.unwrap();
        let rows: Vec<Value> = diesel::sql_query(
            "SELECT action || ' ' || outcome || ' ' || actor_kind AS value FROM audit_log ORDER BY value",
        )
        .load(&mut conn)
        .await
        .unwrap();
        rows.into_iter().map(|row| row.value).collect()
    }
}

fn address(email: &str) -> Email {
    Email::parse(email).unwrap()
}

fn origin() -> Origin {
    Origin {
        actor: Actor::System("test"),
        client_address: Some([192, 0, 2, 7].into()),
        user_agent: Some("curl/8".to_owned()),
        request_id: None,
    }
}

/// Runs `count` of the same at once.
async fn at_once<R: Send + 'static, F: Future<Output = R> + Send + 'static>(
    count: usize,
    work: impl Fn(usize) -> F,
) -> Vec<R> {
    let tasks: Vec<_> = (0..count).map(|number| tokio::spawn(work(number))).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_makes_a_user_a_tenant_and_a_session() {
    let world = World::new().await;
    let started = world.sign_up("Testuser@Example.com").await;
    let signed_in = world.auth.find_session(started.token.expose_secret()).await.unwrap().unwrap();
    assert_eq!(signed_in, started.signed_in);
    assert_eq!(signed_in.user.email.as_str(), "testuser@example.com");
    assert_eq!(signed_in.tenant_id, TenantId::from(signed_in.user.id));
    assert_eq!(signed_in.session.client_address.as_deref(), Some("192.0.2.7"));
    assert_eq!(signed_in.user.email_verified_at, None);
    assert!(!signed_in.platform_admin);
    assert_eq!(started.token.expose_secret().len(), 32);
    assert_eq!(world.count("tenants WHERE kind = 'personal' AND name = 'Ann'").await, 1);
    assert_eq!(world.audited().await, ["user.sign_up success user"]);
    // Nothing that was stored lets anybody in.
    let token = started.token.expose_secret();
    let stored = format!("sessions s WHERE to_json(s)::text LIKE '%{token}%'");
    assert_eq!(world.count(&stored).await, 0);
    let clear = format!("accounts a WHERE to_json(a)::text LIKE '%{PASSWORD}%'");
    assert_eq!(world.count(&clear).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_sign_ups_with_one_address_one_succeeds() {
    let world = World::new().await;
    let results = at_once(8, |number| {
        let auth = world.auth.clone();
        let form = world.form(if number % 2 == 0 { "ann@example.com" } else { "ANN@example.com" });
        async move { auth.sign_up(&origin(), form).await.map(drop) }
    })
    .await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert_eq!(results.iter().filter(|result| matches!(result, Err(AuthError::EmailTaken))).count(), 7);
    for table in ["users", "tenants", "accounts", "sessions", "one_time_tokens", "mail_outbox", "audit_log"] {
        assert_eq!(world.count(table).await, 1, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_cannot_be_stored_are_refused() {
    let world = World::new().await;
    let sign_up = SignUp { name: "a\0b".to_owned(), ..world.form("ann@example.com") };
    assert!(matches!(world.auth.sign_up(&origin(), sign_up).await, Err(AuthError::InvalidName)));
    let sign_up = SignUp { image: Some("x".repeat(2049)), ..world.form("ann@example.com") };
    assert!(matches!(world.auth.sign_up(&origin(), sign_up).await, Err(AuthError::InvalidImage)));
    let nameless = SignUp { name: String::new(), ..world.form("ann@example.com") };
    world.auth.sign_up(&origin(), nameless).await.unwrap();
    assert_eq!(world.count("tenants WHERE name = 'ann'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_lets_in_and_another_does_not() {
    let world = World::new().await;
    let first = world.sign_up("ann@example.com").await;
    let second = world.sign_in("ANN@example.com", PASSWORD).await.unwrap();
    assert_eq!(second.signed_in.user, first.signed_in.user);
    assert_ne!(second.token.expose_secret(), first.token.expose_secret());
    assert!(matches!(world.sign_in("ann@example.com", "Testpass2").await, Err(AuthError::InvalidCredentials)));
    assert!(matches!(world.sign_in("bob@example.com", PASSWORD).await, Err(AuthError::InvalidCredentials)));
    let want = ["user.sign_in failure system", "user.sign_in success user", "user.sign_up success user"];
    assert_eq!(world.audited().await, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_is_slowed_down_and_the_owner_is_not_locked_out() {
    let world = World::new().await;
    world.sign_up("ann@example.com").await;
    for _ in 0..5 {
        assert!(matches!(world.sign_in("ann@example.com", "Testpass2").await, Err(AuthError::InvalidCredentials)));
    }
    let refused = world.sign_in("ann@example.com", PASSWORD).await;
    let Err(AuthError::TooManyAttempts { retry_after }) = refused else { panic!("{refused:?}") };
    assert_eq!(retry_after, SignedDuration::from_secs(1));
    assert!(world.sign_in("bob@example.com", PASSWORD).await.is_err(), "other accounts are not affected");
    world.clock.advance(retry_after);
    world.sign_in("ann@example.com", PASSWORD).await.unwrap();
    // A success forgets the failures.
    assert!(matches!(world.sign_in("ann@example.com", "Testpass2").await, Err(AuthError::InvalidCredentials)));
    world.sign_in("ann@example.com", PASSWORD).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_at_once_are_counted_too() {
    let world = World::new().await;
    world.sign_up("ann@example.com").await;
    let results = at_once(20, |_| {
        let auth = world.auth.clone();
        async move { auth.sign_in(&origin(), &address("ann@example.com"), &"Testpass2".into(), true).await }
    })
    .await;
    let tried = results.iter().filter(|result| matches!(result, Err(AuthError::InvalidCredentials))).count();
    let refused = results.iter().filter(|result| matches!(result, Err(AuthError::TooManyAttempts { .. }))).count();
    assert_eq!((tried, refused), (5, 15));
    // The time of the failures passes, and so does their weight.
    world.clock.advance(SignedDuration::from_mins(16));
    assert_eq!(world.auth.purge().await.unwrap(), 1);
    assert_eq!(world.count("sign_in_attempts").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_slides_on_with_use_and_ends_without() {
    let world = World::new().await;
    let started = world.sign_up("ann@example.com").await;
    let token = started.token.expose_secret();
    let hour = SignedDuration::from_hours(1);
    world.clock.advance(23 * hour);
    let unchanged = world.auth.refresh_session(token).await.unwrap().unwrap();
    assert_eq!((&unchanged.signed_in, unchanged.extended), (&started.signed_in, false));
    world.clock.advance(hour);
    let refreshed = world.auth.refresh_session(token).await.unwrap().unwrap();
    assert!(refreshed.extended);
    let session = refreshed.signed_in.session;
    assert_eq!(session.expires_at.duration_since(started.signed_in.session.expires_at), 24 * hour);
    assert_eq!(world.auth.find_session(token).await.unwrap().unwrap().session, session);
    world.clock.advance(7 * 24 * hour - SignedDuration::from_secs(1));
    assert!(world.is_signed_in(&started).await);
    world.clock.advance(SignedDuration::from_secs(1));
    assert!(!world.is_signed_in(&started).await);
    assert!(world.auth.refresh_session(token).await.unwrap().is_none());
    assert_eq!(world.count("sessions").await, 1);
    world.auth.purge().await.unwrap();
    assert_eq!(world.count("sessions").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_not_to_be_remembered_ends_after_a_day() {
    let world = World::new().await;
    world.sign_up("ann@example.com").await;
    let short = world.auth.sign_in(&origin(), &address("ann@example.com"), &PASSWORD.into(), false).await.unwrap();
    world.clock.advance(SignedDuration::from_hours(23));
    assert!(world.auth.refresh_session(short.token.expose_secret()).await.unwrap().is_some());
    world.clock.advance(SignedDuration::from_hours(1));
    assert!(!world.is_signed_in(&short).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_ended_by_their_owner_only() {
    let world = World::new().await;
    let ann = world.sign_up("ann@example.com").await;
    let bob = world.sign_up("bob@example.com").await;
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(world.sign_in("ann@example.com", PASSWORD).await.unwrap());
    }
    let listed = world.auth.list_sessions(&ann.signed_in).await.unwrap();
    assert_eq!(listed.len(), 4);
    let bobs = bob.signed_in.session.id.to_string();
    world.auth.revoke_session(&origin(), &ann.signed_in, &bobs).await.unwrap();
    world.auth.revoke_session(&origin(), &ann.signed_in, bob.token.expose_secret()).await.unwrap();
    assert!(world.is_signed_in(&bob).await, "not hers");
    let by_id = others[0].signed_in.session.id.to_string();
    world.auth.revoke_session(&origin(), &ann.signed_in, &by_id).await.unwrap();
    world.auth.revoke_session(&origin(), &ann.signed_in, others[1].token.expose_secret()).await.unwrap();
    assert!(!world.is_signed_in(&others[0]).await && !world.is_signed_in(&others[1]).await);
    assert!(world.is_signed_in(&others[2]).await);
    world.auth.revoke_other_sessions(&origin(), &ann.signed_in).await.unwrap();
    assert!(!world.is_signed_in(&others[2]).await && world.is_signed_in(&ann).await);
    world.auth.revoke_sessions(&origin(), &ann.signed_in).await.unwrap();
    assert!(!world.is_signed_in(&ann).await && world.is_signed_in(&bob).await);
    world.auth.sign_out(&origin(), bob.token.expose_secret()).await.unwrap();
    assert!(!world.is_signed_in(&bob).await);
    world.auth.sign_out(&origin(), bob.token.expose_secret()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_link_works_once_however_often_it_is_followed() {
    let world = World::new().await;
    let started = world.sign_up("ann@example.com").await;
    let token = world.mailed("verify-email", "ann@example.com").await;
    assert_eq!(token.len(), 64);
    let results = at_once(20, |_| {
        let (auth, token) = (world.auth.clone(), token.clone());
        async move { auth.verify_email(&origin(), &token).await.map(drop) }
    })
    .await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(AuthError::InvalidToken))));
    let signed_in = world.auth.find_session(started.token.expose_secret()).await.unwrap().unwrap();
    assert!(signed_in.user.email_verified_at.is_some());
    world.notifier.deliver().await.unwrap();
    assert!(world.mailer.last("welcome", "ann@example.com").is_some());
    let balance = billing(&world.test, &world.clock).balance(signed_in.tenant_id).await.unwrap();
    assert_eq!(balance.balance, Money::from_cents(500), "granted once");
    assert_eq!(world.count("audit_log WHERE action = 'user.verify_email'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_whose_grant_fails_leaves_everything_as_it_was() {
    let world = World::new().await;
    let started = world.sign_up("ann@example.com").await;
    let token = world.mailed("verify-email", "ann@example.com").await;
    world.run("ALTER TABLE signup_grants RENAME TO away").await;
    assert!(world.auth.verify_email(&origin(), &token).await.is_err());
    let user = world.auth.find_session(started.token.expose_secret()).await.unwrap().unwrap().user;
    assert_eq!(user.email_verified_at, None);
    assert_eq!(world.count("mail_outbox WHERE template = 'welcome'").await, 0);
    world.run("ALTER TABLE away RENAME TO signup_grants").await;
    world.auth.verify_email(&origin(), &token).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resent_link_replaces_the_earlier_one_and_ends_after_a_day() {
    let world = World::new().await;
    let ann = world.sign_up("ann@example.com").await;
    let first = world.mailed("verify-email", "ann@example.com").await;
    world.auth.resend_verification(&origin(), &ann.signed_in).await.unwrap();
    let second = world.mailed("verify-email", "ann@example.com").await;
    assert_ne!(first, second);
    assert!(matches!(world.auth.verify_email(&origin(), &first).await, Err(AuthError::InvalidToken)));
    world.clock.advance(SignedDuration::from_hours(24));
    assert!(matches!(world.auth.verify_email(&origin(), &second).await, Err(AuthError::InvalidToken)));
    world.auth.resend_verification(&origin(), &ann.signed_in).await.unwrap();
    let third = world.mailed("verify-email", "ann@example.com").await;
    // A link for one purpose is none for another.
    assert!(!world.auth.is_reset_token_usable(&third).await.unwrap());
    world.auth.verify_email(&origin(), &third).await.unwrap();
    let mails = world.mailer.delivered().len();
    world.auth.resend_verification(&origin(), &ann.signed_in).await.unwrap();
    world.notifier.deliver().await.unwrap();
    assert_eq!(world.mailer.delivered().len(), mails + 1, "the welcome mail, and no link for a verified user");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_reset_works_once_and_ends_all_sessions() {
    let world = World::new().await;
    let started = world.sign_up("ann@example.com").await;
    let redirect = Some("https://app.example/reset?a=1&b=2");
    world.auth.request_password_reset(&origin(), &address("ann@example.com"), redirect).await.unwrap();
    let token = world.mailed("password-reset", "ann@example.com").await;
    let mail = world.mailer.last("password-reset", "ann@example.com").unwrap();
    assert!(
        mail.text_body.contains("?callbackURL=https%3A%2F%2Fapp%2Eexample%2Freset%3Fa%3D1%26b%3D2\n"),
        "{}",
        mail.text_body
    );
    assert!(mail.text_body.contains("https://api.example/api/auth/reset-password/"));
    assert_eq!(token.len(), 24);
    let new = world.auth.password_policy().check("Testpass2".into()).unwrap();
    let results = at_once(20, |_| {
        let (auth, token, new) = (world.auth.clone(), token.clone(), new.clone());
        async move { auth.reset_password(&origin(), &token, &new).await }
    })
    .await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(AuthError::InvalidToken))));
    assert!(!world.is_signed_in(&started).await);
    assert!(matches!(world.sign_in("ann@example.com", PASSWORD).await, Err(AuthError::InvalidCredentials)));
    world.sign_in("ann@example.com", "Testpass2").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_reset_for_a_stranger_sends_nothing_and_an_old_one_does_nothing() {
    let world = World::new().await;
    world.auth.request_password_reset(&origin(), &address("bob@example.com"), None).await.unwrap();
    assert_eq!(world.count("mail_outbox").await, 0);
    world.sign_up("ann@example.com").await;
    world.auth.request_password_reset(&origin(), &address("ann@example.com"), None).await.unwrap();
    let token = world.mailed("password-reset", "ann@example.com").await;
    assert!(world.auth.is_reset_token_usable(&token).await.unwrap());
    world.clock.advance(SignedDuration::from_hours(1));
    let new = world.auth.password_policy().check("Testpass2".into()).unwrap();
    assert!(matches!(world.auth.reset_password(&origin(), &token, &new).await, Err(AuthError::InvalidToken)));
    world.sign_in("ann@example.com", PASSWORD).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn changing_the_password_needs_it_and_ends_the_other_sessions() {
    let world = World::new().await;
    let ann = world.sign_up("ann@example.com").await;
    let other = world.sign_in("ann@example.com", PASSWORD).await.unwrap();
    let policy = world.auth.password_policy();
    let new = policy.check("Testpass2".into()).unwrap();
    let wrong = world.auth.change_password(&origin(), &ann.signed_in, &"Testpass9".into(), &new, false).await;
    assert!(matches!(wrong, Err(AuthError::WrongPassword)));
    assert!(world.is_signed_in(&other).await);
    let changed = world.auth.change_password(&origin(), &ann.signed_in, &PASSWORD.into(), &new, false).await.unwrap();
    assert!(changed.is_none());
    assert!(world.is_signed_in(&ann).await && !world.is_signed_in(&other).await);
    let rotated = world.auth.change_password(&origin(), &ann.signed_in, &"Testpass2".into(), &new, true).await.unwrap();
    assert!(!world.is_signed_in(&ann).await && world.is_signed_in(&rotated.unwrap()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_changes_what_is_given_only() {
    let world = World::new().await;
    let ann = world.sign_up("ann@example.com").await.signed_in;
    let image = ImageChange::Set("https://example.com/a.png");
    let user = world.auth.update_user(&origin(), &ann, None, image).await.unwrap();
    assert_eq!((user.name.as_str(), user.image.as_deref()), ("Ann", Some("https://example.com/a.png")));
    let user = world.auth.update_user(&origin(), &ann, Some("Anna"), ImageChange::Keep).await.unwrap();
    assert_eq!((user.name.as_str(), user.image.is_some()), ("Anna", true));
    let user = world.auth.update_user(&origin(), &ann, None, ImageChange::Remove).await.unwrap();
    assert_eq!((user.name.as_str(), user.image), ("Anna", None));
    let accounts = world.auth.list_accounts(&ann).await.unwrap();
    assert_eq!(accounts.len(), 1);
    assert_eq!((accounts[0].provider.as_str(), &accounts[0].account_id), ("credential", &ann.user.id.to_string()));
    world.auth.verify_password(&ann, &PASSWORD.into()).await.unwrap();
    assert!(matches!(world.auth.verify_password(&ann, &"x".into()).await, Err(AuthError::WrongPassword)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configured_administrator_is_one_once_verified() {
    let world = World::with(|config| config.platform_admin_email = Some(address("root@example.com"))).await;
    let root = world.sign_up("Root@example.com").await;
    let ann = world.sign_up("ann@example.com").await;
    assert!(!root.signed_in.platform_admin);
    for email in ["root@example.com", "ann@example.com"] {
        let token = world.mailed("verify-email", email).await;
        world.auth.verify_email(&origin(), &token).await.unwrap();
    }
    let admin = async |started: &Started| {
        world.auth.find_session(started.token.expose_secret()).await.unwrap().unwrap().platform_admin
    };
    assert!(admin(&root).await && !admin(&ann).await);
    // More are made, but the last one stays.
    world.auth.grant_platform_admin(&origin(), &address("ann@example.com")).await.unwrap();
    world.auth.grant_platform_admin(&origin(), &address("ann@example.com")).await.unwrap();
    assert!(admin(&ann).await);
    world.auth.revoke_platform_admin(&origin(), &address("root@example.com")).await.unwrap();
    assert!(!admin(&root).await);
    let last = world.auth.revoke_platform_admin(&origin(), &address("ann@example.com")).await;
    assert!(matches!(last, Err(AuthError::LastPlatformAdmin)));
    let unknown = world.auth.grant_platform_admin(&origin(), &address("bob@example.com")).await;
    assert!(matches!(unknown, Err(AuthError::EmailUnknown)));
    assert_eq!(world.count("audit_log WHERE action = 'platform_admin.grant'").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_administrators_cannot_remove_each_other() {
    let world = World::new().await;
    for email in ["ann@example.com", "bob@example.com"] {
        world.sign_up(email).await;
        world.auth.grant_platform_admin(&origin(), &address(email)).await.unwrap();
    }
    let results = at_once(2, |number| {
        let auth = world.auth.clone();
        let email = address(["ann@example.com", "bob@example.com"][number]);
        async move { auth.revoke_platform_admin(&origin(), &email).await }
    })
    .await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    assert_eq!(world.count("platform_admins").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_mail_is_sent_the_administrator_is_one_at_once() {
    let world = World::with(|config| {
        config.platform_admin_email = Some(address("root@example.com"));
        config.platform_admin_grant = AdminGrant::AtSignUp;
    })
    .await;
    assert!(world.sign_up("root@example.com").await.signed_in.platform_admin);
    assert!(!world.sign_up("ann@example.com").await.signed_in.platform_admin);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_lets_in_until_it_is_revoked_or_expires() {
    let world = World::new().await;
    let tenant = world.sign_up("ann@example.com").await.signed_in.tenant_id;
    let other = world.sign_up("bob@example.com").await.signed_in.tenant_id;
    let new = world.auth.create_api_key(&origin(), Some(tenant), Scope::Write, "ci", None).await.unwrap();
    let plaintext = new.plaintext.expose_secret();
    assert_eq!(plaintext.len(), "wopr_write_".len() + 32);
    assert!(plaintext.starts_with(&new.key.prefix) && new.key.prefix.len() == "wopr_write_".len() + 4);
    let holder = world.auth.find_api_key(plaintext).await.unwrap().unwrap();
    assert_eq!((holder.id, holder.tenant_id, holder.scope), (new.key.id, Some(tenant), Scope::Write));
    assert!(!holder.platform_admin);
    assert_eq!(world.count(&format!("api_keys k WHERE to_json(k)::text LIKE '%{plaintext}%'")).await, 0);
    for wrong in ["", "wopr_write_", &plaintext[1..], &plaintext.to_lowercase()] {
        assert!(world.auth.find_api_key(wrong).await.unwrap().is_none(), "{wrong}");
    }
    let theirs = world.auth.revoke_api_key(&origin(), Some(other), new.key.id).await;
    assert!(matches!(theirs, Err(AuthError::KeyNotFound(id)) if id == new.key.id));
    assert!(world.auth.find_api_key(plaintext).await.unwrap().is_some());
    let revoked = world.auth.revoke_api_key(&origin(), Some(tenant), new.key.id).await.unwrap();
    world.clock.advance(SignedDuration::from_secs(1));
    assert!(world.auth.find_api_key(plaintext).await.unwrap().is_none());
    let again = world.auth.revoke_api_key(&origin(), Some(tenant), new.key.id).await.unwrap();
    assert_eq!(again.revoked_at, revoked.revoked_at);

    let end = new.key.created_at + SignedDuration::from_hours(1);
    let short = world.auth.create_api_key(&origin(), Some(tenant), Scope::Read, "short", Some(end)).await.unwrap();
    assert!(world.auth.find_api_key(short.plaintext.expose_secret()).await.unwrap().is_some());
    world.clock.advance(SignedDuration::from_hours(1));
    assert!(world.auth.find_api_key(short.plaintext.expose_secret()).await.unwrap().is_none());
    assert_eq!(world.auth.list_api_keys(Some(tenant)).await.unwrap().len(), 2);
    assert_eq!(world.auth.list_api_keys(Some(other)).await.unwrap(), []);
    assert_eq!(world.auth.list_api_keys(None).await.unwrap(), []);
    for label in ["", " ", "a\nb", &"x".repeat(129)] {
        let refused = world.auth.create_api_key(&origin(), Some(tenant), Scope::Read, label, None).await;
        assert!(matches!(refused, Err(AuthError::InvalidLabel)), "{label:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_use_of_a_key_is_written_coarsely() {
    let world = World::new().await;
    let new = world.auth.create_api_key(&origin(), None, Scope::Admin, "root", None).await.unwrap();
    let used = async || {
        let holder = world.auth.find_api_key(new.plaintext.expose_secret()).await.unwrap().unwrap();
        assert!(holder.platform_admin, "an admin key bound to no tenant");
        world.auth.list_api_keys(None).await.unwrap()[0].last_used_at.unwrap()
    };
    let first = used().await;
    world.clock.advance(SignedDuration::from_secs(299));
    assert_eq!(used().await, first);
    world.clock.advance(SignedDuration::from_secs(1));
    assert_eq!(used().await.duration_since(first), Auth::LAST_USED_STEP);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_token_needs_no_row() {
    let token: SecretString = "wopr_admin_0123456789abcdef".into();
    let world = World::with(|config| {
        let name = "FLEET_API_TOKEN_ADMIN".to_owned();
        config.operator_tokens.push(OperatorToken { name, token: token.clone(), scope: Scope::Admin, tenant_id: None });
    })
    .await;
    let holder = world.auth.find_api_key(token.expose_secret()).await.unwrap().unwrap();
    assert!(holder.platform_admin);
    assert_eq!(holder.actor, Actor::Operator("FLEET_API_TOKEN_ADMIN".to_owned()));
    assert_eq!(holder.id.to_string().parse::<ApiKeyId>(), Ok(holder.id));
    assert!(world.auth.find_api_key("wopr_admin_0123456789abcdeg").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttle_counts_each_of_many_at_once() {
    let world = World::new().await;
    let throttle = Throttle::new(world.test.db.clone(), Arc::new(world.clock.clone()));
    let limit = Limit { max: 7, window: SignedDuration::from_mins(1) };
    let results = at_once(20, |_| {
        let throttle = throttle.clone();
        async move { throttle.hit("test", "192.0.2.7", limit).await.unwrap() }
    })
    .await;
    assert_eq!(results.iter().filter(|decision| decision.allowed).count(), 7);
    let mut remaining: Vec<_> = results.iter().filter(|decision| decision.allowed).map(|d| d.remaining).collect();
    remaining.sort_unstable();
    assert_eq!(remaining, [0, 1, 2, 3, 4, 5, 6]);
    assert!(throttle.hit("test", "192.0.2.8", limit).await.unwrap().allowed, "another client");
    assert!(throttle.hit("other", "192.0.2.7", limit).await.unwrap().allowed, "another scope");
    world.clock.advance(SignedDuration::from_secs(59));
    let refused = throttle.hit("test", "192.0.2.7", limit).await.unwrap();
    assert!(!refused.allowed, "the window does not slide");
    world.clock.advance(SignedDuration::from_secs(1));
    let next = throttle.hit("test", "192.0.2.7", limit).await.unwrap();
    assert!(next.allowed && next.remaining == 6 && next.resets_at.duration_since(refused.resets_at) == limit.window);
    assert_eq!(throttle.purge().await.unwrap(), 2);
}
