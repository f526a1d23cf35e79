//! What a NIC says of the checksums of the frames that it receives, said by BPF on the wire: on the
//! switch's port, where a veth carries it to the node beside the frame.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::{SchedClassifier, TcAttachType};
use twill_testbed::netns::Namespace;

/// `BPF_FUNC_redirect` and `BPF_FUNC_csum_level`.
const REDIRECT: i32 = 23;
const CSUM_LEVEL: i32 = 135;
/// `BPF_CSUM_LEVEL_INC`.
const LEVEL_INC: i32 = 1;
/// `TCX_NEXT`.
const NEXT: i32 = -1;

/// An instruction: opcode, registers, offset, immediate.
type Instruction = [u8; 8];

/// A program on an interface, as long as it is kept.
pub(super) struct OnInterface {
    _object: Ebpf,
}

/// Frames that leave by this interface arrive with so many checksums verified, from the outermost
/// on, if nobody has said anything of them yet (`CHECKSUM_UNNECESSARY`).
pub(super) fn verifies(namespace: &Namespace, interface: &str, sums: usize) -> Result<OnInterface> {
    let verify = [
        with(0xbf, 0x61, 0),
        with(0xb7, 2, LEVEL_INC),
        call(CSUM_LEVEL),
    ];
    let mut program = vec![with(0xbf, 0x16, 0)];
    program.extend(verify.iter().cycle().take(verify.len() * sums));
    program.extend([with(0xb7, 0, NEXT), with(0x95, 0, 0)]);
    attach(namespace, interface, TcAttachType::Egress, &program)
}

/// Frames that come in by this interface leave by another, whatever is said of them.
pub(super) fn leads_to(namespace: &Namespace, interface: &str, to: i32) -> Result<OnInterface> {
    let program = [
        with(0xb7, 1, to),
        with(0xb7, 2, 0),
        call(REDIRECT),
        with(0x95, 0, 0),
    ];
    attach(namespace, interface, TcAttachType::Ingress, &program)
}

fn with(opcode: u8, registers: u8, immediate: i32) -> Instruction {
    let [a, b, c, d] = immediate.to_le_bytes();
    [opcode, registers, 0, 0, a, b, c, d]
}

fn call(helper: i32) -> Instruction {
    with(0x85, 0, helper)
}

fn attach(
    namespace: &Namespace,
    interface: &str,
    direction: TcAttachType,
    program: &[Instruction],
) -> Result<OnInterface> {
    let mut object = Ebpf::load(&object(program)).context("an object of ours")?;
    let found = object.program_mut(NAME).context("its program")?;
    let program: &mut SchedClassifier = found.try_into()?;
    program.load()?;
    namespace.enter(|| program.attach(interface, direction).map(drop))??;
    Ok(OnInterface { _object: object })
}

/// Name of the program.
const NAME: &str = "nic";
/// The names in an object, and where each of them is.
const NAMES: &[u8] = b"\0classifier\0license\0.symtab\0.strtab\0nic\0";
const CLASSIFIER: u8 = 1;
const LICENSE: u8 = 12;
const SYMBOLS: u8 = 20;
const STRINGS: u8 = 28;
const PROGRAM: u8 = 36;

/// An ELF object with one program.
fn object(program: &[Instruction]) -> Vec<u8> {
    let code = program.concat();
    let mut symbols = vec![0; 24];
    // A global function in the first section, all of it.
    symbols.extend([PROGRAM, 0, 0, 0, 0x12, 0, 1, 0]);
    symbols.extend([0; 8]);
    symbols.extend(code.len().to_le_bytes());
    // Name, type, flags, link, info, size of an entry.
    let sections: [([u8; 6], &[u8]); 4] = [
        ([CLASSIFIER, 1, 6, 0, 0, 0], &code),
        ([LICENSE, 1, 2, 0, 0, 0], b"GPL\0"),
        ([SYMBOLS, 2, 0, 4, 1, 24], &symbols),
        ([STRINGS, 3, 0, 0, 0, 0], NAMES),
    ];
    let mut contents = Vec::new();
    let mut headers = vec![0; 64];
    for ([name, kind, flags, link, info, entry], bytes) in sections {
        contents.resize(contents.len().next_multiple_of(8), 0);
        headers.extend([name, 0, 0, 0, kind, 0, 0, 0]);
        headers.extend(u64::from(flags).to_le_bytes());
        headers.extend([0; 8]);
        headers.extend((64 + contents.len()).to_le_bytes());
        headers.extend(bytes.len().to_le_bytes());
        headers.extend([link, 0, 0, 0, info, 0, 0, 0]);
        headers.extend(8_u64.to_le_bytes());
        headers.extend(u64::from(entry).to_le_bytes());
        contents.extend(bytes);
    }
    // 64 bits, little endian; relocatable, BPF; 5 headers of 64 bytes, the last for the names.
    let mut object = b"\x7fELF\x02\x01\x01".to_vec();
    object.resize(16, 0);
    object.extend([1, 0, 247, 0, 1, 0, 0, 0]);
    object.resize(40, 0);
    object.extend((64 + contents.len()).to_le_bytes());
    object.extend([0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 64, 0, 5, 0, 4, 0]);
    object.extend(contents);
    object.extend(headers);
    object
}
