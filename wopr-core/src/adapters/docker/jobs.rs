//! Backup jobs as containers beside the bots: no network but the object store's and the database's, no capability but those to read and write
//! other users' files, and their order on standard input.

use std::pin::Pin;

use async_trait::async_trait;
use bollard::container::{AttachContainerResults, LogOutput};
use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType, VolumeCreateRequest};
use bollard::query_parameters::{
    AttachContainerOptions, CreateContainerOptions, InspectContainerOptions, RemoveContainerOptions,
    RemoveVolumeOptions, StartContainerOptions,
};
use futures_util::{Stream, StreamExt as _};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::{DockerHost, failed, optional, unless_absent};
use crate::backup::{BackupRunner, Job, JobError, PLATFORM, RunningJob};
use crate::fleet::HostError;
use crate::fleet::container::{data_volume_name, volume_labels};
use crate::ids::BotId;
use crate::protocol::backup::{GO, Message, Order, Report, RingKey, Sensitive, Store, VOLUME_PATH, Work};

/// The most memory a job may use, in bytes.
const MEMORY_BYTES: i64 = 384 * 1024 * 1024;
const PIDS: i64 = 128;
/// The longest line of a job's that is read, and how much of what it says to people is kept, in bytes.
const MAX_LINE: usize = 1 << 20;
const LAST_WORDS: usize = 2_000;
/// What the job reads and writes: files of users that are none of its own.
const CAPABILITIES: [&str; 5] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "MKNOD"];

/// Where jobs keep what they copy, and what they are run from.
#[derive(Debug, Clone)]
pub struct JobSettings {
    /// The image of the job.
    pub image: String,
    /// The network on which it reaches the store and the database; `None` is the engine's default.
    pub network: Option<String>,
    /// The store.
    pub store: Store,
    /// What passwords of repositories are derived from, the newest first.
    pub keys: Vec<RingKey>,
    /// The database's address, as a job on that network reaches it.
    pub database_url: Sensitive,
}

/// Backup jobs on a Docker engine.
#[derive(Debug)]
pub struct DockerJobs {
    host: DockerHost,
    settings: JobSettings,
}

impl DockerJobs {
    /// Jobs on that engine.
    pub const fn new(host: DockerHost, settings: JobSettings) -> Self {
        Self { host, settings }
    }

    async fn require_volume(&self, name: &str) -> Result<(), JobError> {
        let found = optional(self.host.docker.inspect_volume(name).await)?;
        found.map(drop).ok_or_else(|| JobError::NoVolume(name.to_owned()))
    }

    /// An empty volume, whatever was there.
    async fn renew_volume(&self, job: &Job, name: &str) -> Result<(), HostError> {
        unless_absent(self.host.docker.remove_volume(name, None::<RemoveVolumeOptions>).await)?;
        let labels = Some(self.host.labelled(volume_labels(job.bot_id, job.tenant_id)));
        let request = VolumeCreateRequest { name: Some(name.to_owned()), labels, ..VolumeCreateRequest::default() };
        self.host.docker.create_volume(request).await.map_err(failed)?;
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<(), HostError> {
        let options = RemoveContainerOptions { v: true, force: true, link: false };
        unless_absent(self.host.docker.remove_container(name, Some(options)).await)
    }

    fn describe(&self, subject: String, work: &Work, volume: Option<String>) -> ContainerCreateBody {
        let writes = matches!(work, Work::Restore { .. });
        let mount = |name: String| Mount {
            typ: Some(MountType::VOLUME),
            source: Some(name),
            target: Some(VOLUME_PATH.to_owned()),
            read_only: Some(!writes),
            ..Mount::default()
        };
        let host_config = HostConfig {
            memory: Some(MEMORY_BYTES),
            memory_swap: Some(MEMORY_BYTES),
            pids_limit: Some(PIDS),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            readonly_rootfs: Some(true),
            tmpfs: Some([("/tmp".to_owned(), "rw,noexec,nosuid,nodev,size=64m".to_owned())].into()),
            network_mode: self.settings.network.clone(),
            mounts: Some(volume.map(mount).into_iter().collect()),
            ..HostConfig::default()
        };
        // Not a bot's labels: it is no container of the bot's to the fleet.
        let labels = [("wopr.backup-job".to_owned(), subject)];
        ContainerCreateBody {
            image: Some(self.settings.image.clone()),
            cmd: Some(vec!["job".to_owned()]),
            user: Some("0:0".to_owned()),
            labels: Some(self.host.labelled(labels.into())),
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            open_stdin: Some(true),
            stdin_once: Some(true),
            host_config: Some(host_config),
            ..ContainerCreateBody::default()
        }
    }
}

/// The name of the container of a bot's or the platform's jobs: one at a time.
fn job_name(subject: &str) -> String {
    format!("wopr-backup-{subject}")
}

#[async_trait]
impl BackupRunner for DockerJobs {
    async fn begin(&self, job: &Job) -> Result<Box<dyn RunningJob>, JobError> {
        let subject = job.bot_id.to_string();
        self.remove(&job_name(&subject)).await?;
        let volume = data_volume_name(job.bot_id, job.volume);
        let volume = match job.work {
            Work::Save { .. } => {
                // The engine makes a volume that is not there: that would be an empty backup.
                self.require_volume(&volume).await?;
                Some(volume)
            }
            Work::Restore { .. } => {
                self.renew_volume(job, &volume).await?;
                Some(volume)
            }
            Work::Verify { .. } | Work::Keep { .. } | Work::List { .. } | Work::DumpDatabase { .. } => None,
        };
        let repository = format!("bots/{subject}");
        self.start(subject, self.order(repository, &job.work, None), volume).await
    }

    async fn has_volume(&self, bot: BotId, volume: u32) -> Result<bool, JobError> {
        let found = optional(self.host.docker.inspect_volume(&data_volume_name(bot, volume)).await)?;
        Ok(found.is_some())
    }

    async fn begin_on_platform(&self, work: &Work) -> Result<Box<dyn RunningJob>, JobError> {
        self.remove(&job_name(PLATFORM)).await?;
        let url = matches!(work, Work::DumpDatabase { .. }).then(|| self.settings.database_url.clone());
        self.start(PLATFORM.to_owned(), self.order(PLATFORM.to_owned(), work, url), None).await
    }
}

impl DockerJobs {
    fn order(&self, repository: String, work: &Work, database_url: Option<Sensitive>) -> Order {
        let (store, keys) = (self.settings.store.clone(), self.settings.keys.clone());
        Order { store, repository, keys, database_url, work: work.clone() }
    }

    /// Starts the job's container and gives it its order.
    async fn start(
        &self,
        subject: String,
        order: Order,
        volume: Option<String>,
    ) -> Result<Box<dyn RunningJob>, JobError> {
        let (docker, name) = (&self.host.docker, job_name(&subject));
        let description = self.describe(subject, &order.work, volume);
        let mut order = serde_json::to_vec(&order).map_err(|error| HostError::Refused(error.to_string()))?;
        order.push(b'\n');
        let options = CreateContainerOptions { name: Some(name.clone()), ..CreateContainerOptions::default() };
        docker.create_container(Some(options), description).await.map_err(failed)?;
        let options = AttachContainerOptions {
            stdin: true,
            stdout: true,
            stderr: true,
            stream: true,
            ..AttachContainerOptions::default()
        };
        let AttachContainerResults { output, input } =
            docker.attach_container(&name, Some(options)).await.map_err(failed)?;
        docker.start_container(&name, None::<StartContainerOptions>).await.map_err(failed)?;
        let mut job = DockerJob {
            docker: docker.clone(),
            name,
            input,
            output,
            line: Vec::new(),
            last_words: Vec::new(),
            said: None,
        };
        job.write(&order).await?;
        Ok(Box::new(job))
    }
}

type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, Error>> + Send>>;

struct DockerJob {
    docker: bollard::Docker,
    name: String,
    input: Pin<Box<dyn AsyncWrite + Send>>,
    output: Output,
    /// The part of a line that came.
    line: Vec<u8>,
    last_words: Vec<u8>,
    /// What it said before it was asked.
    said: Option<Message>,
}

impl DockerJob {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), JobError> {
        let written = async {
            self.input.write_all(bytes).await?;
            self.input.flush().await
        };
        let gone = |error: std::io::Error| JobError::Host(HostError::Unreachable(error.to_string()));
        written.await.map_err(gone)
    }

    /// The next thing it says; nothing once it has ended.
    async fn listen(&mut self) -> Result<Option<Message>, JobError> {
        if let Some(said) = self.said.take() {
            return Ok(Some(said));
        }
        loop {
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.line.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|error| {
                    let line = String::from_utf8_lossy(&line);
                    HostError::Refused(format!("a backup job says what it may not, {line:.80}: {error}")).into()
                });
            }
            match self.output.next().await {
                None => return Ok(None),
                Some(Ok(LogOutput::StdErr { message })) => {
                    self.last_words.extend_from_slice(&message);
                    let beyond = self.last_words.len().saturating_sub(LAST_WORDS);
                    self.last_words.drain(..beyond);
                }
                Some(Ok(output)) if self.line.len() < MAX_LINE => self.line.extend_from_slice(output.as_ref()),
                Some(Ok(_)) => return Err(HostError::Refused("a backup job says too much".to_owned()).into()),
                Some(Err(error)) => return Err(failed(error).into()),
            }
        }
    }

    /// What became of one that ended without a word.
    async fn died(&mut self) -> JobError {
        let found = self.docker.inspect_container(&self.name, None::<InspectContainerOptions>).await;
        match found {
            Ok(found) => {
                if let Err(error) = self.remove().await {
                    tracing::info!("{} is left for the next job to remove: {error}", self.name);
                }
                let exit_code = found.state.and_then(|state| state.exit_code).unwrap_or(-1);
                let last_words = String::from_utf8_lossy(&self.last_words).trim().to_owned();
                JobError::Died { exit_code, last_words }
            }
            Err(error) => failed(error).into(),
        }
    }

    async fn remove(&mut self) -> Result<(), HostError> {
        let options = RemoveContainerOptions { v: true, force: true, link: false };
        unless_absent(self.docker.remove_container(&self.name, Some(options)).await)
    }
}

#[async_trait]
impl RunningJob for DockerJob {
    async fn ready(&mut self) -> Result<(), JobError> {
        match self.listen().await? {
            Some(Message::Ready) => Ok(()),
            Some(Message::Failed(failure)) => {
                self.remove().await?;
                Err(JobError::Failed(failure))
            }
            Some(said @ Message::Done(_)) => {
                // It had nothing to wait for.
                self.said = Some(said);
                Ok(())
            }
            None => Err(self.died().await),
        }
    }

    async fn copy(&mut self) -> Result<(), JobError> {
        self.write(format!("{GO}\n").as_bytes()).await?;
        self.ready().await
    }

    async fn finish(mut self: Box<Self>) -> Result<Report, JobError> {
        self.write(format!("{GO}\n").as_bytes()).await?;
        let outcome = loop {
            match self.listen().await? {
                Some(Message::Ready) => {}
                Some(Message::Done(report)) => break Ok(report),
                Some(Message::Failed(failure)) => break Err(JobError::Failed(failure)),
                None => break Err(self.died().await),
            }
        };
        self.remove().await?;
        outcome
    }
}
