//! Who holds a port of this machine, read from `/proc`.

use std::{
    collections::HashSet,
    fs,
    net::{Ipv4Addr, TcpListener},
    path::Path,
};

/// The process that listens on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Process id.
    pub(crate) pid: u32,
    /// The command line, arguments separated by spaces, at most 80 characters.
    pub(crate) command: String,
}

/// Whether nobody listens on the port, on any address a browser on this machine could reach.
pub(crate) fn is_free(port: u16) -> bool {
    let binds = |address: Ipv4Addr| TcpListener::bind((address, port)).is_ok();
    binds(Ipv4Addr::LOCALHOST) && binds(Ipv4Addr::UNSPECIFIED)
}

/// The process that listens on the port; `None` where it belongs to another user or has gone.
pub(crate) fn owner(proc: &Path, port: u16) -> Option<Owner> {
    let sockets: HashSet<String> = ["net/tcp", "net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(proc.join(table)).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let pids = fs::read_dir(proc).ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| holds_any(&proc.join(pid.to_string()), &sockets))
        .min()
        .map(|pid| Owner { pid, command: command_line(&proc.join(pid.to_string())) })
}

fn holds_any(process: &Path, sockets: &HashSet<String>) -> bool {
    fs::read_dir(process.join("fd")).is_ok_and(|descriptors| {
        descriptors
            .flatten()
            .filter_map(|descriptor| fs::read_link(descriptor.path()).ok())
            .any(|target| target.to_str().is_some_and(|target| sockets.contains(target)))
    })
}

fn command_line(process: &Path) -> String {
    let raw = fs::read(process.join("cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&raw).replace('\0', " ");
    line.trim().chars().take(80).collect()
}

/// The inodes of sockets in state LISTEN on the port, in the format of `/proc/net/tcp`.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    /// `TCP_LISTEN` of the kernel's `include/net/tcp_states.h`.
    const LISTEN: &str = "0A";
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let listens = *fields.get(3)? == LISTEN && u16::from_str_radix(local_port, 16).ok()? == port;
        listens.then(|| fields.get(9)?.parse().ok()).flatten()
    };
    table.lines().skip(1).filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1539 00000000:0000 0A 00000000:00000000 00:00000000 00000000   109        0 5678 1 0 100 0 0 10 0
   1: 0100007F:0C1C 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1234 1 0 100 0 0 10 0
   2: 0100007F:0C1C 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4321 1 0 100 0 0 10 0
";

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        assert_eq!(listening_inodes(TABLE, 3100), [1234]);
        assert_eq!(listening_inodes(TABLE, 5433), [5678]);
        assert_eq!(listening_inodes(TABLE, 80), Vec::<u64>::new());
    }

    #[test]
    fn a_listener_of_this_process_is_found_and_named() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!is_free(port));
        let owner = owner(Path::new("/proc"), port).unwrap();
        assert_eq!(owner.pid, std::process::id());
        assert!(owner.command.contains("wopr"), "{}", owner.command);
        drop(listener);
        assert!(is_free(port));
    }
}
