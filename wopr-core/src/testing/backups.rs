//! Backup jobs in memory, on the volumes of a [`MemoryHost`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::Notify;

use super::host::MemoryHost;
use crate::backup::{BackupRunner, Job, JobError, RunningJob};
use crate::fleet::ContainerState;
use crate::fleet::container::data_volume_name;
use crate::ids::BotId;
use crate::protocol::backup::{Failure, FailureKind, Listed, Report, Work};

/// When a job goes wrong.
#[derive(Debug, Clone)]
pub enum JobFault {
    /// It does not begin.
    AtBegin(JobError),
    /// It does nothing and says why.
    AtEnd(JobError),
    /// It does what was asked, and nobody ever hears of it.
    HangAfter,
    /// A save copies what the bot has while it stands still, and is never heard of again.
    HangStill,
    /// It goes on when it is told to: a save when it has copied what the bot has while it stands still, everything else when
    /// it has done what was asked.
    Until(Arc<Notify>),
}

#[derive(Debug)]
struct Saved {
    content: Vec<u8>,
    description: String,
}

#[derive(Debug, Default)]
struct State {
    repositories: BTreeMap<BotId, BTreeMap<String, Saved>>,
    /// The platform's: by set, its tables by group.
    sets: BTreeMap<String, BTreeMap<String, BTreeSet<String>>>,
    damaged: bool,
    made: u64,
    faults: VecDeque<Option<JobFault>>,
    jobs: Vec<&'static str>,
    moving: usize,
    hanging: usize,
}

/// Backup jobs in memory. Clones share their state.
#[derive(Debug, Clone)]
pub struct MemoryBackups {
    host: Arc<MemoryHost>,
    state: Arc<Mutex<State>>,
}

impl MemoryBackups {
    /// Jobs on the volumes of this engine.
    pub fn new(host: Arc<MemoryHost>) -> Self {
        Self { host, state: Arc::default() }
    }

    /// Makes the next job go wrong; several queue up, and `None` is a job that does not.
    pub fn fault(&self, fault: Option<JobFault>) {
        self.lock().faults.push_back(fault);
    }

    /// Changes a byte of every snapshot of a bot.
    pub fn damage(&self, bot: BotId) {
        for saved in self.lock().repositories.entry(bot).or_default().values_mut() {
            saved.content.push(b'!');
        }
    }

    /// Loses one snapshot of a bot.
    pub fn lose_snapshot(&self, bot: BotId, name: &str) {
        self.lock().repositories.entry(bot).or_default().remove(name);
    }

    /// Changes a byte of every set of the database.
    pub fn damage_sets(&self) {
        self.lock().damaged = true;
    }

    /// The sets in the platform's repository: of each, the tables by group.
    pub fn sets(&self) -> BTreeMap<String, BTreeMap<String, BTreeSet<String>>> {
        self.lock().sets.clone()
    }

    /// The names of the snapshots in a bot's repository.
    pub fn snapshots_of(&self, bot: BotId) -> Vec<String> {
        self.lock().repositories.get(&bot).map(|all| all.keys().cloned().collect()).unwrap_or_default()
    }

    /// The jobs so far, by the words for their work.
    pub fn jobs(&self) -> Vec<&'static str> {
        self.lock().jobs.clone()
    }

    /// How many saves copied a volume whose bot was running.
    pub fn saved_while_moving(&self) -> usize {
        self.lock().moving
    }

    /// Whether a job hangs.
    pub fn is_hanging(&self) -> bool {
        self.lock().hanging > 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn perform(&self, job: &Job) -> Result<Report, JobError> {
        let volume = data_volume_name(job.bot_id, job.volume);
        match &job.work {
            Work::Save { .. } => Err(failed(FailureKind::BadOrder, "nobody stood still")),
            Work::Restore { snapshot } => {
                let content = self.read(job.bot_id, snapshot)?;
                let bytes = content.len() as u64;
                self.host.fill_volume(&volume, job.bot_id, job.tenant_id, content);
                Ok(Report { entries: 1, bytes, ..Report::default() })
            }
            Work::Verify { snapshot } => {
                let bytes = self.read(job.bot_id, snapshot)?.len() as u64;
                Ok(Report { entries: 1, bytes, ..Report::default() })
            }
            Work::DumpDatabase { .. } => Err(failed(FailureKind::BadOrder, "a bot is no database")),
            Work::List { known } => {
                let state = self.lock();
                let all = state.repositories.get(&job.bot_id);
                let all = all.ok_or_else(|| failed(FailureKind::NoSnapshot, "no such repository"))?;
                let unknown = all.iter().rev().filter(|(name, _)| !known.contains(name));
                let listed = unknown.map(|(name, saved)| {
                    let bytes = saved.content.len() as u64;
                    listed(name, bytes, Some(saved.description.clone()))
                });
                let missing = known.iter().filter(|name| !all.contains_key(*name)).cloned();
                Ok(Report { listed: listed.collect(), missing: missing.collect(), ..Report::default() })
            }
            Work::Keep { snapshots } => {
                let mut state = self.lock();
                state.repositories.entry(job.bot_id).or_default().retain(|name, _| snapshots.contains(name));
                Ok(Report::default())
            }
        }
    }

    fn copy(&self, job: &Job, description: &str) -> Result<Saved, JobError> {
        let volume = data_volume_name(job.bot_id, job.volume);
        let content = self.host.read_volume(&volume).ok_or(JobError::NoVolume(volume))?;
        let moving = self.host.state_of(job.bot_id) == Some(ContainerState::Running);
        self.lock().moving += usize::from(moving);
        Ok(Saved { content, description: description.to_owned() })
    }

    fn keep(&self, bot: BotId, copy: Saved) -> Report {
        let mut state = self.lock();
        state.made += 1;
        let name = format!("{:08x}", state.made);
        let bytes = copy.content.len() as u64;
        state.repositories.entry(bot).or_default().insert(name.clone(), copy);
        let stored_bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        Report { snapshot: Some(name), entries: 1, bytes, stored_bytes, ..Report::default() }
    }

    async fn hang_until(&self, told: &Notify) {
        self.lock().hanging += 1;
        told.notified().await;
        self.lock().hanging -= 1;
    }

    async fn hang(&self) -> Report {
        self.lock().hanging += 1;
        std::future::pending().await
    }

    fn start(&self, subject: Subject) -> Result<Box<dyn RunningJob>, JobError> {
        let (Subject::Bot(Job { work, .. }) | Subject::Platform(work)) = &subject;
        let fault = {
            let mut state = self.lock();
            state.jobs.push(work.as_str());
            state.faults.pop_front().flatten()
        };
        if let Some(JobFault::AtBegin(error)) = fault {
            return Err(error);
        }
        Ok(Box::new(MemoryJob { backups: self.clone(), subject, fault, copy: None }))
    }

    fn perform_on_platform(&self, work: &Work) -> Result<Report, JobError> {
        let mut state = self.lock();
        match work {
            Work::DumpDatabase { groups } => {
                state.made += 1;
                let name = format!("{:08x}", state.made);
                let entries = groups.values().map(|tables| tables.len() as u64).sum();
                state.sets.insert(name.clone(), groups.clone());
                Ok(Report {
                    snapshot: Some(name),
                    entries,
                    bytes: 100 * entries,
                    stored_bytes: 10,
                    ..Report::default()
                })
            }
            Work::Verify { snapshot } => match state.sets.get(snapshot) {
                None => Err(failed(FailureKind::NoSnapshot, "no such set")),
                Some(_) if state.damaged => Err(failed(FailureKind::Damaged, "a dump is not what was saved")),
                Some(_) => Ok(Report::default()),
            },
            Work::Keep { snapshots } => {
                state.sets.retain(|name, _| snapshots.contains(name));
                Ok(Report::default())
            }
            Work::List { known } => {
                let unknown = state.sets.keys().rev().filter(|name| !known.contains(name));
                let listed = unknown.map(|name| listed(name, 100, None)).collect();
                let missing = known.iter().filter(|name| !state.sets.contains_key(*name)).cloned();
                Ok(Report { listed, missing: missing.collect(), ..Report::default() })
            }
            Work::Save { .. } | Work::Restore { .. } => Err(failed(FailureKind::BadOrder, "it has no volume")),
        }
    }

    fn read(&self, bot: BotId, snapshot: &str) -> Result<Vec<u8>, JobError> {
        let found = self.lock().repositories.get(&bot).and_then(|all| Some(all.get(snapshot)?.content.clone()));
        let content = found.ok_or_else(|| failed(FailureKind::NoSnapshot, "no such snapshot"))?;
        let damaged = content.last() == Some(&b'!');
        if damaged { Err(failed(FailureKind::Damaged, "a file is not what was saved")) } else { Ok(content) }
    }
}

fn listed(snapshot: &str, bytes: u64, description: Option<String>) -> Listed {
    let (snapshot, taken_at) = (snapshot.to_owned(), Timestamp::UNIX_EPOCH);
    Listed { snapshot, taken_at, bytes, stored_bytes: bytes, description }
}

fn failed(kind: FailureKind, detail: &str) -> JobError {
    JobError::Failed(Failure { kind, detail: detail.to_owned() })
}

#[derive(Debug, Clone)]
enum Subject {
    Bot(Job),
    Platform(Work),
}

struct MemoryJob {
    backups: MemoryBackups,
    subject: Subject,
    fault: Option<JobFault>,
    /// What a save has copied.
    copy: Option<Saved>,
}

#[async_trait]
impl BackupRunner for MemoryBackups {
    async fn begin(&self, job: &Job) -> Result<Box<dyn RunningJob>, JobError> {
        self.start(Subject::Bot(job.clone()))
    }

    async fn has_volume(&self, bot: BotId, volume: u32) -> Result<bool, JobError> {
        Ok(self.host.read_volume(&data_volume_name(bot, volume)).is_some())
    }

    async fn begin_on_platform(&self, work: &Work) -> Result<Box<dyn RunningJob>, JobError> {
        self.start(Subject::Platform(work.clone()))
    }
}

#[async_trait]
impl RunningJob for MemoryJob {
    async fn ready(&mut self) -> Result<(), JobError> {
        let Subject::Bot(job) = &self.subject else { return Ok(()) };
        let volume = data_volume_name(job.bot_id, job.volume);
        self.backups.host.read_volume(&volume).map(drop).ok_or(JobError::NoVolume(volume))
    }

    async fn copy(&mut self) -> Result<(), JobError> {
        let Subject::Bot(job) = &self.subject else { return Ok(()) };
        let Work::Save { description } = &job.work else { return Ok(()) };
        if let Some(JobFault::AtEnd(error)) = &self.fault {
            return Err(error.clone());
        }
        self.copy = Some(self.backups.copy(job, description)?);
        match &self.fault {
            Some(JobFault::HangStill) => drop(self.backups.hang().await),
            Some(JobFault::Until(told)) => self.backups.hang_until(told).await,
            _ => {}
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<Report, JobError> {
        let is_save = self.copy.is_some();
        let copy = self.copy.take();
        let perform = || match (&self.subject, copy) {
            (Subject::Bot(job), Some(copy)) => Ok(self.backups.keep(job.bot_id, copy)),
            (Subject::Bot(job), None) => self.backups.perform(job),
            (Subject::Platform(work), _) => self.backups.perform_on_platform(work),
        };
        match &self.fault {
            Some(JobFault::AtEnd(error)) => Err(error.clone()),
            Some(JobFault::HangAfter) => {
                perform()?;
                Ok(self.backups.hang().await)
            }
            Some(JobFault::Until(told)) if !is_save => {
                let report = perform()?;
                self.backups.hang_until(told).await;
                Ok(report)
            }
            _ => perform(),
        }
    }
}
