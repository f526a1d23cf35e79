//! A namespace with interfaces, and the agent's datapath on them.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TcAttachType};
use nix::net::if_::if_nametoindex;
use serde_json::Value;
use twill_abi::{FastPath, Guard, Mode};
use twill_agent::datapath::attach::AttachBy;
use twill_agent::datapath::attach::filter::Slot;
use twill_agent::datapath::guard::{GuardAttach, GuardOptions};
use twill_agent::datapath::pins::Pins;
use twill_agent::datapath::place::{Interface, Interfaces};
use twill_agent::datapath::settings::Settings;
use twill_agent::datapath::{Datapath, Options, Sizes};
use twill_core::plan::MapOp;
use twill_core::vtep::{MacAddr, RemoteVtep, Vni};
use twill_testbed::netns::Namespace;

/// "Within seconds", with room for a busy machine.
pub(super) const SECONDS: Duration = Duration::from_secs(15);

pub(super) const BPFFS: &str = "/sys/fs/bpf";
pub(super) const SLOT: Slot = Slot {
    priority: 50,
    handle: 1,
};

/// A namespace with an uplink and a vxlan device, and pins that go with it.
pub(super) struct Lab {
    pub(super) namespace: Namespace,
    pub(super) options: Options,
    /// Whether programs are attached by TCX links, else by filters.
    pub(super) by_tcx: bool,
}

impl Lab {
    pub(super) fn new(attach_by: AttachBy) -> Result<Self> {
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
            exclude: Vec::new(),
        };
        let query = || SchedClassifier::query_tcx("up0", TcAttachType::Ingress).is_ok();
        let by_tcx = attach_by != AttachBy::Netlink && namespace.enter(query)?;
        Ok(Self {
            namespace,
            options,
            by_tcx,
        })
    }

    /// Runs the agent's side inside the namespace, as one start of an agent would.
    pub(super) fn with<T: Send>(
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
                bare_uplink: false,
            };
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(work(&self.options, interfaces))
        })?
    }

    /// Opens, fills with one peer and attaches; gives the identities of the programs.
    pub(super) fn start(&self) -> Result<Vec<u32>> {
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

    pub(super) fn pins(&self) -> Pins {
        Pins::new(Path::new(BPFFS), &self.options.instance)
    }

    /// What is attached to an interface, in order: name and program.
    pub(super) fn attached(&self, interface: &str) -> Result<Vec<(String, u32)>> {
        let direction = direction(interface);
        if !self.by_tcx {
            return self.filters(interface);
        }
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

    fn filters(&self, interface: &str) -> Result<Vec<(String, u32)>> {
        let way = way(interface);
        let words = ["tc", "-json", "filter", "show", "dev", interface, way];
        let filters: Vec<Value> = serde_json::from_str(&self.namespace.run(&words)?)?;
        // Each filter is led by a line for its priority, which has no options.
        let programs = filters.iter().map(|filter| &filter["options"]["prog"]);
        programs
            .filter(|program| !program.is_null())
            .map(|program| {
                let name = program["name"].as_str().context("no name")?;
                let id = program["id"].as_u64().context("no id")?;
                Ok((name.to_owned(), id.try_into()?))
            })
            .collect()
    }

    /// The pin that stands for an attached program.
    pub(super) fn pin(&self, program: &str, ifindex: u32) -> PathBuf {
        let Slot { priority, handle } = SLOT;
        if self.by_tcx {
            self.pins().link(program, ifindex)
        } else {
            self.pins().filter(program, ifindex, priority, handle)
        }
    }

    /// Takes the program behind a pin off an interface, as somebody may do by hand.
    pub(super) fn detach(&self, interface: &str, pin: &Path) -> Result<()> {
        let pin = pin.display().to_string();
        let priority = SLOT.priority.to_string();
        let words = if self.by_tcx {
            vec!["bpftool", "link", "detach", "pinned", &pin]
        } else {
            let way = way(interface);
            vec![
                "tc", "filter", "del", "dev", interface, way, "prio", &priority,
            ]
        };
        self.namespace.run(&words).map(drop)
    }
}

fn direction(interface: &str) -> TcAttachType {
    if interface == "flannel.7" {
        TcAttachType::Egress
    } else {
        TcAttachType::Ingress
    }
}

fn way(interface: &str) -> &'static str {
    if interface == "flannel.7" {
        "egress"
    } else {
        "ingress"
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

pub(super) fn ids(datapath: &Datapath) -> Vec<u32> {
    datapath
        .attachments()
        .iter()
        .map(|attached| attached.program_id)
        .collect()
}

pub(super) fn settings(interfaces: &Interfaces) -> Result<Settings> {
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
        rule_marks: 0,
        routed_by_port: false,
        overlay_policy: false,
        bare_uplink: false,
        excluded_links: false,
        guard: Guard::Off,
        leases_complete: true,
        shared_port: false,
        pod_vxlan: false,
    })
}

pub(super) fn peer(number: u8) -> Result<[MapOp; 3]> {
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
