//! A bad link in one piece: a TCP proxy that does to a connection what a test planned, at the byte it planned.
//!
//! It stands on a host, in front of an address. Each connection takes the next fault of the plan, and when that did not
//! end it, the next; without one it is passed on unharmed. Two threads carry each connection, one a direction.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::Host;
use crate::chance::Chance;

/// How often a thread that waits looks whether the other direction ended.
const LOOK: Duration = Duration::from_millis(50);
/// What is carried in one piece.
const PIECE: usize = 16 * 1024;
/// How long a connection stays half open when nobody ends it.
const FORGOTTEN: Duration = Duration::from_secs(120);
/// How long a peer that does not read is waited for.
const UNREAD: Duration = Duration::from_secs(30);

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From who dialled to who listens.
    Out,
    /// Back.
    Back,
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Both sides get a reset.
    Cut,
    /// Everything is swallowed from here on, both ways, and both sockets stay, until the peers give up.
    HalfOpen,
    /// So many more bytes pass this way, and then both sides get a reset.
    Truncate(usize),
    /// From here on every piece that goes this way waits this long.
    Delay(Duration),
    /// This direction passes nothing for this long; its sender's window fills up.
    Stall(Duration),
    /// So many bytes pass one at a time.
    Trickle(usize),
    /// One bit is wrong.
    Flip,
}

/// A fault of a connection: what, which way, and after how many bytes that went this way since the connection took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What happens.
    pub kind: Kind,
    /// The direction whose bytes are counted.
    pub direction: Direction,
    /// How many bytes pass unharmed.
    pub after: usize,
}

impl Fault {
    /// The n-th fault of many, so that every kind has its turn; at a byte that falls into the handshake, the greeting or
    /// the records.
    pub fn nth(number: u64, chance: &mut Chance) -> Self {
        let direction = *chance.pick(&[Direction::Out, Direction::Back]);
        // Acks are few and small.
        let span = match direction {
            Direction::Out => *chance.pick(&[3_000, 30_000, 150_000]),
            Direction::Back => *chance.pick(&[1_500, 6_000, 20_000]),
        };
        let after = usize::try_from(chance.below(span)).unwrap_or_default();
        let kind = match number % 10 {
            0 | 3 | 7 => Kind::Cut,
            1 => Kind::HalfOpen,
            2 | 6 => Kind::Truncate(usize::try_from(chance.below(2_000)).unwrap_or_default()),
            4 => Kind::Delay(chance.up_to(Duration::from_millis(150))),
            5 => Kind::Stall(chance.up_to(Duration::from_millis(3_000))),
            8 => Kind::Trickle(usize::try_from(chance.between(1, 400)).unwrap_or_default()),
            _ => Kind::Flip,
        };
        Self { kind, direction, after }
    }
}

/// The proxy. Dropping it cuts every connection.
#[derive(Debug)]
pub struct FaultProxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    plan: Mutex<VecDeque<Fault>>,
    done: Mutex<Vec<Fault>>,
    accepted: AtomicUsize,
    closed: AtomicBool,
}

/// One connection, as both of its threads see it.
#[derive(Debug)]
struct Connection {
    ends: [TcpStream; 2],
    next: Mutex<Next>,
    /// Swallow everything.
    open_to_nothing: AtomicBool,
    /// It is over.
    over: AtomicBool,
}

/// What happens next to a connection, and how many bytes went each way since it was taken from the plan.
#[derive(Debug, Default)]
struct Next {
    fault: Option<Fault>,
    passed: [usize; 2],
}

impl FaultProxy {
    /// Listens on a port of a host, in front of an address.
    #[track_caller]
    pub fn start(host: &Host, port: u16, to: SocketAddr) -> Self {
        let listener = host.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("a free port"));
        let shared = Arc::new(Shared {
            to,
            plan: Mutex::default(),
            done: Mutex::default(),
            accepted: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        });
        let (own, host) = (shared.clone(), host.clone());
        thread::spawn(move || {
            // Connections go out from where the proxy stands.
            host.enter();
            for client in listener.incoming() {
                if own.closed.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(client) = client else { continue };
                own.accepted.fetch_add(1, Ordering::SeqCst);
                let own = own.clone();
                thread::spawn(move || drop(carry(client, &own)));
            }
        });
        Self { port, shared }
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Plans a fault for a connection to come.
    pub fn plan(&self, fault: Fault) {
        self.shared.plan.lock().expect("nobody panics with it").push_back(fault);
    }

    /// Faults that were planned and have no connection yet.
    pub fn planned(&self) -> usize {
        self.shared.plan.lock().expect("nobody panics with it").len()
    }

    /// Faults that happened, in their order.
    pub fn done(&self) -> Vec<Fault> {
        self.shared.done.lock().expect("nobody panics with it").clone()
    }

    /// Connections that came.
    pub fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
    }
}

fn carry(client: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    let server = TcpStream::connect_timeout(&shared.to, Duration::from_secs(10))?;
    for end in [&client, &server] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(LOOK))?;
        end.set_write_timeout(Some(UNREAD))?;
    }
    let connection = Arc::new(Connection {
        ends: [client, server],
        next: Mutex::default(),
        open_to_nothing: AtomicBool::new(false),
        over: AtomicBool::new(false),
    });
    let back = thread::spawn({
        let (connection, shared) = (connection.clone(), shared.clone());
        move || connection.pump(Direction::Back, &shared)
    });
    connection.pump(Direction::Out, shared);
    let _joined = back.join();
    Ok(())
}

impl Connection {
    /// Carries one direction until its end.
    fn pump(&self, direction: Direction, shared: &Shared) {
        let [mut from, mut to] = match direction {
            Direction::Out => [&self.ends[0], &self.ends[1]],
            Direction::Back => [&self.ends[1], &self.ends[0]],
        };
        let mut late = Duration::ZERO;
        let mut piece = [0; PIECE];
        let mut swallowing_since = None;
        loop {
            if self.over.load(Ordering::SeqCst) || shared.closed.load(Ordering::SeqCst) {
                return self.reset();
            }
            let read = match from.read(&mut piece) {
                Ok(0) if self.open_to_nothing.load(Ordering::SeqCst) => {
                    // This side gave up; the other does not hear of it. Its own direction waits for its own end.
                    return;
                }
                Ok(0) => {
                    let _gone_too = to.shutdown(Shutdown::Write);
                    return;
                }
                Ok(read) => read,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if self.open_to_nothing.load(Ordering::SeqCst) {
                        let since = *swallowing_since.get_or_insert_with(Instant::now);
                        if since.elapsed() > FORGOTTEN {
                            return self.reset();
                        }
                    }
                    continue;
                }
                Err(_) if self.open_to_nothing.load(Ordering::SeqCst) => return,
                Err(_) => return self.reset(),
            };
            let mut bytes = &mut piece[..read];
            if let Some((fault, unharmed)) = self.due(direction, bytes.len(), shared) {
                let (before, at) = bytes.split_at_mut(unharmed);
                if to.write_all(before).is_err() {
                    return self.reset();
                }
                if let Kind::Delay(pause) = fault.kind {
                    late = pause;
                }
                match self.strike(fault.kind, at, to) {
                    Ok(rest) => bytes = rest,
                    Err(()) => return self.reset(),
                }
            }
            if self.open_to_nothing.load(Ordering::SeqCst) {
                continue;
            }
            thread::sleep(late);
            if to.write_all(bytes).is_err() {
                return self.reset();
            }
        }
    }

    /// Counts bytes that are about to pass. When a fault falls on one of them: it, and how many pass before it.
    fn due(&self, direction: Direction, bytes: usize, shared: &Shared) -> Option<(Fault, usize)> {
        if self.open_to_nothing.load(Ordering::SeqCst) {
            return None;
        }
        let mut next = self.next.lock().expect("nobody panics with it");
        if next.fault.is_none() {
            let fault = shared.plan.lock().expect("nobody panics with it").pop_front();
            *next = Next { fault, passed: [0, 0] };
        }
        let passed = next.passed[direction as usize];
        next.passed[direction as usize] += bytes;
        let fault = next.fault.filter(|fault| fault.direction == direction)?;
        let unharmed = fault.after.checked_sub(passed).filter(|unharmed| *unharmed < bytes)?;
        next.fault = None;
        shared.done.lock().expect("nobody panics with it").push(fault);
        Some((fault, unharmed))
    }

    /// What the fault does; returns the bytes that still go their way, or that the connection is over.
    fn strike<'a>(&self, kind: Kind, bytes: &'a mut [u8], mut to: &TcpStream) -> Result<&'a mut [u8], ()> {
        match kind {
            Kind::Cut => return Err(()),
            Kind::HalfOpen => self.open_to_nothing.store(true, Ordering::SeqCst),
            Kind::Truncate(more) => {
                let more = more.min(bytes.len());
                let _cut_anyway = to.write_all(&bytes[..more]);
                return Err(());
            }
            Kind::Delay(_) => {}
            // The other direction goes on meanwhile.
            Kind::Stall(pause) => {
                let end = Instant::now() + pause;
                while Instant::now() < end && !self.over.load(Ordering::SeqCst) {
                    thread::sleep(LOOK.min(end.saturating_duration_since(Instant::now())));
                }
            }
            Kind::Trickle(slow) => {
                let slow = slow.min(bytes.len());
                let (first, rest) = bytes.split_at_mut(slow);
                for byte in first {
                    to.write_all(&[*byte]).map_err(drop)?;
                    thread::sleep(Duration::from_millis(1));
                }
                return Ok(rest);
            }
            Kind::Flip => bytes[0] ^= 1 << 4,
        }
        Ok(bytes)
    }

    /// Ends both sides with a reset, which is what closing does from here on: as soon as the other thread has seen it.
    fn reset(&self) {
        self.over.store(true, Ordering::SeqCst);
        for end in &self.ends {
            let _gone = SockRef::from(end).set_linger(Some(Duration::ZERO));
        }
    }
}
