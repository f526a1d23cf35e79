//! Who carries packets: the operator's word goes before the agent's.

use twill_abi::{Mode, Program, Reason};

use super::check::{Case, check};
use super::lab::Lab;
use super::packets::{Outer, datagram, from_pod_b, leaving, to_pod_b};

/// The agent's word, the operator's, and whether BPF carries.
const MODES: [(Mode, Mode, bool); 9] = [
    (Mode::Unset, Mode::Unset, false),
    (Mode::Kernel, Mode::Unset, false),
    (Mode::Bpf, Mode::Unset, true),
    (Mode::Unset, Mode::Kernel, false),
    (Mode::Kernel, Mode::Kernel, false),
    (Mode::Bpf, Mode::Kernel, false),
    (Mode::Unset, Mode::Bpf, true),
    (Mode::Kernel, Mode::Bpf, true),
    (Mode::Bpf, Mode::Bpf, true),
];

#[test]
fn the_operator_overrides_the_agent() {
    let Some(lab) = Lab::open() else { return };
    let out = datagram(&to_pod_b(), 64);
    let frame = Outer::from_node_b().over(&datagram(&from_pod_b(), 64));
    for (agent, operator, carries) in MODES {
        let tables = lab.tables().with_mode(agent).with_operator(operator);
        let name = format!("agent {agent:?}, operator {operator:?}");
        if carries {
            let case = Case::encapped(&name, &lab, &out, &Outer::to_node_b());
            check(&lab, &case.with(|before| *before = tables.clone()));
            let case = Case::trusted(&name, &lab, frame.clone());
            check(&lab, &case.with(|before| *before = tables));
        } else {
            for (program, packet) in [
                (Program::ToOverlay, leaving(&out)),
                (Program::FromUplink, frame.clone()),
            ] {
                let tables = tables.clone();
                let case = Case::passed(&name, program, tables, packet, Reason::ModeKernel);
                check(&lab, &case);
            }
        }
    }
}

#[test]
fn an_unknown_mode_is_the_kernels() {
    let Some(lab) = Lab::open() else { return };
    for mode in [3, 0x0200_0000, u32::MAX] {
        let packet = leaving(&datagram(&to_pod_b(), 64));
        let case = Case::passed(
            format!("mode {mode}"),
            Program::ToOverlay,
            lab.tables(),
            packet,
            Reason::ModeKernel,
        )
        .with(|tables| tables.config.mode = mode);
        check(&lab, &case);
    }
}

#[test]
fn zeroed_settings_pass_everything() {
    let Some(lab) = Lab::open() else { return };
    let out = leaving(&datagram(&to_pod_b(), 64));
    let frame = Outer::from_node_b().over(&datagram(&from_pod_b(), 64));
    for (program, packet) in [(Program::ToOverlay, out), (Program::FromUplink, frame)] {
        let case = Case::passed("zeroed", program, lab.tables(), packet, Reason::ModeKernel)
            .with(|tables| tables.config = tables.operator);
        check(&lab, &case);
    }
}
