//! The agent's hands on the kernel's BPF: what is pinned, attached and left alone.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TcAttachType};
use nix::net::if_::if_nametoindex;
use twill_abi::{FastPath, Guard, Mode};
use twill_agent::datapath::filter::Slot;
use twill_agent::datapath::guard::{GuardAttach, GuardOptions};
use twill_agent::datapath::hooks::{AttachBy, Interface, Interfaces};
use twill_agent::datapath::pins::Pins;
use twill_agent::datapath::reader::Reader;
use twill_agent::datapath::settings::Settings;
use twill_agent::datapath::{Datapath, DatapathError, Options, Sizes, detach_all};
use twill_core::plan::MapOp;
use twill_core::vtep::{MacAddr, RemoteVtep, Vni};
use twill_testbed::netns::Namespace;
use twill_testbed::wait::wait_until;
use twill_tests::required;

/// "Within seconds", with room for a busy machine.
const SECONDS: Duration = Duration::from_secs(15);

const BPFFS: &str = "/sys/fs/bpf";
const SLOT: Slot = Slot {
    priority: 50,
    handle: 1,
};

/// A namespace with an uplink and a vxlan device, and pins that go with it.
struct Lab {
    namespace: Namespace,
    options: Options,
}

impl Lab {
    fn new(attach_by: AttachBy) -> Result<Self> {
        let namespace = Namespace::new("dp")?;
        namespace.run_lines(
            "ip link add up0 type veth peer name up1
             ip addr add 192.0.2.1/24 dev up0
             ip link set up0 up
             ip link set up1 up
             ip link add flannel.7 type vxlan id 7 local 192.0.2.1 dev up0 dstport 8472 nolearning
             ip link set flannel.7 up",
        )?;
        let options = Options {
            bpffs: PathBuf::from(BPFFS),
            instance: namespace.name().parse()?,
            sizes: Sizes::default(),
            attach_by,
            slot: SLOT,
            guard: GuardOptions {
                guard: Guard::Off,
                attach: GuardAttach::Auto,
            },
        };
        Ok(Self { namespace, options })
    }

    /// Runs the agent's side inside the namespace, as one start of an agent would.
    fn with<T: Send>(
        &self,
        work: impl AsyncFnOnce(&Options, Interfaces) -> Result<T> + Send,
    ) -> Result<T> {
        self.namespace.enter(|| {
            let interface = |name: &str| -> Result<Interface> {
                Ok(Interface {
                    name: name.to_owned(),
                    ifindex: if_nametoindex(name)?,
                })
            };
            let interfaces = Interfaces {
                overlay: interface("flannel.7")?,
                uplink: interface("up0")?,
                pods: Vec::new(),
                watched: Vec::new(),
                uplink_kind: "veth".to_owned(),
            };
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(work(&self.options, interfaces))
        })?
    }

    /// Opens, fills with one peer and attaches; gives the identities of the programs.
    fn start(&self) -> Result<Vec<u32>> {
        self.with(async |options, interfaces| {
            let mut datapath = Datapath::open(options, 7, 24)?;
            datapath.write_settings(&settings(&interfaces)?)?;
            for op in peer(2)? {
                datapath.apply(&op)?;
            }
            datapath.attach(&interfaces).await?;
            Ok(ids(&datapath))
        })
    }

    fn pins(&self) -> Pins {
        Pins::new(Path::new(BPFFS), &self.options.instance)
    }

    /// What is attached to an interface by TCX, in order: name and program.
    fn attached(&self, interface: &str) -> Result<Vec<(String, u32)>> {
        let direction = if interface == "flannel.7" {
            TcAttachType::Egress
        } else {
            TcAttachType::Ingress
        };
        let (_, programs) = self
            .namespace
            .enter(|| SchedClassifier::query_tcx(interface, direction))??;
        Ok(programs
            .iter()
            .map(|program| {
                let name = program.name_as_str().unwrap_or_default();
                (name.to_owned(), program.id())
            })
            .collect())
    }
}

#[expect(clippy::print_stderr, reason = "drop has nobody to return an error to")]
impl Drop for Lab {
    fn drop(&mut self) {
        for error in self.pins().remove_all() {
            eprintln!("cleaning up: {error}");
        }
    }
}

fn ids(datapath: &Datapath) -> Vec<u32> {
    datapath
        .attachments()
        .iter()
        .map(|attached| attached.program_id)
        .collect()
}

fn settings(interfaces: &Interfaces) -> Result<Settings> {
    Ok(Settings {
        mode: Mode::Bpf,
        vni: Vni::new(7)?,
        port: None,
        uplink_ifindex: interfaces.uplink.ifindex,
        overlay_ifindex: interfaces.overlay.ifindex,
        source_ports: (32_768, 60_999),
        common_prefix: 24,
        odd_routes: false,
        underlay: Ipv4Addr::new(192, 0, 2, 1),
        own_subnet: "10.244.1.0/24".parse()?,
        network: "10.244.0.0/16".parse()?,
        vtep_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        fast_path: FastPath::Off,
        permit_time: Duration::from_secs(10),
        mark_bit: 0x1000,
        tcp_permits: false,
        stale: false,
        guard: Guard::Off,
        leases_complete: true,
        shared_port: false,
        pod_vxlan: false,
    })
}

fn peer(number: u8) -> Result<[MapOp; 3]> {
    let index = u32::from(number);
    let underlay = Ipv4Addr::new(192, 0, 2, number).into();
    let mac = MacAddr([2, 0, 0, 0, 0, number]);
    let subnet = format!("10.244.{number}.0/24").parse()?;
    Ok([
        MapOp::SetVtep {
            index,
            vtep: RemoteVtep { underlay, mac },
            subnet,
        },
        MapOp::SetSource { underlay, index },
        MapOp::SetRoute { subnet, index },
    ])
}

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

#[test]
fn what_somebody_detaches_comes_back() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(AttachBy::Auto)?;
    lab.with(async |options, interfaces| {
        let mut datapath = Datapath::open(options, 7, 24)?;
        datapath.write_settings(&settings(&interfaces)?)?;
        datapath.attach(&interfaces).await?;
        let expected = ids(&datapath);
        let link = lab.pins().link("to_overlay", interfaces.overlay.ifindex);

        // The link is open here: nothing stops, and its pin comes back.
        fs::remove_file(&link)?;
        assert_eq!(
            lab.attached("flannel.7")?,
            [("to_overlay".to_owned(), expected[0])]
        );
        datapath.attach(&interfaces).await?;
        assert_eq!(ids(&datapath), expected);
        assert!(link.exists());
        assert_eq!(
            lab.attached("flannel.7")?,
            [("to_overlay".to_owned(), expected[0])]
        );

        let link_text = link.display().to_string();
        lab.namespace
            .run(&["bpftool", "link", "detach", "pinned", &link_text])?;
        assert_eq!(lab.attached("flannel.7")?, []);
        datapath.attach(&interfaces).await?;
        assert_eq!(
            lab.attached("flannel.7")?,
            [("to_overlay".to_owned(), expected[0])]
        );

        // Attaching what is attached changes nothing.
        datapath.attach(&interfaces).await?;
        assert_eq!(
            lab.attached("flannel.7")?,
            [("to_overlay".to_owned(), expected[0])]
        );
        Ok(())
    })
}

#[test]
fn programs_follow_the_uplink_and_leave_nothing_behind() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(AttachBy::Auto)?;
    lab.with(async |options, interfaces| {
        let mut datapath = Datapath::open(options, 7, 24)?;
        datapath.attach(&interfaces).await?;
        let moved = Interfaces {
            uplink: Interface {
                name: "up1".to_owned(),
                ifindex: if_nametoindex("up1")?,
            },
            ..interfaces
        };
        datapath.attach(&moved).await?;
        // The kernel lets go of a link a moment after its pin is gone.
        wait_until("nothing is left on the old uplink", SECONDS, || {
            lab.attached("up0")
                .is_ok_and(|attached| attached.is_empty())
        })?;
        assert_eq!(lab.attached("up1")?.len(), 1);
        Ok(())
    })
}

#[test]
fn tc_filters_are_replaced_in_place_and_removed_only_if_ours() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(AttachBy::Netlink)?;
    let filters = |interface: &str, direction: &str| -> Result<String> {
        lab.namespace
            .run(&["tc", "filter", "show", "dev", interface, direction])
    };
    let first = lab.start()?;
    let second = lab.start()?;
    assert!(first.iter().all(|old| !second.contains(old)));
    let shown = filters("flannel.7", "egress")?;
    assert!(shown.contains(&format!("id {} ", second[0])), "{shown}");
    assert_eq!(shown.matches("direct-action").count(), 1, "{shown}");
    let shown = filters("up0", "ingress")?;
    assert!(shown.contains(&format!("id {} ", second[1])), "{shown}");

    // A start that attaches by TCX takes the filters away.
    let tcx = Options {
        attach_by: AttachBy::Auto,
        ..lab.options.clone()
    };
    lab.with(async |_, interfaces| {
        let mut datapath = Datapath::open(&tcx, 7, 24)?;
        datapath.attach(&interfaces).await?;
        assert!(datapath.attachments().iter().all(|a| a.by == "tcx"));
        Ok(())
    })?;
    assert_eq!(filters("flannel.7", "egress")?, "");
    assert_eq!(filters("up0", "ingress")?, "");
    let qdiscs = lab.namespace.run(&["tc", "qdisc", "show", "dev", "up0"])?;
    assert!(qdiscs.contains("clsact"), "never removed: {qdiscs}");

    // And back, then everything away.
    lab.start()?;
    assert_eq!(
        filters("up0", "ingress")?.matches("direct-action").count(),
        1
    );
    let removals = lab.with(async |_, _| Ok(detach_all(&lab.pins()).await))?;
    assert!(
        removals.iter().all(|removal| removal.result.is_ok()),
        "{removals:?}"
    );
    assert_eq!(filters("flannel.7", "egress")?, "");
    assert_eq!(filters("up0", "ingress")?, "");
    Ok(())
}

#[test]
fn a_foreign_filter_in_our_slot_stays_and_is_named() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(AttachBy::Netlink)?;
    lab.namespace.run_lines(
        "tc qdisc add dev up0 clsact
         tc filter add dev up0 ingress prio 50 protocol all u32 match u32 0 0 action mirred egress redirect dev up1",
    )?;
    let error = lab.start().expect_err("the slot is taken");
    let error = error
        .downcast_ref::<DatapathError>()
        .context("a datapath error")?;
    let text = twill_agent::datapath::chain(error);
    assert!(
        text.contains("--tc-priority") && text.contains("up0"),
        "{text}"
    );
    let shown = lab
        .namespace
        .run(&["tc", "filter", "show", "dev", "up0", "ingress"])?;
    assert!(shown.contains("u32"), "{shown}");
    Ok(())
}

#[test]
fn foreign_programs_on_our_hooks_stay() -> Result<()> {
    if !required() {
        return Ok(());
    }
    // Another agent's programs, as anybody's would be: same hooks, other pins.
    let lab = Lab::new(AttachBy::Auto)?;
    let ours = lab.start()?;
    let mut other = lab.options.clone();
    other.instance = format!("{}-other", other.instance).parse()?;
    let other_pins = Pins::new(Path::new(BPFFS), &other.instance);
    let theirs = lab.with(async |_, interfaces| {
        let mut datapath = Datapath::open(&other, 7, 24)?;
        datapath.attach(&interfaces).await?;
        let others = &datapath.attachments()[0].others;
        assert_eq!(others, &["to_overlay"], "the other is seen");
        Ok(ids(&datapath))
    })?;
    let both = lab.attached("up0")?;
    assert_eq!(both.len(), 2, "{both:?}");

    let ours_again = lab.start()?;
    assert!(ours.iter().all(|old| !ours_again.contains(old)));
    let removals = lab.with(async |_, _| Ok(detach_all(&lab.pins()).await))?;
    assert!(removals.iter().all(|removal| removal.result.is_ok()));
    assert_eq!(
        lab.attached("up0")?,
        [("from_uplink".to_owned(), theirs[1])]
    );
    assert_eq!(
        lab.attached("flannel.7")?,
        [("to_overlay".to_owned(), theirs[0])]
    );
    assert!(other_pins.remove_all().is_empty());
    Ok(())
}

#[test]
fn a_pod_that_cannot_be_looked_at_keeps_its_programs() -> Result<()> {
    if !required() {
        return Ok(());
    }
    let lab = Lab::new(AttachBy::Tcx)?;
    lab.namespace
        .run_lines("ip link add veth7 type veth peer name pod7")?;
    lab.with(async |options, mut interfaces| {
        let ifindex = if_nametoindex("veth7")?;
        let named = |name: &str| Interface {
            name: name.to_owned(),
            ifindex,
        };
        let mut datapath = Datapath::open(options, 7, 24)?;
        interfaces.pods = vec![named("veth7")];
        datapath.attach(&interfaces).await?;
        let attached = datapath.attachments().to_vec();
        assert_eq!(lab.pins().attachments()?.len(), 5);
        // Renamed between our look at the links and that at its hooks.
        interfaces.pods = vec![named("veth0")];
        datapath.attach(&interfaces).await?;
        assert_eq!(lab.pins().attachments()?.len(), 5, "nothing is detached");
        assert_eq!(datapath.attachments(), attached, "and nothing forgotten");
        // It is no pod's any more.
        interfaces.pods.clear();
        datapath.attach(&interfaces).await?;
        assert_eq!(lab.pins().attachments()?.len(), 3);
        Ok(())
    })
}
