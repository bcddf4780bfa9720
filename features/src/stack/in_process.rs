//! A platform in this process: the server on a loopback port, with a database, a Stripe stand-in and a mail catcher.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use wopr_api::config::{Config, Sources};
use wopr_api::{Adapters, AppState, app};
use wopr_core::adapters::docker::DockerHost;
use wopr_core::adapters::inference::HttpProbe;
use wopr_core::adapters::models::{KeyedModels, Patience};
use wopr_core::adapters::smtp::{SmtpConfig, SmtpMailer};
use wopr_core::adapters::stripe::StripeProvider;
use wopr_core::gateway::Journal;
use wopr_core::testing::TestDb;
use wopr_local::mail::MailCatcher;
use wopr_local::stripe::{EndpointConfig, StripeStandin};

use super::Stack;
use crate::clock::TravelClock;
use crate::database::Database;
use crate::docker::{Cable, Engine};
use crate::http::ORIGIN;

/// On everything that tests make on an engine, so that what a crash of theirs leaves is found.
const TEST_LABEL: &str = "wopr.test";
/// How often periodic work is done: its own pace is meant for days that last a day.
const PACE: Duration = Duration::from_millis(250);
/// How long a step under way may take to end.
const GRACE: Duration = Duration::from_secs(20);

/// What this process started.
pub(super) struct Platform {
    pub(super) clock: TravelClock,
    /// To the machine's engine.
    pub(super) cable: Option<Cable>,
    stripe: StripeStandin,
    mail: MailCatcher,
    stop: CancellationToken,
    workers: JoinSet<()>,
    journal: PathBuf,
    server: JoinHandle<std::io::Result<()>>,
    /// Ends last: everything above uses it.
    database: TestDb,
}

impl std::fmt::Debug for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Platform").field("clock", &self.clock).finish_non_exhaustive()
    }
}

pub(super) async fn start(engine: Option<&Path>) -> Result<Stack> {
    let docker = match engine {
        Some(socket) => Engine::at(socket).await?,
        None => Engine::connect().await?,
    };
    let clock = TravelClock::start();
    let database = TestDb::create().await;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let api = format!("http://{}", listener.local_addr()?);
    let secret = |prefix: &str| format!("{prefix}{}", uuid::Uuid::new_v4().simple());
    let (stripe_key, webhook_secret) = (secret("sk_test_"), secret("whsec_"));
    let admin_token = secret("operator-");

    let mut stripe = wopr_local::stripe::Config::for_tests(stripe_key.as_str());
    stripe.webhook_endpoints =
        vec![EndpointConfig::all_events(format!("{api}/api/billing/webhook"), webhook_secret.as_str())];
    stripe.retry_first = Duration::from_millis(100);
    stripe.retry_max = Duration::from_secs(1);
    let stripe = StripeStandin::start(stripe, Arc::new(clock.clone())).await?;
    let mail = MailCatcher::start(wopr_local::mail::Config::for_tests(), Arc::new(clock.clone())).await?;
    // Whoever has an engine of their own cuts off the engine itself.
    let cable = if engine.is_some() {
        None
    } else {
        let name = format!("wopr-journey-{}.sock", uuid::Uuid::new_v4().simple());
        Some(Cable::plug_in(std::env::temp_dir().join(name))?)
    };
    let socket = cable.as_ref().map(Cable::path).or(engine).context("no engine")?.display().to_string();

    let journal = std::env::temp_dir().join(format!("wopr-journey-{}.journal", uuid::Uuid::new_v4().simple()));
    let environment = BTreeMap::from(
        [
            ("DATABASE_URL", database.url()),
            ("PLATFORM_SECRET", secret("platform-")),
            ("BETTER_AUTH_SECRET", secret("sessions-")),
            ("BETTER_AUTH_URL", api.clone()),
            ("UI_ORIGIN", ORIGIN.to_owned()),
            // Each person's requests come through a proxy, so that they are counted apart.
            ("TRUSTED_PROXY_IPS", "127.0.0.1".to_owned()),
            ("FLEET_API_TOKEN_ADMIN", admin_token.clone()),
            ("DOCKER_HOST", format!("unix://{socket}")),
            ("STRIPE_SECRET_KEY", stripe_key.clone()),
            ("STRIPE_WEBHOOK_SECRET", webhook_secret.clone()),
            ("STRIPE_API_BASE", stripe.base_url().to_owned()),
            ("STRIPE_CREDIT_PRICE_5", "price_wopr_credits_5".to_owned()),
            ("STRIPE_CREDIT_PRICE_10", "price_wopr_credits_10".to_owned()),
            ("STRIPE_CREDIT_PRICE_25", "price_wopr_credits_25".to_owned()),
            ("STRIPE_CREDIT_PRICE_50", "price_wopr_credits_50".to_owned()),
            ("STRIPE_CREDIT_PRICE_100", "price_wopr_credits_100".to_owned()),
            ("SMTP_URL", format!("smtp://{}", mail.smtp_address())),
            ("GATEWAY_JOURNAL_DIR", journal.display().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    let config = Config::load(&Sources { environment, ..Sources::default() })?;
    let adapters = adapters(&config)?;
    let state = AppState::assemble(Arc::new(config), database.db.clone(), Arc::new(clock.clone()), adapters)?;

    let stop = CancellationToken::new();
    let mut workers = state.workers().paced(PACE).start(&state, &stop);
    let (gateway, stopped) = (state.gateway.clone(), stop.clone());
    workers.spawn(async move { gateway.run(stopped.cancelled_owned()).await });
    let service = app(state).into_make_service_with_connect_info::<SocketAddr>();
    let serving = axum::serve(listener, service).with_graceful_shutdown(stop.clone().cancelled_owned());
    Ok(Stack {
        api,
        stripe: stripe.base_url().to_owned(),
        stripe_key,
        stripe_control_key: None,
        webhook_secret,
        mail: Some(format!("http://{}", mail.http_address())),
        database: Database::Url(database.url()),
        admin_token: Some(admin_token),
        docker,
        own: Some(Platform {
            clock,
            cable,
            stripe,
            mail,
            stop,
            workers,
            journal,
            server: tokio::spawn(serving.into_future()),
            database,
        }),
    })
}

/// The real ones: they lead to the stand-ins.
fn adapters(config: &Config) -> Result<Adapters> {
    let mail = config.mail.as_ref().context("no mail is configured")?;
    let smtp = SmtpConfig { url: mail.smtp_url.clone(), from: mail.from.clone(), reply_to: None };
    let stripe = config.stripe.as_ref().context("no Stripe is configured")?;
    let containers = DockerHost::new(config.docker_host.as_deref(), None)?.with_label(TEST_LABEL, "journeys");
    Ok(Adapters {
        payments: Some(Arc::new(StripeProvider::new(&stripe.secret_key, Some(&stripe.api_base))?)),
        containers: Arc::new(containers.with_own_images_first()),
        mailer: Some(Arc::new(SmtpMailer::new(&smtp)?)),
        cloud: None,
        inference: Arc::new(HttpProbe::new()?),
        models: Vec::new(),
        keyed_models: Arc::new(KeyedModels::new(&config.gateway.tenants, Patience::default())?),
        journal: Journal::open(&config.gateway.journal, config.gateway.sync)?,
        backups: None,
        archive: None,
    })
}

impl Platform {
    /// Stops everything, letting each step that is under way come to its end.
    pub(super) async fn stop(mut self) -> Result<()> {
        self.stop.cancel();
        let ended = tokio::time::timeout(GRACE, async {
            while self.workers.join_next().await.is_some() {}
            (&mut self.server).await
        });
        ended.await.context("the platform did not stop")???;
        self.stripe.shutdown().await;
        self.mail.shutdown().await;
        std::fs::remove_dir_all(&self.journal)?;
        // Other scenarios share this task.
        self.database.close().await;
        Ok(())
    }
}

impl wopr_local::clock::Clock for TravelClock {
    fn now(&self) -> jiff::Timestamp {
        Self::now(self)
    }
}
