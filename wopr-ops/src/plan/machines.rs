//! The two machines: containers of this machine's engine that run an engine of their own.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use super::{
    platform::{API_PORT, HTTP_PORT, MAIL_WEB_PORT, Ports, STRIPE_PORT},
    production::Production,
    spec::{Machine, Mount, Network, Ready, Service, Stack},
};
use crate::images::recipes::{MACHINE_DATA, MACHINE_RUN, MACHINE_SOCKET_DIRECTORY_VARIABLE, MACHINE_SOCKET_FILE};

/// The machine with the platform and the bots.
pub(crate) const VPS: &str = "wopr-vps";
/// The machine with the inference services.
pub(crate) const GPU: &str = "wopr-gpu";
/// Both, in the order they are shown in.
pub(crate) const MACHINES: [&str; 2] = [VPS, GPU];
/// The bridge both are on; inside a machine, the other is `<machine>.<network>`.
pub(crate) const NETWORK: &str = "wopr-dev";

/// Where a machine is on [`NETWORK`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// Its address.
    pub(crate) address: Ipv4Addr,
    /// The address that this machine has for it: whatever comes through a port published here comes from there.
    pub(crate) gateway: Ipv4Addr,
}

impl Position {
    /// For a machine that does not run, or whose position does not matter.
    pub(crate) const NOWHERE: Self = Self { address: Ipv4Addr::UNSPECIFIED, gateway: Ipv4Addr::UNSPECIFIED };
}

/// The volume with everything the platform's machine has: its images, containers and data.
pub(crate) const VPS_VOLUME: &str = "wopr-vps-docker-data";
/// The same of the inference machine.
const GPU_VOLUME: &str = "wopr-gpu-docker-data";

/// Where a machine finds its directory of this machine.
pub(crate) const SHARED: &str = "/wopr";

/// Seconds a machine gets to end its containers and itself.
const STOP_SECONDS: i32 = 30;

/// Capabilities that Docker 20.10 knows, by number; it refuses a container that names one it does not know.
///
/// <https://man7.org/linux/man-pages/man7/capabilities.7.html>
const CAPABILITIES: [&str; 38] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
];

/// What a nested engine has no use for, so that no machine gets it: the clock, the hardware and the kernel's modules.
const WITHHELD: [&str; 7] =
    ["SYS_MODULE", "SYS_RAWIO", "SYS_BOOT", "SYS_TIME", "SYS_TTY_CONFIG", "WAKE_ALARM", "BLOCK_SUSPEND"];

/// The capabilities a machine is given: those this machine itself may pass on, less those that are withheld.
pub(crate) fn capabilities(status: &str) -> Vec<String> {
    let field = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap_or_default().trim();
    let bounding = u64::from_str_radix(field, 16).unwrap_or_default();
    let held = CAPABILITIES.iter().enumerate().filter(|(number, _)| bounding & (1 << number) != 0);
    held.map(|(_, name)| *name).filter(|name| !WITHHELD.contains(name)).map(str::to_owned).collect()
}

/// The capabilities of this process's bounding set, as a machine is given them.
///
/// # Errors
/// If this process cannot read about itself.
pub(crate) fn own_capabilities() -> std::io::Result<Vec<String>> {
    fs::read_to_string("/proc/self/status").map(|status| capabilities(&status))
}

/// The socket of a machine's engine, as seen from this machine.
pub(crate) fn socket(directory: &Path, machine: &str) -> PathBuf {
    directory.join(machine).join(MACHINE_SOCKET_FILE)
}

/// Both machines. `directory` holds one shared directory per machine; `production` is what the GPU machine is to compute with
/// a graphics card.
pub(crate) fn stack(
    image: &str,
    ports: Ports,
    directory: &Path,
    capabilities: &[String],
    production: Option<&Production>,
) -> Stack {
    let machine = |name: &'static str, docker: &'static str, ports: Vec<(u16, u16)>| {
        let (shared, socket) = (directory.join(name), socket(directory, name));
        Service {
            name,
            aliases: Vec::new(),
            address: None,
            image: image.to_owned(),
            asks_for: Vec::new(),
            command: Vec::new(),
            env: [(MACHINE_SOCKET_DIRECTORY_VARIABLE.to_owned(), SHARED.to_owned())].into(),
            secrets: None,
            user: "0:0".to_owned(),
            groups: Vec::new(),
            ports,
            mounts: vec![
                Mount::Volume { name: docker, target: MACHINE_DATA },
                Mount::Bind { source: shared.display().to_string(), target: SHARED.to_owned(), read_only: false },
                Mount::Bind { source: CGROUPS.to_owned(), target: CGROUPS.to_owned(), read_only: false },
                // Pid files that a killed engine leaves behind would stop the next one for good.
                Mount::Tmpfs { target: MACHINE_RUN, options: "mode=755" },
            ],
            memory_bytes: 0,
            after: Vec::new(),
            ready: Ready::Engine(socket),
            shown_by: None,
            stop_seconds: STOP_SECONDS,
            pulled: false,
            card: false,
            machine: Some(Machine { capabilities: capabilities.to_vec() }),
        }
    };
    let vps = [
        (ports.http_port, HTTP_PORT),
        (ports.api_port, API_PORT),
        (ports.stripe_port, STRIPE_PORT),
        (ports.mail_port, MAIL_WEB_PORT),
    ];
    let gpu = [
        (ports.llama_port, 8080),
        (ports.chatterbox_port, 8081),
        (ports.whisper_port, 8082),
        (ports.embeddings_port, 8083),
    ];
    let (vps, mut gpu) = (machine(VPS, VPS_VOLUME, vps.to_vec()), machine(GPU, GPU_VOLUME, gpu.to_vec()));
    if let Some(production) = production {
        production.equip(&mut gpu);
    }
    Stack {
        name: "machines",
        network: Network { name: NETWORK, subnet: None },
        publish: Ipv4Addr::LOCALHOST,
        host: Ipv4Addr::LOCALHOST,
        services: vec![vps, gpu],
    }
}

const CGROUPS: &str = "/sys/fs/cgroup";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_gets_what_this_one_may_pass_on_and_no_clock_or_hardware() {
        let all = capabilities("Name:\tx\nCapBnd:\t000001ffffffffff\n");
        assert_eq!(all.len(), CAPABILITIES.len() - WITHHELD.len());
        assert!(all.iter().any(|name| name == "SYS_ADMIN"));
        assert!(WITHHELD.iter().all(|withheld| !all.iter().any(|name| name == withheld)));
        assert_eq!(capabilities("CapBnd:\t0000000000000003\n"), ["CHOWN", "DAC_OVERRIDE"]);
        assert!(capabilities("").is_empty());
    }
}
