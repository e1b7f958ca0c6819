//! Listeners that keep up with any scanner: they accept and close, from a backlog as long as the kernel allows.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result};
use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use crate::ports;

/// Connections that may wait to be accepted; net.core.somaxconn bounds it too.
const BACKLOG: i32 = 65_535;
/// Accepted on one port before the others are looked at again.
const AT_A_TIME: usize = 256;

/// Which ports to listen on.
#[derive(Args, Debug)]
pub struct Listen {
    /// The ports.
    #[arg(long)]
    ports: String,
}

/// Listens on every address of both families until it is killed.
pub fn run(listen: &Listen) -> Result<()> {
    let ports = ports::parse(&listen.ports)?;
    let open = |port: &u16| open(*port).with_context(|| format!("listen on port {port}"));
    let listeners = ports.iter().map(open).collect::<Result<Vec<TcpListener>>>()?;
    println!("listening");
    loop {
        let watch = |listener| PollFd::new(TcpListener::as_fd(listener), PollFlags::POLLIN);
        let mut watched: Vec<PollFd<'_>> = listeners.iter().map(watch).collect();
        match poll(&mut watched, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("poll the listeners"),
        }
        for (listener, _) in listeners.iter().zip(&watched).filter(|(_, fd)| fd.any().unwrap_or(false)) {
            for _ in 0..AT_A_TIME {
                match listener.accept() {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // The peer has reset it meanwhile: a SYN scanner does.
                    Err(_) => {}
                }
            }
        }
    }
}

fn open(port: u16) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
