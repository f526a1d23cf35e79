//! `subnet.env`, the file that CNI plugins wait for.

use std::fs;
use std::io;
use std::path::Path;

use tracing::{info, warn};
use twill_core::subnet::Subnet;
use twill_core::subnet_env::{self, SubnetEnv, previous_subnet};

use super::{FileError, atomic};

/// The subnet that this node had before, if the file says one. A file that cannot be read
/// is no reason not to start: the store knows which subnet this address holds.
pub fn previous(path: &Path) -> Option<Subnet> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(path = %path.display(), %error, "the subnet of before cannot be read");
            return None;
        }
    };
    match previous_subnet(&text) {
        Ok(subnet) => Some(subnet),
        Err(error) => {
            warn!(path = %path.display(), %error, "the file names no subnet of before");
            None
        }
    }
}

/// The network that this node had before, if the file says one.
pub fn previous_network(path: &Path) -> Option<Subnet> {
    // What keeps it from being read was told with the subnet.
    subnet_env::previous_network(&fs::read_to_string(path).ok()?)
}

/// Writes the file, unless it says so already.
pub fn write(path: &Path, env: &SubnetEnv) -> Result<(), FileError> {
    let text = env.render();
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    atomic::replace(path, &text)?;
    // flannel's words.
    info!(subnet = %env.subnet, mtu = env.mtu, "Wrote subnet file to {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_start_finds_the_subnet_of_this_one() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("run/flannel/subnet.env");
        assert_eq!(previous(&path), None);
        let env = SubnetEnv {
            network: "10.244.0.0/16".parse().unwrap(),
            subnet: "10.244.3.0/24".parse().unwrap(),
            mtu: 1450,
            ip_masq: false,
        };
        write(&path, &env).unwrap();
        assert_eq!(previous(&path), Some(env.subnet));
        fs::write(&path, "rubbish").unwrap();
        assert_eq!(previous(&path), None);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(previous(&path), None);
    }
}
