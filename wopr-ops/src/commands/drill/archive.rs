//! `drill archive`: a table of faults of the archive of the platform's log.
//!
//! Somebody signs up and pays twice. Then the archive is copied beside itself, and the copy is damaged in one way after the
//! other; each time a throw-away database is to be made of it. Each attempt has to end with an error that names what is to
//! blame: a database that comes to be without a word, and lacks what was written last, is what must not happen. The archive
//! itself is only read, and the platform goes on meanwhile.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use bollard::{
    models::ContainerState,
    query_parameters::{InspectContainerOptions, KillContainerOptionsBuilder},
};
use rand::Rng;

use super::{
    archived::{archive_directory, archive_full, archive_now, entries, file_name, piece_before_last},
    stage::Stage,
    tenant_data::{FIRST_CENTS, SECOND_CENTS},
    throw_away::Scratch,
};
use crate::{
    cli::DrillArgs,
    commands::up::{
        FILES,
        log_end::{PIECE_NAME, has_read_all},
        recovering::{until_promoted, wake_archiving},
        require_root,
    },
    failure::told,
    paths::{Paths, remove_directory},
    plan::{
        archive::{self, Target},
        machines::SHARED,
        platform::Ports,
        scratch,
        spec::{Mount, Stack},
    },
    secrets::Handover,
    ui::Ui,
};

/// The copy that is damaged, beside the archive in the bucket.
const COPY: &str = "archive-drill";
/// How long a container may take to run.
const LIMIT: Duration = Duration::from_mins(1);
const PACE: Duration = Duration::from_millis(5);
/// A disk that no database fits on.
const SMALL_DISK: &str = "size=8m,mode=0700,uid=999,gid=999";
/// The longest that a restore is left alone before it is killed, in milliseconds.
const LONGEST_LIFE: u64 = 1_500;

/// What is done to an object of the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    Flipped,
    Halved,
    Gone,
}

/// What is harmed.
#[derive(Debug, Clone, Copy)]
enum Object {
    /// The list of the copies of the database's files.
    Copies,
    /// The list of the files of the newest copy.
    Manifest,
    /// The files of the newest copy.
    Files,
    /// The piece of the log before the last.
    Piece,
}

/// What is wrong.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// An option of the configuration is another one.
    Option(&'static str, &'static str),
    Object(Object, Harm),
    SmallDisk,
}

/// Each fault, and what must be named; otherwise the copy or the piece of the log, as it is called there.
const FAULTS: [(&str, Fault, &str); 16] = [
    ("another passphrase", Fault::Option("repo1-cipher-pass", "another"), "backup.info"),
    ("another key of the store", Fault::Option("repo1-s3-key-secret", "another"), "backup.info"),
    ("the store is away", Fault::Option("repo1-storage-port", "1"), ":1'"),
    ("an archive without copies", Fault::Option("repo1-path", "/nowhere"), "backup.info"),
    ("a flipped bit in the list of copies", Fault::Object(Object::Copies, Harm::Flipped), "backup.info"),
    ("no list of copies", Fault::Object(Object::Copies, Harm::Gone), "backup.info"),
    ("a flipped bit in a manifest", Fault::Object(Object::Manifest, Harm::Flipped), "backup.manifest"),
    ("half a manifest", Fault::Object(Object::Manifest, Harm::Halved), "backup.manifest"),
    ("no manifest", Fault::Object(Object::Manifest, Harm::Gone), "backup.manifest"),
    ("a flipped bit in a copy", Fault::Object(Object::Files, Harm::Flipped), ""),
    ("half a copy", Fault::Object(Object::Files, Harm::Halved), ""),
    ("no files of a copy", Fault::Object(Object::Files, Harm::Gone), ""),
    ("a flipped bit in the log", Fault::Object(Object::Piece, Harm::Flipped), ""),
    ("half a piece of the log", Fault::Object(Object::Piece, Harm::Halved), ""),
    ("a piece of the log is gone", Fault::Object(Object::Piece, Harm::Gone), ""),
    ("a full disk", Fault::SmallDisk, "unable to write '/var/lib/postgresql/data/"),
];

pub(crate) async fn run(ui: &Ui, paths: &Paths, args: &DrillArgs) -> anyhow::Result<()> {
    require_root()?;
    let _lock = crate::commands::lock(paths)?;
    rehearse(ui, paths, args.ports).await
}

/// The drill, on the two machines that are up.
pub(crate) async fn rehearse(ui: &Ui, paths: &Paths, ports: Ports) -> anyhow::Result<()> {
    let stage = Stage::new(paths, ports).await?;
    let scratch = Scratch::new(ui, paths, &stage).await?;
    let operator = stage.operator()?;

    let task = ui.start("the platform has a copy of its database's files");
    task.ends(operator.base_backup().await, Clone::clone)?;

    let task = ui.start("somebody signs up and pays twice, and the log of it is in the archive");
    let mut customer = stage.customer("archive-drill")?;
    let pay = async {
        customer.sign_up().await?;
        customer.first_balance().await?;
        let mut paid = 0;
        // Each in a piece of the log of its own.
        for cents in [FIRST_CENTS, SECOND_CENTS] {
            paid += cents;
            customer.pays(&customer.payment(cents)).await?;
            customer.balance_reaches(paid).await?;
            archive_now(&scratch.vps).await?;
        }
        archive_full(&scratch.vps).await
    };
    task.ends(pay.await, |_| format!("{} cents", FIRST_CENTS + SECOND_CENTS))?;

    let archive = archive_directory(paths);
    let copy = archive.with_file_name(COPY);
    let trial = Trial { scratch: &scratch, archive, copy };
    let result = trial.faults(customer.email()).await;
    // Whatever came of it, nothing of it stays.
    let cleared = scratch.clear().await.and(remove_directory(&trial.copy));
    result?;
    cleared
}

struct Trial<'a> {
    scratch: &'a Scratch<'a>,
    archive: PathBuf,
    copy: PathBuf,
}

impl Trial<'_> {
    async fn faults(&self, email: &str) -> anyhow::Result<()> {
        let ui = self.scratch.ui;
        let paid = FIRST_CENTS + SECOND_CENTS;
        // Else every fault would be met because the copy is none.
        let task = ui.start("nothing is wrong");
        self.begin().await?;
        let whole = async {
            self.attempt(None).await?;
            self.scratch.has_paid(email, paid).await
        };
        task.ends(whole.await, |paid| format!("the database has {paid} nano-dollars of {email}"))?;

        for (what, fault, named) in FAULTS {
            let task = ui.start(what);
            task.ends(self.meet(fault, named).await, Clone::clone)
                .with_context(|| format!("{what}: it was to be refused"))?;
        }

        let task = ui.start("a restore that is killed");
        self.begin().await?;
        let killed = async {
            let life = self.kill_restore().await?;
            // What is left of it is completed or refused. A recovery begins anew without asking.
            if self.attempt(None).await.is_err() {
                self.begin().await?;
                self.attempt(None).await?;
            }
            self.scratch.has_paid(email, paid).await?;
            anyhow::Ok(life)
        };
        task.ends(killed.await, |life| format!("after {} ms, is never taken for a database", life.as_millis()))?;
        Ok(())
    }

    /// A copy of the archive as it is, and no database.
    async fn begin(&self) -> anyhow::Result<()> {
        self.scratch.clear().await?;
        remove_directory(&self.copy)?;
        copy_tree(&self.archive, &self.copy)
    }

    /// Makes the fault and tries; answers with what the error names.
    async fn meet(&self, fault: Fault, named: &str) -> anyhow::Result<String> {
        self.begin().await?;
        let mut named = named.to_owned();
        if let Fault::Object(object, harm) = fault {
            let objects = self.objects(object)?;
            for path in &objects {
                do_harm(path, harm)?;
            }
            let path = objects.first().context("an object")?;
            named = match object {
                Object::Files => file_name(path.parent().and_then(Path::parent).context("a copy")?)?,
                Object::Piece => file_name(path)?.chars().take(PIECE_NAME).collect(),
                _ => named,
            };
        }
        let Err(error) = self.attempt(Some(fault)).await else { bail!("a database came of it") };
        let said = told(&error);
        ensure!(said.contains(&named), "the error does not name {named}: {said}");
        Ok(format!("the error names {named}"))
    }

    /// Makes a database of the copy.
    async fn attempt(&self, fault: Option<Fault>) -> anyhow::Result<()> {
        let (stack, handovers) = self.stack(fault)?;
        let filling = stack.clone().only(&[scratch::REPLAY.to_owned()]);
        self.scratch.bring(filling, &handovers).await?;
        self.scratch.bring(stack, &handovers).await?;
        until_promoted(&self.scratch.vps, scratch::POSTGRES).await?;
        wake_archiving(&self.scratch.vps, scratch::POSTGRES).await?;
        has_read_all(&self.scratch.vps, scratch::POSTGRES).await
    }

    fn stack(&self, fault: Option<Fault>) -> anyhow::Result<(Stack, BTreeMap<&'static str, Handover>)> {
        let scratch = self.scratch;
        let mut handovers = scratch.handovers()?;
        let mut options =
            vec![("repo1-path", format!("/{COPY}")), ("io-timeout", "1".to_owned()), ("job-retry", "0".to_owned())];
        if let Some(Fault::Option(option, value)) = fault {
            options.retain(|(known, _)| *known != option);
            options.push((option, value.to_owned()));
        }
        for files in handovers.values_mut() {
            archive::set(files, &options);
        }
        let directory = format!("{SHARED}/{FILES}");
        let mut stack = scratch::replayed(&scratch.images, scratch.host, &handovers, &directory, Target::default());
        for service in &mut stack.services {
            for mount in &mut service.mounts {
                if let (Some(Fault::SmallDisk), Mount::Volume { name: scratch::VOLUME, target }) = (fault, &mount) {
                    *mount = Mount::Tmpfs { target, options: SMALL_DISK };
                }
            }
        }
        Ok((stack, handovers))
    }

    /// Kills a restore somewhere on its way; answers with how long it lived.
    async fn kill_restore(&self) -> anyhow::Result<Duration> {
        let vps = &self.scratch.vps;
        let mut longest = LONGEST_LIFE;
        while longest > 0 {
            let (stack, handovers) = self.stack(None)?;
            let life = Duration::from_millis(rand::rng().random_range(0..longest));
            let kill = tokio::time::timeout(LIMIT, async {
                while !self.restores().await {
                    tokio::time::sleep(PACE).await;
                }
                tokio::time::sleep(life).await;
                let options = KillContainerOptionsBuilder::default().signal("SIGKILL").build();
                // One that has ended by then is killed earlier the next time.
                vps.kill_container(scratch::REPLAY, Some(options)).await.is_ok()
            });
            let filling = self.scratch.bring(stack.only(&[scratch::REPLAY.to_owned()]), &handovers);
            match tokio::join!(filling, kill) {
                (Err(_), Ok(true)) => return Ok(life),
                (Err(error), _) => return Err(error),
                (Ok(()), _) => self.begin().await?,
            }
            longest /= 2;
        }
        bail!("it always ends before it is killed")
    }

    async fn restores(&self) -> bool {
        let seen = self.scratch.vps.inspect_container(scratch::REPLAY, None::<InspectContainerOptions>).await;
        // One that has been quick is as good as one that runs.
        let is_over = |state: ContainerState| {
            state.running == Some(true) || state.finished_at.is_some_and(|at| !at.starts_with("0001"))
        };
        seen.is_ok_and(|seen| seen.state.is_some_and(is_over))
    }

    /// The files of an object, which some have twice.
    fn objects(&self, object: Object) -> anyhow::Result<Vec<PathBuf>> {
        let copies = self.copy.join("backup/platform");
        let newest = || {
            let mut labels: Vec<PathBuf> = entries(&copies)?;
            labels.retain(|path| path.join("backup.manifest").is_file());
            labels.into_iter().max().context("there is no copy")
        };
        let mut found = match object {
            Object::Copies => [copies.join("backup.info"), copies.join("backup.info.copy")].to_vec(),
            Object::Manifest => ["backup.manifest", "backup.manifest.copy"]
                .map(|name| newest().map(|at| at.join(name)))
                .into_iter()
                .collect::<anyhow::Result<_>>()?,
            Object::Files => entries(&newest()?.join("bundle"))?,
            Object::Piece => vec![piece_before_last(&self.copy)?],
        };
        found.retain(|path| path.is_file());
        ensure!(!found.is_empty(), "there is no {object:?} in {}", self.copy.display());
        Ok(found)
    }
}

fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to).with_context(|| format!("{} cannot be made", to.display()))?;
    for path in entries(from)? {
        let target = to.join(path.file_name().context("an entry has a name")?);
        if path.is_dir() {
            copy_tree(&path, &target)?;
        } else {
            // The platform goes on, and what is put there under another name first may have its own by now.
            match fs::copy(&path, &target) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.with_context(|| format!("{} cannot be copied", path.display()))?),
            }
        }
    }
    Ok(())
}

fn do_harm(path: &Path, harm: Harm) -> anyhow::Result<()> {
    let mut content = fs::read(path)?;
    match harm {
        Harm::Gone => return Ok(fs::remove_file(path)?),
        Harm::Flipped => {
            // A piece of the log may end in nothing, of which nobody misses a bit.
            let at = rand::rng().random_range(0..content.len().div_ceil(4));
            content[at] ^= 1 << rand::rng().random_range(0..8);
        }
        Harm::Halved => content.truncate(content.len() / 2),
    }
    fs::write(path, content).with_context(|| format!("{} cannot be written", path.display()))
}
