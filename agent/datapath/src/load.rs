//! Bringing the programs into the kernel, with the maps that are pinned or with new ones.
//!
//! The pinned set of maps is continued only if every map in it is what the ABI says and
//! every key in it is one that this agent would write. Otherwise a whole new set is made
//! beside it: indices in one map mean entries of another, so that a mixture of old and
//! new would send packets to the wrong node.

use std::collections::{BTreeMap, BTreeSet};

use aya::EbpfLoader;
use aya::maps::{Map, MapData, MapInfo, loaded_maps};
use aya::programs::{ProgramError, ProgramInfo, ProgramType, loaded_programs};
use aya::sys::is_program_supported;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use tracing::{debug, info, warn};
use twill_abi::MapSpec;
use twill_core::chain::chain;

use super::exclusions::Exclusions;
use super::maps::{Maps, MapsError};
use super::operator::Switch;
use super::permits::Permits;
use super::pins::{self, AttachmentKind, Entries, PinError, Pins};
use super::undisturbed::{self, Undisturbed};
use super::{Options, Sizes, probe};
use crate::attach::{tcx, xdp};
use crate::error::DatapathError;
use crate::place::HOOKS;
use crate::programs::{Programs, classifier};

/// Programs in the kernel, not attached yet.
pub(super) struct Loaded {
    pub(super) programs: Programs,
    pub(super) maps: Maps,
    pub(super) permits: Permits,
    pub(super) exclusions: Exclusions,
    /// Maps that only programs work with, and some of these are not always loaded: held open, for
    /// a map whose pin somebody removes must be there to be pinned again.
    pub(super) held: Vec<Map>,
    /// Names and identities of the maps.
    pub(super) map_ids: Vec<(&'static str, u32)>,
    /// Whether the maps are a new set, still in the folder `next`.
    pub(super) fresh: bool,
}

/// Loads the programs of `object`, which brings the maps `specs`.
pub(super) fn load(
    object: &[u8],
    specs: &[&'static MapSpec],
    pins: &Pins,
    options: &Options,
    common_prefix: u8,
) -> Result<Loaded, DatapathError> {
    let sizes = &options.sizes;
    let _undisturbed = Undisturbed::begin();
    raise_memlock();
    ask_kernel()?;
    let fresh = !can_continue(specs, pins, sizes, common_prefix)?;
    let directory = if fresh { pins.next() } else { pins.current() };
    pins.make(&directory)?;

    let mut loader = EbpfLoader::new();
    for spec in specs {
        loader.map_pin_path(spec.name, directory.join(spec.name));
        loader.map_max_entries(spec.name, sizes.entries(spec));
    }
    // The bytes in the binary have no alignment; those of an allocation do.
    let aligned = Vec::from(object);
    let mut ebpf = loader
        .load(&aligned)
        .map_err(|source| DatapathError::Load {
            source: Box::new(source),
        })?;
    // Before the programs: the verifier would say the same thing worse, or nothing at all.
    probe::encap(&mut ebpf)?;
    for hook in HOOKS {
        let name = hook.program.label();
        let program = classifier(&mut ebpf, name)?;
        undisturbed::load(|| program.load()).map_err(|source| rejected(name, source))?;
    }

    if let Err(error) = xdp::load(&mut ebpf) {
        warn!(error = %chain(&error), "guard not loaded for XDP");
    }

    let mut map_ids = Vec::new();
    let mut taken: BTreeMap<&str, Map> = BTreeMap::new();
    for spec in specs {
        if let Some(info) = pins::info(&directory.join(spec.name))? {
            map_ids.push((spec.name, info.id()));
        }
        if let Some(map) = ebpf.take_map(spec.name) {
            taken.insert(spec.name, map);
        }
    }
    let mut take = |name| taken.remove(name).ok_or(MapsError::Missing(name));
    let mut maps = Maps::open(sizes, &mut take)?;
    if fresh {
        // The operator's word outlives the maps. Where none can be read there is none to keep.
        match Switch::last_word(pins) {
            Ok(asked) => maps.keep_operator(asked)?,
            Err(error) => debug!(%error, "read the operator's override"),
        }
    }
    let programs = Programs::pin(&mut ebpf, &directory)?;
    let permits = Permits::open(&mut take)?;
    let exclusions = Exclusions::open(&options.exclude, &mut take)?;
    Ok(Loaded {
        programs,
        maps,
        permits,
        exclusions,
        held: taken.into_values().collect(),
        map_ids,
        fresh,
    })
}

fn can_continue(
    specs: &[&'static MapSpec],
    pins: &Pins,
    sizes: &Sizes,
    common_prefix: u8,
) -> Result<bool, DatapathError> {
    let mut missing = Vec::new();
    for spec in specs {
        match pins::info(&pins.map(spec.name))? {
            None => missing.push(spec.name),
            Some(info) => {
                let entries = Entries::Exactly(sizes.entries(spec));
                if let Err(misfit) = pins::verify(&info, spec, entries) {
                    warn!(map = spec.name, %misfit, "pinned map does not fit: starting with new maps");
                    return Ok(false);
                }
            }
        }
    }
    if missing.len() == specs.len() {
        return Ok(false);
    }
    if !missing.is_empty() {
        warn!(
            ?missing,
            "pinned maps are incomplete: starting with new maps"
        );
        return Ok(false);
    }
    if !serve_what_is_attached(pins)? {
        warn!(
            "programs are attached that use other maps than the pinned ones: starting with new maps"
        );
        return Ok(false);
    }
    let maps = Maps::open(sizes, |name| {
        let open = |source| MapsError::Open { map: name, source };
        let data = MapData::from_pin(pins.map(name)).map_err(open)?;
        Map::from_map_data(data).map_err(open)
    })?;
    if !maps.keys_are_ours(common_prefix)? {
        warn!(
            common_prefix,
            "pinned maps are keyed otherwise than this network's: starting with new maps"
        );
        return Ok(false);
    }
    info!(pins = %pins.current().display(), "continuing with the pinned maps");
    Ok(true)
}

/// Whether the programs that the pins of this ABI version know as attached use the maps that
/// are pinned beside them. A start that was cut off while it exchanged one set for another
/// leaves maps of both, which must not be taken for one: an index in a map of one means
/// nothing in the other's.
fn serve_what_is_attached(pins: &Pins) -> Result<bool, PinError> {
    let folder = pins.current();
    let mut programs = BTreeSet::new();
    for pin in pins::list(&folder)?
        .iter()
        .filter_map(|path| pins::attachment(path))
    {
        // A pin that is none of ours says nothing about the maps; attaching replaces it.
        let program = match pin.kind {
            AttachmentKind::Tcx | AttachmentKind::Xdp(_) => {
                tcx::program_of(&pin.path).ok().flatten()
            }
            AttachmentKind::Filter { .. } => {
                let program = ProgramInfo::from_pin(&pin.path);
                program.ok().map(|program| program.id())
            }
        };
        programs.extend(program);
    }
    let used: BTreeSet<u32> = loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| programs.contains(&program.id()))
        .filter_map(|program| program.map_ids().ok().flatten())
        .flatten()
        .collect();
    let pinned = pins::map_ids_in(&folder)?;
    let is_known = |map: &MapInfo| {
        let name = map.name_as_str();
        name.is_some_and(|name| twill_abi::MAPS.iter().any(|spec| spec.name == name))
    };
    Ok(loaded_maps()
        .filter_map(Result::ok)
        .filter(|map| used.contains(&map.id()) && is_known(map))
        .all(|map| pinned.contains(&map.id())))
}

impl Sizes {
    /// How many entries a map gets.
    pub(super) fn entries(&self, spec: &MapSpec) -> u32 {
        use twill_abi::maps::{
            MAPPINGS, ODD_ROUTES, OVERLAY_ROUTES, PERMITS_POD, PERMITS_WIRE, VTEP_COUNTERS,
            VTEP_SOURCES, VTEP_STATE, VTEPS,
        };
        let is_one_of = |names: &[MapSpec]| names.iter().any(|other| other.name == spec.name);
        if is_one_of(&[VTEPS, VTEP_STATE, VTEP_SOURCES, VTEP_COUNTERS]) {
            self.vteps
        } else if is_one_of(&[OVERLAY_ROUTES, ODD_ROUTES]) {
            self.routes
        } else if is_one_of(&[PERMITS_POD, PERMITS_WIRE, MAPPINGS]) {
            self.permits
        } else {
            spec.max_entries
        }
    }
}

/// Asks whether this process may load programs, before aya does: what its own questions
/// bring back without permission, it takes for an old kernel and says something else.
fn ask_kernel() -> Result<(), DatapathError> {
    match is_program_supported(ProgramType::SchedClassifier) {
        Ok(true) => Ok(()),
        Ok(false) => Err(DatapathError::OldKernel),
        Err(source) => Err(DatapathError::MayNotLoad(source)),
    }
}

/// Kernels before 5.11 account maps to this limit; later ones ignore it.
fn raise_memlock() {
    if let Err(error) = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY) {
        debug!(%error, "the limit on locked memory stays");
    }
}

/// The verifier's last words; all of them go to the debug log.
fn rejected(program: &'static str, source: ProgramError) -> DatapathError {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = source
    else {
        return DatapathError::Inspect { program, source };
    };
    let log = verifier_log.to_string();
    debug!(program, %log, "verifier");
    let reason = log
        .lines()
        .rfind(|line| !line.trim().is_empty() && !is_statistics(line))
        .unwrap_or("no output")
        .trim()
        .to_owned();
    DatapathError::Verifier {
        program,
        reason,
        source: io_error,
    }
}

fn is_statistics(line: &str) -> bool {
    ["processed ", "stack depth", "verification time"]
        .iter()
        .any(|prefix| line.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use twill_abi::MAPS;

    use super::*;

    #[test]
    fn options_size_the_maps_they_name_and_no_others() {
        let sizes = Sizes {
            vteps: 1,
            routes: 2,
            permits: 3,
        };
        for spec in MAPS {
            let expected = match spec.name {
                "vteps" | "vtep_state" | "vtep_sources" | "vtep_counters" => 1,
                "overlay_routes" | "odd_routes" => 2,
                "permits_pod" | "permits_wire" | "mappings" => 3,
                _ => spec.max_entries,
            };
            assert_eq!(sizes.entries(spec), expected, "{}", spec.name);
        }
    }

    #[test]
    fn by_default_the_maps_are_as_large_as_the_abi_says() {
        for spec in MAPS {
            assert_eq!(
                Sizes::default().entries(spec),
                spec.max_entries,
                "{}",
                spec.name
            );
        }
    }
}
