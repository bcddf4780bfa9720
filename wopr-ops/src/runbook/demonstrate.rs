//! Hazards brought about on the two machines, on purpose: the check of each has to notice, and to be content once it is mended.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use bollard::query_parameters::RemoveImageOptionsBuilder;

use super::{
    Gotcha, Runbook, Severity, Where,
    breakage::{Breakage, Fix, GONE, replaced},
    pure::{LAYERS, tracked},
    report::{NotChecked, Outcome, Proof, Report, Shown},
    world::{World, image_id},
};
use crate::{
    cli::{FaultKind, StartArgs},
    commands::{fault, start},
    exec::{
        apply::{apply, remove_container},
        disk,
        observe::container,
        ready::settled,
    },
    failure::{Exit, Failure, told},
    paths::{Paths, private_directory, remove_directory},
    plan::{
        machines::{GPU, MACHINES, VPS},
        platform::uid,
        steps::{Plan, Step},
    },
    secrets::{hand_over, write_private},
    ui::Ui,
};

/// How long a check may take to notice, and to be content again.
const LIMIT: Duration = Duration::from_secs(45);
/// How often one check is made, and how often all are: of the latter, some ask the API, which lets nobody ask too often.
const PACE: Duration = Duration::from_millis(200);
const PACE_OF_ALL: Duration = Duration::from_secs(3);

/// A directory that goes with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new(directory: PathBuf) -> anyhow::Result<Self> {
        remove_directory(&directory)?;
        private_directory(&directory)?;
        Ok(Self(directory))
    }

    /// One that a restart of this machine may empty.
    fn temporary(name: &str) -> anyhow::Result<Self> {
        Self::new(Path::new("/tmp").join(format!("wopr-verify-{name}-{}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is in a temporary directory, or in one that `down --volumes` removes.
        let _left = remove_directory(&self.0);
    }
}

/// Another checkout, or other data.
struct Elsewhere {
    paths: Paths,
    _scratch: Scratch,
}

/// A hazard that can be brought about.
struct Hazard<'r> {
    gotcha: &'r Gotcha,
    check: &'r str,
    breakage: &'r Breakage,
    /// A part of what the check has to say.
    red: &'r str,
    fix: Fix,
}

impl World<'_> {
    /// Brings hazards about, one after the other: those that are named, or all.
    ///
    /// # Errors
    /// If there is none of a name, or not everything is well at the beginning.
    pub(crate) async fn demonstrate(&self, ui: &Ui, runbook: &Runbook, named: &[String]) -> anyhow::Result<Proof> {
        for id in named {
            ensure!(runbook.gotchas.iter().any(|gotcha| gotcha.id == *id), "there is no hazard {id}");
        }
        self.require_well(runbook).await?;
        let mut proof = Proof { proven: false, shown: Vec::new(), not_shown: Vec::new(), red_at_the_end: Vec::new() };
        let mut stays: Option<&str> = None;
        for gotcha in runbook.gotchas.iter().filter(|gotcha| named.is_empty() || named.contains(&gotcha.id)) {
            let hazard = match stays {
                Some(id) => Err(format!("{id} stays, which it would meet")),
                None => self.hazard(runbook, gotcha).await?,
            };
            match hazard {
                Ok(hazard) => {
                    let shown = self.show(ui, runbook, &hazard).await;
                    stays = shown.green.is_none().then_some(&gotcha.id);
                    proof.shown.push(shown);
                }
                Err(reason) => {
                    let (id, hazard) = (gotcha.id.clone(), gotcha.hazard.clone());
                    proof.not_shown.push(NotChecked { id, hazard, reason });
                }
            }
        }
        let report = self.settles(runbook).await;
        let noticed = proof.shown.iter().all(|shown| shown.problem.is_none());
        // Who names a hazard wants it shown.
        proof.proven = report.green && noticed && (named.is_empty() || proof.not_shown.is_empty());
        proof.red_at_the_end = report.checks.into_iter().filter(|check| !check.passed).collect();
        Ok(proof)
    }

    /// Both machines are there, and no check that is critical is red: else what is shown could be anything, and mending would
    /// change more than what was broken.
    async fn require_well(&self, runbook: &Runbook) -> anyhow::Result<()> {
        for machine in MACHINES {
            if container(&self.engine, machine).await?.is_none() {
                return Err(Failure::new(Exit::Environment, format!("there is no machine {machine}"))
                    .fix("`cargo wopr up` makes both")
                    .into());
            }
        }
        let report = self.settles(runbook).await;
        if report.green {
            return Ok(());
        }
        let critical = |check: &&Outcome| !check.passed && check.severity == Severity::Critical;
        let red: Vec<&str> = report.checks.iter().filter(critical).map(|check| check.id.as_str()).collect();
        Err(Failure::new(Exit::Check, "not everything is well, and nothing is broken on purpose then")
            .why(format!("red: {}", red.join(", ")))
            .fix("`cargo wopr fault mend vps`, `cargo wopr fault mend gpu` and `cargo wopr start` mend what was left broken; `cargo wopr runbook check` says what is red")
            .into())
    }

    /// What all checks say, once no critical one is red or the time is over: what was mended just now may take its time.
    async fn settles(&self, runbook: &Runbook) -> Report {
        let since = Instant::now();
        loop {
            let report = self.every_check(runbook).await;
            if report.green || since.elapsed() > LIMIT {
                return report;
            }
            tokio::time::sleep(PACE_OF_ALL).await;
        }
    }

    /// What is to be done; or why nothing is.
    async fn hazard<'r>(&self, runbook: &'r Runbook, gotcha: &'r Gotcha) -> anyhow::Result<Result<Hazard<'r>, String>> {
        let (Some(check), Some(breakage), Some(red), Some(fix)) =
            (&gotcha.check, &gotcha.broken, &gotcha.red, gotcha.fix)
        else {
            return Ok(Err(gotcha.manual.clone().unwrap_or_default()));
        };
        if let Breakage::Fault { fault: FaultKind::Fill, machine } = breakage
            && disk::size_bytes(&self.paths.machines(), machine.container())?.is_none()
        {
            let machine = machine.container();
            return Ok(Err(format!("{machine} has no disk of its own, which `cargo wopr up --disk 8G` gives it")));
        }
        if let Breakage::Argument { service, flag, .. } = breakage
            && flag == LAYERS
            && self.planned().await?.service_mut(service).is_some_and(|(_, service)| service.card)
        {
            return Ok(Err(format!("{service} has a graphics card for its layers")));
        }
        // A warning may be red all the time: it depends on this machine.
        let before = self.check(runbook, check).await?;
        if !before.passed && before.severity == Severity::Warning {
            return Ok(Err(format!("{check} is red without it: {}", before.detail)));
        }
        Ok(Ok(Hazard { gotcha, check, breakage, red, fix }))
    }

    async fn show(&self, ui: &Ui, runbook: &Runbook, hazard: &Hazard<'_>) -> Shown {
        let since = Instant::now();
        let Hazard { gotcha, check, breakage, fix, .. } = hazard;
        let task = ui.start(format!("{}: {breakage}", gotcha.id));
        let mut shown = Shown {
            id: gotcha.id.clone(),
            hazard: gotcha.hazard.clone(),
            check: (*check).to_owned(),
            broken: breakage.to_string(),
            red: None,
            fix: fix.to_string().replace('`', ""),
            green: None,
            problem: None,
            took_ms: 0,
        };
        let result = self.red_and_green(&ui.silent(), runbook, hazard, &mut shown).await;
        shown.took_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (red, green) = (shown.red.as_deref().unwrap_or_default(), shown.green.as_deref().unwrap_or_default());
        match task.ends(result, |()| String::new()) {
            Ok(()) => {
                ui.note(format!("{check} is red: {red}"));
                ui.note(format!("after {fix}: {green}"));
            }
            Err(error) => {
                let problem = told(&error).trim().to_owned();
                ui.warn(&problem);
                shown.problem = Some(problem);
            }
        }
        shown
    }

    async fn red_and_green(
        &self,
        ui: &Ui,
        runbook: &Runbook,
        hazard: &Hazard<'_>,
        shown: &mut Shown,
    ) -> anyhow::Result<()> {
        let Hazard { check, breakage, red, fix, .. } = hazard;
        // What the hazard before this one has left may take its time.
        self.says(runbook, check, None).await.context("before anything was broken")?;
        let mut elsewhere = None;
        let noticed = async {
            elsewhere = self.bring_about(ui, breakage).await?;
            let paths = elsewhere.as_ref().map_or(self.paths, |elsewhere| &elsewhere.paths);
            let there = World { paths, engine: self.engine.clone(), http: self.http.clone(), ports: self.ports };
            shown.red = Some(there.says(runbook, check, Some(red)).await?);
            anyhow::Ok(())
        }
        .await;
        drop(elsewhere);
        // Whatever came of it: nothing stays broken.
        let mended = async {
            self.mend(ui, *fix).await.with_context(|| format!("{fix} failed"))?;
            shown.green = Some(self.says(runbook, check, None).await?);
            anyhow::Ok(())
        };
        match (noticed, mended.await) {
            (noticed, Ok(())) => noticed,
            (Ok(()), Err(error)) => Err(error),
            (Err(first), Err(error)) => Err(error.context(format!("{first:#}; and then"))),
        }
    }

    /// What a check says once it fails with that word, or passes if there is none.
    async fn says(&self, runbook: &Runbook, check: &str, red: Option<&str>) -> anyhow::Result<String> {
        let expected = |outcome: &Outcome| match red {
            Some(word) => !outcome.passed && outcome.detail.contains(word),
            None => outcome.passed,
        };
        let since = Instant::now();
        loop {
            let outcome = self.check(runbook, check).await?;
            if expected(&outcome) {
                return Ok(outcome.detail);
            }
            if since.elapsed() > LIMIT {
                let colour = if outcome.passed { "green" } else { "red" };
                let wanted = red.map_or_else(|| "green".to_owned(), |word| format!("red with `{word}`"));
                bail!("{check} was not {wanted} within {} s, but {colour}: {}", LIMIT.as_secs(), outcome.detail);
            }
            tokio::time::sleep(PACE).await;
        }
    }

    async fn mend(&self, ui: &Ui, fix: Fix) -> anyhow::Result<()> {
        match fix {
            Fix::Start => {
                let args = StartArgs { flat: false, dry_run: false, json: false, ports: self.ports };
                start::bring(ui, self.paths, &args).await
            }
            Fix::MendVps => fault::mend(self.paths, &self.engine, VPS).await.map(drop),
            Fix::MendGpu => fault::mend(self.paths, &self.engine, GPU).await.map(drop),
            Fix::TakeAway => Ok(()),
        }
    }

    async fn bring_about(&self, ui: &Ui, breakage: &Breakage) -> anyhow::Result<Option<Elsewhere>> {
        match breakage {
            Breakage::Repository { files } => {
                let scratch = Scratch::temporary("checkout")?;
                copy_checkout(self.paths.workspace()?, &scratch.0)?;
                for (file, text) in files {
                    let file = scratch.0.join(file);
                    fs::create_dir_all(file.parent().context("a file has no directory")?)?;
                    fs::write(&file, text).with_context(|| format!("{} cannot be written", file.display()))?;
                }
                let paths = self.paths.with_checkout(scratch.0.clone());
                return Ok(Some(Elsewhere { paths, _scratch: scratch }));
            }
            Breakage::DataDirectory {} => {
                let scratch = Scratch::temporary("data")?;
                let paths = self.paths.with_data(scratch.0.clone());
                return Ok(Some(Elsewhere { paths, _scratch: scratch }));
            }
            Breakage::Fault { fault, machine } => {
                fault::inflict(self.paths, &self.engine, *fault, machine.container()).await?;
            }
            Breakage::Edited { service, file, from, to, in_place } => {
                self.edit(service, file, (from, to), *in_place).await?;
            }
            Breakage::Removed { service } => {
                remove_container(&self.engine_of(service).await?, service, true).await?;
            }
            Breakage::ImageGone { service } => {
                let engine = self.engine_of(service).await?;
                let mut planned = self.planned().await?;
                let (_, planned) = planned.service_mut(service).context("it is not planned")?;
                remove_container(&engine, service, true).await?;
                let id = image_id(&engine, &planned.image).await?.context("it is not there")?;
                // With all its names.
                let options = RemoveImageOptionsBuilder::default().force(true).build();
                let removed = engine.remove_image(&id, Some(options), None).await;
                removed.with_context(|| format!("{} could not be removed", planned.image))?;
            }
            Breakage::Setting { .. }
            | Breakage::Argument { .. }
            | Breakage::Memory { .. }
            | Breakage::Mount { .. }
            | Breakage::Handed { .. } => self.make_wrongly(ui, breakage).await?,
        }
        Ok(None)
    }

    /// Makes a container anew, as it should not be; whether it gets ready is nobody's concern.
    async fn make_wrongly(&self, ui: &Ui, breakage: &Breakage) -> anyhow::Result<()> {
        let mut planned = self.planned().await?;
        let (place, name) = breakage.alter(&mut planned)?.context("no container is made")?;
        // It goes once the container has mounted it.
        let _gone = match (breakage, place.machine()) {
            (Breakage::Mount { .. }, Some(machine)) => {
                Some(Scratch::new(self.paths.machines().join(machine.container()).join(GONE))?)
            }
            _ => None,
        };
        if let (Breakage::Handed { .. }, Some(machine), Some(files)) =
            (breakage, place.machine(), planned.handovers.get(name))
        {
            hand_over(&self.directory(machine, name), files, uid(name))?;
        }
        let why = "its hazard is shown".to_owned();
        let steps = vec![
            Step::Remove { service: name, why: why.clone() },
            Step::Create { service: name, why: why.clone() },
            Step::Start { service: name, why },
        ];
        let plan = Plan { resources: Vec::new(), levels: vec![vec![steps]] };
        let (engine, stack) = (self.engine_at(place).await?, planned.at(place));
        apply(ui, &engine, &self.http, stack, &plan).await?;
        let service = stack.services.iter().find(|service| service.name == name);
        settled(&engine, &self.http, stack, service.context("it is not planned")?).await
    }

    async fn edit(&self, service: &str, name: &str, (from, to): (&str, &str), in_place: bool) -> anyhow::Result<()> {
        let machine = self.place_of(service).await?.machine().context("it is a machine itself")?;
        let file = self.directory(machine, service).join(name);
        let text = fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
        let text = replaced(&text, from, to)?;
        if in_place {
            return fs::write(&file, text).with_context(|| format!("{} cannot be written", file.display()));
        }
        write_private(&file, &text)?;
        let uid = uid(service);
        chown(&file, Some(uid), Some(uid)).with_context(|| format!("{} cannot be given away", file.display()))
    }

    async fn place_of(&self, service: &str) -> anyhow::Result<Where> {
        self.planned().await?.place_of(service).with_context(|| format!("there is no container {service}"))
    }

    async fn engine_of(&self, service: &str) -> anyhow::Result<bollard::Docker> {
        self.engine_at(self.place_of(service).await?).await
    }
}

/// What git would hand to somebody else, in another directory that git knows.
fn copy_checkout(from: &Path, to: &Path) -> anyhow::Result<()> {
    for path in tracked(from)? {
        let (source, target) = (from.join(&path), to.join(&path));
        // What was deleted and not committed is still tracked.
        if !source.is_file() {
            continue;
        }
        fs::create_dir_all(target.parent().context("a file has no directory")?)?;
        fs::copy(&source, &target).with_context(|| format!("{path} cannot be copied"))?;
    }
    let output =
        Command::new("git").args(["init", "--quiet"]).current_dir(to).output().context("git could not be run")?;
    ensure!(output.status.success(), "git init: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::RepositoryRule, *};
    use crate::runbook::pure::repository_rule;

    #[test]
    fn a_copy_of_the_checkout_is_judged_as_the_checkout() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let copy = Scratch::temporary("test").unwrap();
        copy_checkout(&checkout, &copy.0).unwrap();
        for rule in [RepositoryRule::Migrations, RepositoryRule::NoShellInYaml] {
            assert_eq!(repository_rule(rule, &copy.0).unwrap(), repository_rule(rule, &checkout).unwrap());
        }
        let directory = copy.0.clone();
        drop(copy);
        assert!(!directory.exists());
    }
}
