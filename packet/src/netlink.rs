//! Asks the kernel one question at a time (rtnetlink(7)); none of them needs a privilege.

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use std::io;

/// Room for one answer in bytes: the longest, about an interface with many attributes, is a few KiB.
const ANSWER: usize = 32 * 1024;
/// How many messages that answer something else are passed over.
const STRAYS: usize = 16;

/// A socket that asks.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Netlink {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0, request: Vec::new(), answer: vec![0; ANSWER] })
    }

    /// The one answer to a question.
    ///
    /// # Errors
    /// What the kernel answers, with its errno; `InvalidData` for an answer that cannot be understood.
    pub(crate) fn ask(&mut self, question: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
        message.finalize();
        self.request.resize(message.buffer_len(), 0);
        message.serialize(&mut self.request);
        self.socket.send(&self.request, 0)?;
        for _ in 0..STRAYS {
            // The kernel answers before send returns: there is nothing to wait for.
            let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
            let length = match self.socket.recv(&mut &mut self.answer[..], flags) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            };
            let bytes = self.answer.get(..length).ok_or(Errno::EMSGSIZE)?;
            let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if answer.header.sequence_number != self.sequence {
                continue;
            }
            return match answer.payload {
                NetlinkPayload::InnerMessage(answer) => Ok(answer),
                NetlinkPayload::Error(error) => {
                    Err(io::Error::from_raw_os_error(error.raw_code().saturating_neg()))
                }
                other => Err(unexpected(&other)),
            };
        }
        Err(Errno::ETIMEDOUT.into())
    }
}

/// An answer to another question than was asked.
pub(crate) fn unexpected(answer: &impl std::fmt::Debug) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("rtnetlink answered {answer:?}"))
}
