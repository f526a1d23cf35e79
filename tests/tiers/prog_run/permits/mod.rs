//! The fast path: what is learned of netfilter's acceptance, what is carried by it, and what is
//! not.

mod connections;
mod direct_about;
mod direct_delivered;
mod direct_in;
mod direct_out;
mod direct_word;
mod flow;
mod from_pod;
mod from_uplink;
mod garbage;
mod in_refused;
mod learn_in;
mod learn_out;
mod out_refused;
mod places;
mod round_trip;
