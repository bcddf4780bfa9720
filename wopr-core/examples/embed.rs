//! A shop with customers of its own: `cargo run -p wopr-core --example embed -- postgres://user:password@host/shop`
//! `POST /customers` (an address) answers a tenant with the welcome credit, `GET /customers/{tenant}/balance` the credit,
//! `POST /customers/{tenant}/bots` (a name) a bot. It listens on the loopback only and asks nobody who they are.
use std::{error::Error, net::Ipv4Addr, sync::Arc, time::Duration};

use axum::extract::{Path, State};
use axum::{Router, http::StatusCode, routing::get, routing::post};
use wopr_core::adapters::docker::DockerHost;
use wopr_core::billing::{Billing, BillingConfig};
use wopr_core::clock::{Clock as _, SystemClock};
use wopr_core::db::{Db, DbConfig};
use wopr_core::fleet::{Fleet, FleetConfig, NewBot};
use wopr_core::{audit::Origin, ids::TenantId};

type Answer = Result<String, (StatusCode, String)>;
type Shop = State<(Billing, Fleet)>;
fn refused(error: impl Error) -> (StatusCode, String) {
    (StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
}
async fn welcome(State((billing, _)): Shop, email: String) -> Answer {
    let tenant = TenantId::new(SystemClock.now());
    billing.open_account(tenant, &email).await.map_err(refused)?;
    billing.grant_signup(tenant, &email).await.map_err(refused)?;
    Ok(tenant.to_string())
}
async fn balance(State((billing, _)): Shop, Path(tenant): Path<TenantId>) -> Answer {
    Ok(billing.balance(tenant).await.map_err(refused)?.available.to_string())
}
async fn create_bot(State((_, fleet)): Shop, Path(tenant): Path<TenantId>, name: String) -> Answer {
    let new = NewBot::new(name, "ghcr.io/wopr-network/wopr:latest");
    Ok(fleet.create(&Origin::system("shop"), tenant, new).await.map_err(refused)?.id.to_string())
}
/// What goes on by itself. Every step may be repeated, and done by several processes at once.
async fn work(billing: Billing, fleet: Fleet) {
    loop {
        let round = async {
            fleet.reconcile().await?; // what crashed or vanished, and what may run again
            fleet.charge_due_days().await?;
            billing.advance_standing().await?;
            Ok::<_, Box<dyn Error>>(fleet.spawn_due().await?)
        };
        round.await.map_or_else(|error| eprintln!("{error}; the next round tries again"), drop);
        tokio::time::timeout(Duration::from_secs(1), fleet.waker().notified()).await.ok();
    }
}
#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).ok_or("usage: embed postgres://user:password@host/database")?;
    let db = Db::new(DbConfig { schema: "shop_wopr".to_owned(), ..DbConfig::new(url) })?; // beside the shop's own
    db.migrate().await?;
    let (host, clock) = (Arc::new(DockerHost::new(None, None)?), Arc::new(SystemClock));
    let billing = Billing::new(db.clone(), clock.clone(), BillingConfig::default());
    let fleet = Fleet::new(db, clock, billing.clone(), host, FleetConfig::default());
    let (credit, bots) = (get(balance), post(create_bot));
    let routes = Router::new().route("/customers", post(welcome)).route("/customers/{tenant}/balance", credit);
    let routes = routes.route("/customers/{tenant}/bots", bots).with_state((billing.clone(), fleet.clone()));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 8080)).await?;
    tokio::select! { () = work(billing, fleet) => Ok(()), served = axum::serve(listener, routes).into_future() => Ok(served?) }
}
