//! The agent's netlink module against the kernel: what it makes, sees, hears and leaves alone.

#![expect(
    clippy::unwrap_used,
    reason = "what helps a test may panic as the test itself"
)]

mod apply;
mod device;
mod monitor;
mod path_mtu;
mod scale;
mod uplink;

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use twill_agent::netlink::Netlink;
use twill_core::backend::{Entry, LinkKind, LinkName, LinkSpec, Out, Route, VxlanLink};
use twill_core::observed::ObservedLink;
use twill_core::plan::KernelOp;
use twill_core::subnet::Subnet;
use twill_core::vtep::{MacAddr, Vni};
use twill_testbed::netns::Namespace;
use twill_testbed::world::{NODE_A, OVERLAY_LINK, PORT, VNI, VTEP_MAC_A};
use twill_tests::required;

/// An uplink `eth0` with the address of the first node, and a neighbour's end `wire`.
const UPLINK: &str = "ip link add name eth0 type veth peer name wire
    ip addr add 192.0.2.1/24 dev eth0
    ip link set dev wire up
    ip link set dev eth0 up";

/// Runs `work` inside a new namespace, after the commands of `setup`.
fn inside(
    setup: &str,
    work: impl AsyncFnOnce(&Namespace, Netlink) -> Result<()> + Send,
) -> Result<()> {
    if !required() {
        #[expect(
            clippy::print_stderr,
            reason = "a test that was not run must not look like one"
        )]
        {
            eprintln!("not run: TWILL_TIERS is not set; use `cargo xtask test netns`");
        }
        return Ok(());
    }
    let namespace = Namespace::new("netlink")?;
    namespace.run_lines(setup)?;
    namespace.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async { work(&namespace, Netlink::connect()?).await })
    })?
}

fn network() -> Subnet {
    "10.0.0.0/8".parse().unwrap()
}

/// The device of the first node, on `eth0`.
async fn flannel_1(netlink: &Netlink) -> Result<LinkSpec> {
    flannel_1_with(netlink, |_| ()).await
}

/// The same with other properties.
async fn flannel_1_with(
    netlink: &Netlink,
    change: impl FnOnce(&mut VxlanLink),
) -> Result<LinkSpec> {
    let uplink = netlink.device("eth0").await?.unwrap();
    let mut vxlan = VxlanLink {
        vni: Vni::new(VNI.into())?,
        port: Some(PORT),
        local: NODE_A,
        uplink_ifindex: uplink.ifindex,
        gbp: false,
        learning: false,
    };
    change(&mut vxlan);
    Ok(LinkSpec {
        name: link(),
        mtu: 1450,
        former_mtu: None,
        mac: MacAddr(VTEP_MAC_A),
        address: None,
        kind: LinkKind::Vxlan(vxlan),
    })
}

fn link() -> LinkName {
    OVERLAY_LINK.into()
}

/// The device and what hangs on it, if it is there.
async fn observe(netlink: &Netlink) -> Result<Option<ObservedLink>> {
    let mut observed = netlink.observe([link()], network()).await?;
    Ok(observed.links.remove(&link()))
}

/// Applies all and expects no error.
async fn apply(netlink: &Netlink, ops: &[KernelOp]) {
    let errors = netlink.apply(ops).await;
    assert!(errors.is_empty(), "{errors:?}");
}

/// Creates `flannel.1`, up.
async fn create(netlink: &Netlink) -> Result<()> {
    let device = flannel_1(netlink).await?;
    apply(
        netlink,
        &[KernelOp::Create(device), KernelOp::SetUp(link())],
    )
    .await;
    Ok(())
}

/// A peer by number: up to 65,535 of them.
#[derive(Clone, Copy)]
struct Peer(u16);

impl Peer {
    fn gateway(self) -> Ipv4Addr {
        let [high, low] = self.0.to_be_bytes();
        Ipv4Addr::new(10, high, low, 0)
    }

    fn subnet(self) -> Subnet {
        format!("{}/24", self.gateway()).parse().unwrap()
    }

    fn mac(self) -> MacAddr {
        let [high, low] = self.0.to_be_bytes();
        MacAddr([2, 0, 0, 1, high, low])
    }

    fn underlay(self) -> IpAddr {
        let [high, low] = self.0.to_be_bytes();
        Ipv4Addr::new(198, 18, high, low).into()
    }

    fn neighbor(self) -> Entry {
        Entry::Neighbor {
            link: link(),
            address: self.gateway().into(),
            mac: self.mac(),
        }
    }

    fn fdb(self) -> Entry {
        Entry::Fdb {
            link: link(),
            mac: self.mac(),
            underlay: self.underlay(),
        }
    }

    fn route(self, via: Ipv4Addr) -> Entry {
        Entry::Route(Route {
            subnet: self.subnet(),
            via: via.into(),
            out: Out::Overlay(link()),
        })
    }

    fn set(self) -> [KernelOp; 3] {
        [self.neighbor(), self.fdb(), self.route(self.gateway())].map(KernelOp::Set)
    }

    fn remove(self) -> [KernelOp; 3] {
        [self.route(self.gateway()), self.fdb(), self.neighbor()].map(KernelOp::Unset)
    }
}
