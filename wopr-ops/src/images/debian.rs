//! A root file system from Debian packages: downloaded by apt, unpacked without running any package script.
//!
//! Needs neither root nor a chroot: what packages contain is rewritten straight into a layer. apt verifies what it
//! downloads against the archive's signatures, with the sources this machine is configured with or those of a release
//! that an image names.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;

use super::{
    layer::{Layer, ROOT},
    recipes::Suite,
};
use crate::failure::{Exit, Failure};

/// Paths of packages that no server reads.
const LEFT_OUT: [&str; 10] = [
    "usr/share/bash-completion",
    "usr/share/bug",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "usr/share/perl5",
    "usr/share/postgresql-common",
    "var/cache",
];
/// Directories of old that are links into `/usr` today.
const MERGED: [&str; 4] = ["bin", "lib", "lib64", "sbin"];
/// Package lists younger than this are used as they are.
const LISTS_FRESH: Duration = Duration::from_hours(12);
/// Where the packages of a named release come from; a proxy that apt is configured with is used.
pub(crate) const ARCHIVE: &str = "http://deb.debian.org/debian";
/// What that archive's signatures are checked against; package `debian-archive-keyring`.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// Line of a package list: dependencies are not added, the list names all there is.
const NO_DEPENDENCIES: &str = "--no-dependencies";

/// What goes into a root file system: packages by name, and what of them is left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct PackageSet {
    wanted: Vec<String>,
    alone: bool,
    left_out: BTreeSet<String>,
    left_out_paths: Vec<String>,
}

impl PackageSet {
    /// One package a line; `-` before one leaves it out, `-/` a path and what is below it; `#` starts a comment;
    /// `--no-dependencies` takes the listed packages alone.
    pub(crate) fn parse(text: &str) -> Self {
        let mut set = Self::default();
        for line in text.lines().map(|line| line.split('#').next().unwrap_or_default().trim()) {
            if line == NO_DEPENDENCIES {
                set.alone = true;
            } else if let Some(path) = line.strip_prefix("-/") {
                set.left_out_paths.push(path.to_owned());
            } else if let Some(name) = line.strip_prefix('-') {
                set.left_out.insert(name.to_owned());
            } else if !line.is_empty() {
                set.wanted.push(line.to_owned());
            }
        }
        set
    }

    fn takes(&self, package: &str) -> bool {
        !self.left_out.contains(package) && (!self.alone || self.wanted.iter().any(|name| name == package))
    }

    fn leaves_out(&self, path: &str) -> bool {
        self.left_out_paths.iter().any(|left_out| within(left_out, path))
    }
}

/// A package apt would install.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Package {
    name: String,
    version: String,
}

/// Writes the packages' content into the layer; answers with `name=version` of each.
///
/// Blocks; `cache` keeps package lists and downloads between calls.
pub(crate) fn unpack(
    suite: Suite,
    set: &PackageSet,
    cache: &Path,
    layer: &mut Layer,
    progress: &dyn Fn(String),
) -> anyhow::Result<Vec<String>> {
    progress("reading package lists".to_owned());
    let (packages, files) = fetch(suite, set, cache, progress)?;
    for directory in MERGED {
        layer.directory(&format!("usr/{directory}"), 0o755, ROOT)?;
        layer.symlink(directory, Path::new(&format!("usr/{directory}")))?;
    }
    for file in &files {
        progress(format!("unpacking {}", file.file_name().unwrap_or_default().display()));
        unpack_one(file, set, layer).with_context(|| format!("{} could not be unpacked", file.display()))?;
    }
    Ok(packages.into_iter().map(|package| format!("{}={}", package.name, package.version)).collect())
}

/// Downloads what the set takes, unless it is there; answers in one order.
fn fetch(
    suite: Suite,
    set: &PackageSet,
    cache: &Path,
    progress: &dyn Fn(String),
) -> anyhow::Result<(Vec<Package>, Vec<PathBuf>)> {
    /// Images of one release share lists and downloads, which one apt at a time may write.
    static ONE_AT_A_TIME: [Mutex<()>; 3] = [const { Mutex::new(()) }; 3];
    let lock = match suite {
        Suite::Host => &ONE_AT_A_TIME[0],
        Suite::Trixie => &ONE_AT_A_TIME[1],
        Suite::Forky => &ONE_AT_A_TIME[2],
    };
    let _alone = lock.lock().unwrap_or_else(PoisonError::into_inner);
    let apt = Apt::new(suite, cache)?;
    apt.update()?;
    let packages: Vec<Package> =
        apt.resolve(&set.wanted)?.into_iter().filter(|package| set.takes(&package.name)).collect();
    progress(format!("downloading {} packages", packages.len()));
    let files = apt.download(&packages)?;
    Ok((packages, files))
}

struct Apt {
    root: PathBuf,
    options: Vec<String>,
}

impl Apt {
    /// An apt with its own state, which believes that nothing is installed.
    fn new(suite: Suite, cache: &Path) -> anyhow::Result<Self> {
        let root = cache.join(suite.name().map_or_else(|| "apt".to_owned(), |name| format!("apt-{name}")));
        for directory in ["state/lists/partial", "cache/archives/partial", "debs"] {
            fs::create_dir_all(root.join(directory))?;
        }
        fs::write(root.join("status"), "")?;
        let shown = root.display();
        let mut options = vec![
            format!("Dir::State={shown}/state"),
            format!("Dir::State::status={shown}/status"),
            format!("Dir::Cache={shown}/cache"),
            "APT::Install-Recommends=false".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            // Descriptions for software centres, half as large as the package lists.
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            "Acquire::Retries=3".to_owned(),
            "Debug::NoLocking=true".to_owned(),
        ];
        if let Some(name) = suite.name() {
            fs::write(root.join("sources.list"), format!("deb [signed-by={KEYRING}] {ARCHIVE} {name} main\n"))?;
            options.extend([
                format!("Dir::Etc::sourcelist={shown}/sources.list"),
                "Dir::Etc::sourceparts=-".to_owned(),
                // Mirrors that lag and frozen copies of a release still under way are older than its lists allow.
                "Acquire::Check-Valid-Until=false".to_owned(),
            ]);
        }
        Ok(Self { root, options: options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect() })
    }

    fn update(&self) -> anyhow::Result<()> {
        let stamp = self.root.join("updated");
        let age = fs::metadata(&stamp).and_then(|file| file.modified()).ok().and_then(|at| at.elapsed().ok());
        if age.is_some_and(|age| age < LISTS_FRESH) {
            return Ok(());
        }
        self.run(&["update"], &self.root)?;
        Ok(fs::write(stamp, "")?)
    }

    fn resolve(&self, wanted: &[String]) -> anyhow::Result<Vec<Package>> {
        let mut arguments = vec!["install", "--yes", "--simulate"];
        arguments.extend(wanted.iter().map(String::as_str));
        let packages = simulated(&self.run(&arguments, &self.root)?);
        anyhow::ensure!(!packages.is_empty(), "apt-get would install nothing for {}", wanted.join(" "));
        Ok(packages)
    }

    fn download(&self, packages: &[Package]) -> anyhow::Result<Vec<PathBuf>> {
        let debs = self.root.join("debs");
        let exact: Vec<String> =
            packages.iter().map(|package| format!("{}={}", package.name, package.version)).collect();
        let mut arguments = vec!["download"];
        arguments.extend(exact.iter().map(String::as_str));
        self.run(&arguments, &debs)?;
        let mut present: Vec<PathBuf> = fs::read_dir(&debs)?.flatten().map(|entry| entry.path()).collect();
        present.sort();
        let file_of = |package: &Package| {
            // An epoch's colon is percent-encoded in file names.
            let prefix = format!("{}_{}_", package.name, package.version.replace(':', "%3a"));
            present
                .iter()
                .find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)))
                .cloned()
                .with_context(|| format!("apt-get did not download {prefix}*.deb"))
        };
        packages.iter().map(file_of).collect()
    }

    fn run(&self, arguments: &[&str], directory: &Path) -> anyhow::Result<String> {
        let output = Command::new("apt-get")
            .args(&self.options)
            .args(arguments)
            .current_dir(directory)
            .env("LC_ALL", "C.UTF-8")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .output()
            .context("apt-get could not be run")?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(Failure::new(Exit::Image, format!("apt-get {} failed", arguments.first().unwrap_or(&"")))
            .why(String::from_utf8_lossy(&output.stderr).trim().to_owned())
            .fix(
                "the images are made from packages of Debian 12 to 14: check /etc/apt/sources.list*, the network, and that \
                 debian-archive-keyring is of this year",
            )
            .into())
    }
}

/// The packages of `apt-get --simulate`: lines like `Inst dash (0.5.12-2 Debian:12.11/stable [amd64])`.
fn simulated(output: &str) -> Vec<Package> {
    let of_line = |line: &str| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
        let version = rest.split(' ').next()?;
        Some(Package { name: name.split(':').next()?.to_owned(), version: version.to_owned() })
    };
    output.lines().filter_map(of_line).collect()
}

fn unpack_one(deb: &Path, set: &PackageSet, layer: &mut Layer) -> anyhow::Result<()> {
    let mut child = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(deb).stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("dpkg-deb has no output")?;
    let result = copy_entries(tar::Archive::new(output), set, layer);
    let status = child.wait()?;
    result?;
    anyhow::ensure!(status.success(), "dpkg-deb ended with {status}");
    Ok(())
}

fn copy_entries(
    mut archive: tar::Archive<impl std::io::Read>,
    set: &PackageSet,
    layer: &mut Layer,
) -> anyhow::Result<()> {
    for entry in archive.entries()? {
        let mut entry = entry?;
        let Some(path) = placed(&entry.path()?).filter(|path| !set.leaves_out(path)) else {
            continue;
        };
        let header = entry.header().clone();
        // Set-user-id programs have no use in an image without logins.
        let mode = header.mode()? & 0o1777;
        match header.entry_type() {
            tar::EntryType::Directory => layer.directory(&path, mode, ROOT)?,
            tar::EntryType::Symlink => {
                let target = entry.link_name()?.context("a symbolic link without a target")?.into_owned();
                layer.symlink(&path, &target)?;
            }
            tar::EntryType::Link => {
                let target = entry.link_name()?.context("a hard link without a target")?.into_owned();
                if let Some(target) = placed(&target).filter(|target| layer.contains(target)) {
                    layer.hard_link(&path, &target)?;
                }
            }
            tar::EntryType::Regular => {
                let size = header.size()?;
                layer.stream(&path, mode, ROOT, size, &mut entry)?;
            }
            other => anyhow::bail!("{path} is a {other:?}, which no package we use contains"),
        }
    }
    Ok(())
}

/// A path relative to the root, with the old top directories merged into `/usr`; `None` if it is no text.
pub(crate) fn merged(path: &Path) -> Option<String> {
    let text = path.to_str()?.trim_start_matches("./").trim_matches('/');
    let top = text.split('/').next()?;
    Some(if MERGED.contains(&top) { format!("usr/{text}") } else { text.to_owned() })
}

/// Where a package's path goes; `None` if it is left out.
fn placed(path: &Path) -> Option<String> {
    let text = merged(path)?;
    let left_out = LEFT_OUT.iter().any(|prefix| within(prefix, &text))
        || text.contains("/bitcode/")
        || text.ends_with("/bitcode")
        || text.contains("/llvmjit");
    (!text.is_empty() && text != "." && !left_out).then_some(text)
}

/// Whether the path is the other one or lies below it.
fn within(directory: &str, path: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::{
        super::recipes::{ASSEMBLIES, POSTGRES_BASE},
        *,
    };

    #[test]
    fn a_package_list_has_comments_and_exceptions() {
        let set = PackageSet::parse("# base\ndash\nlibc-bin # names\n\n-perl\n-/usr/share/i18n\n");
        assert_eq!(set.wanted, ["dash", "libc-bin"]);
        assert_eq!(set.left_out, BTreeSet::from(["perl".to_owned()]));
        assert!(set.takes("dash") && set.takes("libc6") && !set.takes("perl"));
        assert!(set.leaves_out("usr/share/i18n/charmaps") && !set.leaves_out("usr/share/i18n.txt"));
        let alone = PackageSet::parse("--no-dependencies\ndash\n");
        assert!(alone.takes("dash") && !alone.takes("libc6") && !alone.leaves_out("usr"));
    }

    #[test]
    fn no_recipe_leaves_out_what_it_wants() {
        let lists = ASSEMBLIES.iter().map(|assembly| assembly.packages).chain([POSTGRES_BASE.packages]);
        for set in lists.map(PackageSet::parse) {
            assert!(!set.wanted.is_empty() && set.wanted.iter().all(|name| set.takes(name)), "{set:?}");
        }
    }

    #[test]
    fn a_simulated_installation_names_packages_and_versions() {
        let output = "NOTE: This is only a simulation!\n\
            Inst gcc-12-base (12.2.0-14+deb12u1 Debian:12.11/oldstable [amd64])\n\
            Inst libssl3:amd64 (3.0.22-1~deb12u2 Debian-Security:12/oldstable-security [amd64]) []\n\
            Conf libc6 (2.36-9 Debian:12.11/oldstable [amd64])\n";
        let names: Vec<String> = simulated(output).into_iter().map(|p| format!("{}={}", p.name, p.version)).collect();
        assert_eq!(names, ["gcc-12-base=12.2.0-14+deb12u1", "libssl3=3.0.22-1~deb12u2"]);
    }

    #[test]
    fn old_top_directories_merge_and_documentation_is_left_out() {
        let cases = [
            ("./", None),
            ("./bin/sh", Some("usr/bin/sh")),
            ("./lib/x86_64-linux-gnu/libc.so.6", Some("usr/lib/x86_64-linux-gnu/libc.so.6")),
            ("./library", Some("library")),
            ("./etc/pam.d/", Some("etc/pam.d")),
            ("./usr/share/doc/dash/copyright", None),
            ("./usr/share/documents", Some("usr/share/documents")),
            ("./usr/lib/postgresql/15/lib/bitcode/postgres.index.bc", None),
            ("./usr/lib/postgresql/15/lib/llvmjit.so", None),
        ];
        for (path, expected) in cases {
            assert_eq!(placed(Path::new(path)).as_deref(), expected, "{path}");
        }
    }
}
