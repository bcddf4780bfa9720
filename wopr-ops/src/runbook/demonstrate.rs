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
    Gotcha, Runbook, Where,
    breakage::{Breakage, Fix, GONE, replaced},
    pure::tracked,
    report::{NotChecked, Outcome, Proof, Shown},
    world::World,
};
use crate::{
    cli::{FaultKind, StartArgs},
    commands::{fault, start, wait_until},
    exec::{
        apply::{apply, remove_container},
        disk,
        ready::settled,
    },
    paths::{Paths, private_directory, remove_directory},
    plan::{
        machines::{GPU, VPS},
        platform::uid,
        steps::{Plan, Step},
    },
    secrets::{hand_over, write_private},
    ui::Ui,
};

/// How long a check may take to notice, and to be content again.
const LIMIT: Duration = Duration::from_mins(1);

/// Another checkout, or other data, to be taken away again.
struct Elsewhere {
    paths: Paths,
    directory: PathBuf,
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
    /// If there is none of a name.
    pub(crate) async fn demonstrate(&self, ui: &Ui, runbook: &Runbook, named: &[String]) -> anyhow::Result<Proof> {
        for id in named {
            ensure!(runbook.gotchas.iter().any(|gotcha| gotcha.id == *id), "there is no hazard {id}");
        }
        let mut proof = Proof { proven: false, shown: Vec::new(), not_shown: Vec::new(), red_at_the_end: Vec::new() };
        for gotcha in runbook.gotchas.iter().filter(|gotcha| named.is_empty() || named.contains(&gotcha.id)) {
            let hazard = match self.hazard(gotcha)? {
                Ok(hazard) => hazard,
                Err(reason) => {
                    let (id, hazard) = (gotcha.id.clone(), gotcha.hazard.clone());
                    proof.not_shown.push(NotChecked { id, hazard, reason });
                    continue;
                }
            };
            let shown = self.show(ui, runbook, &hazard).await;
            let mended = shown.green.is_some();
            proof.shown.push(shown);
            if !mended {
                // The next one would meet what this one has left.
                break;
            }
        }
        // What the last one has left may take its time, too.
        wait_until(LIMIT, || async { Ok(self.every_check(runbook).await.green.then_some(())) }).await?;
        let report = self.every_check(runbook).await;
        proof.proven = report.green && proof.shown.iter().all(|shown| shown.problem.is_none());
        proof.red_at_the_end = report.checks.into_iter().filter(|check| !check.passed).collect();
        Ok(proof)
    }

    /// What is to be done; or why nothing is.
    fn hazard<'r>(&self, gotcha: &'r Gotcha) -> anyhow::Result<Result<Hazard<'r>, String>> {
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
            fix: fix.to_string(),
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
                let problem = format!("{error:#}");
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
        // Whatever came of it: nothing stays broken.
        self.mend(ui, *fix).await.with_context(|| format!("{fix} failed"))?;
        if let Some(Elsewhere { directory, .. }) = elsewhere {
            remove_directory(&directory)?;
        }
        shown.green = Some(self.says(runbook, check, None).await?);
        noticed
    }

    /// What a check says once it fails with that word, or passes if there is none.
    async fn says(&self, runbook: &Runbook, check: &str, red: Option<&str>) -> anyhow::Result<String> {
        let expected = |outcome: &Outcome| match red {
            Some(word) => !outcome.passed && outcome.detail.contains(word),
            None => outcome.passed,
        };
        let found = wait_until(LIMIT, || async {
            let outcome = self.check(runbook, check).await?;
            Ok(Some(outcome).filter(&expected))
        })
        .await?;
        if let Some(found) = found {
            return Ok(found.detail);
        }
        let last = self.check(runbook, check).await?;
        let colour = if last.passed { "green" } else { "red" };
        let wanted = red.map_or_else(|| "green".to_owned(), |word| format!("red with `{word}`"));
        bail!("{check} was not {wanted} within {} s, but {colour}: {}", LIMIT.as_secs(), last.detail)
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
                let directory = temporary("checkout")?;
                copy_checkout(self.paths.workspace()?, &directory)?;
                for (file, text) in files {
                    let file = directory.join(file);
                    fs::create_dir_all(file.parent().context("a file has no directory")?)?;
                    fs::write(&file, text).with_context(|| format!("{} cannot be written", file.display()))?;
                }
                return Ok(Some(Elsewhere { paths: self.paths.with_checkout(directory.clone()), directory }));
            }
            Breakage::DataDirectory {} => {
                let directory = temporary("data")?;
                return Ok(Some(Elsewhere { paths: self.paths.with_data(directory.clone()), directory }));
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
                let options = RemoveImageOptionsBuilder::default().force(true).build();
                let removed = engine.remove_image(&planned.image, Some(options), None).await;
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
        let shared = |machine: super::Machine| self.paths.machines().join(machine.container());
        let gone = match breakage {
            Breakage::Mount { .. } => {
                let gone = shared(place.machine().context("it is a machine itself")?).join(GONE);
                private_directory(&gone)?;
                Some(gone)
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
        settled(&engine, &self.http, stack, service.context("it is not planned")?).await?;
        gone.map_or(Ok(()), |gone| remove_directory(&gone))
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

/// A directory that a restart of this machine may empty.
fn temporary(name: &str) -> anyhow::Result<PathBuf> {
    let directory = Path::new("/tmp").join(format!("wopr-verify-{name}-{}", std::process::id()));
    remove_directory(&directory)?;
    private_directory(&directory)?;
    Ok(directory)
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
        let copy = temporary("test").unwrap();
        copy_checkout(&checkout, &copy).unwrap();
        for rule in [RepositoryRule::Migrations, RepositoryRule::NoShellInYaml] {
            assert_eq!(repository_rule(rule, &copy).unwrap(), repository_rule(rule, &checkout).unwrap());
        }
        remove_directory(&copy).unwrap();
    }
}
