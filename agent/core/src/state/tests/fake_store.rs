//! A store that is made up, and the agent that it drives: index, state, plan, and what a plan
//! leaves in the kernel and in the maps.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{MacAddr, lease, mac, state, subnet, uplink};
use crate::config::NetworkConfig;
use crate::lease::Lease;
use crate::leases::{Checkpoint, Listing, Position, StoreEvent};
use crate::observed::{Observed, ObservedMaps};
use crate::plan::{plan, plan_peer};
use crate::simulate::apply_op;
use crate::state::{Change, State, desired};
use crate::subnet::Subnet;

const HOUR: Duration = Duration::from_hours(1);

/// A store: its name, how often it has changed, and what it has.
struct FakeStore {
    name: &'static str,
    revision: u64,
    leases: BTreeMap<Subnet, Lease>,
}

impl FakeStore {
    fn new(name: &'static str, nodes: &[u8]) -> Self {
        let mut store = Self {
            name,
            revision: 0,
            leases: BTreeMap::new(),
        };
        for &n in nodes {
            store.put(n, n);
        }
        store
    }

    fn position(&self) -> Position {
        Position::new(format!("{} {}", self.name, self.revision))
    }

    fn put(&mut self, n: u8, node: u8) -> StoreEvent {
        let mut lease = lease(subnet(n), node, node);
        lease.ttl_seconds = Some(HOUR.as_secs());
        self.revision += 1;
        self.leases.insert(lease.subnet, lease.clone());
        StoreEvent::Put(lease)
    }

    fn remove(&mut self, n: u8) -> StoreEvent {
        self.revision += 1;
        self.leases.remove(&subnet(n));
        StoreEvent::Gone(subnet(n))
    }

    /// A list, for somebody who had come to `after`.
    fn list(&self, after: Option<&Position>) -> StoreEvent {
        let after = after.and_then(|after| after.as_str().split_once(' '));
        let replaced = after.is_some_and(|(name, revision)| {
            name != self.name || revision.parse().is_ok_and(|it: u64| it > self.revision)
        });
        StoreEvent::Listed(Listing {
            position: self.position(),
            replaced,
            leases: self.leases.values().cloned().collect(),
            unread: Vec::new(),
        })
    }
}

/// An agent on its node.
struct Agent {
    state: State,
    node: Observed,
}

impl Agent {
    /// A start on this node; an earlier one left a checkpoint.
    fn start(node: Observed, left: Option<&Checkpoint>, now: Duration) -> Self {
        let mut state = state();
        if let Some(left) = left {
            let leases = state.config().backend.leases(&node.kernel);
            state.remember(&leases, left.kept_until, now);
        }
        Self { state, node }
    }

    fn hear(&mut self, said: StoreEvent, now: Duration) -> Change {
        let change = self.state.apply(said.into(), now);
        let ops = match change {
            Change::Nothing => Vec::new(),
            Change::Peer(subnet) => plan_peer(&self.node, &self.state, subnet).ops,
            Change::Everything => plan(&self.node, &desired(&self.state)).ops,
        };
        for op in &ops {
            apply_op(&mut self.node, op);
        }
        let left = plan(&self.node, &desired(&self.state)).ops;
        assert_eq!(left, [], "after {change:?}");
        change
    }

    /// The subnets that kernel and maps lead to.
    #[track_caller]
    fn check(&self, nodes: &[u8]) {
        let subnets: Vec<Subnet> = nodes.iter().copied().map(subnet).collect();
        let maps = self.node.maps.as_ref().unwrap();
        assert!(maps.routes.keys().eq(&subnets), "{:?}", maps.routes);
        let links = &self.node.kernel.links;
        let routes: Vec<_> = links.values().flat_map(|it| it.routes.keys()).collect();
        assert!(routes.into_iter().eq(&subnets), "{links:?}");
    }
}

fn node() -> Observed {
    Observed {
        maps: Some(ObservedMaps {
            vtep_capacity: 64,
            route_capacity: 64,
            ..ObservedMaps::default()
        }),
        ..Observed::default()
    }
}

#[test]
fn a_list_changes_and_a_loss() {
    let mut store = FakeStore::new("one", &[1, 2, 3]);
    let mut agent = Agent::start(node(), None, HOUR);
    agent.hear(store.list(None), HOUR);
    agent.check(&[1, 2, 3]);
    let change = agent.hear(store.put(4, 4), HOUR);
    assert_eq!(change, Change::Peer(subnet(4)));
    agent.hear(store.remove(1), HOUR);
    agent.hear(StoreEvent::Reached(store.position()), HOUR);
    agent.check(&[2, 3, 4]);

    // While it is away nothing goes, and what went meanwhile goes with the next list.
    agent.hear(StoreEvent::Lost("no route to host".to_owned()), HOUR);
    assert_eq!(agent.state.store_lost(), Some("no route to host"));
    store.remove(2);
    agent.check(&[2, 3, 4]);
    agent.hear(store.list(Some(&store.position())), 100 * HOUR);
    agent.hear(StoreEvent::Reached(store.position()), 100 * HOUR);
    assert_eq!(agent.state.store_lost(), None);
    agent.check(&[3, 4]);
}

#[test]
fn a_restart_with_the_same_store_and_with_one_that_lost_its_data() {
    let mut store = FakeStore::new("one", &[1, 2, 3]);
    let mut agent = Agent::start(node(), None, HOUR);
    agent.hear(store.list(None), HOUR);
    let left = agent.state.checkpoint().unwrap();
    assert_eq!(left.kept_until, None);

    // It says that one went while the agent was away.
    store.remove(1);
    let mut agent = Agent::start(agent.node, Some(&left), HOUR);
    agent.check(&[1, 2, 3]);
    agent.hear(store.list(Some(&left.position)), HOUR);
    agent.check(&[2, 3]);
    let left = agent.state.checkpoint().unwrap();

    // It has lost all but one, who has another subnet now; the others stay for their terms.
    let mut emptied = FakeStore::new("one", &[]);
    emptied.put(8, 3);
    let mut agent = Agent::start(agent.node, Some(&left), HOUR);
    agent.hear(emptied.list(Some(&left.position)), HOUR);
    agent.check(&[2, 8]);
    let left = agent.state.checkpoint().unwrap();
    assert_eq!(left.kept_until, Some(25 * HOUR));

    // So they do for the next start, which does not begin the time anew.
    let mut agent = Agent::start(agent.node, Some(&left), 24 * HOUR);
    agent.hear(emptied.list(Some(&left.position)), 24 * HOUR);
    agent.check(&[2, 8]);
    let reached = || StoreEvent::Reached(emptied.position());
    assert_eq!(agent.hear(reached(), 24 * HOUR + HOUR / 2), Change::Nothing);
    assert_eq!(agent.hear(reached(), 25 * HOUR), Change::Peer(subnet(2)));
    agent.check(&[8]);
}

/// The node of a daemon whose network it is, and an agent that only reads it.
#[test]
fn what_the_kernel_has_is_read_and_nothing_but_maps_is_written() {
    let store = FakeStore::new("one", &[1, 2]);
    let mut owner = Agent::start(node(), None, HOUR);
    owner.hear(store.list(None), HOUR);
    let Observed { kernel, .. } = owner.node;

    let text = r#"{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}"#;
    let config = NetworkConfig::parse(text).unwrap();
    let nobody_s = MacAddr([2, 0, 0, 0, 0, 0xaa]);
    let state = State::new(config, uplink(super::OWN), nobody_s).read_only();
    let mut reader = Agent {
        state,
        node: node(),
    };
    reader.node.kernel = kernel;
    reader.look(Change::Everything);
    reader.check(&[1, 2]);
    assert_eq!(reader.state.own_subnet(), Some(subnet(super::OWN)));
    assert_eq!(reader.state.link().unwrap().mac, mac(super::OWN));
    reader.look(Change::Nothing);

    // A peer that its daemon removes goes from the maps; entries are that daemon's matter.
    let link = reader.node.kernel.links.values_mut().next().unwrap();
    link.routes.remove(&subnet(1));
    link.device.mtu = 1400;
    link.device.up = false;
    reader.look(Change::Everything);
    reader.check(&[2]);
}

impl Agent {
    /// Takes in what the node has, and writes nothing but maps.
    #[track_caller]
    fn look(&mut self, expected: Change) {
        let kernel = self.node.kernel.clone();
        assert_eq!(self.state.recognise(&kernel, HOUR), expected);
        for op in plan(&self.node, &desired(&self.state)).ops {
            apply_op(&mut self.node, &op);
        }
        assert_eq!(self.node.kernel, kernel);
    }
}
