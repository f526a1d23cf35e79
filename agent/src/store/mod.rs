//! Where leases come from.
//!
//! A store has one shape, whatever is behind it: `config`, `acquire`, `renew`, `release`,
//! `keep` (renews until it is told to stop) and `watch`, which turns what happens to leases
//! into [`Event`](twill_core::event::Event)s. A store that is away, or answers rubbish,
//! produces no event: what is programmed stays.

pub mod server;
