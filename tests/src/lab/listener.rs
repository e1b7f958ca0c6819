//! Listeners of the lab's own: they accept, say nothing, and hold the connection open.

use std::collections::VecDeque;
use std::io::Read as _;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use super::Host;
use crate::wait::{SOON, try_wait_for};

/// Connections held at a time; the oldest is closed for the newest.
const HELD: usize = 512;

/// TCP listeners on one host. Dropping it closes them, and the ports are closed from then on.
#[derive(Debug)]
pub struct Listener {
    accepted: Arc<AtomicUsize>,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    #[track_caller]
    pub(super) fn start(host: &Host, ports: &[u16]) -> Self {
        let sockets = host.inside(|| ports.iter().map(|&port| listen_on(port)).collect::<Vec<_>>());
        let accepted = Arc::new(AtomicUsize::new(0));
        let (stop, stopped) = UnixStream::pair().expect("a socket pair");
        let count = Arc::clone(&accepted);
        let thread = thread::spawn(move || hold(&sockets, stopped, &count));
        Self { accepted, stop: Some(stop), thread: Some(thread) }
    }

    /// How many connections came so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Its end wakes the thread, which then closes every socket before it ends.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen_on(port: u16) -> TcpListener {
    let open = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
        socket.set_only_v6(false)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
        socket.listen(4096)?;
        Ok(socket.into())
    };
    // A program that is being started in another thread holds copies of every socket for a moment, also of those that
    // were closed meanwhile.
    let listening = try_wait_for(SOON, || match open() {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => None,
        outcome => Some(outcome),
    });
    match listening {
        Some(Ok(socket)) => socket,
        Some(Err(error)) => panic!("listen on port {port}: {error}"),
        None => panic!("port {port} stays in use"),
    }
}

fn hold(sockets: &[TcpListener], mut stopped: UnixStream, accepted: &AtomicUsize) {
    let mut held: VecDeque<TcpStream> = VecDeque::new();
    loop {
        let ready: Vec<bool> = {
            let mut watched = vec![PollFd::new(stopped.as_fd(), PollFlags::POLLIN)];
            watched.extend(sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
            if poll(&mut watched, PollTimeout::NONE).is_err() {
                continue;
            }
            watched.iter().map(|fd| fd.any().unwrap_or(false)).collect()
        };
        if ready[0] && matches!(stopped.read(&mut [0]), Ok(0) | Err(_)) {
            return;
        }
        for (socket, _) in sockets.iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
            while let Ok((connection, _)) = socket.accept() {
                accepted.fetch_add(1, Ordering::Relaxed);
                held.push_back(connection);
                if held.len() > HELD {
                    held.pop_front();
                }
            }
        }
    }
}
