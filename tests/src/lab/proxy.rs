//! An HTTP proxy that does CONNECT and nothing else, as stands between many segments and the rest.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::Host;

/// The longest request that it reads.
const MAX_REQUEST: u64 = 8 * 1024;

/// A proxy on a host; it ends with the test.
#[derive(Debug)]
pub struct Proxy {
    requests: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// Listens on `port` of the host. With `credentials` (`USER:PASSWORD` in base64) it asks for them.
    #[track_caller]
    pub fn start(host: &Host, port: u16, credentials: Option<&str>) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let socket = host
            .inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("a free port for the proxy"));
        let (log, host, credentials) = (requests.clone(), host.clone(), credentials.map(str::to_owned));
        thread::spawn(move || {
            // Connections go out from where the proxy stands.
            host.enter();
            for client in socket.incoming().flatten() {
                let (log, credentials) = (log.clone(), credentials.clone());
                // A thread takes over its maker's network.
                thread::spawn(move || drop(serve(client, &log, credentials.as_deref())));
            }
        });
        Self { requests }
    }

    /// The request lines so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no thread panics with it").clone()
    }
}

fn serve(mut client: TcpStream, log: &Mutex<Vec<String>>, credentials: Option<&str>) -> io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut request = BufReader::new(client.try_clone()?.take(MAX_REQUEST));
    let mut first = String::new();
    request.read_line(&mut first)?;
    log.lock().expect("no thread panics with it").push(first.trim().to_owned());
    let mut authorized = credentials.is_none();
    loop {
        let mut line = String::new();
        if request.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        let wanted = credentials.map(|c| format!("proxy-authorization: basic {}", c.to_lowercase()));
        authorized |= wanted.is_some_and(|wanted| line.trim().to_lowercase() == wanted);
    }
    if !authorized {
        return client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
    }
    let Some(target) = first.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()) else {
        return client.write_all(b"HTTP/1.1 405 Method Not Allowed\r\n\r\n");
    };
    let Ok(server) = TcpStream::connect(target) else {
        return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n");
    };
    client.set_read_timeout(None)?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let (mut from_server, mut to_client) = (server, client);
    io::copy(&mut from_server, &mut to_client)?;
    to_client.shutdown(Shutdown::Both)
}
