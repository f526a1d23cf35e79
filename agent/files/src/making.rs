//! A device that is about to be made: until it carries its mark, this file proves that it is
//! ours, even if the agent dies in between. It names the MAC address, which is random.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use twill_core::vtep::MacAddr;

use super::{FileError, atomic};

/// Name of the file in the instance's run directory.
const NAME: &str = "making";

/// The file.
#[derive(Clone, Debug)]
pub struct Making(PathBuf);

impl Making {
    /// The file of the agent with this run directory.
    pub fn new(instance_dir: &Path) -> Self {
        Self(instance_dir.join(NAME))
    }

    /// A device with this MAC address is about to be made.
    pub fn begin(&self, mac: MacAddr) -> Result<(), FileError> {
        atomic::replace(&self.0, &mac.to_string())
    }

    /// Whether the making of the device with this MAC address was begun and not ended.
    pub fn is_begun(&self, mac: MacAddr) -> bool {
        fs::read_to_string(&self.0).is_ok_and(|text| text.parse() == Ok(mac))
    }

    /// The device carries its mark.
    pub fn end(&self) {
        // One that stays says nothing wrong: that MAC address was ours.
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != ErrorKind::NotFound
        {
            tracing::debug!(path = %self.0.display(), %error, "remove a file");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_device_that_was_begun_is_ours() {
        let root = tempfile::tempdir().unwrap();
        let making = Making::new(root.path());
        let (mac, other) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        assert!(!making.is_begun(mac));
        making.begin(mac).unwrap();
        assert!(making.is_begun(mac));
        assert!(!making.is_begun(other));
        making.end();
        making.end();
        assert!(!making.is_begun(mac));
    }
}
