//! Which of two guests this is, and talking to the other one.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use twill_testbed::command::{command, run};
use twill_testbed::wait::wait_for;
use twill_testbed::world::{NODE_A, NODE_B};

use crate::lab::PATIENCE;

/// Names the side, `a` or `b`.
const SIDE: &str = "TWILL_SIDE";
/// Where the first guest waits for the second.
const PORT: u16 = 7900;
/// How long one guest may do things of its own while the other waits.
const WAIT: Duration = Duration::from_mins(4);

/// One of two guests, in touch with the other.
#[derive(Debug)]
pub(crate) struct Side {
    first: bool,
    other: BufReader<TcpStream>,
}

impl Side {
    /// Meets the other guest for this test.
    pub(crate) fn meet(test: &str) -> Result<Self> {
        let first = match std::env::var(SIDE).as_deref() {
            Ok("a") => true,
            Ok("b") => false,
            other => bail!("{SIDE} is {other:?}: this runs in one of two guests"),
        };
        let [own, other] = if first { [1, 2] } else { [2, 1] };
        let [own, other] = [own, other].map(|last| Ipv4Addr::new(203, 0, 113, last));
        set_up(own)?;
        let stream = if first {
            accept(SocketAddrV4::new(own, PORT))
        } else {
            connect(SocketAddrV4::new(other, PORT))
        };
        let stream = stream.context("meet the other guest")?;
        stream.set_read_timeout(Some(WAIT))?;
        stream.set_nodelay(true)?;
        let mut side = Self {
            first,
            other: BufReader::new(stream),
        };
        let theirs = side.exchange(test)?;
        ensure!(theirs == test, "the other guest is at {theirs}");
        Ok(side)
    }

    /// Whether this is the first of the two.
    pub(crate) fn is_first(&self) -> bool {
        self.first
    }

    /// The underlay address of this guest's node.
    pub(crate) fn address(&self) -> Ipv4Addr {
        if self.first { NODE_A } else { NODE_B }
    }

    /// The underlay address of the other's.
    pub(crate) fn other_address(&self) -> Ipv4Addr {
        if self.first { NODE_B } else { NODE_A }
    }

    /// Tells the other guest a line and gives the one that it tells: neither goes on before both
    /// are here.
    pub(crate) fn exchange(&mut self, line: &str) -> Result<String> {
        let stream = self.other.get_mut();
        stream
            .write_all(format!("{line}\n").as_bytes())
            .context("tell the other guest")?;
        let mut theirs = String::new();
        let length = self.other.read_line(&mut theirs);
        let length = length.with_context(|| format!("wait for the other guest at {line:?}"))?;
        ensure!(
            length > 0,
            "the other guest gave up; this one is at {line:?}"
        );
        Ok(theirs.trim_end().to_owned())
    }

    /// The name of this guest's device for the node, as long as no node has it.
    pub(crate) fn uplink() -> Result<String> {
        // It takes the kernel a moment to give it back.
        wait_for("the NIC is there", PATIENCE, || {
            device_of("02:00:c0:00:02:")
        })
    }
}

/// Gives this guest its address towards the other one.
fn set_up(own: Ipv4Addr) -> Result<()> {
    let device = device_of("02:00:c0:00:03:")?.context("there is no second NIC")?;
    for words in [
        format!("ip addr replace {own}/24 dev {device}"),
        format!("ip link set dev {device} up"),
    ] {
        run(&mut command(&words.split(' ').collect::<Vec<_>>())?)?;
    }
    Ok(())
}

/// The device whose MAC address begins so.
fn device_of(mac: &str) -> Result<Option<String>> {
    let text = run(Command::new("ip").args(["-json", "link"]))?;
    let links: Vec<Value> = serde_json::from_str(&text)?;
    let mut links = links.iter();
    let link = links.find(|link| {
        link["address"]
            .as_str()
            .is_some_and(|own| own.starts_with(mac))
    });
    Ok(link
        .and_then(|link| link["ifname"].as_str())
        .map(str::to_owned))
}

fn accept(own: SocketAddrV4) -> Result<TcpStream> {
    let listener = TcpListener::bind(own).with_context(|| format!("listen on {own}"))?;
    listener.set_nonblocking(true)?;
    let stream = wait_for("the second guest is here", PATIENCE, || {
        Ok(Some(listener.accept()?.0))
    })?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn connect(other: SocketAddrV4) -> Result<TcpStream> {
    wait_for("the first guest is here", PATIENCE, || {
        let stream = TcpStream::connect_timeout(&other.into(), Duration::from_secs(5))?;
        Ok(Some(stream))
    })
}
