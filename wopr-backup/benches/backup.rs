//! Half a gigabyte of mixed data, saved, changed by a hundredth, saved again and restored: by `tar | gzip` and a copy, by
//! restic where it is installed, and by this program. `cargo bench -p wopr-backup`, on a machine with nothing else to do.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::float_arithmetic,
    reason = "a bench may panic, and it prints"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

const SEED: u64 = 20_260_101;
const MIB: usize = 1 << 20;
const RING: &str = r#"{"ring":[{"id":"bench","secret":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}]}"#;

/// One way of backing up, as shell commands in a directory that has `store` and `out`; the data is `$TREE`.
struct Way {
    name: &'static str,
    prepare: &'static str,
    save: &'static str,
    again: &'static str,
    restore: &'static str,
}

const WAYS: [Way; 3] = [
    Way {
        name: "tar | gzip | copy",
        prepare: "mkdir -p store",
        save: "tar -C $TREE -c . | gzip > first.tgz && cp first.tgz store/ && sync store/first.tgz",
        again: "tar -C $TREE -c . | gzip > second.tgz && cp second.tgz store/ && sync store/second.tgz",
        restore: "mkdir out && tar -C out -xzf store/second.tgz && sync -f out",
    },
    Way {
        name: "restic",
        prepare: "restic init --repo store",
        save: "restic backup --quiet --repo store $TREE",
        again: "restic backup --quiet --repo store $TREE",
        restore: "restic restore --quiet --repo store latest --target out && sync -f out",
    },
    Way {
        name: "wopr-backup",
        prepare: "$PROGRAM init",
        save: "$PROGRAM save $TREE",
        again: "$PROGRAM save $TREE",
        restore: "$PROGRAM restore out",
    },
];

/// Wall and processor seconds, and the most memory of one process.
struct Cost {
    wall: f64,
    cpu: f64,
    peak_mib: u64,
}

fn main() {
    // `cargo test --benches` asks for a list.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let site = std::env::temp_dir().join(format!("wopr-backup-bench-{}", std::process::id()));
    std::fs::create_dir(&site).unwrap();
    let bytes = plant(&site.join("tree"));
    println!("{} files, {:.0} MB, seed {SEED}", count(&site.join("tree")), megabytes(bytes));
    let disk = run(&site, "cp -a $TREE copy && sync -f copy");
    println!("what the disk gives: cp -a and sync {:.2} s ({:.2} s of processor)", disk.wall, disk.cpu);
    std::fs::remove_dir_all(site.join("copy")).unwrap();
    println!("{:18} {:9} {:>8} {:>8} {:>9} {:>9}", "", "", "wall s", "cpu s", "MB stored", "peak MiB");
    for way in WAYS {
        if way.name == "restic" && Command::new("restic").arg("version").stdout(Stdio::null()).status().is_err() {
            println!("restic is not installed");
            continue;
        }
        let here = site.join("way");
        std::fs::create_dir(&here).unwrap();
        std::fs::write(here.join("ring"), RING).unwrap();
        run(&here, way.prepare);
        let mut stored = 0;
        for (step, text) in [("first", way.save), ("second", way.again), ("restore", way.restore)] {
            if step == "second" {
                change(&site.join("tree"));
            }
            let cost = run(&here, text);
            let now = size(&here.join("store"));
            println!(
                "{:18} {step:9} {:8.2} {:8.2} {:9.1} {:9}",
                way.name,
                cost.wall,
                cost.cpu,
                megabytes(now - stored),
                cost.peak_mib
            );
            stored = now;
        }
        std::fs::remove_dir_all(&here).unwrap();
        plant(&site.join("tree"));
    }
    std::fs::remove_dir_all(&site).unwrap();
}

fn run(directory: &Path, command: &str) -> Cost {
    let processor = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
        let time = usage.user_time() + usage.system_time();
        Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap()).as_secs_f64()
    };
    let (began, before) = (Instant::now(), processor());
    let mut child = Command::new("bash")
        .args(["-euo", "pipefail", "-c", command])
        .current_dir(directory)
        .env("TREE", std::env::temp_dir().join(format!("wopr-backup-bench-{}", std::process::id())).join("tree"))
        .env("PROGRAM", env!("CARGO_BIN_EXE_wopr-backup"))
        .env("WOPR_BACKUP_REPOSITORY", "bots/bench")
        .env("WOPR_BACKUP_DIRECTORY", directory.join("store"))
        .env("WOPR_BACKUP_KEY_FILE", directory.join("ring"))
        .env("RESTIC_PASSWORD", "bench")
        .env("RESTIC_CACHE_DIR", directory.join("cache"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut peak = 0;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        peak = peak.max(most_memory(child.id()));
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{command}: {status}");
    Cost { wall: began.elapsed().as_secs_f64(), cpu: processor() - before, peak_mib: peak / 1024 }
}

/// The most memory that one of a process's descendants has had, in KiB. The shell replaces itself by a single command.
fn most_memory(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let own = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or(0);
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|child| child.parse().ok()).map(most_memory).fold(own, u64::max)
}

fn text(random: &mut StdRng, bytes: usize) -> Vec<u8> {
    let words: Vec<String> =
        (0..2_000).map(|_| format!("{:x}", random.next_u32() >> random.random_range(4..24))).collect();
    let mut found = Vec::with_capacity(bytes + 16);
    while found.len() < bytes {
        found.extend_from_slice(words[random.random_range(0..words.len())].as_bytes());
        found.push(if random.random_ratio(1, 12) { b'\n' } else { b' ' });
    }
    found.truncate(bytes);
    found
}

/// Pictures and archives, which do not compress; tables, which do; and many small files.
fn plant(tree: &Path) -> u64 {
    let _ = std::fs::remove_dir_all(tree);
    std::fs::create_dir(tree).unwrap();
    let mut random = StdRng::seed_from_u64(SEED);
    for number in 0..25 {
        let mut bytes = vec![0; 10 * MIB];
        random.fill_bytes(&mut bytes);
        std::fs::write(tree.join(format!("picture-{number}")), bytes).unwrap();
    }
    for number in 0..6 {
        let bytes = text(&mut random, 32 * MIB);
        std::fs::write(tree.join(format!("table-{number}")), bytes).unwrap();
    }
    for number in 0..4_000 {
        let directory = tree.join(format!("notes-{}", number / 100));
        std::fs::create_dir_all(&directory).unwrap();
        let length = random.random_range(200..40_000);
        std::fs::write(directory.join(number.to_string()), text(&mut random, length)).unwrap();
    }
    size(tree)
}

/// A hundredth of the bytes: pages here and there in the tables, some new notes, one new picture.
fn change(tree: &Path) {
    use std::os::unix::fs::FileExt as _;
    let mut random = StdRng::seed_from_u64(SEED + 1);
    for number in 0..6 {
        let table = std::fs::File::options().write(true).open(tree.join(format!("table-{number}"))).unwrap();
        for _ in 0..5 {
            let page = text(&mut random, 64 << 10);
            table.write_all_at(&page, random.random_range(0..31 * MIB as u64)).unwrap();
        }
    }
    for number in 0..40 {
        std::fs::write(tree.join(format!("notes-{number}/new")), text(&mut random, 20_000)).unwrap();
    }
    let mut bytes = vec![0; 5 * MIB / 2];
    random.fill_bytes(&mut bytes);
    std::fs::write(tree.join("picture-new"), bytes).unwrap();
}

fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

fn size(path: &Path) -> u64 {
    files(path).iter().map(|path| std::fs::symlink_metadata(path).unwrap().len()).sum()
}

fn count(path: &Path) -> usize {
    files(path).len()
}

fn megabytes(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1_000).unwrap()) / 1e3
}
