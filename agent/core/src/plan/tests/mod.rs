//! What plans say, and that they lead where they should.

mod changes;
mod device;
mod direct;
mod host_gw;
mod properties;
mod scale;
mod world;
