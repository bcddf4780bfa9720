//! A double of the part of DigitalOcean's API that is used: the same paths and objects, over machines in memory.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use wopr_core::gpu::{CloudError, CloudProvider as _, Machine, MachineState, NewMachine, Slug};
use wopr_core::testing::MemoryCloud;

pub(crate) const TOKEN: &str = "dop_v1_0123456789";
/// How many entries a page has: few, whatever is asked for, so that pages are turned.
const PAGE: usize = 2;

/// What the double answers before it does anything.
type Scripted = (StatusCode, Option<&'static str>);

#[derive(Clone, Default)]
pub(crate) struct Double {
    pub(crate) cloud: MemoryCloud,
    pub(crate) requests: Arc<AtomicUsize>,
    next: Arc<Mutex<Vec<Scripted>>>,
    /// Leads the reader of a list to somebody else, if it is followed.
    pub(crate) next_page_host: Arc<Mutex<Option<String>>>,
}

impl Double {
    /// Serves on a loopback port until the test ends.
    pub(crate) async fn serve(&self) -> String {
        let router = Router::new()
            .route("/v2/droplets", post(create).get(list))
            .route("/v2/droplets/{id}", get(find).delete(delete))
            .route("/v2/droplets/{id}/actions", post(act))
            .route("/v2/regions", get(regions))
            .route("/v2/sizes", get(sizes))
            .layer(from_fn_with_state(self.clone(), admit))
            .with_state(self.clone());
        let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}")
    }

    /// Answers the next requests so, in this order.
    pub(crate) fn answer(&self, answers: impl IntoIterator<Item = Scripted>) {
        let mut next = self.next.lock().unwrap();
        next.extend(answers);
        next.reverse();
    }

    fn page(&self, name: &str, entries: Vec<Value>, query: &[(String, String)]) -> Value {
        let asked = query.iter().find(|(key, _)| key == "page").map_or(1, |(_, page)| page.parse().unwrap());
        let total = entries.len();
        let page: Vec<Value> = entries.into_iter().skip((asked - 1) * PAGE).take(PAGE).collect();
        let host = self.next_page_host.lock().unwrap().clone().unwrap_or_else(|| "http://127.0.0.1:9".to_owned());
        let links = if asked * PAGE < total {
            json!({ "pages": { "next": format!("{host}/v2/{name}?page={}", asked + 1), "last": "…" } })
        } else {
            json!({})
        };
        json!({ name: page, "links": links, "meta": { "total": total } })
    }
}

async fn admit(State(double): State<Double>, headers: HeaderMap, request: Request, next: Next) -> Response {
    double.requests.fetch_add(1, Ordering::SeqCst);
    let scripted = double.next.lock().unwrap().pop();
    if let Some((status, retry_after)) = scripted {
        let body = json!({ "id": "scripted", "message": "on purpose" }).to_string();
        return match retry_after {
            Some(seconds) => (status, [("retry-after", seconds)], body).into_response(),
            None => (status, body).into_response(),
        };
    }
    let expected = format!("Bearer {TOKEN}");
    if headers.get("authorization").is_none_or(|value| value != expected.as_str()) {
        let body = json!({ "id": "Unauthorized", "message": "Unable to authenticate you" });
        return (StatusCode::UNAUTHORIZED, body.to_string()).into_response();
    }
    next.run(request).await
}

fn droplet(machine: &Machine) -> Value {
    let mut networks = vec![json!({ "ip_address": "10.128.192.124", "netmask": "255.255.0.0", "type": "private" })];
    if let Some(address) = machine.public_address {
        networks.push(json!({ "ip_address": address, "netmask": "255.255.240.0", "type": "public" }));
    }
    let status = match machine.state {
        MachineState::New => "new",
        MachineState::Active => "active",
        MachineState::Off => "off",
    };
    let cents = machine.monthly_cost_cents.unwrap();
    let price: Value = serde_json::from_str(&format!("{}.{:02}", cents / 100, cents % 100)).unwrap();
    json!({
        "id": machine.id.parse::<u64>().unwrap(), "status": status, "locked": false,
        "networks": { "v4": networks, "v6": [] }, "size": { "slug": "gpu-h100x1-80gb", "price_monthly": price },
    })
}

fn refused(error: CloudError) -> Response {
    let (status, message) = match error {
        CloudError::NotFound => (StatusCode::NOT_FOUND, "The resource you requested could not be found.".to_owned()),
        CloudError::Refused(message) => (StatusCode::UNPROCESSABLE_ENTITY, message),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "Server Error".to_owned()),
    };
    (status, json!({ "id": "error", "message": message }).to_string()).into_response()
}

async fn create(State(double): State<Double>, axum::Json(body): axum::Json<Value>) -> Response {
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    let texts = |name: &str| -> Vec<String> {
        body[name].as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned()).collect()
    };
    let new = NewMachine {
        name: text("name"),
        region: Slug::region(&text("region")).unwrap(),
        size: Slug::size(&text("size")).unwrap(),
        image: Slug::new("image", &text("image"), 100).unwrap(),
        ssh_key: texts("ssh_keys").pop(),
        tags: texts("tags"),
        user_data: text("user_data").into(),
    };
    match double.cloud.create_machine(&new).await {
        Ok(machine) => (StatusCode::ACCEPTED, json!({ "droplet": droplet(&machine) }).to_string()).into_response(),
        Err(error) => refused(error),
    }
}

async fn list(State(double): State<Double>, Query(query): Query<Vec<(String, String)>>) -> Response {
    let tag = query.iter().find(|(key, _)| key == "tag_name").map(|(_, tag)| tag.clone()).unwrap();
    match double.cloud.list_tagged(&tag).await {
        Ok(mut machines) => {
            // Newest first, as the real one lists them.
            machines.reverse();
            let droplets = machines.iter().map(droplet).collect();
            double.page("droplets", droplets, &query).to_string().into_response()
        }
        Err(error) => refused(error),
    }
}

async fn find(State(double): State<Double>, Path(id): Path<String>) -> Response {
    match double.cloud.find_machine(&id).await {
        Ok(Some(machine)) => json!({ "droplet": droplet(&machine) }).to_string().into_response(),
        Ok(None) => refused(CloudError::NotFound),
        Err(error) => refused(error),
    }
}

async fn delete(State(double): State<Double>, Path(id): Path<String>) -> Response {
    match double.cloud.find_machine(&id).await {
        Ok(Some(_)) => match double.cloud.delete_machine(&id).await {
            Ok(()) => StatusCode::NO_CONTENT.into_response(),
            Err(error) => refused(error),
        },
        Ok(None) => refused(CloudError::NotFound),
        Err(error) => refused(error),
    }
}

async fn act(State(double): State<Double>, Path(id): Path<String>, axum::Json(body): axum::Json<Value>) -> Response {
    assert_eq!(body, json!({ "type": "reboot" }));
    match double.cloud.reboot_machine(&id).await {
        Ok(()) => {
            let action = json!({ "action": { "id": 1, "status": "in-progress", "type": "reboot" } });
            (StatusCode::CREATED, action.to_string()).into_response()
        }
        Err(error) => refused(error),
    }
}

async fn regions(State(double): State<Double>, Query(query): Query<Vec<(String, String)>>) -> Response {
    match double.cloud.list_regions().await {
        Ok(regions) => {
            let entry = |region: &wopr_core::gpu::CloudRegion| {
                json!({
                    "slug": region.slug, "name": region.name, "available": region.available, "sizes": region.sizes,
                    "features": ["metadata"],
                })
            };
            double.page("regions", regions.iter().map(entry).collect(), &query).to_string().into_response()
        }
        Err(error) => refused(error),
    }
}

async fn sizes(State(double): State<Double>, Query(query): Query<Vec<(String, String)>>) -> Response {
    match double.cloud.list_sizes().await {
        Ok(sizes) => {
            let entry = |size: &wopr_core::gpu::CloudSize| {
                let cents = size.monthly_cost_cents;
                let price: Value = serde_json::from_str(&format!("{}.{:02}", cents / 100, cents % 100)).unwrap();
                json!({
                    "slug": size.slug, "memory": size.memory_mib, "vcpus": size.processors, "disk": size.disk_gib,
                    "price_monthly": price, "price_hourly": 0.1, "available": size.available,
                    "regions": size.regions, "description": size.description, "transfer": 1.0,
                })
            };
            double.page("sizes", sizes.iter().map(entry).collect(), &query).to_string().into_response()
        }
        Err(error) => refused(error),
    }
}
