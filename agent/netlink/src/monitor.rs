//! Notifications from the kernel, boiled down to "observe again".
//!
//! One [`Event::KernelChanged`] stands for any number of changes: the state is read again, so
//! nothing depends on what exactly was heard. Nothing is lost either: while the channel is full
//! the monitor remembers that something changed, and an overrun counts as a change.
//!
//! What pods hang on has an event of its own, [`Event::PodsChanged`]: pods come and go, and
//! nobody wants to look at thousands of peers for that. Of attached TCX programs the kernel
//! tells nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use ipnetwork::IpNetwork;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{InfoKind, LinkMessage};
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use twill_core::event::Event;
use twill_core::subnet::Subnet;

use super::addr::Address;
use super::error::{Error, Failure};
use super::link::Link;
use super::message::Message;
use super::neigh::{self, Entry};
use super::outbox::{Changed, Outbox};
use super::path_mtu::mtu_of;
use super::route::Route;
use super::said::Fact;
use super::socket::Socket;
use super::{Netlink, pods, rules, tc};

/// `RTNLGRP_LINK`, `RTNLGRP_NEIGH`, `RTNLGRP_TC`, `RTNLGRP_IPV4_IFADDR`, `RTNLGRP_IPV4_ROUTE`,
/// `RTNLGRP_IPV4_RULE` (`include/uapi/linux/rtnetlink.h`).
const GROUPS: [u32; 6] = [1, 3, 4, 5, 7, 8];
/// Receive buffer, bytes: some ten thousand notifications.
pub const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// Wait before a socket that failed is opened again.
const REOPEN: Duration = Duration::from_secs(1);

/// What is watched.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Watch {
    /// Name of our device, if there is to be one.
    pub device: Option<String>,
    /// The whole overlay prefix: routes into it matter, whoever's they are.
    pub network: Subnet,
    /// Whether every route matters: a peer may come onto a link of the host, or leave it.
    pub every_route: bool,
    /// Size of the receive buffer, normally [`RECEIVE_BUFFER_BYTES`].
    pub receive_buffer: usize,
}

/// What the monitor has been through.
#[derive(Debug, Default)]
pub struct Counters {
    /// Notifications were lost because the receive buffer was full.
    pub overruns: AtomicU64,
    /// Notifications that could not be decoded; each counts as a change.
    pub undecodable: AtomicU64,
    /// The socket failed and was opened again.
    pub reopened: AtomicU64,
    /// Events sent.
    pub events: AtomicU64,
}

/// A running monitor; it stops when this is dropped.
#[derive(Debug)]
pub struct Monitor {
    uplink: Arc<AtomicU32>,
    mtus: Arc<AtomicBool>,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl Monitor {
    /// Subscribes, in the network namespace of the calling thread, and spawns the task that
    /// sends to `events`. What happens after this returns is heard.
    pub async fn start(
        netlink: Netlink,
        watch: Watch,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, Error> {
        let socket = Socket::subscribe(&GROUPS, watch.receive_buffer)
            .map_err(|source| Error::Open { source })?;
        let device = find_device(&netlink, &watch).await?;
        let uplink = Arc::new(AtomicU32::new(0));
        let mtus = Arc::new(AtomicBool::new(false));
        let counters = Arc::new(Counters::default());
        let filter = Filter {
            netlink,
            watch,
            device,
            uplink: Arc::clone(&uplink),
            mtus: Arc::clone(&mtus),
        };
        let task = tokio::spawn(run(socket, filter, events, Arc::clone(&counters)));
        Ok(Self {
            uplink,
            mtus,
            counters,
            task,
        })
    }

    /// Tells which interface is the uplink. Until then, and with `None`, every link and address
    /// matters, since it may become the uplink.
    pub fn watch_uplink(&self, ifindex: Option<u32>) {
        self.uplink.store(ifindex.unwrap_or(0), Ordering::Relaxed);
    }

    /// Tells whether routes carry MTUs: then every route that comes or goes may change the way to
    /// another node; otherwise only those that carry one.
    pub fn watch_mtus(&self, carried: bool) {
        self.mtus.store(carried, Ordering::Relaxed);
    }

    /// What the monitor has been through.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    mut socket: Socket,
    mut filter: Filter,
    events: mpsc::Sender<Event>,
    counters: Arc<Counters>,
) {
    let mut outbox = Outbox::new(Instant::now());
    loop {
        let changed = tokio::select! {
            received = socket.receive() => match received {
                Ok(()) => filter.heard(&socket, &counters),
                Err(failure) => {
                    recover(&mut socket, &mut filter, &failure, &counters).await;
                    Changed::ANYTHING
                }
            },
            permit = when_due(outbox.due(), &events) => {
                let Some(permit) = permit else {
                    return;
                };
                if let Some(event) = outbox.take(Instant::now()) {
                    permit.send(event);
                    counters.events.fetch_add(1, Ordering::Relaxed);
                }
                Changed::default()
            }
        };
        outbox.note(changed, Instant::now());
    }
}

/// Room in the channel, not before `due`; `None` when nobody listens any more.
async fn when_due(
    due: Option<Instant>,
    events: &mpsc::Sender<Event>,
) -> Option<mpsc::Permit<'_, Event>> {
    let Some(due) = due else {
        events.closed().await;
        return None;
    };
    tokio::time::sleep_until(due).await;
    events.reserve().await.ok()
}

/// After a failure anything may have changed unheard; after all but an overrun the socket is of
/// no more use.
async fn recover(socket: &mut Socket, filter: &mut Filter, failure: &Failure, counters: &Counters) {
    if *failure == Failure::Overrun {
        counters.overruns.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("kernel notifications were lost, everything is observed again");
    } else {
        tracing::warn!(error = %failure, "the kernel's notifications failed, subscribing again");
        loop {
            match Socket::subscribe(&GROUPS, filter.watch.receive_buffer) {
                Ok(new) => {
                    *socket = new;
                    counters.reopened.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Err(error) => {
                    tracing::error!(%error, "no subscription to the kernel's notifications");
                    tokio::time::sleep(REOPEN).await;
                }
            }
        }
    }
    filter.find_device().await;
}

/// Interface index of our device, if it is there.
async fn find_device(netlink: &Netlink, watch: &Watch) -> Result<Option<u32>, Error> {
    let device = match &watch.device {
        Some(name) => netlink.device(name).await?,
        None => None,
    };
    Ok(device.map(|device| device.ifindex))
}

/// Tells what may matter from what cannot.
struct Filter {
    netlink: Netlink,
    watch: Watch,
    /// Interface index of our device, as far as is known.
    device: Option<u32>,
    /// Interface index of the uplink, 0 if there is none.
    uplink: Arc<AtomicU32>,
    /// Whether routes carry MTUs.
    mtus: Arc<AtomicBool>,
}

impl Filter {
    async fn find_device(&mut self) {
        match find_device(&self.netlink, &self.watch).await {
            Ok(device) => self.device = device,
            Err(error) => tracing::warn!(%error, "our device's interface index is unknown"),
        }
    }

    fn heard(&mut self, socket: &Socket, counters: &Counters) -> Changed {
        let mut changed = Changed::default();
        for message in socket.received() {
            changed.add(
                message
                    .and_then(|message| self.changed(&message))
                    .unwrap_or_else(|error| {
                        counters.undecodable.fetch_add(1, Ordering::Relaxed);
                        tracing::debug!(%error, "notification counts as a change");
                        Changed::ANYTHING
                    }),
            );
        }
        changed
    }

    fn changed(&mut self, message: &Message<'_>) -> Result<Changed, Failure> {
        if let Some(change) = tc::change(message) {
            return Ok(Changed {
                kernel: self.tc_concerns_node(change),
                pods: self.tc_concerns_pods(change),
            });
        }
        if rules::is_change(message) {
            // Whichever: they are few, and any may lead outer packets elsewhere.
            return Ok(Changed {
                kernel: true,
                pods: false,
            });
        }
        let ours = message.header.port_number == self.netlink.port();
        let message = message.decode()?;
        Ok(Changed {
            kernel: self.matters(ours, &message),
            pods: self.concerns_pods(&message),
        })
    }

    /// `ours`: the change was made by our own request.
    fn matters(&mut self, ours: bool, message: &RouteNetlinkMessage) -> bool {
        use RouteNetlinkMessage as Is;
        match message {
            Is::NewLink(link) => self.link_matters(link, true),
            Is::DelLink(link) => self.link_matters(link, false),
            Is::NewAddress(address) => !ours && self.address_matters(address),
            // Ours too: with its last address a device loses its routes, and nobody is told
            // (`fib_disable_ip()` in `net/ipv4/fib_frontend.c`, v6.18).
            Is::DelAddress(address) => self.address_matters(address),
            Is::NewRoute(route) | Is::DelRoute(route) => !ours && self.route_matters(route),
            Is::NewNeighbour(entry) => !ours && self.entry_matters(entry, true),
            Is::DelNeighbour(entry) => !ours && self.entry_matters(entry, false),
            _ => false,
        }
    }

    /// Whether pods may have come, gone, or changed. A bridge that goes lets go of its ports
    /// first, so that links other than veths tell nothing new.
    fn concerns_pods(&self, message: &RouteNetlinkMessage) -> bool {
        use RouteNetlinkMessage as Is;
        match message {
            Is::NewLink(link) | Is::DelLink(link) => pods::kind(link) == Some(&InfoKind::Veth),
            Is::NewAddress(address) | Is::DelAddress(address) => Address::read(address)
                .is_some_and(|address| {
                    let ip = address.network.ip();
                    self.watch.network.contains(ip.into()) && self.may_be_pods(address.ifindex)
                }),
            Is::NewRoute(route) | Is::DelRoute(route) => self.route_concerns_pods(route),
            _ => false,
        }
    }

    fn route_concerns_pods(&self, message: &RouteMessage) -> bool {
        Route::read(message).is_some_and(|route| {
            let destination = Subnet::containing(IpNetwork::V4(route.destination));
            // One that is replaced is told of with its new interface alone: a host route may
            // have been a pod's. Peers have wider ones.
            route.in_main_table()
                && self.watch.network.covers(destination)
                && (destination.prefix() == 32
                    || route.interfaces().any(|ifindex| self.may_be_pods(ifindex)))
        })
    }

    fn tc_concerns_pods(&self, change: tc::Change) -> bool {
        match change {
            tc::Change::Of(ifindex) => self.may_be_pods(ifindex),
            tc::Change::OfAny => true,
            tc::Change::Other => false,
        }
    }

    /// Whether a policy may have come to the uplink or to our device, or gone.
    fn tc_concerns_node(&self, change: tc::Change) -> bool {
        match change {
            tc::Change::Of(ifindex) => !self.may_be_pods(ifindex),
            // A block that one of them may share.
            tc::Change::OfAny => true,
            tc::Change::Other => false,
        }
    }

    /// Whether a link is neither our device nor the uplink, as far as these are known.
    fn may_be_pods(&self, ifindex: u32) -> bool {
        self.device != Some(ifindex) && self.uplink.load(Ordering::Relaxed) != ifindex
    }

    fn link_matters(&mut self, message: &LinkMessage, exists: bool) -> bool {
        // A bridge's word on one of its ports, also when the port leaves it.
        if message.header.interface_family == AddressFamily::Bridge {
            return false;
        }
        let link = Link::read(message);
        let ifindex = link.device.ifindex;
        let named = self.watch.device.as_ref() == Some(&link.name);
        let was = self.device == Some(ifindex);
        if named && exists {
            self.device = Some(ifindex);
        } else if was {
            // Gone, or renamed.
            self.device = None;
        }
        // One of another overlay may share our port with us.
        named || was || link.device.kind == "vxlan" || self.uplink_matters(ifindex)
    }

    fn address_matters(&self, message: &AddressMessage) -> bool {
        Address::read(message).is_some_and(|address| {
            self.device == Some(address.ifindex) || self.uplink_matters(address.ifindex)
        })
    }

    fn uplink_matters(&self, ifindex: u32) -> bool {
        let uplink = self.uplink.load(Ordering::Relaxed);
        uplink == 0 || uplink == ifindex
    }

    fn route_matters(&self, message: &RouteMessage) -> bool {
        let Some(route) = Route::read(message) else {
            return false;
        };
        let destination = Subnet::containing(IpNetwork::V4(route.destination));
        // Host routes inside the network are pods', not peers'.
        let overlay = self.watch.network.covers(destination) && destination.prefix() < 32;
        let underlay = !self.watch.network.covers(destination);
        let may_limit = mtu_of(message).is_some() || self.mtus.load(Ordering::Relaxed);
        // Whatever its table: the way to a node, or that of pods' packets to the overlay.
        let by_device = || self.device.is_some_and(|device| route.uses(device));
        if may_limit && (underlay || by_device()) {
            return true;
        }
        route.in_main_table()
            && (destination.prefix() == 0
                || overlay
                || (self.watch.every_route && !self.watch.network.covers(destination))
                || by_device())
    }

    fn entry_matters(&self, message: &NeighbourMessage, exists: bool) -> bool {
        if self.device != Some(message.header.ifindex) {
            return false;
        }
        let fact = match Entry::read(message) {
            Some(entry) if entry.fdb && exists => Some(Fact::Fdb(entry.mac, entry.address)),
            Some(entry) if entry.fdb => Some(Fact::NoFdb(entry.mac, entry.address)),
            // A neighbour that goes has lost its MAC address before.
            _ if !exists => neigh::address(message).map(Fact::NoNeighbor),
            _ => None,
        };
        !fact.is_some_and(|fact| self.netlink.said().is_echo(fact))
    }
}
