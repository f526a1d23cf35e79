//! Nodes as network namespaces, pods wired by real CNI plugins, stock flannel nodes by hand,
//! agents and the lease server as processes, and traffic whose every byte is checked.
//!
//! Everything that is made here belongs to a namespace, a directory or a pin whose name
//! says which process made it, and is removed on drop. What a process that was killed
//! left behind is removed by the next one ([`sweep`]); nothing else on the machine is
//! touched, its own interfaces, routes and rules least of all.

#![forbid(unsafe_code)]

pub mod agent;
pub mod capture;
pub mod certificates;
pub mod cluster;
pub mod command;
pub mod counters;
pub mod daemon;
pub mod directory;
pub mod etcd;
pub mod flanneld;
pub mod forge;
pub mod gso;
pub mod kubernetes;
pub mod lease_server;
pub mod netns;
pub mod packet;
pub mod pod;
pub mod route_log;
pub mod service;
pub mod signals;
pub mod stock;
pub mod subnet_env;
pub mod sweep;
pub mod topology;
pub mod traffic;
pub mod wait;
pub mod world;
