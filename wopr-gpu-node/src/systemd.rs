//! Readiness and the watchdog of systemd: datagrams to the socket that `NOTIFY_SOCKET` names. Nothing where none is.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The service manager that started us, if one did.
#[derive(Debug)]
pub struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// From the values of `NOTIFY_SOCKET` and `WATCHDOG_USEC`.
    ///
    /// # Errors
    /// When there is such a socket and it cannot be used.
    pub fn new(notify_socket: Option<OsString>, watchdog_usec: Option<&str>) -> io::Result<Self> {
        let socket = match notify_socket.filter(|path| !path.is_empty()) {
            Some(path) => {
                let address = match path.as_bytes().strip_prefix(b"@") {
                    Some(name) => SocketAddr::from_abstract_name(name)?,
                    None => SocketAddr::from_pathname(&path)?,
                };
                Some((UnixDatagram::unbound()?, address))
            }
            None => None,
        };
        let watchdog = watchdog_usec.and_then(|text| text.parse().ok()).map(Duration::from_micros);
        Ok(Self { socket, watchdog: watchdog.filter(|time| !time.is_zero()) })
    }

    /// The work has begun.
    pub fn ready(&self) {
        self.send("READY=1\nSTATUS=watching");
    }

    /// Everything goes on as it should.
    pub fn alive(&self) {
        self.send("WATCHDOG=1");
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=draining");
    }

    /// How often [`alive`](Self::alive) is to be said: twice in the time after which silence is death.
    pub fn watchdog(&self) -> Option<Duration> {
        self.socket.as_ref().and(self.watchdog).map(|time| time / 2)
    }

    fn send(&self, state: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(state.as_bytes(), address)
        {
            tracing::warn!("the service manager is not told: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 128];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..len].to_vec()).unwrap()
    }

    #[test]
    fn it_is_told_over_a_path_and_over_an_abstract_name() {
        let name = format!("wopr-gpu-node-test-{}", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let at_path = UnixDatagram::bind(&path).unwrap();
        let abstract_name = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
        let at_name = UnixDatagram::bind_addr(&abstract_name).unwrap();
        for (value, socket) in [(path.clone().into_os_string(), at_path), (format!("@{name}").into(), at_name)] {
            let manager = ServiceManager::new(Some(value), Some("60000000")).unwrap();
            assert_eq!(manager.watchdog(), Some(Duration::from_secs(30)));
            manager.ready();
            manager.alive();
            manager.stopping();
            let said = [receive(&socket), receive(&socket), receive(&socket)];
            assert_eq!(said, ["READY=1\nSTATUS=watching", "WATCHDOG=1", "STOPPING=1\nSTATUS=draining"]);
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn without_one_nothing_is_said_and_nothing_fails() {
        let manager = ServiceManager::new(None, Some("60000000")).unwrap();
        manager.ready();
        assert_eq!(manager.watchdog(), None);
        let nobody = ServiceManager::new(Some("/nonexistent/socket".into()), Some("nonsense")).unwrap();
        nobody.ready();
        assert_eq!(nobody.watchdog(), None);
    }
}
