//! Links and maps are the same before and after: a detour by another link, or by empty maps,
//! would cost no packet, for the kernel carries what the programs do not, but speed and policy.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use aya::maps::MapInfo;
use aya::programs::links::{FdLink, PinnedLink};
use twill_testbed::agent::{Agent, Build};
use twill_tests::required;

use crate::scene::Scene;

/// Identities of what is pinned, by name.
#[derive(Debug, Eq, PartialEq)]
struct Identities {
    links: BTreeMap<String, u32>,
    maps: BTreeMap<String, u32>,
}

impl Identities {
    fn of(agent: &Agent) -> Result<Self> {
        let mut found = Self {
            links: BTreeMap::new(),
            maps: BTreeMap::new(),
        };
        for version in fs::read_dir(agent.pins())? {
            for pin in fs::read_dir(version?.path())? {
                let path = pin?.path();
                let name = path.file_name().context("a pin without name")?;
                let name = name.to_string_lossy().into_owned();
                if name.starts_with("link_") || name.starts_with("xdp_") {
                    let link = FdLink::from(PinnedLink::from_pin(&path)?);
                    found.links.insert(name, link.info()?.id());
                // Each start brings programs of its own.
                } else if path.is_file() && !name.starts_with("prog_") {
                    found.maps.insert(name, MapInfo::from_pin(&path)?.id());
                }
            }
        }
        ensure!(found.links.len() > 4 && found.maps.len() > 10, "{found:?}");
        Ok(found)
    }
}

#[test]
fn links_and_maps_outlive_the_agent_and_links_an_upgrade() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut scene = Scene::new(&[])?;
    let agent = &mut scene.node().agent;
    let before = Identities::of(agent)?;
    agent.stop()?;
    agent.start_again()?;
    agent.wait_ready()?;
    assert_eq!(Identities::of(agent)?, before, "after SIGTERM");
    agent.kill()?;
    agent.start_again()?;
    agent.wait_ready()?;
    assert_eq!(Identities::of(agent)?, before, "after SIGKILL");
    for build in [Build::Next, Build::Usual] {
        agent.stop()?;
        agent.set_build(build);
        agent.start_again()?;
        agent.wait_ready()?;
        let after = Identities::of(agent)?;
        assert_eq!(after.links, before.links, "with {build:?}");
        ensure!(
            after.maps["permits_pod"] != before.maps["permits_pod"],
            "old maps"
        );
    }
    Ok(())
}
