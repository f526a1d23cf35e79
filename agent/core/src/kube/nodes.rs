//! Which Node has which lease, and what a Node that changes makes of it.
//!
//! A Node that loses its annotations is still there, and so are its pods: whoever removed them
//! may have meant something else, and the daemon there writes them again. It stays a peer for a
//! while. A Node that is deleted is one no more.

use std::collections::BTreeMap;
use std::time::Duration;

use super::annotations::Annotations;
use super::node::{Node, NodeError, Sight};
use crate::lease::Lease;
use crate::subnet::Subnet;

/// What happened to a lease.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// It is there, new or changed.
    Put(Lease),
    /// It is gone.
    Gone(Subnet),
}

/// A Node that is a peer, or was.
#[derive(Clone, Debug)]
struct Known {
    subnet: Subnet,
    /// `None` for one of an earlier start, of which nothing else is known.
    lease: Option<Lease>,
    /// Since when it is no peer by its annotations, by a clock that only goes forward.
    lost_at: Option<Duration>,
    listed: bool,
}

/// All Nodes that are peers.
#[derive(Debug)]
pub struct Nodes {
    grace: Duration,
    /// Whether a list was taken in.
    complete: bool,
    known: BTreeMap<Box<str>, Known>,
    /// Of two Nodes with one subnet, which has it.
    holders: BTreeMap<Subnet, Box<str>>,
}

impl Nodes {
    /// None yet. One without annotations stays for so long.
    pub fn new(grace: Duration) -> Self {
        Self {
            grace,
            complete: false,
            known: BTreeMap::new(),
            holders: BTreeMap::new(),
        }
    }

    /// A list begins.
    pub fn begin_list(&mut self) {
        for known in self.known.values_mut() {
            known.listed = false;
        }
    }

    /// A list ended: what it had not is gone.
    pub fn end_list(&mut self) {
        self.complete = true;
        let gone: Vec<Box<str>> = self
            .known
            .iter()
            .filter(|(_, known)| !known.listed)
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.deleted(&name);
        }
    }

    /// All leases, each subnet once.
    pub fn leases(&self) -> impl Iterator<Item = &Lease> {
        let holders = self.holders.values();
        holders.filter_map(|name| self.known.get(name)?.lease.as_ref())
    }

    /// Subnets of which it is not known what their nodes publish.
    pub fn unknown(&self) -> impl Iterator<Item = Subnet> {
        let unknown = self.known.values().filter(|known| known.lease.is_none());
        unknown.map(|known| known.subnet)
    }

    /// Who has this subnet beside that Node, if it was given twice.
    pub fn other_holder(&self, node: &str, subnet: Subnet) -> Option<&str> {
        let holder = self.holders.get(&subnet)?;
        (**holder != *node).then_some(&**holder)
    }

    /// Takes in a Node as it is now. What cannot be read stays as it was.
    pub fn seen(
        &mut self,
        names: &Annotations,
        node: &Node,
        now: Duration,
    ) -> Result<Vec<Change>, NodeError> {
        if let Some(known) = self.known.get_mut(&node.name) {
            known.listed = true;
        }
        let lease = match node.sight(names)? {
            Sight::Peer(lease) if !self.has_lost_data(&node.name, &lease) => lease,
            Sight::Peer(_) | Sight::WithoutSubnet | Sight::NoPeer => {
                self.lost(node, now);
                return Ok(Vec::new());
            }
        };
        let mut changes = Vec::new();
        let known = self.known.get(&node.name);
        if let Some(known) = known
            && known.subnet != lease.subnet
        {
            changes.extend(self.deleted(&node.name));
        } else if known.is_some_and(|known| known.lease.as_ref() == Some(&lease)) {
            if let Some(known) = self.known.get_mut(&node.name) {
                known.lost_at = None;
            }
            return Ok(changes);
        }
        let known = Known {
            subnet: lease.subnet,
            lease: Some(lease.clone()),
            lost_at: None,
            listed: true,
        };
        self.known.insert(node.name.clone(), known);
        if self.takes(&node.name, lease.subnet) {
            self.holders.insert(lease.subnet, node.name.clone());
            changes.push(Change::Put(lease));
        }
        Ok(changes)
    }

    /// Takes in that a Node is gone.
    pub fn deleted(&mut self, name: &str) -> Vec<Change> {
        let Some(known) = self.known.remove(name) else {
            return Vec::new();
        };
        let subnet = known.subnet;
        let is_held = self
            .holders
            .get(&subnet)
            .is_some_and(|holder| **holder != *name);
        if is_held {
            return Vec::new();
        }
        self.holders.remove(&subnet);
        let mut others = self.known.iter();
        let other = others.find(|(_, other)| other.subnet == subnet && other.lease.is_some());
        let Some((other, Some(lease))) = other.map(|(name, other)| (name.clone(), &other.lease))
        else {
            return vec![Change::Gone(subnet)];
        };
        let lease = lease.clone();
        self.holders.insert(subnet, other);
        vec![Change::Put(lease)]
    }

    /// Forgets Nodes that have been without annotations for too long.
    pub fn prune(&mut self, now: Duration) -> Vec<Change> {
        let grace = self.grace;
        let over = |known: &Known| {
            let lost_at = known.lost_at?;
            (now.saturating_sub(lost_at) >= grace).then_some(())
        };
        let gone: Vec<Box<str>> = self
            .known
            .iter()
            .filter_map(|(name, known)| over(known).map(|()| name.clone()))
            .collect();
        gone.iter().flat_map(|name| self.deleted(name)).collect()
    }

    /// Takes in that a Node is no peer by its annotations.
    fn lost(&mut self, node: &Node, now: Duration) {
        if let Some(known) = self.known.get_mut(&node.name) {
            known.lost_at.get_or_insert(now);
            return;
        }
        // Of the time before the first list it is not known whether this was a peer. If the
        // kernel has it, it stays as long as any other.
        if !self.complete
            && let Ok(Some(subnet)) = node.subnet()
        {
            let known = Known {
                subnet,
                lease: None,
                lost_at: Some(now),
                listed: true,
            };
            self.known.insert(node.name.clone(), known);
        }
    }

    /// Whether only the backend's data is gone.
    fn has_lost_data(&self, name: &str, lease: &Lease) -> bool {
        let known = self.known.get(name).and_then(|known| known.lease.as_ref());
        known.is_some_and(|known| {
            let (known, now) = (&known.attrs, &lease.attrs);
            known.backend_type == now.backend_type
                && known.backend_data.is_some()
                && now.backend_data.is_none()
        })
    }

    /// Whether a Node has this subnet now: nobody else does, or only one that is no peer by its
    /// annotations.
    fn takes(&self, name: &str, subnet: Subnet) -> bool {
        let Some(holder) = self.holders.get(&subnet) else {
            return true;
        };
        **holder == *name
            || self
                .known
                .get(holder)
                .is_none_or(|known| known.lost_at.is_some())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const GRACE: Duration = Duration::from_mins(5);

    fn names() -> Annotations {
        Annotations::new("flannel.alpha.coreos.com").unwrap()
    }

    /// A Node with a podCIDR of that number, if it has one, and annotations, if it has some.
    fn node(name: &str, cidr: Option<u8>, address: Option<u8>) -> Node {
        let annotations = address.map(|address| {
            json!({
                "flannel.alpha.coreos.com/kube-subnet-manager": "true",
                "flannel.alpha.coreos.com/backend-type": "vxlan",
                "flannel.alpha.coreos.com/backend-data":
                    format!(r#"{{"VNI":1,"VtepMAC":"02:00:00:00:00:{address:02x}"}}"#),
                "flannel.alpha.coreos.com/public-ip": format!("192.0.2.{address}"),
            })
        });
        let cidr = cidr.map(|cidr| format!("10.244.{cidr}.0/24"));
        let text = json!({
            "metadata": {"name": name, "annotations": annotations},
            "spec": {"podCIDR": cidr},
        });
        Node::read(&names(), text.to_string().as_bytes()).unwrap()
    }

    struct World(Nodes);

    impl World {
        fn new() -> Self {
            Self(Nodes::new(GRACE))
        }

        fn seen(&mut self, node: &Node, seconds: u32) -> Vec<String> {
            let changes = self.0.seen(&names(), node, seconds * SECOND).unwrap();
            let told = told(changes);
            // The same again is no news.
            assert_eq!(self.0.seen(&names(), node, seconds * SECOND).unwrap(), []);
            told
        }

        fn listed(&mut self, nodes: &[Node]) -> Vec<String> {
            self.0.begin_list();
            for node in nodes {
                self.0.seen(&names(), node, Duration::ZERO).unwrap();
            }
            self.0.end_list();
            self.leases()
        }

        fn leases(&self) -> Vec<String> {
            let leases = self.0.leases();
            leases
                .map(|lease| told(vec![Change::Put(lease.clone())]).concat())
                .collect()
        }
    }

    /// `1@7` for a lease of 10.244.1.0/24 at 192.0.2.7, `-1` for none.
    fn told(changes: Vec<Change>) -> Vec<String> {
        let octet = |subnet: Subnet| match subnet.network() {
            std::net::IpAddr::V4(address) => address.octets()[2],
            std::net::IpAddr::V6(_) => 0,
        };
        let one = |change| match change {
            Change::Put(Lease { subnet, attrs, .. }) => {
                format!("{}@{}", octet(subnet), attrs.public_ip.octets()[3])
            }
            Change::Gone(subnet) => format!("-{}", octet(subnet)),
        };
        changes.into_iter().map(one).collect()
    }

    #[test]
    fn a_node_that_was_annotated_before_it_had_a_pod_cidr_becomes_a_peer() {
        let mut world = World::new();
        assert_eq!(world.seen(&node("n1", None, Some(1)), 0), [""; 0]);
        assert_eq!(world.seen(&node("n1", Some(1), Some(1)), 1), ["1@1"]);
        // And in the other order.
        assert_eq!(world.seen(&node("n2", Some(2), None), 0), [""; 0]);
        assert_eq!(world.seen(&node("n2", Some(2), Some(2)), 1), ["2@2"]);
        assert_eq!(world.leases(), ["1@1", "2@2"]);
    }

    #[test]
    fn a_node_without_annotations_stays_for_a_while() {
        let mut world = World::new();
        world.listed(&[node("n1", Some(1), Some(1)), node("n2", Some(2), Some(2))]);
        assert_eq!(world.seen(&node("n1", Some(1), None), 10), [""; 0]);
        assert_eq!(world.0.prune(309 * SECOND), []);
        // It is written again: nothing has happened.
        assert_eq!(world.seen(&node("n1", Some(1), Some(1)), 309), [""; 0]);
        assert_eq!(world.0.prune(400 * SECOND), []);
        // It is not; a list in between changes nothing.
        world.seen(&node("n1", Some(1), None), 500);
        let listed = world.listed(&[node("n1", Some(1), None), node("n2", Some(2), Some(2))]);
        assert_eq!(listed, ["1@1", "2@2"]);
        assert_eq!(told(world.0.prune(800 * SECOND)), ["-1"]);
        assert_eq!(world.0.prune(900 * SECOND), []);
        assert_eq!(world.leases(), ["2@2"]);
    }

    #[test]
    fn data_that_is_removed_is_an_annotation_that_is_lost() {
        let mut world = World::new();
        world.seen(&node("n1", Some(1), Some(1)), 0);
        let text = r#"{"metadata":{"name":"n1","annotations":{
            "flannel.alpha.coreos.com/kube-subnet-manager":"true",
            "flannel.alpha.coreos.com/backend-type":"vxlan",
            "flannel.alpha.coreos.com/public-ip":"192.0.2.1"}},"spec":{"podCIDR":"10.244.1.0/24"}}"#;
        let without = Node::read(&names(), text.as_bytes()).unwrap();
        assert_eq!(world.seen(&without, 1), [""; 0]);
        assert_eq!(world.leases(), ["1@1"]);
        assert_eq!(told(world.0.prune(GRACE + SECOND)), ["-1"]);
    }

    #[test]
    fn a_node_that_is_deleted_goes_at_once() {
        let mut world = World::new();
        world.seen(&node("n1", Some(1), Some(1)), 0);
        assert_eq!(told(world.0.deleted("n1")), ["-1"]);
        assert_eq!(world.0.deleted("n1"), []);
        // Registered again, with another prefix.
        assert_eq!(world.seen(&node("n1", Some(3), Some(1)), 1), ["3@1"]);
        assert_eq!(world.seen(&node("n1", Some(4), Some(1)), 2), ["-3", "4@1"]);
    }

    #[test]
    fn a_list_is_everything() {
        let mut world = World::new();
        world.listed(&[node("n1", Some(1), Some(1)), node("n2", Some(2), Some(2))]);
        assert_eq!(world.listed(&[node("n2", Some(2), Some(7))]), ["2@7"]);
    }

    #[test]
    fn what_cannot_be_read_stays_as_it_was() {
        let mut world = World::new();
        world.seen(&node("n1", Some(1), Some(1)), 0);
        let text = r#"{"metadata":{"name":"n1","annotations":{
            "flannel.alpha.coreos.com/kube-subnet-manager":"true",
            "flannel.alpha.coreos.com/public-ip":"x"}},"spec":{"podCIDR":"10.244.1.0/24"}}"#;
        let broken = Node::read(&names(), text.as_bytes()).unwrap();
        world.0.begin_list();
        assert!(world.0.seen(&names(), &broken, SECOND).is_err());
        world.0.end_list();
        assert_eq!(world.leases(), ["1@1"]);
        assert_eq!(world.0.prune(1000 * SECOND), []);
    }

    #[test]
    fn two_nodes_with_one_prefix_have_it_one_after_the_other() {
        let mut world = World::new();
        assert_eq!(world.seen(&node("n1", Some(1), Some(1)), 0), ["1@1"]);
        assert_eq!(world.seen(&node("n2", Some(1), Some(2)), 0), [""; 0]);
        let subnet = "10.244.1.0/24".parse().unwrap();
        assert_eq!(world.0.other_holder("n2", subnet), Some("n1"));
        assert_eq!(world.0.other_holder("n1", subnet), None);
        assert_eq!(told(world.0.deleted("n1")), ["1@2"]);
        // Where the first is no peer by its annotations, the second has it at once.
        world.seen(&node("n2", Some(1), None), 1);
        assert_eq!(world.seen(&node("n3", Some(1), Some(3)), 2), ["1@3"]);
        assert_eq!(world.0.prune(GRACE + SECOND), []);
        assert_eq!(world.leases(), ["1@3"]);
    }

    #[test]
    fn a_node_of_an_earlier_start_has_its_time_too() {
        let mut world = World::new();
        world.listed(&[node("n1", Some(1), None), node("n2", None, None)]);
        let subnet: Subnet = "10.244.1.0/24".parse().unwrap();
        assert_eq!(world.0.unknown().collect::<Vec<_>>(), [subnet]);
        assert_eq!(told(world.0.prune(GRACE)), ["-1"]);
        // Later ones were never peers.
        world.seen(&node("n3", Some(3), None), 1);
        assert_eq!(world.0.unknown().count(), 0);
        // It may say again what it is.
        let mut world = World::new();
        world.listed(&[node("n1", Some(1), None)]);
        assert_eq!(world.seen(&node("n1", Some(1), Some(1)), 1), ["1@1"]);
        assert_eq!(world.0.prune(GRACE), []);
    }
}
