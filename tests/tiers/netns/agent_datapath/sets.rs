//! Sets of maps: continued where they are whole and ours, else replaced.

use std::fs;

use anyhow::Result;
use twill_agent::datapath::Datapath;
use twill_agent::datapath::hooks::AttachBy;
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
