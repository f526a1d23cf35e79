//! Sets of maps: continued where they are whole and ours, else replaced.

use std::fs;
use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, bail};
use aya::maps::{HashMap, Map, MapData};
use serde_json::Value;
use twill_abi::maps::PERMITS_POD;
use twill_abi::{Be16, FlowTuple, PERMIT_FLAG_DIRECT, Permit};
use twill_agent::datapath::Datapath;
use twill_agent::datapath::attach::AttachBy;
use twill_agent::datapath::reader::Reader;
use twill_tests::required;

use super::lab::{Lab, ids, settings};

#[test]
fn a_restart_continues_with_the_maps_and_replaces_the_programs_in_place() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(AttachBy::Auto)?;
    let first = lab.start()?;
    assert_eq!(
        lab.attached("flannel.7")?,
        [("to_overlay".to_owned(), first[0])]
    );
    assert_eq!(lab.attached("up0")?, [("from_uplink".to_owned(), first[1])]);
    let maps = lab.pins().map_ids()?;
    let config = Reader::open(&lab.pins())?.maps().config()?;
    assert!(config.permit_pace_ns > 0, "no pace of permits: {config:?}");

    let second = lab.with(async |options, interfaces| {
        let mut datapath = Datapath::open(options, 7, 24)?;
        let observed = datapath.observe()?;
        assert_eq!(observed.routes.len(), 1, "the peer of the first start");
        // Not attached yet: the programs of the first start go on.
        assert_eq!(ids(&datapath), [] as [u32; 0]);
        datapath.attach(&interfaces).await?;
        Ok(ids(&datapath))
    })?;
    assert!(first.iter().all(|old| !second.contains(old)));
    assert_eq!(
        lab.attached("flannel.7")?,
        [("to_overlay".to_owned(), second[0])]
    );
    assert_eq!(
        lab.attached("up0")?,
        [("from_uplink".to_owned(), second[1])]
    );
    assert_eq!(lab.pins().map_ids()?, maps, "the same maps");
    Ok(())
}

#[test]
fn a_pin_that_does_not_fit_is_never_read_through() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(AttachBy::Auto)?;
    let first = lab.start()?;
    let before = lab.pins().map_ids()?;
    // Another map under the name of ours: same kind, larger values.
    let pin = lab.pins().map("vteps");
    fs::remove_file(&pin)?;
    let pin = pin.display().to_string();
    lab.namespace.run(&[
        "bpftool", "map", "create", &pin, "type", "array", "key", "4", "value", "4096", "entries",
        "16384", "name", "vteps",
    ])?;

    let second = lab.with(async |options, interfaces| {
        let mut datapath = Datapath::open(options, 7, 24)?;
        assert_eq!(datapath.observe()?.routes.len(), 0, "a new set is empty");
        // The old programs still use the old maps: nothing was taken from under them.
        assert_eq!(lab.attached("up0")?, [("from_uplink".to_owned(), first[1])]);
        datapath.write_settings(&settings(&interfaces)?)?;
        datapath.attach(&interfaces).await?;
        Ok(ids(&datapath))
    })?;
    assert_eq!(
        lab.attached("up0")?,
        [("from_uplink".to_owned(), second[1])]
    );
    let after = lab.pins().map_ids()?;
    assert!(before.is_disjoint(&after), "a whole new set");
    assert!(!lab.pins().next().exists(), "nothing is left half way");
    Reader::open(&lab.pins())?;
    Ok(())
}

#[test]
fn a_map_that_fits_but_is_not_what_the_programs_use_is_not_continued() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(AttachBy::Auto)?;
    let first = lab.start()?;
    let before = lab.pins().map_ids()?;
    // As a start leaves it that was cut off while it exchanged one set for another.
    let pin = lab.pins().map("overlay_routes");
    fs::remove_file(&pin)?;
    let pin = pin.display().to_string();
    lab.namespace.run(&[
        "bpftool",
        "map",
        "create",
        &pin,
        "type",
        "hash",
        "key",
        "16",
        "value",
        "4",
        "entries",
        "16384",
        "name",
        "overlay_routes",
        "flags",
        "1",
    ])?;
    lab.with(async |options, interfaces| {
        let mut datapath = Datapath::open(options, 7, 24)?;
        assert_eq!(lab.attached("up0")?, [("from_uplink".to_owned(), first[1])]);
        datapath.write_settings(&settings(&interfaces)?)?;
        datapath.attach(&interfaces).await?;
        Ok(())
    })?;
    let after = lab.pins().map_ids()?;
    assert!(before.is_disjoint(&after), "a whole new set");
    Ok(())
}

#[test]
fn maps_keyed_by_another_prefix_length_are_not_continued() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(AttachBy::Auto)?;
    lab.start()?;
    lab.with(async |options, _| {
        let datapath = Datapath::open(options, 7, 25)?;
        assert_eq!(datapath.observe()?.routes.len(), 0);
        Ok(())
    })
}

/// What the map says is excluded: prefix lengths and addresses, the mapped form taken off.
fn excluded(lab: &Lab) -> Result<Vec<String>> {
    let pin = lab.pins().map("excluded").display().to_string();
    let words = ["bpftool", "-j", "map", "dump", "pinned", &pin];
    let entries: Value = serde_json::from_str(&lab.namespace.run(&words)?)?;
    let entries = entries.as_array().context("no list")?;
    let byte = |byte: &Value| -> Result<u8> {
        let text = byte.as_str().context("no byte")?;
        Ok(u8::from_str_radix(text.trim_start_matches("0x"), 16)?)
    };
    let mut found = Vec::new();
    for entry in entries {
        let key = entry["key"].as_array().context("no key")?;
        let key: Vec<u8> = key.iter().map(byte).collect::<Result<_>>()?;
        let [length, _, _, _, .., a, b, c, d] = key[..] else {
            bail!("a key of {} bytes", key.len());
        };
        found.push(format!("{a}.{b}.{c}.{d}/{}", length - 96));
    }
    found.sort();
    Ok(found)
}

#[test]
fn a_restart_with_other_exclusions_ends_what_they_forbid() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let mut lab = Lab::new(AttachBy::Auto)?;
    lab.options.exclude = vec!["10.9.0.0/16".parse()?, "10.244.1.5/32".parse()?];
    lab.start()?;
    assert_eq!(excluded(&lab)?, ["10.244.1.5/32", "10.9.0.0/16"]);

    let tuple = |local: [u8; 4], remote: [u8; 4]| FlowTuple {
        local: Ipv4Addr::from(local).into(),
        remote: Ipv4Addr::from(remote).into(),
        local_port: Be16::from_host(1),
        remote_port: Be16::from_host(2),
        protocol: 17,
        reserved: [0; 3],
    };
    let mine = tuple([10, 244, 1, 6], [10, 244, 2, 2]);
    let theirs = tuple([10, 244, 1, 7], [10, 244, 3, 3]);
    let other = tuple([10, 244, 1, 7], [10, 244, 2, 2]);
    let asked = tuple([10, 244, 1, 6], [10, 244, 2, 3]);
    let data = MapData::from_pin(lab.pins().map(PERMITS_POD.name))?;
    let mut permits: HashMap<_, FlowTuple, Permit> = Map::from_map_data(data)?.try_into()?;
    for (tuple, flags) in [
        (mine, PERMIT_FLAG_DIRECT),
        (theirs, PERMIT_FLAG_DIRECT),
        (other, PERMIT_FLAG_DIRECT),
        // Of this one the table `inet twill` decides.
        (asked, 0),
    ] {
        let record = Permit {
            flags,
            ..Permit::new(&tuple, &tuple, 1, 0)
        };
        permits.insert(tuple, record, 0)?;
    }
    lab.options.exclude = vec!["10.244.1.6/32".parse()?, "10.244.3.0/24".parse()?];
    lab.start()?;
    assert_eq!(excluded(&lab)?, ["10.244.1.6/32", "10.244.3.0/24"]);
    let left = |tuple| permits.get(&tuple, 0).is_ok();
    assert_eq!(
        [mine, theirs, other, asked].map(left),
        [false, false, true, true]
    );
    Ok(())
}
