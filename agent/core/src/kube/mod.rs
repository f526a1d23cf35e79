//! Nodes of Kubernetes as leases, and the own Node as flannel's Kubernetes subnet manager writes
//! it (flannel 0.28.9, `pkg/subnet/kube`). Pure: texts come in, texts go out.
//!
//! A Node is read into what Twill needs of it, which is some hundred of its bytes, and dropped.

mod annotations;
mod event;
mod items;
mod node;
mod nodes;
mod own;

pub use self::annotations::{Annotation, Annotations, PrefixError};
pub use self::event::{ReadEventError, WatchEvent};
pub use self::items::{Items, ItemsError, ListMeta};
pub use self::node::{Node, NodeError, Sight};
pub use self::nodes::{Change, Nodes};
pub use self::own::{NETWORK_UNAVAILABLE, Own, network_available};
