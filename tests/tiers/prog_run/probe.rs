//! The agent's question to the kernel, on a kernel whose answer is known: this tier runs only
//! where BPF can encapsulate.

use aya::EbpfLoader;
use twill_agent::datapath::probe;

use super::lab::object;

#[test]
fn a_kernel_that_encapsulates_says_so() {
    let Some(bytes) = object() else { return };
    let mut ebpf = EbpfLoader::new().load(&bytes).expect("load the object");
    probe::encap(&mut ebpf).expect("the helper takes the flags");
    // Asked again, it answers again: nothing is left loaded by the first time.
    probe::encap(&mut ebpf).expect("the helper takes the flags");
}
