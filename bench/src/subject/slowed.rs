//! The kernel's vxlan device with a program in front of it that takes its time: a subject
//! that must come out slower, or the harness sees nothing.

use std::fs;

use anyhow::{Context, Result};
use twill_testbed::world::OVERLAY_LINK;

use super::Network;
use super::kernel::Kernel;
use crate::case::Target;
use crate::load::Ends;
use crate::topology::Setup;

/// Divisions in a program that wait for one another: some ten cycles each. tc(8) takes no more
/// than twice as many.
const DIVISIONS: usize = 1000;
/// Programs, one after another: some ten microseconds in all.
const PROGRAMS: u8 = 4;

pub(super) struct Slowed(Kernel);

impl Slowed {
    pub(super) fn new(setup: Setup) -> Result<Self> {
        let kernel = Kernel::new(setup)?;
        for node in kernel.nodes() {
            let path = node.directory().join("busy.bytecode");
            fs::write(&path, busy(DIVISIONS)).context("write the busy program")?;
            let path = path.display();
            let namespace = node.namespace();
            namespace.run_lines(&format!("tc qdisc add dev {OVERLAY_LINK} clsact"))?;
            for priority in 1..=PROGRAMS {
                namespace.run_lines(&format!(
                    "tc filter add dev {OVERLAY_LINK} egress prio {priority} protocol all bpf bytecode-file {path}"
                ))?;
            }
        }
        Ok(Self(kernel))
    }
}

impl Network for Slowed {
    fn ends(&self, target: Target) -> Ends<'_> {
        self.0.ends(target)
    }
}

/// A classic BPF program, as tc-bpf(8) reads one, that divides and then matches nothing.
fn busy(divisions: usize) -> String {
    const LOAD_IMMEDIATE: u16 = 0x00;
    const DIVIDE_BY_CONSTANT: u16 = 0x34;
    const RETURN: u16 = 0x06;
    let begin = format!("{},{LOAD_IMMEDIATE} 0 0 4294967295", divisions + 2);
    let middle = format!(",{DIVIDE_BY_CONSTANT} 0 0 3").repeat(divisions);
    format!("{begin}{middle},{RETURN} 0 0 0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_as_long_as_it_says() {
        assert_eq!(busy(2), "4,0 0 0 4294967295,52 0 0 3,52 0 0 3,6 0 0 0");
    }
}
