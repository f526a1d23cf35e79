#!/bin/bash
# What: whether a host can see an XDP program that a container attached to its own end of a veth.
# Expected: no: the program is the business of the other network namespace, `ip -d link` of the
#   host's end says nothing about it, and its `xdp` attribute is empty.
# Seen (Linux 6.18): the host's end shows it by its `max_mtu`: 65535 without a program, some 3,500
#   (what one page takes) while a native program without fragments is attached at the other end, and
#   65535 again when it is gone. Each change is announced on the host's side by an RTM_NEWLINK, so
#   nothing has to be polled. The kernel does it in veth_xdp_set(), drivers/net/veth.c, so that no
#   packet is longer than such a program can take.
# Why it matters: what redirects packets into a container past its end's XDP program
#   (bpf_redirect_peer) can know that there is one, without entering the container's namespace.
# Needs: root, python3, iproute2; x86-64 or arm64. Everything is in two network namespaces.
set -euo pipefail
host=finding-host-$$ pod=finding-pod-$$
cleanup() { ip netns del "$pod" 2>/dev/null || true; ip netns del "$host" 2>/dev/null || true; }
trap cleanup EXIT
ip netns add "$host"
ip netns add "$pod"
ip -n "$host" link add veth0 type veth peer name eth0 netns "$pod"
ip -n "$host" link set veth0 up
ip -n "$pod" link set eth0 up
max_mtu() {
    ip -n "$host" -d -j link show veth0 |
        python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["max_mtu"])'
}

before=$(max_mtu)
coproc attached { ip netns exec "$pod" python3 -c '
import ctypes, os, platform, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
def bpf(command, attributes):
    text = ctypes.create_string_buffer(attributes, 128)
    fd = libc.syscall(BPF, command, text, 128)
    if fd < 0:
        sys.exit(os.strerror(ctypes.get_errno()))
    return fd
# r0 = XDP_PASS; exit
code = ctypes.create_string_buffer(struct.pack("<BBhi", 0xb7, 0, 0, 2) + struct.pack("<BBhi", 0x95, 0, 0, 0))
licence = ctypes.create_string_buffer(b"GPL")
program = bpf(5, struct.pack("<IIQQ", 6, 2, ctypes.addressof(code), ctypes.addressof(licence)))
XDP, DRIVER_MODE = 37, 4
link = bpf(28, struct.pack("<IIII", program, socket.if_nametoindex("eth0"), XDP, DRIVER_MODE))
print("attached", flush=True)
sys.stdin.readline()
'; }
read -r -t 10 word <&"${attached[0]}"
[ "$word" = attached ]
during=$(max_mtu)
shown=$(ip -n "$host" -d link show veth0 | grep -c 'prog/xdp' || true)
echo detach >&"${attached[1]}"
wait "$attached_PID"
after=$(max_mtu)

echo "max_mtu of the host's end: $before, with a program at the other end $during, then $after"
echo "programs that the host's end itself shows: $shown"
[ "$shown" = 0 ] || { echo "changed: the host's end shows the program"; exit 1; }
if [ "$before" = 65535 ] && [ "$during" -lt 9000 ] && [ "$after" = 65535 ]; then
    echo "as stated: the other end's program shows in max_mtu"
else
    echo "changed: max_mtu does not tell any more"
    exit 1
fi
