//! The same over the network: signatures, checksums and conditional puts, against a server that speaks S3.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::error_handling::HandleError;
use axum::http::StatusCode;
use s3s::auth::SimpleAuth;
use s3s::dto::*;
use s3s::service::S3ServiceBuilder;
use s3s::{S3, S3Request, S3Response, S3Result};
use wopr_backup::keys::Keys;
use wopr_backup::lock::LockSettings;
use wopr_backup::report::PublicAccess;
use wopr_backup::retention::KeepRules;
use wopr_backup::store::{S3Settings, StoreSettings};
use wopr_backup::{BackupError, Backups, ExitCode, ForgetRequest, RestoreRequest, VerifyRequest};

use crate::support::{REPOSITORY, RING, Scratch, assert_same, handle, lock, plant, request};

fn serve(directory: &Path) -> String {
    std::fs::create_dir_all(directory.join("backups")).unwrap();
    listen(wopr_objects::router(directory, "access", "secret").unwrap())
}

/// The double of a service that does one thing.
fn double(service: impl S3) -> String {
    let mut builder = S3ServiceBuilder::new(service);
    builder.set_auth(SimpleAuth::from_single("access", "secret"));
    let service = HandleError::new(builder.build(), async |_: s3s::HttpError| StatusCode::INTERNAL_SERVER_ERROR);
    listen(axum::Router::new().fallback_service(service))
}

fn listen(app: axum::Router) -> String {
    handle().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(axum::serve(listener, app).into_future());
        format!("http://{address}")
    })
}

fn settings(endpoint: &str) -> S3Settings {
    S3Settings {
        endpoint: Some(endpoint.to_owned()),
        region: "us-east-1".to_owned(),
        bucket: "backups".to_owned(),
        access_key: "access".into(),
        secret_key: "secret".into(),
        path_style: true,
        allow_http: true,
        give_up_after: Duration::from_secs(20),
    }
}

fn open(settings: S3Settings, lock: LockSettings) -> Backups {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store = StoreSettings::S3(settings).open().unwrap();
    Backups::new(store, REPOSITORY, Keys::parse(RING).unwrap(), lock, handle()).unwrap()
}

#[test]
fn a_bucket_serves_as_well_as_a_directory() {
    let scratch = Scratch::new();
    let endpoint = serve(&scratch.path("s3"));
    let backups = open(settings(&endpoint), lock());
    let tree = scratch.path("tree");
    plant(&tree, 21);
    assert!(backups.init().unwrap().created);
    let first = backups.save(&request(&tree)).unwrap();
    std::fs::write(tree.join("large"), "less").unwrap();
    let second = backups.save(&request(&tree)).unwrap();
    assert_eq!(second.parent.as_ref(), Some(&first.snapshot));
    let rules = KeepRules { daily: 1, weekly: 0, max_age_days: None };
    let forgotten = backups.forget(&ForgetRequest { kind: "nightly".to_owned(), rules, dry_run: false }).unwrap();
    assert_eq!(forgotten.removed, [first.snapshot]);
    assert_eq!(backups.verify(&VerifyRequest::default()).unwrap().snapshots, [second.snapshot]);
    let target = scratch.path("target");
    backups.restore(&RestoreRequest { snapshot: None, directory: target.clone(), description: None }).unwrap();
    assert_same(&tree, &target);
}

/// A service with one bucket's settings, that checks signatures.
#[derive(Default)]
struct Service {
    /// Whether it knows how to block public access.
    blocks: bool,
    rules: Vec<String>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Service {
    fn note(&self, what: impl Into<String>) {
        self.asked.lock().unwrap().push(what.into());
    }
}

#[async_trait::async_trait]
impl S3 for Service {
    async fn get_bucket_lifecycle_configuration(
        &self,
        _: S3Request<GetBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<GetBucketLifecycleConfigurationOutput>> {
        if self.rules.is_empty() {
            return Err(s3s::s3_error!(NoSuchLifecycleConfiguration));
        }
        let rules = self.rules.iter().map(|id| LifecycleRule {
            abort_incomplete_multipart_upload: None,
            expiration: None,
            filter: None,
            id: Some(id.clone()),
            noncurrent_version_expiration: None,
            noncurrent_version_transitions: None,
            prefix: None,
            status: ExpirationStatus::from_static(ExpirationStatus::ENABLED),
            transitions: None,
        });
        let rules = Some(rules.collect());
        Ok(S3Response::new(GetBucketLifecycleConfigurationOutput { rules, ..Default::default() }))
    }

    async fn put_bucket_lifecycle_configuration(
        &self,
        request: S3Request<PutBucketLifecycleConfigurationInput>,
    ) -> S3Result<S3Response<PutBucketLifecycleConfigurationOutput>> {
        let configuration = request.input.lifecycle_configuration.unwrap();
        let [rule] = &configuration.rules[..] else { panic!("{configuration:?}") };
        assert!(rule.expiration.is_none() && rule.transitions.is_none(), "what is needed stays: {rule:?}");
        let days = rule.noncurrent_version_expiration.as_ref().unwrap().noncurrent_days;
        self.note(format!("lifecycle {days:?}"));
        Ok(S3Response::new(PutBucketLifecycleConfigurationOutput::default()))
    }

    async fn put_bucket_versioning(
        &self,
        request: S3Request<PutBucketVersioningInput>,
    ) -> S3Result<S3Response<PutBucketVersioningOutput>> {
        let status = request.input.versioning_configuration.status.unwrap();
        self.note(format!("versioning {}", status.as_str()));
        Ok(S3Response::new(PutBucketVersioningOutput::default()))
    }

    async fn put_public_access_block(
        &self,
        request: S3Request<PutPublicAccessBlockInput>,
    ) -> S3Result<S3Response<PutPublicAccessBlockOutput>> {
        if !self.blocks {
            return Err(s3s::s3_error!(NotImplemented));
        }
        let access = request.input.public_access_block_configuration;
        let all = [
            access.block_public_acls,
            access.ignore_public_acls,
            access.block_public_policy,
            access.restrict_public_buckets,
        ];
        assert_eq!(all, [Some(true); 4]);
        self.note("blocked");
        Ok(S3Response::new(PutPublicAccessBlockOutput::default()))
    }

    async fn put_bucket_acl(&self, request: S3Request<PutBucketAclInput>) -> S3Result<S3Response<PutBucketAclOutput>> {
        self.note(request.input.acl.unwrap().as_str());
        Ok(S3Response::new(PutBucketAclOutput::default()))
    }
}

#[test]
fn a_bucket_is_made_what_it_has_to_be() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let set_up = |blocks: bool, rules: &[&str], secret: &str| {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let rules = rules.iter().map(|rule| (*rule).to_owned()).collect();
        let endpoint = double(Service { blocks, rules, asked: asked.clone() });
        let settings = S3Settings { secret_key: secret.into(), ..settings(&endpoint) };
        let outcome = handle().block_on(settings.set_up());
        (outcome, asked.lock().unwrap().clone())
    };
    let (report, asked) = set_up(true, &[], "secret");
    let report = report.unwrap();
    assert_eq!((report.undo_days, report.public_access), (30, PublicAccess::Blocked));
    assert_eq!(asked, ["versioning Enabled", "lifecycle Some(30)", "blocked"]);
    let (report, asked) = set_up(false, &["wopr-undo"], "secret");
    assert_eq!(report.unwrap().public_access, PublicAccess::Private);
    assert_eq!(asked, ["versioning Enabled", "lifecycle Some(30)", "private"]);
    let (refused, asked) = set_up(true, &["wopr-undo", "expire-30d"], "secret");
    assert!(refused.unwrap_err().to_string().contains("expire-30d"));
    let (forged, more) = set_up(true, &[], "another");
    assert!(matches!(forged, Err(BackupError::Store { .. })), "{forged:?}");
    assert_eq!((asked, more), (Vec::new(), Vec::new()), "nothing was touched");
}

#[test]
fn of_two_that_create_the_same_lock_one_succeeds() {
    let scratch = Scratch::new();
    let endpoint = serve(&scratch.path("s3"));
    let tree = scratch.path("tree");
    plant(&tree, 22);
    let patient = LockSettings { wait: Duration::from_mins(1), ..lock() };
    let backups = open(settings(&endpoint), patient);
    backups.init().unwrap();
    std::thread::scope(|scope| {
        let saves: Vec<_> = (0..3).map(|_| scope.spawn(|| backups.save(&request(&tree)))).collect();
        for save in saves {
            save.join().unwrap().unwrap();
        }
    });
    assert_eq!(backups.verify(&VerifyRequest { snapshot: None, all: true }).unwrap().snapshots.len(), 3);
}

#[test]
fn a_wrong_key_and_a_server_that_is_not_there_are_the_stores_failures() {
    let scratch = Scratch::new();
    let endpoint = serve(&scratch.path("s3"));
    let wrong = S3Settings { secret_key: "wrong".into(), ..settings(&endpoint) };
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = S3Settings { give_up_after: Duration::from_millis(300), ..settings(&format!("http://{free}")) };
    for settings in [wrong, nobody] {
        let error = open(settings, lock()).init().unwrap_err();
        assert_eq!(error.exit_code(), ExitCode::StoreAway, "{}", error.chain());
        assert!(error.chain().starts_with("bots/bot-1/wopr-locks"), "{}", error.chain());
        assert!(!error.chain().contains("secret"), "{}", error.chain());
    }
    let plain = StoreSettings::S3(S3Settings { allow_http: false, ..settings(&endpoint) }).open();
    assert!(matches!(plain, Err(BackupError::Usage(_))));
}
