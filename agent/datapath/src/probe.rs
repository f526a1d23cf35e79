//! What loading does not tell: whether a helper takes the flags that the programs give it.
//!
//! Found by trying, never by the kernel's version: distributions back-port.

use aya::Ebpf;
use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use thiserror::Error;

use super::undisturbed;

/// The program of the object that tries `bpf_skb_adjust_room` with the flags of our encap.
const ENCAP: &str = "probe_encap";
/// What it answers when the helper takes them.
const TAKEN: u32 = 0;
/// The smallest Ethernet frame, bytes.
const FRAME: usize = 60;

/// Why the fast path cannot work here.
#[derive(Debug, Error)]
pub enum ProbeError {
    /// The helper refuses the flags.
    #[error(
        "this kernel cannot put outer headers in front of an Ethernet frame by BPF \
         (bpf_skb_adjust_room refuses BPF_F_ADJ_ROOM_ENCAP_L2_ETH, which Linux has from 5.13 on)"
    )]
    NoEncap,
    /// The object has no such program.
    #[error("the BPF object has no program {0}: run `cargo xtask build`")]
    NoProgram(&'static str),
    /// It could not be tried.
    #[error("run the program {program} once")]
    Run {
        /// Its name.
        program: &'static str,
        /// Why not.
        #[source]
        source: ProgramError,
    },
}

/// Tries whether the kernel makes room for the outer headers. It loads one program of `ebpf`,
/// runs it on a packet that is nobody's, and unloads it.
pub fn encap(ebpf: &mut Ebpf) -> Result<(), ProbeError> {
    let program = ebpf
        .program_mut(ENCAP)
        .ok_or(ProbeError::NoProgram(ENCAP))?;
    match run(program) {
        Ok(TAKEN) => Ok(()),
        Ok(_) => Err(ProbeError::NoEncap),
        Err(source) => Err(ProbeError::Run {
            program: ENCAP,
            source,
        }),
    }
}

fn run(program: &mut aya::programs::Program) -> Result<u32, ProgramError> {
    let program: &mut SchedClassifier = program.try_into()?;
    undisturbed::load(|| program.load())?;
    let answer = program.test_run(TestRunOptions {
        data_in: Some(&frame()),
        ..TestRunOptions::default()
    });
    program.unload()?;
    Ok(answer?.return_value)
}

/// An Ethernet frame that says it carries IPv4: the helper looks no further.
fn frame() -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let ether_type_and_version = [0x08, 0x00, 0x45];
    frame[12..15].copy_from_slice(&ether_type_and_version);
    frame
}
