//! What a bucket for backups has to be like: nobody's but its owner's, and what is overwritten or removed in it can be had
//! again for a while, so that neither a slip nor a stolen key of a job is the end of a backup.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use md5::{Digest as _, Md5};
use object_store::aws::{AwsAuthorizer, AwsCredential};
use object_store::client::HttpRequestBody;
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde::Deserialize;

use crate::error::BackupError;
use crate::report::{BucketReport, PublicAccess};
use crate::store::S3Settings;

/// How long what was overwritten or removed is kept.
const UNDO_DAYS: u32 = 30;
/// How long an upload may be under way. We make none in parts.
const UPLOAD_DAYS: u32 = 7;
/// Our only rule.
const RULE: &str = "wopr-undo";
const VERSIONING: &str = "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Status>Enabled</Status></VersioningConfiguration>";
const ACCESS: &str = "<PublicAccessBlockConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><BlockPublicAcls>true</BlockPublicAcls><IgnorePublicAcls>true</IgnorePublicAcls><BlockPublicPolicy>true</BlockPublicPolicy><RestrictPublicBuckets>true</RestrictPublicBuckets></PublicAccessBlockConfiguration>";

#[derive(Deserialize)]
struct Lifecycle {
    #[serde(rename = "Rule", default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    #[serde(rename = "ID", default)]
    id: String,
}

impl S3Settings {
    /// Makes the bucket private and versioned, with one lifecycle rule: what was overwritten or removed goes after 30 days, and
    /// uploads that were never finished after 7. Nothing else expires: what is still needed only the engine knows. May be
    /// repeated.
    ///
    /// # Errors
    /// [`BackupError::Usage`] when the bucket has lifecycle rules of somebody else's; [`BackupError::Store`] when the service does not answer, or refuses. What was set before that stays set.
    pub async fn set_up(&self) -> Result<BucketReport, BackupError> {
        let client =
            reqwest::Client::builder().timeout(self.give_up_after).build().map_err(|error| self.failed(error))?;
        let ask = async |method: Method, what: &str, body: String, header: Option<(&'static str, &'static str)>| {
            let request = self.request(method, what, body, header)?;
            let response = client.execute(request).await.map_err(|error| self.failed(error))?;
            let status = response.status();
            let text = response.text().await.map_err(|error| self.failed(error))?;
            Ok::<_, BackupError>((status, text))
        };
        let done = |what: &str, (status, text): (StatusCode, String)| {
            if status.is_success() { Ok(()) } else { Err(self.failed(format!("{what}: {status}: {text}"))) }
        };
        let (status, text) = ask(Method::GET, "lifecycle", String::new(), None).await?;
        if status != StatusCode::NOT_FOUND {
            done("lifecycle", (status, text.clone()))?;
            let found: Lifecycle = quick_xml::de::from_str(&text).map_err(|error| self.failed(error))?;
            let strange: Vec<String> = found.rules.into_iter().map(|rule| rule.id).filter(|id| id != RULE).collect();
            if !strange.is_empty() {
                return Err(BackupError::Usage(format!(
                    "{} has lifecycle rules of somebody else's, which may remove what is needed: {strange:?}",
                    self.bucket
                )));
            }
        }
        done("versioning", ask(Method::PUT, "versioning", VERSIONING.to_owned(), None).await?)?;
        done("lifecycle", ask(Method::PUT, "lifecycle", lifecycle(), None).await?)?;
        let blocked = ask(Method::PUT, "publicAccessBlock", ACCESS.to_owned(), None).await?;
        // Not every service that speaks S3 knows that one.
        let public_access = if blocked.0.is_success() {
            PublicAccess::Blocked
        } else {
            tracing::info!("publicAccessBlock: {}: {}", blocked.0, blocked.1);
            done("acl", ask(Method::PUT, "acl", String::new(), Some(("x-amz-acl", "private"))).await?)?;
            PublicAccess::Private
        };
        Ok(BucketReport { bucket: self.bucket.clone(), undo_days: UNDO_DAYS, public_access })
    }

    fn request(
        &self,
        method: Method,
        what: &str,
        body: String,
        header: Option<(&'static str, &'static str)>,
    ) -> Result<reqwest::Request, BackupError> {
        let body = Bytes::from(body);
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("{}?{what}", self.url()))
            .header("content-md5", BASE64_STANDARD.encode(Md5::digest(&body)));
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let mut request =
            request.body(HttpRequestBody::from(body.clone())).map_err(|error| BackupError::Usage(error.to_string()))?;
        let credential = AwsCredential {
            key_id: self.access_key.expose_secret().to_owned(),
            secret_key: self.secret_key.expose_secret().to_owned(),
            token: None,
        };
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .try_authorize(&mut request, None)
            .map_err(|source| BackupError::Store { object: self.bucket.clone(), source })?;
        reqwest::Request::try_from(request.map(|_| body)).map_err(|error| self.failed(error))
    }

    /// The bucket's address. Without path style an endpoint has its name already.
    fn url(&self) -> String {
        let Self { region, bucket, .. } = self;
        match (&self.endpoint, self.path_style) {
            (Some(endpoint), true) => format!("{}/{bucket}", endpoint.trim_end_matches('/')),
            (Some(endpoint), false) => format!("{}/", endpoint.trim_end_matches('/')),
            (None, true) => format!("https://s3.{region}.amazonaws.com/{bucket}"),
            (None, false) => format!("https://{bucket}.s3.{region}.amazonaws.com/"),
        }
    }

    fn failed(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BackupError {
        let source = object_store::Error::Generic { store: "S3", source: error.into() };
        BackupError::Store { object: self.bucket.clone(), source }
    }
}

fn lifecycle() -> String {
    format!(
        "<LifecycleConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Rule><ID>{RULE}</ID>\
         <Filter><Prefix></Prefix></Filter><Status>Enabled</Status>\
         <NoncurrentVersionExpiration><NoncurrentDays>{UNDO_DAYS}</NoncurrentDays></NoncurrentVersionExpiration>\
         <AbortIncompleteMultipartUpload><DaysAfterInitiation>{UPLOAD_DAYS}</DaysAfterInitiation>\
         </AbortIncompleteMultipartUpload></Rule></LifecycleConfiguration>"
    )
}
