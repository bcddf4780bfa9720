use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use wopr_core::auth::{AdminGrant, Auth, AuthConfig, AuthError, Email, EmptyKeyRing, KeyRing, Scope, Throttle};
use wopr_core::backup::{BackupConfig, BackupRunner, Backups, LogArchive};
use wopr_core::billing::payments::{PaymentProvider, Payments, PaymentsConfig, PriceList, RedirectOrigins};
use wopr_core::billing::{Billing, BillingConfig};
use wopr_core::clock::SharedClock;
use wopr_core::db::{Db, DbError};
use wopr_core::fleet::{ContainerHost, Fleet, FleetConfig};
use wopr_core::gateway::{Gateway, GatewayParts, Journal, KeyedParts, KeyedProviders, ModelProvider};
use wopr_core::gpu::{CloudProvider, Gpu, GpuConfig, ServiceProbe, WatchdogPolicy};
use wopr_core::notify::{Mailer, Notifier};
use wopr_core::vault::{Vault, VaultError};

use crate::config::{Config, Environment};
use crate::extract::{Caller, Credential};
use crate::gateway::OwnMachines;
use crate::workers::{Wakers, Workers};

/// Everything a handler can reach. Made once, in `main` or in a test; a clone is another pointer to it, as every request makes
/// some.
#[derive(Clone)]
pub struct AppState(Arc<Services>);

impl std::ops::Deref for AppState {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}

/// What [`AppState`] points to.
pub struct Services {
    /// Users, sessions, keys.
    pub auth: Auth,
    /// Credit.
    pub billing: Billing,
    /// Bought credit.
    pub payments: Payments,
    /// Bots.
    pub fleet: Fleet,
    /// What bots remember and what the database holds, kept elsewhere.
    pub backups: Backups,
    /// GPU nodes.
    pub gpu: Gpu,
    /// Calls to models.
    pub gateway: Gateway,
    /// Queued mails.
    pub notifier: Notifier,
    /// Counters of requests.
    pub throttle: Throttle,
    /// Signs session cookies.
    pub session_keys: KeyRing,
    /// Makes names out of addresses that need not be known.
    pub(crate) pseudonyms: KeyRing,
    /// The database, for readiness only: handlers go through services.
    pub db: Db,
    /// The time.
    pub clock: SharedClock,
    /// The configuration.
    pub config: Arc<Config>,
    /// Whether traffic may be served.
    pub readiness: Arc<Readiness>,
    /// Wakes periodic work early.
    pub wakers: Arc<Wakers>,
}

/// The outside world, chosen in `main` or by a test. What is absent is switched off.
#[derive(Clone)]
pub struct Adapters {
    /// Runs bots.
    pub containers: Arc<dyn ContainerHost>,
    /// Sends mails; without it they stay queued.
    pub mailer: Option<Arc<dyn Mailer>>,
    /// Takes payments; without it nothing can be bought.
    pub payments: Option<Arc<dyn PaymentProvider>>,
    /// Rents machines; without it none is made, rebooted or removed.
    pub cloud: Option<Arc<dyn CloudProvider>>,
    /// Asks services of GPU nodes how they are.
    pub inference: Arc<dyn ServiceProbe>,
    /// Providers of models, besides our own machines.
    pub models: Vec<Arc<dyn ModelProvider>>,
    /// Providers of models that are asked with tenants' own keys.
    pub keyed_models: Arc<dyn KeyedProviders>,
    /// Where charges of calls are written first.
    pub journal: Journal,
    /// Runs backup jobs; without it none are made.
    pub backups: Option<Arc<dyn BackupRunner>>,
    /// The archive of the database's log, if it has one.
    pub archive: Option<Arc<dyn LogArchive>>,
}

/// Why the services cannot be put together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// There is no key to sign with.
    #[error(transparent)]
    KeyRing(#[from] EmptyKeyRing),
    /// There is nothing to seal tenants' keys with.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The administrator's address is none.
    #[error("PLATFORM_ADMIN_EMAIL is not a mail address")]
    AdminEmail,
    /// An address of the user interface cannot be redirected to.
    #[error("PLATFORM_UI_URL or UI_ORIGIN holds an address without a usable origin")]
    RedirectOrigin,
    /// The list of images is none.
    #[error("FLEET_IMAGE_ALLOWLIST has an entry that is neither a registry path nor an image")]
    ImageAllowList,
}

impl AppState {
    /// Puts the services together.
    ///
    /// # Errors
    /// [`AssemblyError`] when the configuration does not allow it.
    pub fn assemble(
        config: Arc<Config>,
        db: Db,
        clock: SharedClock,
        adapters: Adapters,
    ) -> Result<Self, AssemblyError> {
        let billing = Billing::new(db.clone(), clock.clone(), BillingConfig::default());
        let auth = Auth::new(db.clone(), clock.clone(), billing.clone(), auth_config(&config)?);
        let images = config.image_allowlist.join(",").parse().map_err(|_| AssemblyError::ImageAllowList)?;
        let fleet_config = FleetConfig {
            images,
            networks: config.tenant_networks,
            gateway_url: config.gateway.url_for_bots.clone(),
            domain: config.proxy.as_ref().map(|proxy| proxy.domain.clone()),
            key_overlap: jiff::SignedDuration::from_secs(config.key_overlap_seconds.into()),
            ..FleetConfig::default()
        };
        let fleet = Fleet::new(db.clone(), clock.clone(), billing.clone(), adapters.containers, fleet_config);
        let backup_config = config.backup.as_ref().map_or_else(BackupConfig::default, |backup| BackupConfig {
            tier: backup.tier,
            nightly_hour: backup.nightly_hour,
            ..BackupConfig::default()
        });
        let backups = Backups::new(
            db.clone(),
            clock.clone(),
            billing.clone(),
            fleet.clone(),
            adapters.backups,
            adapters.archive,
            backup_config,
        );
        let gpu = Gpu::new(db.clone(), clock.clone(), adapters.cloud, adapters.inference, gpu_config(&config));
        let payments =
            Payments::new(db.clone(), clock.clone(), billing.clone(), adapters.payments, payments_config(&config)?);
        let gateway = Gateway::new(GatewayParts {
            db: db.clone(),
            clock: clock.clone(),
            auth: auth.clone(),
            billing: billing.clone(),
            journal: adapters.journal,
            hosted: adapters.models,
            own: Some(Arc::new(OwnMachines::new(gpu.clone()))),
            keyed: Some(KeyedParts {
                vault: Vault::new(config.platform_secrets.iter().cloned())?,
                providers: adapters.keyed_models,
            }),
            config: config.gateway.config.clone(),
        });
        Ok(Self(Arc::new(Services {
            auth,
            backups,
            gateway,
            billing,
            payments,
            fleet,
            gpu,
            notifier: Notifier::new(db.clone(), clock.clone(), adapters.mailer),
            throttle: Throttle::new(db.clone(), clock.clone()),
            session_keys: KeyRing::new(config.auth_secrets.iter().cloned())?,
            pseudonyms: KeyRing::new(config.platform_secrets.iter().cloned())?,
            db,
            clock,
            config,
            readiness: Arc::default(),
            wakers: Arc::default(),
        })))
    }

    /// Everything that is done again and again.
    pub fn workers(&self) -> Workers {
        const SECOND: Duration = Duration::from_secs(1);
        const MINUTE: Duration = Duration::from_mins(1);
        let mut workers = Workers::default();
        let (auth, throttle) = (self.auth.clone(), self.throttle.clone());
        workers.add("auth.purge", 10 * MINUTE, None, move || {
            let auth = auth.clone();
            async move { auth.purge().await }
        });
        workers.add("throttle.purge", 5 * MINUTE, None, move || {
            let throttle = throttle.clone();
            async move { throttle.purge().await }
        });
        self.run_bots(&mut workers);
        self.back_up(&mut workers);
        let (gpu, wake) = (self.gpu.clone(), self.gpu.waker());
        workers.add("gpu.provision", 5 * SECOND, Some(wake), move || {
            let gpu = gpu.clone();
            async move { gpu.provision_due().await }
        });
        // Each node says itself when it is due.
        let gpu = self.gpu.clone();
        workers.add("gpu.watch", 5 * SECOND, None, move || {
            let gpu = gpu.clone();
            async move { gpu.watch().await }
        });
        let (notifier, wake) = (self.notifier.clone(), Arc::clone(&self.wakers.mail));
        workers.add("notify.deliver", 2 * SECOND, Some(wake), move || {
            let notifier = notifier.clone();
            async move { notifier.deliver().await }
        });
        let notifier = self.notifier.clone();
        workers.add("notify.purge", 60 * MINUTE, None, move || {
            let notifier = notifier.clone();
            async move { notifier.purge().await }
        });
        let billing = self.billing.clone();
        workers.add("billing.expire_holds", 30 * SECOND, None, move || {
            let billing = billing.clone();
            async move { billing.expire_holds().await }
        });
        let billing = self.billing.clone();
        workers.add("billing.release_lost_leases", MINUTE, None, move || {
            let billing = billing.clone();
            async move { billing.release_lost_leases().await }
        });
        self.add_gateway_workers(&mut workers);
        let billing = self.billing.clone();
        workers.add("billing.advance_standing", MINUTE, None, move || {
            let billing = billing.clone();
            async move { billing.advance_standing().await }
        });
        let billing = self.billing.clone();
        workers.add("billing.verify_books", 24 * 60 * MINUTE, None, move || {
            let billing = billing.clone();
            async move { billing.verify_books().await }
        });
        let payments = self.payments.clone();
        workers.add("payments.process_webhooks", 2 * SECOND, None, move || {
            let payments = payments.clone();
            async move { payments.process_webhooks().await }
        });
        let payments = self.payments.clone();
        workers.add("payments.finish_checkouts", 15 * SECOND, None, move || {
            let payments = payments.clone();
            async move { payments.finish_checkouts().await }
        });
        let payments = self.payments.clone();
        workers.add("payments.purge_webhooks", 60 * MINUTE, None, move || {
            let payments = payments.clone();
            async move { payments.purge_webhooks().await }
        });
        let payments = self.payments.clone();
        workers.add("payments.reconcile", 24 * 60 * MINUTE, None, move || {
            let payments = payments.clone();
            async move { payments.reconcile().await }
        });
        workers
    }

    /// What keeps bots as they are wanted.
    fn run_bots(&self, workers: &mut Workers) {
        const SECOND: Duration = Duration::from_secs(1);
        const MINUTE: Duration = Duration::from_mins(1);
        let (fleet, wake) = (self.fleet.clone(), self.fleet.waker());
        workers.add("fleet.advance", SECOND, Some(wake), move || {
            let fleet = fleet.clone();
            async move { fleet.spawn_due().await }
        });
        let fleet = self.fleet.clone();
        workers.watch("fleet.watch", SECOND, move || {
            let fleet = fleet.clone();
            async move { fleet.watch().await }
        });
        let (fleet, wake) = (self.fleet.clone(), self.fleet.sweep_waker());
        workers.add("fleet.reconcile", 15 * SECOND, Some(wake), move || {
            let fleet = fleet.clone();
            async move { fleet.reconcile().await }
        });
        let fleet = self.fleet.clone();
        workers.add("fleet.charge", MINUTE, None, move || {
            let fleet = fleet.clone();
            async move { fleet.charge_due_days().await }
        });
        if self.config.proxy.is_some() {
            let fleet = self.fleet.clone();
            workers.add("fleet.connect_proxy", 2 * SECOND, None, move || {
                let fleet = fleet.clone();
                async move { fleet.connect_proxy().await }
            });
        }
    }

    fn add_gateway_workers(&self, workers: &mut Workers) {
        const MINUTE: Duration = Duration::from_mins(1);
        let gateway = self.gateway.clone();
        workers.add("gateway.maintain", 60 * MINUTE, None, move || {
            let gateway = gateway.clone();
            async move { gateway.maintain().await }
        });
        let gateway = self.gateway.clone();
        workers.add("gateway.reseal_tenant_keys", 60 * MINUTE, None, move || {
            let gateway = gateway.clone();
            async move { gateway.reseal_tenant_keys().await.map(drop) }
        });
        let gateway = self.gateway.clone();
        workers.add("gateway.forget_answers", 10 * MINUTE, None, move || {
            let gateway = gateway.clone();
            async move { gateway.forget_answers().await }
        });
        let gateway = self.gateway.clone();
        workers.add("gateway.tell_spenders", MINUTE, None, move || {
            let gateway = gateway.clone();
            async move { gateway.tell_spenders().await }
        });
    }

    /// What keeps bots' data and the database's elsewhere, and brings bots' back.
    fn back_up(&self, workers: &mut Workers) {
        const SECOND: Duration = Duration::from_secs(1);
        const MINUTE: Duration = Duration::from_mins(1);
        let (backups, wake) = (self.backups.clone(), self.backups.waker());
        workers.add("backup.advance", SECOND, Some(wake), move || {
            let backups = backups.clone();
            async move { backups.advance().await }
        });
        let (backups, wake) = (self.backups.clone(), self.backups.save_waker());
        workers.add("backup.save", MINUTE, Some(wake), move || {
            let backups = backups.clone();
            async move { backups.save_due().await }
        });
        let (backups, wake) = (self.backups.clone(), self.backups.database_waker());
        workers.add("backup.database", MINUTE, Some(wake), move || {
            let backups = backups.clone();
            async move { backups.save_database_due().await }
        });
        let backups = self.backups.clone();
        workers.add("backup.base", MINUTE, None, move || {
            let backups = backups.clone();
            async move { backups.save_base_due().await }
        });
        let backups = self.backups.clone();
        workers.add("backup.tidy", 60 * MINUTE, None, move || {
            let backups = backups.clone();
            async move { backups.tidy().await }
        });
        let backups = self.backups.clone();
        workers.add("backup.charge", 60 * MINUTE, None, move || {
            let backups = backups.clone();
            async move { backups.charge_storage().await }
        });
        let backups = self.backups.clone();
        workers.add("backup.verify", 60 * MINUTE, None, move || {
            let backups = backups.clone();
            async move { backups.verify_due().await }
        });
    }

    /// Who a credential belongs to; `None` when it proves nothing.
    pub(crate) async fn authenticate(&self, credential: &Credential) -> Result<Option<Caller>, AuthError> {
        Ok(match credential {
            // A key for models opens nothing else.
            Credential::Bearer(token) => {
                let holder = self.auth.find_api_key(token).await?;
                holder.filter(|holder| holder.scope != Scope::Inference).map(Caller::from)
            }
            Credential::Session { token, signature } if self.session_keys.verify(token, signature) => {
                self.auth.find_session(token).await?.map(Caller::from)
            }
            Credential::Session { .. } | Credential::Unusable => None,
        })
    }
}

fn payments_config(config: &Config) -> Result<PaymentsConfig, AssemblyError> {
    let addresses = config.ui_origins.iter().map(String::as_str).chain([config.ui_url.as_str()]);
    let redirects = RedirectOrigins::new(addresses.filter(|address| !address.is_empty()));
    let price_of = |dollars| config.credit_prices.get(&u32::try_from(dollars).ok()?).cloned();
    Ok(PaymentsConfig {
        webhook_secrets: config.stripe.as_ref().map(|stripe| stripe.webhook_secrets.clone()).unwrap_or_default(),
        prices: PriceList::new(price_of),
        redirects: redirects.map_err(|_| AssemblyError::RedirectOrigin)?,
        operator_email: config.platform_admin_email.clone(),
    })
}

fn gpu_config(config: &Config) -> GpuConfig {
    GpuConfig {
        masters: config.gpu.masters.clone(),
        operator_email: config.platform_admin_email.clone(),
        watchdog: WatchdogPolicy::default(),
        provisioning: config.gpu.provisioning.clone(),
    }
}

fn auth_config(config: &Config) -> Result<AuthConfig, AssemblyError> {
    let email = config.platform_admin_email.as_deref().map(Email::parse).transpose();
    Ok(AuthConfig {
        platform_admin_email: email.map_err(|_| AssemblyError::AdminEmail)?,
        // A machine that cannot send mail could never verify the address; in production that is no excuse.
        platform_admin_grant: match (config.environment, &config.mail) {
            (Environment::Development, None) => AdminGrant::AtSignUp,
            (Environment::Development | Environment::Production, _) => AdminGrant::WhenVerified,
        },
        operator_tokens: config.operator_tokens.clone(),
        ..AuthConfig::new(&config.base_url, &config.ui_url)
    })
}

/// Whether this process may be sent traffic.
#[derive(Debug, Default)]
pub struct Readiness {
    draining: AtomicBool,
    servable: AtomicBool,
}

/// Why it may not.
#[derive(Debug)]
pub enum NotReady {
    /// It is shutting down.
    Draining,
    /// The database's schema is older than this build.
    SchemaBehind(Vec<String>),
    /// The database cannot be asked.
    Database(DbError),
}

impl Readiness {
    /// From now on the process answers that it is going away.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Asks the database.
    ///
    /// # Errors
    /// Says what is missing.
    pub async fn check(&self, state: &AppState) -> Result<(), NotReady> {
        if self.draining.load(Ordering::Acquire) {
            return Err(NotReady::Draining);
        }
        let result = match state.db.schema_state().await {
            Ok(schema) if schema.is_servable() => Ok(()),
            Ok(schema) => Err(NotReady::SchemaBehind(schema.pending)),
            Err(error) => Err(NotReady::Database(error)),
        };
        // A database that is away says nothing about its schema: what is known stays known.
        if !matches!(result, Err(NotReady::Database(_))) {
            self.servable.store(result.is_ok(), Ordering::Release);
        }
        result
    }

    /// The same for every request, from memory when the last answer was good.
    pub(crate) async fn require(&self, state: &AppState) -> Result<(), NotReady> {
        if self.servable.load(Ordering::Acquire) {
            return Ok(());
        }
        self.check(state).await
    }
}
