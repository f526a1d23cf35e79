//! The fast path: what is learned of netfilter's acceptance, what is carried by it, and what is
//! not.

mod connections;
mod flow;
mod from_pod;
mod from_uplink;
mod in_refused;
mod learn_in;
mod learn_out;
mod out_refused;
