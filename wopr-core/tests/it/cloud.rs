//! Cloud providers: one contract, kept by the one in memory and by DigitalOcean's client against a double of its API.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::StatusCode;
use wopr_core::adapters::cloud::DigitalOcean;
use wopr_core::gpu::{CloudError, CloudProvider, MachineState, NewMachine, Slug};
use wopr_core::testing::MemoryCloud;

use crate::digital_ocean::{Double, TOKEN};

fn new_machine(name: &str, size: &str) -> NewMachine {
    NewMachine {
        name: name.to_owned(),
        region: Slug::region("nyc1").unwrap(),
        size: Slug::size(size).unwrap(),
        image: Slug::new("image", "gpu-h100x1-base", 100).unwrap(),
        ssh_key: Some("4711".to_owned()),
        tags: vec![format!("wopr-gpu:{name}"), "wopr-gpu-node".to_owned()],
        user_data: "#cloud-config\n".into(),
    }
}

/// What every provider does. `world` is what stands behind it.
async fn contract(provider: &dyn CloudProvider, world: &MemoryCloud) {
    assert_eq!(provider.list_tagged("wopr-gpu:one").await, Ok(vec![]));
    let one = provider.create_machine(&new_machine("one", "gpu-h100x1-80gb")).await.unwrap();
    assert_eq!((one.state, one.public_address, one.monthly_cost_cents), (MachineState::New, None, Some(247_680)));
    assert_eq!(world.user_data(&one.id).as_deref(), Some("#cloud-config\n"));
    assert_eq!(provider.list_tagged("wopr-gpu:one").await, Ok(vec![one.clone()]));
    assert_eq!(provider.find_machine(&one.id).await, Ok(Some(one.clone())));

    // Asked twice, it makes two; oldest first, over several pages.
    for _ in 0..4 {
        provider.create_machine(&new_machine("two", "gpu-h100x1-80gb")).await.unwrap();
    }
    let listed = provider.list_tagged("wopr-gpu:two").await.unwrap();
    let ids: Vec<u64> = listed.iter().map(|machine| machine.id.parse().unwrap()).collect();
    assert!(ids.len() == 4 && ids.is_sorted(), "{ids:?}");
    assert_eq!(provider.list_tagged("wopr-gpu-node").await.unwrap().len(), 5);

    world.boot_all();
    let booted = provider.find_machine(&one.id).await.unwrap().unwrap();
    assert_eq!(booted.state, MachineState::Active);
    assert!(booted.public_address.is_some_and(|address| !address.is_private()), "{booted:?}");

    provider.reboot_machine(&one.id).await.unwrap();
    assert_eq!(world.reboots(), [one.id.as_str()]);
    provider.delete_machine(&one.id).await.unwrap();
    provider.delete_machine(&one.id).await.unwrap();
    assert_eq!(provider.find_machine(&one.id).await, Ok(None));
    assert_eq!(provider.reboot_machine(&one.id).await, Err(CloudError::NotFound));

    let refused = provider.create_machine(&new_machine("three", "no-such-size")).await.unwrap_err();
    assert!(matches!(&refused, CloudError::Refused(message) if message.contains("invalid size")), "{refused:?}");
    assert!(refused.nothing_done() && !refused.is_transient());
    assert_eq!(provider.list_tagged("wopr-gpu:three").await, Ok(vec![]));

    let regions = provider.list_regions().await.unwrap();
    let slugs: Vec<_> = regions.iter().map(|region| (region.slug.as_str(), region.available)).collect();
    assert_eq!(slugs, [("nyc1", true), ("sfo3", true), ("tor1", false)]);
    let sizes = provider.list_sizes().await.unwrap();
    let prices: Vec<_> = sizes.iter().map(|size| (size.slug.as_str(), size.monthly_cost_cents)).collect();
    assert_eq!(prices, [("s-1vcpu-1gb", 600), ("gpu-h100x1-80gb", 247_680), ("gpu-h100x8-640gb", 1_779_648)]);

    world.set_away(true);
    let away = provider.create_machine(&new_machine("four", "gpu-h100x1-80gb")).await.unwrap_err();
    assert!(away.is_transient() && !away.nothing_done(), "{away:?}");
    assert!(provider.find_machine("1").await.is_err() && provider.list_tagged("x").await.is_err());
    assert!(provider.delete_machine("1").await.is_err() && provider.list_sizes().await.is_err());
    world.set_away(false);

    // What was done although its answer was lost is found again.
    world.lose_next_answer();
    assert!(provider.create_machine(&new_machine("five", "gpu-h100x1-80gb")).await.is_err());
    assert_eq!(provider.list_tagged("wopr-gpu:five").await.unwrap().len(), 1);
}

async fn client(double: &Double) -> DigitalOcean {
    let address = double.serve().await;
    let account = DigitalOcean::new(&TOKEN.into(), Some(&address)).unwrap();
    account.with_first_pause(Duration::from_millis(1))
}

#[tokio::test]
async fn the_provider_in_memory_keeps_the_contract() {
    let cloud = MemoryCloud::default();
    contract(&cloud, &cloud).await;
}

#[tokio::test]
async fn digital_ocean_keeps_the_contract() {
    let double = Double::default();
    let account = client(&double).await;
    contract(&account, &double.cloud).await;
}

#[tokio::test]
async fn what_changes_nothing_is_repeated_and_an_order_is_not() {
    let double = Double::default();
    let account = client(&double).await;
    let count = || double.requests.swap(0, Ordering::SeqCst);

    double.answer([(StatusCode::BAD_GATEWAY, None), (StatusCode::TOO_MANY_REQUESTS, Some("0"))]);
    assert_eq!(account.find_machine("1").await, Ok(None));
    assert_eq!(count(), 3);

    double.answer([(StatusCode::SERVICE_UNAVAILABLE, None); 3]);
    assert!(matches!(account.find_machine("1").await, Err(CloudError::Unavailable(_))));
    assert_eq!(count(), 3);

    double.answer([(StatusCode::BAD_GATEWAY, None)]);
    let order = new_machine("one", "gpu-h100x1-80gb");
    assert!(matches!(account.create_machine(&order).await, Err(CloudError::Unavailable(_))));
    assert_eq!((count(), double.cloud.machine_ids().len()), (1, 0));

    // A pause too long to wait for here is the caller's to keep.
    double.answer([(StatusCode::TOO_MANY_REQUESTS, Some("600"))]);
    let wait = CloudError::RateLimited { retry_after: Some(Duration::from_mins(10)) };
    assert_eq!(account.list_regions().await, Err(wait));
    assert_eq!(count(), 1);
}

#[tokio::test]
async fn a_wrong_token_is_said_and_the_right_one_is_shown_to_nobody_else() {
    let double = Double::default();
    let address = double.serve().await;
    let stranger = DigitalOcean::new(&"dop_v1_wrong".into(), Some(&address)).unwrap();
    assert_eq!(stranger.list_regions().await, Err(CloudError::Unauthorized));

    // A list that goes on elsewhere is read on here.
    let thief = Double::default();
    *double.next_page_host.lock().unwrap() = Some(thief.serve().await);
    let account = DigitalOcean::new(&TOKEN.into(), Some(&address)).unwrap();
    assert_eq!(account.list_regions().await.unwrap().len(), 3);
    assert_eq!(thief.requests.load(Ordering::SeqCst), 0);
    assert_eq!(account.find_machine("../account").await, Err(CloudError::NotFound));
}
