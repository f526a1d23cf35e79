//! A conversation with the kernel over one rtnetlink socket: batches, dumps, single questions.
//!
//! `netlink-proto` is not used for it: that drops an answer that it cannot decode, and the end
//! of a dump with an error in it, and on an overrun leaves the question open for ever. Here
//! every question ends with an answer or a [`Failure`].

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP,
    NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};

use super::error::Failure;
use super::message::{Message, split};

/// Receive buffer that is asked for, bytes. A chunk that fails message by message needs about
/// 1 KiB of it for each error.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// Room for one datagram: the kernel fills at most 32 KiB of a dump at a time.
const DATAGRAM_BYTES: usize = 64 << 10;
/// Requests in one datagram, at about 70 bytes each. The kernel works all of them off inside one
/// system call: with 5,000 routes by one device it searches 70 µs for each further one
/// (`fib_find_info()` in `net/ipv4/fib_semantics.c`, v6.18, walks them all).
const CHUNK: usize = 128;
/// Attempts at a dump that changes interrupt.
const DUMP_ATTEMPTS: u32 = 10;
/// The kernel answers at once; longer means that the answer is lost.
const ANSWER: Duration = Duration::from_secs(10);

/// A request with its flags, without `NLM_F_REQUEST` and `NLM_F_ACK`.
pub(super) type Request = (RouteNetlinkMessage, u16);

/// One rtnetlink socket.
pub(super) struct Socket {
    inner: TokioSocket,
    sequence: u32,
    buffer: BytesMut,
    /// A question was asked and its answer not read to the end (an error, or the caller went
    /// away). The next one gets a new socket: the kernel refuses a dump beside a dump.
    unfinished: bool,
    /// This socket's port number, by which notifications tell who made a change.
    port: Arc<AtomicU32>,
}

impl Socket {
    /// A socket to ask with. `port` is kept up to date with its port number.
    pub(super) fn connect(port: Arc<AtomicU32>) -> Result<Self, Failure> {
        let mut socket = Self::open(RECEIVE_BUFFER_BYTES)?;
        let address = socket.inner.socket_mut().bind_auto()?;
        port.store(address.port_number(), Ordering::Relaxed);
        socket.port = port;

        // Each is best effort: without strict checking the kernel filters less and callers
        // filter again; the other two only make errors richer and shorter.
        let raw = socket.inner.socket_ref();
        for (option, result) in [
            (
                "NETLINK_GET_STRICT_CHK",
                raw.set_netlink_get_strict_chk(true),
            ),
            ("NETLINK_EXT_ACK", raw.set_ext_ack(true)),
            ("NETLINK_CAP_ACK", raw.set_cap_ack(true)),
        ] {
            if let Err(error) = result {
                tracing::debug!(option, %error, "netlink socket option not available");
            }
        }
        Ok(socket)
    }

    /// A socket that hears the notifications of `groups` (`RTNLGRP_*`).
    pub(super) fn subscribe(groups: &[u32], receive_buffer: usize) -> Result<Self, Failure> {
        let mut socket = Self::open(receive_buffer)?;
        socket.inner.socket_mut().bind_auto()?;
        for &group in groups {
            socket.inner.socket_mut().add_membership(group)?;
        }
        Ok(socket)
    }

    fn open(receive_buffer: usize) -> Result<Self, Failure> {
        let socket = TokioSocket::new(NETLINK_ROUTE)?;
        let inner = socket.socket_ref().as_fd();
        // Without CAP_NET_ADMIN in the initial user namespace the limit is `rmem_max`.
        if setsockopt(&inner, RcvBufForce, &receive_buffer).is_err()
            && let Err(error) = setsockopt(&inner, RcvBuf, &receive_buffer)
        {
            tracing::debug!(%error, receive_buffer, "netlink receive buffer stays as it is");
        }
        Ok(Self {
            inner: socket,
            sequence: 0,
            buffer: BytesMut::new(),
            unfinished: false,
            port: Arc::default(),
        })
    }

    /// Everything that a dump brings and `keep` keeps.
    ///
    /// `keep` is handed what could not be decoded as well: whether that matters is its matter.
    pub(super) async fn dump<T>(
        &mut self,
        request: RouteNetlinkMessage,
        mut keep: impl FnMut(Result<RouteNetlinkMessage, Failure>) -> Result<Option<T>, Failure>,
    ) -> Result<Vec<T>, Failure> {
        self.dump_raw(request, |message| keep(message.decode()))
            .await
    }

    /// The same, with messages that nobody has decoded yet. A dump that a change interrupts, and
    /// that may lack or repeat entries therefore, is thrown away and repeated.
    pub(super) async fn dump_raw<T>(
        &mut self,
        request: RouteNetlinkMessage,
        mut keep: impl FnMut(&Message<'_>) -> Result<Option<T>, Failure>,
    ) -> Result<Vec<T>, Failure> {
        let request = [(request, NLM_F_DUMP)];
        for attempt in 1..=DUMP_ATTEMPTS {
            if let Some(found) = self.dump_once(&request, &mut keep).await? {
                return Ok(found);
            }
            tracing::debug!(attempt, "netlink dump interrupted by a change");
        }
        Err(Failure::Interrupted {
            attempts: DUMP_ATTEMPTS,
        })
    }

    async fn dump_once<T>(
        &mut self,
        request: &[Request; 1],
        keep: &mut impl FnMut(&Message<'_>) -> Result<Option<T>, Failure>,
    ) -> Result<Option<Vec<T>>, Failure> {
        let sequence = self.send(request, 0).await?;
        let mut found = Vec::new();
        let mut whole = true;
        loop {
            self.answer().await?;
            for message in split(&self.buffer) {
                let message = message?;
                if message.header.sequence_number != sequence {
                    continue;
                }
                whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.header.message_type {
                    NLMSG_NOOP => {}
                    NLMSG_ERROR | NLMSG_DONE => {
                        let end = message.end();
                        self.unfinished = false;
                        return end.map(|()| whole.then_some(found));
                    }
                    _ => found.extend(keep(&message)?),
                }
            }
        }
    }

    /// The one message that answers a question.
    pub(super) async fn get(
        &mut self,
        request: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, Failure> {
        let sequence = self.send(&[(request, 0)], 0).await?;
        loop {
            self.answer().await?;
            for message in split(&self.buffer) {
                let message = message?;
                if message.header.sequence_number != sequence {
                    continue;
                }
                self.unfinished = false;
                message.end()?;
                return message.decode();
            }
        }
    }

    /// Sends the requests in order and gives the outcome of each, at its index.
    ///
    /// Only the last of a chunk asks for an acknowledgement. The kernel works a datagram off in
    /// order before `send` returns, and reports failures unasked, so that one acknowledgement
    /// says that whatever was not reported has been done.
    pub(super) async fn batch(&mut self, requests: &[Request]) -> Vec<Result<(), Failure>> {
        let mut outcomes = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(CHUNK) {
            let start = outcomes.len();
            outcomes.resize_with(start + chunk.len(), || Ok(()));
            let outcome = &mut outcomes[start..];
            if let Err(failure) = self.chunk(chunk, outcome).await {
                // What became of them is unknown; the next observation will tell.
                outcome.fill(Err(failure));
            }
        }
        outcomes
    }

    async fn chunk(
        &mut self,
        requests: &[Request],
        outcomes: &mut [Result<(), Failure>],
    ) -> Result<(), Failure> {
        let first = self.send(requests, NLM_F_ACK).await?;
        let Some(last) = requests.len().checked_sub(1) else {
            return Ok(());
        };
        loop {
            self.answer().await?;
            for message in split(&self.buffer) {
                let message = message?;
                let index = message.header.sequence_number.wrapping_sub(first) as usize;
                let Some(outcome) = outcomes.get_mut(index) else {
                    continue;
                };
                if message.header.message_type == NLMSG_ERROR {
                    *outcome = message.end();
                    if index == last {
                        self.unfinished = false;
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Sends all in one datagram, the last with the flags `of_last` on top, and gives the
    /// sequence number of the first; the others' follow.
    async fn send(&mut self, requests: &[Request], of_last: u16) -> Result<u32, Failure> {
        if self.unfinished {
            *self = Self::connect(Arc::clone(&self.port))?;
        }
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::with_capacity(requests.len() * 96);
        for (index, (request, flags)) in requests.iter().enumerate() {
            self.sequence = self.sequence.wrapping_add(1);
            let mut header = NetlinkHeader::default();
            header.sequence_number = self.sequence;
            header.flags = NLM_F_REQUEST | flags;
            if index + 1 == requests.len() {
                header.flags |= of_last;
            }
            write(header, request, &mut datagram);
        }
        self.unfinished = true;
        let sent = self.inner.send(&datagram).await?;
        if sent == datagram.len() {
            Ok(first)
        } else {
            Err(Failure::CutShort)
        }
    }

    /// Waits for the next datagram from the kernel, but not for ever.
    async fn answer(&mut self) -> Result<(), Failure> {
        match tokio::time::timeout(ANSWER, self.receive()).await {
            Ok(result) => result,
            Err(_elapsed) => Err(Failure::NoAnswer {
                seconds: ANSWER.as_secs(),
            }),
        }
    }

    /// Waits for the next datagram from the kernel. May be dropped while it waits.
    pub(super) async fn receive(&mut self) -> Result<(), Failure> {
        loop {
            self.buffer.clear();
            self.buffer.reserve(DATAGRAM_BYTES);
            let sender: SocketAddr = self.inner.recv_from(&mut self.buffer).await?;
            // Port 0 is the kernel; any process with our port number may send to us.
            if sender.port_number() == 0 {
                return Ok(());
            }
        }
    }

    /// The messages of the datagram that was received last.
    pub(super) fn received(&self) -> impl Iterator<Item = Result<Message<'_>, Failure>> {
        split(&self.buffer)
    }
}

/// Appends one message, padded to the four bytes at which the next has to begin.
fn write(header: NetlinkHeader, request: &RouteNetlinkMessage, datagram: &mut Vec<u8>) {
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request.clone()));
    message.finalize();
    let start = datagram.len();
    let end = start + message.buffer_len();
    datagram.resize(end.next_multiple_of(4), 0);
    message.serialize(&mut datagram[start..end]);
}
