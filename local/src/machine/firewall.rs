//! The packet filter's flavour. Kernels have one, the other, or both, and the distribution's choice is made by package
//! scripts that never ran in this image.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::MachineError;

/// Where the chosen flavour's programs are found under their plain names.
const CHOSEN: &str = "/run/wopr/bin";
/// Where all flavours lie.
const PROGRAMS: &str = "/usr/sbin";
/// In the order they are tried.
const FLAVOURS: [&str; 2] = ["nft", "legacy"];

/// Makes the first flavour that works the machine's; answers with the `PATH` to find it by.
pub(super) async fn choose() -> Result<String, MachineError> {
    let mut said = Vec::new();
    for flavour in FLAVOURS {
        match works(flavour).await {
            Ok(()) => {
                let prepare = |source| MachineError::Prepare { what: CHOSEN.to_owned(), source };
                link(flavour, Path::new(CHOSEN)).map_err(prepare)?;
                tracing::info!("the packet filter is iptables-{flavour}");
                return Ok(format!("{CHOSEN}:{PROGRAMS}:/usr/bin"));
            }
            Err(why) => said.push(format!("iptables-{flavour}: {why}")),
        }
    }
    Err(MachineError::NoFirewall { said: said.join("; ") })
}

/// The engine needs the table of address translation.
async fn works(flavour: &str) -> Result<(), String> {
    let output = Command::new(format!("{PROGRAMS}/iptables-{flavour}"))
        .args(["--wait", "-t", "nat", "-n", "-L"])
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}

fn link(flavour: &str, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for program in ["iptables", "ip6tables"] {
        for end in ["", "-save", "-restore"] {
            let link = directory.join(format!("{program}{end}"));
            match fs::remove_file(&link) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => symlink(format!("{PROGRAMS}/{program}-{flavour}{end}"), &link)?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_lead_to_the_chosen_flavour_and_may_change() {
        let directory = std::env::temp_dir().join(format!("wopr-firewall-{}", std::process::id()));
        for flavour in ["legacy", "nft"] {
            link(flavour, &directory).unwrap();
            let target = fs::read_link(directory.join("iptables-save")).unwrap();
            assert_eq!(target, Path::new(&format!("/usr/sbin/iptables-{flavour}-save")));
        }
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 6);
        fs::remove_dir_all(&directory).unwrap();
    }
}
