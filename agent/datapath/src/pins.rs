//! What is pinned where, and whether a pin is what its name says.
//!
//! ```text
//! <bpffs>/twill/<instance>/          0700
//!     v<ABI_VERSION>/
//!         <map>                      every map by its name
//!         link_<program>_<ifindex>   a TCX link
//!         xdp_<program>_<ifindex>_<native|generic>
//!                                    an XDP link
//!         filter_<program>_<ifindex>_<priority>_<handle>
//!                                    the program of a tc filter
//!         prog_<program>             every program that can be attached
//!         next/                      a new set of maps and programs, until they are attached
//! ```
//!
//! Everything below `<instance>` is ours; nothing outside is ever touched.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapError, MapInfo};
use aya::programs::ProgramError;
use aya::sys::SyscallError;
use nix::errno::Errno;
use thiserror::Error;
use twill_abi::{ABI_VERSION, MapSpec};

use crate::crash;
use twill_core::instance::InstanceName;

/// Only root looks at maps.
const DIRECTORY_MODE: u32 = 0o700;

/// The folders of one agent's pins.
#[derive(Clone, Debug)]
pub struct Pins {
    instance: PathBuf,
}

/// A pin that stands for an attached program.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AttachmentPin {
    /// Where it is.
    pub path: PathBuf,
    /// Name of the program.
    pub program: String,
    /// Interface index.
    pub ifindex: u32,
    /// Which way it is attached.
    pub kind: AttachmentKind,
}

/// Which way a program is attached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AttachmentKind {
    /// By a TCX link; the pin is the link.
    Tcx,
    /// By an XDP link; the pin is the link.
    Xdp(XdpKind),
    /// By a tc filter; the pin is the program.
    Filter {
        /// Priority.
        priority: u16,
        /// Handle.
        handle: u32,
    },
}

/// Where in the kernel an XDP program runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum XdpKind {
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
}

impl XdpKind {
    /// Its name, in pins and for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }
}

/// What went wrong with pins.
#[derive(Debug, Error)]
pub enum PinError {
    /// A folder cannot be made.
    #[error("make the folder {path}")]
    MakeDirectory {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A folder cannot be read.
    #[error("list the pins in {path}")]
    List {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A pin cannot be opened.
    #[error("open the pin {path}")]
    Open {
        /// The pin.
        path: PathBuf,
        /// Why not.
        #[source]
        source: MapError,
    },
    /// A map cannot be pinned.
    #[error("pin a map at {path}")]
    Pin {
        /// The pin to be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: MapError,
    },
    /// A program cannot be pinned.
    #[error("pin a program at {path}")]
    PinProgram {
        /// The pin to be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: aya::pin::PinError,
    },
    /// The pin of a program cannot be opened.
    #[error("open the program pinned at {path}")]
    OpenProgram {
        /// The pin.
        path: PathBuf,
        /// Why not.
        #[source]
        source: ProgramError,
    },
    /// A pin cannot be removed.
    #[error("remove the pin {path}")]
    Remove {
        /// The pin.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A pin cannot be renamed.
    #[error("rename the pin {from} to {to}")]
    Rename {
        /// Its name.
        from: PathBuf,
        /// Its new name.
        to: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// In what a pinned map differs from what its name stands for.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("{what} is {found}, not {expected}")]
pub struct Misfit {
    /// Type, key size, value size, entries or flags.
    pub what: &'static str,
    /// What the kernel says.
    pub found: u32,
    /// What the ABI says.
    pub expected: u32,
}

impl Pins {
    /// The folders of `instance` on the BPF file system at `bpffs`.
    pub fn new(bpffs: &Path, instance: &InstanceName) -> Self {
        Self {
            instance: bpffs.join("twill").join(instance.as_str()),
        }
    }

    /// The folder of everything that is ours.
    pub fn instance(&self) -> &Path {
        &self.instance
    }

    /// The folder of this ABI version.
    pub fn current(&self) -> PathBuf {
        self.instance.join(format!("v{ABI_VERSION}"))
    }

    /// The folder of a set of maps that no program uses yet.
    pub fn next(&self) -> PathBuf {
        self.current().join("next")
    }

    /// The pin of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.current().join(name)
    }

    /// The pin of a program's TCX link.
    pub fn link(&self, program: &str, ifindex: u32) -> PathBuf {
        self.current().join(format!("link_{program}_{ifindex}"))
    }

    /// The pin of a program's XDP link.
    pub fn xdp(&self, program: &str, ifindex: u32, kind: XdpKind) -> PathBuf {
        let kind = kind.label();
        self.current()
            .join(format!("xdp_{program}_{ifindex}_{kind}"))
    }

    /// The folder of everything that is pinned, whatever version it is of.
    pub fn folder(&self) -> &Path {
        &self.instance
    }

    /// The pin of a program, in a folder of an ABI version.
    pub fn program(folder: &Path, program: &str) -> PathBuf {
        folder.join(format!("prog_{program}"))
    }

    /// The pin of a tc filter's program.
    pub fn filter(&self, program: &str, ifindex: u32, priority: u16, handle: u32) -> PathBuf {
        self.current()
            .join(format!("filter_{program}_{ifindex}_{priority}_{handle}"))
    }

    /// Makes a folder and those above it, up to the BPF file system, for root alone.
    pub fn make(&self, directory: &Path) -> Result<(), PinError> {
        let error = |source| PinError::MakeDirectory {
            path: directory.to_owned(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(directory)
            .map_err(error)?;
        // A folder that somebody made before us, or an older version with another mode.
        fs::set_permissions(&self.instance, fs::Permissions::from_mode(DIRECTORY_MODE))
            .map_err(error)
    }

    /// The folders of all ABI versions, this one's first.
    pub fn versions(&self) -> Result<Vec<PathBuf>, PinError> {
        let current = self.current();
        let mut found: Vec<PathBuf> = list(&self.instance)?
            .into_iter()
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str());
                name.and_then(|name| name.strip_prefix('v'))
                    .is_some_and(|number| number.parse::<u32>().is_ok())
            })
            .collect();
        found.sort_by_key(|path| (*path != current, path.clone()));
        Ok(found)
    }

    /// Every attached program that the pins of any ABI version know of.
    pub fn attachments(&self) -> Result<Vec<AttachmentPin>, PinError> {
        let mut found = Vec::new();
        for version in self.versions()? {
            found.extend(list(&version)?.iter().filter_map(|path| attachment(path)));
        }
        Ok(found)
    }

    /// Identities of all maps that are pinned here: a program that uses one of them is ours.
    pub fn map_ids(&self) -> Result<BTreeSet<u32>, PinError> {
        let mut ids = BTreeSet::new();
        for version in self.versions()? {
            for folder in [version.join("next"), version] {
                ids.extend(map_ids_in(&folder)?);
            }
        }
        Ok(ids)
    }

    /// Makes the maps and programs of [`Self::next`] the current ones.
    pub fn promote(&self) -> Result<(), PinError> {
        for from in list(&self.next())? {
            let Some(name) = from.file_name() else {
                continue;
            };
            let to = self.current().join(name);
            // Renaming onto a pin replaces it: the old map lives as long as a program uses it.
            fs::rename(&from, &to).map_err(|source| PinError::Rename { from, to, source })?;
            crash::point("promote");
        }
        remove_directory(&self.next())
    }

    /// Forgets the maps of other ABI versions: nothing uses them any more.
    pub fn forget_other_versions(&self) -> Result<(), PinError> {
        let current = self.current();
        for version in self.versions()? {
            if version != current {
                clear(&version)?;
            }
        }
        Ok(())
    }

    /// Forgets a new set of maps that was never used.
    pub fn discard_next(&self) -> Result<(), PinError> {
        clear(&self.next())
    }

    /// Removes every folder and pin of this agent, with the links and maps behind them.
    /// Goes on after an error and returns all of them.
    pub fn remove_all(&self) -> Vec<PinError> {
        let mut errors = Vec::new();
        match self.versions() {
            Ok(versions) => {
                for path in versions {
                    errors.extend(clear(&path).err());
                    crash::point("forget");
                }
            }
            Err(error) => errors.push(error),
        }
        errors.extend(remove_directory(&self.instance).err());
        if let Some(parent) = self.instance.parent()
            && matches!(list(parent), Ok(others) if others.is_empty())
        {
            errors.extend(remove_directory(parent).err());
        }
        errors
    }
}

/// Identities of the maps that are pinned in a folder.
pub(super) fn map_ids_in(folder: &Path) -> Result<BTreeSet<u32>, PinError> {
    let mut ids = BTreeSet::new();
    for path in list(folder)? {
        let known = twill_abi::MAPS.iter().any(|spec| path.ends_with(spec.name));
        if known && let Some(info) = info(&path)? {
            ids.insert(info.id());
        }
    }
    Ok(ids)
}

/// Pins a map, in the place of whatever is there.
pub fn pin_map(id: u32, path: &Path) -> Result<(), PinError> {
    let failed = |source| PinError::Pin {
        path: path.to_owned(),
        source,
    };
    let map = MapData::from_id(id).map_err(failed)?;
    replace(path, |path| {
        map.pin(path)
            .map_err(|error| failed(MapError::PinError { name: None, error }))
    })
}

/// Has `pin` make a pin, and puts it in the place of whatever is at `path`: what is there stays
/// where it cannot be made.
pub fn replace<T, E: From<PinError>>(
    path: &Path,
    pin: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    // The BPF file system takes no dots.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = path.with_file_name(format!("new_{name}"));
    remove(&unfinished)?;
    let pinned = pin(&unfinished)?;
    match fs::rename(&unfinished, path) {
        Ok(()) => Ok(pinned),
        Err(source) => {
            let renaming = PinError::Rename {
                from: unfinished.clone(),
                to: path.to_owned(),
                source,
            };
            remove(&unfinished)?;
            Err(renaming.into())
        }
    }
}

/// Whether it is this process or the host that lacks something: such an error says nothing of
/// what it was about.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    let number = error.raw_os_error();
    let number = number.map(Errno::from_raw);
    matches!(number, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM))
}

impl PinError {
    /// See [`is_shortage`].
    pub(super) fn is_shortage(&self) -> bool {
        match self {
            Self::Open { source, .. } | Self::Pin { source, .. } => {
                if let MapError::SyscallError(SyscallError { io_error, .. }) = source {
                    is_shortage(io_error)
                } else {
                    false
                }
            }
            // It takes no file.
            Self::PinProgram { .. } => false,
            Self::OpenProgram { source, .. } => {
                if let ProgramError::SyscallError(SyscallError { io_error, .. }) = source {
                    is_shortage(io_error)
                } else {
                    false
                }
            }
            Self::MakeDirectory { source, .. }
            | Self::List { source, .. }
            | Self::Remove { source, .. }
            | Self::Rename { source, .. } => is_shortage(source),
        }
    }
}

/// What the kernel knows of the map pinned at `path`; `None` if nothing is pinned there.
pub fn info(path: &Path) -> Result<Option<MapInfo>, PinError> {
    match MapInfo::from_pin(path) {
        Ok(info) => Ok(Some(info)),
        Err(MapError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(source) => Err(PinError::Open {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Whether a map is what `spec` says, with so many `entries`.
pub fn verify(info: &MapInfo, spec: &MapSpec, entries: Entries) -> Result<(), Misfit> {
    let kind = info.map_type().map_or(0, |kind| kind as u32);
    let max_entries = match entries {
        Entries::Exactly(count) => count,
        Entries::Any => info.max_entries(),
    };
    let facts = [
        ("type", kind, spec.kind as u32),
        ("key size", info.key_size(), spec.key_size),
        ("value size", info.value_size(), spec.value_size),
        ("number of entries", info.max_entries(), max_entries),
        ("flags", info.map_flags(), spec.flags),
    ];
    for (what, found, expected) in facts {
        if found != expected {
            return Err(Misfit {
                what,
                found,
                expected,
            });
        }
    }
    Ok(())
}

/// How many entries a map must have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Entries {
    /// So many.
    Exactly(u32),
    /// As many as it likes: for readers, which do not know the agent's options.
    Any,
}

/// Removes a pin; one that is not there is as good.
pub fn remove(path: &Path) -> Result<(), PinError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(PinError::Remove {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

pub(super) fn attachment(path: &Path) -> Option<AttachmentPin> {
    let name = path.file_name()?.to_str()?;
    let (kind, program, ifindex) = if let Some(rest) = name.strip_prefix("link_") {
        let (program, ifindex) = rest.rsplit_once('_')?;
        (AttachmentKind::Tcx, program, ifindex)
    } else if let Some(rest) = name.strip_prefix("xdp_") {
        let (rest, kind) = rest.rsplit_once('_')?;
        let (program, ifindex) = rest.rsplit_once('_')?;
        let kind = [XdpKind::Native, XdpKind::Generic]
            .into_iter()
            .find(|known| known.label() == kind)?;
        (AttachmentKind::Xdp(kind), program, ifindex)
    } else {
        let rest = name.strip_prefix("filter_")?;
        let (rest, handle) = rest.rsplit_once('_')?;
        let (rest, priority) = rest.rsplit_once('_')?;
        let (program, ifindex) = rest.rsplit_once('_')?;
        let kind = AttachmentKind::Filter {
            priority: priority.parse().ok()?,
            handle: handle.parse().ok()?,
        };
        (kind, program, ifindex)
    };
    Some(AttachmentPin {
        path: path.to_owned(),
        program: program.to_owned(),
        ifindex: ifindex.parse().ok()?,
        kind,
    })
}

/// What a folder holds, in the order of names; nothing if it is not there.
pub(super) fn list(directory: &Path) -> Result<Vec<PathBuf>, PinError> {
    let error = |source| PinError::List {
        path: directory.to_owned(),
        source,
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(source) if source.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(error(source)),
    };
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(error)?;
    paths.sort();
    Ok(paths)
}

/// Removes a folder with everything in it.
fn clear(directory: &Path) -> Result<(), PinError> {
    for path in list(directory)? {
        if path.is_dir() {
            clear(&path)?;
        } else {
            remove(&path)?;
        }
    }
    remove_directory(directory)
}

fn remove_directory(path: &Path) -> Result<(), PinError> {
    match fs::remove_dir(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(PinError::Remove {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: Option<(&str, u32, AttachmentKind)>) {
        let found = attachment(Path::new(name)).map(|pin| (pin.program, pin.ifindex, pin.kind));
        let expected = expected.map(|(program, ifindex, kind)| (program.to_owned(), ifindex, kind));
        assert_eq!(found, expected, "{name}");
    }

    #[test]
    fn names_of_pins_say_what_is_attached_where() {
        check(
            "link_to_overlay_12",
            Some(("to_overlay", 12, AttachmentKind::Tcx)),
        );
        let kind = AttachmentKind::Filter {
            priority: 50,
            handle: 1,
        };
        check("filter_from_uplink_3_50_1", Some(("from_uplink", 3, kind)));
    }

    #[test]
    fn other_names_are_nobody_s_attachment() {
        for name in [
            "vteps",
            "link_",
            "link_to_overlay",
            "link_to_overlay_-1",
            "link_to_overlay_99999999999",
            "filter_a_1_2",
            "xdp_guard_3",
            "xdp_guard_3_offload",
            "filter_a_1_70000_1",
            "next",
        ] {
            check(name, None);
        }
    }

    #[test]
    fn the_writer_and_the_reader_of_names_agree() {
        let pins = Pins::new(Path::new("/b"), &"x".parse().unwrap());
        let pin = attachment(&pins.link("to_overlay", 7)).unwrap();
        assert_eq!((pin.program.as_str(), pin.ifindex), ("to_overlay", 7));
        let pin = attachment(&pins.xdp("guard", 7, XdpKind::Generic)).unwrap();
        assert_eq!((pin.program.as_str(), pin.ifindex), ("guard", 7));
        assert_eq!(pin.kind, AttachmentKind::Xdp(XdpKind::Generic));
        let pin = attachment(&pins.filter("guard", 7, 50, 9)).unwrap();
        assert_eq!((pin.program.as_str(), pin.ifindex), ("guard", 7));
        assert_eq!(
            pin.kind,
            AttachmentKind::Filter {
                priority: 50,
                handle: 9
            }
        );
    }
}
