//! A database with prices, tenants with credit and keys, and gateways that serve them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use secrecy::ExposeSecret as _;
use tokio::process::{Child, Command};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;
use wopr_core::audit::{Actor, Origin};
use wopr_core::auth::{Auth, AuthConfig, Scope};
use wopr_core::billing::{Billing, BillingConfig, Transfer, TransferKind};
use wopr_core::clock::{Clock as _, SystemClock};
use wopr_core::db::{Db, DbConfig};
use wopr_core::gateway::{Capability, Gateway, GatewayConfig, GatewayParts, Journal, Model, Price, Side, Sync, Unit};
use wopr_core::ids::TenantId;
use wopr_core::money::Money;

use crate::load::{Tally, Target, status};
use crate::upstream::INPUT;

/// What a token costs, in nano-dollars: one that is read, one that is written. No margin is added.
const COST: (i64, i64) = (1_000, 2_000);
/// What each tenant has.
const CREDIT: Money = Money::from_cents(100_000_000);
/// A gateway has to be ready, and to end, within this.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a call is to be charged.
pub(crate) fn charge(tally: Tally) -> i64 {
    let tokens = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    tokens(tally.calls * INPUT) * COST.0 + tokens(tally.output) * COST.1
}

pub(crate) struct World {
    server: String,
    name: String,
    admin: Client,
    client: Client,
    billing: Billing,
    auth: Auth,
    folder: PathBuf,
    /// Whether the server waits for its disk.
    pub(crate) durable: bool,
    pub(crate) version: String,
}

/// A gateway at work, with tenants of its own.
pub(crate) struct Serving {
    pub(crate) target: Target,
    pub(crate) tenants: Vec<TenantId>,
    pub(crate) child: Child,
}

async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("the database cannot be reached")?;
    tokio::spawn(connection);
    Ok(client)
}

fn with_database(url: &str, name: &str) -> String {
    let (address, options) = url.split_once('?').map_or((url, ""), |(address, options)| (address, options));
    let server = address.rfind('/').filter(|at| *at > "postgres://".len()).map_or(address, |at| &address[..at]);
    if options.is_empty() { format!("{server}/{name}") } else { format!("{server}/{name}?{options}") }
}

fn with_server(url: &str, address: SocketAddr) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (authority, path) = rest.split_once('/')?;
    let user = authority.rsplit_once('@').map(|(user, _)| format!("{user}@")).unwrap_or_default();
    Some(format!("{scheme}://{user}{address}/{path}"))
}

fn origin() -> Origin {
    Origin::system("bench")
}

impl World {
    /// Makes a database on that server.
    pub(crate) async fn new(server: &str) -> anyhow::Result<Self> {
        let admin = connect(server).await?;
        let mut durable = true;
        for setting in ["fsync", "synchronous_commit"] {
            let value: String = admin.query_one(&format!("SHOW {setting}"), &[]).await?.get(0);
            durable &= value == "on";
        }
        let version: String = admin.query_one("SHOW server_version", &[]).await?.get(0);
        let name = format!("wopr_bench_{}", Uuid::new_v4().simple());
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        let url = with_database(server, &name);
        let folder = std::env::temp_dir().join(&name);
        let db = Db::new(DbConfig::new(url.clone()))?;
        db.migrate().await?;
        let clock = Arc::new(SystemClock);
        let billing = Billing::new(db.clone(), clock.clone(), BillingConfig::default());
        let config = AuthConfig::new("http://localhost", "http://localhost");
        let auth = Auth::new(db.clone(), clock.clone(), billing.clone(), config);
        let gateway = Gateway::new(GatewayParts {
            db: db.clone(),
            clock,
            auth: auth.clone(),
            billing: billing.clone(),
            journal: Journal::open(&folder.join("set-up"), Sync::Soon)?,
            hosted: Vec::new(),
            own: None,
            keyed: None,
            config: GatewayConfig::default(),
        });
        let model = Model {
            id: "m".to_owned(),
            capability: Capability::ChatCompletions,
            provider: "openrouter".to_owned(),
            provider_model: "vendor/m".to_owned(),
            max_output_tokens: None,
            priority: 1,
        };
        gateway.save_model(&origin(), &model).await?;
        for (unit, nanos) in [(Unit::MillionInputTokens, COST.0), (Unit::MillionOutputTokens, COST.1)] {
            let price = Price {
                id: Uuid::new_v4(),
                capability: Capability::ChatCompletions,
                provider: "openrouter".to_owned(),
                model: "*".to_owned(),
                unit,
                side: Side::Cost,
                nanos: 0,
            };
            gateway.set_price(&origin(), &price, Some(nanos * 1_000_000)).await?;
        }
        let client = connect(&url).await?;
        Ok(Self { server: url, name, admin, client, billing, auth, folder, durable, version })
    }

    /// Where the database's server is.
    pub(crate) async fn server(&self) -> anyhow::Result<SocketAddr> {
        let config: tokio_postgres::Config = self.server.parse()?;
        let Some(tokio_postgres::config::Host::Tcp(host)) = config.get_hosts().first() else {
            bail!("the database must be reached by TCP");
        };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let mut found = tokio::net::lookup_host((host.as_str(), port)).await?;
        found.next().with_context(|| format!("nobody knows where {host} is"))
    }

    /// Has gateways reach the database at another address.
    pub(crate) fn go_through(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        self.server = with_server(&self.server, address).context("the database must be given as a URL")?;
        Ok(())
    }

    async fn tenants(&self, count: usize) -> anyhow::Result<(Vec<TenantId>, Vec<String>)> {
        let (mut tenants, mut keys) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let tenant = TenantId::new(SystemClock.now());
            self.billing.open_account(tenant, "bench").await?;
            let paid = format!("bench:{tenant}");
            let actor = Actor::System("bench");
            self.billing.post(&[Transfer::to_wallet(paid, TransferKind::Purchase, tenant, CREDIT, actor)]).await?;
            let key = self.auth.create_api_key(&origin(), Some(tenant), Scope::Inference, "bench", None).await?;
            keys.push(key.plaintext.expose_secret().to_owned());
            tenants.push(tenant);
        }
        Ok((tenants, keys))
    }

    /// Starts a gateway that asks `upstream`, and waits until it lets calls in.
    pub(crate) async fn serve(
        &self,
        program: &Path,
        sync: &str,
        upstream: SocketAddr,
        tenants: usize,
    ) -> anyhow::Result<Serving> {
        let (tenants, keys) = self.tenants(tenants).await?;
        // Of a port that was free a moment ago nobody else is told.
        let port = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?.port();
        let log = std::fs::File::create(self.folder.join(format!("{sync}.log")))?;
        let secret = || Uuid::new_v4().simple().to_string();
        // It runs in another folder, from which a relative path is another file.
        let program = program.canonicalize().with_context(|| format!("{} is not there", program.display()))?;
        let mut child = Command::new(&program)
            .arg("serve")
            .env_clear()
            .current_dir(&self.folder)
            .env("PORT", port.to_string())
            .env("LOG_LEVEL", "warn")
            .env("DATABASE_URL", &self.server)
            .env("PLATFORM_SECRET", secret() + &secret())
            .env("BETTER_AUTH_SECRET", secret() + &secret())
            .env("BETTER_AUTH_URL", format!("http://localhost:{port}"))
            .env("UI_ORIGIN", "http://localhost:3000")
            .env("GATEWAY_JOURNAL_DIR", self.folder.join(sync))
            .env("GATEWAY_JOURNAL_SYNC", sync)
            .env("GATEWAY_MARGIN_BPS", "0")
            .env("GATEWAY_RATE_LIMIT_LLM", "1000000")
            .env("GATEWAY_CIRCUIT_BREAKER_MAX", "1000000")
            .env("OPENROUTER_API_KEY", "bench")
            .env("OPENROUTER_API_BASE", format!("http://{upstream}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", program.display()))?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let since = Instant::now();
        while !matches!(status(address, "/gateway/health").await, Ok(200)) {
            if let Some(ended) = child.try_wait()? {
                bail!("the gateway ended with {ended}:\n{}", self.log(sync));
            }
            ensure!(since.elapsed() < PATIENCE, "the gateway lets nobody in:\n{}", self.log(sync));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let name = format!("gateway, {sync}");
        Ok(Serving { target: Target { name, address, keys }, tenants, child })
    }

    fn log(&self, sync: &str) -> String {
        std::fs::read_to_string(self.folder.join(format!("{sync}.log"))).unwrap_or_default()
    }

    /// Ends a gateway, and compares what was charged with what its clients were answered.
    pub(crate) async fn settle(&self, serving: Serving, answered: Tally) -> anyhow::Result<()> {
        let Serving { target, tenants, mut child } = serving;
        let pid = child.id().context("the gateway has ended by itself")?;
        Command::new("kill").arg(pid.to_string()).status().await.context("the gateway cannot be told to end")?;
        tokio::time::timeout(PATIENCE, child.wait()).await.context("the gateway does not end")??;
        let (mut spent, mut held) = (0, 0);
        for tenant in &tenants {
            let balance = self.billing.balance(*tenant).await?;
            spent += CREDIT.as_nanos() - balance.balance.as_nanos();
            held += balance.held.as_nanos();
        }
        let ids: Vec<String> = tenants.iter().map(|tenant| tenant.as_uuid().to_string()).collect();
        let row = self
            .client
            .query_one(
                "SELECT count(*),
                        count(*) FILTER (WHERE t.amount_nanos IS DISTINCT FROM g.charge_nanos
                            OR g.charge_nanos <> g.input_units * $2 + g.output_units * $3),
                        coalesce(sum(t.amount_nanos), 0)::bigint
                 FROM wopr.gateway_requests g
                 LEFT JOIN wopr.ledger_transfers t ON t.reference_key = 'usage:req_' || replace(g.id::text, '-', '')
                 WHERE g.tenant_id::text = ANY($1)",
                &[&ids, &COST.0, &COST.1],
            )
            .await?;
        let (calls, wrong, posted): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
        let name = &target.name;
        ensure!(held == 0, "{name}: {held} nano-dollars are still set aside");
        ensure!(wrong == 0, "{name}: of {wrong} calls the ledger's charge is not their usage by the price");
        ensure!(
            calls.cast_unsigned() == answered.calls,
            "{name}: {calls} calls are written down, {} were answered",
            answered.calls
        );
        let due = charge(answered);
        ensure!(spent == due && posted == due, "{name}: {spent} and {posted} nano-dollars were charged, {due} are due");
        Ok(())
    }

    /// Looks through the books, and drops the database.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        let report = self.billing.verify_books().await?;
        ensure!(report.differences.is_empty() && report.residue == Money::ZERO, "the books differ: {report:?}");
        let Self { name, admin, client, billing, auth, folder, .. } = self;
        drop((client, billing, auth));
        admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await?;
        std::fs::remove_dir_all(&folder)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_named_in_the_place_of_another() {
        assert_eq!(with_database("postgres://u:p@h:1/postgres", "b"), "postgres://u:p@h:1/b");
        assert_eq!(with_database("postgres://u:p@h:1/x?sslmode=disable", "b"), "postgres://u:p@h:1/b?sslmode=disable");
        assert_eq!(with_database("postgres://h", "b"), "postgres://h/b");
    }

    #[test]
    fn a_server_is_named_in_the_place_of_another() {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9));
        let url = "postgres://u:p@h:1/b?sslmode=disable";
        assert_eq!(with_server(url, address).unwrap(), "postgres://u:p@127.0.0.1:9/b?sslmode=disable");
        assert_eq!(with_server("postgres://h/b", address).unwrap(), "postgres://127.0.0.1:9/b");
        assert_eq!(with_server("host=h", address), None);
    }

    #[test]
    fn a_charge_is_usage_by_price() {
        assert_eq!(charge(Tally { calls: 2, output: 7 }), 2 * 9 * 1_000 + 7 * 2_000);
    }
}
