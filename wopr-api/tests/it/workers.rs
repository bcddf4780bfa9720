use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use wopr_api::workers::Workers;
use wopr_core::db::Leases;

use crate::app::TestApp;

const HOUR: Duration = Duration::from_hours(1);
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_step_is_woken_early_and_survives_its_failures() {
    let app = TestApp::start().await;
    let (wake, stop) = (Arc::new(Notify::new()), CancellationToken::new());
    let (runs, mut seen) = watch::channel(0_u32);
    let runs = Arc::new(runs);
    let mut workers = Workers::default();
    let pace = HOUR;
    workers.add("test", pace, Some(Arc::clone(&wake)), move || {
        let runs = Arc::clone(&runs);
        async move {
            runs.send_modify(|count| *count += 1);
            let count = *runs.borrow();
            assert_ne!(count, 2, "a panic on purpose");
            if count == 1 { Err("a failure on purpose") } else { Ok(()) }
        }
    });
    let mut running = workers.start(&app.state, &stop);
    for wanted in 1..=4 {
        tokio::time::timeout(PATIENCE, seen.wait_for(|count| *count >= wanted)).await.unwrap().unwrap();
        wake.notify_one();
    }
    stop.cancel();
    tokio::time::timeout(PATIENCE, running.join_next()).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_replicas_one_runs_a_step_at_a_time() {
    let app = TestApp::start().await;
    let stop = CancellationToken::new();
    let (inside, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (done, mut seen) = watch::channel(0_u32);
    let done = Arc::new(done);
    let mut running = Vec::new();
    for _ in 0..2 {
        let (inside, most, done) = (Arc::clone(&inside), Arc::clone(&most), Arc::clone(&done));
        let mut workers = Workers::default();
        workers.add("test", Duration::from_millis(1), None, move || {
            let (inside, most, done) = (Arc::clone(&inside), Arc::clone(&most), Arc::clone(&done));
            async move {
                most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(2)).await;
                inside.fetch_sub(1, Ordering::SeqCst);
                done.send_modify(|count| *count += 1);
                Ok::<_, std::io::Error>(())
            }
        });
        running.push(workers.start(&app.state, &stop));
    }
    tokio::time::timeout(PATIENCE, seen.wait_for(|count| *count >= 50)).await.unwrap().unwrap();
    stop.cancel();
    for mut replica in running {
        while replica.join_next().await.is_some() {}
    }
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

/// A killed process keeps its lease until the database notices, which is after its successor has started.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_lease_was_taken_at_the_start_does_not_wait_for_its_next_day() {
    let app = TestApp::start().await;
    let before = Leases::new(app.db.db.clone());
    assert!(before.try_acquire("test").await.unwrap());
    let (stop, (runs, mut seen)) = (CancellationToken::new(), watch::channel(0_u32));
    let runs = Arc::new(runs);
    let mut workers = Workers::default();
    workers.add("test", 24 * HOUR, None, move || {
        let runs = Arc::clone(&runs);
        async move {
            runs.send_modify(|count| *count += 1);
            Ok::<_, std::io::Error>(())
        }
    });
    let mut running = workers.start(&app.state, &stop);
    // It is watched for a while that it does not run; it begins with the first attempt, which is made at once.
    tokio::time::timeout(Duration::from_secs(1), seen.wait_for(|count| *count > 0)).await.unwrap_err();
    before.release("test").await.unwrap();
    tokio::time::timeout(PATIENCE, seen.wait_for(|count| *count > 0)).await.unwrap().unwrap();
    stop.cancel();
    while running.join_next().await.is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_watched_is_watched_again_when_it_ends_and_left_when_the_workers_stop() {
    let app = TestApp::start().await;
    let stop = CancellationToken::new();
    let (begun, mut seen) = watch::channel(0_u32);
    let begun = Arc::new(begun);
    let mut workers = Workers::default();
    workers.watch("test", Duration::from_millis(1), move || {
        let begun = Arc::clone(&begun);
        async move {
            begun.send_modify(|count| *count += 1);
            let count = *begun.borrow();
            match count {
                1 => Ok(()),
                2 => Err("a failure on purpose"),
                _ => std::future::pending().await,
            }
        }
    });
    let mut running = workers.start(&app.state, &stop);
    tokio::time::timeout(PATIENCE, seen.wait_for(|count| *count >= 3)).await.unwrap().unwrap();
    stop.cancel();
    tokio::time::timeout(PATIENCE, running.join_next()).await.unwrap().unwrap().unwrap();
    // Its lease is free again.
    assert!(wopr_core::db::Leases::new(app.state.db.clone()).try_acquire("test").await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_on_a_schema_that_is_behind() {
    let app = TestApp::start().await;
    app.db.db.revert_all().await.unwrap();
    let (ran, stop) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
    let (counter, mut workers) = (Arc::clone(&ran), Workers::default());
    workers.add("test", Duration::from_millis(1), None, move || {
        counter.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, std::io::Error>(()) }
    });
    let mut running = workers.start(&app.state, &stop);
    // It has looked at the schema by the time that a later look answers.
    for _ in 0..20 {
        assert!(app.state.readiness.check(&app.state).await.is_err());
    }
    assert_eq!(ran.load(Ordering::SeqCst), 0);
    app.db.db.migrate().await.unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while ran.load(Ordering::SeqCst) == 0 {
        assert!(tokio::time::Instant::now() < deadline, "the step never ran");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    while running.join_next().await.is_some() {}
}
