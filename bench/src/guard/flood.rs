//! A generator of frames that costs nearly nothing itself: `BPF_PROG_TEST_RUN` with live frames
//! (Linux 5.18), which is what xdp-trafficgen is made of.
//!
//! The kernel makes frames out of a buffer, in batches of a NAPI poll, and gives each to a
//! program, which sends it out of an interface. The interface's other end, a veth with NAPI,
//! receives them on the same CPU behind each batch.

use anyhow::{Context, Result};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};

/// Frames in a batch: as many as a NAPI poll takes.
const BATCH: u32 = 64;
/// Name of the program in its object.
const NAME: &str = "flood";

/// `struct bpf_insn` (`include/uapi/linux/bpf.h`), little-endian.
type Instruction = [u8; 8];

/// `rN = value`.
const fn set(register: u8, value: u32) -> Instruction {
    instruction(0xb7, register, value)
}

/// A call of a helper.
const fn call(helper: u32) -> Instruction {
    instruction(0x85, 0, helper)
}

const EXIT: Instruction = instruction(0x95, 0, 0);
/// `bpf_redirect(ifindex, flags)`.
const REDIRECT: u32 = 23;
const XDP_DROP: u32 = 1;

const fn instruction(code: u8, register: u8, value: u32) -> Instruction {
    let [a, b, c, d] = value.to_le_bytes();
    [code, register, 0, 0, a, b, c, d]
}

/// Sends the same frame again and again out of an interface.
pub(super) struct Flood {
    ebpf: Ebpf,
    frame: Vec<u8>,
}

impl Flood {
    /// Out of the interface with this index.
    pub(super) fn through(ifindex: u32, frame: Vec<u8>) -> Result<Self> {
        let code = [set(1, ifindex), set(2, 0), call(REDIRECT), EXIT];
        let ebpf = load(&code)?;
        Ok(Self { ebpf, frame })
    }

    /// Sends so many frames, as fast as it goes. To be called in the interface's namespace.
    pub(super) fn send(&mut self, frames: u32) -> Result<()> {
        let options = TestRunOptions {
            data_in: Some(&self.frame),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        };
        let sent = program(&mut self.ebpf)?.test_run(options);
        sent.context("send live frames (it takes Linux 5.18)")?;
        Ok(())
    }
}

/// The least that a program at XDP can do to drop every frame.
pub(super) struct Hole(Ebpf);

impl Hole {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(load(&[set(0, XDP_DROP), EXIT])?))
    }

    pub(super) fn program(&mut self) -> Result<&mut Xdp> {
        program(&mut self.0)
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    let program = ebpf.program_mut(NAME).context("no program")?;
    program.try_into().context("no XDP program")
}

fn load(code: &[Instruction]) -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().load(&elf(code)?)?;
    program(&mut ebpf)?.load().context("load the program")?;
    Ok(ebpf)
}

/// An object with one XDP program, as a BPF loader wants it.
fn elf(code: &[Instruction]) -> Result<Vec<u8>> {
    let mut file = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let section = file.add_section(Vec::new(), b"xdp".to_vec(), SectionKind::Text);
    file.append_section_data(section, code.as_flattened(), 8);
    file.add_symbol(Symbol {
        name: NAME.as_bytes().to_vec(),
        value: 0,
        size: size_of_val(code) as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    });
    let license = file.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    file.append_section_data(license, b"GPL\0", 1);
    file.write().context("write an ELF file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_as_the_kernel_reads_them() {
        assert_eq!(set(1, 0x0102), [0xb7, 1, 0, 0, 2, 1, 0, 0]);
        assert_eq!(call(REDIRECT), [0x85, 0, 0, 0, 23, 0, 0, 0]);
    }

    #[test]
    fn the_object_has_the_program() {
        let bytes = elf(&[EXIT]).unwrap();
        assert!(bytes.starts_with(b"\x7fELF\x02\x01"));
        assert_eq!(bytes.get(18..20), Some(&[247, 0][..]));
    }
}
