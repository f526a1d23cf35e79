//! One pod after the other, by the pins alone: what the CNI plugin does beside a daemon, or while
//! there is none.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use aya::programs::ProgramInfo;
use nix::net::if_::if_nametoindex;
use twill_abi::maps::PERMITS_POD;
use twill_abi::{Be16, FlowTuple, Permit};
use twill_agent::datapath::Datapath;
use twill_agent::datapath::attach::AttachBy;
use twill_agent::datapath::permits::VethUse;
use twill_agent::datapath::pinned::{Pinned, PinnedError};
use twill_agent::datapath::pins::Pins;
use twill_agent::datapath::place::Interface;
use twill_agent::datapath::reader;
use twill_tests::required;

use super::lab::{BPFFS, Lab};

/// Nobody else is at these pins.
const AT_ONCE: Duration = Duration::ZERO;

fn veth(name: &str) -> Result<Interface> {
    Ok(Interface {
        name: name.to_owned(),
        ifindex: if_nametoindex(name)?,
    })
}

async fn open(lab: &Lab) -> Result<Pinned> {
    let pinned = Pinned::open(Path::new(BPFFS), &lab.options.instance, AT_ONCE).await?;
    pinned.context("nothing is pinned")
}

#[test]
fn a_pod_is_entered_and_taken_out_without_a_daemon() -> Result<()> {
    comes_and_goes(AttachBy::Auto)
}

#[test]
fn a_pod_is_entered_and_taken_out_by_filters() -> Result<()> {
    comes_and_goes(AttachBy::Netlink)
}

fn comes_and_goes(by: AttachBy) -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(by)?;
    lab.namespace.run_lines(
        "ip link add veth7 type veth peer name pod7
         ip link add veth8 type veth peer name pod8",
    )?;
    lab.start()?;
    let flags = || {
        reader::permits(&lab.pins())?
            .veths()
            .map_err(anyhow::Error::from)
    };
    let program = |name: &str| -> Result<u32> {
        let pin = Pins::program(&lab.pins().current(), name);
        Ok(ProgramInfo::from_pin(pin)?.id())
    };
    let from_pod = [("from_pod".to_owned(), program("from_pod")?)];
    lab.with(async |_, _| {
        let (fast, slow) = (veth("veth7")?, veth("veth8")?);
        open(&lab).await?.add_pod(&fast, VethUse::Fast).await?;
        open(&lab).await?.add_pod(&slow, VethUse::NeverFast).await?;
        // Once more, as for a runtime that calls again.
        open(&lab).await?.add_pod(&fast, VethUse::Fast).await?;
        let entered = flags()?;
        ensure!(entered[&fast.ifindex] == 1, "{entered:?}");
        ensure!(entered[&slow.ifindex] == 3, "{entered:?}");
        assert_eq!(lab.attached("veth7")?, from_pod);
        assert_eq!(lab.attached("veth8")?, [], "nothing watches it");
        assert!(lab.pin("to_pod", fast.ifindex).exists());
        Ok(())
    })?;

    // A daemon finds what was entered: with its own programs in the very places.
    lab.with(async |options, mut interfaces| {
        interfaces.pods = vec![veth("veth7")?];
        interfaces.watched = vec![veth("veth8")?];
        let mut datapath = Datapath::open(options, 7, 24)?;
        datapath.attach(&interfaces).await?;
        let ours = [("from_pod".to_owned(), program("from_pod")?)];
        assert_ne!(ours, from_pod, "this start has programs of its own");
        assert_eq!(lab.attached("veth7")?, ours);
        // And what is entered while it runs is there for it already.
        let (fast, slow) = (veth("veth7")?, veth("veth8")?);
        open(&lab).await?.add_pod(&fast, VethUse::Fast).await?;
        datapath.attach(&interfaces).await?;
        assert_eq!(lab.attached("veth7")?, ours);

        let mut pinned = open(&lab).await?;
        let both = BTreeSet::from([fast.ifindex, slow.ifindex]);
        assert_eq!(pinned.pods()?, both);
        pinned.remove_pods(&BTreeSet::from([slow.ifindex])).await?;
        assert_eq!(flags()?.into_keys().collect::<Vec<_>>(), [fast.ifindex]);
        assert!(!lab.pin("from_pod", slow.ifindex).exists());
        assert!(lab.pin("from_pod", fast.ifindex).exists());
        Ok(())
    })
}

#[test]
fn only_the_permits_of_the_pod_that_leaves_end() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(AttachBy::Auto)?;
    lab.namespace.run_lines(
        "ip link add veth7 type veth peer name pod7
         ip link add veth8 type veth peer name pod8",
    )?;
    lab.start()?;
    lab.with(async |_, _| {
        let (leaves, stays) = (veth("veth7")?, veth("veth8")?);
        for pod in [&leaves, &stays] {
            open(&lab).await?.add_pod(pod, VethUse::Fast).await?;
        }
        let data = MapData::from_pin(lab.pins().map(PERMITS_POD.name))?;
        let mut permits: HashMap<_, FlowTuple, Permit> = Map::from_map_data(data)?.try_into()?;
        let tuple = |pod: u8| FlowTuple {
            local: Ipv4Addr::new(10, 244, 1, pod).into(),
            remote: Ipv4Addr::new(10, 244, 2, 2).into(),
            local_port: Be16::from_host(1),
            remote_port: Be16::from_host(2),
            protocol: 17,
            reserved: [0; 3],
        };
        for (pod, veth) in [(7, &leaves), (8, &stays)] {
            let record = Permit::new(&tuple(pod), &tuple(pod), veth.ifindex, 0);
            permits.insert(tuple(pod), record, 0)?;
        }
        let left =
            |permits: &HashMap<_, _, _>| [7, 8].map(|pod| permits.get(&tuple(pod), 0).is_ok());
        // What is entered already loses nothing by being entered again.
        open(&lab).await?.add_pod(&stays, VethUse::Fast).await?;
        assert_eq!(left(&permits), [true, true]);
        let gone = BTreeSet::from([leaves.ifindex]);
        open(&lab).await?.remove_pods(&gone).await?;
        assert_eq!(left(&permits), [false, true]);
        // One that may not be fast any more loses its permits, too.
        open(&lab)
            .await?
            .add_pod(&stays, VethUse::NeverFast)
            .await?;
        assert_eq!(left(&permits), [false, false]);
        Ok(())
    })
}

#[test]
fn pins_are_one_caller_s_at_a_time_and_of_one_set() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(AttachBy::Auto)?;
    lab.with(async |options, interfaces| {
        let open = || Pinned::open(Path::new(BPFFS), &options.instance, AT_ONCE);
        ensure!(open().await?.is_none(), "there are no pins yet");
        let mut datapath = Datapath::open(options, 7, 24)?;
        ensure!(
            open().await.is_err() || open().await?.is_none(),
            "nothing is attached yet"
        );
        datapath.attach(&interfaces).await?;
        let first = open().await?;
        ensure!(first.is_some());
        ensure!(matches!(open().await, Err(PinnedError::Busy { .. })));
        drop(first);
        ensure!(open().await?.is_some());
        // An older Twill leaves programs alone when it puts another set of maps in the place of
        // this one.
        let veth_flags = lab.pins().map("veth_flags");
        let pin = veth_flags.display().to_string();
        std::fs::remove_file(&veth_flags)?;
        lab.namespace.run(&[
            "bpftool",
            "map",
            "create",
            &pin,
            "type",
            "hash",
            "key",
            "4",
            "value",
            "8",
            "entries",
            "4096",
            "name",
            "veth_flags",
            "flags",
            "1",
        ])?;
        let refused = open().await;
        ensure!(
            matches!(refused, Err(PinnedError::OtherMaps { .. })),
            "{:?}",
            refused.err()
        );
        Ok(())
    })
}
