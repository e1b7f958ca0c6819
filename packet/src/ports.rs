//! Source ports that are ours alone.
//!
//! A probe from a port that the kernel may give to a connection would disturb that connection, and its answer would be
//! taken for ours. So the ports are taken from the kernel as any program takes one: by binding them.

use nix::errno::Errno;
use rand::RngExt as _;
use socket2::{Domain, Socket, Type};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

/// How many blocks are tried before it is said that there is none.
const TRIES: usize = 64;
/// The kernel's own range unless told otherwise (ip(7), `ip_local_port_range`).
const DEFAULT_RANGE: RangeInclusive<u16> = 32768..=60999;

/// A block of [`Block::LEN`] ports, the first one a multiple of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Block {
    first: u16,
}

impl Block {
    /// How many ports a block has.
    pub const LEN: u16 = 16;

    /// The block that `port` is in.
    #[must_use]
    pub fn of(port: u16) -> Self {
        Self { first: port & Self::mask() }
    }

    /// Port number `index` of the block, counted round and round.
    #[must_use]
    pub fn port(self, index: u8) -> u16 {
        self.first | (u16::from(index) & !Self::mask())
    }

    /// Which one of the block's ports this is: 0 to 15.
    #[must_use]
    pub fn index(self, port: u16) -> Option<u8> {
        self.contains(port).then_some((port & !Self::mask()) as u8)
    }

    /// Whether the port is one of the block's.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        port & Self::mask() == self.first
    }

    /// The first port.
    pub(crate) fn first(self) -> u16 {
        self.first
    }

    /// The bits that all ports of a block share.
    pub(crate) const fn mask() -> u16 {
        !(Self::LEN - 1)
    }
}

/// A block of TCP source ports that the kernel gives to nobody else for as long as this lives.
///
/// They are bound on all addresses of both families and never listen, so the kernel itself answers a SYN-ACK that
/// arrives there with a RST: the target keeps no half-open connection.
#[derive(Debug)]
pub struct SourcePorts {
    block: Block,
    _bound: Vec<Socket>,
}

impl SourcePorts {
    /// Takes a block at random out of the kernel's ephemeral range (`ip_local_port_range`), without the ports that the
    /// administrator reserved (`ip_local_reserved_ports`) and without any that is in use.
    ///
    /// # Errors
    /// `EADDRINUSE` when 64 blocks were tried in vain, or the range has no whole block; `EMFILE` or `ENFILE` when 16
    /// descriptors cannot be had.
    pub fn reserve() -> io::Result<Self> {
        let range = match fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range") {
            Ok(text) => parse_range(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => DEFAULT_RANGE,
            Err(error) => return Err(error),
        };
        let reserved = fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports")
            .map_or(Ok(Vec::new()), |text| parse_ports(&text))?;
        let blocks = blocks(&range, &reserved);
        for _ in 0..TRIES.min(blocks.len() * 4) {
            let block = blocks[rand::rng().random_range(0..blocks.len())];
            match bind(block) {
                Ok(bound) => return Ok(Self { block, _bound: bound }),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!(
                "no {} free TCP ports in a row, aligned to {}, between {} and {}: widen ip_local_port_range",
                Block::LEN,
                Block::LEN,
                range.start(),
                range.end()
            ),
        ))
    }

    /// The block.
    #[must_use]
    pub fn block(&self) -> Block {
        self.block
    }
}

/// Binds every port of the block, or none.
fn bind(block: Block) -> io::Result<Vec<Socket>> {
    (0..Block::LEN as u8).map(|index| bind_port(block.port(index))).collect()
}

/// One socket holds the port for both families, where there are two.
fn bind_port(port: u16) -> io::Result<Socket> {
    let (socket, address) = match Socket::new(Domain::IPV6, Type::STREAM, None) {
        Ok(socket) => {
            socket.set_only_v6(false)?;
            (socket, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        }
        Err(error) if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            (socket, SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        }
        Err(error) => return Err(error),
    };
    socket.bind(&address.into())?;
    Ok(socket)
}

/// The whole blocks of a range that hold no reserved port.
fn blocks(range: &RangeInclusive<u16>, reserved: &[RangeInclusive<u16>]) -> Vec<Block> {
    (0..=u16::MAX)
        .step_by(Block::LEN.into())
        .map(Block::of)
        .filter(|block| {
            let last = block.port((Block::LEN - 1) as u8);
            let free = |ports: &RangeInclusive<u16>| last < *ports.start() || block.first > *ports.end();
            block.first > 0
                && range.contains(&block.first)
                && range.contains(&last)
                && reserved.iter().all(free)
        })
        .collect()
}

/// Two numbers with a tab between them.
fn parse_range(text: &str) -> io::Result<RangeInclusive<u16>> {
    let mut words = text.split_whitespace().map(str::parse);
    match (words.next(), words.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(first..=last),
        _ => Err(invalid("ip_local_port_range", text)),
    }
}

/// `8080,9000-9100`, or nothing at all.
fn parse_ports(text: &str) -> io::Result<Vec<RangeInclusive<u16>>> {
    text.trim()
        .split(',')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.parse(), last.parse()) {
                (Ok(first), Ok(last)) => Ok(first..=last),
                _ => Err(invalid("ip_local_reserved_ports", text)),
            }
        })
        .collect()
}

fn invalid(what: &str, text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the kernel's {what} reads {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_block_knows_its_ports() {
        let block = Block::of(40005);
        assert_eq!((block.port(0), block.port(15), block.port(16)), (40000, 40015, 40000));
        assert_eq!((block.index(40000), block.index(40015)), (Some(0), Some(15)));
        assert_eq!((block.index(39999), block.index(40016)), (None, None));
    }

    #[test]
    fn blocks_lie_inside_the_range_and_outside_what_is_reserved() {
        let firsts = |range, reserved: &str| -> Vec<u16> {
            blocks(&range, &parse_ports(reserved).unwrap()).iter().map(|block| block.first).collect()
        };
        assert_eq!(firsts(32768..=32799, "\n"), [32768, 32784]);
        assert_eq!(firsts(32769..=32815, ""), [32784, 32800]);
        assert_eq!(firsts(32768..=32815, "8080,32799-32800\n"), [32768]);
        assert_eq!(firsts(32768..=32782, ""), [0; 0]);
        assert_eq!(firsts(65500..=65535, ""), [65504, 65520]);
        assert_eq!(firsts(0..=31, ""), [16]);
    }

    #[test]
    fn the_kernels_words_are_understood() {
        assert_eq!(parse_range("32768\t60999\n").unwrap(), DEFAULT_RANGE);
        assert!(parse_range("32768").is_err() && parse_range("x y").is_err());
        assert!(parse_ports("1,x").is_err());
    }

    #[test]
    fn nobody_else_gets_a_reserved_port() {
        let ports = SourcePorts::reserve().unwrap();
        let port = ports.block().port(3);
        for address in ["127.0.0.1", "0.0.0.0"] {
            assert_eq!(TcpListener::bind((address, port)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        }
        drop(ports);
        TcpListener::bind(("127.0.0.1", port)).unwrap();
    }
}
