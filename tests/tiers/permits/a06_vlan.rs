//! A6: a frame that a pod tags with a VLAN of its choice, over a fast flow, does not leave the
//! node tagged, nor at all.

use std::fs::{self, File};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};
use twill_testbed::command::command;
use twill_testbed::forge::Frames;
use twill_testbed::packet::{Ethernet, Ipv4, Udp};
use twill_testbed::pod::Pod;
use twill_testbed::wait::wait_until;

use crate::beat::Beat;
use crate::lab::{A, B, Kind, Lab, Options, SECONDS, run};
use crate::rules::ECHO;
use crate::talk::{Flow, Server};

const PORT: u16 = 5601;
const FRAMES: u64 = 100;
/// VLAN 100, no priority.
const TAG: [u8; 4] = [0x81, 0x00, 0x00, 0x64];

/// What leaves a node by its uplink, as tcpdump prints it.
struct Capture {
    child: Child,
    file: std::path::PathBuf,
}

impl Capture {
    fn start(lab: &Lab, node: usize) -> Result<Self> {
        let node = &lab.member(node).node;
        let file = node.directory().join("capture.txt");
        let errors = node.directory().join("capture.err");
        let mut command = command(&["tcpdump", "-Q", "out", "-i", "eth0", "-nn", "-e", "-l"])?;
        command
            .stdin(Stdio::null())
            .stdout(File::create(&file)?)
            .stderr(File::create(&errors)?);
        let capture = Self {
            child: node.namespace().spawn(&mut command)?,
            file,
        };
        wait_until("tcpdump listens", SECONDS, || {
            fs::read_to_string(&errors).is_ok_and(|text| text.contains("listening on"))
        })?;
        Ok(capture)
    }

    fn lines(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(&self.file)?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // It ends by nothing else.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn mac(text: &serde_json::Value) -> Result<[u8; 6]> {
    let text = text.as_str().context("no MAC address")?;
    let bytes: Result<Vec<u8>, _> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect();
    bytes?
        .try_into()
        .map_err(|_length| anyhow::anyhow!("{text} is no MAC address"))
}

/// What the pod would send over its flow, tagged.
fn tagged(from: &Pod, to: &Pod) -> Result<Vec<u8>> {
    let own = mac(&from.namespace().link_json("eth0")?["address"])?;
    let neighbours = ["ip", "-json", "neigh", "show", "dev", "eth0"];
    let neighbours: serde_json::Value = serde_json::from_str(&from.namespace().run(&neighbours)?)?;
    let gateway = mac(&neighbours[0]["lladdr"])?;
    let packet = Ipv4::new(from.address(), to.address());
    let mut frame =
        Ethernet::ipv4(own, gateway).over(&packet.udp(&Udp::new(PORT, ECHO), b"tagged"));
    frame.splice(12..12, TAG);
    Ok(frame)
}

fn no_tag_leaves(lab: &Lab) -> Result<()> {
    let (from, to) = (lab.pod(A, 0), lab.pod(B, 0));
    let _echo = Server::backend(to, "one")?;
    let beat = Beat::start(Flow::udp(from.namespace(), PORT, Server::address(to))?);
    lab.wait_fast(&[PORT])?;
    let capture = Capture::start(lab, A)?;
    let seen = lab.count(A, "from_pod", "vlan_tag")?;
    let frames = Frames::on(from.namespace(), "eth0")?;
    let frame = tagged(from, to)?;
    for _ in 0..FRAMES {
        frames.send(&frame)?;
    }
    if lab.kind == Kind::Twill {
        let seen = lab.count(A, "from_pod", "vlan_tag")? - seen;
        ensure!(seen == FRAMES, "from_pod saw {seen} tagged frames");
        ensure!(lab.is_live(A, PORT)?, "the flow is not fast any more");
    }
    // What comes after the tagged frames is in the capture, so they would be.
    beat.wait_more("the flow goes on")?;
    wait_until("the capture has it", SECONDS, || {
        capture.lines().is_ok_and(|lines| lines.len() > 200)
    })?;
    let lines = capture.lines()?;
    ensure!(lines.iter().any(|line| line.contains("8472")), "{lines:?}");
    let left = lines.iter().find(|line| line.contains("802.1Q"));
    ensure!(left.is_none(), "a tagged frame left the node: {left:?}");
    Ok(())
}

#[test]
fn a06_a_tagged_frame_of_a_pod_never_leaves_the_node() -> Result<()> {
    run(&Kind::ALL, Options::default(), |lab| no_tag_leaves(lab)).map(drop)
}
