//! Two guests, joined by virtio-net: each is one node. Both run the same tests in the same
//! order, and meet wherever one needs what the other has done.

mod half;
mod side;

mod carry;
mod strangers;
